//! Activations in eight bits: in each group of 32 columns of a row with greatest magnitude m the codes
//! `round(x * (127 / m))`, ties to even, of scale `m / 127` (the operation `dynamic_quantize` of the graph).

use super::layout::BLOCK;
use crate::kernels::gemm::Rows;

/// Adding it rounds a float below 2^22 in magnitude to the nearest integer, ties to even, and leaves that integer in
/// the low bits.
const ROUND: f32 = 12_582_912.0;

/// The codes of a group (at most 32 values; zeros behind them), and their scale.
///
/// A group whose greatest magnitude is zero, or so small that `127 / m` is not finite, has codes of zero. One with an
/// infinity or a NaN has a scale that is none, so that it is not hidden.
#[inline(always)]
pub(crate) fn quantize(x: &[f32], codes: &mut [i8; BLOCK]) -> f32 {
    let mut group = [0.0; BLOCK];
    match <&[f32; BLOCK]>::try_from(x) {
        Ok(x) => group = *x,
        Err(_) => group.iter_mut().zip(x).for_each(|(to, &x)| *to = x),
    }
    // Magnitudes are ordered as their bits are, and any NaN is beyond infinity.
    let mut most = 0;
    for x in group {
        most = most.max(x.to_bits() & 0x7FFF_FFFF);
    }
    let most = f32::from_bits(most);
    let inverse = 127.0 / most;
    let inverse = if inverse == f32::INFINITY { 0.0 } else { inverse };
    for (code, x) in codes.iter_mut().zip(group) {
        *code = (x * inverse + ROUND).to_bits() as i8;
    }
    most / 127.0
}

/// The rows as their codes represent them, one behind the other into `out`.
///
/// # Safety
/// The rows are readable.
#[inline(always)]
pub(crate) unsafe fn represent(rows: &Rows, out: &mut [f32]) {
    for (r, out) in out.chunks_exact_mut(rows.k.max(1)).take(rows.count).enumerate() {
        // SAFETY: the caller's promise.
        let row = unsafe { std::slice::from_raw_parts(rows.a.add(r * rows.lda), rows.k) };
        let mut codes = [0; BLOCK];
        for (x, out) in row.chunks(BLOCK).zip(out.chunks_mut(BLOCK)) {
            let scale = quantize(x, &mut codes);
            for (out, &code) in out.iter_mut().zip(&codes) {
                *out = f32::from(code) * scale;
            }
        }
    }
}
