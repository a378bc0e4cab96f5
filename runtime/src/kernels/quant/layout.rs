//! A panel of sixteen quantized outputs in memory.
//!
//! Codes come first, in blocks of 32 columns. Four columns of sixteen outputs are a *step* of 64 bytes, byte `4 o + c` the
//! code of output o in column c: what a dot-product instruction takes. A block has eight steps. The bits of its codes are
//! cut into planes of 8, 4, 2 or 1 bits, as the binary digits of the width say (6 = 4 + 2, lowest bits first), and a plane
//! of w bits is w vectors of 64 bytes: step s is in vector `s % w` at bit `w * (s / w)` of each byte. So b bits take
//! `64 b` bytes a block, and a shift and a mask per plane bring a step back.
//!
//! Then the scales, for each group sixteen side by side: `f32` or `f16`; a super scheme has `f16` for each of its super
//! groups, then an `i8` for each group. Then, if there are any, the minima likewise (`u8` for each group). Each of these
//! areas starts at a multiple of 64 bytes. What lies past the last column or output is zero.

use half::f16;
use lith_ir::quant::{PER_ROW, QuantMatrix, Scales, Scheme, Values};

use crate::kernels::panels::PackError;
use crate::kernels::simd::LANES;

/// Columns of a block.
pub(crate) const BLOCK: usize = 32;
/// Bytes of a step: four columns of sixteen outputs.
pub(crate) const STEP: usize = 64;
/// Steps of a block.
pub(crate) const STEPS: usize = 8;

/// Where the parts of a panel are, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QuantLayout {
    pub scheme: Scheme,
    /// Columns.
    pub k: usize,
    /// Blocks of codes, from the beginning of the panel.
    pub blocks: usize,
    /// Columns of a group; those of all blocks where a row has one scale.
    pub group: usize,
    /// Groups of a row.
    pub groups: usize,
    /// Of scales as such: groups, or super groups.
    pub supers: usize,
    pub scales: usize,
    pub sub_scales: usize,
    pub mins: usize,
    pub sub_mins: usize,
    /// The whole panel.
    pub panel: usize,
}

/// Some bits of all codes of a block.
struct Plane {
    /// The first of the bits; as a plane has as many vectors as bits, so many vectors are before it.
    first: usize,
    /// Bits, and vectors.
    width: usize,
}

impl QuantLayout {
    /// The layout of the panels of `n` outputs of `k` columns.
    ///
    /// # Errors
    /// If the scheme is none that kernels know, or a panel does not fit this machine.
    pub fn new(scheme: &Scheme, n: usize, k: usize) -> Result<QuantLayout, PackError> {
        let wrong = |problem| Err(PackError::Scheme { scheme: *scheme, problem });
        match scheme.values {
            _ if !(1..=8).contains(&scheme.bits) => return wrong("codes have 1 to 8 bits"),
            Values::Offset { zero } if zero > 128 => return wrong("the code of zero is at most 128"),
            Values::Nl4 | Values::Nf4 if scheme.bits != 4 => return wrong("its values are of four-bit codes"),
            _ => {}
        }
        if scheme.group != PER_ROW && (scheme.group == 0 || !scheme.group.is_multiple_of(16)) {
            return wrong("groups are of a multiple of 16 columns");
        }
        if scheme.scales == (Scales::Super { groups: 0 }) {
            return wrong("super groups have at least one group");
        }
        Self::areas(scheme, k).ok_or(PackError::TooLarge { n, k })
    }

    /// The layout of panels that were packed, so that their scheme and size are known to be good.
    ///
    /// # Panics
    /// If they are not.
    pub fn of_packed(scheme: &Scheme, k: usize) -> QuantLayout {
        Self::areas(scheme, k).expect("the scheme of packed weights")
    }

    fn areas(scheme: &Scheme, k: usize) -> Option<QuantLayout> {
        let blocks = k.div_ceil(BLOCK);
        let mut end = blocks.checked_mul(STEP * usize::from(scheme.bits))?;
        let mut area = |count: usize, size: usize| {
            let start = end;
            end = count.checked_mul(size * LANES)?.checked_next_multiple_of(64)?.checked_add(start)?;
            Some(start)
        };
        let (groups, supers) = (scheme.groups(k), scheme.scales_per_row(k));
        let (size, subs) = match scheme.scales {
            Scales::F32 => (4, 0),
            Scales::F16 => (2, 0),
            Scales::Super { .. } => (2, groups),
        };
        let once = usize::from(scheme.mins);
        let scales = area(supers, size)?;
        let sub_scales = area(subs, 1)?;
        let mins = area(supers * once, size)?;
        let sub_mins = area(subs * once, 1)?;
        let group = scheme.group.min(blocks.max(1) * BLOCK);
        let panel = end;
        Some(QuantLayout {
            scheme: *scheme,
            k,
            blocks,
            group,
            groups,
            supers,
            scales,
            sub_scales,
            mins,
            sub_mins,
            panel,
        })
    }

    /// Columns whose products with 8-bit activations are summed as integers before they are scaled.
    pub fn unit(&self) -> usize {
        if self.group.is_multiple_of(BLOCK) { BLOCK } else { BLOCK / 2 }
    }

    /// Units of a row.
    pub fn units(&self) -> usize {
        self.blocks * BLOCK / self.unit()
    }

    /// Checks what [`QuantMatrix::check`] does not: the range of each number.
    pub fn check(&self, matrix: &QuantMatrix) -> Result<(), PackError> {
        let wrong = |what, at: usize, per_row: usize, value: String, problem| {
            Err(PackError::Value { what, row: at / per_row.max(1), value, problem })
        };
        let most = u8::MAX >> (8 - self.scheme.bits);
        if let Some((at, code)) = matrix.codes.iter().enumerate().find(|&(_, &code)| code > most) {
            return wrong("code", at, self.k, code.to_string(), "has more bits than the scheme");
        }
        if self.scheme.scales != Scales::F32 {
            for (what, values) in [("scale", &matrix.scales), ("minimum", &matrix.mins)] {
                let inexact = |x: f32| !x.is_nan() && f16::from_f32(x).to_f32().to_bits() != x.to_bits();
                if let Some((at, value)) = values.iter().enumerate().find(|&(_, &x)| inexact(x)) {
                    return wrong(what, at, self.supers, value.to_string(), "is no half-precision number");
                }
            }
        }
        Ok(())
    }

    /// The planes of the codes.
    fn planes(&self) -> impl Iterator<Item = Plane> + use<> {
        let bits = usize::from(self.scheme.bits);
        let mut first = 0;
        [8, 4, 2, 1].into_iter().filter(move |width| bits & width != 0).map(move |width| {
            let plane = Plane { first, width };
            first += width;
            plane
        })
    }

    /// Packs outputs `row..row + 16` of a matrix that [`QuantLayout::check`] found good.
    pub fn pack(&self, matrix: &QuantMatrix, row: usize, panel: &mut [u8]) {
        panel.fill(0);
        let bytes = STEP * usize::from(self.scheme.bits);
        for lane in 0..LANES.min(matrix.rows - row) {
            let codes = &matrix.codes[(row + lane) * self.k..][..self.k];
            for (codes, block) in codes.chunks(BLOCK).zip(panel.chunks_exact_mut(bytes)) {
                for Plane { first, width } in self.planes() {
                    for (step, codes) in codes.chunks(4).enumerate() {
                        let (vector, bit) = (first + step % width, width * (step / width));
                        for (byte, &code) in block[vector * STEP + lane * 4..].iter_mut().zip(codes) {
                            *byte |= (code >> first & (u8::MAX >> (8 - width))) << bit;
                        }
                    }
                }
            }
            let mut scatter = |values: &[f32], at: usize, groups: usize| {
                for (group, &x) in values[(row + lane) * groups..][..groups].iter().enumerate() {
                    let index = group * LANES + lane;
                    match self.scheme.scales {
                        Scales::F32 => panel[at + 4 * index..][..4].copy_from_slice(&x.to_le_bytes()),
                        _ => panel[at + 2 * index..][..2].copy_from_slice(&f16::from_f32(x).to_le_bytes()),
                    }
                }
            };
            scatter(&matrix.scales, self.scales, self.supers);
            if self.scheme.mins {
                scatter(&matrix.mins, self.mins, self.supers);
            }
            if matches!(self.scheme.scales, Scales::Super { .. }) {
                for group in 0..self.groups {
                    let (from, to) = ((row + lane) * self.groups + group, group * LANES + lane);
                    panel[self.sub_scales + to] = matrix.sub_scales[from] as u8;
                    if self.scheme.mins {
                        panel[self.sub_mins + to] = matrix.sub_mins[from];
                    }
                }
            }
        }
    }

    /// The codes of an output in a block.
    fn codes(&self, panel: &[u8], lane: usize, block: usize) -> [u8; BLOCK] {
        let bytes = STEP * usize::from(self.scheme.bits);
        let block = &panel[block * bytes..][..bytes];
        let mut codes = [0; BLOCK];
        for Plane { first, width } in self.planes() {
            for (step, codes) in codes.chunks_exact_mut(4).enumerate() {
                let (vector, bit) = (first + step % width, width * (step / width));
                for (code, &byte) in codes.iter_mut().zip(&block[vector * STEP + lane * 4..]) {
                    *code |= (byte >> bit & (u8::MAX >> (8 - width))) << first;
                }
            }
        }
        codes
    }

    /// A scale or minimum as such, of the area at `at`.
    fn number(&self, panel: &[u8], at: usize, group: usize, lane: usize) -> f32 {
        let index = group * LANES + lane;
        match self.scheme.scales {
            Scales::F32 => f32::from_le_bytes(std::array::from_fn(|b| panel[at + 4 * index + b])),
            _ => f16::from_le_bytes(std::array::from_fn(|b| panel[at + 2 * index + b])).to_f32(),
        }
    }

    /// Adds an output to a matrix: undoes [`QuantLayout::pack`].
    pub fn unpack(&self, panel: &[u8], lane: usize, matrix: &mut QuantMatrix) {
        for block in 0..self.blocks {
            matrix.codes.extend(&self.codes(panel, lane, block)[..BLOCK.min(self.k - block * BLOCK)]);
        }
        matrix.scales.extend((0..self.supers).map(|g| self.number(panel, self.scales, g, lane)));
        if self.scheme.mins {
            matrix.mins.extend((0..self.supers).map(|g| self.number(panel, self.mins, g, lane)));
        }
        if matches!(self.scheme.scales, Scales::Super { .. }) {
            let sub = |at: usize, g: usize| panel[at + g * LANES + lane];
            matrix.sub_scales.extend((0..self.groups).map(|g| sub(self.sub_scales, g) as i8));
            if self.scheme.mins {
                matrix.sub_mins.extend((0..self.groups).map(|g| sub(self.sub_mins, g)));
            }
        }
    }

    /// The values of an output, as [`QuantMatrix::row`] gives them.
    pub fn row(&self, panel: &[u8], lane: usize, out: &mut [f32]) {
        let table: [f32; 256] = std::array::from_fn(|code| self.scheme.values.value(code as u8));
        let scaled = |at: usize, sub: usize, signed: bool, group: usize| match self.scheme.scales {
            Scales::Super { groups } => {
                let small = panel[sub + group * LANES + lane];
                let small = if signed { f32::from(small as i8) } else { f32::from(small) };
                self.number(panel, at, group / groups, lane) * small
            }
            _ => self.number(panel, at, group, lane),
        };
        // Groups and blocks need not divide each other, but sixteen columns are in one of each.
        for (half, out) in out.chunks_mut(BLOCK / 2).enumerate() {
            let group = half * (BLOCK / 2) / self.group;
            let scale = scaled(self.scales, self.sub_scales, true, group);
            let min = if self.scheme.mins { scaled(self.mins, self.sub_mins, false, group) } else { 0.0 };
            let codes = self.codes(panel, lane, half / 2);
            for (out, &code) in out.iter_mut().zip(&codes[half % 2 * (BLOCK / 2)..]) {
                let value = scale * table[usize::from(code)];
                *out = if self.scheme.mins { value - min } else { value };
            }
        }
    }
}
