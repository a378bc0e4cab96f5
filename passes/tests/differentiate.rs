//! Gradients against central finite differences, in `f64` through the interpreter: of every op, of random graphs and of
//! whole classifiers.

mod common;

use std::collections::BTreeMap;

use common::training::{classifier, smoothed};
use lith_ir::interp::{Interpreter, Mode, Tensor};
use lith_ir::testing::{Case, Rng, cases_for, random_case};
use lith_ir::{Activation, Binary, Builder, Compare, DType, Graph, Op, Program, Reduction, Type, Unary, Value, text};
use lith_passes::differentiate::{DifferentiateError, gradients};

/// Ops that no gradient goes through, each with the reason.
const NONE: &[(&str, &str)] = &[
    ("const", "it is made from nothing"),
    ("compare", "its result is `bool`"),
    ("segment_ids", "its result is integers"),
    ("random_bits", "its result is integers"),
    ("cache_append", "an error: caches serve generation"),
    ("paged_attention", "an error: caches serve generation"),
    ("call", "an error: functions come after differentiation"),
    ("dynamic_quantize", "the gradient of the identity, which is not its own"),
];

/// Half the distance between the two points of a difference.
const STEP: f64 = 1.0 / (1 << 18) as f64;

/// A case with every float of 64 bits; `None` when it has others than those and of 32 bits.
fn doubled(case: &Case) -> Option<Case> {
    let tensors = || case.args.iter().chain(case.params.values()).chain(case.states.values());
    if !tensors().all(|t| !t.dtype().is_float() || t.dtype().size() > 2) || !tensors().any(|t| t.dtype().is_float()) {
        return None;
    }
    let mut case = case.clone();
    let printed = text::print(&case.program);
    if printed.contains("f16") {
        return None;
    }
    // Scales of a cache can be of no other type.
    case.program = text::parse(&printed.replace("f32", "f64")).ok()?;
    let tensors = case.args.iter_mut().chain(case.params.values_mut()).chain(case.states.values_mut());
    for tensor in tensors.filter(|t| t.dtype() == DType::F32) {
        *tensor = Tensor::floats(DType::F64, tensor.shape(), tensor.as_floats().unwrap().to_vec()).unwrap();
    }
    Some(case)
}

/// A program whose entry `main` gives results, and one that also gives the gradients of their weighted sum.
struct Trial {
    name: String,
    forward: Interpreter,
    backward: Interpreter,
    args: Vec<Tensor>,
    /// Which result each argument of weights is for.
    weights: Vec<(usize, usize)>,
    params: BTreeMap<String, Tensor>,
    states: BTreeMap<String, Tensor>,
    /// What the gradients are with respect to.
    wrt: Vec<Input>,
}

#[derive(Clone, Debug)]
enum Input {
    Arg(usize),
    Param(String),
    State(String),
}

impl Trial {
    /// The loss is the sum of all finite elements of floating-point results, each times a random number. `None` when there
    /// is no such result.
    fn new(case: &Case, rng: &mut Rng) -> Option<Result<Trial, DifferentiateError>> {
        let mut program = case.program.clone();
        let mut graph = program.entries.remove("main").unwrap();
        let results: Vec<Value> = graph.results().iter().map(|(_, v)| *v).collect();
        let floats: Vec<(usize, Value)> =
            results.into_iter().enumerate().filter(|(_, v)| graph.ty(*v).dtype.is_float()).collect();
        if floats.is_empty() {
            return None;
        }
        let found = case.run(Mode::Exact).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let mut args = case.args.clone();
        let mut inputs = Vec::new();
        for node in graph.petgraph().node_indices() {
            let input = match &graph.node(node).op {
                Op::Arg { index, .. } => Input::Arg(*index),
                Op::Param { name, .. } => Input::Param(name.clone()),
                Op::StateRead { name, .. } => Input::State(name.clone()),
                _ => continue,
            };
            if graph.ty(node.into()).dtype.is_float() {
                inputs.push((Value::from(node), input));
            }
        }
        let mut b = Builder::new(&mut graph, "loss");
        let (mut loss, mut of_result) = (b.scalar(DType::F64, 0.0).unwrap(), Vec::new());
        for (i, y) in floats {
            let shape = found[i].shape();
            let ty = b.ty(y).with_dtype(DType::F64);
            let weight = b.arg(&format!("weight{i}"), ty).unwrap();
            let weights = (0..shape.iter().product()).map(|_| rng.between(-1.0, 1.0)).collect();
            of_result.push((i, args.len()));
            args.push(Tensor::floats(DType::F64, shape, weights).unwrap());
            let y = b.cast(y, DType::F64).unwrap();
            let size = b.unary(Unary::Abs, y).unwrap();
            let finite = b.compare_const(Compare::Lt, size, 1e300).unwrap();
            let zero = b.full_like(y, 0.0).unwrap();
            let y = b.select(finite, y, zero).unwrap();
            let y = b.mul(y, weight).unwrap();
            let axes: Vec<usize> = (0..shape.len()).collect();
            let sum = b.reduce(Reduction::Sum, y, &axes, false).unwrap();
            loss = b.add(loss, sum).unwrap();
        }
        let forward = with_entry(&program, graph.clone());
        let wrt: Vec<Value> = inputs.iter().map(|(v, _)| *v).collect();
        let found = match gradients(&mut graph, loss, &wrt) {
            Ok(found) => found,
            Err(e) => return Some(Err(e)),
        };
        for ((i, value), gradient) in wrt.iter().enumerate().zip(&found) {
            assert_eq!(graph.ty(*value), graph.ty(*gradient), "{}", case.name);
            graph.add_result(&format!("gradient{i}"), *gradient);
        }
        graph.prune();
        let backward = with_entry(&program, graph);
        Some(Ok(Trial {
            name: case.name.clone(),
            forward: Interpreter::new(&forward, Mode::Exact).unwrap_or_else(|e| panic!("{}: {e}", case.name)),
            backward: Interpreter::new(&backward, Mode::Exact)
                .unwrap_or_else(|e| panic!("{}: {e}\n{}", case.name, text::print(&backward))),
            args,
            weights: of_result,
            params: case.params.clone(),
            states: case.states.clone(),
            wrt: inputs.into_iter().map(|(_, input)| input).collect(),
        }))
    }

    fn input(&mut self, input: &Input) -> &mut Tensor {
        match input {
            Input::Arg(i) => &mut self.args[*i],
            Input::Param(name) => self.params.get_mut(name).unwrap(),
            Input::State(name) => self.states.get_mut(name).unwrap(),
        }
    }

    fn run(&self, interpreter: &Interpreter) -> Vec<Tensor> {
        let params = |name: &str| self.params.get(name).cloned();
        let run = interpreter.run("main", &self.args, &params, &mut self.states.clone());
        run.unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    /// The results with `input` moved along `direction`.
    fn moved(&mut self, input: &Input, direction: &[f64], by: f64) -> Vec<Tensor> {
        let before = self.input(input).clone();
        let moved = before.as_floats().unwrap().iter().zip(direction).map(|(x, d)| x + by * d).collect();
        *self.input(input) = Tensor::floats(DType::F64, before.shape(), moved).unwrap();
        let results = self.run(&self.forward);
        *self.input(input) = before;
        results
    }

    /// How the loss changes along `direction`, by the difference of two points. Results are subtracted before they are
    /// summed, so that large ones cost no small ones their digits.
    fn difference(&mut self, input: &Input, direction: &[f64]) -> f64 {
        let (above, below) = (self.moved(input, direction, STEP), self.moved(input, direction, -STEP));
        let mut sum = 0.0;
        for (result, weight) in &self.weights {
            let of = |found: &[Tensor]| found[*result].as_floats().unwrap().to_vec();
            for ((a, b), w) in of(&above).into_iter().zip(of(&below)).zip(self.args[*weight].as_floats().unwrap()) {
                if a.is_finite() && b.is_finite() {
                    sum += w * (a - b);
                }
            }
        }
        sum / (2.0 * STEP)
    }

    /// The gradients along random directions against differences. Returns how many elements there were.
    fn check(&mut self, rng: &mut Rng) -> usize {
        let found = self.run(&self.backward);
        let gradients = &found[found.len() - self.wrt.len()..];
        let mut elements = 0;
        for (input, gradient) in self.wrt.clone().iter().zip(gradients) {
            let gradient = gradient.as_floats().unwrap();
            assert_eq!(gradient.len(), self.input(input).as_floats().unwrap().len(), "{}", self.name);
            if gradient.is_empty() {
                continue;
            }
            elements += gradient.len();
            // All at once, then some one by one.
            let mut directions: Vec<Vec<f64>> = vec![gradient.iter().map(|_| rng.between(-1.0, 1.0)).collect()];
            for _ in 0..3 {
                let mut one = vec![0.0; gradient.len()];
                one[rng.below(gradient.len())] = 1.0;
                directions.push(one);
            }
            for direction in directions {
                let expected = self.difference(input, &direction);
                let along: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
                let size = gradient.iter().zip(&direction).map(|(g, d)| (g * d).powi(2)).sum::<f64>().sqrt();
                let allowed = 1e-6 * size.max(expected.abs()).max(1.0);
                assert!(
                    (along - expected).abs() <= allowed,
                    "{}: {input:?} by {} elements: {along:e}, by differences {expected:e}",
                    self.name,
                    direction.iter().filter(|d| **d != 0.0).count(),
                );
            }
        }
        elements
    }
}

fn with_entry(program: &Program, graph: Graph) -> Program {
    let mut program = program.clone();
    program.entries.insert("main".into(), graph);
    program
}

#[test]
fn every_op() {
    for &name in Op::NAMES {
        let (mut elements, mut rng) = (0, Rng::new(5));
        for seed in 0..12 {
            for case in cases_for(name, &mut Rng::new(seed)).iter().filter_map(doubled) {
                if NONE.iter().any(|(none, _)| *none == name) {
                    continue;
                }
                let case = smoothed(&case, &mut rng);
                let trial = Trial::new(&case, &mut rng).map(|t| t.unwrap_or_else(|e| panic!("{}: {e}", case.name)));
                elements += trial.map_or(0, |mut trial| trial.check(&mut rng));
            }
        }
        let none = NONE.iter().any(|(none, _)| *none == name);
        assert_eq!(elements == 0, none, "{elements} elements of gradients of {name}");
        println!("{name}: {elements}");
    }
}

/// In narrower types gradients have the types of what they are gradients of, and are numbers where the values are.
#[test]
fn every_type() {
    let narrow = |t: &Tensor| t.dtype().is_float() && t.dtype() != DType::F64;
    for &name in Op::NAMES.iter().filter(|name| NONE.iter().all(|(none, _)| none != *name)) {
        let mut rng = Rng::new(6);
        for case in cases_for(name, &mut Rng::new(1)) {
            if !case.args.iter().chain(case.params.values()).any(narrow) {
                continue;
            }
            let case = smoothed(&case, &mut rng);
            let Some(trial) = Trial::new(&case, &mut rng) else { continue };
            let trial = trial.unwrap_or_else(|e| panic!("{}: {e}", case.name));
            let found = trial.run(&trial.backward);
            let finite = |t: &Tensor| t.as_floats().unwrap_or_default().iter().all(|v| v.is_finite());
            if found[..found.len() - trial.wrt.len()].iter().all(finite) {
                assert!(found.iter().all(finite), "{}", case.name);
            }
        }
    }
}

/// Where functions have corners: equal operands share, and of a product with zeros only the others count.
#[test]
fn corners() {
    let gradient = |values: &[f64], f: &dyn Fn(&mut Builder<'_>, Value) -> Value| {
        let mut graph = Graph::new();
        let mut b = Builder::new(&mut graph, "corner");
        let x = b.arg("x", Type::new(DType::F64, [values.len()])).unwrap();
        let y = f(&mut b, x);
        let axes: Vec<usize> = (0..b.ty(y).rank()).collect();
        let loss = b.reduce(Reduction::Sum, y, &axes, false).unwrap();
        let found = gradients(&mut graph, loss, &[x]).unwrap()[0];
        graph.add_result("gradient", found);
        let program = with_entry(&Program::new("test"), graph);
        let x = Tensor::floats(DType::F64, &[values.len()], values.to_vec()).unwrap();
        let found = Interpreter::new(&program, Mode::Exact).unwrap().run_pure("main", &[x]).unwrap();
        found[0].as_floats().unwrap().to_vec()
    };
    let reduce = |f| move |b: &mut Builder<'_>, x| b.reduce(f, x, &[0], false).unwrap();
    assert_eq!(gradient(&[2.0, 0.0, 3.0], &reduce(Reduction::Prod)), [0.0, 6.0, 0.0]);
    assert_eq!(gradient(&[0.0, 0.0, 3.0], &reduce(Reduction::Prod)), [0.0, 0.0, 0.0]);
    assert_eq!(gradient(&[2.0, 5.0, 3.0], &reduce(Reduction::Prod)), [15.0, 6.0, 10.0]);
    assert_eq!(gradient(&[1.0, 7.0, 7.0], &reduce(Reduction::Max)), [0.0, 0.5, 0.5]);
    assert_eq!(gradient(&[1.0, 1.0, 7.0], &reduce(Reduction::Min)), [0.5, 0.5, 0.0]);
    let relu = |b: &mut Builder<'_>, x| b.op(Op::Activation { f: Activation::Relu }, &[x]).unwrap();
    assert_eq!(gradient(&[-1.0, 0.0, 2.0], &relu), [0.0, 0.0, 1.0]);
    let clamp = |b: &mut Builder<'_>, x| b.binary_const(Binary::Max, x, 0.0).unwrap();
    assert_eq!(gradient(&[-1.0, 0.0, 2.0], &clamp), [0.0, 0.5, 1.0]);
    let power = |b: &mut Builder<'_>, x| b.binary_const(Binary::Pow, x, 2.0).unwrap();
    assert_eq!(gradient(&[0.0, -3.0], &power), [0.0, -6.0]);
}

/// What has no gradient says so, and names the place.
#[test]
fn no_gradient() {
    for (name, reason) in NONE {
        let (mut rng, mut seen) = (Rng::new(2), 0);
        for seed in 0..4 {
            for case in cases_for(name, &mut Rng::new(seed)).iter().filter_map(doubled) {
                match Trial::new(&case, &mut rng) {
                    None => {}
                    Some(Ok(_)) => assert!(!reason.contains("error"), "{}", case.name),
                    Some(Err(e)) => {
                        assert!(reason.contains("error"), "{}: {e}", case.name);
                        assert!(e.to_string().starts_with("at `block.op`: `"), "{e}");
                        seen += 1;
                    }
                }
            }
        }
        assert!(seen > 0 || !reason.contains("error"), "no case of {name}");
    }
}

#[test]
fn random_graphs() {
    let mut rng = Rng::new(8);
    for seed in 0..150 {
        let case = smoothed(&doubled(&random_case(seed)).unwrap(), &mut rng);
        Trial::new(&case, &mut rng).unwrap().unwrap_or_else(|e| panic!("{}: {e}", case.name)).check(&mut rng);
    }
}

/// Rounding to integers passes the gradient on.
#[test]
fn quantization_is_passed_through() {
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, "layer");
    let x = b.arg("x", Type::new(DType::F64, [3i64, 8])).unwrap();
    let y = b.op(Op::DynamicQuantize { group: 4, levels: 127 }, &[x]).unwrap();
    let y = b.mul_const(y, 3.0).unwrap();
    let loss = b.reduce(Reduction::Sum, y, &[0, 1], false).unwrap();
    let found = gradients(&mut graph, loss, &[x]).unwrap()[0];
    graph.add_result("gradient", found);
    let mut program = Program::new("test");
    program.entries.insert("main".into(), graph);
    let x = Tensor::floats(DType::F64, &[3, 8], (0..24).map(f64::from).collect()).unwrap();
    let found = Interpreter::new(&program, Mode::Exact).unwrap().run_pure("main", &[x]).unwrap();
    assert_eq!(found[0].as_floats().unwrap(), [3.0; 24]);
}

#[test]
fn values_of_the_wrong_kind() {
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, "head");
    let (x, ids) = (b.arg("x", Type::new(DType::F32, [2i64])), b.arg("ids", Type::new(DType::I32, [2i64])));
    let (x, ids) = (x.unwrap(), ids.unwrap());
    let loss = b.reduce(Reduction::Sum, x, &[0], false).unwrap();
    let error = gradients(&mut graph, x, &[x]).unwrap_err().to_string();
    assert_eq!(error, "at `head`: the loss is f32[2], expected a floating-point scalar");
    let error = gradients(&mut graph, loss, &[ids]).unwrap_err().to_string();
    assert_eq!(error, "at `head`: the gradient with respect to i32[2], expected a floating-point value");
    let nowhere = Value { node: lith_ir::NodeId::new(99), result: 0 };
    assert_eq!(gradients(&mut graph, loss, &[nowhere]), Err(DifferentiateError::NoSuchValue));
}

/// What the loss does not depend on has gradient zero, and the loss itself one.
#[test]
fn independent_values() {
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, "head");
    let (x, z) =
        (b.arg("x", Type::new(DType::F64, [2i64])).unwrap(), b.arg("z", Type::new(DType::F64, [3i64])).unwrap());
    let loss = b.reduce(Reduction::Sum, x, &[0], false).unwrap();
    let found = gradients(&mut graph, loss, &[z, loss, x]).unwrap();
    for (i, v) in found.iter().enumerate() {
        graph.add_result(&format!("gradient{i}"), *v);
    }
    let mut program = Program::new("test");
    program.entries.insert("main".into(), graph);
    let args = [2, 3].map(|n| Tensor::floats(DType::F64, &[n], vec![0.5; n]).unwrap());
    let found = Interpreter::new(&program, Mode::Exact).unwrap().run_pure("main", &args).unwrap();
    let found: Vec<&[f64]> = found.iter().map(|t| t.as_floats().unwrap()).collect();
    assert_eq!(found, [&[0.0; 3][..], &[1.0], &[1.0; 2]]);
}

#[test]
fn classifiers() {
    for padded in [false, true] {
        let mut rng = Rng::new(1);
        let case = doubled(&classifier(2, padded)).unwrap();
        let elements = Trial::new(&case, &mut rng).unwrap().unwrap().check(&mut rng);
        assert!(elements > 20_000, "{elements}");
    }
}

/// Backward nodes stand at the paths of forward ones, and equal layers have equal backward layers.
#[test]
fn backward_layers_repeat() {
    let mut program = classifier(2, false).program;
    let graph = program.entries.get_mut("main").unwrap();
    let losses = graph.results().last().unwrap().1;
    let loss = Builder::new(graph, "loss").reduce(Reduction::Sum, losses, &[0], false).unwrap();
    let params: Vec<Value> = graph
        .petgraph()
        .node_indices()
        .filter(|&n| matches!(graph.node(n).op, Op::Param { .. }))
        .map(Value::from)
        .collect();
    for (i, v) in gradients(graph, loss, &params).unwrap().into_iter().enumerate() {
        graph.add_result(&format!("gradient{i}"), v);
    }
    let ops = |layer: usize| {
        let here = format!("backward.encoder.layer.{layer}.");
        let order = graph.topological().unwrap();
        let nodes = order.into_iter().map(|n| graph.node(n)).filter(|n| n.path.starts_with(&here));
        nodes.map(|n| (n.path.replace(&here, ""), format!("{:?}", n.op))).collect::<Vec<_>>()
    };
    assert!(ops(0).len() > 40);
    let (mut first, mut second) = (ops(0), ops(1));
    first.sort();
    second.sort();
    assert!(first == second, "{first:?}\n{second:?}");
}
