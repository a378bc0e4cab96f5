//! Codes of a panel as bytes, and its scales as floats.

use std::marker::PhantomData;

use lith_ir::quant::Scales;

use super::layout::{BLOCK, QuantLayout, STEP, STEPS};
use crate::kernels::simd::{Kernel, LANES, Simd};

/// A form of the codes of a block.
pub(crate) trait Codes {
    /// Bits of the bytes that [`Codes::block`] gives.
    const BITS: u8;
    /// Bytes of a block in memory.
    const BYTES: usize;
    /// The eight steps of a block, a byte for each code.
    ///
    /// # Safety
    /// `p` is readable for [`Codes::BYTES`].
    unsafe fn block<S: Simd>(s: S, p: *const u8) -> [S::B; STEPS];
}

/// Planes of codes of so many bits, as panels have them.
pub(crate) struct Planes<const BITS: u8>;

impl<const BITS: u8> Codes for Planes<BITS> {
    const BITS: u8 = BITS;
    const BYTES: usize = STEP * BITS as usize;

    #[inline(always)]
    unsafe fn block<S: Simd>(s: S, p: *const u8) -> [S::B; STEPS] {
        // SAFETY: the planes of a block are as many vectors as its codes have bits.
        unsafe {
            let mut steps = [s.load_bytes(p); STEPS];
            if BITS == 8 {
                for (i, step) in steps.iter_mut().enumerate() {
                    *step = s.load_bytes(p.add(i * STEP));
                }
            }
            if BITS & 4 != 0 {
                plane::<S, 4>(s, p, 0, &mut steps);
            }
            if BITS & 2 != 0 {
                plane::<S, 2>(s, p, BITS & 4, &mut steps);
            }
            if BITS & 1 != 0 {
                plane::<S, 1>(s, p, BITS & 6, &mut steps);
            }
            steps
        }
    }
}

/// Adds the bits of a plane, `first` and those after it, to the steps of a block.
///
/// # Safety
/// The block at `p` has that plane.
#[inline(always)]
unsafe fn plane<S: Simd, const WIDTH: usize>(s: S, p: *const u8, first: u8, steps: &mut [S::B; STEPS]) {
    let mask = ((1u8 << WIDTH) - 1) << first;
    for (i, step) in steps.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        let vector = unsafe { s.load_bytes(p.add((usize::from(first) + i % WIDTH) * STEP)) };
        let part = s.part(vector, (WIDTH * (i / WIDTH)) as u32, first.into(), mask);
        *step = if first == 0 { part } else { s.or(*step, part) };
    }
}

/// Evaluates an expression with a name for the [`Planes`] of a run-time number of bits.
macro_rules! with_planes {
    ($bits:expr, $codes:ident => $body:expr) => {{
        macro_rules! body {
            ($n:literal) => {{
                type $codes = $crate::kernels::quant::unpack::Planes<$n>;
                $body
            }};
        }
        match $bits {
            1 => body!(1),
            2 => body!(2),
            3 => body!(3),
            4 => body!(4),
            5 => body!(5),
            6 => body!(6),
            7 => body!(7),
            _ => body!(8),
        }
    }};
}
pub(crate) use with_planes;

/// The values of four-bit codes by [`NL4`](lith_ir::quant::NL4), plus 128.
pub(crate) struct Nl4;

/// The table of [`Nl4`].
const NL4_BYTES: [u8; 16] = {
    let mut bytes = [0; 16];
    let mut i = 0;
    while i < 16 {
        bytes[i] = (lith_ir::quant::NL4[i] as i16 + 128) as u8;
        i += 1;
    }
    bytes
};

impl Codes for Nl4 {
    const BITS: u8 = 8;
    const BYTES: usize = Planes::<4>::BYTES;

    #[inline(always)]
    unsafe fn block<S: Simd>(s: S, p: *const u8) -> [S::B; STEPS] {
        // SAFETY: the caller's promise.
        let mut steps = unsafe { Planes::<4>::block(s, p) };
        for step in &mut steps {
            *step = s.lookup_bytes(&NL4_BYTES, *step);
        }
        steps
    }
}

/// Bytes that were unpacked before, of codes of so many bits.
pub(crate) struct Unpacked<const BITS: u8>;

impl<const BITS: u8> Codes for Unpacked<BITS> {
    const BITS: u8 = BITS;
    const BYTES: usize = STEP * STEPS;

    #[inline(always)]
    unsafe fn block<S: Simd>(s: S, p: *const u8) -> [S::B; STEPS] {
        // SAFETY: the caller's promise.
        unsafe { Planes::<8>::block(s, p) }
    }
}

/// Unpacks the codes of a panel to bytes.
pub(crate) struct Unpack<C> {
    pub from: *const u8,
    pub to: *mut u8,
    pub blocks: usize,
    pub codes: PhantomData<C>,
}

impl<C: Codes> Kernel for Unpack<C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for i in 0..self.blocks {
            // SAFETY: whoever makes an `Unpack` has these blocks at both places.
            unsafe {
                let steps = C::block(s, self.from.add(i * C::BYTES));
                for (step, bytes) in steps.into_iter().enumerate() {
                    s.store_bytes(self.to.add((i * STEPS + step) * STEP), bytes);
                }
            }
        }
    }
}

/// How far ahead of what is read memory is asked for, where it is read as one stream.
pub(crate) const AHEAD: usize = 4096;

/// Brings the scales and minima of panels to scratch: one of sixteen outputs for each unit of columns of their blocks.
pub(crate) struct UnpackScales<'a> {
    layout: &'a QuantLayout,
    /// Units of a panel.
    pub units: usize,
    /// Units of a group.
    per_group: usize,
}

impl<'a> UnpackScales<'a> {
    /// For units of so many columns; they divide the groups.
    pub fn new(layout: &'a QuantLayout, unit: usize) -> UnpackScales<'a> {
        UnpackScales { layout, units: layout.blocks * BLOCK / unit, per_group: layout.group / unit }
    }

    /// The scales of a panel to `scales`, and its minima, if there are any, to `mins`.
    ///
    /// # Safety
    /// There is such a panel, and room for the units of its blocks.
    #[inline(always)]
    pub unsafe fn run<S: Simd>(&self, s: S, panel: *const u8, scales: *mut f32, mins: *mut f32) {
        let layout = self.layout;
        // SAFETY: the caller's promise.
        unsafe {
            self.area::<S>(s, panel, (layout.scales, layout.sub_scales), true, scales);
            if layout.scheme.mins {
                self.area::<S>(s, panel, (layout.mins, layout.sub_mins), false, mins);
            }
        }
    }

    #[inline(always)]
    unsafe fn area<S: Simd>(&self, s: S, panel: *const u8, at: (usize, usize), signed: bool, out: *mut f32) {
        let layout = self.layout;
        // Areas lie apart: what is asked for ahead is the same place of the next panel.
        // SAFETY: the caller of `run` promises the panel and the room.
        unsafe {
            let sub = panel.add(at.1);
            let singles = panel.add(at.0).cast::<f32>();
            let halves = panel.add(at.0).cast::<half::f16>();
            match layout.scheme.scales {
                Scales::F32 => {
                    for group in 0..layout.groups {
                        let p = singles.add(group * LANES);
                        s.prefetch(p.cast::<u8>().wrapping_add(layout.panel));
                        self.put(s, s.load(p), group, out);
                    }
                }
                Scales::F16 => {
                    for group in 0..layout.groups {
                        let p = halves.add(group * LANES);
                        s.prefetch(p.cast::<u8>().wrapping_add(layout.panel));
                        self.put(s, s.load_f16(p), group, out);
                    }
                }
                Scales::Super { groups } => {
                    for number in 0..layout.supers {
                        let x = s.load_f16(halves.add(number * LANES));
                        let start = number * groups;
                        for group in start..layout.groups.min(start.saturating_add(groups)) {
                            let p = sub.add(group * LANES);
                            s.prefetch(p.wrapping_add(layout.panel));
                            let small = if signed { s.load_i8(p.cast()) } else { s.load_u8(p) };
                            self.put(s, s.mul(x, small), group, out);
                        }
                    }
                }
            }
            // Columns past the last group.
            for unit in layout.groups * self.per_group..self.units {
                s.store(out.add(unit * LANES), s.splat(0.0));
            }
        }
    }

    /// Stores the number of a group for each of its units.
    ///
    /// # Safety
    /// There is such a group.
    #[inline(always)]
    unsafe fn put<S: Simd>(&self, s: S, x: S::V, group: usize, out: *mut f32) {
        for unit in group * self.per_group..self.units.min((group + 1) * self.per_group) {
            // SAFETY: the caller's promise.
            unsafe { s.store(out.add(unit * LANES), x) };
        }
    }
}
