//! Training of real models against figures of torch. Ignored unless asked for: they need a folder of models, named in
//! `LITH_TEST_MODELS`.

mod support;

use std::path::Path;

use lith::compile::{CompileOptions, prepare};
use lith::ir::DType;
use lith::model::{Model, ModelOptions};
use lith_models::families::Training;
use lith_runtime::program::Program;
use lith_runtime::tensor::Tensor;
use lith_runtime::training::collate::Batch;
use lith_runtime::training::compiled::{CompiledTraining, Hyperparameters, Moment};
use serde_json::Value;
use support::*;

/// A model compiled to be trained.
fn trained(model: &Path, overrides: &[&str], threads: usize) -> (tempfile::TempDir, Program) {
    let from = ModelOptions {
        task: Some("text-classification".into()),
        overrides: overrides.iter().map(|o| o.to_string()).collect(),
        fresh_head: true,
        training: Some(Training { smoothing: 0.0 }),
        ..ModelOptions::default()
    };
    let model = Model::open(&model.to_string_lossy(), &from).unwrap();
    let options = CompileOptions::new("float32", "native").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.lith");
    prepare(model, &options, None).unwrap().write_artifact(&path).unwrap();
    (folder, Program::open(&path, threads).unwrap())
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn batch(texts: &[Vec<i32>], labels: Vec<i32>) -> Batch {
    let ends = texts.iter().scan(0, |end, text| {
        *end += text.len() as i32;
        Some(*end)
    });
    let offsets: Vec<i32> = std::iter::once(0).chain(ends).collect();
    let mut batch = Batch::default();
    for (name, values) in [("input_ids", texts.concat()), ("offsets", offsets), ("labels", labels)] {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        batch.set(name, Tensor::from_bytes(DType::I32, vec![values.len()], &bytes).unwrap());
    }
    batch
}

/// TL-04, TL-07, TL-11, TL-12, TA-11, TA-12: twenty steps of AdamW, clipped, with texts of different lengths.
#[test]
#[ignore = "needs LITH_TEST_MODELS"]
fn minilm_learns_as_in_torch() {
    let golden = read_json(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/training_minilm.json"));
    let overrides = ["num_labels=3", "hidden_dropout_prob=0", "attention_probs_dropout_prob=0"];
    let (_folder, program) = trained(&real_models().join("minilm"), &overrides, 2);
    let head: Vec<u8> = (0..3 * 384).flat_map(|i| ((0.05 * f64::from(1 + i).sin()) as f32).to_le_bytes()).collect();
    program.write_state("classifier.weight", &head).unwrap();
    program.write_state("classifier.bias", &[0; 12]).unwrap();
    let hyper = |name: &str| golden["hyperparameters"][name].as_f64().unwrap();
    let hyperparameters = Hyperparameters {
        weight_decay: hyper("weight_decay"),
        beta1: hyper("beta1"),
        beta2: hyper("beta2"),
        epsilon: hyper("epsilon"),
        max_grad_norm: hyper("max_grad_norm"),
    };
    let training = CompiledTraining::new(program, hyperparameters).unwrap();
    let numbers =
        |v: &Value| -> Vec<i32> { v.as_array().unwrap().iter().map(|x| x.as_i64().unwrap() as i32).collect() };
    for (i, step) in golden["steps"].as_array().unwrap().iter().enumerate() {
        let texts: Vec<Vec<i32>> = step["texts"].as_array().unwrap().iter().map(numbers).collect();
        let labels = numbers(&step["labels"]);
        let items = labels.len() as f32;
        let batch = batch(&texts, labels);
        let moment = Moment { learning_rate: hyper("learning_rate"), step: i as u64 + 1, items, key: [0, 0] };
        let results = training.call("train_step", &batch, &moment).unwrap();
        let scalar = |name: &str| {
            let found = results.iter().find(|(n, _)| n == name).unwrap();
            f64::from(found.1.f32s()[0])
        };
        let (loss, norm) = (scalar("loss_sum") / scalar("items"), scalar("grad_norm"));
        let (expected, expected_norm) = (step["loss"].as_f64().unwrap(), step["grad_norm"].as_f64().unwrap());
        assert!((loss - expected).abs() <= 1e-4 * expected, "step {i}: loss {loss}, expected {expected}");
        let close = (norm - expected_norm).abs() <= 1e-4 * expected_norm;
        assert!(close, "step {i}: norm {norm}, expected {expected_norm}");
    }
    let program = training.program();
    for (name, expected) in golden["parameters"].as_object().unwrap() {
        let found = floats(&program.read_state(name).unwrap());
        let norm = found.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
        for (at, value) in numbers(&expected["at"]).into_iter().zip(expected["values"].as_array().unwrap()) {
            let (found, value) = (f64::from(found[at as usize]), value.as_f64().unwrap());
            assert!((found - value).abs() <= 1e-5, "{name}[{at}] is {found}, expected {value}");
        }
        let expected = expected["norm"].as_f64().unwrap();
        assert!((norm - expected).abs() <= 1e-5 * expected.max(1.0), "{name}: norm {norm}, expected {expected}");
    }
}
