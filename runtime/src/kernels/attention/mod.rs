//! Attention of sequences to keys and values of their own: `softmax(q kᵀ · scale + bias) · v` per head. Sequences lie one
//! after the other, packed or all of one length; no arithmetic is spent on keys that a mask hides.
//!
//! A task is a block of query rows of one head of one sequence. The keys and values of the head are packed once (keys
//! transposed, those not seen left out) and reused by the tasks that follow with the same ones. Scores of a few query
//! rows and up to [`KEY_BLOCK`] keys stay in the first-level cache; longer sequences go block by block with a running
//! shift and sum (Milakov and Gimelshein 2018; Dao et al. 2022), so memory is bounded whatever the length.
//!
//! The order of operations of an output row is a function of its sequence's keys that are seen and of its position in it
//! alone: keys in order, in blocks that start at the sequence's first key. So a masked key does what no key does.

mod block;
mod dropout;
mod grad;
mod pack;
mod softmax;

use super::isa::Isa;
use super::scratch::with_scratch;
use super::simd::{Kernel, LANES, Simd};
use crate::threads::Barrier;
use block::attend;
use pack::Packed;

pub(super) use block::tiles;
#[cfg(test)]
pub(crate) use grad::attention_grad_on;
pub use grad::{AttentionGradArgs, attention_grad};
pub(super) use softmax::exponentiate;

/// Arguments of [`attention_packed`]. Strides count elements.
#[repr(C)]
pub struct AttentionArgs {
    /// Queries: tokens × (heads · head_dim), a token's values contiguous.
    pub q: *const f32,
    /// From one token of `q` to the next.
    pub q_stride: i64,
    /// Keys: tokens × (kv_heads · head_dim).
    pub k: *const f32,
    /// From one token of `k` to the next.
    pub k_stride: i64,
    /// Values: tokens × (kv_heads · head_dim).
    pub v: *const f32,
    /// From one token of `v` to the next.
    pub v_stride: i64,
    /// Output: tokens × (heads · head_dim); must not overlap the inputs.
    pub out: *mut f32,
    /// From one token of `out` to the next.
    pub out_stride: i64,
    /// Sequence s is the tokens `offsets[s]..offsets[s + 1]` of queries and keys alike; `batch` + 1 ascending values from
    /// 0 to the token count. The caller has checked them: this function trusts them. Null where all sequences have
    /// `queries` queries and `keys` keys.
    pub offsets: *const i32,
    /// Sequences.
    pub batch: i64,
    /// Queries of each sequence, without `offsets`.
    pub queries: i64,
    /// Keys of each sequence, without `offsets`.
    pub keys: i64,
    /// Query heads.
    pub heads: i64,
    /// Key and value heads, a divisor of `heads`: query head h uses head h · kv_heads / heads.
    pub kv_heads: i64,
    /// Values of a head.
    pub head_dim: i64,
    /// Added to the scores by distance, or null: `heads` × (2 · `positions` - 1), where a query and a key meet in column
    /// `positions` - 1 + position of the key - position of the query, or the nearest there is.
    pub relative_bias: *const f32,
    /// Positions the relative bias covers, at least 1; farther ones count as the farthest.
    pub positions: i64,
    /// A byte for each token of the keys, 0 where no query sees it; or null.
    pub key_mask: *const u8,
    /// Factor of the scores.
    pub scale: f32,
    /// 1 if a query sees no key behind itself, else 0. The last query then stands where the last key does; else the first
    /// ones stand together.
    pub causal: u32,
    /// Two words of which it is a function what is dropped of what queries take of keys, as the op `packed_attention` says;
    /// or null, and nothing is. Not together with `key_mask`.
    pub key: *const u32,
    /// Of the numbers of 16 bits so many drop.
    pub dropped: u32,
    /// Factor of what is not dropped; 1 without `key`.
    pub kept: f32,
    /// Where the threads of the call draw tickets; nobody has drawn one since they met there.
    pub barrier: *const Barrier,
}

/// What this thread of `threads` comes to draw of it. A row that sees no key is zero.
///
/// # Safety
/// The operands are as [`AttentionArgs`] describes them, alive, and `out` not accessed by others until all threads are
/// through; all threads come here with equal arguments.
pub unsafe extern "C" fn attention_packed(args: *const AttentionArgs, _thread: i64, threads: i64) {
    // SAFETY: the caller's promise.
    unsafe { attention_on(Isa::current(), &*args, threads as usize) }
}

/// [`attention_packed`] on a given instruction set.
///
/// # Safety
/// As for [`attention_packed`].
pub(crate) unsafe fn attention_on(isa: Isa, args: &AttentionArgs, threads: usize) {
    if args.batch <= 0 || args.head_dim <= 0 || args.heads <= 0 {
        return;
    }
    // SAFETY: `offsets` has `batch` + 1 values.
    let offsets =
        (!args.offsets.is_null()).then(|| unsafe { std::slice::from_raw_parts(args.offsets, args.batch as usize + 1) });
    let sequences = Sequences { args, offsets };
    let longest = (0..args.batch as usize).map(|s| sequences.get(s).keys).max().unwrap_or(0);
    let width = (args.head_dim as usize).next_multiple_of(LANES);
    let keys = longest.min(KEY_BLOCK).next_multiple_of(LANES);
    let states = LONG_QUERY_BLOCK.div_ceil(SCORE_ROWS) * LANES;
    let sizes = [keys * width, keys * width, SCORE_ROWS * keys, LONG_QUERY_BLOCK * width, 2 * states];
    with_scratch(sizes.iter().sum(), |scratch| {
        let (keys, scratch) = scratch.split_at_mut(sizes[0]);
        let (values, scratch) = scratch.split_at_mut(sizes[1]);
        let (scores, scratch) = scratch.split_at_mut(sizes[2]);
        let (outputs, scratch) = scratch.split_at_mut(sizes[3]);
        let (shifts, sums) = scratch.split_at_mut(states);
        let packed = Packed::new(keys, values);
        let buffers = Buffers { packed, scores, outputs, shifts, sums };
        isa.run(Attention { sequences, threads, buffers });
    });
}

/// Keys whose scores are held at once: 12 rows of them are 24 KB.
const KEY_BLOCK: usize = 512;
/// Query rows of a task: where all keys fit one block, tasks that follow each other share the packed keys and may be
/// small; else each task packs all keys anew and is larger.
const QUERY_BLOCK: usize = 48;
const LONG_QUERY_BLOCK: usize = 192;
/// Query rows whose scores are held at once: at most a vector has lanes, so that the rows' shifts and sums are one.
pub(super) const SCORE_ROWS: usize = 12;

struct Attention<'a> {
    sequences: Sequences<'a>,
    threads: usize,
    buffers: Buffers<'a>,
}

/// Where sequences lie.
#[derive(Clone, Copy)]
struct Sequences<'a> {
    args: &'a AttentionArgs,
    offsets: Option<&'a [i32]>,
}

/// Queries and keys of a sequence.
#[derive(Clone, Copy)]
struct Sequence {
    /// Its first query, and how many there are.
    query: usize,
    queries: usize,
    /// Its first key, and how many there are.
    key: usize,
    keys: usize,
    /// Position of the first query, the first key standing at 0; below 0 where the last queries have the keys.
    first: isize,
}

impl<'a> Sequences<'a> {
    fn get(self, s: usize) -> Sequence {
        if let Some(offsets) = self.offsets {
            let (start, len) = (offsets[s] as usize, (offsets[s + 1] - offsets[s]).max(0) as usize);
            return Sequence { query: start, queries: len, key: start, keys: len, first: 0 };
        }
        let (queries, keys) = (self.args.queries.max(0) as usize, self.args.keys.max(0) as usize);
        let first = if self.args.causal != 0 { keys as isize - queries as isize } else { 0 };
        Sequence { query: s * queries, queries, key: s * keys, keys, first }
    }

    /// All tasks, in order.
    fn tasks(self) -> impl Iterator<Item = Task> + use<'a> {
        let heads = self.args.heads as usize;
        (0..self.args.batch as usize).map(move |s| self.get(s)).flat_map(move |sequence| {
            let block = if sequence.keys <= KEY_BLOCK { QUERY_BLOCK } else { LONG_QUERY_BLOCK };
            (0..heads).flat_map(move |head| {
                (0..sequence.queries).step_by(block).map(move |first| Task {
                    sequence,
                    head,
                    first,
                    last: sequence.queries.min(first + block),
                })
            })
        })
    }
}

/// A block of query rows of one head of one sequence.
#[derive(Clone, Copy)]
struct Task {
    sequence: Sequence,
    head: usize,
    /// Query rows within the sequence.
    first: usize,
    last: usize,
}

impl Task {
    /// The last row of the block sees the keys before this one.
    fn keys(&self, causal: bool) -> usize {
        let Sequence { keys, first, .. } = self.sequence;
        if causal { keys.min((first + self.last as isize).max(0) as usize) } else { keys }
    }

    /// What it takes, in steps of a row and a key: products, a little for each row, and the packing of keys.
    fn cost(&self, causal: bool) -> usize {
        let keys = self.keys(causal);
        (self.last - self.first) * (keys + 16) + keys
    }
}

/// This thread's working memory.
struct Buffers<'a> {
    packed: Packed<'a>,
    /// Scores of a few rows.
    scores: &'a mut [f32],
    /// Unnormalised outputs of the task's rows.
    outputs: &'a mut [f32],
    /// What is taken from the scores of each row before 2 is raised to them, and the sum of the powers: a vector for each
    /// [`SCORE_ROWS`] rows.
    shifts: &'a mut [f32],
    sums: &'a mut [f32],
}

impl Kernel for Attention<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let args = self.sequences.args;
        // SAFETY: the barrier outlives the call.
        let barrier = unsafe { &*args.barrier };
        let mut mine = barrier.ticket();
        for (task, share) in shares(self.sequences, self.threads) {
            if share > mine {
                mine = barrier.ticket();
            }
            if share == mine {
                // SAFETY: the task is one of the operands' as the caller describes them, and this thread's alone, since
                // each ticket is drawn once.
                unsafe { attend(s, args, task, &mut self.buffers) };
            }
        }
    }
}

/// All tasks with the number of the share that each is part of. Threads take shares as they come to them; the first are
/// large, so that few keys are packed twice, the last are small, so that all threads are through at about the same time.
fn shares(sequences: Sequences<'_>, threads: usize) -> impl Iterator<Item = (Task, usize)> {
    let causal = sequences.args.causal != 0;
    let mut left: usize = sequences.tasks().map(|task| task.cost(causal)).sum();
    let (mut share, mut end) = (0, left - left / (2 * threads));
    sequences.tasks().map(move |task| {
        if left <= end && threads > 1 {
            (share, end) = (share + 1, left - left / (2 * threads));
        }
        left -= task.cost(causal);
        (task, share)
    })
}
