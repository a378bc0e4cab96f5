//! Compiles test cases through the passes, loads the artifact and runs it.
#![allow(dead_code, reason = "each test file uses a part")]

pub mod decoder;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use lith_codegen::{CodegenError, Target, WeightData, WeightStorage};
use lith_ir::interp::Tensor;
use lith_ir::plan::Plan;
use lith_ir::testing::Case;
use lith_ir::{DType, Program as Ir};
use lith_passes::Options;
use lith_runtime::cache::PagePool;
use lith_runtime::program::Program;
use lith_runtime::tensor::View;

/// A case compiled and loaded once for each count of threads, each with its own states.
pub struct Loaded {
    programs: Vec<(Program, Option<Mutex<PagePool>>)>,
}

/// The program after all passes, with its plan.
pub fn planned(program: &Ir, options: &Options) -> (Ir, Plan) {
    let compiled = lith_passes::run(program.clone(), options).expect("passes");
    (compiled.program, compiled.plan)
}

/// A target by its name.
pub fn target(name: &str) -> Target {
    Target::new(name).expect("a target that there is")
}

/// The targets whose code this machine runs: each level, and for those with wide vectors the same without.
pub fn targets() -> Vec<Target> {
    let levels = Target::NAMES.into_iter().filter(|name| *name != "native").map(target);
    let here = levels.filter(|t| t.features().iter().all(|f| lith_runtime::artifact::has_feature(f)));
    let mut all = Vec::new();
    for level in here {
        if level.name() == "x86-64-v3" {
            all.push(level.clone().without_wide_vectors());
        }
        all.push(level);
    }
    all
}

/// Writes the artifact of a program for a target.
pub fn write(
    path: &Path,
    program: &Ir,
    params: &BTreeMap<String, Tensor>,
    target: &Target,
    storage: &WeightStorage,
) -> Result<(), CodegenError> {
    let (program, plan) = planned(program, &Options::default());
    let module = lith_codegen::compile(&program, &plan, target, storage)?;
    let mut weights = |name: &str| Ok(elements(&params[name]));
    lith_codegen::write_artifact::<CodegenError>(path, &module, &mut weights, &[])
}

/// A parameter as plain elements.
pub fn elements(tensor: &Tensor) -> WeightData<'static> {
    WeightData::Elements { dtype: tensor.dtype(), bytes: tensor.to_bytes().into() }
}

impl Loaded {
    /// Compiles and loads a case to run on each of these counts of threads.
    pub fn new(case: &Case, target: &Target, threads: &[usize]) -> Loaded {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("case.lith");
        write(&path, &case.program, &case.params, target, &WeightStorage::of(DType::F32))
            .unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let open = |&n: &usize| {
            let program = Program::open(&path, n).unwrap_or_else(|e| panic!("{}: {e}", case.name));
            let in_pages = program.manifest().states.iter().find(|s| s.page_offset.is_some());
            let pool = in_pages.map(|s| {
                let pages = case.states[&s.name].shape()[0];
                Mutex::new(program.page_pool(pages).unwrap_or_else(|e| panic!("{}: {e}", case.name)))
            });
            (program, pool)
        };
        Loaded { programs: threads.iter().map(open).collect() }
    }

    /// The results on each count of threads, as bytes.
    pub fn run(&self, case: &Case) -> Vec<Vec<Tensor>> {
        self.programs.iter().map(|(program, pool)| run(program, pool.as_ref(), case)).collect()
    }
}

fn run(program: &Program, pool: Option<&Mutex<PagePool>>, case: &Case) -> Vec<Tensor> {
    let entry = program.manifest().entry("main").expect("an entry point");
    let bytes: Vec<Vec<u8>> = case.args.iter().map(Tensor::to_bytes).collect();
    let args: Vec<(&str, View<'_>)> = entry
        .args
        .iter()
        .zip(&case.args)
        .zip(&bytes)
        .map(|((a, t), b)| (a.name.as_str(), View { dtype: t.dtype(), shape: t.shape(), bytes: b }))
        .collect();
    let results = match pool {
        None => program.run("main", &args),
        Some(pool) => program.run_cached("main", &args, &mut pool.lock().unwrap_or_else(PoisonError::into_inner)),
    };
    let results = results.unwrap_or_else(|e| panic!("{}: {e}", case.name));
    results
        .iter()
        .map(|t| Tensor::from_bytes(t.dtype(), t.shape(), t.bytes()).expect("a tensor of the program's"))
        .collect()
}
