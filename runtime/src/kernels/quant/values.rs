//! Values of some columns of a quantized panel as floats, laid out as panels of floats are.

use std::marker::PhantomData;
use std::ops::Range;

use super::dequant::{Fill, FillOf, Meaning};
use super::layout::{BLOCK, QuantLayout};
use super::streams::Streams;
use super::unpack::with_planes;
use crate::kernels::simd::{LANES, Simd};

/// Reads columns of the panels of one weight.
#[derive(Clone, Copy)]
pub(crate) struct Columns {
    layout: QuantLayout,
}

impl Columns {
    /// Of panels of this layout.
    pub fn new(layout: QuantLayout) -> Columns {
        Columns { layout }
    }

    /// Floats of scratch for up to so many columns.
    pub fn scratch(&self, columns: usize) -> usize {
        // The blocks that a range is part of begin before it and end behind it.
        Streams::scratch(&self.layout) + (columns + 2 * BLOCK) * LANES
    }

    /// Bytes of a panel.
    pub fn panel(&self) -> usize {
        self.layout.panel
    }

    /// The values of these columns of a panel, sixteen outputs for each, in scratch: each what
    /// [`QuantMatrix::dequantize`](lith_ir::quant::QuantMatrix::dequantize) says, to the bit.
    ///
    /// # Safety
    /// There are such columns of the panel; `scratch` has what [`Columns::scratch`] says for as many.
    #[inline(always)]
    pub unsafe fn read<S: Simd>(
        &self,
        s: S,
        panel: *const u8,
        columns: Range<usize>,
        scratch: &mut [f32],
    ) -> *const f32 {
        let layout = &self.layout;
        let (numbers, values) = scratch.split_at_mut(Streams::scratch(layout));
        let blocks = columns.start / BLOCK..columns.end.div_ceil(BLOCK);
        let meaning = Meaning::new(layout);
        // SAFETY: the panel and its blocks are there, and scratch has room for their numbers and values.
        unsafe {
            let streams = Streams::prepare(s, layout, panel, 0, false, numbers);
            let out = values.as_mut_ptr();
            let fill = Fill { from: streams.codes, meaning: &meaning, blocks: blocks.clone(), out };
            with_planes!(layout.scheme.bits, C => s.vectorize(FillOf::<C>(fill, PhantomData)));
            let unit = layout.unit();
            for (i, at) in (blocks.start * BLOCK / unit..blocks.end * BLOCK / unit).enumerate() {
                let scale = s.load(streams.scales.cast::<f32>().add(at * LANES));
                let none = streams.mins.is_null();
                let min = if none { s.splat(0.0) } else { s.load(streams.mins.cast::<f32>().add(at * LANES)) };
                for column in 0..unit {
                    let p = out.add((i * unit + column) * LANES);
                    let value = s.mul(s.load(p), scale);
                    s.store(p, if none { value } else { s.sub(value, min) });
                }
            }
            out.add((columns.start - blocks.start * BLOCK) * LANES)
        }
    }
}
