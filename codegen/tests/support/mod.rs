//! Compiles test cases through the passes, loads the artifact and runs it.
#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::BTreeMap;
use std::path::Path;

use lith_codegen::{CodegenError, Target, WeightData, WeightStorage};
use lith_ir::interp::Tensor;
use lith_ir::plan::Plan;
use lith_ir::testing::Case;
use lith_ir::{DType, Program as Ir};
use lith_runtime::program::Program;
use lith_runtime::tensor::View;

/// A case compiled and loaded once for each count of threads.
pub struct Loaded {
    programs: Vec<Program>,
}

/// The program after all passes, with its plan.
pub fn planned(program: &Ir) -> (Ir, Plan) {
    let compiled = lith_passes::run(program.clone(), &lith_passes::Options::default()).expect("passes");
    (compiled.program, compiled.plan)
}

/// Writes the artifact of a program for a target.
pub fn write(
    path: &Path,
    program: &Ir,
    params: &BTreeMap<String, Tensor>,
    target: &str,
    storage: &WeightStorage,
) -> Result<(), CodegenError> {
    let (program, plan) = planned(program);
    let module = lith_codegen::compile(&program, &plan, &Target::new(target)?, storage)?;
    let mut weights = |name: &str| -> Result<WeightData<'static>, CodegenError> {
        let tensor = &params[name];
        Ok(WeightData::Elements { dtype: tensor.dtype(), bytes: tensor.to_bytes().into() })
    };
    lith_codegen::write_artifact(path, &module, &mut weights, &[])
}

impl Loaded {
    /// Compiles and loads a case to run on each of these counts of threads.
    pub fn new(case: &Case, target: &str, threads: &[usize]) -> Loaded {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("case.lith");
        write(&path, &case.program, &case.params, target, &WeightStorage::of(DType::F32))
            .unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let open = |&n: &usize| Program::open(&path, n).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        Loaded { programs: threads.iter().map(open).collect() }
    }

    /// The results on each count of threads, as bytes.
    pub fn run(&self, case: &Case) -> Vec<Vec<Tensor>> {
        self.programs.iter().map(|p| run(p, case)).collect()
    }
}

fn run(program: &Program, case: &Case) -> Vec<Tensor> {
    let entry = program.manifest().entry("main").expect("an entry point");
    let bytes: Vec<Vec<u8>> = case.args.iter().map(Tensor::to_bytes).collect();
    let args: Vec<(&str, View<'_>)> = entry
        .args
        .iter()
        .zip(&case.args)
        .zip(&bytes)
        .map(|((a, t), b)| (a.name.as_str(), View { dtype: t.dtype(), shape: t.shape(), bytes: b }))
        .collect();
    let results = program.run("main", &args).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    results
        .iter()
        .map(|t| Tensor::from_bytes(t.dtype(), t.shape(), t.bytes()).expect("a tensor of the program's"))
        .collect()
}
