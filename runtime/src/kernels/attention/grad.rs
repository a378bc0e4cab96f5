//! The gradients of attention of sequences to themselves: for `y = softmax(q kᵀ · scale + bias) · v` and the gradient of y
//! those of q, k and v (the backward pass of Dao et al. 2022). Probabilities are computed anew, a block of queries at a time.
//!
//! A task is a head of keys and values of one sequence with all query heads that it serves, so no two threads add to the
//! same gradient, and the order of every sum is a function of the sequence alone. Scores stand transposed, a key a row and
//! a query a lane: what is done for each query goes down the columns, and the rows are what both products that sum over
//! queries take.

use super::super::isa::Isa;
use super::super::scratch::with_scratch;
use super::super::simd::{Kernel, LANES, Simd};
use super::super::tile::TileArgs;
use super::super::vmath::{LOG2_E, exp2};
use super::dropout::Draws;
use super::tiles;
use crate::threads::Barrier;

/// Arguments of [`attention_grad`]. Strides count elements.
#[repr(C)]
pub struct AttentionGradArgs {
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
    /// The gradient of the result: tokens × (heads · head_dim).
    pub dy: *const f32,
    /// From one token of `dy` to the next.
    pub dy_stride: i64,
    /// The gradients of a token's queries, keys and values, one behind the other: tokens × ((heads + 2 kv_heads) ·
    /// head_dim). Must not overlap the inputs.
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
    /// Added to the scores by distance, or null: as that of [`AttentionArgs`](super::AttentionArgs).
    pub relative_bias: *const f32,
    /// Positions the relative bias covers, at least 1; farther ones count as the farthest.
    pub positions: i64,
    /// Factor of the scores.
    pub scale: f32,
    /// 1 if a query sees no key behind itself, else 0.
    pub causal: u32,
    /// Two words of which it is a function what is dropped of what queries take of keys, as the op `packed_attention` says;
    /// or null, and nothing is.
    pub key: *const u32,
    /// Of the numbers of 16 bits so many drop.
    pub dropped: u32,
    /// Factor of what is not dropped; 1 without `key`.
    pub kept: f32,
    /// Where the threads of the call draw tickets; nobody has drawn one since they met there.
    pub barrier: *const Barrier,
}

/// What this thread comes to draw of it.
///
/// # Safety
/// The operands are as [`AttentionGradArgs`] describes them, alive, and `out` not accessed by others until all threads are
/// through; all threads come here with equal arguments.
pub unsafe extern "C" fn attention_grad(args: *const AttentionGradArgs, _thread: i64, _threads: i64) {
    // SAFETY: the caller's promise.
    unsafe { attention_grad_on(Isa::current(), &*args) }
}

/// [`attention_grad`] on a given instruction set.
///
/// # Safety
/// As for [`attention_grad`].
pub(crate) unsafe fn attention_grad_on(isa: Isa, args: &AttentionGradArgs) {
    if args.batch <= 0 || args.head_dim <= 0 || args.kv_heads <= 0 {
        return;
    }
    // SAFETY: `offsets` has `batch` + 1 values.
    let offsets = unsafe { std::slice::from_raw_parts(args.offsets, args.batch as usize + 1) };
    let longest = offsets.windows(2).map(|w| (w[1] - w[0]).max(0) as usize).max().unwrap_or(0);
    let dim = args.head_dim as usize;
    let width = dim.next_multiple_of(LANES);
    let sizes = [
        width * longest,
        longest * width,
        longest * width,
        longest * QUERIES,
        longest * QUERIES,
        4 * QUERIES * width,
        width * QUERIES,
    ];
    with_scratch(sizes.iter().sum(), |scratch| {
        let mut rest = scratch;
        let mut next = |size: usize| {
            let (part, after) = std::mem::take(&mut rest).split_at_mut(size);
            rest = after;
            part
        };
        let buffers = Buffers {
            keys_across: next(sizes[0]),
            dk: next(sizes[1]),
            dv: next(sizes[2]),
            p: next(sizes[3]),
            ds: next(sizes[4]),
            block: next(sizes[5]),
            dq: next(sizes[6]),
        };
        isa.run(Gradient { args, offsets, buffers });
    });
}

/// Queries of a block: three vectors.
const QUERIES: usize = 48;

/// This thread's working memory.
struct Buffers<'a> {
    /// Keys transposed: `head_dim` rows of all keys.
    keys_across: &'a mut [f32],
    /// Sums of the gradients of keys and values: rows of `head_dim` rounded up to full vectors.
    dk: &'a mut [f32],
    dv: &'a mut [f32],
    /// Probabilities, and the gradients of scores: a row of [`QUERIES`] for each key.
    p: &'a mut [f32],
    ds: &'a mut [f32],
    /// A block of queries and of `dy`, each in panels of queries and of columns.
    block: &'a mut [f32],
    /// Gradients of queries: `head_dim` rows of [`QUERIES`].
    dq: &'a mut [f32],
}

struct Gradient<'a> {
    args: &'a AttentionGradArgs,
    offsets: &'a [i32],
    buffers: Buffers<'a>,
}

impl Kernel for Gradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let kv_heads = self.args.kv_heads as usize;
        // SAFETY: the barrier outlives the call.
        let barrier = unsafe { &*self.args.barrier };
        loop {
            let task = barrier.ticket();
            let (sequence, kv_head) = (task / kv_heads, task % kv_heads);
            let Some(&[start, end]) = self.offsets.get(sequence..sequence + 2) else { return };
            let (start, end) = (start.max(0) as usize, end.max(0) as usize);
            if start < end {
                // SAFETY: the sequence and the head are the operands'; each ticket is drawn once.
                unsafe { head(s, self.args, start, end - start, kv_head, &mut self.buffers) };
            }
        }
    }
}

/// All gradients of a head of keys and values of one sequence, of `n` tokens from `token` on.
///
/// # Safety
/// The sequence and the head lie within the operands of `args`, which are valid; no other thread has them.
#[inline(always)]
unsafe fn head<S: Simd>(
    s: S,
    args: &AttentionGradArgs,
    token: usize,
    n: usize,
    kv_head: usize,
    buffers: &mut Buffers<'_>,
) {
    let dim = args.head_dim as usize;
    let width = dim.next_multiple_of(LANES);
    let group = (args.heads / args.kv_heads) as usize;
    // SAFETY: rows and columns of the sequence and the head, all within the operands; buffers are as large as the longest
    // sequence needs.
    unsafe {
        let k = args.k.add(token * args.k_stride as usize + kv_head * dim);
        let v = args.v.add(token * args.v_stride as usize + kv_head * dim);
        across(s, k, args.k_stride as usize, n, dim, |row, column| column * n + row, buffers.keys_across, 1.0, n);
        buffers.dk[..n * width].fill(0.0);
        buffers.dv[..n * width].fill(0.0);
        for head in kv_head * group..(kv_head + 1) * group {
            let q = args.q.add(token * args.q_stride as usize + head * dim);
            let dy = args.dy.add(token * args.dy_stride as usize + head * dim);
            for first in (0..n).step_by(QUERIES) {
                let count = QUERIES.min(n - first);
                let keys = if args.causal != 0 { first + count } else { n };
                let (q_across, rest) = buffers.block.split_at_mut(QUERIES * width);
                let (dy_across, rest) = rest.split_at_mut(QUERIES * width);
                let (q_rows, dy_rows) = rest.split_at_mut(QUERIES * width);
                let q = q.add(first * args.q_stride as usize);
                let dy = dy.add(first * args.dy_stride as usize);
                let panel = |row: usize, column: usize| (row / LANES * dim + column) * LANES + row % LANES;
                across(s, q, args.q_stride as usize, count, dim, panel, q_across, args.scale * LOG2_E, LANES);
                across(s, dy, args.dy_stride as usize, count, dim, panel, dy_across, 1.0, LANES);
                rows(s, q, args.q_stride as usize, count, dim, q_rows);
                rows(s, dy, args.dy_stride as usize, count, dim, dy_rows);
                let queries = count.next_multiple_of(LANES);
                let panels = queries / LANES;
                let of_queries = |a: *const f32, lda: usize, b: &[f32], c: *mut f32| TileArgs {
                    k: dim,
                    a,
                    lda,
                    b: b.as_ptr(),
                    b_step: LANES,
                    b_panel: dim * LANES,
                    c,
                    ldc: QUERIES,
                    accumulate: false,
                    next: None,
                };
                tiles(s, keys, panels, of_queries(k, args.k_stride as usize, q_across, buffers.p.as_mut_ptr()));
                tiles(s, keys, panels, of_queries(v, args.v_stride as usize, dy_across, buffers.ds.as_mut_ptr()));
                if !args.relative_bias.is_null() {
                    add_bias(args, head, first, count, keys, buffers.p);
                }
                for panel in 0..panels {
                    let at = first + panel * LANES;
                    let seen = if args.causal != 0 { Some(at) } else { None };
                    let p = buffers.p.as_mut_ptr().add(panel * LANES);
                    let ds = buffers.ds.as_mut_ptr().add(panel * LANES);
                    // Of the panel's first query.
                    let row = ((token + at) * args.heads as usize + head) as u32;
                    let draws = Draws::new(args.key, args.dropped).map(|draws| (draws, row));
                    probabilities_and_gradients(s, args, draws, p, ds, keys, seen);
                }
                let of_keys = |a: &[f32], b: &[f32], c: *mut f32| TileArgs {
                    k: count,
                    a: a.as_ptr(),
                    lda: QUERIES,
                    b: b.as_ptr(),
                    b_step: LANES,
                    b_panel: QUERIES * LANES,
                    c,
                    ldc: width,
                    accumulate: true,
                    next: None,
                };
                tiles(s, keys, width / LANES, of_keys(buffers.p, dy_rows, buffers.dv.as_mut_ptr()));
                tiles(s, keys, width / LANES, of_keys(buffers.ds, q_rows, buffers.dk.as_mut_ptr()));
                let of_dq = TileArgs {
                    k: keys,
                    a: buffers.keys_across.as_ptr(),
                    lda: n,
                    b: buffers.ds.as_ptr(),
                    b_step: QUERIES,
                    b_panel: LANES,
                    c: buffers.dq.as_mut_ptr(),
                    ldc: QUERIES,
                    accumulate: false,
                    next: None,
                };
                tiles(s, dim, panels, of_dq);
                let out = args.out.add((token + first) * args.out_stride as usize + head * dim);
                for row in 0..count {
                    let out = out.add(row * args.out_stride as usize);
                    for column in 0..dim {
                        *out.add(column) = buffers.dq[column * QUERIES + row];
                    }
                }
            }
        }
        let (heads, kv_heads) = (args.heads as usize, args.kv_heads as usize);
        for (from, column) in [(&*buffers.dk, heads + kv_head), (&*buffers.dv, heads + kv_heads + kv_head)] {
            for row in 0..n {
                let out = args.out.add((token + row) * args.out_stride as usize + column * dim);
                std::ptr::copy_nonoverlapping(from[row * width..].as_ptr(), out, dim);
            }
        }
    }
}

/// From scores (of powers of two) and gradients of probabilities of sixteen queries, a row of [`QUERIES`] for each of `keys`
/// keys, to probabilities and gradients of scores. The first query sees the keys up to `seen`, each that follows one more;
/// all see all where there is none. With `draws`, and the number of the first query and head, what they drop of the
/// probabilities is 0 and the rest `kept` times as much, and gradients are accordingly.
///
/// # Safety
/// Both hold sixteen columns of `keys` rows.
#[inline(always)]
unsafe fn probabilities_and_gradients<S: Simd>(
    s: S,
    args: &AttentionGradArgs,
    draws: Option<(Draws, u32)>,
    p: *mut f32,
    ds: *mut f32,
    keys: usize,
    seen: Option<usize>,
) {
    let lanes: [f32; LANES] = std::array::from_fn(|lane| lane as f32);
    // SAFETY: the caller's promise, and an array of sixteen.
    unsafe {
        let lanes = s.load(lanes.as_ptr());
        let (zero, none) = (s.splat(0.0), s.splat(f32::NEG_INFINITY));
        if let Some(first) = seen {
            // Key first + i is behind the queries of the lanes before i.
            for key in (first + 1)..keys {
                let behind = s.splat((key - first) as f32);
                let score = p.add(key * QUERIES);
                s.store(score, s.select_lt(lanes, behind, none, s.load(score)));
            }
        }
        let mut greatest = none;
        for key in 0..keys {
            greatest = s.max(s.load(p.add(key * QUERIES)), greatest);
        }
        let greatest = s.select_lt(s.splat(f32::MIN), greatest, greatest, zero);
        let mut total = zero;
        for key in 0..keys {
            let at = p.add(key * QUERIES);
            let power = exp2(s, s.sub(s.load(at), greatest));
            s.store(at, power);
            total = s.add(total, power);
        }
        let part = s.select_lt(zero, total, s.div(s.splat(1.0), total), zero);
        let (mut mean, scale) = (zero, s.splat(args.scale));
        if let Some((draws, row)) = draws {
            // What is dropped is negative on the way; a NaN, being the second operand of a maximum, passes.
            draws.negate_of_queries(s, p, QUERIES, keys, row, args.heads as u32);
            let kept = s.splat(args.kept);
            for key in 0..keys {
                let (at, ds) = (p.add(key * QUERIES), ds.add(key * QUERIES));
                let probability = s.mul(s.load(at), part);
                s.store(at, probability);
                let gradient = s.select_lt(probability, zero, zero, s.mul(s.load(ds), kept));
                s.store(ds, gradient);
                mean = s.fma(s.abs(probability), gradient, mean);
            }
            for key in 0..keys {
                let (at, ds) = (p.add(key * QUERIES), ds.add(key * QUERIES));
                let probability = s.load(at);
                s.store(ds, s.mul(s.mul(s.abs(probability), s.sub(s.load(ds), mean)), scale));
                s.store(at, s.mul(s.max(zero, probability), kept));
            }
            return;
        }
        for key in 0..keys {
            let at = p.add(key * QUERIES);
            let probability = s.mul(s.load(at), part);
            s.store(at, probability);
            mean = s.fma(probability, s.load(ds.add(key * QUERIES)), mean);
        }
        for key in 0..keys {
            let at = ds.add(key * QUERIES);
            let away = s.sub(s.load(at), mean);
            s.store(at, s.mul(s.mul(s.load(p.add(key * QUERIES)), away), scale));
        }
    }
}

/// Adds the bias by distance to scores.
///
/// # Safety
/// `args` has a bias, a row for each head.
#[inline(always)]
unsafe fn add_bias(args: &AttentionGradArgs, head: usize, first: usize, count: usize, keys: usize, p: &mut [f32]) {
    let positions = args.positions as isize;
    let columns = (2 * positions - 1).max(0);
    for key in 0..keys {
        for (query, score) in p[key * QUERIES..][..count].iter_mut().enumerate() {
            let column = positions - 1 + key as isize - (first + query) as isize;
            // SAFETY: the table has so many columns for each head.
            let bias = unsafe { *args.relative_bias.offset(head as isize * columns + column.clamp(0, columns - 1)) };
            *score += bias * LOG2_E;
        }
    }
}

/// Writes `count` rows of `dim` values transposed, times `factor`: value `column` of row `row` to `place(row, column)`,
/// where sixteen rows that begin at a multiple of sixteen lie side by side. There is room for `run` rows from the first of
/// them on, 16 or so many as there are; rows that are not there are zeros as far as there is.
///
/// # Safety
/// `from` holds the rows `stride` apart, `to` all places.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn across<S: Simd>(
    s: S,
    from: *const f32,
    stride: usize,
    count: usize,
    dim: usize,
    place: impl Fn(usize, usize) -> usize,
    to: &mut [f32],
    factor: f32,
    run: usize,
) {
    let factor = s.splat(factor);
    for first in (0..count).step_by(LANES) {
        let there = LANES.min(count - first);
        for column in (0..dim).step_by(LANES) {
            let width = LANES.min(dim - column);
            let mut rows = [s.splat(0.0); LANES];
            for (row, value) in rows.iter_mut().enumerate().take(there) {
                // SAFETY: that row exists, and has `width` values from `column` on.
                unsafe {
                    let at = from.add((first + row) * stride + column);
                    *value = if width == LANES { s.load(at) } else { s.load_partial(at, width, 0.0) };
                }
            }
            for (i, x) in s.transpose(rows).into_iter().enumerate().take(width) {
                let at = place(first, column + i);
                // SAFETY: the places of all rows that are there, or of sixteen, exist.
                unsafe {
                    let x = s.mul(x, factor);
                    if there == LANES || run == LANES {
                        debug_assert!(at + LANES <= to.len());
                        s.store(to.as_mut_ptr().add(at), x);
                    } else {
                        s.store_partial(to.as_mut_ptr().add(at), there, x);
                    }
                }
            }
        }
    }
}

/// Packs `count` rows of `dim` values into panels of sixteen columns, [`QUERIES`] × 16 each, zeros past the last column.
///
/// # Safety
/// `from` holds the rows `stride` apart; `to` has room for `dim` rounded up to sixteen.
#[inline(always)]
unsafe fn rows<S: Simd>(s: S, from: *const f32, stride: usize, count: usize, dim: usize, to: &mut [f32]) {
    for (panel, column) in (0..dim).step_by(LANES).enumerate() {
        let width = LANES.min(dim - column);
        for (row, out) in to[panel * QUERIES * LANES..].chunks_exact_mut(LANES).enumerate().take(count) {
            // SAFETY: that row exists, and has `width` values from `column` on; `out` is sixteen values long.
            unsafe {
                let at = from.add(row * stride + column);
                let x = if width == LANES { s.load(at) } else { s.load_partial(at, width, 0.0) };
                s.store(out.as_mut_ptr(), x);
            }
        }
    }
}
