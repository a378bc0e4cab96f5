//! Promises of the whole: code does not grow with depth, bytes are reproducible, text and library agree with the command.

mod support;

use std::fs;
use std::path::Path;

use lith::compile::{Compilation, CompileOptions, prepare};
use lith::model::{Model, ModelOptions};
use lith_ir::DType;
use lith_passes::saturate::DeviceProfile;
use lith_passes::saturate::estimate::costs_of;
use support::*;

/// A BERT of this depth with the fixture's weights: layers beyond the second repeat it.
fn deep(layers: usize, folder: &Path) {
    let source = fixtures().join("bert-base");
    let model = folder.join(format!("bert-{layers}"));
    fs::create_dir(&model).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(source.join(name), model.join(name)).unwrap();
    }
    let mut config = read_json(&source.join("config.json"));
    config["num_hidden_layers"] = layers.into();
    fs::write(model.join("config.json"), config.to_string()).unwrap();
    let bytes = fs::read(source.join("model.safetensors")).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let mut tensors = serde_json::Map::new();
    let mut data: Vec<u8> = Vec::new();
    let mut put = |name: String, entry: &serde_json::Value| {
        let [from, to] = [0, 1].map(|i| entry["data_offsets"][i].as_u64().unwrap() as usize);
        let start = data.len();
        data.extend(&bytes[8 + length + from..8 + length + to]);
        let mut entry = entry.clone();
        entry["data_offsets"] = serde_json::json!([start, data.len()]);
        tensors.insert(name, entry);
    };
    for (name, entry) in header.as_object().unwrap().iter().filter(|(n, _)| *n != "__metadata__") {
        match name.strip_prefix("encoder.layer.1.") {
            Some(rest) => (1..layers).for_each(|i| put(format!("encoder.layer.{i}.{rest}"), entry)),
            None => put(name.clone(), entry),
        }
    }
    let header = serde_json::Value::Object(tensors).to_string().into_bytes();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend(data);
    fs::write(model.join("model.safetensors"), file).unwrap();
}

fn compiled(model: &Path) -> Compilation {
    let model = Model::open(&model.to_string_lossy(), &ModelOptions::default()).unwrap();
    prepare(model, &CompileOptions::new("float32", "native").unwrap(), None).unwrap()
}

fn code_sizes(compilation: &Compilation) -> (usize, Vec<(String, u64)>) {
    let module = compilation.module().unwrap();
    (module.text.len(), module.manifest.code.iter().map(|c| (c.name.clone(), c.bytes)).collect())
}

/// Layers are one function, called in a loop: 48 of them have the code of 6, and what the compiler does beyond reading and
/// naming their weights is no more work: the same kernels are estimated and compiled, the layer is saturated once, and of the
/// graph that calls it rules see nothing but the calls. What is estimated of few calls is what all of them cost.
#[test]
fn code_does_not_grow_with_depth() {
    let folder = tempfile::tempdir().unwrap();
    for layers in [6, 48] {
        deep(layers, folder.path());
    }
    let [of_six, of_many] = [6, 48].map(|layers| compiled(&folder.path().join(format!("bert-{layers}"))));
    let (six, six_parts) = code_sizes(&of_six);
    let (many, many_parts) = code_sizes(&of_many);
    // Kernels are numbered in execution order, in which the calls count too.
    let unnumbered = |(name, bytes): &(String, u64)| (name.replace(|c: char| c.is_ascii_digit(), ""), *bytes);
    let parts = |all: &[(String, u64)]| all.iter().map(unnumbered).collect::<Vec<_>>();
    assert_eq!(parts(&six_parts), parts(&many_parts));
    assert_eq!(six, many);

    let [a, b] = [&of_six, &of_many].map(|c| &c.compiled.saturation);
    assert!(a.estimated_kernels > 0);
    assert_eq!(a.estimated_kernels, b.estimated_kernels);
    assert_eq!(a.graphs.len(), b.graphs.len());
    for (few, many) in a.graphs.iter().zip(&b.graphs) {
        let entry = of_six.compiled.program.entries.contains_key(&few.graph);
        let calls = if entry { 48 - 6 } else { 0 };
        // A call, its weights and what it results in, each one e-node.
        assert!(many.nodes - few.nodes <= calls * 20, "{few:?} {many:?}");
        assert_eq!(few.iterations, many.iterations, "{}", few.graph);
        assert_eq!(many.kernels_after - few.kernels_after, calls, "{}", few.graph);
        let [a, b] = [&of_six, &of_many].map(|c| costs_of(&c.compiled, &DeviceProfile::default(), &c.storage.storage));
        let costs = [&a.unwrap()[&few.graph], &b.unwrap()[&few.graph]].map(|cost| cost.typical_us());
        for (report, cost) in [few, many].into_iter().zip(costs) {
            assert!((report.cost_after_us - cost).abs() <= cost * 1e-9, "{report:?} {cost}");
        }
    }
}

/// The same directory compiled twice gives the same bytes.
#[test]
fn artifacts_are_reproducible() {
    let folder = tempfile::tempdir().unwrap();
    for fixture in ["bert-base", "albert-masked-lm", "mpnet-question-answering"] {
        let [a, b] = ["a", "b"].map(|n| folder.path().join(n));
        compile_to(&fixtures().join(fixture), None, &a);
        compile_to(&fixtures().join(fixture), None, &b);
        assert!(fs::read(&a).unwrap() == fs::read(&b).unwrap(), "{fixture}");
    }
}

/// Weights stored in 16 bits: the results are those of the rounded weights.
#[test]
fn sixteen_bit_storage() {
    let folder = tempfile::tempdir().unwrap();
    for (dtype, expected) in [("float16", DType::F16), ("bfloat16", DType::Bf16)] {
        let path = folder.path().join(dtype);
        let model = fixtures().join("bert-sequence-classification");
        let model = Model::open(&model.to_string_lossy(), &ModelOptions::default()).unwrap();
        let options = CompileOptions::new(dtype, "native").unwrap();
        prepare(model, &options, None).unwrap().write_artifact(&path).unwrap();
        let program = lith::Program::open(&path, 2).unwrap();
        assert!(program.manifest().params.iter().any(|p| p.panels && p.dtype == expected));
        for d in lith::verify::verify(&program, 3, 100, 1).unwrap() {
            assert!(d.relative < 1e-5, "{dtype}: {d:?}");
        }
    }
}

/// A lower target runs here too and gives results within rounding.
#[test]
fn lower_targets_run() {
    let folder = tempfile::tempdir().unwrap();
    for target in ["x86-64-v2", "x86-64-v3"] {
        let path = folder.path().join(target);
        let model = fixtures().join("roberta-token-classification");
        let model = Model::open(&model.to_string_lossy(), &ModelOptions::default()).unwrap();
        prepare(model, &CompileOptions::new("float32", target).unwrap(), None).unwrap().write_artifact(&path).unwrap();
        let program = lith::Program::open(&path, 1).unwrap();
        for d in lith::verify::verify(&program, 2, 100, 1).unwrap() {
            assert!(d.relative < 1e-5, "{target}: {d:?}");
        }
    }
}

/// Code that computes something else than the program the artifact carries is found by `verify`.
#[test]
fn verify_finds_wrong_code() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wrong.lith");
    let model = fixtures().join("bert-sequence-classification");
    let model = Model::open(&model.to_string_lossy(), &ModelOptions::default()).unwrap();
    let compilation = prepare(model, &CompileOptions::new("float32", "native").unwrap(), None).unwrap();
    let mut module = compilation.module().unwrap();
    module.set_model(serde_json::to_value(&compilation.model.info).unwrap());
    let write = |module: &lith_codegen::Module| {
        let mut weights = |name: &str| compilation.model.weights.read(name);
        lith_codegen::write_artifact(&path, module, &mut weights, &[]).unwrap();
        lith::verify::verify(&lith::Program::open(&path, 1).unwrap(), 1, 100, 0).unwrap()
    };
    assert!(write(&module).iter().all(|d| d.relative < 1e-5));
    assert!(module.graph_text.contains(" erf("));
    module.graph_text = module.graph_text.replace(" erf(", " tanh(");
    assert!(write(&module).iter().any(|d| d.relative > 1e-3));
}
