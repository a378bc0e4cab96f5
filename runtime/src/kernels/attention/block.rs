//! One task: scores, powers and weighted values of a few query rows at a time, block of keys by block of keys.

use super::super::gemm::pieces;
use super::super::simd::{Element, LANES, Simd};
use super::super::tile::{Next, TileArgs};
use super::super::vmath::LOG2_E;
use super::dropout::Draws;
use super::pack::Packed;
use super::softmax::{greatest_of_rows, hide, powers, powers_unshifted};
use super::{AttentionArgs, Buffers, KEY_BLOCK, SCORE_ROWS, Sequence, Task};

/// Sums of powers between the inverse of this and this, of values below it, are far from both ends of `f32`.
const LARGE: f32 = (1u128 << 64) as f32;

/// One task.
///
/// # Safety
/// `task` lies within the operands of `args`, which are valid; no other thread has its rows.
#[inline(always)]
pub(super) unsafe fn attend<S: Simd>(s: S, args: &AttentionArgs, task: Task, buffers: &mut Buffers<'_>) {
    let width = (args.head_dim as usize).next_multiple_of(LANES);
    let kv_head = task.head * args.kv_heads as usize / args.heads as usize;
    let reached = task.keys(args.causal != 0);
    buffers.shifts.fill(f32::NEG_INFINITY);
    buffers.sums.fill(0.0);
    let (mut key, mut begun) = (0, false);
    loop {
        let Buffers { packed, scores, outputs, shifts, sums } = &mut *buffers;
        // SAFETY: the sequence is one of the operands'; the buffers have been made for it.
        unsafe { packed.block(s, args, &task.sequence, kv_head, key) };
        key = packed.end;
        for (i, first) in (task.first..task.last).step_by(SCORE_ROWS).enumerate() {
            let rows = Task { first, last: task.last.min(first + SCORE_ROWS), ..task };
            let mut result = Rows {
                outputs: &mut outputs[i * SCORE_ROWS * width..],
                shifts: &mut shifts[i * LANES..][..LANES],
                sums: &mut sums[i * LANES..][..LANES],
            };
            // SAFETY: the rows are some of the task's.
            unsafe {
                merge(s, args, &rows, packed, begun, scores, &mut result);
                if key >= reached {
                    finish(s, args, &rows, &result);
                }
            }
        }
        begun = true;
        if key >= reached {
            return;
        }
    }
}

/// What has been found for a few rows.
struct Rows<'a> {
    /// Sums of values times powers: `head_dim` rounded up to full vectors for each row.
    outputs: &'a mut [f32],
    /// A lane for each row.
    shifts: &'a mut [f32],
    /// A lane for each row.
    sums: &'a mut [f32],
}

/// Merges a block of keys into the results of at most [`SCORE_ROWS`] rows, which are `begun` if there was a block before.
///
/// # Safety
/// `rows` lies within the operands of `args`, which are valid; `packed` is a block of its keys; the buffers hold such rows.
#[inline(always)]
unsafe fn merge<S: Simd>(
    s: S,
    args: &AttentionArgs,
    rows: &Task,
    packed: &Packed<'_>,
    begun: bool,
    scores: &mut [f32],
    result: &mut Rows<'_>,
) {
    let width = (args.head_dim as usize).next_multiple_of(LANES);
    let height = rows.last - rows.first;
    let positions = packed.positions();
    // Of the keys of the block so many are seen by each row, from the first on.
    let mut seen = [positions.len(); SCORE_ROWS];
    if args.causal != 0 {
        for (row, seen) in (rows.first..rows.last).zip(&mut seen) {
            let place = rows.sequence.first + row as isize;
            *seen = positions.partition_point(|&p| p as isize <= place);
        }
    }
    let (seen, most) = (&seen[..height], seen[height - 1]);
    if most == 0 {
        if !begun {
            result.outputs[..height * width].fill(0.0);
        }
        return;
    }
    let ld = most.next_multiple_of(LANES);
    let (shifts, sums) = (&mut *result.shifts, &mut *result.sums);
    // SAFETY: the rows exist, the panels hold `most` keys, and the scores and outputs have room.
    unsafe {
        scores_of(s, args, rows, packed, &positions[..most], scores);
        let scores_at = scores.as_mut_ptr();
        ask_ahead(s, args, rows, packed.end);
        let totals = powers_unshifted(s, scores_at, ld, seen);
        let lanes = s.to_array(totals);
        let fine = |row: usize| lanes[row] < LARGE && if begun { shifts[row] == 0.0 } else { lanes[row] > 1.0 / LARGE };
        if packed.largest < LARGE && (0..height).all(fine) {
            shifts.fill(0.0);
            s.store(sums.as_mut_ptr(), s.add(s.load(sums.as_ptr()), totals));
        } else {
            scores_of(s, args, rows, packed, &positions[..most], scores);
            let scores = scores.as_mut_ptr();
            for (row, &seen) in seen.iter().enumerate() {
                hide(scores.add(row * ld), seen, ld);
            }
            let greatest = greatest_of_rows(s, scores, ld, height, ld);
            // The same rows as above need no shift, whatever the rows beside them.
            let (zero, large) = (s.splat(0.0), s.splat(if packed.largest < LARGE { LARGE } else { 0.0 }));
            let shift = s.select_lt(s.splat(1.0 / LARGE), totals, zero, greatest);
            let shift = s.select_lt(totals, large, shift, greatest);
            let shrink = powers(s, scores, ld, height, ld, s.splat(1.0), shift, shifts, sums);
            if begun {
                for (row, factor) in result.outputs.chunks_exact_mut(width).zip(shrink).take(height) {
                    for x in row.chunks_exact_mut(LANES) {
                        s.store(x.as_mut_ptr(), s.mul(s.load(x.as_ptr()), s.splat(factor)));
                    }
                }
            }
        }
        if let Some(draws) = Draws::new(args.key, args.dropped) {
            // There is no mask then, so positions follow each other.
            let (heads, first) = (args.heads as usize, rows.sequence.query + rows.first);
            let row = (first * heads + rows.head) as u32;
            draws.drop_of_rows(s, scores_at, ld, height, row, heads as u32, positions[0] as usize);
        }
        let tile = TileArgs {
            k: most,
            a: scores_at,
            lda: ld,
            b: packed.values.as_ptr(),
            b_step: LANES,
            b_panel: positions.len() * LANES,
            c: result.outputs.as_mut_ptr(),
            ldc: width,
            accumulate: begun,
            next: None,
        };
        tiles(s, height, width / LANES, tile);
    }
}

/// Scores of the rows with the first keys of a block, times log2 e.
///
/// # Safety
/// `rows` lies within the operands of `args`, which are valid; `packed` holds these keys of theirs.
#[inline(always)]
unsafe fn scores_of<S: Simd>(
    s: S,
    args: &AttentionArgs,
    rows: &Task,
    packed: &Packed<'_>,
    positions: &[u32],
    scores: &mut [f32],
) {
    let (dim, stride) = (args.head_dim as usize, args.q_stride as usize);
    let ld = positions.len().next_multiple_of(LANES);
    // SAFETY: the queries exist, and the panels are full.
    unsafe {
        let tile = TileArgs {
            k: dim,
            a: args.q.add((rows.sequence.query + rows.first) * stride + rows.head * dim),
            lda: stride,
            b: packed.keys.as_ptr(),
            b_step: LANES,
            b_panel: dim * LANES,
            c: scores.as_mut_ptr(),
            ldc: ld,
            accumulate: false,
            next: None,
        };
        tiles(s, rows.last - rows.first, ld / LANES, tile);
        if !args.relative_bias.is_null() {
            for (row, scores) in (rows.first..rows.last).zip(scores.chunks_exact_mut(ld)) {
                add_bias(s, args, rows, row, positions, scores.as_mut_ptr());
            }
        }
    }
}

/// Asks for what comes after these rows: where their results go, the next queries, and a share of the keys and values that
/// are packed next.
#[inline(always)]
fn ask_ahead<S: Simd>(s: S, args: &AttentionArgs, rows: &Task, key: usize) {
    let Sequence { query, queries, key: first_key, keys, .. } = rows.sequence;
    let (dim, heads, kv_heads) = (args.head_dim as usize, args.heads as usize, args.kv_heads as usize);
    let kv_head = rows.head * kv_heads / heads;
    // Addresses may be of nothing: they are hints.
    let lines = |base: *const f32, stride: i64, token: usize, head: usize| {
        let row = base.wrapping_add(token * stride as usize + head * dim);
        (0..dim.div_ceil(LANES)).map(move |line| row.wrapping_add(line * LANES).cast::<u8>())
    };
    // Long sequences go on in the same head.
    let (token, head, count) = match key < keys {
        true => (first_key + key, kv_head, keys - key),
        false if kv_head + 1 < kv_heads => (first_key, kv_head + 1, keys),
        false => (first_key + keys, 0, keys),
    };
    let count = count.min(KEY_BLOCK);
    for row in rows.first * count / queries..rows.last * count / queries {
        for line in lines(args.k, args.k_stride, token + row, head) {
            s.prefetch_near(line);
        }
        for line in lines(args.v, args.v_stride, token + row, head) {
            s.prefetch_near(line);
        }
    }
    let height = rows.last - rows.first;
    for row in rows.first..rows.last {
        for line in lines(args.out, args.out_stride, query + row, rows.head) {
            s.prefetch_to_write(line);
        }
        let next = row + height;
        let (next, head) = if next < queries { (next, rows.head) } else { (next - queries, rows.head + 1) };
        for line in lines(args.q, args.q_stride, query + next, head) {
            s.prefetch_near(line);
        }
    }
}

/// Writes the results of a few rows.
///
/// # Safety
/// `rows` lies within the operands of `args`, which are valid; no other thread has them.
#[inline(always)]
unsafe fn finish<S: Simd>(s: S, args: &AttentionArgs, rows: &Task, result: &Rows<'_>) {
    let (dim, stride) = (args.head_dim as usize, args.out_stride as usize);
    let width = dim.next_multiple_of(LANES);
    // SAFETY: the rows of `out` hold `dim` values, those of the results full vectors; the sums are a vector.
    unsafe {
        let sums = s.load(result.sums.as_ptr());
        // Rows that see no key are zero; a NaN stays one.
        let factors = s.div(s.splat(args.kept), sums);
        let factors = s.to_array(s.select_lt(sums, s.splat(f32::MIN_POSITIVE), s.splat(0.0), factors));
        let mut out = args.out.add((rows.sequence.query + rows.first) * stride + rows.head * dim);
        let mut from = result.outputs.as_ptr();
        for &factor in &factors[..rows.last - rows.first] {
            let factor = s.splat(factor);
            for column in (0..dim).step_by(LANES) {
                let x = s.mul(s.load(from.add(column)), factor);
                if dim - column >= LANES {
                    s.store(out.add(column), x);
                } else {
                    s.store_partial(out.add(column), dim - column, x);
                }
            }
            (out, from) = (out.add(stride), from.add(width));
        }
    }
}

/// A product of any number of rows and panels, by register tiles. What is wanted next are the lines for all panels of the
/// first rows.
///
/// # Safety
/// See [`TileArgs`], for that many rows and panels.
#[inline(always)]
pub(in super::super) unsafe fn tiles<S: Simd, E: Element>(s: S, rows: usize, panels: usize, all: TileArgs<E>) {
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

/// Adds the bias by distance to the scores (of powers of two) of query `query` with the keys at these positions.
///
/// # Safety
/// `scores` has room for the keys rounded up to full vectors; `task` lies within the operands of `args`, which has a bias.
#[inline(always)]
unsafe fn add_bias<S: Simd>(s: S, args: &AttentionArgs, task: &Task, query: usize, keys: &[u32], scores: *mut f32) {
    let columns = (2 * args.positions as usize).saturating_sub(1);
    // SAFETY: the table has `columns` values for each head.
    let bias = unsafe { args.relative_bias.add(task.head * columns) };
    let zero = args.positions as isize - 1 - (task.sequence.first + query as isize);
    for (i, keys) in keys.chunks(LANES).enumerate() {
        let (first, last) = (keys[0] as isize + zero, keys[keys.len() - 1] as isize + zero);
        let row = first >= 0 && last < columns as isize && keys.len() == LANES && last - first + 1 == LANES as isize;
        // SAFETY: these columns are in the table, others clamped to it.
        let y = unsafe {
            if row {
                s.load(bias.offset(first))
            } else {
                let mut lanes = [0.0; LANES];
                for (lane, &key) in lanes.iter_mut().zip(keys) {
                    *lane = *bias.offset((key as isize + zero).clamp(0, columns as isize - 1));
                }
                s.load(lanes.as_ptr())
            }
        };
        // SAFETY: the caller's promise.
        unsafe {
            let scores = scores.add(i * LANES);
            s.store(scores, s.fma(y, s.splat(LOG2_E), s.load(scores)));
        }
    }
}
