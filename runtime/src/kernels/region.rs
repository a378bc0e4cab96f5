//! How a thread goes through a region, a run of kernels that compute each row from the same row: block by block, so that
//! what flows between them stays in its cache; or, where there are few rows, kernel by kernel with the other threads, so
//! that weights are read once. Knows sizes and caches, nothing of kernels.

use super::caches::second_cache;
use super::gemm::{part, pieces};
use crate::abi::RegionArgs;

/// Blocks begin at multiples of so many rows: whole vectors of any loop, whole tiles of contractions.
const UNIT: usize = 16;
/// Rows of a block at most: the first-level cache holds a panel of weights for so many.
const MOST: usize = 128;
/// Rows of a block at least: fewer are not worth reading all weights for.
const LEAST: usize = 48;

/// Runs the region on this thread of so many.
///
/// # Safety
/// The arguments are those of compiled code, all threads of its call come here with equal ones.
pub unsafe extern "C" fn run_region(args: *const RegionArgs, thread: i64, threads: i64) {
    // SAFETY: the caller's promise.
    let args = unsafe { &*args };
    let (rows, share) = (args.rows.max(0) as usize, args.rows.max(0) as usize / threads.max(1) as usize);
    let fitting = second_cache() * 5 / 8 / args.row_bytes.max(1) as usize / UNIT * UNIT;
    if share < LEAST || fitting < LEAST {
        // SAFETY: compiled code's own function, with what it handed over.
        unsafe { (args.by_kernels)(args.context, thread, threads, args.arena, args.args, args.results) };
        return;
    }
    let units = part(rows.div_ceil(UNIT), thread as usize, threads as usize);
    let first = units.start * UNIT;
    for block in pieces(units, fitting.min(MOST) / UNIT) {
        let (begin, end) = (block.start * UNIT, rows.min(block.end * UNIT));
        // SAFETY: as above; threads have disjoint rows, and keep inner values in the places of their own first rows.
        unsafe {
            (args.by_rows)(args.context, args.arena, args.args, args.results, begin as i64, end as i64, first as i64)
        };
    }
}
