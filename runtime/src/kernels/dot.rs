//! The batched product of two activations: `C[b] = A[b] · B[b]`, any strides.
//!
//! B is packed into panels in this thread's scratch, block by block; A is read in place where its rows are contiguous
//! and packed too where they are not. Both go through transpositions of sixteen by sixteen where they lie across. B may be a
//! weight of a linear layer as it is stored, see `transposed`.

use std::ops::Range;

use super::caches::second_cache;
use super::gemm::{Rows, part, pieces, tiles};
use super::isa::Isa;
use super::scratch::with_scratch;
use super::simd::{Element, Kernel, LANES, Simd};
use super::tile::TileArgs;
use super::transposed::Transposed;

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
    /// B where it is a weight of k outputs and n inputs, packed by [`pack_floats`](super::pack_floats) or
    /// [`pack_quantized`](super::pack_quantized), the same for all matrices; null where it is rows.
    pub weight: *const u8,
    /// B where it is rows: `batch` matrices of k by n.
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
        let blocks = Blocks::of(args.m as usize, args.n as usize, args.k.max(0) as usize);
        // SAFETY: the caller's promise.
        let weight = (!args.weight.is_null()).then(|| unsafe { Transposed::new(args.weight) });
        let own = weight.map_or(0, |weight| weight.scratch(blocks.columns));
        let floats = blocks.depth * blocks.columns + ROW_BLOCK * K_BLOCK + TILE_ROWS * LANES + own;
        with_scratch(floats, |scratch| isa.run(Dot { args, weight, blocks, thread, threads, scratch }));
    }
}

struct Dot<'a> {
    args: &'a DotArgs,
    weight: Option<Transposed>,
    blocks: Blocks,
    thread: usize,
    threads: usize,
    scratch: &'a mut [f32],
}

/// Rows of a task, and of A that are packed at once: whole tiles of any instruction set, and whole vectors.
const ROW_BLOCK: usize = 96;
/// Products summed per pass: three panels of B this deep, and their rows of A, stay in the first-level cache.
const K_BLOCK: usize = 128;
/// Room for the register tile of any instruction set.
const TILE_ROWS: usize = 16;
/// Columns of B are packed in whole tiles: three panels.
const TILE_COLUMNS: usize = 3 * LANES;

/// How much of B is packed at once: half of the second-level cache, so that rows of A and C pass by it.
#[derive(Clone, Copy)]
struct Blocks {
    /// Rows of B, at most. Whole blocks of products, so that sums go to memory at the same places whatever the depth.
    depth: usize,
    /// Columns of B, at most: whole tiles, or all.
    columns: usize,
}

impl Blocks {
    /// Those with which the least goes through memory: A is read for each block of columns, C is read and written for each
    /// of rows.
    fn of(m: usize, n: usize, k: usize) -> Blocks {
        const MOST_PASSES: usize = 32;
        let room = second_cache() / 2 / size_of::<f32>();
        let with = |passes: usize| {
            let depth = k.div_ceil(passes).next_multiple_of(K_BLOCK).max(K_BLOCK);
            let most = (room / depth / TILE_COLUMNS).max(1) * TILE_COLUMNS;
            let blocks = n.div_ceil(most);
            let columns = n.div_ceil(blocks).next_multiple_of(TILE_COLUMNS).min(n.next_multiple_of(LANES));
            let moved = (m * k) as f64 * blocks as f64 + 2.0 * (m * n) as f64 * k.div_ceil(depth) as f64;
            (moved, Blocks { depth: depth.min(k), columns })
        };
        let fewer = |a: (f64, Blocks), b: (f64, Blocks)| if b.0 < a.0 { b } else { a };
        (2..=MOST_PASSES).map(with).fold(with(1), fewer).1
    }
}

impl Kernel for Dot<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let args = self.args;
        let (batch, m, n) = (args.batch as usize, args.m as usize, args.n as usize);
        let (row_blocks, column_blocks) = (m.div_ceil(ROW_BLOCK), n.div_ceil(self.blocks.columns));
        // Tasks in the order (matrix, column block, row block): neighbours share the packed columns.
        let tasks = part(batch * column_blocks * row_blocks, self.thread, self.threads);
        let mut task = tasks.start;
        while task < tasks.end {
            let (columns, first) = (task / row_blocks, task % row_blocks);
            let last = row_blocks.min(first + (tasks.end - task));
            let rows = part(m, first, row_blocks).start..part(m, last - 1, row_blocks).end;
            let (matrix, column) = (columns / column_blocks, columns % column_blocks * self.blocks.columns);
            let columns = column..n.min(column + self.blocks.columns);
            // SAFETY: matrix, rows and columns are in range, so the operands are as `DotArgs` promises; no other thread
            // has this block.
            unsafe { block(s, args, self.weight, self.blocks, matrix, rows, columns, self.scratch) };
            task += last - first;
        }
    }
}

/// Rows × columns of one matrix of C.
///
/// # Safety
/// The ranges are in range of `args`, whose operands are valid; `columns` are at most those of `blocks`.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "what a task is, and where it works")]
unsafe fn block<S: Simd>(
    s: S,
    args: &DotArgs,
    weight: Option<Transposed>,
    blocks: Blocks,
    matrix: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    scratch: &mut [f32],
) {
    let k = args.k.max(0) as usize;
    let (packed_b, rest) = scratch.split_at_mut(blocks.depth * blocks.columns);
    let (packed_a, rest) = rest.split_at_mut(ROW_BLOCK * K_BLOCK);
    let (narrow, own) = rest.split_at_mut(TILE_ROWS * LANES);
    let at = |batch: i64, row: i64, col: i64, r: usize, c: usize| {
        (matrix as i64 * batch + r as i64 * row + c as i64 * col) as isize
    };
    let a_at = |r, c| at(args.a_batch, args.a_row, args.a_col, r, c);
    let b_at = |r, c| at(args.b_batch, args.b_row, args.b_col, r, c);
    let c_at = |r, c| at(args.c_batch, args.c_row, args.c_col, r, c);
    let [_, tile_panels] = <f32 as Element>::tile::<S>();
    // Panels that are as wide in C.
    let whole = if args.c_col == 1 { columns.len() / LANES } else { 0 };
    // One empty pass where k = 0, which zeroes C.
    for deep in (0..k.max(1)).step_by(blocks.depth.max(1)).map(|first| first..k.min(first + blocks.depth)) {
        // SAFETY: these elements of B exist, and the packed panels have room.
        unsafe {
            if let Some(weight) = weight {
                weight.pack(s, packed_b, deep.clone(), columns.clone(), own);
            } else {
                let b = args.b.offset(b_at(deep.start, columns.start));
                pack_b(s, packed_b, deep.len(), columns.len(), b, [args.b_row as isize, args.b_col as isize]);
            }
        }
        let panel = deep.len() * LANES;
        for rows in pieces(rows.clone(), ROW_BLOCK) {
            for ks in pieces(deep.clone(), K_BLOCK).chain(deep.is_empty().then_some(0..0)) {
                // SAFETY: as above, and for A and C alike; `narrow` has room for a tile's rows.
                unsafe {
                    let (mut a, mut lda) = (args.a.offset(a_at(rows.start, ks.start)), args.a_row as usize);
                    if args.a_col != 1 {
                        pack_a(s, packed_a, rows.len(), ks.len(), a, [args.a_row as isize, args.a_col as isize]);
                        (a, lda) = (packed_a.as_ptr(), K_BLOCK);
                    }
                    let b = packed_b.as_ptr().add((ks.start - deep.start) * LANES);
                    let view = Rows {
                        // The products of columns from `ks.start` on are what it is asked for.
                        a: a.wrapping_sub(ks.start),
                        lda,
                        c: args.c.offset(c_at(rows.start, columns.start)),
                        ldc: args.c_row as usize,
                        count: rows.len(),
                        k,
                    };
                    for group in pieces(0..whole, tile_panels) {
                        let (b, c) = (b.add(group.start * panel), view.c.add(group.start * LANES));
                        let next = b.wrapping_add(group.len() * panel);
                        tiles(s, &view, ks.clone(), b, next, panel, group.len(), c, view.ldc);
                    }
                    for column in (whole * LANES..columns.len()).step_by(LANES) {
                        // By way of a tile of its own where C is narrower than a panel or its columns lie apart.
                        let width = (columns.len() - column).min(LANES);
                        for some in pieces(rows.clone(), S::ROWS.min(TILE_ROWS)) {
                            let c =
                                |r: usize, i: usize| args.c.offset(c_at(some.start + r, columns.start + column + i));
                            if ks.start > 0 {
                                for r in 0..some.len() {
                                    for i in 0..width {
                                        narrow[r * LANES + i] = *c(r, i);
                                    }
                                }
                            }
                            let tile = TileArgs {
                                k: ks.len(),
                                a: a.add((some.start - rows.start) * lda),
                                lda,
                                b: b.add(column / LANES * panel),
                                b_step: LANES,
                                b_panel: panel,
                                c: narrow.as_mut_ptr(),
                                ldc: LANES,
                                accumulate: ks.start > 0,
                                next: None,
                            };
                            s.tile(some.len(), 1, &tile);
                            for r in 0..some.len() {
                                for i in 0..width {
                                    *c(r, i) = narrow[r * LANES + i];
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Packs `depth` × `n` elements, `step` apart from row to row and column to column, into panels, zeros past n.
///
/// # Safety
/// The elements are readable; `packed` has room.
#[inline(always)]
unsafe fn pack_b<S: Simd>(s: S, packed: &mut [f32], depth: usize, n: usize, b: *const f32, step: [isize; 2]) {
    if depth == 0 {
        return;
    }
    let [row, col] = step;
    for (panel, out) in packed[..n.div_ceil(LANES) * depth * LANES].chunks_exact_mut(depth * LANES).enumerate() {
        let first = panel * LANES;
        let width = LANES.min(n - first);
        // SAFETY: the caller's promise; `out` has sixteen values for each row.
        unsafe {
            let b = b.offset(first as isize * col);
            if col == 1 {
                for (i, out) in out.chunks_exact_mut(LANES).enumerate() {
                    let from = b.offset(i as isize * row);
                    let x = if width == LANES { s.load(from) } else { s.load_partial(from, width, 0.0) };
                    s.store(out.as_mut_ptr(), x);
                }
            } else if row == 1 {
                across(s, b, col, width, depth, out.as_mut_ptr(), LANES);
            } else {
                for (i, out) in out.chunks_exact_mut(LANES).enumerate() {
                    for (c, out) in out.iter_mut().enumerate() {
                        *out = if c < width { *b.offset(i as isize * row + c as isize * col) } else { 0.0 };
                    }
                }
            }
        }
    }
}

/// Packs `rows` × `depth` elements, `step` apart from row to row and column to column, into rows of [`K_BLOCK`].
///
/// # Safety
/// The elements are readable; `packed` has room for rows rounded up to sixteen.
#[inline(always)]
unsafe fn pack_a<S: Simd>(s: S, packed: &mut [f32], rows: usize, depth: usize, a: *const f32, step: [isize; 2]) {
    let [row, col] = step;
    // SAFETY: the caller's promise; a block of sixteen by sixteen is within the packed rows.
    unsafe {
        if row != 1 {
            for r in 0..rows {
                for i in 0..depth {
                    packed[r * K_BLOCK + i] = *a.offset(r as isize * row + i as isize * col);
                }
            }
            return;
        }
        for first in (0..rows).step_by(LANES) {
            let width = LANES.min(rows - first);
            for i in (0..depth).step_by(LANES) {
                let mut columns = [s.splat(0.0); LANES];
                for (j, x) in columns.iter_mut().enumerate().take(depth - i) {
                    let from = a.offset((i + j) as isize * col).add(first);
                    *x = if width == LANES { s.load(from) } else { s.load_partial(from, width, 0.0) };
                }
                for (r, x) in s.transpose(columns).into_iter().enumerate() {
                    s.store(packed.as_mut_ptr().add((first + r) * K_BLOCK + i), x);
                }
            }
        }
    }
}

/// Writes up to sixteen columns, `col` apart and each contiguous, side by side: value i of each to row i of `to`, `ld` apart.
/// Columns past `width` are zeros.
///
/// # Safety
/// `width` columns of `depth` values are readable, `depth` rows of sixteen writable.
#[inline(always)]
pub(super) unsafe fn across<S: Simd>(
    s: S,
    from: *const f32,
    col: isize,
    width: usize,
    depth: usize,
    to: *mut f32,
    ld: usize,
) {
    for i in (0..depth).step_by(LANES) {
        let there = LANES.min(depth - i);
        let mut columns = [s.splat(0.0); LANES];
        for (c, x) in columns.iter_mut().enumerate().take(width) {
            // SAFETY: the caller's promise.
            unsafe {
                let from = from.offset(c as isize * col).add(i);
                *x = if there == LANES { s.load(from) } else { s.load_partial(from, there, 0.0) };
            }
        }
        for (r, x) in s.transpose(columns).into_iter().enumerate().take(there) {
            // SAFETY: the caller's promise.
            unsafe { s.store(to.add((i + r) * ld), x) };
        }
    }
}
