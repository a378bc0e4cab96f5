//! Floating-point activations times quantized weights.
//!
//! For each unit of columns in order (a group of the weight, or 32 or 16 columns of one), with `value` what a code stands
//! for before it is scaled:
//!
//! ```text
//! sum = fma(x, value, sum) for each column of the unit, from 0
//! acc = fma(sum, scale of the weight, acc)
//! acc = fma(minimum of the weight, -(sum of x), acc)
//! ```
//!
//! the last where the scheme has minima. So a weight takes one multiply-add, and the bits of an output are a function of its
//! row and the weight alone.

use std::marker::PhantomData;
use std::ops::Range;

use super::layout::{BLOCK, QuantLayout};
use super::streams::{Halves, Numbers, STREAMS, Singles, Streams, block_panels, pairs};
use super::unpack::{AHEAD, Codes, with_planes};
use crate::kernels::gemm::{Costs, Rows, Weight, pieces};
use crate::kernels::simd::{Kernel, LANES, Simd};
use crate::kernels::tile::TileArgs;

/// Quantized panels that meet floats.
#[derive(Clone, Copy)]
pub(crate) struct Dequantized {
    pub panels: *const u8,
    pub layout: QuantLayout,
}

/// Room for the rows and the panels of a tile of any instruction set.
const TILE_ROWS: usize = 12;
/// Inputs unpacked before they are multiplied: tiles of this depth stay in the first-level cache.
const K_BLOCK: usize = 256;
const TILE_PANELS: usize = STREAMS;

/// What codes stand for before they are scaled.
#[derive(Clone, Copy)]
pub(super) struct Meaning {
    /// The values of the first codes.
    table: [f32; 16],
    /// The code of value zero, for codes that are beyond the table.
    zero: f32,
}

impl Meaning {
    /// Of the codes of panels of this layout.
    pub fn new(layout: &QuantLayout) -> Meaning {
        let value = |code| layout.scheme.values.value(code);
        Meaning { table: std::array::from_fn(|code| value(code as u8)), zero: -value(0) }
    }

    /// Byte `j` of each lane of codes of so many bits.
    #[inline(always)]
    fn of<S: Simd>(&self, s: S, bits: u8, codes: S::B, j: usize) -> S::V {
        if bits <= 4 { s.lookup(&self.table, codes, j) } else { s.byte(codes, j, self.zero) }
    }
}

impl Dequantized {
    /// Floats of scratch for the sums of so many rows.
    fn sums(&self, rows: usize) -> usize {
        if self.layout.scheme.mins { (rows * self.layout.units()).next_multiple_of(LANES) } else { 0 }
    }

    /// One row with the whole blocks of all of these panels, whose columns are at `c`.
    ///
    /// # Safety
    /// As for [`Weight::multiply`]; `own` has room for [`Streams`].
    #[inline(always)]
    unsafe fn row_of_panels<S: Simd>(
        &self,
        s: S,
        panels: Range<usize>,
        a: *const f32,
        sums: *const f32,
        c: *mut f32,
        own: &mut [f32],
    ) {
        let (layout, meaning) = (&self.layout, Meaning::new(&self.layout));
        for (first, second) in pairs(panels.len()) {
            // SAFETY: the panels are there.
            unsafe {
                let panel = self.panels.add((panels.start + first) * layout.panel);
                let streams = Streams::prepare(s, layout, panel, second.map_or(0, |second| second - first), true, own);
                let (blocks, unit, c) = (layout.k / BLOCK, layout.unit(), c.add(first * LANES));
                let row = Row { streams, meaning: &meaning, blocks, unit, a, sums, c };
                with_planes!(layout.scheme.bits, C => match (streams.two, streams.halves) {
                    (true, true) => s.vectorize(RowOf::<C, Halves, STREAMS>(row, PhantomData)),
                    (true, false) => s.vectorize(RowOf::<C, Singles, STREAMS>(row, PhantomData)),
                    (false, true) => s.vectorize(RowOf::<C, Halves, 1>(row, PhantomData)),
                    (false, false) => s.vectorize(RowOf::<C, Singles, 1>(row, PhantomData)),
                });
            }
        }
    }
}

impl Weight for Dequantized {
    fn costs(&self) -> Costs {
        // Two multiply-adds a cycle and their share of scaling; some cycles to make sixteen weights; eight bytes of cache.
        Costs { product: 0.6, panel: 2.0, row: 0.5 }
    }

    fn block(&self, rows: usize) -> usize {
        block_panels(rows)
    }

    fn scratch(&self, rows: usize) -> usize {
        let tile = TILE_ROWS * TILE_PANELS * LANES;
        self.sums(rows) + Streams::scratch(&self.layout) + TILE_PANELS * K_BLOCK * LANES + tile
    }

    #[inline(always)]
    unsafe fn stage<S: Simd>(&self, _: S, rows: &Rows, scratch: &mut [f32]) {
        if !self.layout.scheme.mins {
            return;
        }
        for (r, sums) in scratch.chunks_exact_mut(self.layout.units().max(1)).take(rows.count).enumerate() {
            // SAFETY: the row is readable.
            let row = unsafe { std::slice::from_raw_parts(rows.a.add(r * rows.lda), rows.k) };
            sums.fill(0.0);
            for (x, sum) in row.chunks(self.layout.unit()).zip(sums) {
                // Sixteen sums, then half as many and half as many: an order that vectors take, too.
                let mut lanes = [0.0; LANES];
                for x in x.chunks(LANES) {
                    lanes.iter_mut().zip(x).for_each(|(lane, x)| *lane += x);
                }
                for half in [8, 4, 2, 1] {
                    for i in 0..half {
                        lanes[i] += lanes[i + half];
                    }
                }
                *sum = -lanes[0];
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
        const { assert!(S::PANELS <= TILE_PANELS && S::ROWS <= TILE_ROWS) };
        let layout = &self.layout;
        let (sums, own) = scratch.split_at_mut(self.sums(rows.count));
        let sums = sums.as_ptr();
        let mut done = 0;
        if rows.count == 1 && S::FUSED {
            done = rows.k / BLOCK;
            // SAFETY: the caller's promise.
            unsafe { self.row_of_panels(s, panels.clone(), rows.a, sums, c, own) };
        } else if rows.k == 0 {
            for r in 0..rows.count {
                // SAFETY: the caller's promise.
                unsafe { c.add(r * ldc).write_bytes(0, panels.len() * LANES) };
            }
        }
        if done == layout.blocks {
            return;
        }
        let (numbers, own) = own.split_at_mut(Streams::scratch(layout));
        let (weights, products) = own.split_at_mut(TILE_PANELS * K_BLOCK * LANES);
        let (weights, products) = (weights.as_mut_ptr(), products.as_mut_ptr());
        let meaning = Meaning::new(layout);
        let per_block = BLOCK / layout.unit();
        for group in pieces(0..panels.len(), S::PANELS) {
            // SAFETY: panels, rows and columns are in range; a piece of K_BLOCK columns has room in scratch.
            unsafe {
                let panel = self.panels.add((panels.start + group.start) * layout.panel);
                let streams = Streams::prepare(s, layout, panel, group.len() - 1, false, numbers);
                for blocks in pieces(done..layout.blocks, K_BLOCK / BLOCK) {
                    let b_panel = blocks.len() * BLOCK * LANES;
                    for i in 0..group.len() {
                        let from = streams.codes.add(i * streams.codes_apart);
                        let fill =
                            Fill { from, meaning: &meaning, blocks: blocks.clone(), out: weights.add(i * b_panel) };
                        with_planes!(layout.scheme.bits, C => s.vectorize(FillOf::<C>(fill, PhantomData)));
                    }
                    for part in pieces(0..rows.count, S::ROWS) {
                        for unit in blocks.start * per_block..blocks.end * per_block {
                            let columns = unit * layout.unit()..rows.k.min((unit + 1) * layout.unit());
                            if columns.is_empty() {
                                break;
                            }
                            let tile = TileArgs {
                                k: columns.len(),
                                a: rows.a.add(part.start * rows.lda + columns.start),
                                lda: rows.lda,
                                b: weights.add((columns.start - blocks.start * BLOCK) * LANES).cast_const(),
                                b_step: LANES,
                                b_panel,
                                c: products,
                                ldc: group.len() * LANES,
                                accumulate: false,
                                next: None,
                            };
                            s.tile(part.len(), group.len(), &tile);
                            let scale = Scale {
                                streams,
                                unit,
                                panels: group.len(),
                                rows: part.len(),
                                products,
                                sums: sums.add(part.start * layout.units()),
                                units: layout.units(),
                                c: c.add(part.start * ldc + group.start * LANES),
                                ldc,
                            };
                            scale.run(s);
                        }
                    }
                }
            }
        }
    }
}

/// The sums of a unit of a tile, to be scaled and added to C. Whoever makes one has the operands.
struct Scale {
    streams: Streams,
    unit: usize,
    panels: usize,
    rows: usize,
    /// The sums, row by row.
    products: *const f32,
    /// Sums of activations of the first row, and how many a row has.
    sums: *const f32,
    units: usize,
    c: *mut f32,
    ldc: usize,
}

impl Kernel for Scale {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Scale { streams, unit, panels, rows, products, sums, units, c, ldc } = self;
        for panel in 0..panels {
            // SAFETY: whoever made the `Scale` has its operands.
            unsafe {
                let numbers = panel * streams.numbers_apart;
                let scale = Singles::load(s, streams.scales.add(numbers), unit);
                let min =
                    if streams.mins.is_null() { scale } else { Singles::load(s, streams.mins.add(numbers), unit) };
                for r in 0..rows {
                    let c = c.add(r * ldc + panel * LANES);
                    let acc = if unit == 0 { s.splat(0.0) } else { s.load(c) };
                    let mut acc = s.fma(s.load(products.add((r * panels + panel) * LANES)), scale, acc);
                    if !streams.mins.is_null() {
                        acc = s.fma(min, s.splat(*sums.add(r * units + unit)), acc);
                    }
                    s.store(c, acc);
                }
            }
        }
    }
}

/// Values of blocks of a panel as floats, as panels of floats have them. Whoever makes one has these blocks, and room.
pub(super) struct Fill<'a> {
    pub from: *const u8,
    pub meaning: &'a Meaning,
    pub blocks: Range<usize>,
    pub out: *mut f32,
}

pub(super) struct FillOf<'a, C>(pub Fill<'a>, pub PhantomData<C>);

impl<C: Codes> Kernel for FillOf<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Fill { from, meaning, blocks, out } = self.0;
        for (i, block) in blocks.enumerate() {
            // SAFETY: whoever made the `Fill` has these blocks, and room for them.
            unsafe {
                let p = from.add(block * C::BYTES);
                for line in 0..C::BYTES / 64 {
                    s.prefetch(p.wrapping_add(AHEAD + 64 * line));
                }
                let codes = C::block(s, p);
                for (step, codes) in codes.into_iter().enumerate() {
                    for j in 0..4 {
                        s.store(out.add((i * BLOCK + 4 * step + j) * LANES), meaning.of(s, C::BITS, codes, j));
                    }
                }
            }
        }
    }
}

/// One row with whole blocks of one or two panels. Whoever makes one has the operands.
#[derive(Clone, Copy)]
struct Row<'a> {
    streams: Streams,
    meaning: &'a Meaning,
    blocks: usize,
    /// Columns of a unit.
    unit: usize,
    a: *const f32,
    /// The negative sums of its units.
    sums: *const f32,
    c: *mut f32,
}

struct RowOf<'a, C, N, const P: usize>(Row<'a>, PhantomData<(C, N)>);

impl<C: Codes, N: Numbers, const P: usize> Kernel for RowOf<'_, C, N, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Row { streams, blocks, unit, c, .. } = self.0;
        let mut acc = [s.splat(0.0); P];
        // SAFETY: whoever made the `Row` has its operands.
        unsafe {
            for block in 0..blocks {
                let mut w = [C::block(s, streams.codes.add(block * C::BYTES)); P];
                for (panel, w) in w.iter_mut().enumerate().skip(1) {
                    *w = C::block(s, streams.codes.add(panel * streams.codes_apart + block * C::BYTES));
                }
                let a = self.0.a.add(block * BLOCK);
                if unit == BLOCK {
                    self.unit(s, block, a, &w, &mut acc);
                } else {
                    self.unit(s, 2 * block, a, &w.map(|w| [w[0], w[1], w[2], w[3]]), &mut acc);
                    self.unit(s, 2 * block + 1, a.add(BLOCK / 2), &w.map(|w| [w[4], w[5], w[6], w[7]]), &mut acc);
                }
            }
            for (panel, acc) in acc.into_iter().enumerate() {
                s.store(c.add(panel * streams.c_apart), acc);
            }
        }
    }
}

impl<C: Codes, Num: Numbers, const P: usize> RowOf<'_, C, Num, P> {
    /// Adds the products of unit `unit` of each panel with the values at `a`.
    ///
    /// # Safety
    /// See [`Row`].
    #[inline(always)]
    unsafe fn unit<S: Simd, const N: usize>(
        &self,
        s: S,
        unit: usize,
        a: *const f32,
        w: &[[S::B; N]; P],
        acc: &mut [S::V; P],
    ) {
        let Row { streams, meaning, sums, .. } = self.0;
        let mut products = [s.splat(0.0); P];
        // SAFETY: the caller's promise.
        unsafe {
            // In loops that the compiler unrolls, so that codes stay in registers; the sums of panels in turn, so that
            // neither waits for itself.
            for step in 0..N {
                for j in 0..4 {
                    let x = s.splat(*a.add(4 * step + j));
                    for (sum, w) in products.iter_mut().zip(w) {
                        *sum = s.fma(x, meaning.of(s, C::BITS, w[step], j), *sum);
                    }
                }
            }
            for (panel, (acc, sum)) in acc.iter_mut().zip(products).enumerate() {
                let numbers = panel * streams.numbers_apart;
                *acc = s.fma(sum, Num::load(s, streams.scales.add(numbers), unit), *acc);
                if !streams.mins.is_null() {
                    *acc = s.fma(Num::load(s, streams.mins.add(numbers), unit), s.splat(*sums.add(unit)), *acc);
                }
            }
        }
    }
}
