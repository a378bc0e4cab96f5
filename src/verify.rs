//! Checking an artifact against the reference interpreter: the program it carries, on the weights it carries, on random
//! inputs. Finds wrong machine code, wrong packing and damaged weights.

use std::collections::BTreeMap;

use lith_ir::DType;
use lith_ir::interp::{Interpreter, Mode, Tensor as Exact};
use lith_runtime::artifact::Artifact;
use lith_runtime::artifact::format::section;
use lith_runtime::kernels::Packed;
use lith_runtime::manifest::ParamEntry;
use lith_runtime::program::Program;
use serde::Serialize;

use crate::bench::{Random, RandomTokens};
use crate::error::{Error, Result};

/// What was found for one result of one batch.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// Name of the result.
    pub result: String,
    /// Tokens of each sequence of the batch.
    pub lengths: Vec<usize>,
    /// Largest absolute difference.
    pub absolute: f64,
    /// That, over the largest magnitude of the interpreter's result.
    pub relative: f64,
}

/// The program that an artifact carries in text form.
///
/// # Errors
/// When the section is damaged or does not parse.
pub fn program_of(artifact: &Artifact) -> Result<lith_ir::Program> {
    let text = artifact.text_section(section::GRAPH).map_err(Error::input)?;
    lith_ir::text::parse(text).map_err(|e| Error::input(format!("{}: graph: {e}", artifact.path().display())))
}

/// Runs `forward` compiled and interpreted (in f64) on random batches of one to three sequences of at most twelve tokens.
///
/// # Errors
/// When the artifact cannot be run or interpreted. A difference is no error.
pub fn verify(program: &Program, batches: usize, vocab: usize, seed: u64) -> Result<Vec<Difference>> {
    let artifact = program.artifact();
    let ir = program_of(artifact)?;
    let interpreter = Interpreter::new(&ir, Mode::Exact).map_err(Error::input)?;
    let mut params = BTreeMap::new();
    for entry in &program.manifest().params {
        // A parameter that is stored in two layouts is read from either.
        params.entry(entry.name.clone()).or_insert(parameter(artifact, entry)?);
    }
    let mut random = Random::new(seed);
    let mut found = Vec::new();
    for _ in 0..batches {
        let lengths: Vec<usize> = (0..=random.below(3)).map(|_| 1 + random.below(12) as usize).collect();
        let input = RandomTokens::new(&lengths, vocab, &mut random);
        input.with_args(program, "forward", |args| {
            let mut exact = Vec::new();
            for (_, view) in args {
                exact.push(Exact::from_bytes(view.dtype, view.shape, view.bytes).map_err(Error::failure)?);
            }
            let compiled = match program.manifest().cache {
                None => program.run("forward", args),
                Some(_) => {
                    let mut pool = program.page_pool(input.pages()).map_err(Error::input)?;
                    program.run_cached("forward", args, &mut pool)
                }
            };
            let compiled = compiled.map_err(Error::input)?;
            let params = |name: &str| params.get(name).cloned();
            let mut states = empty_caches(&ir, input.pages())?;
            let wanted = interpreter.run("forward", &exact, &params, &mut states).map_err(Error::input)?;
            let names = program.manifest().entry("forward").map(|e| e.results.as_slice()).unwrap_or_default();
            for ((entry, compiled), wanted) in names.iter().zip(&compiled).zip(&wanted) {
                let compiled =
                    Exact::from_bytes(compiled.dtype(), compiled.shape(), compiled.bytes()).map_err(Error::failure)?;
                found.push(difference(&entry.name, &lengths, &compiled, wanted));
            }
            Ok(())
        })?;
    }
    Ok(found)
}

/// The states of a program with a cache of so many pages, all zeros.
fn empty_caches(program: &lith_ir::Program, pages: usize) -> Result<BTreeMap<String, Exact>> {
    let mut states = BTreeMap::new();
    for (name, ty) in &program.states {
        let size = |d: &lith_ir::Dim| {
            let size = d.eval(&|s| (s.name() == "page_count").then_some(pages as i64)).map_err(Error::input)?;
            usize::try_from(size).map_err(Error::input)
        };
        let shape: Vec<usize> = ty.shape.iter().map(size).collect::<Result<_>>()?;
        states.insert(name.clone(), Exact::zeros(ty.dtype, &shape).map_err(Error::input)?);
    }
    Ok(states)
}

fn difference(name: &str, lengths: &[usize], compiled: &Exact, wanted: &Exact) -> Difference {
    let values = |t: &Exact| -> Vec<f64> {
        match (t.as_floats(), t.as_ints()) {
            (Some(v), _) => v.to_vec(),
            (None, Some(v)) => v.iter().map(|&v| v as f64).collect(),
            (None, None) => Vec::new(),
        }
    };
    let (a, b) = (values(compiled), values(wanted));
    let same_shape = compiled.shape() == wanted.shape();
    let gap = |(x, y): (&f64, &f64)| match (x - y).abs() {
        // Equal infinities differ by nothing, a NaN on one side by everything.
        d if d.is_nan() && x.to_bits() != y.to_bits() => f64::INFINITY,
        d if d.is_nan() => 0.0,
        d => d,
    };
    let absolute = if same_shape { a.iter().zip(&b).map(gap).fold(0.0, f64::max) } else { f64::INFINITY };
    let scale = b.iter().map(|v| v.abs()).filter(|v| v.is_finite()).fold(0.0, f64::max);
    let relative = if absolute == 0.0 { 0.0 } else { absolute / scale.max(f64::MIN_POSITIVE) };
    Difference { result: name.into(), lengths: lengths.to_vec(), absolute, relative }
}

/// A stored parameter as the interpreter takes it.
fn parameter(artifact: &Artifact, entry: &ParamEntry) -> Result<Exact> {
    let bad =
        |problem: String| Error::input(format!("{}: parameter `{}`: {problem}", artifact.path().display(), entry.name));
    let start = entry.offset as usize;
    let stored = artifact.weights().get(start..start + entry.bytes as usize);
    let stored = stored.ok_or_else(|| bad("outside the weight section".into()))?;
    if entry.panels {
        let packed = Packed::new(stored).map_err(|e| bad(e.to_string()))?;
        if entry.shape != [packed.n(), packed.k()] {
            return Err(bad(format!("panels of {} by {} for shape {:?}", packed.n(), packed.k(), entry.shape)));
        }
        let mut values = Vec::with_capacity(packed.n() * packed.k());
        let mut row = vec![0.0; packed.k()];
        for i in 0..packed.n() {
            packed.row(i, &mut row);
            values.extend(row.iter().copied().map(f64::from));
        }
        return Exact::floats(DType::F32, &entry.shape, values).map_err(|e| bad(e.to_string()));
    }
    let stored = Exact::from_bytes(entry.dtype, &entry.shape, stored).map_err(|e| bad(e.to_string()))?;
    // 16-bit storage is computed with as f32.
    match stored.as_floats() {
        Some(values) if entry.dtype != DType::F32 => {
            Exact::floats(DType::F32, &entry.shape, values.to_vec()).map_err(|e| bad(e.to_string()))
        }
        _ => Ok(stored),
    }
}
