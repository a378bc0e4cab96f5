//! Artifacts as files: same input same bytes, nothing left of a failed one, weights in 16 bits, sections that ELF readers
//! find; rows that do not depend on their batch.

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use lith_codegen::{CodegenError, Target, WeightData, WeightStorage};
use lith_ir::interp::Tensor;
use lith_ir::testing::Rng;
use lith_ir::{Activation, Builder, DType, Dim, Graph, Op, Program as Ir, Symbol, SymbolInfo, Type};
use lith_runtime::artifact::Artifact;
use lith_runtime::program::Program;
use lith_runtime::tensor::View;
use object::{Object, ObjectSection};

const WIDTH: usize = 52;
const INNER: usize = 39;
const WORDS: usize = 11;

/// Token ids to a normalised hidden state and one layer of a multilayer perceptron on it.
fn model() -> (Ir, BTreeMap<String, Tensor>) {
    let tokens = Symbol::new("tokens");
    let mut ir = Ir::new("perceptron");
    ir.symbols.insert(tokens.clone(), SymbolInfo { min: 1, ..SymbolInfo::default() });
    let mut params = BTreeMap::new();
    let mut rng = Rng::new(5);
    let mut param = |ir: &mut Ir, name: &str, shape: &[usize]| {
        let ty = Type::new(DType::F32, shape.iter().copied());
        ir.params.insert(name.into(), ty.clone());
        let values = (0..shape.iter().product()).map(|_| f64::from(rng.between(-0.5, 0.5) as f32)).collect();
        params.insert(name.into(), Tensor::floats(DType::F32, shape, values).unwrap());
        (name.to_string(), ty)
    };
    let shapes: [(&str, &[usize]); 7] = [
        ("words", &[WORDS, WIDTH]),
        ("norm.weight", &[WIDTH]),
        ("norm.bias", &[WIDTH]),
        ("up.weight", &[INNER, WIDTH]),
        ("up.bias", &[INNER]),
        ("down.weight", &[WIDTH, INNER]),
        ("down.bias", &[WIDTH]),
    ];
    let named: Vec<(String, Type)> = shapes.iter().map(|(name, shape)| param(&mut ir, name, shape)).collect();
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, "model");
    let ids = b.arg("ids", Type::new(DType::I32, [Dim::symbol(&tokens)])).unwrap();
    let p: Vec<_> = named.into_iter().map(|(name, ty)| b.param(&name, ty).unwrap()).collect();
    let x = b.gather(p[0], ids, 0).unwrap();
    let x = b.op(Op::LayerNorm { eps: 1e-5 }, &[x, p[1], p[2]]).unwrap();
    let h = b.op(Op::Linear {}, &[x, p[3], p[4]]).unwrap();
    let h = b.op(Op::Activation { f: Activation::Gelu }, &[h]).unwrap();
    let h = b.op(Op::Linear {}, &[h, p[5], p[6]]).unwrap();
    let y = b.add(h, x).unwrap();
    let y = b.op(Op::Softmax {}, &[y]).unwrap();
    graph.add_result("y", y);
    ir.entries.insert("main".into(), graph);
    (ir, params)
}

fn written(path: &Path, storage: DType) {
    let (ir, params) = model();
    support::write(path, &ir, &params, &support::target("native"), &WeightStorage::of(storage)).unwrap();
}

fn run(program: &Program, ids: &[i32]) -> Vec<f32> {
    program.run("main", &[("ids", View::i32(&[ids.len()], ids))]).unwrap()[0].f32s().to_vec()
}

fn ids(n: usize) -> Vec<i32> {
    (0..n).map(|i| (i * 7 % WORDS) as i32).collect()
}

#[test]
fn same_input_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["a", "b"].map(|name| folder.path().join(name));
    paths.iter().for_each(|p| written(p, DType::F32));
    let [a, b] = paths.map(|p| std::fs::read(p).unwrap());
    assert_eq!(a, b);
}

#[test]
fn a_row_alone_is_the_same_row_in_a_batch_on_any_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.lith");
    written(&path, DType::F32);
    let ids = ids(301);
    let programs = [1, 2, 3].map(|n| Program::open(&path, n).unwrap());
    let all = run(&programs[0], &ids);
    // As many rows as blocks of rows may be cut from in any way.
    for rows in (90..=301).step_by(7).chain([96, 97, 112, 144, 145, 160, 192, 208]) {
        for program in &programs {
            assert_eq!(run(program, &ids[..rows]), all[..rows * WIDTH], "{rows} rows, {} threads", program.threads());
        }
    }
    for (i, row) in all.chunks_exact(WIDTH).enumerate().step_by(13) {
        assert_eq!(run(&programs[1], &ids[i..i + 1]), row, "row {i} alone");
    }
}

#[test]
fn the_interpreter_agrees_and_16_bit_weights_are_near() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.lith");
    let (ir, params) = model();
    let ids = ids(9);
    let arg = Tensor::ints(DType::I32, &[ids.len()], ids.iter().map(|&i| i.into()).collect()).unwrap();
    let exact = lith_ir::interp::Interpreter::new(&ir, lith_ir::interp::Mode::Exact).unwrap();
    let exact = exact.run("main", &[arg], &|name| params.get(name).cloned(), &mut BTreeMap::new()).unwrap();
    let mut sizes = Vec::new();
    for (storage, tolerance) in [(DType::F32, 2e-6), (DType::F16, 1e-3), (DType::Bf16, 1e-2)] {
        written(&path, storage);
        sizes.push(std::fs::metadata(&path).unwrap().len());
        let found = run(&Program::open(&path, 2).unwrap(), &ids);
        let expected = exact[0].as_floats().unwrap();
        let worst = found.iter().zip(expected).map(|(f, e)| (f64::from(*f) - e).abs()).fold(0.0, f64::max);
        assert!(worst <= tolerance, "{storage:?}: {worst}");
    }
    assert!(sizes[1] < sizes[0] && sizes[1] == sizes[2]);
}

#[test]
fn nothing_is_left_of_an_artifact_whose_weights_are_not_to_be_had() {
    let folder = tempfile::tempdir().unwrap();
    let (ir, _) = model();
    let (program, plan) = support::planned(&ir, &lith_passes::Options::default());
    let module =
        lith_codegen::compile(&program, &plan, &Target::new("native").unwrap(), &WeightStorage::of(DType::F32))
            .unwrap();
    let mut short = |_: &str| -> Result<WeightData<'static>, CodegenError> {
        Ok(WeightData::Elements { dtype: DType::F32, bytes: vec![0; 12].into() })
    };
    let error = lith_codegen::write_artifact(&folder.path().join("x"), &module, &mut short, &[]).unwrap_err();
    assert!(matches!(error, CodegenError::Weight { .. }), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let absent = folder.path().join("no/such/folder/x");
    let error = lith_codegen::write_artifact(&absent, &module, &mut short, &[]).unwrap_err();
    assert!(matches!(error, CodegenError::Io { .. }), "{error}");
}

#[test]
fn elf_readers_find_the_sections() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.lith");
    written(&path, DType::F32);
    let bytes = std::fs::read(&path).unwrap();
    let elf = object::File::parse(&*bytes).unwrap();
    assert_eq!(elf.architecture(), object::Architecture::X86_64);
    let artifact = Artifact::open(&path).unwrap();
    for s in &artifact.header().sections {
        let found = elf.section_by_name(&s.name).unwrap_or_else(|| panic!("no {}", s.name));
        assert_eq!(found.file_range(), Some((s.offset, s.size)));
    }
    let text = elf.section_by_name(".text").unwrap();
    assert_eq!((text.kind(), text.file_range().unwrap().0 % 4096), (object::SectionKind::Text, 0));
    let code = &artifact.manifest().code;
    assert!(code.iter().all(|c| c.offset % 32 == 0 && c.offset + c.bytes <= text.size()));
    assert!(lith_ir::text::parse(artifact.text_section(".lith.graph").unwrap()).is_ok());
}
