//! Cases of the ops of decoders.

use super::maker::{Axis, Maker, Values, built, fixed, ty};
use super::ops::{FLOATS, each, maybe_param, node};
use super::{Case, Rng, tolerance};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::graph::Value;
use crate::interp::Tensor;
use crate::op::{CachePart, Op};
use crate::plan::PAGE_TOKENS;
use crate::quant::{ACTIVATION_GROUP, ACTIVATION_LEVELS};

/// What a cache of keys and values may consist of.
const CACHED: [DType; 4] = [DType::F32, DType::F16, DType::Bf16, DType::I8];

/// Cases of the op of this name; none when it is no op of decoders.
pub(super) fn cases_for(op: &str, rng: &mut Rng) -> Vec<Case> {
    match op {
        "rms_norm" => each(&FLOATS, rng, rms_norm),
        "rope" => [false, true].into_iter().flat_map(|i| each(&FLOATS, rng, |d, r| rope(i, d, r))).collect(),
        "dynamic_quantize" => {
            let mut cases = each(&FLOATS, rng, dynamic_quantize);
            cases.extend((0..3).map(|_| quantized_linear(rng)));
            cases
        }
        "scatter" => each(&DType::ALL, rng, scatter),
        "cache_append" => {
            let mut cases = each(&DType::ALL, rng, cache_append);
            cases.extend(each(&CACHED, rng, appended_and_attended));
            cases
        }
        "paged_attention" => {
            let mut cases: Vec<Case> =
                CACHED.iter().flat_map(|&c| each(&FLOATS, rng, |d, r| paged_attention(c, d, r))).collect();
            cases.extend((0..3).flat_map(|_| each(&CACHED, rng, appended_and_attended)));
            cases
        }
        _ => Vec::new(),
    }
}

fn rms_norm(dtype: DType, rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let rank = m.rng.below(3);
    let mut shape = m.shape(rank);
    shape.push(fixed(m.size()));
    let x = m.arg(dtype, &shape, Values::Small);
    let weight = maybe_param(&mut m, dtype, &shape[rank..]);
    let (eps, offset) = (m.rng.pick(&[1e-5, 1e-6]), m.rng.pick(&[0.0, 1.0]));
    let y = node(&mut m, Op::RmsNorm { eps, offset }, &[Some(x), weight]);
    m.finish(&format!("rms_norm offset {offset}"), &[y], 8.0 * tolerance(dtype))
}

/// All of each head turns, or a part of it.
fn rope(interleaved: bool, dtype: DType, rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let (heads, half, rest) = (1 + m.rng.below(3), m.rng.pick(&[1, 2, 4, 8, 10, 16]), m.rng.pick(&[0, 0, 2, 5, 16]));
    let rank = 1 + m.rng.below(2);
    let lead = m.shape(rank);
    let with = |last: usize| -> Vec<Axis> { lead.iter().cloned().chain([fixed(last)]).collect() };
    let x = m.arg(dtype, &with(heads * (2 * half + rest)), Values::Small);
    let angles = [(); 2].map(|()| m.arg(dtype, &with(half), Values::Small));
    let y = m.op(Op::Rope { heads, interleaved }, &[x, angles[0], angles[1]]);
    let name = format!("rope of {heads} heads, {} of {} turned", 2 * half, 2 * half + rest);
    m.finish(&name, &[y], 2.0 * tolerance(dtype))
}

/// Rows of zeros among others; the last group may be shorter.
fn dynamic_quantize(dtype: DType, rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let rank = m.rng.below(3);
    let mut shape = m.shape(rank);
    shape.push(fixed(m.rng.pick(&[0, 1, 5, 31, 32, 33, 64, 80])));
    let values = m.rng.pick(&[Values::Small, Values::Small, Values::Range(0, 0)]);
    let x = m.arg(dtype, &shape, values);
    let group = m.rng.pick(&[1, 3, 16, 32, 128]);
    let levels = m.rng.pick(&ACTIVATION_LEVELS);
    let y = m.op(Op::DynamicQuantize { group, levels }, &[x]);
    m.finish(&format!("dynamic_quantize by {group} to {levels}"), &[y], tolerance(dtype))
}

/// A linear layer of quantized activations, one that shares them, and what follows.
fn quantized_linear(rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let (k, n) = (m.rng.pick(&[1, 16, 32, 48, 64, 96]), m.rng.pick(&[1, 15, 16, 17, 40]));
    let rows = m.axis();
    let x = m.arg(DType::F32, &[rows, fixed(k)], Values::Small);
    let x = built(m.build().mul_const(x, 0.5));
    let levels = m.rng.pick(&ACTIVATION_LEVELS);
    let quantized = m.op(Op::DynamicQuantize { group: ACTIVATION_GROUP, levels }, &[x]);
    let weights = [(); 2].map(|()| m.param(DType::F32, &[fixed(n), fixed(k)], Values::Small));
    let bias = maybe_param(&mut m, DType::F32, &[fixed(n)]);
    let first = node(&mut m, Op::Linear {}, &[Some(quantized), Some(weights[0]), bias]);
    let second = m.op(Op::Linear {}, &[quantized, weights[1]]);
    let sum = built(m.build().add(first, second));
    m.finish(&format!("linear of activations to {levels} {k} to {n}"), &[sum], 8.0 * tolerance(DType::F32))
}

/// Indices beyond both ends and equal ones.
fn scatter(dtype: DType, rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let rank = 1 + m.rng.below(3);
    let mut shape = m.shape(rank);
    let x = m.arg(dtype, &shape, Values::Any);
    let count = m.axis();
    let index_dtype = m.rng.pick(&[DType::I32, DType::I64, DType::U8, DType::I8]);
    let rows = shape[0].size as i64;
    let indices = m.arg(index_dtype, std::slice::from_ref(&count), Values::Range(-2, rows + 1));
    shape[0] = count;
    let updates = m.arg(dtype, &shape, Values::Any);
    let y = m.op(Op::Scatter {}, &[x, indices, updates]);
    m.finish(&format!("scatter {dtype}"), &[y], 0.0)
}

/// To a cache that is a plain tensor, of any type and with pages of any size.
fn cache_append(dtype: DType, rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let part = m.rng.pick(CachePart::ALL);
    let (pages, page) = (m.rng.pick(&[0, 1, 3, 5]), m.rng.pick(&[1, 2, 4]));
    let mut shape = vec![m.axis_of(pages), fixed(page), fixed(m.rng.pick(&[1, 2, 3]))];
    if part != CachePart::Scales {
        shape.push(fixed(m.rng.pick(&[1, 4, 7])));
    }
    let width = shape[2..].iter().map(|a| a.size).product();
    let cache = m.arg(dtype, &shape, Values::Any);
    let tokens = m.rng.pick(&[0, 1, 2, 5]);
    // Distinct slots from one before the first to some after the last.
    let slots = shuffled(m.rng, (-1..(pages * page + 6) as i64).collect());
    let tokens = m.axis_of(tokens);
    let from = if m.rng.one_in(2) { dtype } else { m.rng.pick(&FLOATS) };
    let x = m.arg(from, &[tokens.clone(), fixed(width)], Values::Small);
    let slots = ints(&mut m, &[tokens], slots);
    let y = m.op(Op::CacheAppend { part }, &[cache, x, slots]);
    m.finish(&format!("cache_append of {}", part.name()), &[y], 0.0)
}

/// Sequences of a call with what they have in the cache.
struct Batch {
    tokens: Axis,
    sequences: Axis,
    offsets: Value,
    past: Value,
    table: Value,
    slots: Value,
    /// Pages of the pool: more than the sequences have, in any order.
    pages: usize,
}

impl Batch {
    /// Some sequences of some new tokens each after some in the cache; either may be none.
    fn new(m: &mut Maker<'_>, page: usize) -> Batch {
        let sequences: Vec<(usize, usize)> = (0..m.rng.below(4))
            .map(|_| {
                let past = [0, 0, 1, page - 1, page, 2 * page + page / 3];
                (m.rng.pick(&past), m.rng.pick(&[0, 1, 1, 2, 5, 9]))
            })
            .collect();
        let needed = |&(past, new): &(usize, usize)| (past + new).div_ceil(page);
        let width = sequences.iter().map(needed).max().unwrap_or(0) + m.rng.below(2);
        let pages = sequences.iter().map(needed).sum::<usize>() + m.rng.below(3);
        let mut free = shuffled(m.rng, (0..pages as i64).collect());
        let (mut offsets, mut table, mut slots) = (vec![0i64], Vec::new(), Vec::new());
        for sequence in &sequences {
            let own: Vec<i64> = free.drain(..needed(sequence)).collect();
            let (past, new) = *sequence;
            slots.extend((past..past + new).map(|p| own[p / page] * page as i64 + (p % page) as i64));
            offsets.push(offsets[offsets.len() - 1] + new as i64);
            // Entries that no key needs may be anything.
            table.extend((0..width).map(|i| own.get(i).copied().unwrap_or(-1)));
        }
        let tokens = m.symbolic(slots.len());
        let count = m.axis_of(sequences.len());
        let ends = Axis { dim: count.dim.clone() + Dim::constant(1), size: count.size + 1 };
        let offsets = ints(m, &[ends], offsets);
        let past = ints(m, std::slice::from_ref(&count), sequences.iter().map(|&(past, _)| past as i64).collect());
        let width = m.axis_of(width);
        let table = ints(m, &[count.clone(), width], table);
        let slots = ints(m, std::slice::from_ref(&tokens), slots);
        Batch { tokens, sequences: count, offsets, past, table, slots, pages }
    }
}

/// Attributes of an attention, and whether it has slopes.
fn attention(m: &mut Maker<'_>, page: usize) -> (usize, usize, Op, bool) {
    let (heads, kv_heads) = m.rng.pick(&[(1, 1), (2, 2), (4, 2), (3, 1), (6, 2)]);
    let d = m.rng.pick(&[4, 6, 8, 16, 20, 32]);
    let window = m.rng.pick(&[0, 0, 1, 3, page + 2]);
    let softcap = m.rng.pick(&[0.0, 0.0, 5.0]);
    let op = Op::PagedAttention { heads, kv_heads, scale: 1.0 / (d as f64).sqrt(), window, softcap };
    (heads * d, d, op, m.rng.one_in(3))
}

/// To a cache that is a plain tensor.
fn paged_attention(cached: DType, dtype: DType, rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let page = m.rng.pick(&[1, 3, 8]);
    let batch = Batch::new(&mut m, page);
    let (width, d, op, sloped) = attention(&mut m, page);
    let Op::PagedAttention { heads, kv_heads, .. } = op else { unreachable!("an attention") };
    let q = m.arg(dtype, &[batch.tokens.clone(), fixed(width)], Values::Small);
    let pages = m.axis_of(batch.pages);
    let shape = [pages, fixed(page), fixed(kv_heads), fixed(d)];
    let [k, v] = [(); 2].map(|()| m.arg(cached, &shape, Values::Small));
    let scales = [(); 2].map(|()| (cached == DType::I8).then(|| m.arg(DType::F32, &shape[..3], Values::Positive)));
    let slopes = sloped.then(|| m.arg(dtype, &[fixed(heads)], Values::Positive));
    let name = describe(&op, &batch, cached);
    let operands = [Some(q), Some(k), Some(v), Some(batch.offsets), Some(batch.past), Some(batch.table)];
    let operands: Vec<_> = operands.into_iter().chain(scales).chain([slopes]).collect();
    let y = node(&mut m, op, &operands);
    m.finish(&name, &[y], 16.0 * tolerance(dtype))
}

/// As a decoder does: new keys and values go to states in pages, and attention reads them from there.
fn appended_and_attended(cached: DType, rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let batch = Batch::new(&mut m, PAGE_TOKENS);
    let (width, d, op, sloped) = attention(&mut m, PAGE_TOKENS);
    let Op::PagedAttention { heads, kv_heads, .. } = op else { unreachable!("an attention") };
    let q = m.arg(DType::F32, &[batch.tokens.clone(), fixed(width)], Values::Small);
    let pages = m.symbolic(batch.pages);
    let shape = [pages, fixed(PAGE_TOKENS), fixed(kv_heads), fixed(d)];
    let quantized = cached == DType::I8;
    // A cache of floats takes new tokens in `f32` or in its own type.
    let from = if quantized || m.rng.one_in(4) { cached } else { DType::F32 };
    let parts = [
        Some(("k", CachePart::Keys, cached, from)),
        Some(("v", CachePart::Values, cached, from)),
        quantized.then_some(("k_scale", CachePart::Scales, DType::F32, DType::F32)),
        quantized.then_some(("v_scale", CachePart::Scales, DType::F32, DType::F32)),
    ];
    let [k, v, k_scale, v_scale] = parts.map(|part| {
        let (name, part, dtype, from) = part?;
        let (shape, width, values) = match part {
            CachePart::Scales => (&shape[..3], kv_heads, Values::Positive),
            CachePart::Keys | CachePart::Values => (&shape[..], kv_heads * d, Values::Small),
        };
        let (name, state) = (format!("layer.0.{name}"), ty(dtype, shape));
        m.program.states.insert(name.clone(), state.clone());
        let held = m.tensor(dtype, shape, values);
        m.states.insert(name.clone(), held);
        let x = m.arg(from, &[batch.tokens.clone(), fixed(width)], values);
        let cache = m.op(Op::StateRead { name: name.clone(), ty: state }, &[]);
        let cache = m.op(Op::CacheAppend { part }, &[cache, x, batch.slots]);
        m.op(Op::StateWrite { name }, &[cache]);
        Some(cache)
    });
    let slopes = sloped.then(|| m.arg(DType::F32, &[fixed(heads)], Values::Positive));
    let name = describe(&op, &batch, cached);
    let operands = [Some(q), k, v, Some(batch.offsets), Some(batch.past), Some(batch.table), k_scale, v_scale, slopes];
    let y = node(&mut m, op, &operands);
    m.finish(&format!("{name} to states"), &[y], 16.0 * tolerance(DType::F32))
}

fn describe(op: &Op, batch: &Batch, cached: DType) -> String {
    format!("{op:?} of {} tokens of {} sequences to {cached}", batch.tokens.size, batch.sequences.size)
}

fn shuffled(rng: &mut Rng, mut values: Vec<i64>) -> Vec<i64> {
    for i in (1..values.len()).rev() {
        values.swap(i, rng.below(i + 1));
    }
    values
}

/// An `i32` argument of the first of these values.
fn ints(m: &mut Maker<'_>, shape: &[Axis], mut values: Vec<i64>) -> Value {
    values.truncate(shape.iter().map(|a| a.size).product());
    let sizes: Vec<usize> = shape.iter().map(|a| a.size).collect();
    let tensor = Tensor::ints(DType::I32, &sizes, values).unwrap_or_else(|e| panic!("test tensor: {e}"));
    m.arg_of(tensor, shape)
}
