//! 8-bit activations times codes, summed as integers.
//!
//! Activations are quantized in groups of 32 columns. For each unit u of columns in order (a group of activations, or
//! half of one where groups of the weight cut it), with `sum` the exact integer `sum of (code - zero) * activation code`:
//!
//! ```text
//! acc = fma(float(sum), scale of the weight * scale of the activations, acc)
//! acc = fma(minimum of the weight, -(scale of the activations * float(sum of activation codes)), acc)
//! ```
//!
//! the second where the scheme has minima. So the bits of an output are a function of its row and the weight alone.

use std::marker::PhantomData;
use std::ops::Range;

use lith_ir::quant::{Scheme, Values};

use super::activations::quantize;
use super::layout::{BLOCK, QuantLayout, STEP, STEPS};
use super::unpack::{AHEAD, Codes, Nl4, Unpack, UnpackScales, Unpacked, with_planes};
use crate::kernels::gemm::{Costs, Rows, Weight};
use crate::kernels::simd::{Kernel, LANES, Simd};

/// Quantized panels that meet 8-bit activations.
#[derive(Clone, Copy)]
pub(crate) struct Integer {
    pub panels: *const u8,
    pub layout: QuantLayout,
}

/// Up to so many rows are multiplied with codes as they are unpacked; more share codes that are unpacked once.
const FUSED_ROWS: usize = 4;
/// Rows of the largest tile.
const MOST_ROWS: usize = 8;

/// How activations stand in scratch: tile by tile of R rows, block by block, in bytes: the codes of each row, for each
/// row their scale; then for each unit of the block, for each row the integer that sums start from; then for each unit,
/// for each row `-(scale * sum of codes)`. So a tile reads one stream.
#[derive(Clone, Copy)]
struct Staged {
    /// Units of a block: 1 or 2.
    units: usize,
}

impl Staged {
    /// Bytes of a block of a row.
    fn block(self) -> usize {
        BLOCK + 4 + 8 * self.units
    }
    fn scales(self, rows: usize) -> usize {
        rows * BLOCK
    }
    fn starts(self, rows: usize, unit: usize) -> usize {
        rows * (BLOCK + 4 + 4 * unit)
    }
    fn shifts(self, rows: usize, unit: usize) -> usize {
        rows * (BLOCK + 4 + 4 * (self.units + unit))
    }
}

/// The tiles of so many rows: first row, and rows (a power of two, at most `most`).
fn row_tiles(rows: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let left = rows - start;
        let len = if left == 0 { return None } else { most.min(1 << left.ilog2()) };
        start += len;
        Some((start - len, len))
    })
}

impl Integer {
    /// Whether values of this scheme are integers times a scale.
    pub fn takes(scheme: &Scheme) -> bool {
        !matches!(scheme.values, Values::Nf4)
    }

    /// Bits of codes as products take them, and the code of zero.
    fn zero(&self) -> (u8, i32) {
        match self.layout.scheme.values {
            Values::Offset { zero } => (self.layout.scheme.bits, zero.into()),
            Values::Nl4 | Values::Nf4 => (8, 128),
        }
    }

    fn staged(&self) -> Staged {
        Staged { units: BLOCK / self.layout.unit() }
    }

    /// Bytes of a row in scratch.
    fn row(&self) -> usize {
        self.staged().block() * self.layout.blocks
    }

    /// Floats of scratch of a panel: its scales and minima, its codes as bytes.
    fn unpacked(&self) -> (usize, usize) {
        let blocks = self.layout.blocks;
        (blocks * BLOCK / self.layout.unit() * LANES, blocks * STEPS * STEP / 4)
    }
}

impl Weight for Integer {
    fn costs(&self) -> Costs {
        // A dot product and its share of the rest for four columns of sixteen outputs; four bytes of memory, some to
        // unpack; half a cycle to quantize a value.
        Costs { product: 0.2, panel: f64::from(self.layout.scheme.bits) / 2.0 + 1.0, row: 1.0 }
    }

    fn scratch(&self, rows: usize) -> usize {
        let (scales, codes) = self.unpacked();
        (rows * self.row() / 4).next_multiple_of(LANES) + 2 * scales + codes
    }

    #[inline(always)]
    unsafe fn stage<S: Simd>(&self, _: S, rows: &Rows, scratch: &mut [f32]) {
        let (bits, zero) = self.zero();
        let zero = zero - if bits == 8 { S::WIDE_OFFSET } else { 0 };
        let (staged, unit_len) = (self.staged(), self.layout.unit());
        let base = scratch.as_mut_ptr().cast::<u8>();
        for (first, count) in row_tiles(rows.count, S::CODE_ROWS) {
            for r in 0..count {
                // SAFETY: the row is readable; the places of block `i` of the tile are within the rows in scratch.
                unsafe {
                    let row = std::slice::from_raw_parts(rows.a.add((first + r) * rows.lda), rows.k);
                    for (i, x) in row.chunks(BLOCK).enumerate() {
                        let to = base.add(first * self.row() + i * count * staged.block());
                        let codes = &mut *to.add(r * BLOCK).cast::<[i8; BLOCK]>();
                        let scale = quantize(x, codes);
                        to.add(staged.scales(count)).cast::<f32>().add(r).write(scale);
                        for (unit, codes) in codes.chunks_exact(unit_len).enumerate() {
                            let sum: i32 = codes.iter().map(|&c| i32::from(c)).sum();
                            to.add(staged.starts(count, unit)).cast::<i32>().add(r).write(-zero * sum);
                            to.add(staged.shifts(count, unit)).cast::<f32>().add(r).write(-(scale * sum as f32));
                        }
                    }
                }
            }
        }
    }

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
        let layout = &self.layout;
        let (scales, _) = self.unpacked();
        let (a, own) = scratch.split_at_mut((rows.count * self.row() / 4).next_multiple_of(LANES));
        let (scale, own) = own.split_at_mut(scales);
        let (min, codes) = own.split_at_mut(scales);
        let bytes = codes.as_mut_ptr().cast::<u8>();
        let unpack = UnpackScales::new(layout, layout.unit());
        for (i, panel) in panels.enumerate() {
            // SAFETY: the panel is there, and scratch has room for its scales, minima and codes.
            unsafe {
                let panel = self.panels.add(panel * layout.panel);
                let (scales, mins) = (scale.as_mut_ptr(), min.as_mut_ptr());
                unpack.run(s, panel, scales, mins);
                let tile = Tile {
                    codes: panel,
                    scales,
                    mins: if layout.scheme.mins { mins } else { std::ptr::null() },
                    blocks: layout.blocks,
                    a: a.as_ptr().cast(),
                    staged: self.staged(),
                    c: c.add(i * LANES),
                    ldc,
                    ahead: AHEAD,
                };
                let nl4 = matches!(layout.scheme.values, Values::Nl4);
                if rows.count <= FUSED_ROWS && S::FUSED {
                    if nl4 {
                        tile.rows::<S, Nl4, FUSED_ROWS>(s, rows.count);
                    } else {
                        with_planes!(layout.scheme.bits, C => tile.rows::<S, C, FUSED_ROWS>(s, rows.count));
                    }
                } else {
                    let (from, to, blocks) = (panel, bytes, layout.blocks);
                    if nl4 {
                        s.vectorize(Unpack::<Nl4> { from, to, blocks, codes: PhantomData });
                    } else {
                        with_planes!(layout.scheme.bits, C =>
                            s.vectorize(Unpack::<C> { from, to, blocks, codes: PhantomData }));
                    }
                    let tile = Tile { codes: bytes, ahead: 0, ..tile };
                    // Where it makes no difference, all widths take one path.
                    match if S::NARROW { self.zero().0 } else { 8 } {
                        1..=4 => tile.rows::<S, Unpacked<4>, MOST_ROWS>(s, rows.count),
                        5 => tile.rows::<S, Unpacked<5>, MOST_ROWS>(s, rows.count),
                        6 => tile.rows::<S, Unpacked<6>, MOST_ROWS>(s, rows.count),
                        7 => tile.rows::<S, Unpacked<7>, MOST_ROWS>(s, rows.count),
                        _ => tile.rows::<S, Unpacked<8>, MOST_ROWS>(s, rows.count),
                    }
                }
            }
        }
    }
}

/// A few rows and one panel. Whoever makes one has its operands: the codes of `blocks` blocks, scales (and minima, unless
/// null) of their units, staged rows, sixteen columns of C for each.
#[derive(Clone, Copy)]
struct Tile {
    codes: *const u8,
    scales: *const f32,
    mins: *const f32,
    blocks: usize,
    a: *const u8,
    staged: Staged,
    c: *mut f32,
    ldc: usize,
    /// How far ahead memory is asked for; 0 for codes in scratch.
    ahead: usize,
}

impl Tile {
    /// Tile by tile of at most MOST rows.
    ///
    /// # Safety
    /// The operands are those of `rows` rows.
    #[inline(always)]
    unsafe fn rows<S: Simd, C: Codes, const MOST: usize>(self, s: S, rows: usize) {
        for (start, len) in row_tiles(rows, S::CODE_ROWS) {
            // SAFETY: rows in range.
            let tile = unsafe {
                let a = self.a.add(start * self.staged.block() * self.blocks);
                Tile { a, c: self.c.add(start * self.ldc), ..self }
            };
            // Only the tiles that an instruction set has are compiled for it.
            if len == 1 {
                s.vectorize(TileOf::<C, 1>(tile, PhantomData));
            } else if S::CODE_ROWS >= 2 && len == 2 {
                s.vectorize(TileOf::<C, 2>(tile, PhantomData));
            } else if S::CODE_ROWS >= 4 && len == 4 {
                s.vectorize(TileOf::<C, 4>(tile, PhantomData));
            } else if S::CODE_ROWS >= 8 && MOST >= 8 {
                s.vectorize(TileOf::<C, 8>(tile, PhantomData));
            }
        }
    }
}

/// The product of R rows.
struct TileOf<C, const R: usize>(Tile, PhantomData<C>);

impl<C: Codes, const R: usize> Kernel for TileOf<C, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Tile { codes, blocks, a, staged, c, ldc, ahead, .. } = self.0;
        let mut acc = [s.splat(0.0); R];
        // SAFETY: whoever made the tile has its operands.
        unsafe {
            for block in 0..blocks {
                let p = codes.add(block * C::BYTES);
                if ahead > 0 {
                    for line in 0..C::BYTES / 64 {
                        s.prefetch(p.wrapping_add(ahead + 64 * line));
                    }
                }
                let w = C::block(s, p);
                let a = a.add(block * R * staged.block());
                if staged.units == 2 {
                    let (w0, w1) = ([w[0], w[1], w[2], w[3]], [w[4], w[5], w[6], w[7]]);
                    self.unit(s, 2 * block, a, 0, &w0, &mut acc);
                    self.unit(s, 2 * block + 1, a, 1, &w1, &mut acc);
                } else {
                    self.unit(s, block, a, 0, &w, &mut acc);
                }
            }
            for (r, acc) in acc.into_iter().enumerate() {
                s.store(c.add(r * ldc), acc);
            }
        }
    }
}

impl<C: Codes, const R: usize> TileOf<C, R> {
    /// Adds the products of unit `at` of the row, the `unit`-th of the block whose activations are at `a`.
    ///
    /// # Safety
    /// See [`Tile`].
    #[inline(always)]
    unsafe fn unit<S: Simd, const N: usize>(
        &self,
        s: S,
        at: usize,
        a: *const u8,
        unit: usize,
        w: &[S::B; N],
        acc: &mut [S::V; R],
    ) {
        let Tile { staged, scales, mins, .. } = self.0;
        // SAFETY: the caller's promise.
        unsafe {
            let codes = a.add(unit * (BLOCK / 2)).cast::<i8>();
            let sums: [S::I; R] = s.dot(C::BITS, w, codes, a.add(staged.starts(R, unit)).cast::<i32>());
            let scale = s.load(scales.add(at * LANES));
            let a_scales = a.add(staged.scales(R)).cast::<f32>();
            for (r, acc) in acc.iter_mut().enumerate() {
                *acc = s.fma(s.to_float(sums[r]), s.mul(scale, s.splat(*a_scales.add(r))), *acc);
            }
            if !mins.is_null() {
                let min = s.load(mins.add(at * LANES));
                let shifts = a.add(staged.shifts(R, unit)).cast::<f32>();
                for (r, acc) in acc.iter_mut().enumerate() {
                    *acc = s.fma(min, s.splat(*shifts.add(r)), *acc);
                }
            }
        }
    }
}
