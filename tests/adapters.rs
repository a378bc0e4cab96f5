//! Low-rank adapters through the real command: trained beside a model, saved as PEFT saves them, merged when the model is
//! compiled with them.

mod support;

use std::fs;
use std::path::Path;
use std::process::Output;

use lith_models::Checkpoint;
use serde_json::Value;
use support::bad::Case;
use support::read_json;

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
    let eval = logs.lines().filter_map(|line| serde_json::from_str::<Value>(line).unwrap().get("eval").cloned()).last();
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
    let stored = Checkpoint::open_file(from).unwrap();
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for tensor in stored.tensors().filter(|tensor| wanted(tensor.name())) {
        let bytes = tensor.bytes();
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
