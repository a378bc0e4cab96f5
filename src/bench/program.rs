//! Measuring a program that is no model: made-up weights, made-up arguments, whole calls.

use std::borrow::Cow;
use std::path::Path;
use std::time::{Duration, Instant};

use lith_codegen::{Target, WeightData, WeightStorage};
use lith_ir::{DType, Op};
use lith_passes::saturate::{Budget, Report};
use lith_passes::{Compiled, Options};
use lith_runtime::program::Program;
use lith_runtime::tensor::View;
use serde::Serialize;

use super::median;
use crate::error::{Error, Result};

/// A program that can be called, with the arguments of its calls.
pub struct Running {
    program: Program,
    entry: String,
    args: Vec<(String, Vec<usize>, Vec<f32>)>,
}

impl Running {
    /// An entry point of a compiled program, on this many threads (0: all cores).
    ///
    /// # Errors
    /// When its arguments are not all `f32` of fixed shapes, or code generation fails.
    pub fn new(compiled: &Compiled, entry: &str, threads: usize) -> Result<Running> {
        let Compiled { program, plan, .. } = compiled;
        let graph = program.entries.get(entry).ok_or_else(|| Error::input(format!("no entry point `{entry}`")))?;
        let mut args = Vec::new();
        for node in graph.args() {
            let Op::Arg { name, ty, .. } = &graph.node(node).op else { continue };
            let shape = ty.static_shape().filter(|_| ty.dtype == DType::F32).ok_or_else(|| {
                Error::input(format!("argument `{name}` is {ty}; only f32 of a fixed shape can be made up"))
            })?;
            let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|&n| n <= MOST);
            let elements = elements.ok_or_else(|| Error::input(format!("argument `{name}` of {ty} is too large")))?;
            args.push((name.clone(), shape, values(elements)));
        }
        let target = Target::new("native").map_err(Error::input)?;
        let storage = WeightStorage::of(DType::F32);
        let module = lith_codegen::compile(program, plan, &target, &storage).map_err(Error::failure)?;
        let folder = tempfile::tempdir().map_err(|e| Error::failure(format!("temporary folder: {e}")))?;
        let path = folder.path().join("program.lith");
        let mut weights = |name: &str| -> Result<WeightData<'_>> {
            let elements = program.params.get(name).and_then(|ty| ty.elements().as_const());
            let elements = elements.and_then(|n| usize::try_from(n).ok()).filter(|&n| n <= MOST);
            let elements = elements.ok_or_else(|| Error::input(format!("parameter `{name}` is too large")))?;
            let bytes = values(elements).iter().flat_map(|v| v.to_le_bytes()).collect();
            Ok(WeightData::Elements { dtype: DType::F32, bytes: Cow::Owned(bytes) })
        };
        lith_codegen::write_artifact(&path, &module, &mut weights, &[])?;
        // The file is mapped: it may go.
        let program = Program::open(&path, threads).map_err(Error::failure)?;
        Ok(Running { program, entry: entry.into(), args })
    }

    /// Threads of a call.
    pub fn threads(&self) -> usize {
        self.program.threads()
    }

    /// Seconds of one call.
    ///
    /// # Errors
    /// When the program cannot be called.
    pub fn call(&self) -> Result<f64> {
        let args: Vec<(&str, View<'_>)> =
            self.args.iter().map(|(name, shape, values)| (name.as_str(), View::f32(shape, values))).collect();
        let start = Instant::now();
        self.program.run(&self.entry, &args).map_err(Error::failure)?;
        Ok(start.elapsed().as_secs_f64())
    }
}

/// The most elements that are made up for one tensor.
const MOST: usize = 1 << 28;

/// Values around zero, none of them denormal, that repeat after a prime number.
fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 64.0).collect()
}

/// The median seconds of one call of each, in turn, so that what comes and goes meets all of them: for about `time`, at
/// least five calls of each.
///
/// # Errors
/// When a program cannot be called.
pub fn seconds(running: &[Running], time: Duration) -> Result<Vec<f64>> {
    for program in running {
        (0..3).try_for_each(|_| program.call().map(drop))?;
    }
    let mut times = vec![Vec::new(); running.len()];
    let start = Instant::now();
    while start.elapsed() < time || times.iter().any(|t: &Vec<f64>| t.len() < 5) {
        for (program, times) in running.iter().zip(&mut times) {
            times.push(program.call()?);
        }
    }
    Ok(times.iter_mut().map(|t| median(t)).collect())
}

/// The program in a file of text form, found sound.
///
/// # Errors
/// When it cannot be read, parsed or verified.
pub fn read_program(path: &Path) -> Result<lith_ir::Program> {
    let wrong = |e: &dyn std::fmt::Display| Error::input(format!("{}: {e}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| wrong(&e))?;
    let program = lith_ir::text::parse(&text).map_err(|e| wrong(&e))?;
    lith_ir::verify(&program).map_err(|e| wrong(&e))?;
    Ok(program)
}

/// What saturation is worth to an entry point, by estimate and by measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Worth {
    /// The entry point.
    pub entry: String,
    /// Threads used.
    pub threads: usize,
    /// Estimated microseconds of the whole program without saturation.
    pub estimated_before_us: f64,
    /// The same with it.
    pub estimated_after_us: f64,
    /// Measured microseconds without saturation, median.
    pub measured_before_us: f64,
    /// The same with it.
    pub measured_after_us: f64,
}

/// Measures each entry point of a program with and without saturation in turn.
///
/// # Errors
/// When it cannot be compiled, or its arguments cannot be made up.
pub fn measure_worth(program: &lith_ir::Program, options: &Options, threads: usize) -> Result<Vec<Worth>> {
    const TIME: Duration = Duration::from_secs(2);
    let compile = |options: &Options| lith_passes::run(program.clone(), options).map_err(Error::failure);
    let before = compile(&Options { saturation: Budget::NONE, ..options.clone() })?;
    let after = compile(options)?;
    let (estimated_before_us, estimated_after_us) = Report::total_us(&after.saturation);
    let mut found = Vec::new();
    for entry in program.entries.keys() {
        let running = [Running::new(&before, entry, threads)?, Running::new(&after, entry, threads)?];
        let threads = running[0].threads();
        let times = seconds(&running, TIME)?;
        found.push(Worth {
            entry: entry.clone(),
            threads,
            estimated_before_us,
            estimated_after_us,
            measured_before_us: times[0] * 1e6,
            measured_after_us: times[1] * 1e6,
        });
    }
    Ok(found)
}
