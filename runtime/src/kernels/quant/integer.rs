//! 8-bit or 16-bit activations times codes, summed as integers.
//!
//! Activations are quantized in groups of 32 columns to codes of one or two bytes. For each unit u of columns in order (a
//! group of activations, or half of one where groups of the weight cut it), for each byte of the activation codes, most
//! significant first, with `sum` the exact integer `sum of (code - zero) * that byte`:
//!
//! ```text
//! acc = fma(float(sum), scale of the weight * scale of the byte, acc)
//! ```
//!
//! and after these, where the scheme has minima,
//!
//! ```text
//! acc = fma(minimum of the weight, -(scale of the activations * float(sum of activation codes)), acc)
//! ```
//!
//! So the bits of an output are a function of its row and the weight alone. A row of two bytes is computed as two rows
//! that share their sums: weights are read and unpacked once.

use std::marker::PhantomData;
use std::ops::Range;

use lith_ir::quant::{Scheme, Values};

use super::activations::{Group, quantize_row};
use super::layout::{BLOCK, QuantLayout, STEP, STEPS};
use super::streams::{Halves, Numbers, STREAMS, Singles, Streams, block_panels, pairs};
use super::unpack::{AHEAD, Codes, Nl4, Unpack, Unpacked, with_planes};
use crate::kernels::gemm::{Costs, Rows, Weight};
use crate::kernels::simd::{Kernel, LANES, Simd};

/// Quantized panels that meet activations of Q bytes.
#[derive(Clone, Copy)]
pub(crate) struct Integer<const Q: usize> {
    pub panels: *const u8,
    pub layout: QuantLayout,
}

/// Up to so many rows of bytes are multiplied with codes as they are unpacked; more share codes that are unpacked once.
const FUSED_ROWS: usize = 4;
/// Rows of bytes of the largest tile.
const MOST_ROWS: usize = 8;

/// How activations stand in scratch: tile by tile of R rows of bytes, block by block: the bytes of each row, for each
/// row their scale; then for each unit of the block, for each row the integer that sums start from; then for each unit,
/// for each row `-(scale * sum of codes)` (with the first of the rows of codes of two bytes). So a tile reads one stream.
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
    /// Sums of halves of a block as sums of its units, each with its number.
    fn of_units(self, [first, last]: [i32; 2]) -> impl Iterator<Item = (usize, i32)> {
        let sums = if self.units == 2 { [first, last] } else { [first + last, 0] };
        sums.into_iter().take(self.units).enumerate()
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

/// The tiles of so many rows: first row, and rows (a power of two, at most `most`, which is one).
fn row_tiles(rows: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let left = rows - start;
        let len = if left == 0 { return None } else { most.min(1 << left.ilog2()) };
        start += len;
        Some((start - len, len))
    })
}

/// Whether values of this scheme are integers times a scale.
pub(crate) fn takes(scheme: &Scheme) -> bool {
    !matches!(scheme.values, Values::Nf4)
}

/// Rows of the largest tile, each of Q rows of bytes.
fn most_rows<S: Simd, const Q: usize>() -> usize {
    (S::CODE_ROWS / Q).max(1)
}

impl<const Q: usize> Integer<Q> {
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
        Q * self.staged().block() * self.layout.blocks
    }

    /// Floats of scratch for the codes of a panel as bytes.
    fn unpacked(&self) -> usize {
        self.layout.blocks * STEPS * STEP / 4
    }

    /// One row with all of these panels, whose columns are at `c`.
    ///
    /// # Safety
    /// As for [`Weight::multiply`]; `own` has room for [`Streams`].
    #[inline(always)]
    unsafe fn row_of_panels<S: Simd>(&self, s: S, panels: Range<usize>, a: *const u8, c: *mut f32, own: &mut [f32]) {
        let layout = &self.layout;
        for (first, second) in pairs(panels.len()) {
            // SAFETY: the panels are there.
            unsafe {
                let panel = self.panels.add((panels.start + first) * layout.panel);
                let streams = Streams::prepare(s, layout, panel, second.map_or(0, |second| second - first), true, own);
                let tile = Tile {
                    streams,
                    blocks: layout.blocks,
                    a,
                    staged: self.staged(),
                    c: c.add(first * LANES),
                    ldc: 0,
                    ahead: if streams.two { 0 } else { AHEAD },
                };
                if matches!(layout.scheme.values, Values::Nl4) {
                    tile.row::<S, Nl4, Q>(s);
                } else {
                    with_planes!(layout.scheme.bits, C => tile.row::<S, C, Q>(s));
                }
            }
        }
    }
}

impl<const Q: usize> Weight for Integer<Q> {
    fn costs(&self) -> Costs {
        // A dot product and its share of the rest for four columns of sixteen outputs; four bytes of memory, some to
        // unpack; half a cycle to quantize a value.
        Costs { product: 0.2 * Q as f64, panel: f64::from(self.layout.scheme.bits) / 2.0 + 1.0, row: 1.0 }
    }

    fn block(&self, rows: usize) -> usize {
        block_panels(rows)
    }

    fn scratch(&self, rows: usize) -> usize {
        (rows * self.row() / 4).next_multiple_of(LANES) + Streams::scratch(&self.layout) + self.unpacked()
    }

    #[inline(always)]
    unsafe fn stage<S: Simd>(&self, s: S, rows: &Rows, scratch: &mut [f32]) {
        let (bits, zero) = self.zero();
        let zero = zero - if bits == 8 { S::WIDE_OFFSET } else { 0 };
        let staged = self.staged();
        let base = scratch.as_mut_ptr().cast::<u8>();
        for (first, count) in row_tiles(rows.count, most_rows::<S, Q>()) {
            for r in 0..count {
                // SAFETY: the row is readable; the places of block `i` of the tile are within the rows in scratch.
                unsafe {
                    let row = std::slice::from_raw_parts(rows.a.add((first + r) * rows.lda), rows.k);
                    quantize_row(s, row, |i, group: &Group<Q>| {
                        let to = base.add(first * self.row() + i * count * Q * staged.block());
                        for q in 0..Q {
                            let r = r * Q + q;
                            *to.add(r * BLOCK).cast::<[i8; BLOCK]>() = group.codes[q];
                            let scale = to.add(staged.scales(count * Q)).cast::<f32>().add(r);
                            scale.write(group.scale * Group::<Q>::weight(q));
                            for (unit, sum) in staged.of_units(group.sums[q]) {
                                to.add(staged.starts(count * Q, unit)).cast::<i32>().add(r).write(-zero * sum);
                            }
                        }
                        for (unit, sum) in staged.of_units(group.totals()) {
                            let shift = to.add(staged.shifts(count * Q, unit)).cast::<f32>().add(r * Q);
                            shift.write(-(group.scale * sum as f32));
                        }
                    });
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
        let (a, own) = scratch.split_at_mut((rows.count * self.row() / 4).next_multiple_of(LANES));
        if rows.count == 1 && S::FUSED {
            // SAFETY: the caller's promise.
            return unsafe { self.row_of_panels(s, panels, a.as_ptr().cast(), c, own) };
        }
        let (numbers, codes) = own.split_at_mut(Streams::scratch(layout));
        let bytes = codes.as_mut_ptr().cast::<u8>();
        for (i, panel) in panels.enumerate() {
            // SAFETY: the panel is there, and scratch has room for its codes.
            unsafe {
                let panel = self.panels.add(panel * layout.panel);
                let streams = Streams::prepare(s, layout, panel, 0, false, numbers);
                let tile = Tile {
                    streams,
                    blocks: layout.blocks,
                    a: a.as_ptr().cast(),
                    staged: self.staged(),
                    c: c.add(i * LANES),
                    ldc,
                    ahead: AHEAD,
                };
                let nl4 = matches!(layout.scheme.values, Values::Nl4);
                if rows.count * Q <= FUSED_ROWS && S::FUSED {
                    if nl4 {
                        tile.rows::<S, Nl4, FUSED_ROWS, Q>(s, rows.count);
                    } else {
                        with_planes!(layout.scheme.bits, C => tile.rows::<S, C, FUSED_ROWS, Q>(s, rows.count));
                    }
                } else {
                    let (from, to, blocks) = (panel, bytes, layout.blocks);
                    if nl4 {
                        s.vectorize(Unpack::<Nl4> { from, to, blocks, codes: PhantomData });
                    } else {
                        with_planes!(layout.scheme.bits, C =>
                            s.vectorize(Unpack::<C> { from, to, blocks, codes: PhantomData }));
                    }
                    let tile = Tile { streams: Streams { codes: bytes, ..streams }, ahead: 0, ..tile };
                    // Where it makes no difference, all widths take one path.
                    match if S::NARROW { self.zero().0 } else { 8 } {
                        1..=4 => tile.rows::<S, Unpacked<4>, MOST_ROWS, Q>(s, rows.count),
                        5 => tile.rows::<S, Unpacked<5>, MOST_ROWS, Q>(s, rows.count),
                        6 => tile.rows::<S, Unpacked<6>, MOST_ROWS, Q>(s, rows.count),
                        7 => tile.rows::<S, Unpacked<7>, MOST_ROWS, Q>(s, rows.count),
                        _ => tile.rows::<S, Unpacked<8>, MOST_ROWS, Q>(s, rows.count),
                    }
                }
            }
        }
    }
}

/// A few rows and one panel, or one row and two. Whoever makes one has its operands: panels of `blocks` blocks, staged rows,
/// sixteen columns of C for each row and panel.
#[derive(Clone, Copy)]
struct Tile {
    streams: Streams,
    blocks: usize,
    a: *const u8,
    staged: Staged,
    c: *mut f32,
    ldc: usize,
    /// How far ahead memory is asked for; 0 for codes in scratch.
    ahead: usize,
}

impl Tile {
    /// One row, with two panels or one.
    ///
    /// # Safety
    /// The operands are those of a row.
    #[inline(always)]
    unsafe fn row<S: Simd, C: Codes, const Q: usize>(self, s: S) {
        match (self.streams.two, self.streams.halves) {
            (true, true) => s.vectorize(TileOf::<C, Halves, Q, Q, STREAMS>(self, PhantomData)),
            (true, false) => s.vectorize(TileOf::<C, Singles, Q, Q, STREAMS>(self, PhantomData)),
            (false, true) => s.vectorize(TileOf::<C, Halves, Q, Q, 1>(self, PhantomData)),
            (false, false) => s.vectorize(TileOf::<C, Singles, Q, Q, 1>(self, PhantomData)),
        }
    }

    /// Tile by tile of at most MOST rows of bytes.
    ///
    /// # Safety
    /// The operands are those of `rows` rows.
    #[inline(always)]
    unsafe fn rows<S: Simd, C: Codes, const MOST: usize, const Q: usize>(self, s: S, rows: usize) {
        for (start, len) in row_tiles(rows, most_rows::<S, Q>()) {
            // SAFETY: rows in range.
            let tile = unsafe {
                let a = self.a.add(start * Q * self.staged.block() * self.blocks);
                Tile { a, c: self.c.add(start * self.ldc), ..self }
            };
            // Only the tiles that an instruction set has are compiled for it.
            if len == 1 {
                s.vectorize(TileOf::<C, Singles, Q, Q, 1>(tile, PhantomData));
            } else if Q == 1 && S::CODE_ROWS >= 2 && len == 2 {
                s.vectorize(TileOf::<C, Singles, 2, Q, 1>(tile, PhantomData));
            } else if S::CODE_ROWS >= 4 && len * Q == 4 {
                s.vectorize(TileOf::<C, Singles, 4, Q, 1>(tile, PhantomData));
            } else if S::CODE_ROWS >= 8 && MOST >= 8 {
                s.vectorize(TileOf::<C, Singles, 8, Q, 1>(tile, PhantomData));
            }
        }
    }
}

/// The product of R rows of bytes, of which Q are a row of activations, and P panels.
struct TileOf<C, N, const R: usize, const Q: usize, const P: usize>(Tile, PhantomData<(C, N)>);

impl<C: Codes, N: Numbers, const R: usize, const Q: usize, const P: usize> Kernel for TileOf<C, N, R, Q, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Tile { streams, blocks, a, staged, c, ldc, ahead } = self.0;
        // Of R, the first R / Q are in use.
        let mut acc = [[s.splat(0.0); R]; P];
        // SAFETY: whoever made the tile has its operands.
        unsafe {
            for block in 0..blocks {
                let a = a.add(block * R * staged.block());
                for (panel, acc) in acc.iter_mut().enumerate() {
                    let p = streams.codes.add(panel * streams.codes_apart + block * C::BYTES);
                    if ahead > 0 {
                        for line in 0..C::BYTES / 64 {
                            s.prefetch(p.wrapping_add(ahead + 64 * line));
                        }
                    }
                    let w = C::block(s, p);
                    if staged.units == 2 {
                        let (w0, w1) = ([w[0], w[1], w[2], w[3]], [w[4], w[5], w[6], w[7]]);
                        self.unit(s, panel, 2 * block, a, 0, &w0, acc);
                        self.unit(s, panel, 2 * block + 1, a, 1, &w1, acc);
                    } else {
                        self.unit(s, panel, block, a, 0, &w, acc);
                    }
                }
            }
            for (panel, acc) in acc.into_iter().enumerate() {
                for (r, acc) in acc.into_iter().take(R / Q).enumerate() {
                    s.store(c.add(panel * streams.c_apart + r * ldc), acc);
                }
            }
        }
    }
}

impl<C: Codes, N: Numbers, const R: usize, const Q: usize, const P: usize> TileOf<C, N, R, Q, P> {
    /// Adds the products of unit `at` of a panel, the `unit`-th of the block whose activations are at `a`.
    ///
    /// # Safety
    /// See [`Tile`].
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    unsafe fn unit<S: Simd, const W: usize>(
        &self,
        s: S,
        panel: usize,
        at: usize,
        a: *const u8,
        unit: usize,
        w: &[S::B; W],
        acc: &mut [S::V; R],
    ) {
        let Tile { staged, streams, .. } = self.0;
        let numbers = panel * streams.numbers_apart;
        // SAFETY: the caller's promise.
        unsafe {
            let codes = a.add(unit * (BLOCK / 2)).cast::<i8>();
            let sums: [S::I; R] = s.dot(C::BITS, w, codes, a.add(staged.starts(R, unit)).cast::<i32>());
            let scale = N::load(s, streams.scales.add(numbers), at);
            let a_scales = a.add(staged.scales(R)).cast::<f32>();
            for r in 0..R {
                acc[r / Q] = s.fma(s.to_float(sums[r]), s.mul(scale, s.splat(*a_scales.add(r))), acc[r / Q]);
            }
            if !streams.mins.is_null() {
                let min = N::load(s, streams.mins.add(numbers), at);
                let shifts = a.add(staged.shifts(R, unit)).cast::<f32>();
                for (r, acc) in acc.iter_mut().take(R / Q).enumerate() {
                    *acc = s.fma(min, s.splat(*shifts.add(r * Q)), *acc);
                }
            }
        }
    }
}
