//! Programs with gradients.

use std::collections::BTreeMap;

use lith_ir::interp::{Mode, Tensor};
use lith_ir::testing::{Case, Rng};
use lith_ir::{Builder, DType, Dim, Graph, Op, Reduction, Symbol, Type, Value, verify};
use lith_passes::differentiate::{DifferentiateError, gradients};

use super::{HIDDEN, bert};

/// A classifier with its loss: the encoder of [`super`], a head and the cross entropy of each text.
pub fn classifier(layers: usize, padded: bool) -> Case {
    let classes = 3;
    let mut program = bert(layers, padded, &|i| format!("encoder.layer.{i}"));
    let mut graph = program.entries.remove("encode").unwrap();
    let of = |graph: &Graph, name: &str| graph.results().iter().find(|(n, _)| n == name).unwrap().1;
    let mut x = if padded { of(&graph, "last_hidden_state") } else { of(&graph, "sentence_embedding") };
    let mut b = Builder::new(&mut graph, "classifier");
    if padded {
        let shape = b.ty(x).shape;
        let first = Op::Slice { axis: 1, start: Dim::constant(0), stop: Dim::constant(1), step: 1 };
        let first = b.op(first, &[x]).unwrap();
        x = b.reshape(first, &[shape[0].clone(), shape[2].clone()]).unwrap();
    }
    for (name, shape) in [("classifier.weight", vec![classes, HIDDEN]), ("classifier.bias", vec![classes])] {
        program.params.insert(name.into(), Type::new(DType::F32, shape));
    }
    let mut param = |name: &str| b.param(name, program.params[name].clone()).unwrap();
    let (weight, bias) = (param("classifier.weight"), param("classifier.bias"));
    let logits = b.op(Op::Linear {}, &[x, weight, bias]).unwrap();
    let rows = Dim::symbol(&Symbol::new(if padded { "batch" } else { "sequences" }));
    let labels = b.arg("labels", Type { dtype: DType::I32, shape: vec![rows] }).unwrap();
    let losses = b.op(Op::CrossEntropy { ignore: -100, smoothing: 0.1 }, &[logits, labels]).unwrap();
    graph.add_result("losses", losses);
    program.entries.insert("main".into(), graph);
    verify(&program).unwrap();
    let mut rng = Rng::new(3);
    let params = program.params.iter().map(|(name, ty)| {
        let shape = ty.static_shape().unwrap();
        let values = (0..shape.iter().product()).map(|_| rng.between(-0.3, 0.3)).collect();
        (name.clone(), Tensor::floats(DType::F32, &shape, values).unwrap())
    });
    let params = params.collect();
    let mut ints = |dtype, shape: &[usize], values: &dyn Fn(&mut Rng) -> i64| {
        let values = (0..shape.iter().product()).map(|_| values(&mut rng)).collect();
        Tensor::ints(dtype, shape, values).unwrap()
    };
    let (ids, labels) = if padded { (vec![3, 4], 3) } else { (vec![9], 4) };
    let ids = ints(DType::I32, &ids, &|r| r.below(100) as i64);
    let seen = if padded {
        ints(DType::Bool, &[3, 4], &|r| i64::from(!r.one_in(4)))
    } else {
        Tensor::ints(DType::I32, &[5], vec![0, 3, 4, 4, 9]).unwrap()
    };
    let labels = ints(DType::I32, &[labels], &|r| r.below(classes as usize) as i64);
    Case {
        name: format!("a classifier, padded: {padded}"),
        program,
        args: vec![ids, seen, labels],
        params,
        states: BTreeMap::new(),
        tolerance: 1e-4,
    }
}

/// The case with the gradients of the weighted sum of its results of single precision beside them: of all arguments and
/// parameters of that type. The weights, random numbers, are arguments. `None` when there is no such result or nothing to
/// differentiate by.
pub fn with_gradients(case: &Case) -> Result<Option<Case>, DifferentiateError> {
    let mut case = case.clone();
    let found = case.run(Mode::Exact).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    let graph = case.program.entries.get_mut("main").unwrap();
    let single = |graph: &Graph, v: Value| graph.ty(v).dtype == DType::F32;
    let results: Vec<(usize, Value)> = graph.results().iter().map(|(_, v)| *v).enumerate().collect();
    let results: Vec<(usize, Value)> = results.into_iter().filter(|(_, v)| single(graph, *v)).collect();
    let inputs =
        graph.petgraph().node_indices().filter(|&n| matches!(graph.node(n).op, Op::Arg { .. } | Op::Param { .. }));
    let inputs: Vec<Value> = inputs.map(Value::from).filter(|v| single(graph, *v)).collect();
    if results.is_empty() || inputs.is_empty() {
        return Ok(None);
    }
    let mut rng = Rng::new(9);
    let mut b = Builder::new(graph, "loss");
    let mut loss = b.scalar(DType::F32, 0.0).unwrap();
    for (i, y) in results {
        let ty = b.ty(y);
        let axes: Vec<usize> = (0..ty.rank()).collect();
        let weight = b.arg(&format!("weight{i}"), ty).unwrap();
        let count = found[i].shape().iter().product();
        let weights = (0..count).map(|_| rng.between(-1.0, 1.0)).collect();
        case.args.push(Tensor::floats(DType::F32, found[i].shape(), weights).unwrap());
        let y = b.mul(y, weight).unwrap();
        let sum = b.reduce(Reduction::Sum, y, &axes, false).unwrap();
        loss = b.add(loss, sum).unwrap();
    }
    for (i, gradient) in gradients(graph, loss, &inputs)?.into_iter().enumerate() {
        graph.add_result(&format!("gradient{i}"), gradient);
    }
    graph.prune();
    case.name = format!("gradients of {}", case.name);
    Ok(Some(case))
}

/// [`with_gradients`] of a case that has some.
pub fn gradients_of(case: &Case) -> Case {
    with_gradients(case).unwrap().unwrap()
}

/// Values at which functions have no corner near and are not steep: off 0 and the multiples of 1/64, no two alike among
/// neighbours or operands.
fn smooth(tensor: &Tensor, operand: usize, positive: bool, rng: &mut Rng) -> Tensor {
    let Some(values) = tensor.as_floats() else { return tensor.clone() };
    let value = |(i, &v): (usize, &f64)| {
        let v = if (0.125..8.0).contains(&v.abs()) { v } else { rng.between(0.25, 2.0) * rng.pick(&[1.0, -1.0]) };
        let v = if positive { v.abs() + 0.1 } else { v };
        (v * 64.0).floor() / 64.0 + 1.0 / 128.0 + (i % 61) as f64 / 16384.0 + operand as f64 / 65536.0
    };
    Tensor::floats(tensor.dtype(), tensor.shape(), values.iter().enumerate().map(value).collect()).unwrap()
}

/// The case with values that functions are smooth at: as they are, or positive ones where only those give finite results.
pub fn smoothed(case: &Case, rng: &mut Rng) -> Case {
    let tries = [false, true].map(|positive| {
        let mut case = case.clone();
        let tensors = case.args.iter_mut().chain(case.params.values_mut()).chain(case.states.values_mut());
        tensors.enumerate().for_each(|(i, t)| *t = smooth(t, i + 1, positive, rng));
        case
    });
    let finite = |case: &Case| {
        let found = case.run(Mode::Exact).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        found.iter().filter_map(Tensor::as_floats).flatten().all(|v| v.is_finite())
    };
    let [plain, positive] = tries;
    if !finite(&plain) && finite(&positive) { positive } else { plain }
}
