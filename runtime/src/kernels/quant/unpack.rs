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
                return steps;
            }
            let mut first = 0;
            for width in [4, 2, 1] {
                if BITS & width == 0 {
                    continue;
                }
                let vectors = usize::from(width);
                let mask = ((1u8 << width) - 1) << first;
                for (i, step) in steps.iter_mut().enumerate() {
                    let vector = s.load_bytes(p.add((first as usize + i % vectors) * STEP));
                    let part = s.part(vector, u32::from(width) * (i / vectors) as u32, first, mask);
                    *step = if first == 0 { part } else { s.or(*step, part) };
                }
                first += u32::from(width);
            }
            steps
        }
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

/// How far ahead of what is read memory is asked for.
pub(crate) const AHEAD: usize = 2048;

/// The scales and minima of a panel, one of sixteen outputs for each `unit` columns of its blocks.
pub(crate) struct UnpackScales<'a> {
    pub layout: &'a QuantLayout,
    pub panel: *const u8,
    pub unit: usize,
    pub scales: *mut f32,
    /// Not used without minima.
    pub mins: *mut f32,
}

impl UnpackScales<'_> {
    /// # Safety
    /// There is such a panel, and room for the units of its blocks.
    #[inline(always)]
    pub unsafe fn run<S: Simd>(&self, s: S) {
        let layout = self.layout;
        // SAFETY: the caller's promise.
        unsafe {
            self.area::<S>(s, layout.scales, layout.sub_scales, true, self.scales);
            if layout.scheme.mins {
                self.area::<S>(s, layout.mins, layout.sub_mins, false, self.mins);
            }
        }
    }

    #[inline(always)]
    unsafe fn area<S: Simd>(&self, s: S, numbers: usize, subs: usize, signed: bool, out: *mut f32) {
        let layout = self.layout;
        let units = layout.blocks * BLOCK / self.unit;
        let per_group = layout.group / self.unit;
        let (mut unit, mut group) = (0, 0);
        // SAFETY: the caller of `run` promises the panel and the room.
        unsafe {
            let numbers = self.panel.add(numbers);
            let sub = self.panel.add(subs);
            let mut put = |x: S::V, group: usize| {
                let end = units.min((group + 1) * per_group);
                while unit < end {
                    s.store(out.add(unit * LANES), x);
                    unit += 1;
                }
            };
            match layout.scheme.scales {
                Scales::F32 => {
                    while group < layout.groups {
                        s.prefetch(numbers.wrapping_add(group * 64 + AHEAD));
                        put(s.load(numbers.cast::<f32>().add(group * LANES)), group);
                        group += 1;
                    }
                }
                Scales::F16 => {
                    while group < layout.groups {
                        s.prefetch(numbers.wrapping_add(group * 32 + AHEAD));
                        put(s.load_f16(numbers.cast::<half::f16>().add(group * LANES)), group);
                        group += 1;
                    }
                }
                Scales::Super { groups } => {
                    for number in 0..layout.supers {
                        let x = s.load_f16(numbers.cast::<half::f16>().add(number * LANES));
                        let end = layout.groups.min(group.saturating_add(groups));
                        while group < end {
                            let p = sub.add(group * LANES);
                            s.prefetch(p.wrapping_add(AHEAD));
                            let small = if signed { s.load_i8(p.cast()) } else { s.load_u8(p) };
                            put(s.mul(x, small), group);
                            group += 1;
                        }
                    }
                }
            }
            let zero = s.splat(0.0);
            while unit < units {
                s.store(out.add(unit * LANES), zero);
                unit += 1;
            }
        }
    }
}
