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
use crate::kernels::gemm::{Costs, Rows, Weight, pieces};
use crate::kernels::simd::{Kernel, LANES, Simd};

/// Quantized panels that meet 8-bit activations.
#[derive(Clone, Copy)]
pub(crate) struct Integer {
    pub panels: *const u8,
    pub layout: QuantLayout,
}

/// Up to so many rows are multiplied with codes as they are unpacked; more share codes that are unpacked once.
const FUSED_ROWS: usize = 4;

/// A row of quantized activations in scratch, in bytes: its codes, then for each block their scale, then for each unit
/// the integer that sums start from, then for each unit `-(scale * sum of codes)`.
#[derive(Clone, Copy)]
struct Staged {
    scales: usize,
    starts: usize,
    shifts: usize,
    len: usize,
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
        let blocks = self.layout.blocks;
        let units = blocks * BLOCK / self.layout.unit();
        let scales = blocks * BLOCK;
        let starts = scales + 4 * blocks;
        let shifts = starts + 4 * units;
        // An odd number of cache lines, so that rows do not meet in the same sets of a cache.
        let len = (shifts + 4 * units).next_multiple_of(64);
        Staged { scales, starts, shifts, len: len + 64 * usize::from(len.is_multiple_of(128)) }
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
        rows * self.staged().len / 4 + 2 * scales + codes
    }

    #[inline(always)]
    unsafe fn stage<S: Simd>(&self, _: S, rows: &Rows, scratch: &mut [f32]) {
        let staged = self.staged();
        let (bits, zero) = self.zero();
        let zero = zero - if bits == 8 { S::WIDE_OFFSET } else { 0 };
        let halves = BLOCK / self.layout.unit();
        for (r, out) in scratch.chunks_exact_mut(staged.len / 4).take(rows.count).enumerate() {
            let base = out.as_mut_ptr().cast::<u8>();
            // SAFETY: the row is readable; the places of block `i` are within the row in scratch.
            unsafe {
                let row = std::slice::from_raw_parts(rows.a.add(r * rows.lda), rows.k);
                for (i, x) in row.chunks(BLOCK).enumerate() {
                    let codes = &mut *base.add(i * BLOCK).cast::<[i8; BLOCK]>();
                    let scale = quantize(x, codes);
                    base.add(staged.scales).cast::<f32>().add(i).write(scale);
                    for half in 0..halves {
                        let codes = &codes[half * self.layout.unit()..][..self.layout.unit()];
                        let sum: i32 = codes.iter().map(|&c| i32::from(c)).sum();
                        let unit = i * halves + half;
                        base.add(staged.starts).cast::<i32>().add(unit).write(-zero * sum);
                        base.add(staged.shifts).cast::<f32>().add(unit).write(-(scale * sum as f32));
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
        let staged = self.staged();
        let (scales, _) = self.unpacked();
        let (a, own) = scratch.split_at_mut(rows.count * (staged.len / 4));
        let (scale, own) = own.split_at_mut(scales);
        let (min, codes) = own.split_at_mut(scales);
        let bytes = codes.as_mut_ptr().cast::<u8>();
        for (i, panel) in panels.enumerate() {
            // SAFETY: the panel is there, and scratch has room for its scales, minima and codes.
            unsafe {
                let panel = self.panels.add(panel * layout.panel);
                let (scales, mins) = (scale.as_mut_ptr(), min.as_mut_ptr());
                UnpackScales { layout, panel, unit: layout.unit(), scales, mins }.run(s);
                let tile = Tile {
                    codes: panel,
                    scales,
                    mins: if layout.scheme.mins { mins } else { std::ptr::null() },
                    blocks: layout.blocks,
                    halves: layout.unit() < BLOCK,
                    a: a.as_ptr().cast(),
                    staged,
                    c: c.add(i * LANES),
                    ldc,
                    ahead: AHEAD,
                };
                let nl4 = matches!(layout.scheme.values, Values::Nl4);
                if rows.count <= FUSED_ROWS.min(S::CODE_ROWS) {
                    if nl4 {
                        fused::<S, Nl4>(s, tile, rows.count);
                    } else {
                        with_planes!(layout.scheme.bits, C => fused::<S, C>(s, tile, rows.count));
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
                        1..=4 => shared::<S, Unpacked<4>>(s, tile, rows.count),
                        5 => shared::<S, Unpacked<5>>(s, tile, rows.count),
                        6 => shared::<S, Unpacked<6>>(s, tile, rows.count),
                        7 => shared::<S, Unpacked<7>>(s, tile, rows.count),
                        _ => shared::<S, Unpacked<8>>(s, tile, rows.count),
                    }
                }
            }
        }
    }
}

/// A few rows with one panel whose codes are unpacked on the way.
///
/// # Safety
/// See [`Tile`].
#[inline(always)]
unsafe fn fused<S: Simd, C: Codes>(s: S, tile: Tile, rows: usize) {
    match rows {
        1 => s.vectorize(TileOf::<C, 1>::of(tile)),
        2 => s.vectorize(TileOf::<C, 2>::of(tile)),
        3 => s.vectorize(TileOf::<C, 3>::of(tile)),
        _ => s.vectorize(TileOf::<C, FUSED_ROWS>::of(tile)),
    }
}

/// Many rows with one panel whose codes are unpacked already.
///
/// # Safety
/// See [`Tile`].
#[inline(always)]
unsafe fn shared<S: Simd, C: Codes>(s: S, tile: Tile, rows: usize) {
    for part in pieces(0..rows, S::CODE_ROWS) {
        // SAFETY: rows in range.
        let tile = unsafe {
            Tile { a: tile.a.add(part.start * tile.staged.len), c: tile.c.add(part.start * tile.ldc), ..tile }
        };
        match part.len() {
            1 => s.vectorize(TileOf::<C, 1>::of(tile)),
            2 => s.vectorize(TileOf::<C, 2>::of(tile)),
            3 => s.vectorize(TileOf::<C, 3>::of(tile)),
            4 => s.vectorize(TileOf::<C, 4>::of(tile)),
            5 => s.vectorize(TileOf::<C, 5>::of(tile)),
            6 => s.vectorize(TileOf::<C, 6>::of(tile)),
            7 => s.vectorize(TileOf::<C, 7>::of(tile)),
            _ => s.vectorize(TileOf::<C, 8>::of(tile)),
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
    /// Whether a block is two units.
    halves: bool,
    a: *const u8,
    staged: Staged,
    c: *mut f32,
    ldc: usize,
    /// How far ahead memory is asked for; 0 for codes in scratch.
    ahead: usize,
}

/// The product of R rows.
struct TileOf<C, const R: usize> {
    tile: Tile,
    codes: PhantomData<C>,
}

impl<C, const R: usize> TileOf<C, R> {
    fn of(tile: Tile) -> Self {
        TileOf { tile, codes: PhantomData }
    }
}

impl<C: Codes, const R: usize> Kernel for TileOf<C, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let blocks = self.tile.blocks;
        // SAFETY: whoever made the tile has its operands.
        unsafe {
            let mut acc = [s.splat(0.0); R];
            for block in 0..blocks {
                let p = self.tile.codes.add(block * C::BYTES);
                if self.tile.ahead > 0 {
                    for line in 0..C::BYTES / 64 {
                        s.prefetch(p.wrapping_add(self.tile.ahead + 64 * line));
                    }
                }
                let w = C::block(s, p);
                if self.tile.halves {
                    let [w0, w1] = [[w[0], w[1], w[2], w[3]], [w[4], w[5], w[6], w[7]]];
                    self.unit(s, block, 2 * block, 0, &w0, &mut acc);
                    self.unit(s, block, 2 * block + 1, 16, &w1, &mut acc);
                } else {
                    self.unit(s, block, block, 0, &w, &mut acc);
                }
            }
            for (r, acc) in acc.into_iter().enumerate() {
                s.store(self.tile.c.add(r * self.tile.ldc), acc);
            }
        }
    }
}

impl<C: Codes, const R: usize> TileOf<C, R> {
    /// Adds the products of a unit, from column `first` of a block on.
    ///
    /// # Safety
    /// See [`Tile`].
    #[inline(always)]
    unsafe fn unit<S: Simd, const N: usize>(
        &self,
        s: S,
        block: usize,
        unit: usize,
        first: usize,
        w: &[S::B; N],
        acc: &mut [S::V; R],
    ) {
        let Tile { a, staged, scales, mins, .. } = self.tile;
        // SAFETY: the caller's promise.
        unsafe {
            let mut codes = [std::ptr::null(); R];
            let mut starts = [0; R];
            for r in 0..R {
                let row = a.add(r * staged.len);
                codes[r] = row.add(block * BLOCK + first).cast::<i8>();
                starts[r] = row.add(staged.starts).cast::<i32>().add(unit).read();
            }
            let sums = s.dot(C::BITS, w, &codes, &starts);
            let scale = s.load(scales.add(unit * LANES));
            for r in 0..R {
                let x = *a.add(r * staged.len + staged.scales).cast::<f32>().add(block);
                acc[r] = s.fma(s.to_float(sums[r]), s.mul(scale, s.splat(x)), acc[r]);
            }
            if !mins.is_null() {
                let min = s.load(mins.add(unit * LANES));
                for r in 0..R {
                    let x = *a.add(r * staged.len + staged.shifts).cast::<f32>().add(unit);
                    acc[r] = s.fma(min, s.splat(x), acc[r]);
                }
            }
        }
    }
}
