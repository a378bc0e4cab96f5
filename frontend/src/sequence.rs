//! How the token sequences of a batch lie in memory. Model code asks a [`Sequence`] for what crosses tokens (positions,
//! attention, pooling) and does not notice the layout.

use std::cell::OnceCell;

use lith_ir::{CachePart, Compare, DType, Dim, Op, Pool, SymbolInfo};

use crate::cache::{Cache, CacheType};
use crate::{Scope, Tensor, Trace};

/// How the sequences of a batch lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// One after the other without padding: tensors are `[tokens, ..]`, and `offsets i32[sequences + 1]` runs from 0 to
    /// `tokens`.
    Packed,
    /// A grid: tensors are `[batch, seq, ..]`, and `attention_mask bool[batch, seq]` tells tokens from padding.
    /// Padding follows the tokens.
    Padded,
    /// As [`Layout::Packed`], each sequence continuing what a paged cache of this type holds of it. The arguments are
    /// `input_ids i32[tokens]`, `offsets i32[sequences + 1]`, `past i32[sequences]` (how many tokens of each sequence the
    /// cache holds), `pages i32[sequences, table]` (where: position `p` of sequence `s` in page `pages[s, p / 64]`, at
    /// `p % 64`) and `outputs i32[outputs]` (the tokens whose results are wanted, see [`Sequence::output_rows`]). Positions
    /// of a sequence fit its part of `pages`.
    Paged(CacheType),
}

/// How scores of a query against keys become weights.
#[derive(Clone, Debug)]
pub struct AttentionSpec<'a> {
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads; each serves `heads / kv_heads` neighbouring query heads.
    pub kv_heads: usize,
    /// What scores are multiplied by.
    pub scale: f64,
    /// Whether a token sees only itself and tokens before it.
    pub causal: bool,
    /// Added to the scores: `[heads, 2p - 1]`, where query `i` and key `j` take element `j - i + p - 1`, clamped.
    pub rel_bias: Option<&'a Tensor>,
    /// How many tokens, itself included, a token sees; 0 for all.
    pub window: usize,
    /// Scores become `softcap * tanh(score / softcap)`; 0 for not at all.
    pub softcap: f64,
    /// Added to the scores is `slopes[head]`, `[heads]`, times the position of the key less that of the query (ALiBi,
    /// Press et al. 2021).
    pub slopes: Option<&'a Tensor>,
    /// The share of what a token takes of others that is dropped where the trace has started dropout, see
    /// [`Op::PackedAttention`]; below 1, and 0 for none.
    pub dropout: f64,
}

impl AttentionSpec<'_> {
    /// Heads of equal number for queries and keys, scores scaled by `1 / sqrt(d)`, every token sees every other.
    pub fn plain(heads: usize, d: f64) -> Self {
        let scale = 1.0 / d.sqrt();
        AttentionSpec {
            heads,
            kv_heads: heads,
            scale,
            causal: false,
            rel_bias: None,
            window: 0,
            softcap: 0.0,
            slopes: None,
            dropout: 0.0,
        }
    }
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
    /// Most tokens of a sequence.
    max_length: usize,
    /// Paged only.
    cache: Option<Cache>,
    /// The sequence of each token; not padded.
    segments: OnceCell<Tensor>,
    positions: OnceCell<Tensor>,
    /// The place in the cache of each token; paged only.
    slots: OnceCell<Tensor>,
}

impl Sequence {
    /// Adds the arguments of token sequences to a trace: `input_ids`, `token_type_ids` if asked for (`i32` both), and
    /// what the layout brings. A sequence has at most `max_length` tokens.
    pub fn arguments(trace: &Trace, layout: Layout, type_ids: bool, max_length: usize) -> Self {
        let any = SymbolInfo::default;
        let (shape, count) = match layout {
            Layout::Packed | Layout::Paged(_) => {
                (vec![trace.symbol("tokens", any())], trace.symbol("sequences", any()))
            }
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
            Layout::Packed | Layout::Paged(_) => {
                trace.argument("offsets", DType::I32, [count.clone() + Dim::constant(1)])
            }
            Layout::Padded => trace.argument("attention_mask", DType::Bool, shape.clone()),
        };
        let cache = match layout {
            Layout::Paged(kind) => {
                let table = trace.symbol("table", any());
                Some(Cache {
                    kind,
                    past: trace.argument("past", DType::I32, [count.clone()]),
                    pages: trace.argument("pages", DType::I32, [count.clone(), table]),
                    outputs: trace.argument("outputs", DType::I32, [trace.symbol("outputs", any())]),
                    page_count: trace.symbol("page_count", any()),
                })
            }
            Layout::Packed | Layout::Padded => None,
        };
        let trace = trace.clone();
        let (segments, positions, slots) = Default::default();
        let made =
            Sequence { trace, layout, ids, type_ids, bounds, count, max_length, cache, segments, positions, slots };
        if made.cache.is_some() {
            // Here rather than at first use: what all layers share must not stand in one of them.
            made.slots();
        }
        made
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

    /// The sequence of each token: `i32[tokens]`; not in the padded layout.
    fn segments(&self) -> &Tensor {
        self.segments.get_or_init(|| match self.ids.shape() {
            [tokens] => self.trace.record(Op::SegmentIds { tokens: tokens.clone() }, &[&self.bounds]),
            _ => self.ids.clone(),
        })
    }

    /// A value for each token from one for each sequence: `[sequences, ..]` to `[tokens, ..]`; not in the padded layout.
    fn of_segment(&self, x: &Tensor) -> Tensor {
        x.gather(0, self.segments())
    }

    /// The position of each token in its sequence, from 0: `i32`, shaped as the ids.
    pub fn positions(&self) -> Tensor {
        let made = self.positions.get_or_init(|| {
            let place = |axis| self.trace.iota(self.ids.shape(), axis, DType::I32);
            match (self.layout, &self.cache) {
                (Layout::Padded, _) => place(1),
                (_, None) => place(0) - self.of_segment(&self.offsets(0)),
                (_, Some(cache)) => place(0) + self.of_segment(&(&cache.past - self.offsets(0))),
            }
        });
        made.clone()
    }

    /// The number of tokens of each token's sequence, those before in the cache included: `i32`, shaped as the ids.
    pub fn reaches(&self) -> Tensor {
        let new = || self.offsets(1) - self.offsets(0);
        match (self.layout, &self.cache) {
            (Layout::Padded, _) => self.bounds.cast(DType::I32).sum(&[1], true).broadcast_to(self.ids.shape()),
            (_, None) => self.of_segment(&new()),
            (_, Some(cache)) => self.of_segment(&(&cache.past + new())),
        }
    }

    fn slots(&self) -> Option<&Tensor> {
        let cache = self.cache.as_ref()?;
        Some(self.slots.get_or_init(|| cache.slots(&self.positions(), self.segments())))
    }

    /// The rows of the tokens whose results are wanted: in the paged layout `[outputs, ..]`, in the others all.
    pub fn output_rows(&self, x: &Tensor) -> Tensor {
        self.cache.as_ref().map_or_else(|| x.clone(), |cache| x.gather(0, &cache.outputs))
    }

    /// How many tokens with `counted` there are in the sequence up to each token, itself included, without those in a
    /// cache. `counted` is `bool`,
    /// the result `i32`, both shaped as the ids.
    pub fn running_count(&self, counted: &Tensor) -> Tensor {
        let counted = counted.cast(DType::I32);
        match self.layout {
            Layout::Packed | Layout::Paged(_) => {
                let running = counted.cumsum(0);
                // What the tokens of earlier sequences have brought.
                let before = running.pad(0, 1, 0).gather(0, &self.offsets(0));
                running - self.of_segment(&before)
            }
            Layout::Padded => counted.cumsum(1),
        }
    }

    /// Attention within each sequence: `q [.., heads * d]`, `k, v [.., kv_heads * d]`, result as `q`. In the paged layout
    /// the states of the cache are named by the scope's path, and attention is causal.
    pub fn attention(&self, scope: &Scope, q: &Tensor, k: &Tensor, v: &Tensor, spec: &AttentionSpec<'_>) -> Tensor {
        let AttentionSpec { heads, kv_heads, scale, causal, rel_bias, window, softcap, slopes, dropout } = *spec;
        let key = if dropout > 0.0 && dropout < 1.0 { self.trace.next_key() } else { None };
        if key.is_some() && self.layout != Layout::Packed {
            return self.trace.misfit("attention", "dropout needs the packed layout".into());
        }
        let Some((cache, slots)) = self.cache.as_ref().zip(self.slots()) else {
            // A window that no sequence leaves is none.
            if (window != 0 && window < self.max_length) || softcap != 0.0 || slopes.is_some() {
                let what = "windows, soft caps and slopes need the paged layout";
                return self.trace.misfit("attention", what.into());
            }
            let operands = [Some(q), Some(k), Some(v), Some(&self.bounds), rel_bias, key.as_ref()];
            return match self.layout {
                Layout::Packed | Layout::Paged(_) => {
                    let dropout = if key.is_some() { dropout } else { 0.0 };
                    self.trace.record_with(Op::PackedAttention { heads, kv_heads, scale, causal, dropout }, &operands)
                }
                Layout::Padded => {
                    self.trace.record_with(Op::Attention { heads, kv_heads, scale, causal }, &operands[..5])
                }
            };
        };
        if !causal || rel_bias.is_some() {
            return self.trace.misfit("attention", "the paged layout is for causal attention without a bias".into());
        }
        let keys = cache.append(scope, ("k", CachePart::Keys), k, kv_heads, slots);
        let values = cache.append(scope, ("v", CachePart::Values), v, kv_heads, slots);
        let first = [q, &keys.elements, &values.elements, &self.bounds, &cache.past, &cache.pages].map(Some);
        let operands: Vec<_> =
            first.into_iter().chain([keys.scales.as_ref(), values.scales.as_ref(), slopes]).collect();
        self.trace.record_with(Op::PagedAttention { heads, kv_heads, scale, window, softcap }, &operands)
    }

    /// The rows of the tokens at these positions of their sequences, `i32[sequences]`, clamped; packed layout only.
    pub fn at_positions(&self, x: &Tensor, positions: &Tensor) -> Tensor {
        match self.layout {
            Layout::Packed => x.gather(0, &(self.offsets(0) + positions)),
            _ => self.trace.misfit("positions", "tokens are chosen by position in the packed layout only".into()),
        }
    }

    /// The row of its sequence for each token: `[sequences, ..]` to `[tokens, ..]`; packed layout only.
    pub fn spread(&self, x: &Tensor) -> Tensor {
        match self.layout {
            Layout::Packed => self.of_segment(x),
            _ => self.trace.misfit("positions", "rows are spread in the packed layout only".into()),
        }
    }

    /// The number of tokens of each sequence as `[sequences, 1]` of the parameters' element type.
    pub fn lengths(&self) -> Tensor {
        let lengths = match self.layout {
            Layout::Packed | Layout::Paged(_) => self.offsets(1) - self.offsets(0),
            Layout::Padded => self.bounds.cast(DType::I32).sum(&[1], false),
        };
        lengths.cast(self.trace.dtype()).reshape([self.count.clone(), Dim::constant(1)])
    }

    /// The vector of the first token of each sequence.
    pub fn first(&self, x: &Tensor) -> Tensor {
        match self.layout {
            Layout::Packed | Layout::Paged(_) => x.gather(0, &self.offsets(0)),
            Layout::Padded => x.index(1, 0),
        }
    }

    /// The vector of the last token of each sequence.
    pub fn last(&self, x: &Tensor) -> Tensor {
        match self.layout {
            // Index -1, of an empty sequence at the start, is clamped by the gather.
            Layout::Packed | Layout::Paged(_) => x.gather(0, &(self.offsets(1) - 1.0)),
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
        if self.layout != Layout::Padded {
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
