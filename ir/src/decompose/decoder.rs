//! What the composites of decoders mean: norms without a mean, rotary positions, the paged cache, 8-bit activations.

use super::{mean_last, segment_ids, softmax, widen};
use crate::build::{Builder, Built};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::graph::Value;
use crate::op::{Binary, Compare, Op, Reduction, Unary};

/// Zhang & Sennrich 2019, equation 4, with `eps` as LLaMA has it.
pub(super) fn rms_norm(b: &mut Builder<'_>, x: Value, weight: Option<Value>, eps: f64, offset: f64) -> Built {
    let shape = b.ty(x).shape;
    let square = b.mul(x, x)?;
    let mean = mean_last(b, square)?;
    let mean = b.add_const(mean, eps)?;
    let root = b.unary(Unary::Sqrt, mean)?;
    let root = b.expand(root, &shape)?;
    let y = b.div(x, root)?;
    let Some(weight) = weight else { return Ok(y) };
    let mut weight = widen(b, weight)?;
    if offset != 0.0 {
        weight = b.add_const(weight, offset)?;
    }
    let weight = b.expand(weight, &shape)?;
    b.mul(y, weight)
}

/// Su et al. 2021, equation 34, over the pairs that `interleaved` tells.
pub(super) fn rope(b: &mut Builder<'_>, x: Value, angles: [Value; 2], heads: usize, interleaved: bool) -> Built {
    let result = b.ty(x).shape;
    let lead = result[..result.len() - 1].to_vec();
    let width = result[result.len() - 1].as_const().unwrap_or(0) / heads as i64;
    let half = b.ty(angles[0]).shape[lead.len()].as_const().unwrap_or(0);
    let with =
        |more: &[i64]| -> Vec<Dim> { lead.iter().cloned().chain(more.iter().map(|&d| Dim::constant(d))).collect() };
    let (heads, rank) = (heads as i64, lead.len());
    let part = |b: &mut Builder<'_>, x: Value, axis: usize, start: i64, stop: i64| {
        b.op(Op::Slice { axis, start: Dim::constant(start), stop: Dim::constant(stop), step: 1 }, &[x])
    };
    let x = b.reshape(x, &with(&[heads, width]))?;
    let turned = part(b, x, rank + 1, 0, 2 * half)?;
    // Pairs as [.., heads, 2, half] or [.., heads, half, 2].
    let (split, axis) = if interleaved { ([heads, half, 2], rank + 2) } else { ([heads, 2, half], rank + 1) };
    let turned = b.reshape(turned, &with(&split))?;
    let pair = with(&[heads, half]);
    let (first, second) = (part(b, turned, axis, 0, 1)?, part(b, turned, axis, 1, 2)?);
    let (first, second) = (b.reshape(first, &pair)?, b.reshape(second, &pair)?);
    let axes: Vec<usize> = (0..rank).chain([rank + 1]).collect();
    let mut spread = [angles[0]; 2];
    for (to, angle) in spread.iter_mut().zip(angles) {
        let angle = widen(b, angle)?;
        *to = b.broadcast(angle, &pair, &axes)?;
    }
    let [cos, sin] = spread;
    let (ac, bs) = (b.mul(first, cos)?, b.mul(second, sin)?);
    let (bc, a_s) = (b.mul(second, cos)?, b.mul(first, sin)?);
    let (first, second) = (b.sub(ac, bs)?, b.add(bc, a_s)?);
    let mut one = pair;
    one.insert(axis, Dim::constant(1));
    let (first, second) = (b.reshape(first, &one)?, b.reshape(second, &one)?);
    let pairs = b.op(Op::Concat { axis }, &[first, second])?;
    let mut y = b.reshape(pairs, &with(&[heads, 2 * half]))?;
    if 2 * half < width {
        let rest = part(b, x, rank + 1, 2 * half, width)?;
        y = b.op(Op::Concat { axis: rank + 1 }, &[y, rest])?;
    }
    b.reshape(y, &result)
}

/// Symmetric quantization and back.
pub(super) fn dynamic_quantize(b: &mut Builder<'_>, x: Value, group: usize, levels: usize) -> Built {
    let shape = b.ty(x).shape;
    let last = shape.len() - 1;
    let columns = shape[last].as_const().unwrap_or(0);
    let (group, mut parts) = (group as i64, Vec::new());
    // Whole groups as one axis more, and what is left.
    let whole = columns / group * group;
    for (start, stop, count) in [(0, whole, columns / group), (whole, columns, 1)] {
        if start == stop {
            continue;
        }
        let slice = Op::Slice { axis: last, start: Dim::constant(start), stop: Dim::constant(stop), step: 1 };
        let part = if stop - start == columns { x } else { b.op(slice, &[x])? };
        let flat = b.ty(part).shape;
        let grouped: Vec<Dim> =
            shape[..last].iter().cloned().chain([count, (stop - start) / count].map(Dim::constant)).collect();
        let part = b.reshape(part, &grouped)?;
        let part = groups_of(b, part, levels as f64)?;
        parts.push(b.reshape(part, &flat)?);
    }
    match parts[..] {
        [] => Ok(x),
        [one] => Ok(one),
        _ => b.op(Op::Concat { axis: last }, &parts),
    }
}

/// [`dynamic_quantize`] with the last axis as the group.
fn groups_of(b: &mut Builder<'_>, x: Value, levels: f64) -> Built {
    let shape = b.ty(x).shape;
    let magnitude = b.unary(Unary::Abs, x)?;
    let max = b.reduce_last(Reduction::Max, magnitude)?;
    let none = b.compare_const(Compare::Eq, max, 0.0)?;
    let steps = b.full_like(max, levels)?;
    let one = b.full_like(max, 1.0)?;
    let safe = b.select(none, one, max)?;
    let inverse = b.div(steps, safe)?;
    let inverse = b.expand(inverse, &shape)?;
    let scale = b.binary_const(Binary::Div, max, levels)?;
    let scale = b.expand(scale, &shape)?;
    let codes = b.mul(x, inverse)?;
    let codes = b.unary(Unary::Round, codes)?;
    b.mul(codes, scale)
}

/// The cache as rows of tokens, some of them replaced.
pub(super) fn cache_append(b: &mut Builder<'_>, cache: Value, x: Value, slots: Value) -> Built {
    let ty = b.ty(cache);
    let width = b.ty(x).shape[1].clone();
    let rows = [ty.shape[0].clone() * ty.shape[1].clone(), width];
    let flat = b.reshape(cache, &rows)?;
    let x = b.cast(x, ty.dtype)?;
    let flat = b.op(Op::Scatter {}, &[flat, slots, x])?;
    b.reshape(flat, &ty.shape)
}

/// The attributes of a paged attention.
pub(super) struct Paged {
    pub heads: usize,
    pub kv_heads: usize,
    pub scale: f64,
    pub window: usize,
    pub softcap: f64,
}

impl Paged {
    /// Every token gathers the keys and values of its own sequence.
    pub fn attend(
        &self,
        b: &mut Builder<'_>,
        q: Value,
        [k, v]: [Value; 2],
        [offsets, past, table]: [Value; 3],
        [k_scale, v_scale, slopes]: [Option<Value>; 3],
    ) -> Built {
        let result = b.ty(q);
        let (tokens, dtype) = (result.shape[0].clone(), result.dtype);
        let sequences = b.ty(past).shape[0].clone();
        let (page, width) = (b.ty(k).shape[1].clone(), b.ty(k).shape[3].clone());
        let reach = b.ty(table).shape[1].clone() * page;
        let groups = self.heads / self.kv_heads;

        let ids = segment_ids(b, offsets, &tokens)?;
        let starts = Op::Slice { axis: 0, start: Dim::default(), stop: sequences.clone(), step: 1 };
        let starts = b.op(starts, &[offsets])?;
        let before = b.sub(past, starts)?;
        let before = b.gather(before, ids, 0)?;
        let token = b.iota(std::slice::from_ref(&tokens), 0, DType::I32)?;
        let position = b.add(before, token)?;

        // [pages, page, ..] to [tokens, reach, ..]: the pages of each sequence, then those of each token's sequence.
        let entries = b.ty(table).elements();
        let flat = b.reshape(table, &[entries])?;
        let of_token = |b: &mut Builder<'_>, x: Value| {
            let rest = b.ty(x).shape[2..].to_vec();
            let x = b.gather(x, flat, 0)?;
            let shape: Vec<Dim> = [sequences.clone(), reach.clone()].into_iter().chain(rest).collect();
            let x = b.reshape(x, &shape)?;
            b.gather(x, ids, 0)
        };
        let keys = [tokens.clone(), reach.clone(), Dim::from(self.kv_heads), width.clone()];
        let mut rows = [k, v];
        for (x, scale) in rows.iter_mut().zip([k_scale, v_scale]) {
            let taken = of_token(b, *x)?;
            *x = b.cast(taken, dtype)?;
            if let Some(scale) = scale {
                let scale = of_token(b, scale)?;
                let scale = b.cast(scale, dtype)?;
                let scale = b.broadcast(scale, &keys, &[0, 1, 2])?;
                *x = b.mul(*x, scale)?;
            }
            *x = b.transpose(*x, &[0, 2, 1, 3])?;
        }
        let [k, v] = rows;
        let q = b.reshape(q, &[tokens.clone(), Dim::from(self.kv_heads), Dim::from(groups), width])?;
        let scores = b.dot(q, k, true)?;
        let mut scores = b.mul_const(scores, self.scale)?;
        if self.softcap != 0.0 {
            let inner = b.binary_const(Binary::Div, scores, self.softcap)?;
            let inner = b.unary(Unary::Tanh, inner)?;
            scores = b.mul_const(inner, self.softcap)?;
        }
        let shape = b.ty(scores).shape;
        let grid = [tokens, reach];
        let key = b.iota(&grid, 1, DType::I32)?;
        let position = b.broadcast(position, &grid, &[0])?;
        let ahead = b.sub(key, position)?;
        if let Some(slopes) = slopes {
            let slopes = widen(b, slopes)?;
            let slopes = b.reshape(slopes, &[Dim::from(self.kv_heads), Dim::from(groups)])?;
            let slopes = b.broadcast(slopes, &shape, &[1, 2])?;
            let distance = b.cast(ahead, dtype)?;
            let distance = b.broadcast(distance, &shape, &[0, 3])?;
            let bias = b.mul(slopes, distance)?;
            scores = b.add(scores, bias)?;
        }
        let mut seen = b.compare_const(Compare::Le, ahead, 0.0)?;
        if self.window != 0 {
            let near = b.compare_const(Compare::Gt, ahead, -(self.window as f64))?;
            seen = b.binary(Binary::And, seen, near)?;
        }
        let seen = b.broadcast(seen, &shape, &[0, 3])?;
        let hidden = b.full_like(scores, f64::NEG_INFINITY)?;
        let scores = b.select(seen, scores, hidden)?;
        let weights = softmax(b, scores)?;
        let y = b.dot(weights, v, false)?;
        b.reshape(y, &result.shape)
    }
}
