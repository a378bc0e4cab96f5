//! Activations times packed weights: `C[m, n] = A[m, k] · Wᵀ`, with a compiled epilogue on each finished block.

use std::ops::Range;

use half::{bf16, f16};
use lith_ir::dtype::DType;
use lith_ir::quant::Storage;

use super::caches::second_cache;
use super::isa::Isa;
use super::panels::{HEADER, Header};
use super::quant::activations::represent;
use super::quant::dequant::Dequantized;
use super::quant::integer::{self, Integer};
use super::quant::layout::QuantLayout;
use super::scratch::with_scratch;
use super::simd::{Element, Kernel, LANES, Simd};
use super::tile::{Next, TileArgs};

/// What compiled code does to a finished block of C in place (bias, activation, residual, ...): called with the
/// environment, the rows `r0..r1` and the columns `c0..c1`.
pub type Epilogue = extern "C" fn(env: *const u8, r0: i64, r1: i64, c0: i64, c1: i64);

/// Arguments of [`gemm_panels`]. Strides count elements.
#[repr(C)]
pub struct GemmArgs {
    /// A: rows of k contiguous values.
    pub a: *const f32,
    /// From one row of A to the next.
    pub lda: i64,
    /// The weight, packed by [`pack_floats`](super::pack_floats) or [`pack_quantized`](super::pack_quantized), its panels
    /// aligned to their elements.
    pub b: *const u8,
    /// C: rows of n contiguous values; must not overlap A.
    pub c: *mut f32,
    /// From one row of C to the next.
    pub ldc: i64,
    /// The first row to compute: those before it are left alone.
    pub row: i64,
    /// How many rows (tokens) to compute.
    pub m: i64,
    /// Columns of C (outputs of the layer).
    pub n: i64,
    /// Columns of A (inputs of the layer). 0 gives C = 0.
    pub k: i64,
    /// 0: A as it is. 1 or 2: A as dynamic quantization in groups of 32 columns to codes of so many bytes represents it
    /// (the operation `dynamic_quantize` of the graph); products with codes are then summed as integers.
    pub activations: i64,
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
    // SAFETY: the caller's promise.
    let header = unsafe { Header::read(args.b) };
    debug_assert_eq!((header.n as i64, header.k as i64), (args.n, args.k.max(0)));
    let panels = args.b.wrapping_add(HEADER);
    let bytes = args.activations;
    match header.storage {
        Storage::Quantized(scheme) => {
            let layout = QuantLayout::of_packed(&scheme, header.k);
            match bytes {
                1 if integer::takes(&scheme) => {
                    run(isa, Gemm { args, weight: Integer::<1> { panels, layout }, bytes: 0, thread, threads });
                }
                2 if integer::takes(&scheme) => {
                    run(isa, Gemm { args, weight: Integer::<2> { panels, layout }, bytes: 0, thread, threads });
                }
                _ => run(isa, Gemm { args, weight: Dequantized { panels, layout }, bytes, thread, threads }),
            }
        }
        Storage::Float(DType::F32) => {
            run(isa, Gemm { args, weight: Float(panels.cast::<f32>()), bytes, thread, threads });
        }
        Storage::Float(DType::F16) => {
            run(isa, Gemm { args, weight: Float(panels.cast::<f16>()), bytes, thread, threads });
        }
        Storage::Float(_) => {
            run(isa, Gemm { args, weight: Float(panels.cast::<bf16>()), bytes, thread, threads });
        }
    }
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

/// What a weight costs a thread, in cycles for one column of A: for a row and a panel, for a panel, for a row.
#[derive(Clone, Copy)]
pub(crate) struct Costs {
    /// Arithmetic of a row with a panel.
    pub product: f64,
    /// Reading a panel from memory and unpacking it.
    pub panel: f64,
    /// Reading a row from a shared cache, and preparing it.
    pub row: f64,
}

/// A few rows of A, and where their rows of C begin.
pub(crate) struct Rows {
    pub a: *const f32,
    pub lda: usize,
    pub c: *mut f32,
    pub ldc: usize,
    pub count: usize,
    pub k: usize,
}

/// How the panels of a kind of weight meet rows of A.
///
/// Safety of its methods: the rows and panels are in range of a valid product, `scratch` has what
/// [`Weight::scratch`] says for as many rows.
pub(crate) trait Weight: Copy {
    /// What it costs.
    fn costs(&self) -> Costs;
    /// Panels of a block that is handed to the epilogue, for a row block of `rows`: enough columns to amortise the call,
    /// few enough to stay cached.
    fn block(&self, rows: usize) -> usize {
        let _ = rows;
        BLOCK_PANELS
    }
    /// Working memory for a row block of `rows`, in floats.
    fn scratch(&self, rows: usize) -> usize;
    /// Prepares a row block, once before its panels.
    ///
    /// # Safety
    /// See [`Weight`].
    unsafe fn stage<S: Simd>(&self, s: S, rows: &Rows, scratch: &mut [f32]);
    /// Sets the columns of these panels, at `c`, `ldc`, for the rows that were staged: at most [`Weight::block`] panels.
    ///
    /// # Safety
    /// See [`Weight`]; `c` has sixteen columns for each panel.
    unsafe fn multiply<S: Simd>(
        &self,
        s: S,
        rows: &Rows,
        panels: Range<usize>,
        c: *mut f32,
        ldc: usize,
        scratch: &mut [f32],
    );
}

/// How many threads cut the rows and how many the panels, by the least estimated cycles of the slowest thread. So few
/// rows share the panels out (weights are read once per machine) and many rows keep each thread at its own rows.
fn grid(m: usize, panels: usize, costs: Costs, threads: usize) -> (usize, usize) {
    let cost = |rows: usize, columns: usize| {
        let (rows, columns) = (m.div_ceil(rows) as f64, panels.div_ceil(columns) as f64);
        rows * columns * costs.product + columns * costs.panel + rows * costs.row
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

/// Inputs summed before moving on: three panels of this depth and their rows of A take half of a 48 KB first-level cache.
const K_BLOCK: usize = 128;
/// Panels of a block, where the weight does not choose.
pub(crate) const BLOCK_PANELS: usize = 4;
/// Rows for which a panel is brought to the first-level cache, at least.
const LEAST_ROWS: usize = 48;

#[derive(Clone, Copy)]
struct Gemm<'a, W> {
    args: &'a GemmArgs,
    weight: W,
    /// Bytes of the codes that A is to be represented by; 0 for A as it is.
    bytes: i64,
    thread: usize,
    threads: usize,
}

/// What a thread does, and its working memory.
struct Part<'a, W> {
    gemm: Gemm<'a, W>,
    rows: Range<usize>,
    panels: Range<usize>,
    row_block: usize,
    /// A row block as it is represented.
    represented: &'a mut [f32],
    /// Sixteen columns of a row block, for a last panel that is narrower in C.
    narrow: &'a mut [f32],
    /// The working memory of the weight.
    own: &'a mut [f32],
}

/// The part of a thread.
fn run<W: Weight>(isa: Isa, gemm: Gemm<'_, W>) {
    let (m, n, k) = (gemm.args.m as usize, gemm.args.n as usize, gemm.args.k.max(0) as usize);
    let panels = n.div_ceil(LANES);
    let (by_rows, by_panels) = grid(m, panels, gemm.weight.costs(), gemm.threads);
    if gemm.thread >= by_rows * by_panels {
        return;
    }
    let rows = part(m, gemm.thread / by_panels, by_rows);
    let first = gemm.args.row.max(0) as usize;
    let rows = rows.start + first..rows.end + first;
    let panels = part(panels, gemm.thread % by_panels, by_panels);
    // Rows of A that stay in the second-level cache while the panels pass by.
    let row_block = (second_cache() * 5 / 8 / (4 * k.max(1))).clamp(LEAST_ROWS, 512);
    let most = row_block.min(rows.len());
    let represented = if gemm.bytes > 0 { (most * k).next_multiple_of(LANES) } else { 0 };
    let narrow = if n.is_multiple_of(LANES) { 0 } else { most * LANES };
    // Outside of the kernel, since in closures there are no vectors.
    with_scratch(represented + narrow + gemm.weight.scratch(most), |scratch| {
        let (represented, scratch) = scratch.split_at_mut(represented);
        let (narrow, own) = scratch.split_at_mut(narrow);
        isa.run(Part { gemm, rows, panels, row_block, represented, narrow, own });
    });
}

impl<W: Weight> Kernel for Part<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Part { gemm: Gemm { args, weight, bytes, .. }, rows, panels, row_block, represented, narrow, own } = self;
        let (n, k) = (args.n as usize, args.k.max(0) as usize);
        for rows in pieces(rows, row_block) {
            // SAFETY: rows and panels are in range, so the operands are as `GemmArgs` promises; no other thread has these
            // rows of these panels.
            unsafe {
                let mut view = Rows {
                    a: args.a.add(rows.start * args.lda as usize),
                    lda: args.lda as usize,
                    c: args.c.add(rows.start * args.ldc as usize),
                    ldc: args.ldc as usize,
                    count: rows.len(),
                    k,
                };
                if bytes > 0 {
                    match bytes {
                        1 => represent::<S, 1>(s, &view, represented),
                        _ => represent::<S, 2>(s, &view, represented),
                    }
                    (view.a, view.lda) = (represented.as_ptr(), k);
                }
                weight.stage(s, &view, own);
                let (mut panel, most) = (panels.start, weight.block(rows.len()));
                while panel < panels.end {
                    let end = panels.end.min(panel + most);
                    block(s, &weight, &view, panel..end, n, narrow, own);
                    if let Some(epilogue) = args.epilogue {
                        let columns = panel * LANES..n.min(end * LANES);
                        let [r0, r1, c0, c1] = [rows.start, rows.end, columns.start, columns.end].map(|i| i as i64);
                        epilogue(args.env, r0, r1, c0, c1);
                    }
                    panel = end;
                }
            }
        }
    }
}

/// One block of C, complete but for the epilogue.
///
/// # Safety
/// As for [`Weight`]; `narrow` has sixteen values for each row if the last panel is narrower in C.
#[inline(always)]
unsafe fn block<S: Simd, W: Weight>(
    s: S,
    weight: &W,
    rows: &Rows,
    panels: Range<usize>,
    n: usize,
    narrow: &mut [f32],
    scratch: &mut [f32],
) {
    let full = panels.start..panels.end.min(n / LANES);
    let panel = full.end;
    if !full.is_empty() {
        // SAFETY: the caller's promise; these panels are as wide in C.
        unsafe { weight.multiply(s, rows, full.clone(), rows.c.add(full.start * LANES), rows.ldc, scratch) };
    }
    if panel < panels.end {
        // SAFETY: the caller's promise; C has the columns that are copied.
        unsafe {
            weight.multiply(s, rows, panel..panel + 1, narrow.as_mut_ptr(), LANES, scratch);
            for (row, values) in narrow.chunks_exact(LANES).take(rows.count).enumerate() {
                let c = rows.c.add(row * rows.ldc + panel * LANES);
                std::ptr::copy_nonoverlapping(values.as_ptr(), c, n - panel * LANES);
            }
        }
    }
}

/// Panels of floats.
#[derive(Clone, Copy)]
struct Float<E>(*const E);

impl<E: Element> Weight for Float<E> {
    fn costs(&self) -> Costs {
        // Two multiply-adds a cycle; four bytes of memory and eight of cache.
        Costs { product: 0.5, panel: (LANES * size_of::<E>()) as f64 / 4.0, row: 0.5 }
    }

    fn block(&self, _: usize) -> usize {
        // Whole tiles of any width.
        6
    }

    fn scratch(&self, _: usize) -> usize {
        0
    }

    #[inline(always)]
    unsafe fn stage<S: Simd>(&self, _: S, _: &Rows, _: &mut [f32]) {}

    #[inline(always)]
    unsafe fn multiply<S: Simd>(
        &self,
        s: S,
        rows: &Rows,
        panels: Range<usize>,
        c: *mut f32,
        ldc: usize,
        _: &mut [f32],
    ) {
        // Where there is but one tile of rows, nothing of B is used twice, and memory is best read in one go.
        let [tile_rows, tile_panels] = E::tile::<S>();
        let depth = if rows.count <= tile_rows { rows.k.max(1) } else { K_BLOCK };
        for group in pieces(0..panels.len(), tile_panels) {
            // One empty piece where k = 0, which zeroes C.
            for ks in pieces(0..rows.k, depth).chain((rows.k == 0).then_some(0..0)) {
                let at = |panel: usize, k: usize| ((panels.start + panel) * rows.k + k) * LANES;
                let next = if ks.end < rows.k { at(group.start, ks.end) } else { at(group.end, 0) };
                // SAFETY: the caller's promise.
                unsafe {
                    let b = self.0.add(at(group.start, ks.start));
                    tiles(
                        s,
                        rows,
                        ks,
                        b,
                        self.0.wrapping_add(next),
                        rows.k * LANES,
                        group.len(),
                        c.add(group.start * LANES),
                        ldc,
                    );
                }
            }
        }
    }
}

/// Adds the products of columns `ks` to C (sets C where they are the first), tile by tile: `b` has these columns of
/// `panels` panels, `b_panel` elements apart. Meanwhile the same many columns at `b_next`, where the next call's begin, are
/// brought closer.
///
/// # Safety
/// As for [`Weight`].
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(crate) unsafe fn tiles<S: Simd, E: Element>(
    s: S,
    rows: &Rows,
    ks: Range<usize>,
    b: *const E,
    b_next: *const E,
    b_panel: usize,
    panels: usize,
    c: *mut f32,
    ldc: usize,
) {
    let [tile_rows, _] = E::tile::<S>();
    let tile_count = rows.count.div_ceil(tile_rows);
    // Each tile asks for a part of a panel of what comes next: as little as does it.
    let (lines, parts) = (ks.len() * LANES * size_of::<E>(), (tile_count / panels).clamp(1, 4));
    for (i, first) in (0..rows.count).step_by(tile_rows).enumerate() {
        // SAFETY: within the operands, as the caller promises.
        unsafe {
            let next = match i < parts * panels {
                true => {
                    let panel = b_next.wrapping_add(i / parts * b_panel).cast::<u8>();
                    Next {
                        lines: panel.wrapping_add(i % parts * (lines / parts)),
                        step: lines / parts / ks.len().max(1),
                    }
                }
                false => Next { lines: b.cast(), step: 0 },
            };
            let tile = TileArgs {
                k: ks.len(),
                a: rows.a.add(first * rows.lda + ks.start),
                lda: rows.lda,
                b,
                b_step: LANES,
                b_panel,
                c: c.add(first * ldc),
                ldc,
                accumulate: ks.start > 0,
                next: Some(next),
            };
            E::multiply(s, tile_rows.min(rows.count - first), panels, &tile);
        }
    }
}
