//! How the token sequences of a batch lie in memory. Model code asks a [`Sequence`] for what crosses tokens (positions,
//! attention, pooling) and does not notice the layout.

use std::cell::OnceCell;

use lith_ir::{Compare, DType, Dim, Op, Pool, SymbolInfo};

use crate::{Tensor, Trace};

/// How the sequences of a batch lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// One after the other without padding: tensors are `[tokens, ..]`, and `offsets i32[sequences + 1]` runs from 0 to
    /// `tokens`.
    Packed,
    /// A grid: tensors are `[batch, seq, ..]`, and `attention_mask bool[batch, seq]` tells tokens from padding.
    /// Padding follows the tokens.
    Padded,
}

/// How scores of a query against keys become weights.
#[derive(Clone, Debug)]
pub struct AttentionSpec<'a> {
    /// Number of query heads.
    pub heads: usize,
    /// What scores are multiplied by.
    pub scale: f64,
    /// Whether a token sees only itself and tokens before it.
    pub causal: bool,
    /// Added to the scores: `[heads, 2p - 1]`, where query `i` and key `j` take element `j - i + p - 1`, clamped.
    pub rel_bias: Option<&'a Tensor>,
}

/// The token sequences of a batch.
///
/// "One vector for each sequence" is `[sequences, h]` in the packed layout and `[batch, h]` in the padded one. A
/// sequence without tokens has no meaningful vector (means and sums are zeros), and does not disturb the others.
#[derive(Clone, Debug)]
pub struct Sequence {
    trace: Trace,
    layout: Layout,
    ids: Tensor,
    type_ids: Option<Tensor>,
    /// `offsets` or `attention_mask`.
    bounds: Tensor,
    /// Number of sequences.
    count: Dim,
    /// The sequence of each token; packed only.
    segments: OnceCell<Tensor>,
}

impl Sequence {
    /// Adds the arguments of token sequences to a trace: `input_ids`, `token_type_ids` if asked for (`i32` both), and
    /// `offsets` or `attention_mask`. A sequence has at most `max_length` tokens.
    pub fn arguments(trace: &Trace, layout: Layout, type_ids: bool, max_length: usize) -> Self {
        let any = SymbolInfo::default;
        let (shape, count) = match layout {
            Layout::Packed => (vec![trace.symbol("tokens", any())], trace.symbol("sequences", any())),
            Layout::Padded => {
                let batch = trace.symbol("batch", any());
                let max = i64::try_from(max_length).unwrap_or(i64::MAX).min(any().max);
                (vec![batch.clone(), trace.symbol("seq", SymbolInfo { max, ..any() })], batch)
            }
        };
        let tokens = |name| trace.argument(name, DType::I32, shape.clone());
        let ids = tokens("input_ids");
        let type_ids = type_ids.then(|| tokens("token_type_ids"));
        let bounds = match layout {
            Layout::Packed => trace.argument("offsets", DType::I32, [count.clone() + Dim::constant(1)]),
            Layout::Padded => trace.argument("attention_mask", DType::Bool, shape.clone()),
        };
        Sequence { trace: trace.clone(), layout, ids, type_ids, bounds, count, segments: OnceCell::new() }
    }

    /// The layout.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The ids of the tokens: `i32[tokens]` or `i32[batch, seq]`.
    pub fn ids(&self) -> &Tensor {
        &self.ids
    }

    /// The type ids of the tokens, if they were asked for.
    pub fn type_ids(&self) -> Option<&Tensor> {
        self.type_ids.as_ref()
    }

    /// The first (`0`) or last (`1`) bound of each sequence in the packed layout: `i32[sequences]`.
    fn offsets(&self, end: i64) -> Tensor {
        self.bounds.slice(0, end, self.count.clone() + Dim::constant(end))
    }

    /// A value for each token from one for each sequence, packed layout: `[sequences, ..]` to `[tokens, ..]`.
    fn of_segment(&self, x: &Tensor) -> Tensor {
        let segments = self.segments.get_or_init(|| match self.ids.shape() {
            [tokens] => self.trace.record(Op::SegmentIds { tokens: tokens.clone() }, &[&self.bounds]),
            _ => self.ids.clone(),
        });
        x.gather(0, segments)
    }

    /// The position of each token in its sequence, from 0: `i32`, shaped as the ids.
    pub fn positions(&self) -> Tensor {
        match self.layout {
            Layout::Packed => self.trace.iota(self.ids.shape(), 0, DType::I32) - self.of_segment(&self.offsets(0)),
            Layout::Padded => self.trace.iota(self.ids.shape(), 1, DType::I32),
        }
    }

    /// How many tokens with `counted` there are in the sequence up to each token, itself included. `counted` is `bool`,
    /// the result `i32`, both shaped as the ids.
    pub fn running_count(&self, counted: &Tensor) -> Tensor {
        let counted = counted.cast(DType::I32);
        match self.layout {
            Layout::Packed => {
                let running = counted.cumsum(0);
                // What the tokens of earlier sequences have brought.
                let before = running.pad(0, 1, 0).gather(0, &self.offsets(0));
                running - self.of_segment(&before)
            }
            Layout::Padded => counted.cumsum(1),
        }
    }

    /// Attention within each sequence: `q, k, v [.., heads * d]`, result as `q`.
    pub fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor, spec: &AttentionSpec<'_>) -> Tensor {
        let AttentionSpec { heads, scale, causal, rel_bias } = *spec;
        let operands = [Some(q), Some(k), Some(v), Some(&self.bounds), rel_bias];
        let op = match self.layout {
            Layout::Packed => Op::PackedAttention { heads, kv_heads: heads, scale, causal },
            Layout::Padded => Op::Attention { heads, kv_heads: heads, scale, causal },
        };
        self.trace.record_with(op, &operands)
    }

    /// The number of tokens of each sequence as `[sequences, 1]` of the parameters' element type.
    pub fn lengths(&self) -> Tensor {
        let lengths = match self.layout {
            Layout::Packed => self.offsets(1) - self.offsets(0),
            Layout::Padded => self.bounds.cast(DType::I32).sum(&[1], false),
        };
        lengths.cast(self.trace.dtype()).reshape([self.count.clone(), Dim::constant(1)])
    }

    /// The vector of the first token of each sequence.
    pub fn first(&self, x: &Tensor) -> Tensor {
        match self.layout {
            Layout::Packed => x.gather(0, &self.offsets(0)),
            Layout::Padded => x.index(1, 0),
        }
    }

    /// The vector of the last token of each sequence.
    pub fn last(&self, x: &Tensor) -> Tensor {
        match self.layout {
            // Index -1, of an empty sequence at the start, is clamped by the gather.
            Layout::Packed => x.gather(0, &(self.offsets(1) - 1.0)),
            Layout::Padded => {
                let [batch, seq, width] = x.shape() else {
                    return self.trace.misfit("last token", shape_of(x));
                };
                let grid = [batch.clone(), seq.clone()];
                let column = self.trace.iota(&grid, 1, DType::I32) * self.bounds.cast(DType::I32);
                let row = self.trace.iota(std::slice::from_ref(batch), 0, DType::I32);
                let index = row * self.trace.size(seq.clone(), DType::I32) + column.max(&[1], false).at_least(0.0);
                x.reshape([batch.clone() * seq.clone(), width.clone()]).gather(0, &index)
            }
        }
    }

    /// One vector for each sequence from those of its tokens.
    pub fn pool(&self, x: &Tensor, f: Pool) -> Tensor {
        if self.layout == Layout::Packed {
            return self.trace.record(Op::SegmentPool { f }, &[x, &self.bounds]);
        }
        let [.., _width] = x.shape() else { return self.trace.misfit("pool", shape_of(x)) };
        let shape = self.bounds.shape();
        let token = self.bounds.reshape(shape.iter().cloned().chain([Dim::constant(1)]));
        let (Some(ty), Some(_)) = (x.ty(), token.ty()) else { return x.clone() };
        let fill = |value| self.trace.constant(lith_ir::Literal::scalar(ty.dtype, value));
        match f {
            Pool::Sum => token.select(x, &fill(0.0)).sum(&[1], false),
            Pool::Mean => self.pool(x, Pool::Sum) / self.lengths().cast(ty.dtype).at_least(1.0),
            Pool::Max => token.select(x, &fill(f64::NEG_INFINITY)).max(&[1], false),
        }
    }

    /// Position-weighted mean of each sequence's vectors: token `i`, from 0, weighs `i + 1` (Muennighoff 2022).
    pub fn weighted_mean(&self, x: &Tensor) -> Tensor {
        let shape = self.ids.shape().iter().cloned().chain([Dim::constant(1)]);
        let weight = (self.positions() + 1.0).cast(self.trace.dtype()).reshape(shape);
        // A sequence without tokens has weight 0, and all its sums are 0.
        self.pool(&(x * &weight), Pool::Sum) / self.pool(&weight, Pool::Sum).at_least(1.0)
    }

    /// Which tokens are not `id`: `bool`, shaped as the ids.
    pub fn is_not(&self, id: i64) -> Tensor {
        self.ids.compare_to(Compare::Ne, id as f64)
    }
}

fn shape_of(x: &Tensor) -> String {
    x.ty().map_or_else(String::new, |ty| format!("{ty}, expected [batch, seq, hidden]"))
}
