//! Executables that learn: what one trains is what `lith train` trains, what it answers with new weights is what a model
//! compiled of them answers, and all of it without Lith.

mod support;

use std::fs;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use support::bad::{Case, expect_refusal};
use support::read_json;
use support::training::*;

/// Compiles the model of a case to the executable `exe`.
fn compile(case: &Case, more: &[&str]) {
    let args = [&["compile", "model", "--train", "-q", "-o", "exe"], more].concat();
    let output = case.run(&args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An executable of a case in an environment without anything.
fn command(case: &Case, exe: &str, args: &[&str]) -> Command {
    let mut command = Command::new(case.root().join(exe));
    command.args(args).current_dir(case.root()).env_clear().stdin(Stdio::null());
    command
}

fn run(case: &Case, exe: &str, args: &[&str]) -> Output {
    command(case, exe, args).output().unwrap()
}

/// Runs an executable that is to succeed; what it printed.
fn told(case: &Case, exe: &str, args: &[&str]) -> String {
    let output = run(case, exe, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The command line that trains on `train.jsonl` to the folder `out`.
fn learning<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let base = ["train", "--train-file", "train.jsonl", "--output-dir", "out"];
    [&base[..], &["--logging-steps", "1", "--threads", "1"], more].concat()
}

/// The numbers of an answer, and all else of it.
fn parted(answer: &str) -> (Vec<f64>, Value) {
    fn take(value: Value, numbers: &mut Vec<f64>) -> Value {
        match value {
            Value::Number(n) if n.is_f64() => {
                numbers.extend(n.as_f64());
                Value::Null
            }
            Value::Array(items) => items.into_iter().map(|item| take(item, numbers)).collect(),
            Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, take(value, numbers))).collect(),
            other => other,
        }
    }
    let mut numbers = Vec::new();
    let rest = take(serde_json::from_str(answer).unwrap(), &mut numbers);
    (numbers, rest)
}

/// Expects two answers to be the same up to rounding.
fn expect_close(found: &str, expected: &str) {
    let ((found, rest), (expected, same)) = (parted(found), parted(expected));
    assert_eq!(rest, same);
    let gap = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(gap <= 1e-5, "{found:?}, expected {expected:?}");
}

/// What Lith answers with the model in a folder.
fn by_lith(case: &Case, args: &[&str]) -> String {
    let output = case.run(&[&["run"], args].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// EC-11, EX-01: an executable trains as `lith train` does, to the bit, saves, and answers with what it learnt as a model
/// compiled of that does; so does the copy it makes of itself, which learns further.
#[test]
fn it_learns_and_answers() {
    let case = case("bert-sequence-classification", &two_classes(24));
    compile(&case, &["--train-file", "train.jsonl"]);
    let text = ["--json", "--top-k", "2", "it is the capital"];
    let before = told(&case, "exe", &text);
    let shown = told(&case, "exe", &learning(&["--learning-rate", "5e-3", "--save-executable", "learnt"]));
    assert!(shown.contains("train_loss"), "{shown}");
    let first = losses(&case);

    let again = ["train", "model", "--train-file", "train.jsonl", "--output-dir", "lith"];
    let again = case.run(&[&again[..], &QUICK[..4], &["--threads", "1"]].concat());
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    for name in ["model.safetensors", "config.json", "tokenizer.json", "checkpoint-9/optimizer.safetensors"] {
        let bytes = |folder: &str| fs::read(case.root().join(folder).join(name)).unwrap();
        assert!(bytes("out") == bytes("lith"), "{name} differs");
    }

    let learnt = told(&case, "learnt", &text);
    assert_ne!(parted(&before).0, parted(&learnt).0);
    assert_eq!(told(&case, "exe", &[&["--weights", "out"], &text[..]].concat()), learnt);
    assert_eq!(told(&case, "exe", &text), before, "the executable itself changed");
    expect_close(&learnt, &by_lith(&case, &[&["out"], &text[..]].concat()));

    told(&case, "learnt", &learning(&["--learning-rate", "5e-3"]));
    let second = losses(&case);
    assert!(second[0] < first[0], "{first:?}, then {second:?}");
}

/// TL-19: what tells it to end leaves a checkpoint to go on from, and the exit code tells what it was.
#[test]
fn ended_by_signals() {
    let case = case("bert-sequence-classification", &two_classes(64));
    compile(&case, &["--train-file", "train.jsonl"]);
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let args = learning(&["--max-steps", "5000", "--save-steps", "10000", "--json"]);
        let (found, message) = signalled(command(&case, "exe", &args), signal);
        assert_eq!(found, Some(code), "{message}");
        assert!(message.contains("stopped after update"), "{message}");
    }
}

/// EC-07, DS-09: tags, masked words, numbers and texts to be continued: each with weights that are packed in ways of their own.
#[test]
fn every_task() {
    let text = json!({"text": "the capital of paris"});
    let tags = json!({"tokens": ["the", "capital"], "ner_tags": ["O", "B-X"]});
    let number = [json!({"text": "the capital", "label": 0.5}), json!({"text": "we live", "label": -1.5})];
    let masked = ["--top-k", "3", "the [MASK] of paris"];
    let written = ["--do-sample=false", "--max-new-tokens", "4", "the capital"];
    let told_by_rows = ["--train-file", "train.jsonl"];
    let tables = [
        ("bert-token-classification", vec![tags], &told_by_rows[..], &["the capital"][..]),
        ("albert-masked-lm", vec![text.clone()], &[], &masked),
        ("roberta-sequence-classification", number.to_vec(), &told_by_rows, &["the capital"]),
        ("decoders/llama", vec![text.clone()], &[], &written),
        ("decoders/gpt2", vec![text.clone()], &[], &written),
        ("decoders/falcon-new", vec![text], &[], &written),
    ];
    for (fixture, rows, compiled, asked) in tables {
        let rows: Vec<Value> = rows.iter().cycle().take(8).cloned().collect();
        let case = case(fixture, &rows);
        if fixture.starts_with("decoders") {
            lend_tokenizer(&case);
        }
        compile(&case, compiled);
        told(&case, "exe", &learning(&["--max-steps", "3", "--learning-rate", "1e-2", "--save-executable", "learnt"]));
        let asked = [&["--json"], asked].concat();
        let learnt = told(&case, "learnt", &asked);
        assert_eq!(told(&case, "exe", &[&["--weights", "out"], &asked[..]].concat()), learnt, "{fixture}");
        expect_close(&learnt, &by_lith(&case, &[&["out"], &asked[..]].concat()));
        let same = tensors(&case.file("model.safetensors")) == tensors(&case.root().join("out/model.safetensors"));
        assert!(!same, "{fixture} learnt nothing");
    }
}

/// TI-02, DS-12: what contradicts the compiled program, and what is not there.
#[test]
fn wrong_usage() {
    let case = case("bert-sequence-classification", &two_classes(4));
    compile(&case, &["--labels", "first,second", "--optim", "lion_32bit", "--label-smoothing-factor", "0.1"]);
    case.copy("bert-sequence-classification", "other");
    write_rows(
        &case,
        "third.jsonl",
        &[json!({"text": "we", "label": "first"}), json!({"text": "it", "label": "third"})],
    );
    let before = case.files();
    let refused = |args: &[&str], message: &[&str]| {
        expect_refusal(&run(&case, "exe", args), message);
        assert_eq!(before, case.files(), "{args:?} left files behind");
    };
    refused(&learning(&["--optim", "adamw_torch"]), &["optim", "adamw_torch", "lion_32bit"]);
    refused(&learning(&["--label-smoothing-factor", "0"]), &["label_smoothing_factor", "0.1"]);
    refused(&learning(&["--learning-rate", "-1"]), &["learning_rate", "-1"]);
    refused(&["train", "--train-file", "nowhere.jsonl", "--output-dir", "out"], &["nowhere.jsonl"]);
    refused(
        &["train", "--train-file", "third.jsonl", "--output-dir", "out"],
        &["third.jsonl", "line 2", "third", "first"],
    );
    refused(&["train", "--output-dir", "out"], &["--train-file"]);
    refused(&["--weights", "nowhere", "we"], &["nowhere", "no such folder"]);
    refused(&["--weights", "other", "we"], &["other", "classifier"]);
    // What is settled is the default.
    told(&case, "exe", &learning(&["--max-steps", "1"]));
    let args = read_json(&case.root().join("out/training_args.json"));
    assert_eq!((&args["optim"], &args["label_smoothing_factor"]), (&json!("lion_32bit"), &json!(0.1)));
    let states = fs::read(case.root().join("out/checkpoint-1/optimizer.safetensors")).unwrap();
    assert!(!String::from_utf8_lossy(&states).contains("exp_avg_sq"), "Lion keeps one moment");
    let nowhere = run(&case, "exe", &learning(&["--max-steps", "1", "--save-executable", "no/such/folder/exe"]));
    expect_refusal(&nowhere, &["no/such/folder/exe"]);
}

/// What cannot be compiled to be trained further.
#[test]
fn wrong_models() {
    let case = Case::new("bert-base");
    let refused = |model: &str, more: &[&str], message: &[&str]| {
        case.refused(&[&["compile", model, "--train", "-o", "exe"], more].concat(), message);
    };
    refused("model", &[], &["no head", "--labels"]);
    refused("model", &["--labels", "a,a"], &["two labels", "\"a\""]);
    refused("model", &["--labels", "a,b", "--optim", "nonesuch"], &["optim", "nonesuch"]);
    refused("model", &["--labels", "a,b", "--quantize", "int8"], &["codes", "--train"]);
    refused("model", &["--train-file", "nowhere.jsonl"], &["nowhere.jsonl"]);
    refused("model", &["--task", "zero-shot-classification", "--labels", "a,b"], &["no training", "zero-shot"]);
    case.copy("bert-masked-lm", "masked");
    refused("masked", &["--labels", "a,b"], &["labels", "fill-mask"]);
    case.refused(&["compile", "model", "--labels", "a,b"], &["--train"]);
}
