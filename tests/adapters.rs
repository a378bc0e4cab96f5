//! Low-rank adapters through the real command: trained beside a model, saved as PEFT saves them, merged when the model is
//! compiled with them.

mod support;

use std::borrow::Cow;
use std::fs;
use std::path::Path;
use std::process::Output;

use lith::compile::{CompileOptions, prepare};
use lith::merge::merge;
use lith::model::{Model, ModelOptions};
use lith_ir::DType;
use lith_ir::quant::Scheme;
use lith_models::Checkpoint;
use lith_models::checkpoint::StoredTensor;
use lith_passes::quantize::{quantize, scheme};
use lith_runtime::model::CompiledModel;
use lith_runtime::program::Program;
use serde_json::Value;
use support::bad::{Case, expect_refusal};
use support::language::{feed, fresh, load};
use support::training::{lend_tokenizer, losses, texts, two_classes};
use support::{batch, fixtures, flat, forward, ids, part, read_json, relative_difference};

/// Rows of three classes that the words tell apart.
const ROWS: [(&str, &str); 6] = [
    ("paris berlin paris", "NEGATIVE"),
    ("the number of pieces", "POSITIVE"),
    ("an animal , other things", "NEUTRAL"),
    ("berlin", "NEGATIVE"),
    ("pieces of number", "POSITIVE"),
    ("other animal ?", "NEUTRAL"),
];

/// A model with rows to learn from.
fn case() -> Case {
    let case = Case::new("bert-sequence-classification");
    let rows = ROWS.map(|(text, label)| format!("{}\n", serde_json::json!({"text": text, "label": label})));
    fs::write(case.root().join("rows.jsonl"), rows.concat()).unwrap();
    case
}

fn train(case: &Case, more: &[&str]) -> Output {
    let always =
        ["train", "model", "--train-file", "rows.jsonl", "--validation-file", "rows.jsonl", "--json", "--seed", "7"];
    let steps = ["--max-steps", "12", "--learning-rate", "0.02", "--per-device-train-batch-size", "6", "--lora"];
    case.run(&[&always[..], &steps, more].concat())
}

fn success(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The scores of all labels of each row.
fn scores(case: &Case, args: &[&str]) -> Vec<Vec<(String, f64)>> {
    let texts = ROWS.map(|(text, _)| text).join("\n");
    fs::write(case.root().join("texts"), texts).unwrap();
    let output = success(&case.run(&[&["run"], args, &["--json", "--top-k", "3", "--file", "texts"]].concat()));
    let answers = output.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let one = |answer: Value| {
        let scores = answer.as_array().unwrap().iter();
        let mut scores: Vec<_> =
            scores.map(|s| (s["label"].as_str().unwrap().to_string(), s["score"].as_f64().unwrap())).collect();
        scores.sort_by(|a, b| a.0.cmp(&b.0));
        scores
    };
    answers.map(one).collect()
}

/// Mean cross entropy of the rows' labels.
fn loss(scores: &[Vec<(String, f64)>]) -> f64 {
    let right = scores.iter().zip(ROWS).map(|(scores, (_, label))| scores.iter().find(|(l, _)| l == label).unwrap().1);
    right.map(|score| -score.ln()).sum::<f64>() / ROWS.len() as f64
}

fn shapes(file: &Path) -> Vec<(String, Vec<usize>)> {
    let stored = Checkpoint::open_file(file).unwrap();
    stored.tensors().map(|tensor| (tensor.name().to_string(), tensor.shape().to_vec())).collect()
}

/// PE-02, PE-03, PE-04, PE-05, PE-06: what is saved is an adapter, and the model compiled with it answers as the one that was
/// trained, whose factors were apart.
#[test]
fn trained_saved_and_merged() {
    let case = case();
    let base = scores(&case, &["model"]);
    let more =
        ["--lora-r", "2", "--lora-alpha", "6", "--lora-target-modules", "query,output.dense", "--output-dir", "out"];
    let logs = success(&train(&case, &more));
    let eval =
        logs.lines().filter_map(|line| serde_json::from_str::<Value>(line).unwrap().get("eval").cloned()).next_back();
    let eval_loss = eval.unwrap()["eval_loss"].as_f64().unwrap();

    let out = case.root().join("out");
    let config = read_json(&out.join("adapter_config.json"));
    assert_eq!(config["peft_type"], "LORA");
    assert_eq!(config["task_type"], "SEQ_CLS");
    assert_eq!((&config["r"], &config["lora_alpha"]), (&2.into(), &6.into()));
    assert_eq!(config["target_modules"], serde_json::json!(["query", "output.dense"]));
    assert_eq!(config["modules_to_save"], serde_json::json!(["classifier"]));
    let mut expected = vec![
        ("base_model.model.classifier.bias".to_string(), vec![3]),
        ("base_model.model.classifier.weight".to_string(), vec![3, 32]),
    ];
    for layer in 0..2 {
        for (module, [outputs, inputs]) in
            [("attention.self.query", [32, 32]), ("attention.output.dense", [32, 32]), ("output.dense", [32, 52])]
        {
            let path = format!("base_model.model.bert.encoder.layer.{layer}.{module}");
            expected.push((format!("{path}.lora_A.weight"), vec![2, inputs]));
            expected.push((format!("{path}.lora_B.weight"), vec![outputs, 2]));
        }
    }
    expected.sort();
    assert_eq!(shapes(&out.join("adapter_model.safetensors")), expected);
    assert!(!out.join("model.safetensors").exists());

    let merged = scores(&case, &["model", "--adapter", "out"]);
    assert!((loss(&merged) - eval_loss).abs() < 1e-4, "merged {}, trained {eval_loss}", loss(&merged));
    assert!(loss(&merged) < loss(&base) - 0.05, "nothing was learnt: {} to {}", loss(&base), loss(&merged));
    // One without factors has learnt less: they, not the head alone, are what is merged.
    let head_alone = case.root().join("head-alone");
    fs::create_dir(&head_alone).unwrap();
    fs::copy(out.join("adapter_config.json"), head_alone.join("adapter_config.json")).unwrap();
    keep(&out.join("adapter_model.safetensors"), &head_alone.join("adapter_model.safetensors"), |name| {
        name.contains("classifier")
    });
    let without = scores(&case, &["model", "--adapter", "head-alone"]);
    assert!((loss(&without) - loss(&merged)).abs() > 1e-3, "the factors change nothing");
    // The same seed gives the same adapter.
    let more = [&more[..7], &["again"]].concat();
    success(&train(&case, &more));
    let bytes = |folder: &str| fs::read(case.root().join(folder).join("adapter_model.safetensors")).unwrap();
    assert!(bytes("out") == bytes("again"));
}

/// Copies the tensors of some names.
fn keep(from: &Path, to: &Path, wanted: impl Fn(&str) -> bool) {
    rewrite(from, to, |tensor| wanted(tensor.name()).then(|| tensor.bytes()));
}

/// Copies the tensors of `f32` that have bytes.
fn rewrite(from: &Path, to: &Path, bytes: impl for<'t> Fn(&StoredTensor<'t>) -> Option<Cow<'t, [u8]>>) {
    let stored = Checkpoint::open_file(from).unwrap();
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for tensor in stored.tensors() {
        let Some(bytes) = bytes(&tensor) else { continue };
        let range = [data.len(), data.len() + bytes.len()];
        let entry = serde_json::json!({"dtype": "F32", "shape": tensor.shape(), "data_offsets": range});
        header.insert(tensor.name().into(), entry);
        data.extend_from_slice(&bytes);
    }
    let header = serde_json::to_vec(&header).unwrap();
    fs::write(to, [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()).unwrap();
}

/// PE-09, PE-12: what does not fit is an error that names it.
#[test]
fn misfits_are_refused() {
    let case = case();
    let refused = |args: &[&str], message: &[&str]| {
        support::bad::expect_refusal(&train(&case, &[args, &["--output-dir", "out"]].concat()), message);
    };
    refused(&["--lora-target-modules", "q_proj"], &["q_proj", "bert.encoder.layer"]);
    refused(&["--lora-target-modules", "("], &["target_modules", "regular expression"]);
    refused(&["--lora-r", "0"], &["field `r`"]);
    refused(&["--lora-bias", "some"], &["lora_only"]);
    refused(&["--lora-modules-to-save", "score"], &["modules_to_save", "score"]);
    case.refused(&["run", "model", "--adapter", "nothing/there", "text"], &["nothing/there"]);
    case.refused(&["run", "model", "--adapter", "model", "text"], &["adapter_config.json"]);

    success(&train(&case, &["--lora-target-modules", "all-linear", "--lora-r", "1", "--output-dir", "out"]));
    let file = case.root().join("out/adapter_model.safetensors");
    let whole = case.root().join("whole.safetensors");
    fs::rename(&file, &whole).unwrap();
    let gone = "base_model.model.bert.encoder.layer.1.attention.self.key.lora_B.weight";
    keep(&whole, &file, |name| name != gone);
    case.refused(&["run", "model", "--adapter", "out", "text"], &[gone]);
    fs::rename(&whole, &file).unwrap();
    let config = case.root().join("out/adapter_config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("\"r\": 1", "\"r\": 2")).unwrap();
    case.refused(&["run", "model", "--adapter", "out", "text"], &["lora_", "expected [2", "made for model"]);
}

/// Expects a model to give the logits that PEFT gave.
fn expect_logits(model: Model, decoder: bool, cases: &Value, what: &str) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.lith");
    let options = CompileOptions::new("float32", "native").unwrap();
    prepare(model, &options, None).unwrap().write_artifact(&path).unwrap();
    for case in cases.as_array().unwrap() {
        let ids = ids(&case["ids"]);
        let found = if decoder {
            let mut model = load(&path, 1, 64);
            let mut state = fresh(&model, 1, ids.len()).remove(0);
            feed(&mut model, &mut [(&mut state, &ids)], ids.len()).concat()
        } else {
            let types = vec![0; ids.len()];
            let batch = batch(&[(ids, types)]);
            let model = CompiledModel::new(Program::open(&path, 1).unwrap()).unwrap();
            part(&forward(&model, &batch)[0], &batch, 0, false).to_vec()
        };
        let difference = relative_difference(&found, &flat(&case["logits"]));
        assert!(difference <= 1e-5, "{what}: differs by {difference:e}");
    }
}

/// PE-01, PE-02, PE-03, PE-06, EX-04: adapters that PEFT wrote, merged, against PEFT's own logits in double precision: targets
/// by name, pattern or all linear layers, ranks and scales by pattern, rank-stabilised scales, magnitudes, biases, modules saved
/// whole, tables, some layers only, and layers that files have joined or the other way round. The merged model, saved, gives
/// them without the adapter.
#[test]
fn made_by_peft() {
    let mut folders: Vec<_> = fs::read_dir(fixtures().join("adapters")).unwrap().map(|e| e.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() >= 14, "{} fixtures", folders.len());
    for folder in folders {
        let what = folder.display().to_string();
        let golden = read_json(&folder.join("golden.json"));
        let base = fixtures().join(golden["base"].as_str().unwrap());
        let decoder = golden["base"].as_str().unwrap().starts_with("decoders/");
        let task = decoder.then(|| "text-generation".into());
        let from = ModelOptions { adapter: Some(what.clone()), task: task.clone(), ..ModelOptions::default() };
        let model = Model::open(&base.to_string_lossy(), &from).unwrap_or_else(|e| panic!("{what}: {e}"));
        expect_logits(model, decoder, &golden["cases"], &what);

        let merged = tempfile::tempdir().unwrap();
        merge(&base.to_string_lossy(), &from, DType::F32, merged.path()).unwrap_or_else(|e| panic!("{what}: {e}"));
        let from = ModelOptions { task, strict: true, ..ModelOptions::default() };
        let model = Model::open(&merged.path().to_string_lossy(), &from).unwrap_or_else(|e| panic!("{what}: {e}"));
        expect_logits(model, decoder, &golden["cases"], &format!("{what}, merged and saved"));
    }
}

/// EX-02, EX-04: `lith merge` writes a folder that answers as the base with its adapter, in the type that is asked for; what
/// is no model to be saved so is refused.
#[test]
fn merged_by_command() {
    let case = case();
    let adapter = fixtures().join("adapters/all-linear").to_string_lossy().into_owned();
    let run = |args: &[&str]| case.run(&[&["merge", "model", "-o", "whole"], args].concat());
    let done = run(&["--adapter", &adapter, "--dtype", "float16"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let file = Checkpoint::open_file(&case.root().join("whole/model.safetensors")).unwrap();
    assert!(file.tensors().all(|tensor| tensor.dtype().unwrap() == DType::F16));
    let near = |a: &[(String, f64)], b: &[(String, f64)]| {
        a.iter().zip(b).all(|((x, p), (y, q))| x == y && (p - q).abs() < 1e-3)
    };
    let (whole, apart) = (scores(&case, &["whole"]), scores(&case, &["model", "--adapter", &adapter]));
    assert!(whole.iter().zip(&apart).all(|(a, b)| near(a, b)), "{whole:?}, expected {apart:?}");
    expect_refusal(&run(&[]), &["--adapter"]);
    expect_refusal(&run(&["--adapter", &adapter, "--quantize", "nf4"]), &["--quantize"]);
}

/// Arguments of a run that learns something within seconds.
const LEARN: [&str; 9] =
    ["--logging-steps", "1", "--learning-rate", "1e-2", "--max-steps", "24", "--threads=1", "--lora", "--lora-r=4"];

/// PE-10, QR-05: adapters beside quantized weights learn as beside the floats that the codes stand for; classifiers, and a
/// decoder whose output layer is its table.
#[test]
fn quantized_weights_stay_as_they_are() {
    type Stored = fn(&str) -> Option<Scheme>;
    let all = "--lora-target-modules=all-linear";
    let cases: [(&str, &[&str], Stored); 3] = [
        ("bert-sequence-classification", &[all, "--quantize", "nf4", "--quantize-embeddings", "none"], |name| {
            (!name.contains("embeddings")).then(|| scheme("nf4").unwrap())
        }),
        ("bert-sequence-classification", &[all, "--quantize", "int4-32-min"], |name| {
            scheme(if name.contains("embeddings") { "int8-32" } else { "int4-32-min" })
        }),
        ("decoders/llama-tied-biases", &["--lora-target-modules=q_proj,down_proj", "--quantize", "nf4"], |name| {
            scheme(if name.contains("embed_tokens") { "int8-32" } else { "nf4" })
        }),
    ];
    for (fixture, args, stored) in cases {
        let run = |model: &dyn Fn(&Case), args: &[&str]| {
            let case = Case::new(fixture);
            model(&case);
            let rows = match fixture.starts_with("decoders") {
                true => {
                    lend_tokenizer(&case);
                    texts(24).into_iter().map(|(text, _)| serde_json::json!({"text": text})).collect()
                }
                false => two_classes(24),
            };
            support::training::write_rows(&case, "train.jsonl", &rows);
            support::training::train(&case, &[&LEARN[..], args].concat());
            losses(&case)
        };
        let codes = run(&|_| {}, args);
        let rest = &args[..1];
        let values = |case: &Case| {
            let (model, changed) = (case.file("model.safetensors"), case.file("changed"));
            rewrite(&model, &changed, |tensor| {
                let &[_, columns] = tensor.shape() else { return Some(tensor.bytes()) };
                let head = tensor.name().starts_with("classifier");
                let Some(scheme) = stored(tensor.name()).filter(|_| !head) else { return Some(tensor.bytes()) };
                let bytes = tensor.bytes();
                let floats: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
                let values = quantize(&floats, columns, scheme).dequantize();
                Some(values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>().into())
            });
            fs::rename(changed, model).unwrap();
        };
        let floats = run(&values, rest);
        assert_eq!(codes.len(), floats.len());
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
        assert!(mean(&codes[18..]) < 0.95 * mean(&codes[..6]), "{fixture} {args:?}: nothing is learnt: {codes:?}");
        for (step, (a, b)) in codes.iter().zip(&floats).enumerate() {
            assert!((a - b).abs() <= 1e-4 * b.abs(), "{fixture} {args:?}: loss {step} is {a}, of the values {b}");
        }
        let unlike = run(&|_| {}, rest);
        assert!((unlike[0] - codes[0]).abs() > 1e-3 * codes[0], "{fixture}: quantization changes nothing");
    }
    let case = Case::new("bert-sequence-classification");
    support::training::write_rows(&case, "train.jsonl", &two_classes(8));
    let args = support::training::arguments(&["--quantize", "nf4"]);
    support::bad::expect_refusal(&case.run(&args), &["--quantize", "--lora"]);
}
