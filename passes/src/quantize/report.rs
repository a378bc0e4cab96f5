//! What quantization does to weights, and the choice of widths by it.

use lith_ir::quant::Scheme;
use serde::{Deserialize, Serialize};

/// How far values are from those they stand for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Error {
    /// Cosine of the angle between both; 1 where both are zero.
    pub cosine: f64,
    /// Root mean square of the differences over that of the values; 0 where both are zero.
    pub relative_rms: f64,
}

/// Compares values with what became of them, element by element, in 64-bit arithmetic.
pub fn compare(values: &[f32], became: &[f32]) -> Error {
    let (mut xx, mut yy, mut xy, mut dd) = (0.0f64, 0.0f64, 0.0f64, 0.0f64);
    for (&x, &y) in values.iter().zip(became) {
        let (x, y) = (f64::from(x), f64::from(y));
        (xx, yy, xy, dd) = (xx + x * x, yy + y * y, xy + x * y, dd + (x - y) * (x - y));
    }
    let norm = (xx * yy).sqrt();
    let both_zero = xx == 0.0 && yy == 0.0;
    Error {
        cosine: if both_zero {
            1.0
        } else if norm == 0.0 {
            0.0
        } else {
            xy / norm
        },
        relative_rms: if both_zero { 0.0 } else { (dd / xx).sqrt() },
    }
}

/// The report on one weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerError {
    /// The parameter.
    pub name: String,
    /// How it is stored.
    pub storage: String,
    /// Bits of a weight, scales included.
    pub bits_per_weight: f64,
    /// The difference to the values of the checkpoint.
    #[serde(flatten)]
    pub error: Error,
}

/// The schemes that `mixed` tries, from the narrowest on.
pub const MIXED: &[&str] = &["int4-128", "int4-32", "int4-32-min", "int8"];

/// Bits of a weight of `cols` columns stored by a scheme, scales included.
pub fn bits_per_weight(scheme: &Scheme, cols: usize) -> f64 {
    use lith_ir::quant::Scales;
    let (scale, sub) = match scheme.scales {
        Scales::F32 => (32, 0),
        Scales::F16 => (16, 0),
        Scales::Super { .. } => (16, 8),
    };
    let each = if scheme.mins { 2 } else { 1 };
    let row = scheme.scales_per_row(cols) * scale * each + scheme.groups(cols) * sub * each;
    f64::from(scheme.bits) + row as f64 / cols.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_those_of_the_formulas() {
        let error = compare(&[3.0, 4.0], &[3.0, 3.0]);
        assert!((error.relative_rms - 0.2).abs() < 1e-12);
        assert!((error.cosine - 21.0 / (5.0 * 18f64.sqrt())).abs() < 1e-12);
        assert_eq!(compare(&[0.0], &[0.0]), Error { cosine: 1.0, relative_rms: 0.0 });
        assert_eq!(compare(&[1.0], &[0.0]).cosine, 0.0);
    }

    #[test]
    fn widths_count_scales() {
        let scheme = |name| super::super::scheme(name).unwrap();
        assert_eq!(bits_per_weight(&scheme("int4-32"), 64), 4.5);
        assert_eq!(bits_per_weight(&scheme("int4-32-min"), 64), 5.0);
        assert_eq!(bits_per_weight(&scheme("int8"), 64), 8.5);
    }
}
