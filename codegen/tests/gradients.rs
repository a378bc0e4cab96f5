//! Compiled gradients, in single precision, against the interpreter's in double precision: of every op, of random graphs
//! and of whole classifiers.

#[path = "../../passes/tests/common/mod.rs"]
mod common;
mod support;

use common::training::{classifier, gradients_of, smoothed, with_gradients};
use lith_ir::Op;
use lith_ir::interp::{Mode, Tensor};
use lith_ir::testing::{Case, Rng, cases_for, random_case};
use support::Loaded;

/// How far a gradient may be off, by norms.
const TOLERANCE: f64 = 1e-4;

/// Ops of whose single precision values no gradient comes: they have no such results, or none that anything flows through; and
/// `reshape`, since no argument can have the sizes of its results: the graphs and classifiers below are full of it.
const NONE: &[&str] = &[
    "const",
    "compare",
    "segment_ids",
    "random_bits",
    "cache_append",
    "paged_attention",
    "call",
    "state_read",
    "state_write",
    "reshape",
];

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

/// Whether `found` is `expected` but for rounding; what is no number must be none in both.
fn close(expected: &Tensor, found: &Tensor) -> Result<(), String> {
    if (expected.dtype(), expected.shape()) != (found.dtype(), found.shape()) {
        return Err(format!("{:?}, expected {:?}", found.shape(), expected.shape()));
    }
    let (Some(e), Some(f)) = (expected.as_floats(), found.as_floats()) else {
        return if expected == found { Ok(()) } else { Err("other integers".into()) };
    };
    let same = |e: f64, f: f64| e == f || e.is_nan() && f.is_nan();
    if let Some(i) = e.iter().zip(f).position(|(&e, &f)| !(e.is_finite() && f.is_finite() || same(e, f))) {
        return Err(format!("element {i} is {}, expected {}", f[i], e[i]));
    }
    let finite = || e.iter().zip(f).filter(|(e, f)| e.is_finite() && f.is_finite());
    let off = norm(finite().map(|(e, f)| e - f)) / norm(finite().map(|(e, _)| *e)).max(1.0);
    if off <= TOLERANCE { Ok(()) } else { Err(format!("off by {off:e}")) }
}

/// Gradients on one and on two threads. Returns how many elements they have.
fn check(case: &Case) -> usize {
    let expected = case.run(Mode::Exact).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    let found = Loaded::new(case, &support::target("native"), &[1, 2]).run(case);
    for (threads, found) in found.iter().enumerate() {
        assert_eq!(found.len(), expected.len(), "{}", case.name);
        for (i, (e, f)) in expected.iter().zip(found).enumerate() {
            close(e, f).unwrap_or_else(|p| panic!("{} on {} threads, result {i}: {p}", case.name, threads + 1));
        }
    }
    let differs = found[0].iter().zip(&found[1]).any(|(a, b)| a.to_bytes() != b.to_bytes());
    assert!(!differs, "{}: two threads give other bits than one", case.name);
    let gradients =
        case.program.entries["main"].results().iter().zip(&expected).filter(|((n, _), _)| n.starts_with("gradient"));
    gradients.map(|(_, t)| t.shape().iter().product::<usize>()).sum()
}

/// Whether a compiled program can tell its symbols from the sizes of its arguments: not from products, which the weights
/// of results have that were reshaped.
fn is_sized(case: &Case) -> bool {
    let graph = &case.program.entries["main"];
    graph.args().into_iter().all(|arg| !graph.ty(arg.into()).to_string().contains(['*', '(']))
}

#[test]
fn every_op() {
    for &name in Op::NAMES.iter().filter(|name| !NONE.contains(name)) {
        let (mut elements, mut rng) = (0, Rng::new(3));
        for seed in 0..4 {
            for case in cases_for(name, &mut Rng::new(seed)) {
                let case = with_gradients(&smoothed(&case, &mut rng)).unwrap_or_else(|e| panic!("{}: {e}", case.name));
                elements += case.filter(is_sized).map_or(0, |case| check(&case));
            }
        }
        println!("{name}: {elements}");
        assert!(elements > 0, "no gradients of {name}");
    }
}

#[test]
fn random_graphs() {
    let elements: usize = (0..100).map(|seed| check(&gradients_of(&random_case(seed)))).sum();
    assert!(elements > 1000, "{elements}");
}

#[test]
fn classifiers() {
    for padded in [false, true] {
        let elements = check(&gradients_of(&classifier(2, padded)));
        assert!(elements > 20_000, "{elements}");
    }
}
