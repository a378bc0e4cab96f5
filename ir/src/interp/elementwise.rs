//! Elementwise primitives on single elements. Floats are computed in `f64` by one portable math library, so that results
//! do not depend on the machine.

use super::tensor::Data;
use crate::dtype::DType;
use crate::op::{Binary, Compare, Unary};

/// `f` of every element, floats not yet rounded.
pub(super) fn unary(f: Unary, dtype: DType, x: &Data) -> Data {
    match x {
        Data::Float(x) => x.iter().map(|&v| unary_float(f, v)).collect::<Vec<_>>().into(),
        Data::Int(x) => x.iter().map(|&v| dtype.wrap(unary_int(f, dtype, v))).collect::<Vec<_>>().into(),
    }
}

fn unary_float(f: Unary, x: f64) -> f64 {
    match f {
        Unary::Neg => -x,
        Unary::Abs => x.abs(),
        Unary::Sign if x == 0.0 || x.is_nan() => x,
        Unary::Sign => 1f64.copysign(x),
        Unary::Exp => libm::exp(x),
        Unary::Log => libm::log(x),
        Unary::Sqrt => x.sqrt(),
        Unary::Rsqrt => 1.0 / x.sqrt(),
        Unary::Sin => libm::sin(x),
        Unary::Cos => libm::cos(x),
        Unary::Tanh => libm::tanh(x),
        Unary::Erf => libm::erf(x),
        Unary::Floor => x.floor(),
        Unary::Ceil => x.ceil(),
        Unary::Round => x.round_ties_even(),
        // The type rule keeps these from floats.
        Unary::Not => f64::NAN,
    }
}

fn unary_int(f: Unary, dtype: DType, x: i64) -> i64 {
    match f {
        Unary::Neg => x.wrapping_neg(),
        Unary::Abs => x.wrapping_abs(),
        Unary::Sign => x.signum(),
        Unary::Not if dtype == DType::Bool => 1 - x,
        Unary::Not => !x,
        // The type rule keeps these from integers.
        Unary::Exp
        | Unary::Log
        | Unary::Sqrt
        | Unary::Rsqrt
        | Unary::Sin
        | Unary::Cos
        | Unary::Tanh
        | Unary::Erf
        | Unary::Floor
        | Unary::Ceil
        | Unary::Round => 0,
    }
}

/// `f` of every pair of elements, floats not yet rounded; `None` when one side is of floats and the other is not.
pub(super) fn binary(f: Binary, dtype: DType, a: &Data, b: &Data) -> Option<Data> {
    Some(match (a, b) {
        (Data::Float(a), Data::Float(b)) => {
            a.iter().zip(b.iter()).map(|(&a, &b)| binary_float(f, a, b)).collect::<Vec<_>>().into()
        }
        (Data::Int(a), Data::Int(b)) => {
            a.iter().zip(b.iter()).map(|(&a, &b)| dtype.wrap(binary_int(f, dtype, a, b))).collect::<Vec<_>>().into()
        }
        _ => return None,
    })
}

pub(super) fn max(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

pub(super) fn min(a: f64, b: f64) -> f64 {
    if a.is_nan() || a < b { a } else { b }
}

fn binary_float(f: Binary, a: f64, b: f64) -> f64 {
    match f {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::Rem => a % b,
        Binary::Pow => libm::pow(a, b),
        Binary::Max => max(a, b),
        Binary::Min => min(a, b),
        // The type rule keeps these from floats.
        Binary::And | Binary::Or | Binary::Xor | Binary::Shl | Binary::Shr => f64::NAN,
    }
}

fn binary_int(f: Binary, dtype: DType, a: i64, b: i64) -> i64 {
    let places = || b as u32 % (8 * dtype.size() as u32);
    match f {
        Binary::Add => a.wrapping_add(b),
        Binary::Sub => a.wrapping_sub(b),
        Binary::Mul => a.wrapping_mul(b),
        Binary::Div | Binary::Rem if b == 0 => 0,
        Binary::Div => a.wrapping_div(b),
        Binary::Rem => a.wrapping_rem(b),
        Binary::Max => a.max(b),
        Binary::Min => a.min(b),
        Binary::And => a & b,
        Binary::Or => a | b,
        Binary::Xor => a ^ b,
        Binary::Shl => a << places(),
        Binary::Shr => a >> places(),
        // The type rule keeps this from integers.
        Binary::Pow => 0,
    }
}

/// `f` of every pair of elements as 0 and 1; `None` when one side is of floats and the other is not.
pub(super) fn compare(f: Compare, a: &Data, b: &Data) -> Option<Data> {
    fn holds<T: PartialOrd>(f: Compare, a: &[T], b: &[T]) -> Data {
        let test = |(a, b): (&T, &T)| {
            i64::from(match f {
                Compare::Eq => a == b,
                Compare::Ne => a != b,
                Compare::Lt => a < b,
                Compare::Le => a <= b,
                Compare::Gt => a > b,
                Compare::Ge => a >= b,
            })
        };
        a.iter().zip(b).map(test).collect::<Vec<_>>().into()
    }
    match (a, b) {
        (Data::Float(a), Data::Float(b)) => Some(holds(f, a, b)),
        (Data::Int(a), Data::Int(b)) => Some(holds(f, a, b)),
        _ => None,
    }
}

/// `cond ? a : b`; `None` when kinds do not fit.
pub(super) fn select(cond: &Data, a: &Data, b: &Data) -> Option<Data> {
    fn pick<T: Copy>(cond: &[i64], a: &[T], b: &[T]) -> Vec<T> {
        cond.iter().zip(a.iter().zip(b)).map(|(&c, (&a, &b))| if c != 0 { a } else { b }).collect()
    }
    match (cond, a, b) {
        (Data::Int(c), Data::Float(a), Data::Float(b)) => Some(pick(c, a, b).into()),
        (Data::Int(c), Data::Int(a), Data::Int(b)) => Some(pick(c, a, b).into()),
        _ => None,
    }
}

/// Conversion to `dtype`, floats not yet rounded. Floats that need no other form share their elements.
pub(super) fn cast(x: &Data, dtype: DType) -> Data {
    match x {
        Data::Float(v) if dtype == DType::Bool => v.iter().map(|&v| i64::from(v != 0.0)).collect::<Vec<_>>().into(),
        Data::Int(v) if dtype == DType::Bool => v.iter().map(|&v| i64::from(v != 0)).collect::<Vec<_>>().into(),
        Data::Float(v) => match dtype.int_range() {
            // `as` truncates, saturates and makes 0 of NaN.
            Some((lo, hi)) => v.iter().map(|&v| (v as i64).clamp(lo, hi)).collect::<Vec<_>>().into(),
            None => x.clone(),
        },
        Data::Int(v) => match dtype {
            // In one step: by way of `f64` a large integer would be rounded twice.
            DType::F32 => v.iter().map(|&v| v as f32 as f64).collect::<Vec<_>>().into(),
            _ if dtype.is_float() => v.iter().map(|&v| v as f64).collect::<Vec<_>>().into(),
            _ => v.iter().map(|&v| dtype.wrap(v)).collect::<Vec<_>>().into(),
        },
    }
}
