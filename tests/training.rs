//! `lith train` through the real command: what it writes, that it learns, that nothing but seed and rows decides the
//! result, that training which was killed goes on as if nothing had happened, and how wrong rows and arguments are told.

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use lith_ir::testing::Rng;
use serde_json::{Value, json};
use support::bad::{Case, expect_refusal};
use support::read_json;
use support::training::*;

/// EC-11, EC-13, EC-18, DS-04: rows with `text` and `label` need no further arguments, and what comes out is a model like any other.
#[test]
fn a_file_of_rows_is_enough() {
    let case = case("bert-sequence-classification", &two_classes(24));
    let output = train(&case, &[]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("train_loss"));
    let out = case.root().join("out");
    for name in [
        "README.md",
        "all_results.json",
        "config.json",
        "log.jsonl",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "train_results.json",
        "trainer_state.json",
        "training_args.json",
        "checkpoint-9/optimizer.safetensors",
    ] {
        assert!(out.join(name).is_file(), "there is no {name}");
    }
    let config = read_json(&out.join("config.json"));
    assert_eq!(config["architectures"], json!(["BertForSequenceClassification"]));
    assert_eq!(config["id2label"], json!({"0": "first", "1": "second"}));
    assert_eq!(config["label2id"], json!({"first": 0, "second": 1}));
    assert_eq!(config["problem_type"], "single_label_classification");
    assert_eq!(read_json(&out.join("train_results.json"))["epoch"], 3.0);
    assert_eq!(read_json(&out.join("trainer_state.json"))["global_step"], 9);
    assert_eq!(read_json(&out.join("training_args.json"))["learning_rate"], 5e-5);
    let (before, after) = (tensors(&case.file("model.safetensors")), tensors(&out.join("model.safetensors")));
    assert_eq!(after["classifier.weight"].len(), 2 * 32);
    let changed = after.iter().filter(|(name, values)| before.get(*name) != Some(values)).count();
    assert_eq!((changed, after.len()), (before.len(), before.len()), "every parameter learns");
    let answer = case.run(&["run", "out", "--json", "--top-k", "2", "the capital"]);
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    let answer: Value = serde_json::from_slice(&answer.stdout).unwrap();
    let mut labels: Vec<&str> = answer.as_array().unwrap().iter().map(|a| a["label"].as_str().unwrap()).collect();
    labels.sort_unstable();
    assert_eq!(labels, ["first", "second"]);
}

/// Trains a model on rows for a task and expects its loss to fall; what is left in the folder.
fn learns(fixture: &str, rows: &[Value], share: f64) -> Case {
    let case = case(fixture, rows);
    train(&case, &QUICK);
    expect_learning(&case, share);
    case
}

/// EC-01, EC-07, DS-01: held out rows are told apart after training, and CSV is read as JSON is.
#[test]
fn text_classification() {
    let case = case("bert-sequence-classification", &[]);
    let rows = texts(48).into_iter().map(|(text, kind)| format!("\"{text}\",{}\n", ["first", "second"][kind]));
    fs::write(case.root().join("train.csv"), "sentence,label\n".to_string() + &rows.collect::<String>()).unwrap();
    let mut args = vec!["train", "model", "--train-file", "train.csv", "--output-dir", "out"];
    args.extend(["--seed", "2", "--validation-split", "0.25", "--eval-strategy", "epoch", "--num-train-epochs", "8"]);
    args.extend(&QUICK[..4]);
    let output = case.run(&args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    expect_learning(&case, 0.75);
    let results = read_json(&case.root().join("out/eval_results.json"));
    assert!(results["eval_accuracy"].as_f64().is_some_and(|share| share >= 0.6), "{results}");
    let state = read_json(&case.root().join("out/trainer_state.json"));
    let evaluations = state["log_history"].as_array().unwrap().iter().filter(|line| !line["eval_loss"].is_null());
    assert!(evaluations.count() >= 8);
}

/// DS-04, TL-07: lists of labels, any number of them is true of a text.
#[test]
fn multi_label_classification() {
    let rows = labelled(48, |kind| [json!(["far"]), json!(["far", "near"])][kind].clone());
    let case = learns("bert-sequence-classification", &rows, 0.7);
    let config = read_json(&case.root().join("out/config.json"));
    assert_eq!(config["problem_type"], "multi_label_classification");
    assert_eq!(config["id2label"], json!({"0": "far", "1": "near"}));
    // The mean over labels too: about ln 2 for who knows nothing.
    assert!((0.55..0.85).contains(&losses(&case)[0]), "{:?}", losses(&case));
}

/// DS-04, TL-07: numbers with fractions, one output, mean squared error.
#[test]
fn regression() {
    let rows = labelled(48, |kind| json!([0.25, 2.5][kind]));
    let case = case("bert-sequence-classification", &rows);
    train(&case, &[&QUICK[..4], &["--num-train-epochs", "12", "--seed", "2"]].concat());
    expect_learning(&case, 0.5);
    // Who knows nothing of the text does not fall below the variance of the targets.
    assert!(losses(&case).last().is_some_and(|loss| *loss < 1.125f64.powi(2)));
    let config = read_json(&case.root().join("out/config.json"));
    assert_eq!(config["problem_type"], "regression");
    assert_eq!(tensors(&case.root().join("out/model.safetensors"))["classifier.weight"].len(), 32);
}

/// DS-07: words with tags; only a word's first token counts.
#[test]
fn token_classification() {
    let tag = |word: &str| if word == "capital" || word == "pieces" { "B-WORD" } else { "O" };
    let row = |text: String| {
        let words: Vec<&str> = text.split(' ').collect();
        let tags: Vec<&str> = words.iter().map(|word| tag(word)).collect();
        json!({"tokens": words, "ner_tags": tags})
    };
    let rows: Vec<Value> = texts(48).into_iter().map(|(text, _)| row(text)).collect();
    let case = learns("bert-token-classification", &rows, 0.75);
    let config = read_json(&case.root().join("out/config.json"));
    assert_eq!(config["architectures"], json!(["BertForTokenClassification"]));
    assert_eq!(config["id2label"], json!({"0": "B-WORD", "1": "O"}));
}

/// A question whose answer is a word of its context; without one where the context does not have it.
fn question(at: usize) -> Value {
    let (before, after) =
        (["", "the rain and ", "we live "][at % 3], [" of the graph", "", " become 25", " it is"][at % 4]);
    let answered = !at.is_multiple_of(5);
    let context = format!("{before}{}{after}", if answered { "capital" } else { "numbers" });
    let answers = match answered {
        true => json!({"text": ["capital", "the capital"], "answer_start": [before.len(), before.len()]}),
        false => json!({"text": [], "answer_start": []}),
    };
    json!({"question": "it is", "context": context, "answers": answers})
}

/// DS-08, EC-07, TL-07: spans of contexts, in windows where they are long; SQuAD's metrics, those of 2.0 where questions
/// have no answer.
#[test]
fn question_answering() {
    let answered: Vec<Value> = (0..60).filter(|at| at % 5 > 0).map(question).collect();
    let case = case("bert-question-answering", &answered);
    let mut more = vec!["--validation-split", "12", "--num-train-epochs", "12"];
    more.extend(["--max-seq-length", "8", "--doc-stride", "2"]);
    train(&case, &[&QUICK[..4], &more].concat());
    expect_learning(&case, 0.6);
    let results = read_json(&case.root().join("out/eval_results.json"));
    let [exact, f1] = ["eval_exact_match", "eval_f1"].map(|name| results[name].as_f64().unwrap_or(-1.0));
    assert!(exact >= 50.0 && f1 >= exact && f1 <= 100.0 && results["eval_loss"].is_number(), "{results}");
    let answer = case.run(&["run", "out", "--json", "--question", "it is", "--context", "we live capital become 25"]);
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    let answer: Value = serde_json::from_slice(&answer.stdout).unwrap();
    assert_eq!(answer["answer"], "capital", "{answer}");

    // A model of another task, and questions without an answer.
    let case = support::training::case("bert-sequence-classification", &(0..60).map(question).collect::<Vec<_>>());
    train(&case, &[&QUICK[..4], &["--task", "question-answering", "--validation-split", "20"]].concat());
    let config = read_json(&case.root().join("out/config.json"));
    assert_eq!(config["architectures"], json!(["BertForQuestionAnswering"]));
    let results = read_json(&case.root().join("out/eval_results.json"));
    for name in ["eval_exact", "eval_f1", "eval_HasAns_f1", "eval_NoAns_exact", "eval_best_f1_thresh"] {
        assert!(results[name].is_number(), "no {name} in {results}");
    }

    let refused = |rows: &[Value], message: &[&str]| {
        write_rows(&case, "bad.jsonl", rows);
        let args =
            ["train", "model", "--task", "question-answering", "--train-file", "bad.jsonl", "--output-dir", "bad"];
        case.refused(&args, message);
    };
    let wrong = json!({"text": ["rain"], "answer_start": [0]});
    let context = "the rain and capital";
    refused(
        &[question(1), json!({"question": "it is", "context": context, "answers": wrong})],
        &["bad.jsonl", "line 2", "\"answers\"", "\"the \"", "\"rain\""],
    );
    refused(&[json!({"context": context, "answers": wrong})], &["bad.jsonl", "line 1", "\"question\""]);
    refused(&[json!({"question": "it is", "context": context, "answers": "rain"})], &["line 1", "answer_start"]);
}

/// TA-15, TL-09: activations computed again change no bit of what is learnt, under the old name too.
#[test]
fn activations_computed_again() {
    let run = |more: &[&str]| {
        let case = case("bert-sequence-classification", &two_classes(24));
        train(&case, &[&["--learning-rate", "1e-3", "--logging-steps", "1", "--threads", "1"], more].concat());
        (fs::read(case.root().join("out/model.safetensors")).unwrap(), updates(&case))
    };
    let kept = run(&[]);
    assert!(run(&["--gradient-checkpointing", "true"]) == kept);
    let some = r#"{"memory": "1MB", "use_reentrant": false}"#;
    assert!(run(&["--activation-checkpointing", "--activation-checkpointing-kwargs", some]) == kept);
}

/// COL-05, TL-07: masked tokens are predicted.
#[test]
fn fill_mask() {
    let rows: Vec<Value> = texts(48).into_iter().map(|(text, _)| json!({"text": text})).collect();
    let more = ["--num-train-epochs", "8", "--mlm-probability", "0.3"];
    let case = case("bert-masked-lm", &rows);
    train(&case, &[&QUICK[..4], &more].concat());
    expect_learning(&case, 0.8);
}

/// COL-07, DS-05, TL-07: causal language models, by rows and in joined blocks.
#[test]
fn text_generation() {
    let rows: Vec<Value> = texts(48).into_iter().map(|(text, _)| json!({"text": text})).collect();
    for (model, blocks) in [("llama", &[][..]), ("olmo2", &["--block-size", "32"])] {
        let case = case(&format!("decoders/{model}"), &rows);
        lend_tokenizer(&case);
        train(&case, &[&QUICK, blocks].concat());
        expect_learning(&case, 0.8);
    }
}

/// TL-20: rows and seed alone decide all files bit for bit, whatever the number of threads, with dropout, in one step and
/// in accumulated ones; another seed is another run, and so is one without dropout.
#[test]
fn threads_change_no_bit() {
    let run = |threads: &str, more: &[&str]| {
        let case = case("bert-sequence-classification", &two_classes(40));
        let args = ["--logging-steps", "1", "--learning-rate", "1e-3", "--num-train-epochs", "2", "--threads", threads];
        train(&case, &[&args[..], more].concat());
        case
    };
    let accumulated = ["--seed", "7", "--per-device-train-batch-size", "4", "--gradient-accumulation-steps", "2"];
    for more in [&["--seed", "7"][..], &accumulated] {
        let first = run("1", more);
        for threads in ["1", "2", "3"] {
            let second = run(threads, more);
            expect_same_files(&first.root().join("out"), &second.root().join("out"));
        }
        let weights = |case: &Case| fs::read(case.root().join("out/model.safetensors")).unwrap();
        let undropped = [more, &["--set", "hidden_dropout_prob=0", "--set", "attention_probs_dropout_prob=0"]].concat();
        assert!(weights(&first) != weights(&run("1", &undropped)), "nothing is dropped");
        assert!(
            weights(&first) != weights(&run("1", &[&more[2..], &["--seed", "8"]].concat())),
            "the seed decides nothing"
        );
    }
}

/// EX-02: the weights of the model are not read, all are drawn from the seed, and the saved model is of the type that is asked for.
#[test]
fn from_scratch() {
    let run = |seed: &str| {
        let case = case("bert-sequence-classification", &two_classes(40));
        fs::remove_file(case.file("model.safetensors")).unwrap();
        train(&case, &[&QUICK[..], &["--from-scratch", "--dtype", "float16", "--seed", seed]].concat());
        case
    };
    let [first, second, other] = ["7", "7", "8"].map(run);
    expect_same_files(&first.root().join("out"), &second.root().join("out"));
    let weights = |case: &Case| fs::read(case.root().join("out/model.safetensors")).unwrap();
    assert!(weights(&first) != weights(&other), "the seed decides nothing");
    assert_eq!(read_json(&first.root().join("out/config.json"))["dtype"], "float16");
    let header = String::from_utf8_lossy(&weights(&first)[..4096]).into_owned();
    assert!(header.contains("F16") && !header.contains("F32"), "{header}");
}

/// TL-06, TL-09, BS-02: four accumulated batches of 8 are one of 32.
#[test]
fn accumulated_batches_are_one() {
    let run = |size: &str, batches: &str| {
        let case = case("bert-sequence-classification", &two_classes(32));
        let mut args = vec!["--per-device-train-batch-size", size, "--gradient-accumulation-steps", batches];
        args.extend(["--set", "hidden_dropout_prob=0", "--set", "attention_probs_dropout_prob=0"]);
        args.extend(["--optim", "sgd", "--learning-rate", "0.1", "--logging-steps", "1"]);
        train(&case, &args);
        assert_eq!(read_json(&case.root().join("out/trainer_state.json"))["global_step"], 3);
        case
    };
    let (one, four) = (run("32", "1"), run("8", "4"));
    for (a, b) in losses(&one).iter().zip(losses(&four)) {
        assert!((a - b).abs() <= 1e-6, "losses {a} and {b}");
    }
    let weights = |case: &Case| tensors(&case.root().join("out/model.safetensors"));
    let (before, one, four) = (tensors(&one.file("model.safetensors")), weights(&one), weights(&four));
    assert!(one["classifier.bias"] != before["classifier.bias"]);
    for (name, values) in &one {
        let gap = values.iter().zip(&four[name]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(gap <= 1e-6, "{name} differs by {gap:e}");
    }
}

/// EC-20, EC-22: a run to update 4 and on to update 10 is a run to update 10, in the middle of epochs too.
#[test]
fn a_run_goes_on_where_it_stopped() {
    let more = |steps: &'static str| {
        let mut args = vec!["--max-steps", steps, "--save-steps", "4", "--lr-scheduler-type", "constant_with_warmup"];
        args.extend(["--warmup-steps", "6", "--logging-steps", "1", "--learning-rate", "1e-3"]);
        args
    };
    let (whole, cut) = [(); 2].map(|()| case("bert-sequence-classification", &two_classes(40))).into();
    train(&whole, &more("10"));
    train(&cut, &more("4"));
    train(&cut, &[&more("10")[..], &["--resume-from-checkpoint", "out/checkpoint-4"]].concat());
    assert_eq!(updates(&whole), updates(&cut));
    for name in ["model.safetensors", "checkpoint-10/model.safetensors", "checkpoint-10/optimizer.safetensors"] {
        let bytes = |case: &Case| fs::read(case.root().join("out").join(name)).unwrap();
        assert!(bytes(&whole) == bytes(&cut), "{name} differs");
    }
}

/// EC-20, EC-21, EC-22: a run that is killed at 20 random moments, and resumed each time on another number of threads,
/// ends with the bits of one that was not.
#[test]
fn killed_and_resumed() {
    const STEPS: usize = 480;
    const KILLS: usize = 20;
    let mut args = vec!["--max-steps", "480", "--save-steps", "4", "--save-total-limit", "2"];
    args.extend(["--logging-steps", "1", "--learning-rate", "1e-3", "--json"]);
    let rows = two_classes(64);
    let whole = case("bert-sequence-classification", &rows);
    train(&whole, &[&args[..], &["--threads", "1"]].concat());
    let killed = case("bert-sequence-classification", &rows);
    let mut rng = Rng::new(20);
    // Steps, most of them early, so that a kill that comes late still finds the run alive.
    let mut moments: Vec<u64> = (0..KILLS).map(|_| rng.below(STEPS * 3 / 4) as u64).collect();
    moments.sort_unstable();
    for (kill, moment) in moments.into_iter().enumerate() {
        // Killed before there was any checkpoint, there is nothing to go on from; what has another name is not whole.
        let folder = fs::read_dir(killed.root().join("out")).into_iter().flatten();
        let whole = |entry: fs::DirEntry| entry.file_name().to_string_lossy().starts_with("checkpoint-");
        let resume = if folder.flatten().any(whole) { "true" } else { "false" };
        let more = ["--threads", ["1", "2"][kill % 2], "--resume-from-checkpoint", resume];
        let mut command = killed.command(&arguments(&[&args[..], &more].concat()));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
            if line["step"].as_u64().is_some_and(|step| step >= moment) {
                // Somewhere in the steps and checkpoints that follow.
                std::thread::sleep(Duration::from_micros(rng.below(4000) as u64));
                // SIGKILL: nothing is told to the process.
                child.kill().unwrap();
                break;
            }
        }
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), None, "not killed: {}", String::from_utf8_lossy(&output.stderr));
    }
    train(&killed, &[&args[..], &["--threads", "1", "--resume-from-checkpoint"]].concat());
    assert_eq!(updates(&whole).len(), STEPS);
    assert_eq!(updates(&whole), updates(&killed));
    for name in ["model.safetensors", "checkpoint-480/model.safetensors", "checkpoint-480/optimizer.safetensors"] {
        let bytes = |case: &Case| fs::read(case.root().join("out").join(name)).unwrap();
        assert!(bytes(&whole) == bytes(&killed), "{name} differs");
    }
}

/// TL-19: a run that is told to end does the update it is at, saves a checkpoint to go on from, and ends as shells expect.
#[test]
fn ended_by_signals() {
    let rows = two_classes(64);
    let args = ["--max-steps", "300", "--save-steps", "1000", "--logging-steps", "1", "--json", "--threads", "1"];
    let signalled = |case: &Case, more: &[&str], signal: &str| {
        signalled(case.command(&arguments(&[&args[..], more].concat())), signal)
    };
    let whole = case("bert-sequence-classification", &rows);
    train(&whole, &args);
    let stopped = case("bert-sequence-classification", &rows);
    let (code, message) = signalled(&stopped, &[], "-INT");
    assert_eq!(code, Some(130), "{message}");
    assert!(message.contains("stopped after update") && message.contains("--resume-from-checkpoint"), "{message}");
    assert!(!stopped.root().join("out/model.safetensors").exists());
    let (code, message) = signalled(&stopped, &["--resume-from-checkpoint"], "-TERM");
    assert_eq!(code, Some(143), "{message}");
    train(&stopped, &[&args[..], &["--resume-from-checkpoint"]].concat());
    assert_eq!(updates(&whole), updates(&stopped));
    let bytes = |case: &Case| fs::read(case.root().join("out/model.safetensors")).unwrap();
    assert!(bytes(&whole) == bytes(&stopped));
    let unsaved = case("bert-sequence-classification", &rows);
    let (code, message) = signalled(&unsaved, &["--save-strategy", "no"], "-INT");
    assert_eq!(code, Some(130), "{message}");
    assert!(message.contains("nothing is saved"), "{message}");
    assert!(!unsaved.files().iter().any(|file| file.to_string_lossy().contains("checkpoint-")));
}

/// DS-12, DS-04: what is wrong with rows is told by file, line and column, before anything is written.
#[test]
fn wrong_rows() {
    let case = case("bert-sequence-classification", &two_classes(4));
    let refused = |file: &str, more: &[&str], message: &[&str]| {
        let args = [&["train", "model", "--output-dir", "out", "--train-file", file], more].concat();
        case.refused(&args, message);
    };
    let rows = ["up", "down"].map(|kind| json!({"words": "we live", "kind": kind}));
    write_rows(&case, "columns.jsonl", &rows);
    refused("columns.jsonl", &[], &["columns.jsonl", "line 1", "\"label\"", "\"words\"", "\"kind\""]);
    refused("columns.jsonl", &["--label-column", "kind"], &["columns.jsonl", "line 1", "\"text\"", "\"words\""]);
    refused("train.jsonl", &["--text-column", "body"], &["train.jsonl", "line 1", "\"body\""]);
    write_rows(
        &case,
        "other.jsonl",
        &[json!({"text": "we", "label": "first"}), json!({"text": "it", "label": "third"})],
    );
    refused(
        "train.jsonl",
        &["--validation-file", "other.jsonl"],
        &["other.jsonl", "line 2", "third", "first", "second"],
    );
    fs::write(case.root().join("empty.jsonl"), "").unwrap();
    refused("empty.jsonl", &[], &["empty.jsonl", "no rows"]);
    refused("train.jsonl", &["--validation-file", "empty.jsonl"], &["empty.jsonl", "no rows"]);
    fs::write(case.root().join("lines.jsonl"), "{\"text\":\"we\",\"label\":\"up\"}\nup, we\n").unwrap();
    refused("lines.jsonl", &[], &["lines.jsonl", "line 2", "JSON"]);
    write_rows(&case, "null.jsonl", &[json!({"text": "we", "label": "up"}), json!({"text": null, "label": "down"})]);
    refused("null.jsonl", &[], &["null.jsonl", "line 2", "\"text\""]);
    write_rows(&case, "one.jsonl", &[json!({"text": "we", "label": "up"}), json!({"text": "it", "label": "up"})]);
    refused("one.jsonl", &[], &["all labels", "\"up\""]);
    refused("nowhere.jsonl", &[], &["nowhere.jsonl"]);
}

/// DS-12: a text that the model does not take is cut only where that was asked for.
#[test]
fn texts_that_are_too_long() {
    let long = "it is ".repeat(100);
    let rows = [json!({"text": "we", "label": "first"}), json!({"text": long, "label": "second"})];
    let case = case("bert-sequence-classification", &rows);
    case.refused(&arguments(&[]), &["train.jsonl", "line 2", "202 tokens", "64"]);
    train(&case, &["--truncate", "--max-steps", "1"]);
}

/// TI-02, OP-01: arguments that cannot be, and those that contradict each other.
#[test]
fn wrong_arguments() {
    let case = case("bert-sequence-classification", &two_classes(4));
    let refused = |more: &[&str], message: &[&str]| case.refused(&arguments(more), message);
    let evaluated = ["--validation-split", "0.5", "--load-best-model-at-end", "--eval-strategy", "epoch"];
    refused(&[&evaluated[..], &["--save-strategy", "steps"]].concat(), &["load_best_model_at_end", "epoch", "steps"]);
    refused(&["--eval-strategy", "epoch"], &["eval_strategy", "epoch", "no evaluation data"]);
    refused(&["--optim", "nonesuch"], &["optim", "nonesuch", "adamw_torch"]);
    refused(&["--learning-rate", "fast"], &["learning_rate", "fast"]);
    refused(&["--learning-rate", "-1"], &["learning_rate", "-1"]);
    refused(&["--per-device-train-batch-size", "0"], &["per_device_train_batch_size"]);
    refused(&["--lr-scheduler-type", "spiral"], &["lr_scheduler_type", "spiral", "linear"]);
    refused(&["--no-such-argument", "1"], &["no-such-argument"]);
    refused(&["--resume-from-checkpoint", "nowhere"], &["nowhere"]);
    refused(&["--resume-from-checkpoint"], &["out", "checkpoint"]);
    refused(&["--task", "feature-extraction"], &["no training", "feature-extraction", "text-classification"]);
    let kept = ["--activation-checkpointing", "--activation-checkpointing-kwargs", r#"{"memory": "much"}"#];
    refused(&kept, &["activation_checkpointing_kwargs", "much", "500MB"]);
    expect_refusal(&case.run(&["train", "model"]), &["--train-file"]);
}

/// TL-14: a loss that is no number ends training with the update, its batch and what to change; the checkpoint before it
/// stays and is whole.
#[test]
fn a_loss_that_is_no_number() {
    let case = case("bert-sequence-classification", &two_classes(32));
    let more = ["--learning-rate", "1e30", "--max-grad-norm", "0", "--save-steps", "1"];
    let output = case.run(&arguments(&more));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    for part in ["update 2", "NaN", "batch 2", "examples", "learning_rate"] {
        assert!(stderr.contains(part), "`{part}` is not in: {stderr}");
    }
    let out = case.root().join("out");
    assert!(out.join("checkpoint-1/optimizer.safetensors").is_file());
    assert!(!out.join("checkpoint-2").exists() && !out.join("model.safetensors").exists());
    let weights = tensors(&out.join("checkpoint-1/model.safetensors"));
    assert!(!weights.is_empty() && weights.values().flatten().all(|v| v.is_finite()));
}
