//! Floating-point activations times quantized weights: each weight is made the `f32` it stands for, and the products
//! are those of the same matrix stored as `f32`, bit for bit.

use std::marker::PhantomData;
use std::ops::Range;

use super::layout::{BLOCK, QuantLayout};
use super::unpack::{AHEAD, Codes, UnpackScales, with_planes};
use crate::kernels::gemm::{Costs, K_BLOCK, Rows, Weight, pieces, tiles};
use crate::kernels::simd::{Kernel, LANES, Simd};

/// Quantized panels that meet floats.
#[derive(Clone, Copy)]
pub(crate) struct Dequantized {
    pub panels: *const u8,
    pub layout: QuantLayout,
}

/// Up to so many rows are multiplied with weights in registers; more share weights that are made once.
const FUSED_ROWS: usize = 4;
/// Columns with scales of their own, in scratch.
const UNIT: usize = BLOCK / 2;
/// Room for the panels of a tile of any instruction set.
const PANELS: usize = 2;

impl Weight for Dequantized {
    fn costs(&self) -> Costs {
        // Two multiply-adds a cycle; some cycles to make sixteen weights; eight bytes of cache.
        Costs { product: 0.5, panel: 3.0, row: 0.5 }
    }

    fn scratch(&self, _: usize) -> usize {
        PANELS * (self.scales() * 2 + K_BLOCK * LANES)
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
        scratch: &mut [f32],
    ) {
        const { assert!(S::PANELS <= PANELS) };
        let layout = &self.layout;
        let (scales, rest) = scratch.split_at_mut(PANELS * self.scales());
        let (mins, weights) = rest.split_at_mut(PANELS * self.scales());
        // SAFETY: the panels are there, and scratch has room for their scales and minima.
        let source = unsafe {
            for (i, panel) in panels.clone().enumerate() {
                let (scales, mins) = (scales[i * self.scales()..].as_mut_ptr(), mins[i * self.scales()..].as_mut_ptr());
                let panel = self.panels.add(panel * layout.panel);
                UnpackScales { layout, panel, unit: UNIT, scales, mins }.run(s);
            }
            Source {
                codes: self.panels.add(panels.start * layout.panel),
                panel: layout.panel,
                scales: scales.as_ptr(),
                mins: if layout.scheme.mins { mins.as_ptr() } else { std::ptr::null() },
                scale_panel: self.scales(),
                table: std::array::from_fn(|code| layout.scheme.values.value(code as u8)),
                zero: -layout.scheme.values.value(0),
            }
        };
        // SAFETY: blocks, rows and panels are in range; a piece of K_BLOCK columns has room in scratch.
        unsafe {
            let mut done = 0;
            if rows.count <= FUSED_ROWS.min(S::CODE_ROWS) {
                done = rows.k / BLOCK;
                let gemv = Gemv { source: &source, blocks: done, rows, c, ldc };
                with_planes!(layout.scheme.bits, C => match panels.len() {
                    1 => gemv.rows::<S, C, 1>(s),
                    _ => gemv.rows::<S, C, PANELS>(s),
                });
            }
            let weights = weights.as_mut_ptr();
            // No more columns than the last block has; where nothing is left of k = 0, C is zeroed.
            for blocks in pieces(done..layout.blocks, K_BLOCK / BLOCK) {
                for panel in 0..panels.len() {
                    let out = weights.add(panel * blocks.len() * BLOCK * LANES);
                    let fill = Fill { source: &source, blocks: blocks.clone(), panel, out };
                    with_planes!(layout.scheme.bits, C => s.vectorize(FillOf::<C>(fill, PhantomData)));
                }
                let ks = blocks.start * BLOCK..rows.k.min(blocks.end * BLOCK);
                tiles(s, rows, ks, weights.cast_const(), blocks.len() * BLOCK * LANES, panels.len(), c, ldc);
            }
            if rows.k == 0 {
                tiles(s, rows, 0..0, weights.cast_const(), 0, panels.len(), c, ldc);
            }
        }
    }
}

impl Dequantized {
    /// Floats of the scales of a panel.
    fn scales(&self) -> usize {
        self.layout.blocks * (BLOCK / UNIT) * LANES
    }
}

/// A few panels, and what makes their codes numbers. Whoever makes one has them.
struct Source {
    codes: *const u8,
    /// Bytes from panel to panel.
    panel: usize,
    /// Of each unit, panel by panel.
    scales: *const f32,
    /// As `scales`; null without minima.
    mins: *const f32,
    /// Floats from panel to panel.
    scale_panel: usize,
    /// The values of the first codes.
    table: [f32; 16],
    /// The code of value zero, for codes that are beyond the table.
    zero: f32,
}

/// Receives the weights of sixteen outputs, column by column.
trait Sink<S: Simd> {
    /// # Safety
    /// What the sink needs of that column is there.
    unsafe fn put(&mut self, s: S, column: usize, weights: S::V);
}

impl Source {
    /// The weights of a block of a panel into a sink; columns are counted from that block on.
    ///
    /// # Safety
    /// There is such a block.
    #[inline(always)]
    unsafe fn block<S: Simd, C: Codes>(&self, s: S, panel: usize, block: usize, sink: &mut impl Sink<S>) {
        // SAFETY: the caller's promise.
        unsafe {
            let p = self.codes.add(panel * self.panel + block * C::BYTES);
            for line in 0..C::BYTES / 64 {
                s.prefetch(p.wrapping_add(AHEAD + 64 * line));
            }
            let w = C::block(s, p);
            let zero = s.splat(self.zero);
            for half in 0..BLOCK / UNIT {
                let at = panel * self.scale_panel + (block * (BLOCK / UNIT) + half) * LANES;
                let scale = s.load(self.scales.add(at));
                let min = if self.mins.is_null() { scale } else { s.load(self.mins.add(at)) };
                for column in half * UNIT..(half + 1) * UNIT {
                    let (step, byte) = (w[column / 4], column % 4);
                    let value = if C::BITS <= 4 {
                        s.lookup(&self.table, step, byte)
                    } else {
                        s.sub(s.byte(step, byte), zero)
                    };
                    let mut weight = s.mul(scale, value);
                    if !self.mins.is_null() {
                        weight = s.sub(weight, min);
                    }
                    sink.put(s, column, weight);
                }
            }
        }
    }
}

/// Weights of blocks of a panel as floats, as panels of floats have them.
struct Fill<'a> {
    source: &'a Source,
    blocks: Range<usize>,
    panel: usize,
    out: *mut f32,
}

struct FillOf<'a, C>(Fill<'a>, PhantomData<C>);

/// Stores columns one behind the other.
struct Store(*mut f32);

impl<S: Simd> Sink<S> for Store {
    #[inline(always)]
    unsafe fn put(&mut self, s: S, column: usize, weights: S::V) {
        // SAFETY: the caller's promise.
        unsafe { s.store(self.0.add(column * LANES), weights) }
    }
}

impl<C: Codes> Kernel for FillOf<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Fill { source, blocks, panel, out } = self.0;
        for (i, block) in blocks.enumerate() {
            // SAFETY: whoever made the `Fill` has these blocks, and room for them.
            unsafe { source.block::<S, C>(s, panel, block, &mut Store(out.add(i * BLOCK * LANES))) };
        }
    }
}

/// A few rows with whole blocks of a few panels.
#[derive(Clone, Copy)]
struct Gemv<'a> {
    source: &'a Source,
    blocks: usize,
    rows: &'a Rows,
    c: *mut f32,
    ldc: usize,
}

impl Gemv<'_> {
    /// # Safety
    /// The operands are there, for at most [`FUSED_ROWS`] rows.
    #[inline(always)]
    unsafe fn rows<S: Simd, C: Codes, const P: usize>(self, s: S) {
        match self.rows.count {
            1 => s.vectorize(GemvOf::<C, 1, P>(self, PhantomData)),
            2 => s.vectorize(GemvOf::<C, 2, P>(self, PhantomData)),
            3 => s.vectorize(GemvOf::<C, 3, P>(self, PhantomData)),
            _ => s.vectorize(GemvOf::<C, FUSED_ROWS, P>(self, PhantomData)),
        }
    }
}

struct GemvOf<'a, C, const R: usize, const P: usize>(Gemv<'a>, PhantomData<C>);

/// Adds the products with the values at `a`, `lda` apart.
struct Multiply<V, const R: usize> {
    acc: [V; R],
    a: *const f32,
    lda: usize,
}

impl<S: Simd, const R: usize> Sink<S> for Multiply<S::V, R> {
    #[inline(always)]
    unsafe fn put(&mut self, s: S, column: usize, weights: S::V) {
        for r in 0..R {
            // SAFETY: the caller's promise.
            let x = unsafe { *self.a.add(r * self.lda + column) };
            self.acc[r] = s.fma(s.splat(x), weights, self.acc[r]);
        }
    }
}

impl<C: Codes, const R: usize, const P: usize> Kernel for GemvOf<'_, C, R, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Gemv { source, blocks, rows, c, ldc } = self.0;
        let mut acc = [[s.splat(0.0); R]; P];
        // SAFETY: whoever made the `Gemv` has its operands.
        unsafe {
            for block in 0..blocks {
                // Block by block, so that the sums of the panels, which are chains, overlap.
                for (panel, acc) in acc.iter_mut().enumerate() {
                    let mut sink = Multiply { acc: *acc, a: rows.a.add(block * BLOCK), lda: rows.lda };
                    source.block::<S, C>(s, panel, block, &mut sink);
                    *acc = sink.acc;
                }
            }
            for (panel, acc) in acc.into_iter().enumerate() {
                for (r, acc) in acc.into_iter().enumerate() {
                    s.store(c.add(r * ldc + panel * LANES), acc);
                }
            }
        }
    }
}
