//! What the whole-system tests share: fixtures, compiling them, comparing results.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod bad;
pub mod language;
pub mod training;

use std::fs;
use std::path::{Path, PathBuf};

use lith::compile::{CompileOptions, prepare};
use lith::model::{Model, ModelOptions};
use lith_runtime::model::CompiledModel;
use lith_runtime::pipelines::{Output, TokenBatch, TokenModel};
use lith_runtime::program::Program;
use serde_json::Value;
use tempfile::TempDir;

/// The folder of fixtures.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// A folder of real models; these tests are ignored unless they are asked for.
pub fn real_models() -> PathBuf {
    std::env::var_os("LITH_TEST_MODELS").map(PathBuf::from).expect("LITH_TEST_MODELS names the folder of real models")
}

/// The JSON in a file.
pub fn read_json(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Compiles a model directory to `out` for a task, or for the one its configuration tells.
pub fn compile_to(model: &Path, task: Option<&str>, out: &Path) {
    let from = ModelOptions { task: task.map(String::from), ..ModelOptions::default() };
    let model = Model::open(&model.to_string_lossy(), &from).unwrap_or_else(|e| panic!("{e}"));
    let options = CompileOptions::new("float32", "native").unwrap();
    prepare(model, &options, None).unwrap().write_artifact(out).unwrap_or_else(|e| panic!("{e}"));
}

/// A compiled model and the folder its artifact lies in.
pub struct Compiled {
    /// The artifact.
    pub path: PathBuf,
    _folder: TempDir,
}

impl Compiled {
    /// Compiles a model directory.
    pub fn new(model: &Path, task: Option<&str>) -> Compiled {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.lith");
        compile_to(model, task, &path);
        Compiled { path, _folder: folder }
    }

    /// Loads it to run on this many threads.
    pub fn load(&self, threads: usize) -> CompiledModel {
        CompiledModel::new(Program::open(&self.path, threads).unwrap()).unwrap()
    }
}

/// Sequences of ids and token types, one after the other.
pub fn batch(sequences: &[(Vec<i32>, Vec<i32>)]) -> TokenBatch {
    let mut batch = TokenBatch { offsets: vec![0], ..TokenBatch::default() };
    for (ids, types) in sequences {
        batch.input_ids.extend(ids);
        batch.token_type_ids.extend(types);
        batch.offsets.push(batch.input_ids.len() as i32);
    }
    batch
}

/// The part of a result that belongs to sequence `i`: its tokens' rows, or its own row.
pub fn part<'a>(output: &'a Output, batch: &TokenBatch, i: usize, by_token: bool) -> &'a [f32] {
    let row: usize = output.shape[1..].iter().product();
    let (from, to) = match by_token {
        true => (batch.offsets[i] as usize, batch.offsets[i + 1] as usize),
        false => (i, i + 1),
    };
    &output.data[from * row..to * row]
}

/// All numbers in nested lists, in order.
pub fn flat(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(flat).collect(),
        other => vec![other.as_f64().unwrap_or_else(|| panic!("a number, not {other}"))],
    }
}

/// Ids in a JSON list.
pub fn ids(value: &Value) -> Vec<i32> {
    value.as_array().expect("a list").iter().map(|v| v.as_i64().expect("an id") as i32).collect()
}

/// Largest absolute difference over the largest magnitude of what is expected.
pub fn relative_difference(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let gap = found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
    assert!(found.iter().all(|v| v.is_finite()));
    gap / expected.iter().fold(f64::MIN_POSITIVE, |m, v| m.max(v.abs()))
}

/// Runs a model on a batch.
pub fn forward(model: &CompiledModel, batch: &TokenBatch) -> Vec<Output> {
    model.forward(batch).unwrap_or_else(|e| panic!("{e}"))
}

/// Every fixture directory of a model with a `golden.json`, by name.
pub fn golden_models(wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(fixtures())
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| {
            p.join("config.json").is_file()
                && p.join("golden.json").is_file()
                && wanted(&p.file_name().unwrap().to_string_lossy())
        })
        .collect();
    found.sort();
    found
}
