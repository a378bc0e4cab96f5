//! Measures the machine for the optimizer's costs: small programs, compiled as any other, each of which is limited by one
//! thing only. What a fixed part would blur is the difference between a long and a short program of the same kind.

use std::path::Path;
use std::time::Duration;

use lith_ir::{Binary, Builder, DType, Graph, GraphError, Op, Program, Reduction, Type, Unary, Value};
use lith_passes::Options;
use lith_passes::saturate::{Budget, DeviceProfile};
use lith_runtime::kernels::Isa;

use super::program::{Running, seconds};
use crate::cache::write_atomic;
use crate::error::{Error, Result};

/// How long each figure is measured.
const TIME: Duration = Duration::from_millis(400);

/// Measures the machine with this many threads (0: all cores); `say` is told what is being measured.
///
/// # Errors
/// When a program cannot be compiled or run, or the machine is so busy that a figure is none.
pub fn calibrate(threads: usize, say: &dyn Fn(&str)) -> Result<DeviceProfile> {
    say("measuring contractions");
    let contraction = running(contraction()?, threads)?;
    let threads = contraction.threads();
    let flops = 2.0 * (ROWS * INPUTS * OUTPUTS) as f64 / seconds(&[contraction], TIME)?[0];
    say("measuring memory");
    let bytes = 2.0 * (SUMMED[0] * SUMMED[1] * 4) as f64 / seconds(&[running(sum()?, threads)?], TIME)?[0];
    say("measuring elementwise work");
    let elements = (CHAIN[0] * CHAIN[1]) as f64 * LINK_WEIGHT / per_link(links, threads, [4, 36])?;
    say("measuring launches");
    let launch = per_link(launches, threads, [4, 132])?;
    let each = 1.0 / threads as f64;
    let profile = DeviceProfile {
        name: format!("{}, {threads} threads", Isa::current().name()),
        flops_per_second: rounded(flops * each),
        bytes_per_second: rounded(bytes * each),
        elements_per_second: rounded(elements * each),
        launch_us: rounded(launch * 1e6),
        threads,
    };
    profile.check().map_err(|e| Error::failure(format!("{e}: the machine is too busy to be measured")))?;
    Ok(profile)
}

/// Three digits: more is noise.
fn rounded(x: f64) -> f64 {
    format!("{x:.2e}").parse().unwrap_or(x)
}

/// A profile as a file.
///
/// # Errors
/// When the file cannot be written.
pub fn write_profile(profile: &DeviceProfile, path: &Path) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(profile).map_err(Error::failure)?;
    text.push(b'\n');
    write_atomic(path, &text).map_err(|e| Error::input(format!("{}: {e}", path.display())))
}

/// The profile in a file.
///
/// # Errors
/// When the file is none, or a figure in it is none that a device has.
pub fn read_profile(path: &Path) -> Result<DeviceProfile> {
    let wrong = |e: &dyn std::fmt::Display| Error::input(format!("{}: no device profile: {e}", path.display()));
    let bytes = std::fs::read(path).map_err(|e| Error::input(format!("{}: {e}", path.display())))?;
    let profile: DeviceProfile = serde_json::from_slice(&bytes).map_err(|e| wrong(&e))?;
    profile.check().map_err(|e| wrong(&e))?;
    Ok(profile)
}

type Built = std::result::Result<Value, GraphError>;

/// A graph to measure with its parameters.
struct Probe {
    graph: Graph,
    params: Vec<(String, Type)>,
}

impl Probe {
    /// The probe whose result `build` computes from arguments and parameters of these shapes.
    fn new<const A: usize, const P: usize>(
        args: [[usize; 2]; A],
        params: [[usize; 2]; P],
        build: impl FnOnce(&mut Builder<'_>, [Value; A], [Value; P]) -> Built,
    ) -> Result<Probe> {
        let ty = |shape: [usize; 2]| Type::new(DType::F32, shape.map(|n| n as i64));
        let mut probe = Probe { graph: Graph::new(), params: Vec::new() };
        let mut b = Builder::new(&mut probe.graph, "probe");
        let (mut xs, mut ws) = (Vec::with_capacity(A), Vec::with_capacity(P));
        for (i, shape) in args.into_iter().enumerate() {
            xs.push(b.arg(&format!("x{i}"), ty(shape)).map_err(Error::failure)?);
        }
        for (i, shape) in params.into_iter().enumerate() {
            let name = format!("w{i}");
            ws.push(b.param(&name, ty(shape)).map_err(Error::failure)?);
            probe.params.push((name, ty(shape)));
        }
        let (Ok(xs), Ok(ws)) = (xs.try_into(), ws.try_into()) else {
            return Err(Error::failure("a probe of other operands"));
        };
        let y = build(&mut b, xs, ws).map_err(Error::failure)?;
        probe.graph.add_result("y", y);
        Ok(probe)
    }
}

/// A probe that can be called. What is measured is what stands there: nothing is rewritten.
fn running(probe: Probe, threads: usize) -> Result<Running> {
    let mut program = Program::new("probe");
    program.params.extend(probe.params);
    program.entries.insert("probe".into(), probe.graph);
    let options = Options { saturation: Budget::NONE, ..Options::default() };
    let compiled = lith_passes::run(program, &options).map_err(Error::failure)?;
    Running::new(&compiled, "probe", threads)
}

/// Seconds that each link adds to a chain, from a short and a long one.
fn per_link(chain: fn(usize) -> Result<Probe>, threads: usize, [short, long]: [usize; 2]) -> Result<f64> {
    let times = seconds(&[running(chain(short)?, threads)?, running(chain(long)?, threads)?], TIME)?;
    Ok((times[1] - times[0]) / (long - short) as f64)
}

const ROWS: usize = 512;
const INPUTS: usize = 512;
const OUTPUTS: usize = 1536;

/// A linear layer of a size that encoders have.
fn contraction() -> Result<Probe> {
    Probe::new([[ROWS, INPUTS]], [[OUTPUTS, INPUTS]], |b, [x], [w]| b.op(Op::Linear {}, &[x, w]))
}

/// Two matrices of 32 MiB: more than the caches of a core.
const SUMMED: [usize; 2] = [2048, 4096];

/// Reads two matrices and writes next to nothing, so that no new memory is touched.
fn sum() -> Result<Probe> {
    Probe::new([SUMMED, SUMMED], [], |b, [x, y], []| {
        let sum = b.add(x, y)?;
        b.reduce_last(Reduction::Sum, sum)
    })
}

const CHAIN: [usize; 2] = [64, 1024];
/// Of a link of [`links`], by the weights of the cost model: three simple operations and an exponential.
const LINK_WEIGHT: f64 = 3.0 * 0.5 + 4.0;

/// A chain of elementwise work, simple and transcendental as in activations.
fn links(n: usize) -> Result<Probe> {
    Probe::new([CHAIN, CHAIN, CHAIN], [], |b, [x, scale, shift], []| {
        (0..n).try_fold(x, |x, _| {
            let product = b.mul(x, scale)?;
            let sum = b.add(product, shift)?;
            let low = b.binary(Binary::Min, sum, shift)?;
            b.unary(Unary::Exp, low)
        })
    })
}

/// A chain of linear layers so small that starting them is what takes the time.
fn launches(n: usize) -> Result<Probe> {
    Probe::new([[1, 16]], [[16, 16]], |b, [x], [w]| (0..n).try_fold(x, |x, _| b.op(Op::Linear {}, &[x, w])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits() {
        assert_eq!(rounded(123_456.0), 123_000.0);
        assert_eq!(rounded(0.123_456), 0.123);
    }

    #[test]
    fn profiles_are_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("profile.json");
        let profile = DeviceProfile { name: "x".into(), ..DeviceProfile::default() };
        write_profile(&profile, &path).unwrap();
        assert_eq!(read_profile(&path).unwrap(), profile);
        let good = std::fs::read_to_string(&path).unwrap();
        for (text, says) in [
            ("".to_string(), "EOF"),
            (good.replace("launch_us", "launch"), "launch"),
            (good.replace("\"threads\": 1", "\"threads\": 0"), "threads"),
            (good.replace("\"threads\": 1", "\"threads\": -1"), "-1"),
        ] {
            assert_ne!(text, good);
            std::fs::write(&path, text).unwrap();
            let error = read_profile(&path).unwrap_err();
            assert_eq!(error.blame(), crate::error::Blame::Input);
            assert!(error.to_string().contains("profile.json") && error.to_string().contains(says), "{error}");
        }
        assert_eq!(read_profile(&folder.path().join("none")).unwrap_err().blame(), crate::error::Blame::Input);
    }
}
