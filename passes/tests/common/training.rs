//! Programs with gradients.

use std::collections::BTreeMap;

use lith_ir::interp::Tensor;
use lith_ir::testing::{Case, Rng};
use lith_ir::{Builder, DType, Dim, Graph, Op, Reduction, Symbol, Type, Value, verify};
use lith_passes::differentiate::gradients;

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

/// The case with the gradients of the sum of its floating-point results beside them: of all floating-point arguments and
/// parameters.
pub fn with_gradients(case: &Case) -> Case {
    let mut case = case.clone();
    let graph = case.program.entries.get_mut("main").unwrap();
    let floats = |graph: &Graph, v: Value| graph.ty(v).dtype.is_float();
    let results: Vec<Value> = graph.results().iter().map(|(_, v)| *v).filter(|v| floats(graph, *v)).collect();
    let mut b = Builder::new(graph, "loss");
    let mut loss = b.scalar(DType::F32, 0.0).unwrap();
    for y in results {
        let axes: Vec<usize> = (0..b.ty(y).rank()).collect();
        let sum = b.reduce(Reduction::Sum, y, &axes, false).unwrap();
        loss = b.add(loss, sum).unwrap();
    }
    let inputs =
        graph.petgraph().node_indices().filter(|&n| matches!(graph.node(n).op, Op::Arg { .. } | Op::Param { .. }));
    let inputs: Vec<Value> = inputs.map(Value::from).filter(|v| floats(graph, *v)).collect();
    for (i, gradient) in gradients(graph, loss, &inputs).unwrap().into_iter().enumerate() {
        graph.add_result(&format!("gradient{i}"), gradient);
    }
    graph.prune();
    case.name = format!("gradients of {}", case.name);
    case
}
