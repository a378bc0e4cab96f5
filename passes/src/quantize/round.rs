//! Quantizing a matrix: codes and scales that come near its values.
//!
//! A group's scale is sought among a few that clip its extremes a little less or more, and refitted by least squares to
//! the codes each gives; the one with the least squared error wins. All in the order of the elements: same values, same
//! result.

use lith_ir::DType;
use lith_ir::quant::{NF4, QuantMatrix, Scales, Scheme, Values};

/// `values`, a row-major matrix of `cols` columns, quantized. Values that are not finite count as 0.
///
/// # Panics
/// When `values` are no whole rows, or the scheme is one that only files bring (super-blocks, [`Values::Nl4`]).
pub fn quantize(values: &[f32], cols: usize, scheme: Scheme) -> QuantMatrix {
    let rows = values.len().checked_div(cols).unwrap_or(0);
    assert_eq!(rows * cols, values.len(), "whole rows of {cols} columns");
    let groups = rows * scheme.groups(cols);
    let mut matrix = QuantMatrix {
        scheme,
        rows,
        cols,
        codes: Vec::with_capacity(values.len()),
        scales: Vec::with_capacity(groups),
        mins: Vec::new(),
        sub_scales: Vec::new(),
        sub_mins: Vec::new(),
    };
    let stored = |x: f32| match scheme.scales {
        Scales::F32 => x,
        Scales::F16 => DType::F16.round(f64::from(x).clamp(-65504.0, 65504.0)) as f32,
        Scales::Super { .. } => panic!("no quantizer for super-blocks"),
    };
    for row in values.chunks_exact(cols.max(1)) {
        for group in row.chunks(scheme.group.min(cols)) {
            let group: Vec<f32> = group.iter().map(|&x| if x.is_finite() { x } else { 0.0 }).collect();
            let top = f32::from((1u16 << scheme.bits) - 1);
            let fit = match (scheme.values, scheme.mins) {
                (Values::Offset { zero }, false) => symmetric(&group, f32::from(zero), top, &stored),
                (Values::Offset { .. }, true) => with_minimum(&group, top, &stored),
                (Values::Nf4, _) => by_table(&group, &stored),
                (Values::Nl4, _) => panic!("no quantizer for this table"),
            };
            matrix.codes.extend(fit.codes);
            matrix.scales.push(fit.scale);
            if scheme.mins {
                matrix.mins.push(fit.min);
            }
        }
    }
    matrix
}

/// Codes of a group with their scale and minimum.
struct Fit {
    codes: Vec<u8>,
    scale: f32,
    min: f32,
    error: f64,
}

impl Fit {
    /// The codes nearest to the values for a scale and minimum, and the squared error.
    fn nearest(group: &[f32], scale: f32, min: f32, zero: f32, top: f32) -> Fit {
        let mut fit = Fit { codes: Vec::with_capacity(group.len()), scale, min, error: 0.0 };
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        for &x in group {
            let code = ((x + min) * inverse + zero).clamp(0.0, top) + ROUND - ROUND;
            let error = f64::from(scale * (code - zero) - min - x);
            fit.error += error * error;
            fit.codes.push(code as u8);
        }
        fit
    }

    fn better(self, other: Fit) -> Fit {
        if other.error < self.error { other } else { self }
    }
}

/// Added and taken away again, it rounds a number below 2^22 to the nearest whole one, ties to even: a vector instruction
/// on any machine, where rounding itself is a call on old ones.
const ROUND: f32 = 12_582_912.0;

/// Shares of the extreme value that become the extreme code.
const CLIPS: [f32; 9] = [1.0, 1.04, 1.08, 0.97, 0.94, 0.91, 0.88, 0.84, 0.8];

fn symmetric(group: &[f32], zero: f32, top: f32, stored: &dyn Fn(f32) -> f32) -> Fit {
    // Of the two ends of the range the one with a code more takes the greatest magnitude.
    let extreme = group.iter().copied().fold(0.0f32, |m, x| if x.abs() > m.abs() { x } else { m });
    let mut best = Fit::nearest(group, 0.0, 0.0, zero, top);
    // With many codes clipping costs more than it gains.
    let clips = if top > 15.0 { &CLIPS[..1] } else { &CLIPS[..] };
    for clip in clips {
        let starts =
            if top > 15.0 { [extreme.abs() / (top - zero), 0.0] } else { [-extreme / zero, extreme / (top - zero)] };
        for start in starts.into_iter().filter(|s| *s != 0.0) {
            let first = Fit::nearest(group, stored(start * clip), 0.0, zero, top);
            // Least squares for these codes.
            let (mut xq, mut qq) = (0.0f64, 0.0f64);
            for (&x, &code) in group.iter().zip(&first.codes) {
                let q = f64::from(code) - f64::from(zero);
                xq += f64::from(x) * q;
                qq += q * q;
            }
            best = best.better(first);
            if qq > 0.0 && top <= 15.0 {
                best = best.better(Fit::nearest(group, stored((xq / qq) as f32), 0.0, zero, top));
            }
        }
    }
    best
}

fn with_minimum(group: &[f32], top: f32, stored: &dyn Fn(f32) -> f32) -> Fit {
    let (low, high) = group.iter().fold((0.0f32, 0.0f32), |(low, high), &x| (low.min(x), high.max(x)));
    let mut best = Fit::nearest(group, 0.0, 0.0, 0.0, top);
    for clip in CLIPS {
        let (scale, min) = (stored((high - low) / top * clip), stored(-low * clip));
        let first = Fit::nearest(group, scale, min, 0.0, top);
        // Least squares for scale and minimum together.
        let n = group.len() as f64;
        let (mut q1, mut q2, mut x1, mut xq) = (0.0f64, 0.0f64, 0.0f64, 0.0f64);
        for (&x, &code) in group.iter().zip(&first.codes) {
            let (x, q) = (f64::from(x), f64::from(code));
            (q1, q2, x1, xq) = (q1 + q, q2 + q * q, x1 + x, xq + x * q);
        }
        best = best.better(first);
        let determinant = n * q2 - q1 * q1;
        if determinant > 0.0 {
            let scale = (n * xq - q1 * x1) / determinant;
            let min = (scale * q1 - x1) / n;
            best = best.better(Fit::nearest(group, stored(scale as f32), stored(min as f32), 0.0, top));
        }
    }
    best
}

fn by_table(group: &[f32], stored: &dyn Fn(f32) -> f32) -> Fit {
    let scale = stored(group.iter().fold(0.0f32, |m, x| m.max(x.abs())));
    let mut fit = Fit { codes: Vec::with_capacity(group.len()), scale, min: 0.0, error: 0.0 };
    for &x in group {
        let distance = |value: f32| (scale * value - x).abs();
        let nearest = (0..NF4.len()).min_by(|&a, &b| distance(NF4[a]).total_cmp(&distance(NF4[b]))).unwrap_or(0);
        fit.codes.push(nearest as u8);
    }
    fit
}

#[cfg(test)]
mod tests {
    use lith_ir::testing::Rng;

    use super::super::{SCHEMES, compare};
    use super::*;

    fn values(n: usize, seed: u64) -> Vec<f32> {
        let mut rng = Rng::new(seed);
        // The sum of four uniform numbers is near enough to a normal one.
        (0..n).map(|_| (0..4).map(|_| rng.below(1 << 16) as f32 / 65536.0 - 0.5).sum()).collect()
    }

    #[test]
    fn every_scheme_comes_near_normal_values() {
        for (name, scheme) in SCHEMES {
            let x = values(6 * 320, 7);
            let matrix = quantize(&x, 320, *scheme);
            assert_eq!(matrix.check(), Ok(()), "{name}");
            let error = compare(&x, &matrix.dequantize());
            let allowed = if scheme.bits == 8 { 0.01 } else { 0.12 };
            assert!(error.relative_rms < allowed && error.cosine > 0.99, "{name}: {error:?}");
        }
    }

    #[test]
    fn scales_are_stored_exactly_and_odd_values_do_no_harm() {
        for (name, scheme) in SCHEMES {
            let mut x = values(2 * 200, 3);
            (x[5], x[9], x[250]) = (f32::NAN, f32::INFINITY, 1e30);
            x[300..].fill(0.0);
            let matrix = quantize(&x, 200, *scheme);
            assert_eq!(matrix.check(), Ok(()), "{name}");
            assert!(matrix.dequantize().iter().all(|v| v.is_finite()), "{name}");
            if scheme.scales == Scales::F16 {
                let exact = |v: &f32| DType::F16.round(f64::from(*v)) as f32 == *v;
                assert!(matrix.scales.iter().chain(&matrix.mins).all(exact), "{name}");
            }
        }
    }

    #[test]
    fn a_group_of_zeros_stays_zero() {
        for (name, scheme) in SCHEMES {
            assert!(quantize(&[0.0; 64], 64, *scheme).dequantize().iter().all(|&v| v == 0.0), "{name}");
        }
    }
}
