//! One row with many panels: the order in which panels are read, and where their numbers are. Memory gives two streams more
//! than one, so panels are read in pairs that lie some panels apart.

use lith_ir::quant::Scales;

use super::layout::QuantLayout;
use super::unpack::UnpackScales;
use crate::kernels::gemm::BLOCK_PANELS;
use crate::kernels::simd::{LANES, Simd};

/// Panels that are read at the same time.
pub(crate) const STREAMS: usize = 2;
/// Panels of a block of one row: so pairs are eight panels apart.
const ROW_PANELS: usize = 16;

/// Panels of a block of so many rows.
pub(crate) fn block_panels(rows: usize) -> usize {
    if rows == 1 { ROW_PANELS } else { BLOCK_PANELS }
}

/// Where the scales (or minima) of the units of a panel are: sixteen numbers for each unit, unit by unit.
pub(crate) trait Numbers {
    /// Those of unit `at`.
    ///
    /// # Safety
    /// There is such a unit at `p`.
    unsafe fn load<S: Simd>(s: S, p: *const u8, at: usize) -> S::V;
}

/// Numbers as [`UnpackScales`] leaves them, or as a panel has them.
pub(crate) struct Singles;

/// Numbers as a panel has them in half precision.
pub(crate) struct Halves;

impl Numbers for Singles {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8, at: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load(p.cast::<f32>().add(at * LANES)) }
    }
}

impl Numbers for Halves {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8, at: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load_f16(p.cast::<half::f16>().add(at * LANES)) }
    }
}

/// A panel, or two that are read together.
#[derive(Clone, Copy)]
pub(crate) struct Streams {
    /// Codes, scales and minima (null where there are none) of the first.
    pub codes: *const u8,
    pub scales: *const u8,
    pub mins: *const u8,
    /// Whether the numbers are [`Halves`].
    pub halves: bool,
    /// Whether there is a second one.
    pub two: bool,
    /// Bytes to its codes, and to its scales and minima.
    pub codes_apart: usize,
    pub numbers_apart: usize,
    /// Columns of C to its columns.
    pub c_apart: usize,
}

/// Panels of the same number that meet one row together: pairs half of them apart, then the one that is left over.
pub(crate) fn pairs(panels: usize) -> impl Iterator<Item = (usize, Option<usize>)> {
    let half = panels / STREAMS;
    let last = (!panels.is_multiple_of(STREAMS)).then(|| (panels - 1, None));
    (0..half).map(move |i| (i, Some(i + half))).chain(last)
}

impl Streams {
    /// Floats of scratch that [`Streams::prepare`] needs.
    pub fn scratch(layout: &QuantLayout) -> usize {
        STREAMS * 2 * Self::numbers(layout)
    }

    /// Floats of the scales of a panel, one of sixteen outputs for each unit.
    fn numbers(layout: &QuantLayout) -> usize {
        layout.units() * LANES
    }

    /// The panel at `panel`, and the one `apart` panels behind it if that is not 0. Their numbers are brought to scratch,
    /// or, for `one_row`, read where they lie if there is one for each unit.
    ///
    /// # Safety
    /// There are these panels.
    #[inline(always)]
    pub unsafe fn prepare<S: Simd>(
        s: S,
        layout: &QuantLayout,
        panel: *const u8,
        apart: usize,
        one_row: bool,
        own: &mut [f32],
    ) -> Streams {
        let direct =
            one_row && layout.groups == layout.units() && !matches!(layout.scheme.scales, Scales::Super { .. });
        let numbers = Self::numbers(layout);
        // SAFETY: the panels are there, and scratch has room for their scales and minima.
        unsafe {
            let mut streams = Streams {
                codes: panel,
                scales: panel.add(layout.scales),
                mins: panel.add(layout.mins),
                halves: direct && layout.scheme.scales == Scales::F16,
                two: apart > 0,
                codes_apart: apart * layout.panel,
                numbers_apart: apart * layout.panel,
                c_apart: apart * LANES,
            };
            if !direct {
                let unpack = UnpackScales::new(layout, layout.unit());
                let (mut from, mut to) = (panel, own.as_mut_ptr());
                for _ in 0..1 + usize::from(streams.two) {
                    unpack.run(s, from, to, to.add(numbers));
                    (from, to) = (from.add(streams.codes_apart), to.add(2 * numbers));
                }
                streams.scales = own.as_ptr().cast();
                streams.mins = own.as_ptr().add(numbers).cast();
                streams.numbers_apart = 2 * numbers * size_of::<f32>();
            }
            if !layout.scheme.mins {
                streams.mins = std::ptr::null();
            }
            streams
        }
    }
}
