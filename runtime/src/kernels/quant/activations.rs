//! Activations as codes: in each group of 32 columns of a row with greatest magnitude m the codes `round(x * (L / m))`,
//! ties to even, of scale `m / L` (the operation `dynamic_quantize` of the graph). With L = 127 they are bytes; with
//! L = 32512 each is `255 a + b` of two bytes a and b, none of them -128.

use lith_ir::quant::ACTIVATION_LEVELS;

use super::bytes::Bytes;
use super::layout::BLOCK;
use crate::kernels::gemm::Rows;

/// Adding it rounds a float below 2^22 in magnitude to the nearest integer, ties to even, and leaves that integer in
/// the low bits.
pub(crate) const ROUND: f32 = 12_582_912.0;

/// What the first byte of a code of two bytes counts.
pub(crate) const BASE: f32 = 255.0;

/// Codes of a group, of Q bytes each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Group<const Q: usize> {
    /// The bytes, most significant first.
    pub codes: [[i8; BLOCK]; Q],
    /// What a code stands for is a multiple of.
    pub scale: f32,
    /// Sums of the first and the last sixteen bytes.
    pub sums: [[i32; 2]; Q],
}

impl<const Q: usize> Group<Q> {
    /// What byte `q` of a code counts, in codes.
    pub fn weight(q: usize) -> f32 {
        if q + 1 < Q { BASE } else { 1.0 }
    }

    /// The sums of codes: of the first and the last sixteen.
    pub fn totals(&self) -> [i32; 2] {
        [0, 1].map(|half| (0..Q).map(|q| Self::weight(q) as i32 * self.sums[q][half]).sum())
    }
}

/// The greatest code of Q bytes.
pub(crate) const fn greatest<const Q: usize>() -> f32 {
    ACTIVATION_LEVELS[Q - 1] as f32
}

/// What codes up to `greatest` of a group of greatest magnitude `most` are rounded from values by, and what they are
/// multiples of.
///
/// A group whose greatest magnitude is zero, or so small that `L / m` is not finite, has codes of zero. One with an
/// infinity or a NaN has a scale that is none, so that it is not hidden.
#[inline(always)]
pub(crate) fn factors(most: f32, greatest: f32) -> (f32, f32) {
    let inverse = greatest / most;
    (if inverse == f32::INFINITY { 0.0 } else { inverse }, most / greatest)
}

/// [`Bytes::quantize`](super::bytes::Bytes::quantize) in plain Rust.
#[inline(always)]
pub(crate) fn quantize<const Q: usize>(x: &[f32; BLOCK]) -> Group<Q> {
    // Magnitudes are ordered as their bits are, and any NaN is beyond infinity.
    let mut most = 0;
    for x in x {
        most = most.max(x.to_bits() & 0x7FFF_FFFF);
    }
    let (inverse, scale) = factors(f32::from_bits(most), greatest::<Q>());
    let mut codes = [[0; BLOCK]; Q];
    for (i, x) in x.iter().enumerate() {
        let mut rest = x * inverse;
        if Q == 2 {
            let code = (rest + ROUND) - ROUND;
            // Never a tie, since the base is odd.
            let first = code * (1.0 / BASE) + ROUND;
            codes[0][i] = first.to_bits() as i8;
            rest = code - BASE * (first - ROUND);
        }
        codes[Q - 1][i] = (rest + ROUND).to_bits() as i8;
    }
    let sum = |codes: &[i8]| codes.iter().map(|&c| i32::from(c)).sum();
    let sums = codes.map(|codes| [sum(&codes[..BLOCK / 2]), sum(&codes[BLOCK / 2..])]);
    Group { codes, scale, sums }
}

/// The codes of a row, block by block: `put` gets the number of a block and its codes. The last block may have fewer than
/// 32 values; zeros stand for the others.
#[inline(always)]
pub(crate) fn quantize_row<S: Bytes, const Q: usize>(s: S, row: &[f32], mut put: impl FnMut(usize, &Group<Q>)) {
    let (blocks, rest) = row.as_chunks::<BLOCK>();
    for (i, x) in blocks.iter().enumerate() {
        put(i, &s.quantize(x));
    }
    if !rest.is_empty() {
        let mut x = [0.0; BLOCK];
        x[..rest.len()].copy_from_slice(rest);
        put(blocks.len(), &s.quantize(&x));
    }
}

/// The rows as their codes represent them, one behind the other into `out`.
///
/// # Safety
/// The rows are readable.
#[inline(always)]
pub(crate) unsafe fn represent<S: Bytes, const Q: usize>(s: S, rows: &Rows, out: &mut [f32]) {
    for (r, out) in out.chunks_exact_mut(rows.k.max(1)).take(rows.count).enumerate() {
        // SAFETY: the caller's promise.
        let row = unsafe { std::slice::from_raw_parts(rows.a.add(r * rows.lda), rows.k) };
        quantize_row(s, row, |i, group: &Group<Q>| {
            for (j, out) in out[i * BLOCK..].iter_mut().take(BLOCK).enumerate() {
                let code = group.codes.iter().enumerate().map(|(q, codes)| Group::<Q>::weight(q) * f32::from(codes[j]));
                *out = code.sum::<f32>() * group.scale;
            }
        });
    }
}
