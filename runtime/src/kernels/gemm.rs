//! Activations times packed weights: `C[m, n] = A[m, k] · Wᵀ`, with a compiled epilogue on each finished block.

use std::ops::Range;

use half::{bf16, f16};

use super::isa::Isa;
use super::simd::{Element, Kernel, LANES, Simd};
use super::tile::TileArgs;

/// What compiled code does to a finished block of C in place (bias, activation, residual, ...): called with the
/// environment, the rows `r0..r1` and the columns `c0..c1`.
pub type Epilogue = extern "C" fn(env: *const u8, r0: i64, r1: i64, c0: i64, c1: i64);

/// Arguments of [`gemm_panels`]. Strides count elements.
#[repr(C)]
pub struct GemmArgs {
    /// A: m rows of k contiguous values.
    pub a: *const f32,
    /// From one row of A to the next.
    pub lda: i64,
    /// The weight, packed by [`pack_panels`](super::pack_panels), aligned to its elements.
    pub b: *const u8,
    /// The weight's [`Storage`](super::Storage) as a number.
    pub b_dtype: i64,
    /// C: m rows of n contiguous values; must not overlap A.
    pub c: *mut f32,
    /// From one row of C to the next.
    pub ldc: i64,
    /// Rows of A and C (tokens).
    pub m: i64,
    /// Columns of C (outputs of the layer).
    pub n: i64,
    /// Columns of A (inputs of the layer). 0 gives C = 0.
    pub k: i64,
    /// Runs on each block of C as soon as it is complete, on the thread that made it, each element once.
    pub epilogue: Option<Epilogue>,
    /// Its environment.
    pub env: *const u8,
}

/// `C = A · Wᵀ` and the epilogue: the part of `thread` of `threads`.
///
/// # Safety
/// The operands are as [`GemmArgs`] describes them, alive and (C, and what the epilogue writes) not accessed by others
/// until all threads are through.
pub unsafe extern "C" fn gemm_panels(args: *const GemmArgs, thread: i64, threads: i64) {
    // SAFETY: the caller's promise.
    unsafe { gemm_on(Isa::current(), &*args, thread as usize, threads as usize) }
}

/// [`gemm_panels`] on a given instruction set.
///
/// # Safety
/// As for [`gemm_panels`].
pub(crate) unsafe fn gemm_on(isa: Isa, args: &GemmArgs, thread: usize, threads: usize) {
    debug_assert!(thread < threads);
    if args.m <= 0 || args.n <= 0 {
        return;
    }
    match args.b_dtype {
        0 => isa.run(Gemm { args, b: args.b.cast::<f32>(), thread, threads }),
        1 => isa.run(Gemm { args, b: args.b.cast::<bf16>(), thread, threads }),
        2 => isa.run(Gemm { args, b: args.b.cast::<f16>(), thread, threads }),
        other => unreachable!("no panel storage {other}"),
    }
}

struct Gemm<'a, E> {
    args: &'a GemmArgs,
    b: *const E,
    thread: usize,
    threads: usize,
}

/// Part `i` of `0..n` cut into `parts` parts of nearly equal size.
pub(crate) fn part(n: usize, i: usize, parts: usize) -> Range<usize> {
    let (each, rest) = (n / parts, n % parts);
    let start = i * each + i.min(rest);
    start..start + each + usize::from(i < rest)
}

/// Cuts `range` into pieces of nearly equal size, none larger than `most`.
pub(crate) fn pieces(range: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    let (start, n) = (range.start, range.len());
    let count = n.div_ceil(most);
    (0..count).map(move |i| {
        let piece = part(n, i, count);
        start + piece.start..start + piece.end
    })
}

/// How many threads cut the rows and how many the panels, by the least estimated cycles of the slowest thread:
/// multiply-adds at the vector rate, the slice of B once from memory, the slice of A once from a shared cache. So few
/// rows share the panels out (weights are read once per machine) and many rows keep each thread at its own rows.
fn grid(m: usize, panels: usize, k: usize, element: usize, threads: usize) -> (usize, usize) {
    let cost = |rows: usize, columns: usize| {
        let (rows, columns) = (m.div_ceil(rows) as f64, panels.div_ceil(columns) as f64);
        let multiply_adds = rows * columns / 2.0;
        let b_bytes = columns * (LANES * element) as f64;
        let a_bytes = rows * 4.0;
        k as f64 * (multiply_adds + b_bytes / 4.0 + a_bytes / 8.0)
    };
    let mut best = (1, threads);
    for rows in 1..=threads {
        let candidate = (rows, threads / rows);
        if cost(candidate.0, candidate.1) < cost(best.0, best.1) {
            best = candidate;
        }
    }
    best
}

/// Inputs summed before moving on: two panels of this depth and their rows of A fit a 48 KB first-level cache.
const K_BLOCK: usize = 256;
/// Panels of a block handed to the epilogue: enough columns to amortise the call, few enough to stay cached.
const BLOCK_PANELS: usize = 4;
/// Bytes of A that stay in the second-level cache while the panels pass by.
const A_BYTES: usize = 512 << 10;

impl<E: Element> Kernel for Gemm<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let args = self.args;
        let (m, n, k) = (args.m as usize, args.n as usize, args.k.max(0) as usize);
        let panels = n.div_ceil(LANES);
        let (by_rows, by_panels) = grid(m, panels, k, size_of::<E>(), self.threads);
        if self.thread >= by_rows * by_panels {
            return;
        }
        let rows = part(m, self.thread / by_panels, by_rows);
        let panels = part(panels, self.thread % by_panels, by_panels);
        let row_block = (A_BYTES / (4 * k.max(1))).clamp(4 * S::ROWS, 512);
        for rows in pieces(rows, row_block) {
            let mut panel = panels.start;
            while panel < panels.end {
                let end = panels.end.min(panel + BLOCK_PANELS);
                let columns = panel * LANES..n.min(end * LANES);
                // SAFETY: rows and panels are in range, so the operands are as `GemmArgs` promises; no other thread
                // has this block.
                unsafe { block(s, args, self.b, rows.clone(), panel..end) };
                if let Some(epilogue) = args.epilogue {
                    let [r0, r1, c0, c1] = [rows.start, rows.end, columns.start, columns.end].map(|i| i as i64);
                    epilogue(args.env, r0, r1, c0, c1);
                }
                panel = end;
            }
        }
    }
}

/// One block of C, complete but for the epilogue.
///
/// # Safety
/// `rows` and `panels` are in range of `args`, whose operands are valid.
#[inline(always)]
unsafe fn block<S: Simd, E: Element>(s: S, args: &GemmArgs, b: *const E, rows: Range<usize>, panels: Range<usize>) {
    let (n, k) = (args.n as usize, args.k.max(0) as usize);
    let (lda, ldc) = (args.lda as usize, args.ldc as usize);
    let full = panels.end.min(n / LANES);
    let mut panel = panels.start;
    while panel < full {
        let group = S::PANELS.min(full - panel);
        let mut start = 0;
        loop {
            // Equal pieces of k; one empty piece where k = 0, which zeroes C.
            let end = start + (k - start).div_ceil((k - start).div_ceil(K_BLOCK).max(1));
            for rows in pieces(rows.clone(), S::ROWS) {
                // SAFETY: within the operands, as the caller promises.
                unsafe {
                    s.tile(
                        rows.len(),
                        group,
                        &TileArgs {
                            k: end - start,
                            a: args.a.add(rows.start * lda + start),
                            lda,
                            b: b.add((panel * k + start) * LANES),
                            b_step: LANES,
                            b_panel: k * LANES,
                            c: args.c.add(rows.start * ldc + panel * LANES),
                            ldc,
                            accumulate: start > 0,
                        },
                    );
                }
            }
            start = end;
            if start == k {
                break;
            }
        }
        panel += group;
    }
    if panel < panels.end {
        // The last panel is narrower in C than in memory: by way of a tile of its own.
        let columns = n - panel * LANES;
        let mut narrow = [0.0f32; 16 * LANES];
        for rows in pieces(rows, S::ROWS) {
            // SAFETY: within the operands; the tile has room for S::ROWS ≤ 16 rows.
            unsafe {
                s.tile(
                    rows.len(),
                    1,
                    &TileArgs {
                        k,
                        a: args.a.add(rows.start * lda),
                        lda,
                        b: b.add(panel * k * LANES),
                        b_step: LANES,
                        b_panel: 0,
                        c: narrow.as_mut_ptr(),
                        ldc: LANES,
                        accumulate: false,
                    },
                );
                for (row, values) in rows.zip(narrow.chunks_exact(LANES)) {
                    let c = args.c.add(row * ldc + panel * LANES);
                    std::ptr::copy_nonoverlapping(values.as_ptr(), c, columns);
                }
            }
        }
    }
}
