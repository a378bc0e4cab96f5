//! `lith train` in tests: rows to learn from, runs of the real command, and what they leave behind.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Map, Value, json};

use super::bad::Case;
use super::read_json;

/// Arguments that keep runs short and their losses readable.
pub const QUICK: [&str; 8] =
    ["--logging-steps", "1", "--learning-rate", "5e-3", "--num-train-epochs", "4", "--threads", "1"];

/// Texts of two kinds, told apart by a word, with the number of the kind.
pub fn texts(count: usize) -> Vec<(String, usize)> {
    const TOLD: [&str; 2] = ["capital", "pieces"];
    const REST: [&str; 7] = ["the rain", "paris", "numbers of the graph", "we live", "and", "it is", "become 25"];
    let text = |i: usize| format!("{} {} {}", REST[i % 7], TOLD[i % 2], REST[(i * 3 + i / 5) % 7]);
    (0..count).map(|i| (text(i), i % 2)).collect()
}

/// Rows with a text, and as label what `label` makes of the kind.
pub fn labelled(count: usize, label: impl Fn(usize) -> Value) -> Vec<Value> {
    texts(count).into_iter().map(|(text, kind)| json!({"text": text, "label": label(kind)})).collect()
}

/// Rows of two classes, `first` and `second`.
pub fn two_classes(count: usize) -> Vec<Value> {
    labelled(count, |kind| json!(["first", "second"][kind]))
}

/// A case with a file `train.jsonl` of these rows.
pub fn case(fixture: &str, rows: &[Value]) -> Case {
    let case = Case::new(fixture);
    write_rows(&case, "train.jsonl", rows);
    case
}

/// Gives a model of few tokens the tokenizer of another fixture, without the tokens that it has not.
pub fn lend_tokenizer(case: &Case) {
    let vocab_size = read_json(&case.file("config.json"))["vocab_size"].as_u64().unwrap();
    let from = super::fixtures().join("bert-sequence-classification");
    let mut tokenizer = read_json(&from.join("tokenizer.json"));
    let vocab = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    vocab.retain(|_, id| id.as_u64().unwrap() < vocab_size);
    fs::write(case.file("tokenizer.json"), tokenizer.to_string()).unwrap();
    let mut config = read_json(&from.join("tokenizer_config.json"));
    config["eos_token"] = json!("[SEP]");
    config["model_input_names"] = json!(["input_ids"]);
    fs::write(case.file("tokenizer_config.json"), config.to_string()).unwrap();
}

/// Writes rows as lines of JSON.
pub fn write_rows(case: &Case, name: &str, rows: &[Value]) {
    fs::write(case.root().join(name), rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
}

/// The command line that trains `model` on `train.jsonl` to the folder `out`.
pub fn arguments<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["train", "model", "--train-file", "train.jsonl", "--output-dir", "out"], more].concat()
}

/// Trains and expects success.
pub fn train(case: &Case, more: &[&str]) -> Output {
    let output = case.run(&arguments(more));
    assert!(output.status.success(), "{more:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// What the trainer logged of each update, without what only the clock knows.
pub fn updates(case: &Case) -> Vec<Map<String, Value>> {
    let state = read_json(&case.root().join("out/trainer_state.json"));
    let history = state["log_history"].as_array().expect("a history");
    let updates = history.iter().filter_map(Value::as_object).filter(|line| line.contains_key("loss"));
    updates.map(|line| line.clone().into_iter().filter(|(name, _)| !timed(name)).collect()).collect()
}

/// The loss of each update.
pub fn losses(case: &Case) -> Vec<f64> {
    updates(case).iter().map(|line| line["loss"].as_f64().expect("a loss")).collect()
}

/// Expects that the last losses are at most this share of the first ones.
pub fn expect_learning(case: &Case, share: f64) {
    let losses = losses(case);
    assert!(losses.len() >= 6, "{losses:?}");
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    let (first, last) = (mean(&losses[..3]), mean(&losses[losses.len() - 3..]));
    assert!(last <= share * first, "losses went from {first} to {last}: {losses:?}");
}

fn timed(name: &str) -> bool {
    name.ends_with("_runtime") || name.ends_with("_per_second")
}

fn without_times(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            fields.into_iter().filter(|(name, _)| !timed(name)).map(|(name, v)| (name, without_times(v))).collect()
        }
        Value::Array(items) => items.into_iter().map(without_times).collect(),
        other => other,
    }
}

/// The files of a folder and those below it, by name; of JSON all but what only the clock knows.
pub fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(files(&path).into_iter().map(|(below, bytes)| (format!("{name}/{below}"), bytes)));
            continue;
        }
        let bytes = match name.rsplit('.').next() {
            Some("json") => without_times(read_json(&path)).to_string().into_bytes(),
            Some("jsonl") => continue,
            _ => fs::read(&path).unwrap(),
        };
        found.insert(name, bytes);
    }
    found
}

/// Expects two folders to hold the same files.
pub fn expect_same_files(a: &Path, b: &Path) {
    let (a, b) = (files(a), files(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, bytes) in &a {
        assert!(*bytes == b[name], "{name} differs");
    }
}

/// The tensors of a safetensors file, by name.
pub fn tensors(path: &Path) -> BTreeMap<String, Vec<f32>> {
    let bytes = fs::read(path).unwrap();
    let (size, rest) = bytes.split_first_chunk::<8>().expect("a header");
    let (header, data) = rest.split_at(u64::from_le_bytes(*size) as usize);
    let header: Map<String, Value> = serde_json::from_slice(header).unwrap();
    let floats = |tensor: &Value| {
        assert_eq!(tensor["dtype"], "F32");
        let at = |i: usize| tensor["data_offsets"][i].as_u64().unwrap() as usize;
        data[at(0)..at(1)].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    };
    let named = header.iter().filter(|(name, _)| *name != "__metadata__");
    named.map(|(name, tensor)| (name.clone(), floats(tensor))).collect()
}

/// Sends a signal to a command that logs to its standard output, after twenty lines of that: its exit code, and what it said
/// on standard error.
pub fn signalled(mut command: Command, signal: &str) -> (Option<i32>, String) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.nth(20).unwrap().unwrap();
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    lines.for_each(|line| drop(line.unwrap()));
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}
