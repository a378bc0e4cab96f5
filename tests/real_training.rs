//! Training of real models against figures of torch. Ignored unless asked for: they need a folder of models, named in
//! `LITH_TEST_MODELS`.

mod support;

use std::path::Path;

use lith::compile::{CompileOptions, prepare};
use lith::ir::DType;
use lith::model::{Model, ModelOptions};
use lith_models::families::Training;
use lith_runtime::program::Program;
use lith_runtime::tensor::{Tensor, View};
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

fn scalar(tensor: &Tensor) -> f64 {
    f64::from(floats(tensor.bytes())[0])
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
    let names = ["learning_rate", "weight_decay", "beta1", "beta2", "epsilon", "max_grad_norm"];
    let numbers =
        |v: &Value| -> Vec<i32> { v.as_array().unwrap().iter().map(|x| x.as_i64().unwrap() as i32).collect() };
    for (i, step) in golden["steps"].as_array().unwrap().iter().enumerate() {
        let texts: Vec<Vec<i32>> = step["texts"].as_array().unwrap().iter().map(numbers).collect();
        let (mut ids, mut offsets) = (Vec::new(), vec![0i32]);
        for text in &texts {
            ids.extend(text);
            offsets.push(ids.len() as i32);
        }
        let (types, labels) = (vec![0i32; ids.len()], numbers(&step["labels"]));
        let scalars: Vec<[u8; 8]> =
            names.map(hyper).into_iter().chain([(i + 1) as f64]).map(f64::to_le_bytes).collect();
        let key = [1u32.to_le_bytes(), 2u32.to_le_bytes()].concat();
        let (tokens, bounds, sequences) = ([ids.len()], [offsets.len()], [labels.len()]);
        let mut args = vec![
            ("input_ids", View::i32(&tokens, &ids)),
            ("token_type_ids", View::i32(&tokens, &types)),
            ("offsets", View::i32(&bounds, &offsets)),
            ("labels", View::i32(&sequences, &labels)),
        ];
        for (name, value) in names.iter().copied().chain(["step"]).zip(&scalars) {
            args.push((name, View { dtype: DType::F64, shape: &[], bytes: value }));
        }
        if program
            .manifest()
            .entries
            .iter()
            .any(|e| e.name == "train_step" && e.args.iter().any(|a| a.name == "dropout_key"))
        {
            args.push(("dropout_key", View { dtype: DType::U32, shape: &[2], bytes: &key }));
        }
        let results = program.run("train_step", &args).unwrap();
        let loss = scalar(&results[0]) / scalar(&results[1]);
        let (expected, norm) = (step["loss"].as_f64().unwrap(), step["grad_norm"].as_f64().unwrap());
        println!("step {i}: loss {loss} expected {expected}; norm {} expected {norm}", scalar(&results[2]));
        assert!((loss - expected).abs() <= 1e-4 * expected, "step {i}: loss {loss}, expected {expected}");
        assert!((scalar(&results[2]) - norm).abs() <= 1e-3 * norm, "step {i}: norm {}, {norm}", scalar(&results[2]));
    }
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
