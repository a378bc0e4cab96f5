//! Floating-point activations times quantized weights: each weight is made the `f32` it stands for, and the products
//! are those of the same matrix stored as `f32`, bit for bit.

use std::marker::PhantomData;
use std::ops::Range;

use super::layout::{BLOCK, QuantLayout};
use super::unpack::{AHEAD, Codes, UnpackScales, with_planes};
use crate::kernels::gemm::{BLOCK_PANELS, Costs, K_BLOCK, Rows, Weight, pieces, tiles};
use crate::kernels::simd::{Kernel, LANES, Simd};

/// Quantized panels that meet floats.
#[derive(Clone, Copy)]
pub(crate) struct Dequantized {
    pub panels: *const u8,
    pub layout: QuantLayout,
}

/// Columns with scales of their own, in scratch.
const UNIT: usize = BLOCK / 2;
/// Panels in flight: chains of sums that hide each other's latency.
const PANELS: usize = BLOCK_PANELS;
/// Room for the panels of a tile of any instruction set.
const TILE_PANELS: usize = 2;

impl Weight for Dequantized {
    fn costs(&self) -> Costs {
        // Two multiply-adds a cycle; some cycles to make sixteen weights; eight bytes of cache.
        Costs { product: 0.5, panel: 3.0, row: 0.5 }
    }

    fn scratch(&self, _: usize) -> usize {
        PANELS * self.scales() * 2 + TILE_PANELS * K_BLOCK * LANES
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
        const { assert!(S::PANELS <= TILE_PANELS) };
        let layout = &self.layout;
        let (scales, rest) = scratch.split_at_mut(PANELS * self.scales());
        let (mins, weights) = rest.split_at_mut(PANELS * self.scales());
        // SAFETY: the panels are there, and scratch has room for their scales and minima.
        let source = unsafe {
            let unpack = UnpackScales::new(layout, UNIT);
            for (i, panel) in panels.clone().enumerate() {
                let (scales, mins) = (scales[i * self.scales()..].as_mut_ptr(), mins[i * self.scales()..].as_mut_ptr());
                let panel = self.panels.add(panel * layout.panel);
                unpack.run(s, panel, scales, mins);
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
            if S::FUSED && rows.count == 1 {
                done = rows.k / BLOCK;
                let (source, panels, a) = (&source, panels.len(), rows.a);
                with_planes!(layout.scheme.bits, C =>
                    s.vectorize(Gemv::<C> { source, blocks: done, panels, a, c, codes: PhantomData }));
            }
            let weights = weights.as_mut_ptr();
            // No more columns than the last block has; and C is zeroed where k is 0.
            for blocks in pieces(done..layout.blocks, K_BLOCK / BLOCK) {
                let ks = blocks.start * BLOCK..rows.k.min(blocks.end * BLOCK);
                for group in pieces(0..panels.len(), S::PANELS) {
                    for (i, panel) in group.clone().enumerate() {
                        let out = weights.add(i * blocks.len() * BLOCK * LANES);
                        let fill = Fill { source: &source, blocks: blocks.clone(), panel, out };
                        with_planes!(layout.scheme.bits, C => s.vectorize(FillOf::<C>(fill, PhantomData)));
                    }
                    let c = c.add(group.start * LANES);
                    let b_panel = blocks.len() * BLOCK * LANES;
                    tiles(s, rows, ks.clone(), weights.cast_const(), b_panel, group.len(), c, ldc);
                }
            }
            if rows.k == 0 {
                for panel in 0..panels.len() {
                    tiles(s, rows, 0..0, weights.cast_const(), 0, 1, c.add(panel * LANES), ldc);
                }
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
                    let value =
                        if C::BITS <= 4 { s.lookup(&self.table, step, byte) } else { s.sub(s.byte(step, byte), zero) };
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

/// One row with whole blocks of at most [`PANELS`] panels. Whoever makes one has the operands.
struct Gemv<'a, C> {
    source: &'a Source,
    blocks: usize,
    panels: usize,
    a: *const f32,
    c: *mut f32,
    codes: PhantomData<C>,
}

/// Adds the products with the values at `a`.
struct Multiply<V> {
    acc: V,
    a: *const f32,
}

impl<S: Simd> Sink<S> for Multiply<S::V> {
    #[inline(always)]
    unsafe fn put(&mut self, s: S, column: usize, weights: S::V) {
        // SAFETY: the caller's promise.
        let x = unsafe { *self.a.add(column) };
        self.acc = s.fma(s.splat(x), weights, self.acc);
    }
}

impl<C: Codes> Kernel for Gemv<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut acc = [s.splat(0.0); PANELS];
        // SAFETY: whoever made the `Gemv` has its operands.
        unsafe {
            for block in 0..self.blocks {
                // Block by block, so that the sums of the panels overlap; the last again where there are fewer.
                for (i, acc) in acc.iter_mut().enumerate() {
                    let mut sink = Multiply { acc: *acc, a: self.a.add(block * BLOCK) };
                    self.source.block::<S, C>(s, i.min(self.panels - 1), block, &mut sink);
                    *acc = sink.acc;
                }
            }
            for (i, acc) in acc.into_iter().enumerate().take(self.panels) {
                s.store(self.c.add(i * LANES), acc);
            }
        }
    }
}
