//! A graph in raw primitives, as an exporter leaves it, compiles to the kernels of the traced model in the padded layout:
//! products by weights that lie input by output, softmax, normalization and activation in parts, heads by reshapes and
//! transposes, and a mask that is added.

mod common;

use std::collections::BTreeMap;

use common::{HEADS, HIDDEN, Model, bert, sym};
use lith_ir::interp::{Interpreter, Mode, Tensor};
use lith_ir::plan::KernelKind;
use lith_ir::testing::{Rng, close};
use lith_ir::{
    Binary, Builder, DType, Dim, Graph, NodeId, Op, Program, Reduction, Symbol, SymbolInfo, Type, Unary, Value,
};
use lith_passes::check::check;
use lith_passes::saturate::Numeric;
use lith_passes::{Compiled, Options, run};

/// How an exporter writes what the traced model has composites for. Names of nodes keep the path.
struct Exporter<'p>(Model<'p>, String);

impl Exporter<'_> {
    fn b(&mut self) -> Builder<'_> {
        self.0.at(&self.1)
    }

    fn at(&mut self, path: &str) {
        self.1 = path.into();
    }

    /// `x w + b`, the weight lying input by output.
    fn linear(&mut self, name: &str, x: Value, from: i64, to: i64) -> Value {
        self.at(name);
        let weight = self.0.param(&format!("bert.{name}.weight"), &[from, to]);
        let bias = self.0.param(&format!("bert.{name}.bias"), &[to]);
        let mut b = self.b();
        let mut shape = b.ty(x).shape;
        let rows = [shape[0].clone() * shape[1].clone(), Dim::from(from)];
        let x = b.reshape(x, &rows).unwrap();
        let y = b.dot(x, weight, false).unwrap();
        shape[2] = Dim::from(to);
        let y = b.reshape(y, &shape).unwrap();
        let bias = b.expand(bias, &shape).unwrap();
        b.add(bias, y).unwrap()
    }

    fn mean(&mut self, x: Value) -> Value {
        let mut b = self.b();
        let sum = b.reduce(Reduction::Sum, x, &[2], true).unwrap();
        b.binary_const(Binary::Div, sum, HIDDEN as f64).unwrap()
    }

    fn norm(&mut self, name: &str, x: Value) -> Value {
        self.at(name);
        let weight = self.0.param(&format!("bert.{name}.weight"), &[HIDDEN]);
        let bias = self.0.param(&format!("bert.{name}.bias"), &[HIDDEN]);
        let mean = self.mean(x);
        let shape = self.b().ty(x).shape;
        let mean = self.b().expand(mean, &shape).unwrap();
        let centered = self.b().sub(x, mean).unwrap();
        let square = self.b().binary_const(Binary::Pow, centered, 2.0).unwrap();
        let variance = self.mean(square);
        let mut b = self.b();
        let variance = b.add_const(variance, 1e-12).unwrap();
        let deviation = b.unary(Unary::Sqrt, variance).unwrap();
        let deviation = b.expand(deviation, &shape).unwrap();
        let unit = b.div(centered, deviation).unwrap();
        let weight = b.expand(weight, &shape).unwrap();
        let bias = b.expand(bias, &shape).unwrap();
        let scaled = b.mul(unit, weight).unwrap();
        b.add(scaled, bias).unwrap()
    }

    fn gelu(&mut self, x: Value) -> Value {
        let mut b = self.b();
        let inner = b.binary_const(Binary::Div, x, std::f64::consts::SQRT_2).unwrap();
        let erf = b.unary(Unary::Erf, inner).unwrap();
        let twice = b.add_const(erf, 1.0).unwrap();
        let product = b.mul(x, twice).unwrap();
        b.mul_const(product, 0.5).unwrap()
    }

    fn softmax(&mut self, x: Value) -> Value {
        let mut b = self.b();
        let shape = b.ty(x).shape;
        let most = b.reduce(Reduction::Max, x, &[3], true).unwrap();
        let most = b.expand(most, &shape).unwrap();
        let shifted = b.sub(x, most).unwrap();
        let power = b.unary(Unary::Exp, shifted).unwrap();
        let sum = b.reduce(Reduction::Sum, power, &[3], true).unwrap();
        let sum = b.expand(sum, &shape).unwrap();
        b.div(power, sum).unwrap()
    }

    /// `mask` is added to the scores: 0, or so low that nothing is left.
    fn attention(&mut self, p: &str, x: Value, mask: Value) -> Value {
        let width = HIDDEN / HEADS as i64;
        let [q, k, v] =
            ["query", "key", "value"].map(|part| self.linear(&format!("{p}.self.{part}"), x, HIDDEN, HIDDEN));
        self.at(&format!("{p}.self"));
        let mut b = self.b();
        let shape = b.ty(x).shape;
        let heads = [shape[0].clone(), shape[1].clone(), Dim::from(HEADS), Dim::from(width)];
        let [q, k, v] = [q, k, v].map(|part| b.reshape(part, &heads).unwrap());
        let q = b.transpose(q, &[0, 2, 1, 3]).unwrap();
        // Both transposes of the keys are one.
        let k = b.transpose(k, &[0, 2, 3, 1]).unwrap();
        let v = b.transpose(v, &[0, 2, 1, 3]).unwrap();
        let scores = b.dot(q, k, false).unwrap();
        let scores = b.binary_const(Binary::Div, scores, (width as f64).sqrt()).unwrap();
        let full = b.ty(scores).shape;
        let mask = b.expand(mask, &full).unwrap();
        let scores = b.add(scores, mask).unwrap();
        let weights = self.softmax(scores);
        let mut b = self.b();
        let context = b.dot(weights, v, false).unwrap();
        let context = b.transpose(context, &[0, 2, 1, 3]).unwrap();
        let context = b.reshape(context, &shape).unwrap();
        self.linear(&format!("{p}.output.dense"), context, HIDDEN, HIDDEN)
    }

    fn layer(&mut self, p: &str, x: Value, mask: Value) -> Value {
        let y = self.attention(&format!("{p}.attention"), x, mask);
        self.at(&format!("{p}.attention.output"));
        let y = self.b().add(y, x).unwrap();
        let h = self.norm(&format!("{p}.attention.output.LayerNorm"), y);
        let y = self.linear(&format!("{p}.intermediate.dense"), h, HIDDEN, 4 * HIDDEN);
        self.at(&format!("{p}.intermediate"));
        let y = self.gelu(y);
        let y = self.linear(&format!("{p}.output.dense"), y, 4 * HIDDEN, HIDDEN);
        self.at(&format!("{p}.output"));
        let y = self.b().add(y, h).unwrap();
        self.norm(&format!("{p}.output.LayerNorm"), y)
    }
}

/// [`bert`] in the padded layout as an exporter leaves it; weights of linear layers are transposed, by the same names.
fn exported(layers: usize) -> Program {
    let mut program = Program::new("bert");
    for name in ["batch", "seq"] {
        program.symbols.insert(Symbol::new(name), SymbolInfo::default());
    }
    let (batch, seq) = (sym("batch"), sym("seq"));
    let grid = vec![batch.clone(), seq.clone()];
    let mut e = Exporter(Model { program: &mut program, graph: Graph::new() }, String::new());
    let ids = e.b().arg("input_ids", Type { dtype: DType::I32, shape: grid.clone() }).unwrap();
    let seen = e.b().arg("attention_mask", Type { dtype: DType::Bool, shape: grid.clone() }).unwrap();
    let mask = e.b().reshape(seen, &[batch, Dim::from(1i64), Dim::from(1i64), seq]).unwrap();
    let mask = e.b().cast(mask, DType::F32).unwrap();
    let one = e.b().full_like(mask, 1.0).unwrap();
    let mask = e.b().sub(one, mask).unwrap();
    let mask = e.b().mul_const(mask, f64::from(f32::MIN)).unwrap();
    let words = e.0.param("bert.embeddings.word_embeddings.weight", &[100, HIDDEN]);
    let positions = e.0.param("bert.embeddings.position_embeddings.weight", &[64, HIDDEN]);
    e.at("embeddings");
    let word = e.b().gather(words, ids, 0).unwrap();
    let position = e.b().iota(&grid, 1, DType::I32).unwrap();
    let position = e.b().gather(positions, position, 0).unwrap();
    let sum = e.b().add(word, position).unwrap();
    let mut h = e.norm("embeddings.LayerNorm", sum);
    for i in 0..layers {
        h = e.layer(&format!("encoder.layer.{i}"), h, mask);
    }
    e.0.graph.add_result("last_hidden_state", h);
    let graph = e.0.graph;
    program.entries.insert("encode".into(), graph);
    program
}

fn compile(program: Program) -> Compiled {
    let compiled = run(program, &Options { numeric: Numeric::Approximate, ..Options::default() }).unwrap();
    check(&compiled).unwrap();
    compiled
}

/// The kernels of a graph in order: kind, the op and shape of the core or of all nodes of a loop, sorted.
fn kernels(compiled: &Compiled, graph: &str) -> Vec<String> {
    let nodes = &compiled.program.functions.get(graph).or_else(|| compiled.program.entries.get(graph)).unwrap();
    let op = |n: &NodeId| {
        let op = &nodes.node(*n).op;
        // Functions are not named alike; shapes are told by types.
        let known = |name: &str| matches!(name, "f" | "axis" | "axes" | "eps" | "scale" | "heads" | "causal" | "dtype");
        let attributes: Vec<_> = op.attributes().into_iter().filter(|(name, _)| known(name)).collect();
        let types: Vec<String> = nodes.node(*n).types.iter().map(Type::to_string).collect();
        format!("{}{attributes:?} {}", op.name(), types.join(", "))
    };
    let kernel = |kernel: &lith_ir::plan::Kernel| {
        let mut ops: Vec<String> = kernel.nodes.iter().map(op).collect();
        ops.sort();
        format!("{} {}", kernel.kind.name(), ops.join(" + "))
    };
    compiled.plan.graphs[graph].kernels.iter().map(kernel).collect()
}

fn called(compiled: &Compiled) -> Vec<String> {
    let graph = &compiled.program.entries["encode"];
    let calls = compiled.plan.graphs["encode"].kernels.iter().filter_map(|kernel| match kernel.kind {
        KernelKind::Call { core } => match &graph.node(core).op {
            Op::Call { function, .. } => Some(function.clone()),
            _ => None,
        },
        _ => None,
    });
    calls.collect()
}

fn values(rng: &mut Rng, shape: &[usize]) -> Tensor {
    let values = (0..shape.iter().product()).map(|_| f64::from(rng.between(-0.3, 0.3) as f32)).collect();
    Tensor::floats(DType::F32, shape, values).unwrap()
}

fn transposed(x: &Tensor) -> Tensor {
    let (rows, columns) = (x.shape()[0], x.shape()[1]);
    let bytes = x.to_bytes();
    let at = |r: usize, c: usize| bytes[4 * (r * columns + c)..][..4].to_vec();
    let turned: Vec<u8> = (0..columns).flat_map(|c| (0..rows).flat_map(move |r| at(r, c))).collect();
    Tensor::from_bytes(DType::F32, &[columns, rows], &turned).unwrap()
}

fn results(program: &Program, params: &BTreeMap<String, Tensor>) -> Tensor {
    let seen = [5, 1, 7].iter().flat_map(|&n| (0..7).map(move |i| i64::from(i < n))).collect();
    let args = [
        Tensor::ints(DType::I32, &[3, 7], (0..21).map(|i| i * 37 % 100).collect()).unwrap(),
        Tensor::ints(DType::Bool, &[3, 7], seen).unwrap(),
    ];
    let interpreter = Interpreter::new(program, Mode::Rounded).unwrap();
    interpreter.run("encode", &args, &|n| params.get(n).cloned(), &mut BTreeMap::new()).unwrap().remove(0)
}

fn same_kernels(layers: usize) {
    let numbered = |i: usize| format!("encoder.layer.{i}");
    let (traced, raw) = (bert(layers, true, &numbered), exported(layers));
    let (composed, found) = (compile(traced.clone()), compile(raw.clone()));
    let mut pairs = vec![("encode".to_string(), "encode".to_string())];
    pairs.extend(called(&composed).into_iter().zip(called(&found)));
    for (expected, name) in pairs {
        let (expected, found) = (kernels(&composed, &expected), kernels(&found, &name));
        assert!(found == expected, "{layers} layers:\n{}\n\nexpected\n{}", found.join("\n"), expected.join("\n"));
    }

    let mut rng = Rng::new(5);
    let shape = |ty: &Type| ty.static_shape().unwrap();
    let params: BTreeMap<_, _> =
        traced.params.iter().map(|(n, ty)| (n.clone(), values(&mut rng, &shape(ty)))).collect();
    let turn = |(name, x): (&String, &Tensor)| {
        let linear = x.shape().len() == 2 && !name.contains("embeddings");
        (name.clone(), if linear { transposed(x) } else { x.clone() })
    };
    let turned = params.iter().map(turn).collect();
    let expected = results(&traced, &params);
    close(&expected, &results(&raw, &turned), 1e-5).unwrap();
    close(&expected, &results(&found.program, &turned), 1e-5).unwrap();
    close(&expected, &results(&composed.program, &params), 1e-5).unwrap();
}

#[test]
fn one_layer() {
    same_kernels(1);
}

#[test]
fn an_encoder() {
    same_kernels(3);
}
