//! What composites mean: each one's formula in primitives. This is the definition that every faster form of a composite
//! is held against. Knows nothing of kernels.
//!
//! 16-bit floats: a composite computes in `f32` and rounds its result once, so operands are widened first.

mod attention;
mod decoder;
mod training;

use crate::build::{Builder, Built};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::graph::{Graph, GraphError, NodeId, Value};
use crate::op::{Activation, Binary, Compare, Op, Pool, Reduction, Unary};
use attention::Heads;
pub use training::threefry;

/// Adds the primitives that a composite node stands for to the graph, at the node's path, and returns the value that
/// equals the node's result. The node stays. `None` when the node is no composite.
///
/// # Errors
/// When the node's operands do not fit its op, which no graph built through [`Graph::add_with`] has.
///
/// # Panics
/// When the node is not in the graph.
pub fn decompose(graph: &mut Graph, node: NodeId) -> Result<Option<Value>, GraphError> {
    let (op, path) = (graph.node(node).op.clone(), graph.node(node).path.clone());
    let operands = graph.operands(node);
    let operand = |i: usize| {
        operands.get(i).copied().flatten().ok_or(GraphError::NoSuchValue { path: path.to_string(), operand: i })
    };
    let optional = |i: usize| operands.get(i).copied().flatten();
    let mut b = Builder::new(graph, &path);
    let result = match op {
        Op::Activation { f } => in_f32(&mut b, operand(0)?, |b, x| activation(b, f, x))?,
        Op::Softmax {} => in_f32(&mut b, operand(0)?, softmax)?,
        Op::LayerNorm { eps } => in_f32(&mut b, operand(0)?, |b, x| layer_norm(b, x, optional(1), optional(2), eps))?,
        Op::L2Norm { eps } => in_f32(&mut b, operand(0)?, |b, x| l2_norm(b, x, eps))?,
        Op::Linear {} => {
            let weight = operand(1)?;
            in_f32(&mut b, operand(0)?, |b, x| linear(b, x, weight, optional(2)))?
        }
        Op::Attention { heads, kv_heads, scale, causal } => {
            let (k, v, mask) = (operand(1)?, operand(2)?, optional(3));
            let a = Heads { heads, kv_heads, scale, rel_bias: optional(4), dropout: None };
            in_f32(&mut b, operand(0)?, |b, q| a.padded(b, [q, k, v], mask, causal))?
        }
        Op::PackedAttention { heads, kv_heads, scale, causal, dropout } => {
            let (k, v, offsets) = (operand(1)?, operand(2)?, operand(3)?);
            let dropout = optional(5).map(|key| (key, dropout));
            let a = Heads { heads, kv_heads, scale, rel_bias: optional(4), dropout };
            in_f32(&mut b, operand(0)?, |b, q| a.packed(b, [q, k, v], offsets, causal))?
        }
        Op::PackedAttentionGrad { heads, kv_heads, scale, causal, dropout } => {
            let (k, v, offsets, dy) = (operand(1)?, operand(2)?, operand(3)?, operand(4)?);
            let dropout = optional(6).map(|key| (key, dropout));
            let a = Heads { heads, kv_heads, scale, rel_bias: optional(5), dropout };
            in_f32(&mut b, operand(0)?, |b, q| a.packed_grad(b, [q, k, v], offsets, dy, causal))?
        }
        Op::CrossEntropy { ignore, smoothing } => {
            let (labels, target) = (operand(1)?, training::Target { ignore, smoothing });
            in_f32(&mut b, operand(0)?, |b, x| target.loss(b, x, labels))?
        }
        Op::CrossEntropyGrad { ignore, smoothing } => {
            let (labels, dy, target) = (operand(1)?, operand(2)?, training::Target { ignore, smoothing });
            in_f32(&mut b, operand(0)?, |b, x| target.gradient(b, x, labels, dy))?
        }
        Op::RandomBits { shape, stream } => training::random_bits(&mut b, operand(0)?, &shape, stream)?,
        Op::RmsNorm { eps, offset } => {
            in_f32(&mut b, operand(0)?, |b, x| decoder::rms_norm(b, x, optional(1), eps, offset))?
        }
        Op::Rope { heads, interleaved } => {
            let angles = [operand(1)?, operand(2)?];
            in_f32(&mut b, operand(0)?, |b, x| decoder::rope(b, x, angles, heads, interleaved))?
        }
        Op::DynamicQuantize { group, levels } => {
            in_f32(&mut b, operand(0)?, |b, x| decoder::dynamic_quantize(b, x, group, levels))?
        }
        Op::CacheAppend { .. } => decoder::cache_append(&mut b, operand(0)?, operand(1)?, operand(2)?)?,
        Op::PagedAttention { heads, kv_heads, scale, window, softcap } => {
            let paged = decoder::Paged { heads, kv_heads, scale, window, softcap };
            let (caches, rest) = ([operand(1)?, operand(2)?], [operand(3)?, operand(4)?, operand(5)?]);
            let extra = [optional(6), optional(7), optional(8)];
            in_f32(&mut b, operand(0)?, |b, q| paged.attend(b, q, caches, rest, extra))?
        }
        Op::SegmentIds { tokens } => segment_ids(&mut b, operand(0)?, &tokens)?,
        Op::SegmentPool { f } => {
            let offsets = operand(1)?;
            in_f32(&mut b, operand(0)?, |b, x| segment_pool(b, f, x, offsets))?
        }
        Op::Arg { .. }
        | Op::Param { .. }
        | Op::Const { .. }
        | Op::Iota { .. }
        | Op::Size { .. }
        | Op::Unary { .. }
        | Op::Binary { .. }
        | Op::Compare { .. }
        | Op::Select {}
        | Op::Cast { .. }
        | Op::Reshape { .. }
        | Op::Transpose { .. }
        | Op::Broadcast { .. }
        | Op::Slice { .. }
        | Op::Concat { .. }
        | Op::Pad { .. }
        | Op::Gather { .. }
        | Op::Dot { .. }
        | Op::Reduce { .. }
        | Op::Scatter {}
        | Op::ScatterAdd {}
        | Op::CumSum { .. }
        | Op::Call { .. }
        | Op::StateRead { .. }
        | Op::StateWrite { .. } => return Ok(None),
    };
    Ok(Some(result))
}

/// Replaces every composite that `filter` accepts by its decomposition. Returns how many there were.
///
/// # Errors
/// As [`decompose`], or when the graph has a cycle.
pub fn decompose_all(graph: &mut Graph, filter: impl Fn(&Op) -> bool) -> Result<usize, GraphError> {
    let mut replaced = 0;
    for node in graph.topological()? {
        if !filter(&graph.node(node).op) {
            continue;
        }
        if let Some(value) = decompose(graph, node)? {
            graph.replace(node.into(), value);
            graph.remove(node);
            replaced += 1;
        }
    }
    Ok(replaced)
}

/// The dtype that values of `dtype` are computed in.
fn compute_dtype(dtype: DType) -> DType {
    match dtype {
        DType::F16 | DType::Bf16 => DType::F32,
        other => other,
    }
}

/// `body` on `x` in its compute dtype, the result in the dtype of `x`.
fn in_f32(b: &mut Builder<'_>, x: Value, body: impl FnOnce(&mut Builder<'_>, Value) -> Built) -> Built {
    let dtype = b.ty(x).dtype;
    let wide = b.cast(x, compute_dtype(dtype))?;
    let y = body(b, wide)?;
    b.cast(y, dtype)
}

fn widen(b: &mut Builder<'_>, x: Value) -> Built {
    let dtype = compute_dtype(b.ty(x).dtype);
    b.cast(x, dtype)
}

fn activation(b: &mut Builder<'_>, f: Activation, x: Value) -> Built {
    match f {
        Activation::Relu => b.binary_const(Binary::Max, x, 0.0),
        // Hendrycks & Gimpel 2016, equation 1: x * Phi(x).
        Activation::Gelu => {
            let scaled = b.mul_const(x, std::f64::consts::FRAC_1_SQRT_2)?;
            let erf = b.unary(Unary::Erf, scaled)?;
            half_x_times_one_plus(b, x, erf)
        }
        // Hendrycks & Gimpel 2016, section 2: the tanh approximation.
        Activation::GeluTanh => {
            let square = b.mul(x, x)?;
            let cubic = b.mul_const(square, 0.044715)?;
            let factor = b.add_const(cubic, 1.0)?;
            let inner = b.mul(x, factor)?;
            let scaled = b.mul_const(inner, (2.0 / std::f64::consts::PI).sqrt())?;
            let tanh = b.unary(Unary::Tanh, scaled)?;
            half_x_times_one_plus(b, x, tanh)
        }
        Activation::QuickGelu => {
            let scaled = b.mul_const(x, 1.702)?;
            let gate = sigmoid(b, scaled)?;
            b.mul(x, gate)
        }
        Activation::Sigmoid => sigmoid(b, x),
        Activation::Silu => {
            let gate = sigmoid(b, x)?;
            b.mul(x, gate)
        }
        Activation::Mish => mish(b, x),
        Activation::Relu2 => {
            let positive = b.binary_const(Binary::Max, x, 0.0)?;
            b.mul(positive, positive)
        }
        Activation::Relu6 => relu6(b, x),
        Activation::Hardswish => {
            let shifted = b.add_const(x, 3.0)?;
            let gate = relu6(b, shifted)?;
            let product = b.mul(x, gate)?;
            b.binary_const(Binary::Div, product, 6.0)
        }
        Activation::LeakyRelu => {
            let positive = b.compare_const(Compare::Gt, x, 0.0)?;
            let small = b.mul_const(x, 0.01)?;
            b.select(positive, x, small)
        }
    }
}

/// `0.5 * x * (1 + y)`
fn half_x_times_one_plus(b: &mut Builder<'_>, x: Value, y: Value) -> Built {
    let half = b.mul_const(x, 0.5)?;
    let sum = b.add_const(y, 1.0)?;
    b.mul(half, sum)
}

/// `1 / (1 + e^-x)`: where `e^-x` overflows the quotient is 0, as it should be.
fn sigmoid(b: &mut Builder<'_>, x: Value) -> Built {
    let negative = b.unary(Unary::Neg, x)?;
    let exp = b.unary(Unary::Exp, negative)?;
    let denominator = b.add_const(exp, 1.0)?;
    let one = b.full_like(x, 1.0)?;
    b.div(one, denominator)
}

fn relu6(b: &mut Builder<'_>, x: Value) -> Built {
    let positive = b.binary_const(Binary::Max, x, 0.0)?;
    b.binary_const(Binary::Min, positive, 6.0)
}

/// Misra 2019: `x * tanh(softplus(x))`. `tanh(log(1 + u))` is `(u^2 + 2u) / (u^2 + 2u + 2)` with `u = e^x`; both sides of
/// the fraction divided by `u^2` give the same in `1/u` for positive `x`, so that the exponential never overflows:
/// with `w = e^-|x|` the fraction is `n / (n + 2w^2)`, `n = 1 + 2w` for positive `x`, else `n / (n + 2)`, `n = w (w + 2)`.
fn mish(b: &mut Builder<'_>, x: Value) -> Built {
    let magnitude = b.unary(Unary::Abs, x)?;
    let negative = b.unary(Unary::Neg, magnitude)?;
    let w = b.unary(Unary::Exp, negative)?;
    let positive = b.compare_const(Compare::Gt, x, 0.0)?;
    let twice = b.mul_const(w, 2.0)?;
    let above = b.add_const(twice, 1.0)?;
    let w_plus_2 = b.add_const(w, 2.0)?;
    let below = b.mul(w, w_plus_2)?;
    let n = b.select(positive, above, below)?;
    let square = b.mul(w, w)?;
    let one = b.full_like(x, 1.0)?;
    let rest = b.select(positive, square, one)?;
    let twice_rest = b.mul_const(rest, 2.0)?;
    let denominator = b.add(n, twice_rest)?;
    let ratio = b.div(n, denominator)?;
    b.mul(x, ratio)
}

/// The row's maximum is subtracted so that no exponential overflows. In a row of negative infinity the maximum counts as
/// 0 and the sum, which is then 0, as 1: all weights are 0.
fn softmax(b: &mut Builder<'_>, x: Value) -> Built {
    let shape = b.ty(x).shape;
    let max = b.reduce_last(Reduction::Max, x)?;
    let empty = b.compare_const(Compare::Eq, max, f64::NEG_INFINITY)?;
    let zero = b.full_like(max, 0.0)?;
    let max = b.select(empty, zero, max)?;
    let max = b.expand(max, &shape)?;
    let shifted = b.sub(x, max)?;
    let exp = b.unary(Unary::Exp, shifted)?;
    let sum = b.reduce_last(Reduction::Sum, exp)?;
    let one = b.full_like(sum, 1.0)?;
    let sum = b.select(empty, one, sum)?;
    let sum = b.expand(sum, &shape)?;
    b.div(exp, sum)
}

/// Ba et al. 2016, equation 4, with the biased variance.
fn layer_norm(b: &mut Builder<'_>, x: Value, weight: Option<Value>, bias: Option<Value>, eps: f64) -> Built {
    let shape = b.ty(x).shape;
    let mean = mean_last(b, x)?;
    let mean = b.expand(mean, &shape)?;
    let centred = b.sub(x, mean)?;
    let square = b.mul(centred, centred)?;
    let variance = mean_last(b, square)?;
    let variance = b.add_const(variance, eps)?;
    let deviation = b.unary(Unary::Sqrt, variance)?;
    let deviation = b.expand(deviation, &shape)?;
    let mut y = b.div(centred, deviation)?;
    if let Some(weight) = weight {
        let weight = widen(b, weight)?;
        let weight = b.expand(weight, &shape)?;
        y = b.mul(y, weight)?;
    }
    if let Some(bias) = bias {
        let bias = widen(b, bias)?;
        let bias = b.expand(bias, &shape)?;
        y = b.add(y, bias)?;
    }
    Ok(y)
}

/// Mean of the last axis, which stays as size 1.
fn mean_last(b: &mut Builder<'_>, x: Value) -> Built {
    let ty = b.ty(x);
    let sum = b.reduce_last(Reduction::Sum, x)?;
    let count = b.size(ty.shape.last().unwrap_or(&Dim::constant(1)), ty.dtype)?;
    let shape = b.ty(sum).shape;
    let count = b.broadcast(count, &shape, &[])?;
    b.div(sum, count)
}

fn l2_norm(b: &mut Builder<'_>, x: Value, eps: f64) -> Built {
    let shape = b.ty(x).shape;
    let square = b.mul(x, x)?;
    let sum = b.reduce_last(Reduction::Sum, square)?;
    let norm = b.unary(Unary::Sqrt, sum)?;
    let norm = b.binary_const(Binary::Max, norm, eps)?;
    let norm = b.expand(norm, &shape)?;
    b.div(x, norm)
}

fn linear(b: &mut Builder<'_>, x: Value, weight: Value, bias: Option<Value>) -> Built {
    let mut shape = b.ty(x).shape;
    let weight = widen(b, weight)?;
    let Some(k) = shape.pop() else { return b.dot(x, weight, true) };
    let rows = shape.iter().cloned().fold(Dim::constant(1), |a, d| a * d);
    let x = b.reshape(x, &[rows, k])?;
    let mut y = b.dot(x, weight, true)?;
    if let Some(bias) = bias {
        let bias = widen(b, bias)?;
        let full = b.ty(y).shape;
        let bias = b.expand(bias, &full)?;
        y = b.add(y, bias)?;
    }
    shape.extend(b.ty(weight).shape.into_iter().take(1));
    b.reshape(y, &shape)
}

/// The number of offsets at or before each token, less one.
fn segment_ids(b: &mut Builder<'_>, offsets: Value, tokens: &Dim) -> Built {
    let shape = [tokens.clone(), b.ty(offsets).elements()];
    let token = b.iota(&shape, 0, DType::I32)?;
    let offsets = b.broadcast(offsets, &shape, &[1])?;
    let begun = b.compare(Compare::Le, offsets, token)?;
    let begun = b.cast(begun, DType::I32)?;
    let count = b.reduce(Reduction::Sum, begun, &[1], false)?;
    b.add_const(count, -1.0)
}

fn segment_pool(b: &mut Builder<'_>, f: Pool, x: Value, offsets: Value) -> Built {
    let ty = b.ty(x);
    let (tokens, hidden) = (ty.shape[0].clone(), ty.shape[1].clone());
    let sequences = b.ty(offsets).elements() - Dim::constant(1);
    let pairs = [sequences.clone(), tokens.clone()];
    let ids = segment_ids(b, offsets, &tokens)?;
    let ids = b.broadcast(ids, &pairs, &[1])?;
    let sequence = b.iota(&pairs, 0, DType::I32)?;
    let member = b.compare(Compare::Eq, ids, sequence)?;

    let cube = [sequences.clone(), tokens, hidden.clone()];
    let (reduction, identity) = match f {
        Pool::Mean | Pool::Sum => (Reduction::Sum, 0.0),
        Pool::Max => (Reduction::Max, f64::NEG_INFINITY),
    };
    let rows = b.broadcast(x, &cube, &[1, 2])?;
    let inside = b.broadcast(member, &cube, &[0, 1])?;
    let outside = b.full_like(rows, identity)?;
    let rows = b.select(inside, rows, outside)?;
    let pooled = b.reduce(reduction, rows, &[1], false)?;
    match f {
        Pool::Sum | Pool::Max => Ok(pooled),
        Pool::Mean => {
            let ones = b.cast(member, ty.dtype)?;
            let count = b.reduce(Reduction::Sum, ones, &[1], false)?;
            let count = b.binary_const(Binary::Max, count, 1.0)?;
            let count = b.broadcast(count, &[sequences, hidden], &[0])?;
            b.div(pooled, count)
        }
    }
}
