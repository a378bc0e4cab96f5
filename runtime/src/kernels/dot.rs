//! The batched product of two activations: `C[b] = A[b] · B[b]`, any strides.
//!
//! B is packed into panels in this thread's scratch, block by block; A is read in place where its rows are contiguous
//! and packed too where they are not.

use std::ops::Range;

use super::gemm::{part, pieces};
use super::isa::Isa;
use super::scratch::with_scratch;
use super::simd::{Kernel, LANES, Simd};
use super::tile::TileArgs;

/// Arguments of [`dot_f32`]. Strides count elements; a stride of 0 repeats an operand along that dimension (not for C).
#[repr(C)]
pub struct DotArgs {
    /// A: `batch` matrices of m by k.
    pub a: *const f32,
    /// From one matrix, row (m) and column (k) of A to the next.
    pub a_batch: i64,
    /// See `a_batch`.
    pub a_row: i64,
    /// See `a_batch`.
    pub a_col: i64,
    /// B: `batch` matrices of k by n.
    pub b: *const f32,
    /// From one matrix, row (k) and column (n) of B to the next: a B stored `[n, k]` has `b_row` 1 and `b_col` k.
    pub b_batch: i64,
    /// See `b_batch`.
    pub b_row: i64,
    /// See `b_batch`.
    pub b_col: i64,
    /// C: `batch` matrices of m by n; must not overlap A or B.
    pub c: *mut f32,
    /// From one matrix, row (m) and column (n) of C to the next.
    pub c_batch: i64,
    /// See `c_batch`.
    pub c_row: i64,
    /// See `c_batch`.
    pub c_col: i64,
    /// Matrices.
    pub batch: i64,
    /// Rows of A and C.
    pub m: i64,
    /// Columns of B and C.
    pub n: i64,
    /// Columns of A, rows of B. 0 gives C = 0.
    pub k: i64,
}

/// `C[b] = A[b] · B[b]`: the part of `thread` of `threads`.
///
/// # Safety
/// The operands are as [`DotArgs`] describes them, alive, and C not accessed by others until all threads are through.
pub unsafe extern "C" fn dot_f32(args: *const DotArgs, thread: i64, threads: i64) {
    // SAFETY: the caller's promise.
    unsafe { dot_on(Isa::current(), &*args, thread as usize, threads as usize) }
}

/// [`dot_f32`] on a given instruction set.
///
/// # Safety
/// As for [`dot_f32`].
pub(crate) unsafe fn dot_on(isa: Isa, args: &DotArgs, thread: usize, threads: usize) {
    debug_assert!(thread < threads);
    if args.batch > 0 && args.m > 0 && args.n > 0 {
        let floats = K_BLOCK * COLUMN_BLOCK + TILE_ROWS * K_BLOCK + TILE_ROWS * LANES;
        with_scratch(floats, |scratch| isa.run(Dot { args, thread, threads, scratch }));
    }
}

struct Dot<'a> {
    args: &'a DotArgs,
    thread: usize,
    threads: usize,
    scratch: &'a mut [f32],
}

/// Rows of a task, products summed per pass and columns packed at once: 256 KB of B, and a row block to amortise it.
const ROW_BLOCK: usize = 96;
const K_BLOCK: usize = 256;
const COLUMN_BLOCK: usize = 256;
/// Room for the register tile of any instruction set.
const TILE_ROWS: usize = 16;

impl Kernel for Dot<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let args = self.args;
        let (batch, m, n) = (args.batch as usize, args.m as usize, args.n as usize);
        let panels = n.div_ceil(LANES);
        let (row_blocks, column_blocks) = (m.div_ceil(ROW_BLOCK), n.div_ceil(COLUMN_BLOCK));
        // Tasks in the order (matrix, column block, row block): neighbours share the packed columns.
        let tasks = part(batch * column_blocks * row_blocks, self.thread, self.threads);
        let mut task = tasks.start;
        while task < tasks.end {
            let (columns, first) = (task / row_blocks, task % row_blocks);
            let last = row_blocks.min(first + (tasks.end - task));
            let rows = part(m, first, row_blocks).start..part(m, last - 1, row_blocks).end;
            let (matrix, panels) = (columns / column_blocks, part(panels, columns % column_blocks, column_blocks));
            let columns = panels.start * LANES..n.min(panels.end * LANES);
            // SAFETY: matrix, rows and columns are in range, so the operands are as `DotArgs` promises; no other thread
            // has this block.
            unsafe { block(s, args, matrix, rows, columns, self.scratch) };
            task += last - first;
        }
    }
}

/// Rows × columns of one matrix of C.
///
/// # Safety
/// The ranges are in range of `args`, whose operands are valid; `columns` are at most [`COLUMN_BLOCK`].
#[inline(always)]
unsafe fn block<S: Simd>(
    s: S,
    args: &DotArgs,
    matrix: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    scratch: &mut [f32],
) {
    let k = args.k.max(0) as usize;
    let (packed_b, rest) = scratch.split_at_mut(K_BLOCK * COLUMN_BLOCK);
    let (packed_a, narrow) = rest.split_at_mut(TILE_ROWS * K_BLOCK);
    let at = |batch: i64, row: i64, col: i64, r: usize, c: usize| {
        (matrix as i64 * batch + r as i64 * row + c as i64 * col) as isize
    };
    let a_at = |r, c| at(args.a_batch, args.a_row, args.a_col, r, c);
    let b_at = |r, c| at(args.b_batch, args.b_row, args.b_col, r, c);
    let c_at = |r, c| at(args.c_batch, args.c_row, args.c_col, r, c);
    let mut start = 0;
    // One empty pass where k = 0, which zeroes C.
    loop {
        let depth = (k - start).min(K_BLOCK);
        // SAFETY: element (start + i, column) of B for i < depth exists, and the packed panels have room.
        unsafe {
            pack(
                s,
                packed_b,
                depth,
                columns.len(),
                |i, c| args.b.offset(b_at(start + i, columns.start + c)),
                args.b_col == 1,
            )
        };
        for rows in pieces(rows.clone(), S::ROWS) {
            // SAFETY: as above, and for A and C alike; `narrow` has room for S::ROWS ≤ TILE_ROWS rows.
            unsafe {
                let (mut a, mut lda) = (args.a.offset(a_at(rows.start, start)), args.a_row as usize);
                if args.a_col != 1 {
                    for (r, row) in rows.clone().enumerate() {
                        for i in 0..depth {
                            packed_a[r * K_BLOCK + i] = *args.a.offset(a_at(row, start + i));
                        }
                    }
                    (a, lda) = (packed_a.as_ptr(), K_BLOCK);
                }
                let mut column = 0;
                while column < columns.len() {
                    let left = columns.len() - column;
                    let direct = left >= LANES && args.c_col == 1;
                    let group = if direct { S::PANELS.min(left / LANES) } else { 1 };
                    let mut tile = TileArgs {
                        k: depth,
                        a,
                        lda,
                        b: packed_b.as_ptr().add(column / LANES * depth * LANES),
                        b_step: LANES,
                        b_panel: depth * LANES,
                        c: args.c.offset(c_at(rows.start, columns.start + column)),
                        ldc: args.c_row as usize,
                        accumulate: start > 0,
                        next: None,
                    };
                    if direct {
                        s.tile(rows.len(), group, &tile);
                    } else {
                        // By way of a tile of its own where C is narrower than a panel or its columns lie apart.
                        let width = left.min(LANES);
                        let c = |r: usize, i: usize| args.c.offset(c_at(rows.start + r, columns.start + column + i));
                        if tile.accumulate {
                            for r in 0..rows.len() {
                                for i in 0..width {
                                    narrow[r * LANES + i] = *c(r, i);
                                }
                            }
                        }
                        (tile.c, tile.ldc) = (narrow.as_mut_ptr(), LANES);
                        s.tile(rows.len(), 1, &tile);
                        for r in 0..rows.len() {
                            for i in 0..width {
                                *c(r, i) = narrow[r * LANES + i];
                            }
                        }
                    }
                    column += group * LANES;
                }
            }
        }
        start += depth;
        if start == k {
            break;
        }
    }
}

/// Packs `depth` × `n` elements into panels, zeros past n.
///
/// # Safety
/// `element(i, c)` is readable for i < depth, c < n; and if `contiguous`, so are the columns after it, side by side.
#[inline(always)]
unsafe fn pack<S: Simd>(
    s: S,
    packed: &mut [f32],
    depth: usize,
    n: usize,
    element: impl Fn(usize, usize) -> *const f32,
    contiguous: bool,
) {
    if depth == 0 {
        return;
    }
    for (panel, out) in packed[..n.div_ceil(LANES) * depth * LANES].chunks_exact_mut(depth * LANES).enumerate() {
        let first = panel * LANES;
        let width = LANES.min(n - first);
        for (i, out) in out.chunks_exact_mut(LANES).enumerate() {
            // SAFETY: the caller's promise; `out` is sixteen values long.
            unsafe {
                if contiguous && width == LANES {
                    s.store(out.as_mut_ptr(), s.load(element(i, first)));
                } else {
                    for (c, out) in out.iter_mut().enumerate() {
                        *out = if c < width { *element(i, first + c) } else { 0.0 };
                    }
                }
            }
        }
    }
}
