//! The norm of all gradients together, and what to multiply them by.

use std::collections::BTreeMap;

use lith_ir::build::Built;
use lith_ir::{Binary, Builder, Compare, DType, GraphError, Reduction, Unary, Value};

/// Added to the norm before it divides, as `torch.nn.utils.clip_grad_norm_` does.
const NORM_EPS: f64 = 1e-6;

/// From gradients of a sum over `items`: the `f32` factor that makes them gradients of the mean with at most the norm
/// `most` (`f64`; any where it is 0), and the norm of those of the mean before that, `f32`. Without items both are 0.
pub(super) fn factor(
    b: &mut Builder<'_>,
    items: Value,
    most: Value,
    gradients: &BTreeMap<String, Value>,
) -> Result<(Value, Value), GraphError> {
    let mut total = b.scalar(DType::F32, 0.0)?;
    for &gradient in gradients.values() {
        let squares = sum_of_squares(b, gradient)?;
        total = b.add(total, squares)?;
    }
    let norm = b.unary(Unary::Sqrt, total)?;
    let one = b.scalar(DType::F32, 1.0)?;
    let zero = b.scalar(DType::F32, 0.0)?;
    let mean = b.div(one, items)?;
    let some = b.compare_const(Compare::Gt, items, 0.0)?;
    let mean = b.select(some, mean, zero)?;
    let norm = b.mul(norm, mean)?;
    let most = b.cast(most, DType::F32)?;
    let above = b.add_const(norm, NORM_EPS)?;
    let clipped = b.div(most, above)?;
    let clipped = b.binary(Binary::Min, clipped, one)?;
    let limited = b.compare_const(Compare::Gt, most, 0.0)?;
    let clipped = b.select(limited, clipped, one)?;
    Ok((b.mul(mean, clipped)?, norm))
}

/// The sum of squares, axis by axis from the last: sums of sums are more exact than one long sum.
fn sum_of_squares(b: &mut Builder<'_>, x: Value) -> Built {
    let mut sum = b.mul(x, x)?;
    for axis in (0..b.ty(x).rank()).rev() {
        sum = b.reduce(Reduction::Sum, sum, &[axis], false)?;
    }
    Ok(sum)
}
