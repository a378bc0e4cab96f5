//! Cases of single ops.

use super::maker::{Axis, Maker, Values, dims, fixed, ty};
use super::{Case, Rng, decoder, tolerance, training};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::graph::{Graph, Value};
use crate::interp::Tensor;
use crate::op::{Activation, Binary, Compare, Op, Pool, Reduction, Unary};
use crate::types::Literal;

pub(super) const FLOATS: [DType; 4] = [DType::F32, DType::F64, DType::F16, DType::Bf16];

/// Cases of the op of this name, other for every state of `rng`; none for an unknown name.
pub fn cases_for(op: &str, rng: &mut Rng) -> Vec<Case> {
    match op {
        "arg" => each(&DType::ALL, rng, arg),
        "param" => each(&DType::ALL, rng, param),
        "const" => each(&DType::ALL, rng, constant),
        "iota" => each(&DType::ALL, rng, iota),
        "size" => vec![size(rng)],
        "unary" => Unary::ALL.iter().flat_map(|&f| each(&DType::ALL, rng, |d, r| unary(f, d, r))).flatten().collect(),
        "binary" => {
            Binary::ALL.iter().flat_map(|&f| each(&DType::ALL, rng, |d, r| binary(f, d, r))).flatten().collect()
        }
        "compare" => Compare::ALL.iter().flat_map(|&f| each(&DType::ALL, rng, |d, r| compare(f, d, r))).collect(),
        "select" => each(&DType::ALL, rng, select),
        "cast" => DType::ALL.iter().flat_map(|&to| each(&DType::ALL, rng, |d, r| cast(to, d, r))).collect(),
        "reshape" => each(&DType::ALL, rng, reshape),
        "transpose" => each(&DType::ALL, rng, transpose),
        "broadcast" => each(&DType::ALL, rng, broadcast),
        "slice" => each(&DType::ALL, rng, slice),
        "concat" => each(&DType::ALL, rng, concat),
        "pad" => each(&DType::ALL, rng, pad),
        "gather" => each(&DType::ALL, rng, gather),
        "dot" => each(&DType::ALL[..10], rng, dot),
        "reduce" => {
            Reduction::ALL.iter().flat_map(|&f| each(&DType::ALL, rng, |d, r| reduce(f, d, r))).flatten().collect()
        }
        "cumsum" => each(&DType::ALL[..10], rng, cumsum),
        "activation" => Activation::ALL.iter().flat_map(|&f| each(&FLOATS, rng, |d, r| activation(f, d, r))).collect(),
        "softmax" => each(&FLOATS, rng, softmax),
        "layer_norm" => each(&FLOATS, rng, layer_norm),
        "l2_norm" => each(&FLOATS, rng, l2_norm),
        "linear" => each(&FLOATS, rng, linear),
        "attention" => each(&FLOATS, rng, attention),
        "packed_attention" => each(&FLOATS, rng, packed_attention),
        "segment_ids" => vec![segment_ids(rng)],
        "segment_pool" => Pool::ALL.iter().flat_map(|&f| each(&FLOATS, rng, |d, r| segment_pool(f, d, r))).collect(),
        "packed_attention_grad" => each(&FLOATS, rng, packed_attention_grad),
        "call" => vec![call(rng)],
        "state_read" | "state_write" => each(&DType::ALL, rng, state),
        "scatter_add" | "cross_entropy" | "cross_entropy_grad" | "random_bits" => training::cases_for(op, rng),
        _ => decoder::cases_for(op, rng),
    }
}

pub(super) fn each<T>(dtypes: &[DType], rng: &mut Rng, mut make: impl FnMut(DType, &mut Rng) -> T) -> Vec<T> {
    dtypes.iter().map(|&d| make(d, rng)).collect()
}

fn arg(dtype: DType, rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let shape = m.any_shape();
    let x = m.arg(dtype, &shape, Values::Any);
    m.finish("arg", &[x], 0.0)
}

fn param(dtype: DType, rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let sizes: Vec<Axis> = (0..m.rng.below(4)).map(|_| fixed(m.size())).collect();
    let x = m.param(dtype, &sizes, Values::Any);
    m.finish(&format!("param {dtype}"), &[x], 0.0)
}

fn constant(dtype: DType, rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let shape: Vec<Axis> = (0..m.rng.below(3)).map(|_| fixed(m.size())).collect();
    let tensor = m.tensor(dtype, &shape, Values::Any);
    let value =
        Literal::new(dtype, tensor.shape().to_vec(), tensor.to_bytes()).unwrap_or_else(|| Literal::scalar(dtype, 1.0));
    let x = m.op(Op::Const { value }, &[]);
    m.finish(&format!("const {dtype}"), &[x], 0.0)
}

fn iota(dtype: DType, rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let rank = 1 + m.rng.below(3);
    let shape = m.shape(rank);
    let axis = m.rng.below(rank);
    let x = m.arg(dtype, &shape, Values::Small);
    let y = m.op(Op::Iota { shape: dims(&shape), axis, dtype }, &[]);
    m.finish(&format!("iota {dtype} axis {axis}"), &[y, x], 0.0)
}

fn size(rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let shape = m.shape(2);
    let x = m.arg(DType::F32, &shape, Values::Small);
    let (a, b) = (shape[0].dim.clone(), shape[1].dim.clone());
    let dim = (a.clone() * b.clone() + Dim::constant(3)).floor_div(2) + a * Dim::constant(5) - b;
    let y = m.op(Op::Size { dim: dim.clone() }, &[]);
    m.finish(&format!("size {dim}"), &[y, x], 0.0)
}

/// Cases are given for dtypes that the type rule allows.
fn unary(f: Unary, dtype: DType, rng: &mut Rng) -> Option<Case> {
    let values = match f {
        Unary::Neg | Unary::Abs | Unary::Sign | Unary::Not | Unary::Floor | Unary::Ceil | Unary::Round => Values::Any,
        Unary::Exp | Unary::Sqrt | Unary::Tanh | Unary::Erf => rng.pick(&[Values::Small, Values::Any]),
        Unary::Log | Unary::Rsqrt => rng.pick(&[Values::Positive, Values::Any]),
        // Arguments of any magnitude would test the reduction of angles by thousands of turns.
        Unary::Sin | Unary::Cos => Values::Small,
    };
    let exact = matches!(
        f,
        Unary::Neg | Unary::Abs | Unary::Sign | Unary::Not | Unary::Floor | Unary::Ceil | Unary::Round | Unary::Sqrt
    );
    let mut m = Maker::new(rng);
    let shape = m.any_shape();
    let x = m.arg(dtype, &shape, values);
    let y = m.build().unary(f, x).ok()?;
    Some(m.finish(f.name(), &[y], if exact { 0.0 } else { tolerance(dtype) }))
}

fn binary(f: Binary, dtype: DType, rng: &mut Rng) -> Option<Case> {
    let pow = f == Binary::Pow;
    let values = if pow { Values::Positive } else { Values::Any };
    let mut m = Maker::new(rng);
    let shape = m.any_shape();
    let (a, b) = (m.arg(dtype, &shape, values), m.arg(dtype, &shape, values));
    let y = m.build().binary(f, a, b).ok()?;
    Some(m.finish(f.name(), &[y], if pow { tolerance(dtype) } else { 0.0 }))
}

fn compare(f: Compare, dtype: DType, rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let shape = m.any_shape();
    let (a, b) = (m.arg(dtype, &shape, Values::Any), m.arg(dtype, &shape, Values::Any));
    let y = m.op(Op::Compare { f }, &[a, b]);
    m.finish(f.name(), &[y], 0.0)
}

fn select(dtype: DType, rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let shape = m.any_shape();
    let cond = m.arg(DType::Bool, &shape, Values::Any);
    let (a, b) = (m.arg(dtype, &shape, Values::Any), m.arg(dtype, &shape, Values::Any));
    let y = m.op(Op::Select {}, &[cond, a, b]);
    m.finish("select", &[y], 0.0)
}

fn cast(to: DType, dtype: DType, rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let shape = m.any_shape();
    let x = m.arg(dtype, &shape, Values::Any);
    let y = m.op(Op::Cast { dtype: to }, &[x]);
    m.finish(&format!("cast to {to}"), &[y], 0.0)
}

/// Axes split, merged and shuffled with the element count in the same polynomial.
fn reshape(dtype: DType, rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let (a, b, c) = (m.axis(), m.axis(), fixed(m.size()));
    let x = m.arg(dtype, &[a.clone(), b.clone(), c.clone()], Values::Any);
    let (a, b, c) = (a.dim, b.dim, c.dim);
    let shape = match m.rng.below(4) {
        0 => vec![a * b, c],
        1 => vec![c, Dim::constant(1), b, a],
        2 => vec![a, b * c],
        _ => vec![a * b * c],
    };
    let y = m.op(Op::Reshape { shape }, &[x]);
    m.finish("reshape", &[y], 0.0)
}

fn transpose(dtype: DType, rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let rank = m.rng.below(5);
    let shape: Vec<Axis> = (0..rank)
        .map(|_| {
            let size = m.rng.pick(&[0, 1, 2, 3, 5, 9, 17]);
            m.axis_of(size)
        })
        .collect();
    let x = m.arg(dtype, &shape, Values::Any);
    let mut perm: Vec<usize> = (0..rank).collect();
    for i in (1..rank).rev() {
        let j = m.rng.below(i + 1);
        perm.swap(i, j);
    }
    let name = format!("transpose {perm:?}");
    let y = m.op(Op::Transpose { perm }, &[x]);
    m.finish(&name, &[y], 0.0)
}

fn broadcast(dtype: DType, rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let rank = 1 + m.rng.below(3);
    let to = m.shape(rank);
    let axes: Vec<usize> = (0..rank).filter(|_| !m.rng.one_in(3)).collect();
    let from: Vec<Axis> = axes.iter().map(|&a| if m.rng.one_in(3) { fixed(1) } else { to[a].clone() }).collect();
    let x = m.arg(dtype, &from, Values::Any);
    // Every symbol of the target stands in an argument.
    let target = m.arg(dtype, &to, Values::Any);
    let name = format!("broadcast to {:?} by {axes:?}", to.iter().map(|a| a.size).collect::<Vec<_>>());
    let y = m.op(Op::Broadcast { shape: dims(&to), axes }, &[x]);
    m.finish(&name, &[y, target], 0.0)
}

fn slice(dtype: DType, rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let rank = 1 + m.rng.below(3);
    let shape = m.shape(rank);
    let axis = m.rng.below(rank);
    let x = m.arg(dtype, &shape, Values::Any);
    let size = shape[axis].size;
    let start = m.rng.below(size + 1);
    let cut = m.rng.below(size - start + 1);
    // The stop counted from the end keeps the symbol in the result's shape.
    let stop = shape[axis].dim.clone() - Dim::from(cut);
    let step = 1 + m.rng.below(3);
    let y = m.op(Op::Slice { axis, start: Dim::from(start), stop, step }, &[x]);
    m.finish(&format!("slice axis {axis} from {start} step {step} less {cut}"), &[y], 0.0)
}

fn concat(dtype: DType, rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let rank = 1 + m.rng.below(3);
    let shape = m.shape(rank);
    let axis = m.rng.below(rank);
    let parts: Vec<Value> = (0..1 + m.rng.below(3))
        .map(|_| {
            let mut part = shape.clone();
            part[axis] = m.axis();
            m.arg(dtype, &part, Values::Any)
        })
        .collect();
    let y = m.op(Op::Concat { axis }, &parts);
    // The axis of the pattern itself is in no argument.
    let unused = m.arg(dtype, &shape, Values::Any);
    m.finish(&format!("concat axis {axis}"), &[y, unused], 0.0)
}

fn pad(dtype: DType, rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let rank = 1 + m.rng.below(3);
    let shape = m.shape(rank);
    let (axis, before, after) = (m.rng.below(rank), m.rng.below(3), m.rng.below(4));
    let (x, value) = (m.arg(dtype, &shape, Values::Any), m.arg(dtype, &[], Values::Any));
    let y = m.op(Op::Pad { axis, before, after }, &[x, value]);
    m.finish(&format!("pad axis {axis} by {before} and {after}"), &[y], 0.0)
}

/// Indices reach beyond both ends; the table is a parameter by chance.
fn gather(dtype: DType, rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let rank = 1 + m.rng.below(3);
    let axis = m.rng.below(rank);
    let table = m.shape(rank);
    let x = if m.rng.one_in(2) {
        for a in &table {
            // Symbols that only the pattern has must not stay without a value.
            for s in a.dim.symbols() {
                m.program.symbols.remove(&s);
            }
        }
        m.param(dtype, &table, Values::Any)
    } else {
        m.arg(dtype, &table, Values::Any)
    };
    let index_dtype = m.rng.pick(&[DType::I32, DType::I64, DType::U8, DType::I8]);
    let rank = m.rng.below(3);
    let shape = m.shape(rank);
    let indices = m.arg(index_dtype, &shape, Values::Range(-2, table[axis].size as i64 + 1));
    let y = m.op(Op::Gather { axis }, &[x, indices]);
    let sizes: Vec<usize> = table.iter().map(|a| a.size).collect();
    m.finish(&format!("gather {dtype}{sizes:?} axis {axis}"), &[y], 0.0)
}

fn dot(dtype: DType, rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let batch: Vec<Axis> = (0..m.rng.below(3))
        .map(|_| {
            let size = m.rng.pick(&[0, 1, 2, 3]);
            m.axis_of(size)
        })
        .collect();
    let (rows, columns, inner) = (m.axis(), m.axis(), m.axis());
    let transpose_rhs = m.rng.one_in(2);
    let with = |last: [&Axis; 2]| -> Vec<Axis> { batch.iter().chain(last).cloned().collect() };
    let a = m.arg(dtype, &with([&rows, &inner]), Values::Small);
    let rhs = if transpose_rhs { with([&columns, &inner]) } else { with([&inner, &columns]) };
    let b = m.arg(dtype, &rhs, Values::Small);
    let y = m.op(Op::Dot { transpose_rhs }, &[a, b]);
    m.finish("dot", &[y], tolerance(dtype))
}

fn reduce(f: Reduction, dtype: DType, rng: &mut Rng) -> Option<Case> {
    let values = match f {
        Reduction::Max | Reduction::Min => Values::Any,
        Reduction::Sum => Values::Small,
        Reduction::Prod => Values::Positive,
    };
    let mut m = Maker::new(rng);
    let rank = m.rng.below(4);
    let shape: Vec<Axis> = (0..rank)
        .map(|_| {
            // A product of many factors leaves every type's range.
            let size = if f == Reduction::Prod { m.rng.pick(&[0, 1, 2, 3]) } else { m.size() };
            m.axis_of(size)
        })
        .collect();
    let axes: Vec<usize> = (0..rank).filter(|_| m.rng.one_in(2)).collect();
    let keep = m.rng.one_in(2);
    let x = m.arg(dtype, &shape, values);
    let y = m.build().reduce(f, x, &axes, keep).ok()?;
    let tolerance = if matches!(f, Reduction::Max | Reduction::Min) { 0.0 } else { 8.0 * tolerance(dtype) };
    Some(m.finish(&format!("reduce {} over {axes:?} keep {keep}", f.name()), &[y], tolerance))
}

fn cumsum(dtype: DType, rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let rank = 1 + m.rng.below(3);
    let shape = m.shape(rank);
    let axis = m.rng.below(rank);
    let x = m.arg(dtype, &shape, Values::Small);
    let y = m.op(Op::CumSum { axis }, &[x]);
    m.finish(&format!("cumsum axis {axis}"), &[y], tolerance(dtype))
}

fn activation(f: Activation, dtype: DType, rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let shape = m.any_shape();
    let x = m.arg(dtype, &shape, Values::Range(-20, 20));
    let small = m.arg(dtype, &shape, Values::Small);
    let (y, z) = (m.op(Op::Activation { f }, &[x]), m.op(Op::Activation { f }, &[small]));
    m.finish(f.name(), &[y, z], tolerance(dtype))
}

fn softmax(dtype: DType, rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let rank = 1 + m.rng.below(3);
    let shape = m.shape(rank);
    let mut tensor = m.tensor(dtype, &shape, Values::Range(-9, 9));
    if m.rng.one_in(3) {
        // Negative infinity here and there; in narrow rows everywhere.
        let values = tensor.as_floats().unwrap_or_default().to_vec();
        let values = values.into_iter().map(|v| if m.rng.one_in(2) { f64::NEG_INFINITY } else { v }).collect();
        tensor = Tensor::floats(dtype, tensor.shape(), values).unwrap_or(tensor);
    }
    let x = m.arg_of(tensor, &shape);
    let y = m.op(Op::Softmax {}, &[x]);
    m.finish("softmax", &[y], tolerance(dtype))
}

fn layer_norm(dtype: DType, rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let rank = m.rng.below(3);
    let mut shape = m.shape(rank);
    shape.push(fixed(m.size()));
    let row = &shape[rank..];
    let x = m.arg(dtype, &shape, Values::Small);
    let weight = maybe_param(&mut m, dtype, row);
    let bias = maybe_param(&mut m, dtype, row);
    let eps = m.rng.pick(&[1e-5, 1e-12]);
    let op = Op::LayerNorm { eps };
    let y = node(&mut m, op, &[Some(x), weight, bias]);
    m.finish("layer_norm", &[y], 8.0 * tolerance(dtype))
}

/// A parameter, an argument or nothing.
pub(super) fn maybe_param(m: &mut Maker<'_>, dtype: DType, shape: &[Axis]) -> Option<Value> {
    match m.rng.below(4) {
        0 => None,
        1 => Some(m.arg(dtype, shape, Values::Small)),
        _ => Some(m.param(dtype, shape, Values::Small)),
    }
}

pub(super) fn node(m: &mut Maker<'_>, op: Op, operands: &[Option<Value>]) -> Value {
    m.graph.add_with(op, operands, "block.op").unwrap_or_else(|e| panic!("test graph: {e}")).into()
}

fn l2_norm(dtype: DType, rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let rank = 1 + m.rng.below(3);
    let shape = m.shape(rank);
    let values = m.rng.pick(&[Values::Small, Values::Range(0, 0)]);
    let x = m.arg(dtype, &shape, values);
    let y = m.op(Op::L2Norm { eps: 1e-12 }, &[x]);
    m.finish("l2_norm", &[y], tolerance(dtype))
}

fn linear(dtype: DType, rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let rank = 1 + m.rng.below(2);
    let mut shape = m.shape(rank);
    let (k, n) = (m.rng.pick(&[0, 1, 3, 8, 16, 17, 48]), m.rng.pick(&[0, 1, 3, 15, 16, 17, 40]));
    shape.push(fixed(k));
    let x = m.arg(dtype, &shape, Values::Small);
    let matrix = [fixed(n), fixed(k)];
    let weight =
        if m.rng.one_in(4) { m.arg(dtype, &matrix, Values::Small) } else { m.param(dtype, &matrix, Values::Small) };
    let bias = maybe_param(&mut m, dtype, &[fixed(n)]);
    let y = node(&mut m, Op::Linear {}, &[Some(x), Some(weight), bias]);
    m.finish(&format!("linear to {n}"), &[y], 4.0 * tolerance(dtype))
}

/// Heads, key heads and width of a head.
fn heads(m: &mut Maker<'_>) -> (usize, usize, usize) {
    let (heads, kv_heads) = m.rng.pick(&[(1, 1), (2, 2), (3, 3), (4, 2), (3, 1)]);
    (heads, kv_heads, m.rng.pick(&[1, 3, 4, 8, 16, 32]))
}

fn rel_bias(m: &mut Maker<'_>, dtype: DType, heads: usize) -> Option<Value> {
    let width = 2 * (1 + m.rng.below(6)) - 1;
    m.rng.one_in(2).then(|| m.arg(dtype, &[fixed(heads), fixed(width)], Values::Small))
}

fn attention(dtype: DType, rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let (heads, kv_heads, d) = heads(&mut m);
    let size = m.rng.pick(&[0, 1, 2, 3]);
    let batch = m.axis_of(size);
    let sq = m.axis();
    let sk = if m.rng.one_in(2) { sq.clone() } else { m.axis() };
    let keys = [batch.clone(), sk.clone(), fixed(kv_heads * d)];
    let q = m.arg(dtype, &[batch.clone(), sq, fixed(heads * d)], Values::Small);
    let k = m.arg(dtype, &keys, Values::Small);
    let v = m.arg(dtype, &keys, Values::Small);
    let mask = if m.rng.one_in(2) { Some(m.arg(DType::Bool, &[batch, sk], Values::Any)) } else { None };
    let bias = rel_bias(&mut m, dtype, heads);
    let (causal, scale) = (m.rng.one_in(2), m.rng.pick(&[1.0, 1.0 / (d as f64).sqrt()]));
    let op = Op::Attention { heads, kv_heads, scale, causal };
    let y = node(&mut m, op, &[Some(q), Some(k), Some(v), mask, bias]);
    m.finish(&format!("attention {heads}/{kv_heads} heads of {d}, causal {causal}"), &[y], 8.0 * tolerance(dtype))
}

/// Some sequences' tokens and offsets; sequences may be empty.
fn sequences(m: &mut Maker<'_>) -> (Axis, Value) {
    let lengths: Vec<usize> = (0..m.rng.below(5)).map(|_| m.rng.pick(&[0, 1, 2, 3, 5, 7, 9])).collect();
    let mut offsets = vec![0i64];
    for n in &lengths {
        offsets.push(offsets[offsets.len() - 1] + *n as i64);
    }
    let tokens = m.symbolic(lengths.iter().sum());
    let mut axis = m.axis_of(lengths.len());
    axis = Axis { dim: axis.dim + Dim::constant(1), size: lengths.len() + 1 };
    let tensor = Tensor::ints(DType::I32, &[axis.size], offsets).unwrap_or_else(|e| panic!("test tensor: {e}"));
    let offsets = m.arg_of(tensor, &[axis]);
    (tokens, offsets)
}

fn packed_attention(dtype: DType, rng: &mut Rng) -> Case {
    packed("packed_attention", dtype, rng)
}

fn packed_attention_grad(dtype: DType, rng: &mut Rng) -> Case {
    packed("packed_attention_grad", dtype, rng)
}

fn packed(name: &str, dtype: DType, rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let (heads, kv_heads, d) = heads(&mut m);
    let (tokens, offsets) = sequences(&mut m);
    let (queries, keys) = ([tokens.clone(), fixed(heads * d)], [tokens, fixed(kv_heads * d)]);
    let q = m.arg(dtype, &queries, Values::Small);
    let k = m.arg(dtype, &keys, Values::Small);
    let v = m.arg(dtype, &keys, Values::Small);
    let bias = rel_bias(&mut m, dtype, heads);
    let (causal, scale) = (m.rng.one_in(2), m.rng.pick(&[1.0, 1.0 / (d as f64).sqrt()]));
    let dropout = m.rng.pick(&[0.0, 0.1, 0.5]);
    let key = if dropout == 0.0 { None } else { Some(m.arg(DType::U32, &[fixed(2)], Values::Any)) };
    let mut operands = vec![Some(q), Some(k), Some(v), Some(offsets), bias, key];
    let (op, factor) = if name == "packed_attention" {
        (Op::PackedAttention { heads, kv_heads, scale, causal, dropout }, 8.0)
    } else {
        operands.insert(4, Some(m.arg(dtype, &queries, Values::Small)));
        (Op::PackedAttentionGrad { heads, kv_heads, scale, causal, dropout }, 32.0)
    };
    let y = node(&mut m, op, &operands);
    let what = format!("{name} {heads}/{kv_heads} heads of {d}, causal {causal}, dropout {dropout}");
    m.finish(&what, &[y], factor * tolerance(dtype))
}

fn segment_ids(rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let (tokens, offsets) = sequences(&mut m);
    let x = m.arg(DType::F32, std::slice::from_ref(&tokens), Values::Small);
    let y = m.op(Op::SegmentIds { tokens: tokens.dim }, &[offsets]);
    m.finish("segment_ids", &[y, x], 0.0)
}

fn segment_pool(f: Pool, dtype: DType, rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let (tokens, offsets) = sequences(&mut m);
    let hidden = m.axis();
    let x = m.arg(dtype, &[tokens, hidden], Values::Small);
    let y = m.op(Op::SegmentPool { f }, &[x, offsets]);
    m.finish(&format!("segment_pool {}", f.name()), &[y], 4.0 * tolerance(dtype))
}

/// A function of two results, called twice.
fn call(rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let rows = m.axis();
    let shape = [rows, fixed(m.size())];
    let x = m.arg(DType::F32, &shape, Values::Small);
    let t = ty(DType::F32, &shape);

    let mut body = Graph::new();
    let mut b = crate::build::Builder::new(&mut body, "inner");
    let results = (|| {
        let (p, q) = (b.arg("p", t.clone())?, b.arg("q", t.clone())?);
        let sum = b.add(p, q)?;
        Ok([("sum", b.unary(Unary::Tanh, sum)?), ("difference", b.sub(p, q)?)])
    })()
    .unwrap_or_else(|e: crate::GraphError| panic!("test graph: {e}"));
    for (name, value) in results {
        body.add_result(name, value);
    }
    m.program.functions.insert("layer".into(), body);

    let op = Op::Call { function: "layer".into(), results: vec![t.clone(), t] };
    let first = m.op(op.clone(), &[x, x]).node;
    let second = m.op(op, &[Value { node: first, result: 1 }, Value { node: first, result: 0 }]).node;
    let results = [0, 1].map(|result| Value { node: second, result });
    m.finish("call", &results, tolerance(DType::F32))
}

/// Reads a state, writes another value and gives both.
fn state(dtype: DType, rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let rank = m.rng.below(3);
    let shape: Vec<Axis> = (0..rank).map(|_| fixed(m.size())).collect();
    let t = ty(dtype, &shape);
    m.program.states.insert("cache".into(), t.clone());
    let held = m.tensor(dtype, &shape, Values::Any);
    m.states.insert("cache".into(), held);
    let x = m.arg(dtype, &shape, Values::Any);
    let read = m.op(Op::StateRead { name: "cache".into(), ty: t }, &[]);
    let greater = m.op(Op::Binary { f: Binary::Max }, &[read, x]);
    let written = m.op(Op::StateWrite { name: "cache".into() }, &[greater]);
    m.finish("state", &[read, written], 0.0)
}
