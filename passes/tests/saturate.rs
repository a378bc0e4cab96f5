//! Equality saturation as a stage: what it finds in a graph of raw primitives, and what it promises.

mod common;

use std::collections::BTreeMap;

use lith_ir::interp::{Interpreter, Mode, Tensor};
use lith_ir::testing::{Rng, close, random_case};
use lith_ir::{
    Binary, Builder, DType, Dim, Graph, GraphError, Op, Program, Reduction, Symbol, SymbolInfo, Type, Unary, Value,
};
use lith_passes::saturate::cost::Costs;
use lith_passes::saturate::{Budget, DeviceProfile, Numeric, Rules, Saturation, rules};
use lith_passes::weights::GraphWeights;
use lith_passes::{Compiled, Options, Stage, run};

const HIDDEN: i64 = 16;
const HEADS: i64 = 2;
const LENGTH: i64 = 6;

fn saturated(program: Program, numeric: Numeric) -> Compiled {
    run(program, &Options { stop_after: Some(Stage::Saturate), numeric, ..Options::default() }).unwrap()
}

fn count(program: &Program, name: &str) -> usize {
    program.graphs().map(|(_, g)| g.petgraph().node_weights().filter(|n| n.op.name() == name).count()).sum()
}

/// A layer as an exporter leaves it: no composite anywhere.
struct Exported<'p> {
    program: &'p mut Program,
    graph: Graph,
}

impl Exported<'_> {
    fn at(&mut self, path: &str) -> Builder<'_> {
        Builder::new(&mut self.graph, path)
    }

    fn param(&mut self, name: &str, shape: &[i64]) -> Value {
        let ty = Type::new(DType::F32, shape.iter().copied());
        self.program.params.insert(name.into(), ty.clone());
        self.at("").param(name, ty).unwrap()
    }

    /// MatMul of all rows, then Add of the bias.
    fn linear(&mut self, path: &str, x: Value, to: i64) -> Result<Value, GraphError> {
        let shape = self.at("").ty(x).shape;
        let (last, lead) = shape.split_last().unwrap();
        let (weight, bias) = (
            self.param(&format!("{path}.weight"), &[to, last.as_const().unwrap()]),
            self.param(&format!("{path}.bias"), &[to]),
        );
        let mut b = self.at(path);
        let rows = lead.iter().cloned().fold(Dim::from(1i64), |a, d| a * d);
        let flat = b.reshape(x, &[rows, last.clone()])?;
        let y = b.dot(flat, weight, true)?;
        let full: Vec<Dim> = lead.iter().cloned().chain([Dim::from(to)]).collect();
        let y = b.reshape(y, &full)?;
        let bias = b.expand(bias, &full)?;
        b.add(bias, y)
    }

    /// ReduceMean, Sub, Pow, ReduceMean, Add, Sqrt, Div, Mul, Add.
    fn norm(&mut self, path: &str, x: Value) -> Result<Value, GraphError> {
        let (weight, bias) =
            (self.param(&format!("{path}.weight"), &[HIDDEN]), self.param(&format!("{path}.bias"), &[HIDDEN]));
        let mut b = self.at(path);
        let shape = b.ty(x).shape;
        let mean = |b: &mut Builder<'_>, x: Value| {
            let sum = b.reduce_last(Reduction::Sum, x)?;
            b.mul_const(sum, 1.0 / HIDDEN as f64)
        };
        let m = mean(&mut b, x)?;
        let m = b.expand(m, &shape)?;
        let centred = b.sub(x, m)?;
        let square = b.binary_const(Binary::Pow, centred, 2.0)?;
        let variance = mean(&mut b, square)?;
        let variance = b.add_const(variance, 1e-5)?;
        let deviation = b.unary(Unary::Sqrt, variance)?;
        let deviation = b.expand(deviation, &shape)?;
        let y = b.div(centred, deviation)?;
        let weight = b.expand(weight, &shape)?;
        let y = b.mul(y, weight)?;
        let bias = b.expand(bias, &shape)?;
        b.add(y, bias)
    }

    /// `[b, s, h]` to `[b, heads, s, d]`, or `[b, heads, d, s]`.
    fn heads(&mut self, x: Value, perm: &[usize]) -> Result<Value, GraphError> {
        let mut b = self.at("attention");
        let shape = b.ty(x).shape;
        let split = [shape[0].clone(), shape[1].clone(), Dim::from(HEADS), Dim::from(HIDDEN / HEADS)];
        let x = b.reshape(x, &split)?;
        b.transpose(x, perm)
    }

    fn layer(&mut self, x: Value, bias: Option<Value>) -> Result<Value, GraphError> {
        let (q, k, v) =
            (self.linear("query", x, HIDDEN)?, self.linear("key", x, HIDDEN)?, self.linear("value", x, HIDDEN)?);
        let (q, k, v) = (self.heads(q, &[0, 2, 1, 3])?, self.heads(k, &[0, 2, 3, 1])?, self.heads(v, &[0, 2, 1, 3])?);
        let mut b = self.at("attention");
        let scores = b.dot(q, k, false)?;
        let mut scores = b.binary_const(Binary::Div, scores, (HIDDEN as f64 / HEADS as f64).sqrt())?;
        let shape = b.ty(scores).shape;
        if let Some(bias) = bias {
            let bias = b.broadcast(bias, &shape, &[0, 1, 2, 3])?;
            scores = b.add(scores, bias)?;
        }
        let max = b.reduce_last(Reduction::Max, scores)?;
        let max = b.expand(max, &shape)?;
        let shifted = b.sub(scores, max)?;
        let exp = b.unary(Unary::Exp, shifted)?;
        let sum = b.reduce_last(Reduction::Sum, exp)?;
        let sum = b.expand(sum, &shape)?;
        let weights = b.div(exp, sum)?;
        let mixed = b.dot(weights, v, false)?;
        let mixed = b.transpose(mixed, &[0, 2, 1, 3])?;
        let shape = b.ty(x).shape;
        let context = b.reshape(mixed, &shape)?;
        let y = self.linear("output", context, HIDDEN)?;
        let y = self.at("residual").add(y, x)?;
        let h = self.norm("norm", y)?;
        let y = self.linear("up", h, 4 * HIDDEN)?;
        let mut b = self.at("act");
        // Div, Erf, Add, Mul, Mul.
        let scaled = b.binary_const(Binary::Div, y, std::f64::consts::SQRT_2)?;
        let erf = b.unary(Unary::Erf, scaled)?;
        let one = b.add_const(erf, 1.0)?;
        let y = b.mul(y, one)?;
        let y = b.mul_const(y, 0.5)?;
        let y = self.linear("down", y, HIDDEN)?;
        let y = self.at("residual").add(y, h)?;
        self.norm("norm_2", y)
    }
}

/// Which mask the exporter wrote.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mask {
    None,
    /// `where(mask, 0, -inf)`, unsqueezed, added.
    Where,
    /// `(1 - mask) * lowest`, unsqueezed, added.
    Lowest,
}

fn exported(mask: Mask, batch: Dim) -> Program {
    let mut program = Program::new("exported");
    for s in batch.symbols() {
        program.symbols.insert(s, SymbolInfo::default());
    }
    let mut e = Exported { program: &mut program, graph: Graph::new() };
    let shape = [batch.clone(), Dim::from(LENGTH), Dim::from(HIDDEN)];
    let x = e.at("").arg("x", Type { dtype: DType::F32, shape: shape.to_vec() }).unwrap();
    let bias = (mask != Mask::None).then(|| {
        let mut b = e.at("mask");
        let seen = b.arg("mask", Type { dtype: DType::Bool, shape: shape[..2].to_vec() }).unwrap();
        let unsqueezed = [shape[0].clone(), Dim::from(1i64), Dim::from(1i64), shape[1].clone()];
        if mask == Mask::Where {
            let seen = b.reshape(seen, &unsqueezed).unwrap();
            let float = b.cast(seen, DType::F32).unwrap();
            let (zero, never) = (b.full_like(float, 0.0).unwrap(), b.full_like(float, f64::NEG_INFINITY).unwrap());
            b.select(seen, zero, never).unwrap()
        } else {
            let float = b.cast(seen, DType::F32).unwrap();
            let float = b.reshape(float, &unsqueezed).unwrap();
            let one = b.full_like(float, 1.0).unwrap();
            let hidden = b.sub(one, float).unwrap();
            b.mul_const(hidden, f64::from(f32::MIN)).unwrap()
        }
    });
    let y = e.layer(x, bias).unwrap();
    e.graph.add_result("y", y);
    let graph = e.graph;
    program.entries.insert("encode".into(), graph);
    program
}

fn tensors(program: &Program, rng: &mut Rng) -> (Vec<Tensor>, BTreeMap<String, Tensor>) {
    let sizes = |t: &Type| -> Vec<usize> { t.shape.iter().map(|d| d.eval(&|_| Some(3)).unwrap() as usize).collect() };
    let mut tensor = |t: &Type, scale: f64| {
        let shape = sizes(t);
        let n = shape.iter().product();
        if t.dtype.is_float() {
            Tensor::floats(t.dtype, &shape, (0..n).map(|_| rng.between(-scale, scale)).collect()).unwrap()
        } else {
            // At least the first key of each row is seen.
            let last = shape.last().copied().unwrap_or(1);
            Tensor::ints(t.dtype, &shape, (0..n).map(|i| i64::from(i % last == 0 || rng.one_in(2))).collect()).unwrap()
        }
    };
    let graph = &program.entries["encode"];
    let args = graph.args().iter().map(|&n| tensor(graph.ty(n.into()), 2.0)).collect();
    (args, program.params.iter().map(|(n, t)| (n.clone(), tensor(t, 0.5))).collect())
}

fn answers(program: &Program, args: &[Tensor], params: &BTreeMap<String, Tensor>) -> Vec<Tensor> {
    let interpreter = Interpreter::new(program, Mode::Rounded).unwrap();
    interpreter.run("encode", args, &|n| params.get(n).cloned(), &mut BTreeMap::new()).unwrap()
}

#[test]
fn a_layer_of_primitives_becomes_composites() {
    let batch = Dim::symbol(&Symbol::new("batch"));
    for (mask, numeric) in
        [(Mask::None, Numeric::Reassociate), (Mask::Where, Numeric::Reassociate), (Mask::Lowest, Numeric::Approximate)]
    {
        let program = exported(mask, batch.clone());
        let compiled = saturated(program.clone(), numeric);
        let found = |name: &str| count(&compiled.program, name);
        let text = lith_ir::text::print(&compiled.program);
        assert_eq!(
            [
                found("attention"),
                found("linear"),
                found("layer_norm"),
                found("activation"),
                found("dot"),
                found("reduce")
            ],
            [1, 4, 2, 1, 0, 0],
            "{mask:?}: {:?}\n{text}",
            compiled.saturation.graphs
        );
        let (args, params) = tensors(&program, &mut Rng::new(5));
        let (before, after) = (answers(&program, &args, &params), answers(&compiled.program, &args, &params));
        for (x, y) in before.iter().zip(&after) {
            close(x, y, 1e-4).unwrap();
        }
        let report = &compiled.saturation.graphs[0];
        assert!(report.cost_after_us < report.cost_before_us, "{report:?}");
        for rule in ["gelu-half-last", "layer-norm", "linear-bias-of-rows"] {
            let at = compiled.saturation.rewrites.iter().find(|r| r.rule == rule);
            assert!(at.is_some_and(|r| !r.path.is_empty() && r.equation.contains('=')), "{rule}: {at:?}");
        }
    }
}

#[test]
fn whole_batches_have_attention() {
    let compiled = saturated(exported(Mask::None, Dim::from(3i64)), Numeric::Reassociate);
    let attentions = ["attention", "packed_attention"].map(|name| count(&compiled.program, name));
    assert_eq!(attentions.iter().sum::<usize>(), 1, "{}", lith_ir::text::print(&compiled.program));
}

#[test]
fn exact_changes_no_bit() {
    let mut changed = 0;
    for seed in 0..60 {
        let case = random_case(seed);
        let compiled = saturated(case.program.clone(), Numeric::Exact);
        let mut after = case.clone();
        after.program = compiled.program;
        for g in &compiled.saturation.graphs {
            assert!(g.cost_after_us <= g.cost_before_us, "{}: {g:?}", case.name);
        }
        changed += usize::from(!compiled.saturation.rewrites.is_empty());
        let (expected, found) = (case.run(Mode::Rounded).unwrap(), after.run(Mode::Rounded).unwrap());
        for (e, f) in expected.iter().zip(&found) {
            close(e, f, 0.0).unwrap_or_else(|p| panic!("{}: {p}", case.name));
        }
    }
    assert!(changed > 5, "saturation changed {changed} of the random graphs");
}

#[test]
fn other_classes_stay_near() {
    for seed in 100..140 {
        let case = random_case(seed);
        let mut after = case.clone();
        after.program = saturated(case.program.clone(), Numeric::Approximate).program;
        let found = after.run(Mode::Exact).unwrap();
        let expected = case.run(Mode::Exact).unwrap();
        for (e, f) in expected.iter().zip(&found) {
            close(e, f, 1e-4).unwrap_or_else(|p| panic!("{}: {p}", case.name));
        }
    }
}

#[test]
fn the_same_program_gives_the_same_result() {
    let print = || {
        let compiled = saturated(exported(Mask::Where, Dim::symbol(&Symbol::new("batch"))), Numeric::Reassociate);
        (lith_ir::text::print(&compiled.program), compiled.saturation)
    };
    assert_eq!(print(), print());
}

#[test]
fn saturation_goes_on_where_it_stopped() {
    let rules = Rules::new(rules::all(), Numeric::Reassociate).unwrap();
    let program = exported(Mask::None, Dim::from(2i64));
    let device = DeviceProfile::default();
    let costs = Costs::new(&device, &program.symbols);
    let graph = &program.entries["encode"];
    let mut saturation = Saturation::new(graph, &GraphWeights::default()).unwrap();
    let mut after = f64::INFINITY;
    let mut found = Vec::new();
    for _ in 0..6 {
        saturation.run(&rules, &Budget { iterations: 2, ..Budget::default() });
        let (_, report, _) = saturation.extract("encode", &rules, &costs).unwrap();
        // More is known each time, so the choice is never worse.
        assert!(report.cost_after_us <= after * (1.0 + 1e-9), "{report:?} after {after}");
        after = report.cost_after_us;
        found.push(report.nodes);
    }
    assert!(found.last() > found.first(), "{found:?}");
}

#[test]
fn states_are_read_and_written_as_before() {
    // y = (state + x) * 1, state = relu(max(state + x, 0)): the write stays one write of one value.
    let mut program = Program::new("counter");
    let ty = Type::new(DType::F32, [4i64]);
    program.states.insert("sum".into(), ty.clone());
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, "counter");
    let x = b.arg("x", ty.clone()).unwrap();
    let state = b.op(Op::StateRead { name: "sum".into(), ty }, &[]).unwrap();
    let sum = b.add(state, x).unwrap();
    let positive = b.binary_const(Binary::Max, sum, 0.0).unwrap();
    let again = b.binary_const(Binary::Max, positive, 0.0).unwrap();
    let written = b.op(Op::StateWrite { name: "sum".into() }, &[again]).unwrap();
    let y = b.mul_const(written, 2.0).unwrap();
    graph.add_result("y", y);
    program.entries.insert("main".into(), graph);
    let compiled = saturated(program, Numeric::Exact);
    assert_eq!(count(&compiled.program, "state_write"), 1);
    assert_eq!(count(&compiled.program, "state_read"), 1);
    assert_eq!(count(&compiled.program, "activation"), 1, "{}", lith_ir::text::print(&compiled.program));
    assert_eq!(count(&compiled.program, "binary"), 2);
}

#[test]
fn shared_values_count_once() {
    // exp(x) is needed by itself, so e^x / (e^x + 1) costs less than sigmoid(x) computed beside it.
    let ty = Type::new(DType::F32, [64i64, 64]);
    let build = |share: bool| {
        let mut program = Program::new("shared");
        let mut graph = Graph::new();
        let mut b = Builder::new(&mut graph, "node");
        let x = b.arg("x", ty.clone()).unwrap();
        let (a, c) = (b.unary(Unary::Exp, x).unwrap(), b.arg("y", ty.clone()).unwrap());
        let product = {
            let e = b.unary(Unary::Exp, c).unwrap();
            b.mul(a, e).unwrap()
        };
        graph.add_result("product", product);
        if share {
            graph.add_result("exp", a);
        }
        program.entries.insert("main".into(), graph);
        count(&saturated(program, Numeric::Reassociate).program, "unary")
    };
    // e^x e^y = e^(x + y) saves an exponential, but not where e^x is wanted anyway.
    assert_eq!(build(false), 1);
    assert_eq!(build(true), 2);
}

#[test]
fn traced_encoders_cost_no_more() {
    for padded in [false, true] {
        let program = common::bert(3, padded, &|i| format!("encoder.layer.{i}"));
        let compiled = saturated(program, Numeric::Reassociate);
        assert!(!compiled.saturation.graphs.is_empty());
        for g in &compiled.saturation.graphs {
            // Equal costs, summed in another order.
            let rounding = 1e-12 * g.cost_before_us;
            assert!(g.cost_before_us.is_finite() && g.cost_after_us <= g.cost_before_us + rounding, "{g:?}");
            assert_ne!(g.stopped, "time", "{g:?}");
        }
    }
}

/// Work is done once for each unique block: more layers are more calls, which no rule looks into.
#[test]
fn depth_adds_no_work() {
    let reports = [6, 48].map(|layers| {
        let program = common::bert(layers, false, &|i| format!("encoder.layer.{i}"));
        let outlined = lith_passes::run_until(program.clone(), Stage::Outline).unwrap();
        let start = std::time::Instant::now();
        let compiled = saturated(program, Numeric::Reassociate);
        println!("{layers} layers: all stages to saturate in {:.3} s", start.elapsed().as_secs_f64());
        let mut found = compiled.saturation;
        assert_eq!(found.graphs[0].runs, layers);
        found.graphs.iter_mut().for_each(|g| g.runs = 0);
        (outlined.program.functions.len(), found)
    });
    let [(functions, six), (_, many)] = &reports;
    assert!(*functions > 0);
    assert_eq!(six.graphs[..*functions], many.graphs[..*functions]);
    assert_eq!(six.rewrites, many.rewrites);
    let entry = |r: &lith_passes::saturate::Report| r.graphs[*functions].iterations;
    assert_eq!(entry(six), entry(many));
}
