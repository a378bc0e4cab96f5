//! What attention means, in both layouts, and its gradient.

use super::{segment_ids, softmax, training, widen};
use crate::build::{Builder, Built};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::graph::{GraphError, Value};
use crate::op::{Binary, Compare, Op, Reduction, dropped_of};

/// Which keys a query sees, and where they are.
struct Seen {
    /// Broadcasts to `[b, heads, sq, sk]` along the axes it names; all keys where absent.
    keys: Option<(Value, &'static [usize])>,
    /// `i32[sq, sk]`, how far ahead of each query each key is; serves the bias.
    ahead: Option<Value>,
    /// `i32[sk]`, the position of each key in its sequence; serves dropout.
    places: Option<Value>,
}

/// What both layouts of attention share.
pub(super) struct Heads {
    pub heads: usize,
    pub kv_heads: usize,
    pub scale: f64,
    pub rel_bias: Option<Value>,
    /// Key and share of what is dropped after the softmax.
    pub dropout: Option<(Value, f64)>,
}

impl Heads {
    /// `[b, s, kv * d]` to `[b, heads, s, d]`; each of the `kv` heads serves `heads / kv` neighbouring query heads.
    fn split(&self, b: &mut Builder<'_>, x: Value, kv: usize) -> Built {
        let shape = b.ty(x).shape;
        let (batch, length) = (shape[0].clone(), shape[1].clone());
        let width = Dim::constant(shape[2].as_const().unwrap_or(0) / kv as i64);
        let x = b.reshape(x, &[batch.clone(), length.clone(), Dim::from(kv), width.clone()])?;
        let x = b.transpose(x, &[0, 2, 1, 3])?;
        if kv == self.heads {
            return Ok(x);
        }
        let groups = [batch.clone(), Dim::from(kv), Dim::from(self.heads / kv), length.clone(), width.clone()];
        let x = b.broadcast(x, &groups, &[0, 1, 3, 4])?;
        b.reshape(x, &[batch, Dim::from(self.heads), length, width])
    }

    /// The reverse of [`Heads::split`], summed over the query heads that each of the `kv` heads serves.
    fn join(&self, b: &mut Builder<'_>, x: Value, kv: usize) -> Built {
        let shape = b.ty(x).shape;
        let (batch, length, width) = (shape[0].clone(), shape[2].clone(), shape[3].clone());
        let mut x = x;
        if kv != self.heads {
            let groups = [batch.clone(), Dim::from(kv), Dim::from(self.heads / kv), length.clone(), width.clone()];
            let grouped = b.reshape(x, &groups)?;
            x = b.reduce(Reduction::Sum, grouped, &[2], false)?;
        }
        let x = b.transpose(x, &[0, 2, 1, 3])?;
        b.reshape(x, &[batch, length, width * Dim::from(kv)])
    }

    /// How much each query takes of each key, `[b, heads, sq, sk]`, for `q, k [b, heads, s, d]`.
    fn weights(&self, b: &mut Builder<'_>, q: Value, k: Value, seen: &Seen) -> Built {
        let scores = b.dot(q, k, true)?;
        let mut scores = b.mul_const(scores, self.scale)?;
        let shape = b.ty(scores).shape;
        if let (Some(table), Some(ahead)) = (self.rel_bias, seen.ahead) {
            let table = widen(b, table)?;
            let zero = (b.ty(table).shape[1].as_const().unwrap_or(1) - 1) / 2;
            // Gathering clamps, as far distances should.
            let index = b.add_const(ahead, zero as f64)?;
            let bias = b.gather(table, index, 1)?;
            let bias = b.expand(bias, &shape)?;
            scores = b.add(scores, bias)?;
        }
        if let Some((condition, axes)) = seen.keys {
            let condition = b.broadcast(condition, &shape, axes)?;
            let never = b.full_like(scores, f64::NEG_INFINITY)?;
            scores = b.select(condition, scores, never)?;
        }
        softmax(b, scores)
    }

    /// The weights, or their gradient, `[b, heads, sq, sk]`, with what is dropped 0 and the rest over `1 - dropout`.
    fn dropped(&self, b: &mut Builder<'_>, weights: Value, seen: &Seen) -> Built {
        let (Some((key, dropout)), Some(places)) = (self.dropout, seen.places) else { return Ok(weights) };
        let shape = b.ty(weights).shape;
        let query = b.iota(&shape, 2, DType::U32)?;
        let first = b.mul_const(query, self.heads as f64)?;
        let head = b.iota(&shape, 1, DType::U32)?;
        let row = b.add(first, head)?;
        let places = b.cast(places, DType::U32)?;
        let place = b.broadcast(places, &shape, &[3])?;
        let draws = training::attention_draws(b, key, row, place)?;
        let kept = b.compare_const(Compare::Ge, draws, dropped_of(dropout).into())?;
        let larger = b.mul_const(weights, 1.0 / (1.0 - dropout))?;
        let zero = b.full_like(weights, 0.0)?;
        b.select(kept, larger, zero)
    }

    /// Attention of `q [b, sq, heads * d]` to `k, v [b, sk, kv_heads * d]`.
    fn attend(&self, b: &mut Builder<'_>, qkv: [Value; 3], seen: &Seen) -> Built {
        let [q, k, v] = qkv;
        let (k, v) = (widen(b, k)?, widen(b, v)?);
        let q = self.split(b, q, self.heads)?;
        let k = self.split(b, k, self.kv_heads)?;
        let v = self.split(b, v, self.kv_heads)?;
        let weights = self.weights(b, q, k, seen)?;
        let weights = self.dropped(b, weights, seen)?;
        let mixed = b.dot(weights, v, false)?;
        self.join(b, mixed, self.heads)
    }

    /// The gradients of [`Heads::attend`] with respect to query, key and value for the gradient `dy` of its result.
    fn attend_grad(
        &self,
        b: &mut Builder<'_>,
        qkv: [Value; 3],
        dy: Value,
        seen: &Seen,
    ) -> Result<[Value; 3], GraphError> {
        let [q, k, v] = qkv;
        let (k, v, dy) = (widen(b, k)?, widen(b, v)?, widen(b, dy)?);
        let q = self.split(b, q, self.heads)?;
        let k = self.split(b, k, self.kv_heads)?;
        let v = self.split(b, v, self.kv_heads)?;
        let dy = self.split(b, dy, self.heads)?;
        let weights = self.weights(b, q, k, seen)?;
        // dP = dy V^T, dropped as P is; dS = P (dP - sum(P dP)), the gradient of the softmax.
        let dp = b.dot(dy, v, true)?;
        let dp = self.dropped(b, dp, seen)?;
        let taken = b.mul(weights, dp)?;
        let sum = b.reduce_last(Reduction::Sum, taken)?;
        let shape = b.ty(dp).shape;
        let sum = b.expand(sum, &shape)?;
        let centred = b.sub(dp, sum)?;
        let ds = b.mul(weights, centred)?;
        let ds = b.mul_const(ds, self.scale)?;
        let transposed = |b: &mut Builder<'_>, x: Value| b.transpose(x, &[0, 1, 3, 2]);
        let dq = b.dot(ds, k, false)?;
        let ds = transposed(b, ds)?;
        let dk = b.dot(ds, q, false)?;
        let weights = self.dropped(b, weights, seen)?;
        let weights = transposed(b, weights)?;
        let dv = b.dot(weights, dy, false)?;
        Ok([self.join(b, dq, self.heads)?, self.join(b, dk, self.kv_heads)?, self.join(b, dv, self.kv_heads)?])
    }

    /// Key mask and causality as one condition over axes of `[b, heads, sq, sk]`.
    pub fn padded(&self, b: &mut Builder<'_>, qkv: [Value; 3], mask: Option<Value>, causal: bool) -> Built {
        let (q, k) = (b.ty(qkv[0]), b.ty(qkv[1]));
        let (batch, sq, sk) = (q.shape[0].clone(), q.shape[1].clone(), k.shape[1].clone());
        let first = if causal { sk.clone() - sq.clone() } else { Dim::constant(0) };
        let ahead = if causal || self.rel_bias.is_some() { Some(key_ahead(b, &sq, &sk, &first)?) } else { None };
        let past = match ahead.filter(|_| causal) {
            Some(ahead) => Some(b.compare_const(Compare::Le, ahead, 0.0)?),
            None => None,
        };
        let seen = match (mask, past) {
            (None, None) => None,
            (Some(mask), None) => Some((mask, [0usize, 3].as_slice())),
            (None, Some(past)) => Some((past, [2usize, 3].as_slice())),
            (Some(mask), Some(past)) => {
                let shape = [batch, sq, sk];
                let mask = b.broadcast(mask, &shape, &[0, 2])?;
                let past = b.broadcast(past, &shape, &[1, 2])?;
                Some((b.binary(Binary::And, mask, past)?, [0usize, 2, 3].as_slice()))
            }
        };
        self.attend(b, qkv, &Seen { keys: seen, ahead, places: None })
    }

    /// One row of the padded form that holds all sequences.
    pub fn packed(&self, b: &mut Builder<'_>, qkv: [Value; 3], offsets: Value, causal: bool) -> Built {
        let result = b.ty(qkv[0]);
        let seen = self.within_segments(b, offsets, &result.shape[0], causal)?;
        let [q, k, v] = qkv;
        let rows = [as_row(b, q)?, as_row(b, k)?, as_row(b, v)?];
        let y = self.attend(b, rows, &seen)?;
        b.reshape(y, &result.shape)
    }

    /// The gradients of [`Heads::packed`], beside each other.
    pub fn packed_grad(&self, b: &mut Builder<'_>, qkv: [Value; 3], offsets: Value, dy: Value, causal: bool) -> Built {
        let tokens = b.ty(qkv[0]).shape[0].clone();
        let seen = self.within_segments(b, offsets, &tokens, causal)?;
        let [q, k, v] = qkv;
        let (rows, dy) = ([as_row(b, q)?, as_row(b, k)?, as_row(b, v)?], as_row(b, dy)?);
        let gradients = self.attend_grad(b, rows, dy, &seen)?;
        let all = b.op(Op::Concat { axis: 2 }, &gradients)?;
        let shape = b.ty(all).shape;
        b.reshape(all, &shape[1..])
    }

    /// Tokens see only keys of their own segment.
    fn within_segments(
        &self,
        b: &mut Builder<'_>,
        offsets: Value,
        tokens: &Dim,
        causal: bool,
    ) -> Result<Seen, GraphError> {
        let ids = segment_ids(b, offsets, tokens)?;
        let shape = [tokens.clone(), tokens.clone()];
        let (of_query, of_key) = (b.broadcast(ids, &shape, &[0])?, b.broadcast(ids, &shape, &[1])?);
        let mut same = b.compare(Compare::Eq, of_query, of_key)?;
        let ahead = if causal || self.rel_bias.is_some() {
            Some(key_ahead(b, tokens, tokens, &Dim::constant(0))?)
        } else {
            None
        };
        if let Some(ahead) = ahead.filter(|_| causal) {
            let past = b.compare_const(Compare::Le, ahead, 0.0)?;
            same = b.binary(Binary::And, same, past)?;
        }
        let places = match self.dropout {
            None => None,
            Some(_) => {
                let token = b.iota(&shape[..1], 0, DType::I32)?;
                let first = b.gather(offsets, ids, 0)?;
                Some(b.sub(token, first)?)
            }
        };
        Ok(Seen { keys: Some((same, &[2, 3])), ahead, places })
    }
}

/// `[tokens, h]` as `[1, tokens, h]`.
fn as_row(b: &mut Builder<'_>, x: Value) -> Built {
    let shape: Vec<Dim> = std::iter::once(Dim::constant(1)).chain(b.ty(x).shape).collect();
    b.reshape(x, &shape)
}

/// `i32[sq, sk]`: how far each key is ahead of each query, the first query standing at position `first`.
fn key_ahead(b: &mut Builder<'_>, sq: &Dim, sk: &Dim, first: &Dim) -> Built {
    let shape = [sq.clone(), sk.clone()];
    let (i, j) = (b.iota(&shape, 0, DType::I32)?, b.iota(&shape, 1, DType::I32)?);
    let ahead = b.sub(j, i)?;
    if first.as_const() == Some(0) {
        return Ok(ahead);
    }
    let first = b.size(first, DType::I32)?;
    let first = b.broadcast(first, &shape, &[])?;
    b.sub(ahead, first)
}
