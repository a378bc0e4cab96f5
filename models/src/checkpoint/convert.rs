//! Conversions between stored floating-point types (WLD-15). Widening is exact, narrowing rounds to nearest even.

use half::{bf16, f16};
use lith_ir::DType;

/// Converts little-endian elements of a floating-point type to `f32`. `None` for other types.
pub fn to_f32(bytes: &[u8], dtype: DType) -> Option<Vec<f32>> {
    Some(match dtype {
        DType::F32 => each(bytes, f32::from_le_bytes),
        DType::F16 => each(bytes, |b| f16::from_le_bytes(b).to_f32()),
        DType::Bf16 => each(bytes, |b| bf16::from_le_bytes(b).to_f32()),
        DType::F64 => each(bytes, |b| f64::from_le_bytes(b) as f32),
        _ => return None,
    })
}

/// Converts little-endian elements to little-endian elements of another floating-point type. `None` when either is
/// none; the same type is a copy, whatever it is.
pub(crate) fn to_dtype(bytes: &[u8], from: DType, to: DType) -> Option<Vec<u8>> {
    if from == to {
        return Some(bytes.to_vec());
    }
    // Through f64, which holds every value of the others exactly.
    let wide: Vec<f64> = match from {
        DType::F64 => each(bytes, f64::from_le_bytes),
        _ => to_f32(bytes, from)?.into_iter().map(f64::from).collect(),
    };
    Some(match to {
        DType::F64 => wide.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::F32 => wide.iter().flat_map(|v| (*v as f32).to_le_bytes()).collect(),
        DType::F16 => wide.iter().flat_map(|v| f16::from_f32(round_to_odd(*v)).to_le_bytes()).collect(),
        DType::Bf16 => wide.iter().flat_map(|v| bf16::from_f32(round_to_odd(*v)).to_le_bytes()).collect(),
        _ => return None,
    })
}

/// Rounds to `f32` so that a second rounding, to 16 bits, gives what one rounding would: towards zero, with the last
/// bit set when anything was lost (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
fn round_to_odd(value: f64) -> f32 {
    let nearest = value as f32;
    if value.is_nan() || f64::from(nearest) == value {
        return nearest;
    }
    let away = f64::from(nearest).abs() > value.abs();
    f32::from_bits((nearest.to_bits() - u32::from(away)) | 1)
}

fn each<const N: usize, T>(bytes: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| read(*chunk)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// WLD-15: every 16-bit value widens exactly and comes back the same.
    #[test]
    fn sixteen_bits_round_trip() {
        let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for (dtype, is_nan) in [
            (DType::F16, (|bits| f16::from_bits(bits).is_nan()) as fn(u16) -> bool),
            (DType::Bf16, |bits| bf16::from_bits(bits).is_nan()),
        ] {
            for wide in [DType::F32, DType::F64] {
                let there = to_dtype(&all, dtype, wide).unwrap();
                let back = to_dtype(&there, wide, dtype).unwrap();
                for (a, b) in each(&all, u16::from_le_bytes).into_iter().zip(each(&back, u16::from_le_bytes)) {
                    assert!(a == b || is_nan(a) && is_nan(b), "{dtype} {a:04x} became {b:04x} through {wide}");
                }
            }
        }
    }

    /// WLD-15: f32 to bf16 rounds to nearest, ties to even; f64 rounds once.
    #[test]
    fn narrowing_rounds_to_nearest_even() {
        let bf = |v: f32| {
            bf16::from_le_bytes(to_dtype(&v.to_le_bytes(), DType::F32, DType::Bf16).unwrap()[..2].try_into().unwrap())
        };
        assert_eq!(bf(1.0 + 1.0 / 256.0).to_bits(), 0x3f80, "tie goes to the even 1.0");
        assert_eq!(bf(1.0 + 3.0 / 256.0).to_bits(), 0x3f82, "tie goes to the even neighbour above");
        assert_eq!(bf(1.0 + 1.1 / 256.0).to_bits(), 0x3f81);
        // Just above the tie in f64, exactly the tie once rounded to f32: rounding twice would give 0x3f80.
        let near = 1.0f64 + 1.0 / 256.0 + 2f64.powi(-40);
        let once = to_dtype(&near.to_le_bytes(), DType::F64, DType::Bf16).unwrap();
        assert_eq!(once, 0x3f81u16.to_le_bytes());
        assert_eq!(to_f32(&0.1f64.to_le_bytes(), DType::F64).unwrap(), [0.1f32]);
        assert_eq!(to_f32(&[0; 8], DType::I64), None);
    }
}
