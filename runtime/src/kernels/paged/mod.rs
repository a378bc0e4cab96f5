//! Attention of new tokens to sequences in a paged key/value cache: prefill, chunks of it and decoding alike.
//!
//! **Order of operations.** The keys of a sequence are cut into blocks of [`KEY_BLOCK`] positions, from position 0 on. A
//! row's result of a block (maximum, sum, weighted values) is computed from the keys of the block that the row sees and
//! from nothing else; a score sums over the head's elements in order, the values over the keys in order. Blocks are merged
//! in ascending order by one formula ([`block::merge`]). So a row's bits depend on its own sequence up to its own position alone: not on the
//! rows beside it, the pages, the threads, nor on where a call ends and the next begins.
//!
//! **Work.** The query heads of a key head and neighbouring tokens are the rows of a task, which share what is read of the
//! cache. Threads take equal runs of the list of all tasks; a small task may be cut between two blocks. The thread of
//! its first blocks keeps merging, the others leave a result for each block in shared memory, and after a barrier the first
//! thread merges those too (Dao et al. 2023, "Flash-Decoding", with blocks of fixed size).

mod block;
mod plan;

use std::marker::PhantomData;

use half::{bf16, f16};
use lith_ir::plan::PAGE_TOKENS;

use super::append::CacheType;
use super::attention::SCORE_ROWS;
use super::isa::Isa;
use super::scratch::{SharedScratch, with_scratch};
use super::simd::{Element, Kernel, LANES, Simd};
use crate::threads::Barrier;
use block::{Buffers, attend, finish, merge_rest};
use plan::Plan;

/// Keys whose result is computed at once, whatever the call: a constant of the numbers, not a setting.
const KEY_BLOCK: usize = 256;
const BLOCK_PAGES: usize = KEY_BLOCK / PAGE_TOKENS;

/// Arguments of [`attention_paged`]. Strides count elements unless they say bytes. How a page lies in memory is told
/// in `append.rs`.
#[repr(C)]
pub struct PagedArgs {
    /// Queries: tokens × (heads · head_dim), a token's values contiguous.
    pub q: *const f32,
    /// From one token of `q` to the next.
    pub q_stride: i64,
    /// The keys' part of the first page.
    pub k: *const u8,
    /// The values' part of the first page.
    pub v: *const u8,
    /// The part of the first page that holds what keys are multiplied by; null unless `dtype` is [`CacheType::I8`].
    pub k_scale: *const u8,
    /// The same of the values.
    pub v_scale: *const u8,
    /// Bytes from one page to the next.
    pub page_stride: i64,
    /// How keys and values are stored: a [`CacheType`] as a number.
    pub dtype: i64,
    /// Sequence s has the new tokens `offsets[s]..offsets[s + 1]`: `sequences` + 1 ascending values from 0 on. The caller
    /// has checked these, `past` and `table`: this function trusts them.
    pub offsets: *const i32,
    /// For each sequence the tokens before its new ones. The cache holds those and the new ones.
    pub past: *const i32,
    /// Page numbers, `table_width` for each sequence: its key j is place j % 64 of page j / 64 of them.
    pub table: *const i32,
    /// Page numbers of a sequence.
    pub table_width: i64,
    /// Sequences.
    pub sequences: i64,
    /// Query heads.
    pub heads: i64,
    /// Key and value heads, a divisor of `heads`: query head h uses head h · kv_heads / heads.
    pub kv_heads: i64,
    /// Values of a head.
    pub head_dim: i64,
    /// 0, or how many keys a token sees at most: those up to its own.
    pub window: i64,
    /// Added to the scores by distance, or null: for each query head the factor of key position - query position.
    pub slopes: *const f32,
    /// Output: tokens × (heads · head_dim); must not overlap the inputs.
    pub out: *mut f32,
    /// From one token of `out` to the next.
    pub out_stride: i64,
    /// Where the threads of the call meet; not used by a single thread.
    pub barrier: *const Barrier,
    /// Memory of the threads of this call, of no other call at the same time; not used by a single thread.
    pub scratch: *const SharedScratch,
    /// Factor of the scores.
    pub scale: f32,
    /// 0, or the bound c of the scores: c · tanh(score / c), after `scale` and before `slopes`.
    pub softcap: f32,
}

/// The part of `thread` of `threads`. It may wait for the others at the barrier.
///
/// # Safety
/// The operands are as [`PagedArgs`] describes them, alive, and `out` not accessed by others until all threads are
/// through.
pub unsafe extern "C" fn attention_paged(args: *const PagedArgs, thread: i64, threads: i64) {
    // SAFETY: the caller's promise.
    unsafe { paged_on(Isa::current(), &*args, thread as usize, threads as usize) }
}

/// [`attention_paged`] on a given instruction set.
///
/// # Safety
/// As for [`attention_paged`].
pub(crate) unsafe fn paged_on(isa: Isa, args: &PagedArgs, thread: usize, threads: usize) {
    debug_assert!(thread < threads);
    if args.sequences <= 0 || args.head_dim <= 0 || args.kv_heads <= 0 {
        return;
    }
    // SAFETY: the arrays of the sequences have as many values as there are sequences, one more for `offsets`.
    let plan = unsafe { Plan::new(args, threads) };
    let sizes = Sizes::new(args);
    let shared = match plan.shared_floats(&sizes) {
        0 => std::ptr::null_mut(),
        // SAFETY: only several threads share tasks, and they have a scratch.
        floats => unsafe { &*args.scratch }.reserve(floats),
    };
    let rows = plan.most_rows();
    let values = if sizes.width == sizes.dim { 0 } else { KEY_BLOCK * sizes.width };
    let q = (rows * sizes.dim).next_multiple_of(LANES);
    let lengths = [q, SCORE_ROWS * KEY_BLOCK, values, sizes.tile(SCORE_ROWS), sizes.state(rows)];
    with_scratch(lengths.iter().sum(), |scratch| {
        let (q, scratch) = scratch.split_at_mut(lengths[0]);
        let (scores, scratch) = scratch.split_at_mut(lengths[1]);
        let (values, scratch) = scratch.split_at_mut(lengths[2]);
        let (result, state) = scratch.split_at_mut(lengths[3]);
        let buffers = Buffers { q, scores, values, result };
        let paged = Paged { args, plan: &plan, sizes: &sizes, thread, shared, state, buffers };
        const F32: i64 = CacheType::F32 as i64;
        const BF16: i64 = CacheType::Bf16 as i64;
        const F16: i64 = CacheType::F16 as i64;
        const I8: i64 = CacheType::I8 as i64;
        match args.dtype {
            F32 => isa.run(Of::<f32>(paged, PhantomData)),
            BF16 => isa.run(Of::<bf16>(paged, PhantomData)),
            F16 => isa.run(Of::<f16>(paged, PhantomData)),
            I8 => isa.run(Of::<i8>(paged, PhantomData)),
            other => unreachable!("a cache of type {other}"),
        }
    });
}

/// The part of a thread.
struct Paged<'a> {
    args: &'a PagedArgs,
    plan: &'a Plan<'a>,
    sizes: &'a Sizes,
    thread: usize,
    /// Memory shared by all threads, for the tasks that are split; null if none is.
    shared: *mut f32,
    /// The result of a task that is not.
    state: &'a mut [f32],
    buffers: Buffers<'a>,
}

/// [`Paged`] with a cache of elements `E`.
struct Of<'a, E>(Paged<'a>, PhantomData<E>);

impl<E: Element> Kernel for Of<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Paged { args, plan, sizes, thread, shared: shared_start, state, mut buffers } = self.0;
        let mut shared = shared_start;
        for task in plan.tasks() {
            let blocks = task.blocks(thread);
            if !blocks.is_empty() {
                let state = if task.is_split() { shared } else { state.as_mut_ptr() };
                // SAFETY: the task is one of the operands' as the caller describes them. Its blocks are this thread's
                // alone, and so are their places in shared memory, which has room for all tasks that are split.
                unsafe {
                    attend::<S, E>(s, args, sizes, &task, blocks, state, &mut buffers);
                    if !task.is_split() {
                        finish(s, args, sizes, &task.unit, state);
                    }
                }
            }
            shared = shared.wrapping_add(task.shared_floats(sizes));
        }
        if shared_start.is_null() {
            return;
        }
        // SAFETY: several threads have a barrier.
        unsafe { &*args.barrier }.wait();
        let mut shared = shared_start;
        for task in plan.tasks() {
            if task.is_split() && task.first_thread() == thread {
                // SAFETY: all results of the task are there, and no other thread wants them.
                unsafe {
                    merge_rest(s, sizes, &task, shared);
                    finish(s, args, sizes, &task.unit, shared);
                }
            }
            shared = shared.wrapping_add(task.shared_floats(sizes));
        }
    }
}

/// What the sizes of the operands come to.
struct Sizes {
    /// Query heads of a key head.
    group: usize,
    /// Values of a head, and those rounded up to full vectors.
    dim: usize,
    width: usize,
}

impl Sizes {
    fn new(args: &PagedArgs) -> Sizes {
        let dim = args.head_dim as usize;
        Sizes { group: (args.heads / args.kv_heads) as usize, dim, width: dim.next_multiple_of(LANES) }
    }

    /// Floats of the result of a tile of rows, at most [`SCORE_ROWS`]: their maxima (a vector), their sums (a vector), and
    /// their weighted values.
    fn tile(&self, rows: usize) -> usize {
        2 * LANES + rows * self.width
    }

    /// Floats of the result of any number of rows: tiles of [`SCORE_ROWS`], the last may be smaller.
    fn state(&self, rows: usize) -> usize {
        rows.div_ceil(SCORE_ROWS) * 2 * LANES + rows * self.width
    }
}
