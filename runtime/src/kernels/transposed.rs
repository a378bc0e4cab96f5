//! A packed weight `[n, k]` as the second operand of a product that sums over its outputs: the gradient of a linear layer's
//! inputs is that of its outputs times the weight. Panels have sixteen outputs side by side for each input; here sixteen
//! inputs come side by side for each output, of a block at a time, codes as the floats they stand for. So the weights are
//! in memory once, as they are stored.

use std::ops::Range;

use half::{bf16, f16};
use lith_ir::dtype::DType;
use lith_ir::quant::Storage;

use super::dot::across;
use super::panels::{HEADER, Header};
use super::quant::layout::QuantLayout;
use super::quant::values::Columns;
use super::simd::{Element, LANES, Simd};

/// A packed weight that is read across its panels.
#[derive(Clone, Copy)]
pub(crate) struct Transposed {
    panels: *const u8,
    /// Inputs of the layer.
    k: usize,
    stored: Stored,
}

#[derive(Clone, Copy)]
enum Stored {
    F32,
    F16,
    Bf16,
    Codes(Columns),
}

impl Transposed {
    /// # Safety
    /// `packed` is a packed weight, alive as long as the result is used.
    pub unsafe fn new(packed: *const u8) -> Transposed {
        // SAFETY: the caller's promise.
        let Header { storage, k, .. } = unsafe { Header::read(packed) };
        let stored = match storage {
            Storage::Quantized(scheme) => Stored::Codes(Columns::new(QuantLayout::of_packed(&scheme, k))),
            Storage::Float(DType::F32) => Stored::F32,
            Storage::Float(DType::F16) => Stored::F16,
            Storage::Float(_) => Stored::Bf16,
        };
        Transposed { panels: packed.wrapping_add(HEADER), k, stored }
    }

    /// Floats of scratch for up to so many inputs.
    pub fn scratch(&self, inputs: usize) -> usize {
        match &self.stored {
            Stored::F32 => 0,
            Stored::F16 | Stored::Bf16 => inputs * LANES,
            Stored::Codes(columns) => columns.scratch(inputs),
        }
    }

    /// Packs these outputs (the first a multiple of sixteen) × these inputs into panels of sixteen inputs, zeros past the
    /// last one.
    ///
    /// # Safety
    /// The weight has them; `packed` has room, `scratch` what [`Transposed::scratch`] says.
    #[inline(always)]
    pub unsafe fn pack<S: Simd>(
        &self,
        s: S,
        packed: &mut [f32],
        outputs: Range<usize>,
        inputs: Range<usize>,
        scratch: &mut [f32],
    ) {
        let depth = outputs.len();
        for (i, first) in outputs.clone().step_by(LANES).enumerate() {
            let rows = (outputs.end - first).min(LANES);
            // SAFETY: the caller's promise: there is such a panel, and in `packed` each sixteen inputs have `depth` rows.
            unsafe {
                let values = self.values(s, first / LANES, inputs.clone(), scratch);
                for group in 0..inputs.len().div_ceil(LANES) {
                    let width = (inputs.len() - group * LANES).min(LANES);
                    let to = packed.as_mut_ptr().add((group * depth + i * LANES) * LANES);
                    across(s, values.add(group * LANES * LANES), LANES as isize, width, rows, to, LANES);
                }
            }
        }
    }

    /// The values of these inputs of a panel, sixteen outputs for each.
    ///
    /// # Safety
    /// As for [`Transposed::pack`].
    #[inline(always)]
    unsafe fn values<S: Simd>(&self, s: S, panel: usize, inputs: Range<usize>, scratch: &mut [f32]) -> *const f32 {
        let at = (panel * self.k + inputs.start) * LANES;
        // SAFETY: the caller's promise.
        unsafe {
            match &self.stored {
                Stored::F32 => self.panels.cast::<f32>().add(at),
                Stored::F16 => widen(s, self.panels.cast::<f16>().add(at), inputs.len(), scratch),
                Stored::Bf16 => widen(s, self.panels.cast::<bf16>().add(at), inputs.len(), scratch),
                Stored::Codes(columns) => columns.read(s, self.panels.add(panel * columns.panel()), inputs, scratch),
            }
        }
    }
}

/// `count` times sixteen elements as `f32`.
///
/// # Safety
/// They are readable, and `scratch` has room for them.
#[inline(always)]
unsafe fn widen<S: Simd, E: Element>(s: S, from: *const E, count: usize, scratch: &mut [f32]) -> *const f32 {
    for i in 0..count {
        // SAFETY: the caller's promise.
        unsafe { s.store(scratch.as_mut_ptr().add(i * LANES), E::load(s, from.add(i * LANES))) };
    }
    scratch.as_ptr()
}
