//! Pipelines on compiled models against what Transformers' pipelines return.

mod support;

use std::collections::BTreeMap;

use lith_runtime::model::open_pipeline;
use lith_runtime::pipelines::{Args, Gather, Input, Pipeline};
use serde_json::{Map, Value, json};
use support::*;

/// Equal but for floats, which may differ by the rounding of single precision.
fn same(found: &Value, expected: &Value) -> bool {
    match (found, expected) {
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.keys().eq(b.keys()) && a.iter().zip(b).all(|((_, a), (_, b))| same(a, b))
        }
        (Value::Number(a), Value::Number(b)) if a.is_f64() || b.is_f64() => {
            let (a, b) = (a.as_f64().unwrap_or(f64::NAN), b.as_f64().unwrap_or(f64::NAN));
            (a - b).abs() <= 2e-5 * b.abs().max(0.1)
        }
        (a, b) => a == b,
    }
}

/// The answers without those that upstream pads a long list with: spans of score 0 in no order that means anything.
fn without_padding(expected: &Value) -> Value {
    match expected {
        Value::Array(items) => {
            items.iter().filter(|i| i["answer"].is_null() || i["score"] != 0.0).map(without_padding).collect()
        }
        other => other.clone(),
    }
}

fn check(file: &str) {
    let golden = read_json(&fixtures().join("pipelines").join(file));
    let task = golden["task"].as_str().expect("a task");
    let mut pipelines: BTreeMap<String, (Compiled, Pipeline)> = BTreeMap::new();
    let cases = golden["cases"].as_array().expect("cases");
    assert!(cases.len() >= 5);
    for case in cases {
        let folder = case["model_dir"].as_str().expect("a model");
        let (_, pipeline) = pipelines.entry(folder.into()).or_insert_with(|| {
            let compiled = Compiled::new(&fixtures().join(folder), Some(task));
            let pipeline = open_pipeline(&compiled.path, 2, None).unwrap_or_else(|e| panic!("{e}"));
            (compiled, pipeline)
        });
        let empty = Map::new();
        let args = case["args"].as_object().unwrap_or(&empty);
        let found = pipeline.call_json(&case["inputs"], args);
        let name = &case["name"];
        if case["error"] == Value::Bool(true) {
            assert!(found.is_err_and(|e| e.is_usage()), "{file}: {name} is refused");
            continue;
        }
        let found = found.unwrap_or_else(|e| panic!("{file}: {name}: {e}"));
        let expected = without_padding(&case["outputs"]);
        assert!(same(&found, &expected), "{file}: {name}\nfound    {found}\nexpected {expected}");
    }
}

/// PO-01, PP-01, PP-04, PF-02, PO-22
#[test]
fn text_classification() {
    check("text-classification.json");
}

/// PO-02, PP-05
#[test]
fn token_classification() {
    check("token-classification.json");
}

/// PO-03
#[test]
fn fill_mask() {
    check("fill-mask.json");
}

/// PO-06, TR-05
#[test]
fn question_answering() {
    check("question-answering.json");
}

/// PO-08
#[test]
fn feature_extraction() {
    check("feature-extraction.json");
}

/// PO-05
#[test]
fn zero_shot_classification() {
    check("zero-shot-classification.json");
}

/// A compiled model answers a stream of texts with the bits of each text alone, on any number of threads, however they
/// are cut into calls.
#[test]
fn streams_have_the_bits_of_single_calls() {
    let compiled = Compiled::new(&fixtures().join("bert-sequence-classification"), None);
    let lengths = (0..40).map(|i| i * 17 % 23 + 1);
    let inputs: Vec<Input> = lengths.map(|n| Input::Text("good bad rain ".repeat(n)[..4 * n].into())).collect();
    let mut expected = Vec::new();
    for threads in [1, 2, 3] {
        let pipeline = open_pipeline(&compiled.path, threads, None).unwrap_or_else(|e| panic!("{e}"));
        let args = Args::from_json(pipeline.task(), json!({"top_k": null}).as_object().unwrap()).unwrap();
        let alone: Vec<Value> =
            inputs.iter().flat_map(|i| pipeline.call(std::slice::from_ref(i), &args).unwrap()).collect();
        if threads == 1 {
            expected = alone.clone();
        }
        assert_eq!(alone, expected, "{threads} threads");
        for tokens in [20, 4096] {
            let gather = Gather { tokens, ..Gather::default() };
            let answers = pipeline.stream(inputs.clone(), args.clone(), gather).unwrap();
            assert_eq!(answers.collect::<Result<Vec<_>, _>>().unwrap(), expected, "{threads} threads, {tokens} tokens");
        }
    }
}
