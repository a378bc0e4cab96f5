//! Attention over packed sequences: `softmax(q kᵀ · scale + bias) · v` per head, with no padding anywhere.
//!
//! A task is a block of query rows of one head of one sequence. The keys and values of the head are packed once (keys
//! transposed) and reused by the tasks that follow with the same ones. Scores of a few query rows and up to
//! [`KEY_BLOCK`] keys stay in the first-level cache; longer sequences go block by block with a running maximum and sum
//! (Milakov and Gimelshein 2018; Dao et al. 2022), so memory is bounded whatever the length.
//!
//! The order of operations of an output row is a function of its sequence's length and its position in it alone: keys
//! in order, in blocks that start at the sequence's first key.

use super::gemm::pieces;
use super::isa::Isa;
use super::scratch::with_scratch;
use super::simd::{Element, Kernel, LANES, Simd};
use super::tile::{Next, TileArgs};
use super::vmath::{LOG2_E, exp2_of_negative};

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
    /// Sequence s is the tokens `offsets[s]..offsets[s + 1]`; `batch` + 1 ascending values from 0 to the token count. The
    /// caller has checked them: this function trusts them.
    pub offsets: *const i32,
    /// Sequences.
    pub batch: i64,
    /// Query heads.
    pub heads: i64,
    /// Key and value heads, a divisor of `heads`: query head h uses head h · kv_heads / heads.
    pub kv_heads: i64,
    /// Values of a head.
    pub head_dim: i64,
    /// Added to the scores by distance, or null: `heads` × (2 · `positions` - 1), where query i and key j of a sequence
    /// meet in column j - i + `positions` - 1, or the nearest there is.
    pub relative_bias: *const f32,
    /// Positions the relative bias covers, at least 1; farther ones count as the farthest.
    pub positions: i64,
    /// Added to the scores of a key, or null: one value per token, negative infinity masks.
    pub key_mask: *const f32,
    /// Factor of the scores.
    pub scale: f32,
    /// 1 if a query sees no key behind itself, else 0.
    pub causal: u32,
}

/// The part of `thread` of `threads`. A row whose keys are all masked is zero.
///
/// # Safety
/// The operands are as [`AttentionArgs`] describes them, alive, and `out` not accessed by others until all threads are
/// through.
pub unsafe extern "C" fn attention_packed(args: *const AttentionArgs, thread: i64, threads: i64) {
    // SAFETY: the caller's promise.
    unsafe { attention_on(Isa::current(), &*args, thread as usize, threads as usize) }
}

/// [`attention_packed`] on a given instruction set.
///
/// # Safety
/// As for [`attention_packed`].
pub(crate) unsafe fn attention_on(isa: Isa, args: &AttentionArgs, thread: usize, threads: usize) {
    debug_assert!(thread < threads);
    if args.batch <= 0 || args.head_dim <= 0 {
        return;
    }
    // SAFETY: `offsets` has `batch` + 1 values.
    let offsets = unsafe { std::slice::from_raw_parts(args.offsets, args.batch as usize + 1) };
    let longest = offsets.windows(2).map(|pair| (pair[1] - pair[0]).max(0) as usize).max().unwrap_or(0);
    let width = (args.head_dim as usize).next_multiple_of(LANES);
    let keys = longest.min(KEY_BLOCK).next_multiple_of(LANES);
    let states = LONG_QUERY_BLOCK.div_ceil(SCORE_ROWS) * LANES;
    let sizes = [keys * width, keys * width, SCORE_ROWS * keys, LONG_QUERY_BLOCK * width, 2 * states];
    with_scratch(sizes.iter().sum(), |scratch| {
        let (keys, scratch) = scratch.split_at_mut(sizes[0]);
        let (values, scratch) = scratch.split_at_mut(sizes[1]);
        let (scores, scratch) = scratch.split_at_mut(sizes[2]);
        let (outputs, scratch) = scratch.split_at_mut(sizes[3]);
        let (maxima, sums) = scratch.split_at_mut(states);
        let buffers = Buffers { keys, values, scores, outputs, maxima, sums, packed: None };
        isa.run(Attention { args, offsets, thread, threads, buffers });
    });
}

/// Keys whose scores are held at once: 12 rows of them are 24 KB.
const KEY_BLOCK: usize = 512;
/// Query rows of a task: where all keys fit one block, tasks that follow each other share the packed keys and may be
/// small; else each task packs all keys anew and is larger.
const QUERY_BLOCK: usize = 48;
const LONG_QUERY_BLOCK: usize = 192;
/// Query rows whose scores are held at once: at most a vector has lanes, so that the rows' maxima and sums are one.
pub(super) const SCORE_ROWS: usize = 12;

struct Attention<'a> {
    args: &'a AttentionArgs,
    offsets: &'a [i32],
    thread: usize,
    threads: usize,
    buffers: Buffers<'a>,
}

/// A block of query rows of one head of one sequence.
#[derive(Clone, Copy)]
struct Task {
    /// First token of the sequence, and its length.
    token: usize,
    len: usize,
    head: usize,
    /// Query rows within the sequence.
    first: usize,
    last: usize,
}

impl Task {
    /// Keys that the last row of the block sees.
    fn keys(&self, causal: bool) -> usize {
        if causal { self.last } else { self.len }
    }
}

/// This thread's working memory.
struct Buffers<'a> {
    /// Keys of a block transposed, in panels of sixteen keys: `head_dim` × 16 each.
    keys: &'a mut [f32],
    /// Values of a block in panels of sixteen columns: keys × 16 each.
    values: &'a mut [f32],
    /// Scores of a few rows.
    scores: &'a mut [f32],
    /// Unnormalised outputs of the task's rows.
    outputs: &'a mut [f32],
    /// Running maximum (of scores times `unit`) and sum of each row, a vector for each [`SCORE_ROWS`] rows.
    maxima: &'a mut [f32],
    sums: &'a mut [f32],
    /// Which block is packed: first token, key-value head, first key.
    packed: Option<(usize, usize, usize)>,
}

/// All tasks, in order.
fn tasks(offsets: &[i32], heads: usize) -> impl Iterator<Item = Task> {
    offsets.windows(2).flat_map(move |pair| {
        let (token, len) = (pair[0] as usize, (pair[1] - pair[0]).max(0) as usize);
        let block = if len <= KEY_BLOCK { QUERY_BLOCK } else { LONG_QUERY_BLOCK };
        (0..heads).flat_map(move |head| {
            (0..len).step_by(block).map(move |first| Task { token, len, head, first, last: len.min(first + block) })
        })
    })
}

impl Kernel for Attention<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let causal = self.args.causal != 0;
        let heads = self.args.heads.max(0) as usize;
        // A row costs its keys, and a little of its own.
        let cost = |task: &Task| (task.last - task.first) * (task.keys(causal) + 16);
        let total: usize = tasks(self.offsets, heads).map(|task| cost(&task)).sum();
        let (from, to) = (self.thread * total / self.threads, (self.thread + 1) * total / self.threads);
        let mut before = 0;
        for task in tasks(self.offsets, heads) {
            // A task belongs to the thread in whose share its middle lies.
            let middle = before + cost(&task) / 2;
            before += cost(&task);
            if middle >= to {
                break;
            }
            if middle >= from {
                // SAFETY: the task is one of the operands' as the caller describes them, and this thread's alone.
                unsafe { attend(s, self.args, task, &mut self.buffers) };
            }
        }
    }
}

/// One task.
///
/// # Safety
/// `task` lies within the operands of `args`, which are valid; no other thread has its rows.
#[inline(always)]
unsafe fn attend<S: Simd>(s: S, args: &AttentionArgs, task: Task, buffers: &mut Buffers<'_>) {
    let dim = args.head_dim as usize;
    let width = dim.next_multiple_of(LANES);
    let kv_head = task.head * args.kv_heads as usize / args.heads as usize;
    let (q_stride, out_stride) = (args.q_stride as usize, args.out_stride as usize);
    let rows = task.last - task.first;
    let keys = task.keys(args.causal != 0);
    // Scores are finished (scaled, biased, masked) in memory where they must be; else the scale goes into the exponent.
    let plain = args.causal == 0 && args.relative_bias.is_null() && args.key_mask.is_null() && args.scale > 0.0;
    let unit = s.splat(if plain { args.scale * LOG2_E } else { LOG2_E });
    buffers.maxima.fill(f32::NEG_INFINITY);
    buffers.sums.fill(0.0);
    let mut key = 0;
    while key < keys {
        // The width of a block depends on the sequence alone; what lies behind the last visible key adds nothing.
        let count = KEY_BLOCK.min(task.len - key);
        let seen = count.min(keys - key);
        if buffers.packed != Some((task.token, kv_head, key)) {
            buffers.packed = Some((task.token, kv_head, key));
            // SAFETY: tokens `key..key + count` of the sequence exist; the buffers hold a block.
            unsafe {
                let token = task.token + key;
                let k = args.k.add(token * args.k_stride as usize + kv_head * dim);
                pack_keys(s, k, args.k_stride as usize, count, dim, buffers.keys);
                let v = args.v.add(token * args.v_stride as usize + kv_head * dim);
                pack_values(s, v, args.v_stride as usize, count, dim, buffers.values);
            }
        }
        let ld_scores = seen.next_multiple_of(LANES);
        for (first, state) in (0..rows).step_by(SCORE_ROWS).zip((0..).step_by(LANES)) {
            let height = SCORE_ROWS.min(rows - first);
            let (maxima, sums) = (&mut buffers.maxima[state..][..LANES], &mut buffers.sums[state..][..LANES]);
            // SAFETY: `height` rows of the task from `first` on exist, the panels hold `seen` keys, and the scores and
            // outputs have room.
            unsafe {
                let q = args.q.add((task.token + task.first + first) * q_stride + task.head * dim);
                let scores = buffers.scores.as_mut_ptr();
                let outputs = buffers.outputs.as_mut_ptr().add(first * width);
                tiles(
                    s,
                    height,
                    ld_scores / LANES,
                    TileArgs {
                        k: dim,
                        a: q,
                        lda: q_stride,
                        b: buffers.keys.as_ptr(),
                        b_step: LANES,
                        b_panel: dim * LANES,
                        c: scores,
                        ldc: ld_scores,
                        accumulate: false,
                        next: None,
                    },
                );
                for row in 0..height {
                    let scores = scores.add(row * ld_scores);
                    if !plain {
                        finish_scores(s, args, task, task.first + first + row, key, seen, scores);
                    }
                    pad(scores, seen);
                }
                let shrink = exponentiate(s, scores, ld_scores, height, ld_scores, unit, maxima, sums);
                if key > 0 {
                    for (row, &factor) in shrink[..height].iter().enumerate() {
                        scale_row(s, outputs.add(row * width), width, factor);
                    }
                }
                tiles(
                    s,
                    height,
                    width / LANES,
                    TileArgs {
                        k: seen,
                        a: scores,
                        lda: ld_scores,
                        b: buffers.values.as_ptr(),
                        b_step: LANES,
                        b_panel: count * LANES,
                        c: outputs,
                        ldc: width,
                        accumulate: key > 0,
                        next: None,
                    },
                );
            }
        }
        key += count;
    }
    for row in 0..rows {
        let sum = buffers.sums[row / SCORE_ROWS * LANES + row % SCORE_ROWS];
        let factor = s.splat(if sum == 0.0 { 0.0 } else { 1.0 / sum });
        for column in (0..dim).step_by(LANES) {
            // SAFETY: the outputs hold `width` values a row, `out` `dim` of them.
            unsafe {
                let out = args.out.add((task.token + task.first + row) * out_stride + task.head * dim + column);
                let x = s.mul(s.load(buffers.outputs.as_ptr().add(row * width + column)), factor);
                if dim - column >= LANES { s.store(out, x) } else { s.store_partial(out, dim - column, x) }
            }
        }
    }
}

/// A product of any number of rows and panels, by register tiles. What is wanted next are the lines for all panels of the
/// first rows.
///
/// # Safety
/// See [`TileArgs`], for that many rows and panels.
#[inline(always)]
pub(super) unsafe fn tiles<S: Simd, E: Element>(s: S, rows: usize, panels: usize, all: TileArgs<E>) {
    for rows in pieces(0..rows, S::ROWS) {
        for panel in (0..panels).step_by(S::PANELS) {
            // SAFETY: the caller's promise.
            unsafe {
                s.tile(
                    rows.len(),
                    S::PANELS.min(panels - panel),
                    &TileArgs {
                        a: all.a.add(rows.start * all.lda),
                        b: all.b.add(panel * all.b_panel),
                        c: all.c.add(rows.start * all.ldc + panel * LANES),
                        next: all.next.filter(|_| rows.start == 0).map(|next| Next {
                            lines: next.lines.wrapping_add(panel / S::PANELS * all.k * next.step),
                            ..next
                        }),
                        ..all
                    },
                );
            }
        }
    }
}

/// Overwrites what follows the last key with minus infinity, up to a full vector.
///
/// # Safety
/// `scores` has room for `keys` rounded up to full vectors.
#[inline(always)]
unsafe fn pad(scores: *mut f32, keys: usize) {
    for i in keys..keys.next_multiple_of(LANES) {
        // SAFETY: the caller's promise.
        unsafe { *scores.add(i) = f32::NEG_INFINITY };
    }
}

/// Scores of query `query` against keys `key..key + count` of its sequence: scaled, biased and masked, in place.
///
/// # Safety
/// `scores` has room for `count` rounded up to full vectors; `task` lies within the operands of `args`.
#[inline(always)]
unsafe fn finish_scores<S: Simd>(
    s: S,
    args: &AttentionArgs,
    task: Task,
    query: usize,
    key: usize,
    count: usize,
    scores: *mut f32,
) {
    let scale = s.splat(args.scale);
    let add = |p: *const f32, i: usize, x: S::V| {
        // SAFETY: `p` holds `count` values from the first key on.
        unsafe {
            let y = if count - i >= LANES { s.load(p.add(i)) } else { s.load_partial(p.add(i), count - i, 0.0) };
            s.add(x, y)
        }
    };
    let columns = (2 * args.positions as usize).saturating_sub(1);
    // SAFETY: the table has `columns` values for each head.
    let bias = (!args.relative_bias.is_null()).then(|| unsafe { args.relative_bias.add(task.head * columns) });
    // SAFETY: the mask holds a value for each of these keys, as `AttentionArgs` says.
    let mask = (!args.key_mask.is_null()).then(|| unsafe { args.key_mask.add(task.token + key) });
    for i in (0..count).step_by(LANES) {
        // SAFETY: the caller's promise.
        let mut x = s.mul(unsafe { s.load(scores.add(i)) }, scale);
        if let Some(bias) = bias {
            let (first, n) = ((args.positions as usize + key + i).wrapping_sub(query + 1), LANES.min(count - i));
            if first < columns && n <= columns - first {
                // SAFETY: these columns are in the table.
                let y = unsafe {
                    if n == LANES { s.load(bias.add(first)) } else { s.load_partial(bias.add(first), n, 0.0) }
                };
                x = s.add(x, y);
            } else {
                let column = |i: usize| (first.wrapping_add(i) as isize).clamp(0, columns as isize - 1) as usize;
                // SAFETY: clamped to the table's columns.
                let y: [f32; LANES] = std::array::from_fn(|i| unsafe { *bias.add(column(i)) });
                // SAFETY: an array of sixteen.
                x = s.add(x, unsafe { s.load(y.as_ptr()) });
            }
        }
        if let Some(mask) = mask {
            x = add(mask, i, x);
        }
        // SAFETY: the caller's promise.
        unsafe { s.store(scores.add(i), x) };
    }
    if args.causal != 0 {
        for i in (query + 1).saturating_sub(key)..count {
            // SAFETY: the caller's promise.
            unsafe { *scores.add(i) = f32::NEG_INFINITY };
        }
    }
}

/// Turns `rows` rows of `n` scores (`ld` apart) into 2^(score · unit - m), m being the row's new running maximum of score · unit.
/// Updates maxima and sums (a lane for each row), and answers by what earlier results of each row shrink.
///
/// # Safety
/// `scores` holds the rows `ld` apart, `rows` ≤ 16, `n` is a multiple of sixteen, and `unit` is positive.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn exponentiate<S: Simd>(
    s: S,
    scores: *mut f32,
    ld: usize,
    rows: usize,
    n: usize,
    unit: S::V,
    maxima: &mut [f32],
    sums: &mut [f32],
) -> [f32; LANES] {
    // The lanes of each row's vector are reduced for all rows at once, after a transposition.
    let mut largest = [s.splat(f32::NEG_INFINITY); LANES];
    for (row, largest) in largest[..rows].iter_mut().enumerate() {
        let mut x = s.splat(f32::NEG_INFINITY);
        for i in (0..n).step_by(LANES) {
            // SAFETY: the caller's promise.
            x = s.max(x, unsafe { s.load(scores.add(row * ld + i)) });
        }
        *largest = x;
    }
    let mut columns = s.transpose(largest);
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            columns[i] = s.max(columns[i], columns[i + half]);
        }
    }
    // SAFETY: both are a vector long.
    let (before, sum) = unsafe { (s.load(maxima.as_ptr()), s.load(sums.as_ptr())) };
    let maximum = s.max(before, s.mul(columns[0], unit));
    // With every key masked so far, any finite shift will do: all powers are zero.
    let shift = s.select_lt(s.splat(f32::MIN), maximum, maximum, s.splat(0.0));
    let shifts = s.to_array(shift);
    let mut totals = [s.splat(0.0); LANES];
    for (row, total) in totals[..rows].iter_mut().enumerate() {
        let negated = s.splat(-shifts[row]);
        let mut x = s.splat(0.0);
        for i in (0..n).step_by(LANES) {
            // SAFETY: the caller's promise.
            unsafe {
                let score = scores.add(row * ld + i);
                let power = exp2_of_negative(s, s.fma(s.load(score), unit, negated));
                s.store(score, power);
                x = s.add(x, power);
            }
        }
        *total = x;
    }
    let mut columns = s.transpose(totals);
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            columns[i] = s.add(columns[i], columns[i + half]);
        }
    }
    let shrink = exp2_of_negative(s, s.sub(before, shift));
    // SAFETY: both are a vector long.
    unsafe {
        s.store(maxima.as_mut_ptr(), maximum);
        s.store(sums.as_mut_ptr(), s.fma(sum, shrink, columns[0]));
    }
    s.to_array(shrink)
}

/// Multiplies `n` values, a multiple of sixteen.
///
/// # Safety
/// `row` holds `n` values.
#[inline(always)]
unsafe fn scale_row<S: Simd>(s: S, row: *mut f32, n: usize, factor: f32) {
    for i in (0..n).step_by(LANES) {
        // SAFETY: the caller's promise.
        unsafe { s.store(row.add(i), s.mul(s.load(row.add(i)), s.splat(factor))) };
    }
}

/// Packs `count` keys of `dim` values, transposed, into panels of sixteen keys (zeros past the last).
///
/// # Safety
/// `k` holds the keys `stride` apart; `panels` has room for them, keys and values rounded up to sixteen.
#[inline(always)]
unsafe fn pack_keys<S: Simd>(s: S, k: *const f32, stride: usize, count: usize, dim: usize, panels: &mut [f32]) {
    let zero = s.splat(0.0);
    for (panel, first) in (0..count).step_by(LANES).enumerate() {
        for column in (0..dim).step_by(LANES) {
            let width = LANES.min(dim - column);
            let rows: [S::V; LANES] = std::array::from_fn(|r| {
                if first + r >= count {
                    return zero;
                }
                // SAFETY: key `first + r` exists, and has `width` values from `column` on.
                unsafe {
                    let row = k.add((first + r) * stride + column);
                    if width == LANES { s.load(row) } else { s.load_partial(row, width, 0.0) }
                }
            });
            let out = &mut panels[(panel * dim + column) * LANES..][..width * LANES];
            for (out, &column) in out.chunks_exact_mut(LANES).zip(&s.transpose(rows)) {
                // SAFETY: `out` is sixteen values long.
                unsafe { s.store(out.as_mut_ptr(), column) };
            }
        }
    }
}

/// Packs `count` rows of `dim` values into panels of sixteen columns (zeros past the last).
///
/// # Safety
/// `v` holds the rows `stride` apart; `panels` has room for them, `dim` rounded up to sixteen.
#[inline(always)]
unsafe fn pack_values<S: Simd>(s: S, v: *const f32, stride: usize, count: usize, dim: usize, panels: &mut [f32]) {
    for (panel, column) in (0..dim).step_by(LANES).enumerate() {
        let width = LANES.min(dim - column);
        for (row, out) in panels[panel * count * LANES..][..count * LANES].chunks_exact_mut(LANES).enumerate() {
            // SAFETY: row `row` exists, and has `width` values from `column` on; `out` is sixteen values long.
            unsafe {
                let row = v.add(row * stride + column);
                let x = if width == LANES { s.load(row) } else { s.load_partial(row, width, 0.0) };
                s.store(out.as_mut_ptr(), x);
            }
        }
    }
}
