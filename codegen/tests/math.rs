//! Accuracy of the functions that compiled code computes itself, against 64-bit references, and that an element's result
//! does not depend on where in a vector it stands.

mod support;

use std::collections::BTreeMap;

use lith_codegen::Target;
use lith_ir::testing::Rng;
use lith_ir::{Builder, DType, Dim, Graph, Program as Ir, Symbol, SymbolInfo, Type, Unary};
use lith_runtime::program::Program;
use lith_runtime::tensor::View;

/// `f` of a vector of any length.
fn program(f: Unary) -> Ir {
    let n = Symbol::new("n");
    let mut ir = Ir::new("unary");
    ir.symbols.insert(n.clone(), SymbolInfo::default());
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, "");
    let x = b.arg("x", Type::new(DType::F32, [Dim::symbol(&n)])).unwrap();
    let y = b.unary(f, x).unwrap();
    graph.add_result("y", y);
    ir.entries.insert("main".into(), graph);
    ir
}

fn compiled(f: Unary, target: &Target) -> Program {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.lith");
    support::write(&path, &program(f), &BTreeMap::new(), target, &lith_codegen::WeightStorage::of(DType::F32)).unwrap();
    Program::open(&path, 1).unwrap()
}

fn apply(program: &Program, xs: &[f32]) -> Vec<f32> {
    program.run("main", &[("x", View::f32(&[xs.len()], xs))]).unwrap()[0].f32s().to_vec()
}

/// Distance of `found` from `exact` in units of the last place of `exact` as a 32-bit float.
fn ulps(found: f32, exact: f64) -> f64 {
    let nearest = exact as f32;
    if nearest == found || (nearest.is_nan() && found.is_nan()) {
        return 0.0;
    }
    let magnitude = nearest.abs().clamp(f32::MIN_POSITIVE, f32::MAX);
    let unit = f64::from(f32::from_bits(magnitude.to_bits() + 1)) - f64::from(magnitude);
    let unit = if unit.is_finite() { unit } else { 2f64.powi(104) };
    (f64::from(found) - exact).abs() / unit
}

/// Every 1021st float of both signs, and some that are special.
fn inputs() -> Vec<f32> {
    let mut xs: Vec<f32> = (0..=u32::MAX / 1021).map(|i| f32::from_bits(i * 1021)).collect();
    xs.extend([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MIN_POSITIVE, 1e-45, 88.72, 88.73, -103.9]);
    xs.extend((-4000..4000).map(|i| i as f32 / 400.0));
    xs
}

fn worst(f: Unary, target: &Target, reference: impl Fn(f64) -> f64) -> (f64, f32) {
    let xs = inputs();
    let ys = apply(&compiled(f, target), &xs);
    xs.iter()
        .zip(&ys)
        .map(|(&x, &y)| (ulps(y, reference(x.into())), x))
        .fold((0.0, 0.0), |a, b| if b.0 > a.0 || b.0.is_nan() { b } else { a })
}

#[test]
fn exp_erf_and_tanh_are_within_two_units_in_the_last_place() {
    for target in support::targets() {
        for (f, reference) in
            [(Unary::Exp, f64::exp as fn(f64) -> f64), (Unary::Erf, libm::erf), (Unary::Tanh, f64::tanh)]
        {
            let (error, at) = worst(f, &target, reference);
            let target = target.name();
            println!("{} on {target}: {error:.3} units in the last place, at {at:e}", f.name());
            assert!(error <= 2.0, "{} of {at:e} is off by {error} units in the last place", f.name());
        }
    }
}

#[test]
fn functions_by_way_of_64_bits_are_rounded_once() {
    for (f, reference) in [(Unary::Log, f64::ln as fn(f64) -> f64), (Unary::Sin, f64::sin), (Unary::Cos, f64::cos)] {
        let (error, at) = worst(f, &support::target("native"), reference);
        assert!(error <= 0.51, "{} of {at:e} is off by {error} units in the last place", f.name());
    }
}

#[test]
fn position_in_a_vector_does_not_matter() {
    let mut rng = Rng::new(3);
    let xs: Vec<f32> = (0..96).map(|_| rng.between(-6.0, 6.0) as f32).collect();
    for (f, target) in [Unary::Exp, Unary::Erf, Unary::Tanh, Unary::Rsqrt]
        .into_iter()
        .flat_map(|f| support::targets().into_iter().map(move |target| (f, target)))
    {
        let program = compiled(f, &target);
        let all = apply(&program, &xs);
        for (start, longest) in [(0, 40), (1, 9), (2, 9), (3, 37), (4, 9)] {
            for end in start..start + longest {
                let part = apply(&program, &xs[start..end]);
                let same = part.iter().zip(&all[start..end]).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{} of elements {start}..{end} on {}", f.name(), target.name());
            }
        }
    }
}
