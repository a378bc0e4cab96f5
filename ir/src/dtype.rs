//! Element types of tensors.

use std::fmt;
use std::str::FromStr;

/// The element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE 754 binary64.
    F64,
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
    /// Two's complement, 64 bits.
    I64,
    /// Two's complement, 32 bits.
    I32,
    /// Two's complement, 16 bits.
    I16,
    /// Two's complement, 8 bits.
    I8,
    /// Unsigned, 32 bits.
    U32,
    /// Unsigned, 8 bits.
    U8,
    /// One byte, 0 or 1.
    Bool,
}

impl DType {
    /// Every element type, for tests and tables.
    pub const ALL: [DType; 11] = [
        DType::F64,
        DType::F32,
        DType::F16,
        DType::Bf16,
        DType::I64,
        DType::I32,
        DType::I16,
        DType::I8,
        DType::U32,
        DType::U8,
        DType::Bool,
    ];

    /// Size of one element in bytes.
    pub const fn size(self) -> usize {
        match self {
            DType::F64 | DType::I64 => 8,
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::F16 | DType::Bf16 | DType::I16 => 2,
            DType::I8 | DType::U8 | DType::Bool => 1,
        }
    }

    /// Whether this is a floating-point type.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F64 | DType::F32 | DType::F16 | DType::Bf16)
    }

    /// Whether this is an integer type (`bool` is not one).
    pub const fn is_int(self) -> bool {
        !self.is_float() && !matches!(self, DType::Bool)
    }

    /// The inclusive range of an integer type (`bool`: 0 to 1); `None` for floats.
    pub const fn int_range(self) -> Option<(i64, i64)> {
        match self {
            DType::I64 => Some((i64::MIN, i64::MAX)),
            DType::I32 => Some((i32::MIN as i64, i32::MAX as i64)),
            DType::I16 => Some((i16::MIN as i64, i16::MAX as i64)),
            DType::I8 => Some((i8::MIN as i64, i8::MAX as i64)),
            DType::U32 => Some((0, u32::MAX as i64)),
            DType::U8 => Some((0, u8::MAX as i64)),
            DType::Bool => Some((0, 1)),
            DType::F64 | DType::F32 | DType::F16 | DType::Bf16 => None,
        }
    }

    /// `value` rounded once, to nearest with ties to even, to a floating-point type; beyond its range infinity. Integer
    /// types and `bool` leave it alone.
    pub fn round(self, value: f64) -> f64 {
        match self {
            DType::F64 => value,
            DType::F32 => value as f32 as f64,
            DType::F16 => round_to(value, 10, -14, 65504.0),
            DType::Bf16 => round_to(value, 7, -126, f32::from_bits(0x7f7f_0000) as f64),
            _ => value,
        }
    }

    /// `value` modulo the range of an integer type, as two's complement; `bool` keeps the lowest bit. Floating-point
    /// types leave it alone.
    pub const fn wrap(self, value: i64) -> i64 {
        match self {
            DType::I32 => value as i32 as i64,
            DType::I16 => value as i16 as i64,
            DType::I8 => value as i8 as i64,
            DType::U32 => value as u32 as i64,
            DType::U8 => value as u8 as i64,
            DType::Bool => value & 1,
            DType::I64 | DType::F64 | DType::F32 | DType::F16 | DType::Bf16 => value,
        }
    }

    /// The name used in the text form and in messages.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F64 => "f64",
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
            DType::I64 => "i64",
            DType::I32 => "i32",
            DType::I16 => "i16",
            DType::I8 => "i8",
            DType::U32 => "u32",
            DType::U8 => "u8",
            DType::Bool => "bool",
        }
    }
}

/// Nearest value of a binary format with `mantissa` stored bits and least normal exponent `min_exponent`.
fn round_to(value: f64, mantissa: i32, min_exponent: i32, max: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let exponent = ((value.to_bits() >> 52) & 0x7ff) as i32 - 1023;
    let unit = exponent.max(min_exponent) - mantissa;
    // Powers of two: both scalings are exact.
    let power = |e: i32| f64::from_bits(((e + 1023) as u64) << 52);
    let rounded = (value * power(-unit)).round_ties_even() * power(unit);
    if rounded.abs() > max { f64::INFINITY.copysign(value) } else { rounded }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no [`DType`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown dtype `{0}`; known: f64, f32, f16, bf16, i64, i32, i16, i8, u32, u8, bool")]
pub struct UnknownDType(pub String);

impl FromStr for DType {
    type Err = UnknownDType;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        DType::ALL.into_iter().find(|d| d.name() == s).ok_or_else(|| UnknownDType(s.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_agrees_with_the_formats_themselves() {
        for bits in 0..=u16::MAX {
            for (dtype, value) in
                [(DType::F16, half::f16::from_bits(bits).to_f64()), (DType::Bf16, half::bf16::from_bits(bits).to_f64())]
            {
                assert!(dtype.round(value) == value || value.is_nan(), "{dtype} {value}");
            }
        }
    }

    #[test]
    fn rounding_is_to_nearest_even_in_one_step() {
        let ulp = 2f64.powi(-10);
        assert_eq!(DType::F16.round(1.0 + ulp / 2.0), 1.0);
        assert_eq!(DType::F16.round(1.0 + ulp * 1.5), 1.0 + 2.0 * ulp);
        // A hair above the tie, lost when the way leads through `f32`.
        assert_eq!(DType::F16.round(1.0 + ulp / 2.0 + 2f64.powi(-40)), 1.0 + ulp);
        assert_eq!(DType::F16.round(65519.9), 65504.0);
        assert_eq!(DType::F16.round(-65520.0), f64::NEG_INFINITY);
        assert_eq!(DType::F16.round(2f64.powi(-25)), 0.0);
        assert_eq!(DType::F16.round(2f64.powi(-25) * 1.5), 2f64.powi(-24));
        assert_eq!(DType::Bf16.round(3.3962e38), f64::INFINITY);
        assert_eq!(DType::Bf16.round(2f64.powi(-133) * 0.75), 2f64.powi(-133));
        assert_eq!(DType::Bf16.round(f64::MIN_POSITIVE / 4.0), 0.0);
    }

    #[test]
    fn wrapping() {
        assert_eq!(DType::I8.wrap(200), -56);
        assert_eq!(DType::U32.wrap(-1), u32::MAX as i64);
        assert_eq!(DType::Bool.wrap(3), 1);
    }
}
