//! How the threads go through a region, a run of kernels that compute each row from the same row: block by block, so that
//! what flows between them stays in a thread's cache; or, where there are few rows, kernel by kernel together, so that
//! weights are read once. Knows sizes and caches, nothing of kernels.

use std::ops::Range;

use super::caches::second_cache;
use super::gemm::pieces;
use crate::abi::RegionArgs;

/// Blocks begin at multiples of so many rows: whole vectors of any loop, whole tiles of contractions.
const UNIT: usize = 16;
/// Units of a block at most: the first-level cache holds a panel of weights for so many.
const MOST: usize = 8;
/// Units of a block at least: fewer are not worth reading all weights for.
const LEAST: usize = 3;

/// Runs the region on this thread of so many.
///
/// # Safety
/// The arguments are those of compiled code, all threads of its call come here with equal ones, and nobody has drawn a
/// ticket since the last barrier.
pub unsafe extern "C" fn run_region(args: *const RegionArgs, thread: i64, threads: i64) {
    // SAFETY: the caller's promise.
    let (args, barrier) = unsafe { (&*args, &*(*(*args).context).barrier) };
    let (rows, count) = (args.rows.max(0) as usize, threads.max(1) as usize);
    let units = rows.div_ceil(UNIT);
    let fitting = second_cache() * 3 / 4 / args.row_bytes.max(1) as usize / UNIT;
    // Of whole units, so that each thread has a place of its own for a block within the rows that there are.
    let most = MOST.min(fitting).min(rows / UNIT / count);
    if most < LEAST {
        // SAFETY: compiled code's own function, with what it handed over.
        unsafe { (args.by_kernels)(args.context, thread, threads, args.arena, args.args, args.results) };
        return;
    }
    let first = thread as usize * most * UNIT;
    let mut number = barrier.ticket();
    for (i, block) in blocks(units, count, most).enumerate() {
        if i != number {
            continue;
        }
        let (begin, end) = (block.start * UNIT, rows.min(block.end * UNIT));
        // SAFETY: as above; each ticket is drawn once, so blocks are computed once, and blocks fit the places of
        // their threads.
        unsafe {
            (args.by_rows)(args.context, args.arena, args.args, args.results, begin as i64, end as i64, first as i64)
        };
        number = barrier.ticket();
    }
}

/// The blocks of so many units, none larger than `most`. Threads take them as they come to them; the last ones are small,
/// so that all are through at about the same time, also those whose core is slowed down by others.
fn blocks(units: usize, threads: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    // One block for each thread, or one thread: nobody to wait for, so all are equal.
    let equal = if threads == 1 || units <= threads * most { units } else { 0 };
    let count = units.div_ceil(most).next_multiple_of(threads);
    let mut start = equal;
    let falling = std::iter::from_fn(move || {
        let left = units - start;
        let size = (left / (2 * threads)).clamp(LEAST, most).min(left);
        let size = match left - size {
            // Nothing too small stays behind.
            0..LEAST if left <= most => left,
            0..LEAST => left.div_ceil(2),
            _ => size,
        };
        start += size;
        (size > 0).then_some(start - size..start)
    });
    pieces(0..equal, units.div_ceil(count).max(1)).chain(falling)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_all_rows_in_order_and_fit_a_share() {
        for threads in 1..=5 {
            for units in threads * LEAST..200 {
                for most in LEAST..=MOST.min(units / threads) {
                    let mut next = 0;
                    for block in blocks(units, threads, most) {
                        assert_eq!(block.start, next);
                        assert!((1..=most).contains(&block.len()), "{block:?} of {units}, {threads} threads, {most}");
                        next = block.end;
                    }
                    assert_eq!(next, units, "{threads} threads, {most}");
                }
            }
        }
    }

    #[test]
    fn few_rows_are_shared_equally() {
        assert_eq!(blocks(8, 2, 4).collect::<Vec<_>>(), [0..4, 4..8]);
        assert_eq!(blocks(9, 1, 6).map(|b| b.len()).collect::<Vec<_>>(), [5, 4]);
    }
}
