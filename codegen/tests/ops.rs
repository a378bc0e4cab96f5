//! Every op of the IR, interpreted and compiled, over random shapes with sizes 0, 1 and odd ones, in every dtype; on one,
//! two and three threads, whose results must be the same bits.

mod support;

use lith_ir::Op;
use lith_ir::interp::{Mode, Tensor};
use lith_ir::testing::{Case, Rng, cases_for, close, random_case};
use support::Loaded;

/// Two calls, so that the second sees the states that the first wrote; they start as zeros.
fn check(case: &Case, target: &str) -> Result<(), String> {
    let loaded = Loaded::new(case, &support::target(target), &[1, 2, 3]);
    let zeros = |t: &Tensor| Tensor::zeros(t.dtype(), t.shape()).expect("a small state");
    let mut states = case.states.iter().map(|(name, t)| (name.clone(), zeros(t))).collect();
    for call in 0..1 + usize::from(!case.states.is_empty()) {
        let expected = case.run_with(Mode::Rounded, &mut states).map_err(|e| format!("{}: {e}", case.name))?;
        for (threads, found) in loaded.run(case).iter().enumerate() {
            if found.len() != expected.len() {
                return Err(format!("{}: {} results, expected {}", case.name, found.len(), expected.len()));
            }
            for (i, (e, f)) in expected.iter().zip(found).enumerate() {
                close(e, f, case.tolerance)
                    .map_err(|p| format!("{}, call {call} on {} threads, result {i}: {p}", case.name, threads + 1))?;
            }
        }
    }
    let results = loaded.run(case);
    let differs = |other: &Vec<Tensor>| results[0].iter().zip(other).any(|(a, b)| a.to_bytes() != b.to_bytes());
    match results.iter().position(differs) {
        Some(i) => Err(format!("{}: {} threads give other bits than one", case.name, i + 1)),
        None => Ok(()),
    }
}

/// All cases of the ops whose names start with a letter of this range.
fn check_ops(letters: std::ops::RangeInclusive<char>, target: &str) {
    let names = Op::NAMES.iter().filter(|n| n.starts_with(|c| letters.contains(&c)));
    check_all(names.flat_map(|name| cases_for(name, &mut Rng::new(7))), target);
}

fn check_all(cases: impl Iterator<Item = Case>, target: &str) {
    check_by(cases, |case| check(case, target));
}

fn check_by(
    cases: impl Iterator<Item = Case>,
    check: impl Fn(&Case) -> Result<(), String> + std::panic::RefUnwindSafe,
) {
    let (mut failures, mut count) = (Vec::new(), 0);
    for case in cases {
        count += 1;
        match std::panic::catch_unwind(|| check(&case)) {
            Ok(Ok(())) => {}
            Ok(Err(e)) => failures.push(e),
            Err(_) => failures.push(format!("{}: panicked", case.name)),
        }
    }
    assert!(failures.is_empty(), "{} of {count} cases:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn ops_a_to_c() {
    check_ops('a'..='c', "native");
}

#[test]
fn ops_d_to_r() {
    check_ops('d'..='r', "native");
}

#[test]
fn ops_s_to_z() {
    check_ops('s'..='z', "native");
}

/// The lowest target has no fused multiply-add and no vector loads with three operands.
#[test]
fn ops_on_the_lowest_target() {
    check_ops('a'..='z', "x86-64-v2");
}

#[test]
fn random_graphs() {
    check_all((0..400).map(random_case), "native");
}

/// Whether two results are the same bits, NaNs aside.
fn same(a: &Tensor, b: &Tensor) -> bool {
    if a.to_bytes() == b.to_bytes() {
        return true;
    }
    let (Some(a), Some(b)) = (a.as_floats(), b.as_floats()) else { return false };
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()))
}

/// The targets with a fused multiply-add differ in nothing but the width of vectors.
fn check_widths(case: &Case) -> Result<(), String> {
    let targets: Vec<_> = support::targets().into_iter().filter(|t| t.has_fma()).collect();
    let results: Vec<_> = targets.iter().map(|t| Loaded::new(case, t, &[1]).run(case).remove(0)).collect();
    for (target, found) in targets.iter().zip(&results).skip(1) {
        if !found.iter().zip(&results[0]).all(|(a, b)| same(a, b)) {
            return Err(format!("{}: {} gives other bits than vectors of 128 bits", case.name, target.name()));
        }
    }
    Ok(())
}

#[test]
fn ops_have_the_same_bits_with_vectors_of_any_width() {
    check_by(Op::NAMES.iter().flat_map(|name| cases_for(name, &mut Rng::new(11))), check_widths);
}

#[test]
fn random_graphs_have_the_same_bits_with_vectors_of_any_width() {
    check_by((1000..1200).map(random_case), check_widths);
}
