//! Programs with inputs for differential tests: the interpreter says what they give, and whatever else runs them must
//! agree.
//!
//! - [`cases_for`] gives cases of one op, by its name in [`crate::Op::NAMES`]: every function and dtype legal for it, over
//!   random shapes with sizes 0, 1 and odd ones among them, sizes constant or symbolic by chance.
//! - [`random_case`] gives a whole random graph, smooth enough to be compared within a tolerance.
//! - [`Case::run`] is the interpreter's answer, [`Case::check`] holds another answer against it.
//!
//! ```
//! use lith_ir::testing::{Rng, cases_for};
//! use lith_ir::interp::Mode;
//!
//! for case in cases_for("softmax", &mut Rng::new(1)) {
//!     let exact = case.run(Mode::Exact).unwrap();
//!     case.check(&exact).unwrap();
//! }
//! ```
//!
//! A case has one entry point, `main`; its arguments, parameters and states are plain tensors ([`Tensor::to_bytes`]).

mod decoder;
mod graphs;
mod maker;
mod ops;
mod random;
mod training;

use std::collections::BTreeMap;

pub use graphs::random_case;
pub use maker::Rng;
pub use ops::cases_for;
pub use random::{THREEFRY_ANSWERS, attention_number, threefry};

use crate::dtype::DType;
use crate::interp::{InterpError, Interpreter, Mode, Tensor};
use crate::program::Program;

/// A program with inputs.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it tests, for messages: op, function, dtype, shapes.
    pub name: String,
    /// The program; its one entry point is `main`.
    pub program: Program,
    /// The arguments of `main`.
    pub args: Vec<Tensor>,
    /// Every parameter of the program.
    pub params: BTreeMap<String, Tensor>,
    /// Every state of the program before the call.
    pub states: BTreeMap<String, Tensor>,
    /// How far floating-point elements may be from [`Mode::Rounded`]: `|found - expected| <= tolerance * max(1,
    /// |expected|)`. 0 for ops that are exact; integers and `bool` must always be equal.
    pub tolerance: f64,
}

impl Case {
    /// The interpreter's results.
    ///
    /// # Errors
    /// As [`Interpreter::run`]; a case that errs is a bug of the generator or the interpreter.
    pub fn run(&self, mode: Mode) -> Result<Vec<Tensor>, InterpError> {
        let mut states = self.states.clone();
        self.run_with(mode, &mut states)
    }

    /// [`Case::run`] on these states, which get what the call writes.
    ///
    /// # Errors
    /// As [`Case::run`].
    pub fn run_with(&self, mode: Mode, states: &mut BTreeMap<String, Tensor>) -> Result<Vec<Tensor>, InterpError> {
        let params = |name: &str| self.params.get(name).cloned();
        Interpreter::new(&self.program, mode)?.run("main", &self.args, &params, states)
    }

    /// Whether results agree with the interpreter's in [`Mode::Rounded`].
    ///
    /// # Errors
    /// The first difference, or the interpreter's error.
    pub fn check(&self, found: &[Tensor]) -> Result<(), String> {
        let expected = self.run(Mode::Rounded).map_err(|e| format!("{}: {e}", self.name))?;
        if expected.len() != found.len() {
            return Err(format!("{}: {} results, expected {}", self.name, found.len(), expected.len()));
        }
        for (i, (e, f)) in expected.iter().zip(found).enumerate() {
            close(e, f, self.tolerance).map_err(|problem| format!("{}, result {i}: {problem}", self.name))?;
        }
        Ok(())
    }
}

/// Whether two tensors agree: same type, integers equal, floats within `tolerance * max(1, |expected|)`. NaN agrees with
/// NaN, an infinity with itself, zeros of both signs with each other.
///
/// # Errors
/// The first difference.
pub fn close(expected: &Tensor, found: &Tensor, tolerance: f64) -> Result<(), String> {
    if expected.dtype() != found.dtype() || expected.shape() != found.shape() {
        let name = |t: &Tensor| format!("{}{:?}", t.dtype(), t.shape());
        return Err(format!("{}, expected {}", name(found), name(expected)));
    }
    if let (Some(e), Some(f)) = (expected.as_ints(), found.as_ints()) {
        return match e.iter().zip(f).position(|(e, f)| e != f) {
            Some(i) => Err(format!("element {i} is {}, expected {}", f[i], e[i])),
            None => Ok(()),
        };
    }
    let (Some(e), Some(f)) = (expected.as_floats(), found.as_floats()) else {
        return Err("elements of different kinds".into());
    };
    let agree = |e: f64, f: f64| {
        e == f || (e.is_nan() && f.is_nan()) || (e - f).abs() <= tolerance * e.abs().max(1.0) && e.is_finite()
    };
    match e.iter().zip(f).position(|(&e, &f)| !agree(e, f)) {
        Some(i) => Err(format!("element {i} is {:e}, expected {:e} within {tolerance:e}", f[i], e[i])),
        None => Ok(()),
    }
}

/// What sums over some ten elements and transcendental functions may be off in this type.
pub fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-12,
        DType::F32 => 1e-5,
        DType::F16 => 2e-3,
        DType::Bf16 => 1.6e-2,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::Op;

    #[test]
    fn every_op_has_cases_that_run() {
        for &name in Op::NAMES {
            let mut cases = 0;
            for seed in 0..8 {
                for case in cases_for(name, &mut Rng::new(seed)) {
                    let used =
                        case.program.graphs().any(|(_, g)| g.petgraph().node_weights().any(|n| n.op.name() == name));
                    assert!(used, "{} has no {name}", case.name);
                    case.run(Mode::Exact).unwrap_or_else(|e| panic!("{}: {e}", case.name));
                    let rounded = case.run(Mode::Rounded).unwrap_or_else(|e| panic!("{}: {e}", case.name));
                    case.check(&rounded).unwrap();
                    cases += 1;
                }
            }
            assert!(cases > 0, "no case for {name}");
        }
    }

    #[test]
    fn sizes_reach_zero_one_and_odd() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..50 {
            for case in cases_for("softmax", &mut Rng::new(seed)) {
                seen.extend(case.args.iter().flat_map(|a| a.shape().to_vec()));
            }
        }
        assert!(seen.contains(&0) && seen.contains(&1) && seen.iter().any(|s| s % 2 == 1 && *s > 1), "{seen:?}");
    }

    #[test]
    fn random_graphs_run_and_exact_is_near_rounded() {
        for seed in 0..200 {
            let case = random_case(seed);
            let exact = case.run(Mode::Exact).unwrap_or_else(|e| panic!("{}: {e}", case.name));
            case.check(&exact).unwrap();
        }
    }

    #[test]
    fn a_wrong_answer_is_seen() {
        let case =
            cases_for("softmax", &mut Rng::new(3)).into_iter().find(|c| !c.args[0].shape().contains(&0)).unwrap();
        let right = case.run(Mode::Rounded).unwrap();
        let mut values = right[0].as_floats().unwrap().to_vec();
        values[0] += 0.1;
        let wrong = Tensor::floats(right[0].dtype(), right[0].shape(), values).unwrap();
        assert!(case.check(&[wrong]).unwrap_err().contains("element 0"));
    }
}
