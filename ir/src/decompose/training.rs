//! What the composites of training mean: cross entropy with its gradient, random bits.

use super::{mean_last, widen};
use crate::build::{Builder, Built};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::graph::{GraphError, Value};
use crate::op::{Binary, Compare, Op, Reduction, Unary};

/// The attributes of a cross entropy.
pub(super) struct Target {
    pub ignore: i64,
    pub smoothing: f64,
}

/// Logits less the maximum of their row, their exponentials and the sums of those, `[rows, 1]`.
struct Shifted {
    logits: Value,
    exp: Value,
    sum: Value,
}

fn shifted(b: &mut Builder<'_>, x: Value) -> Result<Shifted, GraphError> {
    let shape = b.ty(x).shape;
    let max = b.reduce_last(Reduction::Max, x)?;
    let max = b.expand(max, &shape)?;
    let logits = b.sub(x, max)?;
    let exp = b.unary(Unary::Exp, logits)?;
    let sum = b.reduce_last(Reduction::Sum, exp)?;
    Ok(Shifted { logits, exp, sum })
}

impl Target {
    /// `log sum(exp t) - (1 - smoothing) t[label] - smoothing mean(t)` for `t`, the logits less their maximum.
    pub fn loss(&self, b: &mut Builder<'_>, x: Value, labels: Value) -> Built {
        let Shifted { logits, sum, .. } = shifted(b, x)?;
        let hit = self.hits(b, x, labels)?;
        let zero = b.full_like(logits, 0.0)?;
        let of_label = b.select(hit, logits, zero)?;
        let of_label = b.reduce_last(Reduction::Sum, of_label)?;
        let mut loss = b.unary(Unary::Log, sum)?;
        if self.smoothing == 0.0 {
            loss = b.sub(loss, of_label)?;
        } else {
            let of_label = b.mul_const(of_label, 1.0 - self.smoothing)?;
            loss = b.sub(loss, of_label)?;
            let mean = mean_last(b, logits)?;
            let mean = b.mul_const(mean, self.smoothing)?;
            loss = b.sub(loss, mean)?;
        }
        let rows = b.ty(x).shape[..1].to_vec();
        let loss = b.reshape(loss, &rows)?;
        let ignored = b.compare_const(Compare::Eq, labels, self.ignore as f64)?;
        let zero = b.full_like(loss, 0.0)?;
        b.select(ignored, zero, loss)
    }

    /// `dy (p - (1 - smoothing) onehot - smoothing / classes)`
    pub fn gradient(&self, b: &mut Builder<'_>, x: Value, labels: Value, dy: Value) -> Built {
        let ty = b.ty(x);
        let Shifted { exp, sum, .. } = shifted(b, x)?;
        let sum = b.expand(sum, &ty.shape)?;
        let p = b.div(exp, sum)?;
        let hit = self.hits(b, x, labels)?;
        let zero = b.full_like(p, 0.0)?;
        let wanted = b.full_like(p, 1.0 - self.smoothing)?;
        let wanted = b.select(hit, wanted, zero)?;
        let mut gradient = b.sub(p, wanted)?;
        if self.smoothing != 0.0 {
            let classes = b.size(&ty.shape[1], ty.dtype)?;
            let smoothing = b.scalar(ty.dtype, self.smoothing)?;
            let share = b.div(smoothing, classes)?;
            let share = b.broadcast(share, &ty.shape, &[])?;
            gradient = b.sub(gradient, share)?;
        }
        let dy = widen(b, dy)?;
        let dy = b.broadcast(dy, &ty.shape, &[0])?;
        let gradient = b.mul(gradient, dy)?;
        let ignored = b.compare_const(Compare::Eq, labels, self.ignore as f64)?;
        let ignored = b.broadcast(ignored, &ty.shape, &[0])?;
        b.select(ignored, zero, gradient)
    }

    /// Where the class is the row's label, `bool` of the shape of `x`.
    fn hits(&self, b: &mut Builder<'_>, x: Value, labels: Value) -> Built {
        let shape = b.ty(x).shape;
        let labels = b.binary_const(Binary::Max, labels, 0.0)?;
        let rows = b.ty(labels).shape;
        let last = b.size(&(shape[1].clone() - Dim::constant(1)), DType::I32)?;
        let last = b.broadcast(last, &rows, &[])?;
        let labels = b.binary(Binary::Min, labels, last)?;
        let labels = b.broadcast(labels, &shape, &[0])?;
        let class = b.iota(&shape, 1, DType::I32)?;
        b.compare(Compare::Eq, class, labels)
    }
}

/// The words of elements by their place.
pub(super) fn random_bits(b: &mut Builder<'_>, key: Value, shape: &[Dim], stream: usize) -> Built {
    let keys = words_of(b, key)?;
    let flat = [shape.iter().cloned().fold(Dim::constant(1), |a, d| a * d)];
    let place = b.iota(&flat, 0, DType::U32)?;
    let stream = b.full_like(place, stream as f64)?;
    let [first, second] = threefry(b, keys, [place, stream])?;
    let word = b.binary(Binary::Xor, first, second)?;
    b.reshape(word, shape)
}

/// The two scalar words of a key.
fn words_of(b: &mut Builder<'_>, key: Value) -> Result<[Value; 2], GraphError> {
    let mut words = [key; 2];
    for (word, part) in words.iter_mut().enumerate() {
        let slice = Op::Slice { axis: 0, start: Dim::from(word), stop: Dim::from(word + 1), step: 1 };
        *part = b.op(slice, &[key])?;
        *part = b.reshape(*part, &[])?;
    }
    Ok(words)
}

/// The numbers of 16 bits, as `u32`, that decide for queries and keys of attention what is dropped, see
/// [`Op::PackedAttention`]: `row`, the number of query and head, and `place`, the position of the key, are `u32` of one shape.
pub(super) fn attention_draws(b: &mut Builder<'_>, key: Value, row: Value, place: Value) -> Built {
    let keys = words_of(b, key)?;
    let run = b.binary_const(Binary::Shr, place, 6.0)?;
    let run = b.mul_const(run, 16.0)?;
    let within = b.binary_const(Binary::And, place, 15.0)?;
    let column = b.add(run, within)?;
    let [first, second] = threefry(b, keys, [row, column])?;
    let later = b.binary_const(Binary::And, place, 32.0)?;
    let later = b.compare_const(Compare::Ne, later, 0.0)?;
    let word = b.select(later, second, first)?;
    // By 16 where the high half is meant.
    let high = b.binary_const(Binary::And, place, 16.0)?;
    let half = b.binary(Binary::Shr, word, high)?;
    b.binary_const(Binary::And, half, 65535.0)
}

/// How far the second word turns in each round; in groups of four rounds, between which words of the key are added.
const ROTATIONS: [[u32; 4]; 2] = [[13, 15, 26, 6], [17, 29, 16, 24]];

/// Makes the third word of the key from the other two.
const PARITY: u32 = 0x1bd1_1bda;

/// Threefry-2x32 with 20 rounds (Salmon et al. 2011, section 3.3): the two words of each pair of words of `counter`, `u32`
/// of any shape, under the scalar words of `key`.
///
/// # Errors
/// When operands are of other types.
pub fn threefry(b: &mut Builder<'_>, key: [Value; 2], counter: [Value; 2]) -> Result<[Value; 2], GraphError> {
    let shape = b.ty(counter[0]).shape;
    let third = b.binary(Binary::Xor, key[0], key[1])?;
    let third = b.binary_const(Binary::Xor, third, PARITY.into())?;
    let keys = [key[0], key[1], third];
    // Adds words `n` and `n + 1` of the key, and `n` to the second.
    let add_key = |b: &mut Builder<'_>, words: [Value; 2], n: usize| -> Result<[Value; 2], GraphError> {
        let mut second = keys[(n + 1) % 3];
        if n > 0 {
            second = b.add_const(second, n as f64)?;
        }
        let first = b.broadcast(keys[n % 3], &shape, &[])?;
        let second = b.broadcast(second, &shape, &[])?;
        Ok([b.add(words[0], first)?, b.add(words[1], second)?])
    };
    let mut words = add_key(b, counter, 0)?;
    for group in 0..5 {
        for places in ROTATIONS[group % 2] {
            let first = b.add(words[0], words[1])?;
            let up = b.binary_const(Binary::Shl, words[1], places.into())?;
            let down = b.binary_const(Binary::Shr, words[1], (32 - places).into())?;
            let turned = b.binary(Binary::Or, up, down)?;
            words = [first, b.binary(Binary::Xor, turned, first)?];
        }
        words = add_key(b, words, group + 1)?;
    }
    Ok(words)
}
