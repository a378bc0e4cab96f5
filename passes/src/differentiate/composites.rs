//! Backward rules of composites, in the type they compute in: `dy` is the gradient of the result `y`, `dx` that of an
//! operand `x`. Forward formulas are written as the decompositions have them, so that what both need is computed once.

use lith_ir::{Activation, Compare, Dim, Op, Pool, Unary};

use super::term::Term;
use super::{Ruled, Step};

pub(super) fn activation(step: &mut Step<'_, '_>, f: Activation) -> Ruled {
    use std::f64::consts::{FRAC_1_SQRT_2, PI};
    let (x, dy) = (step.x(0)?.wide(), step.dy.wide());
    let (zero, one) = (x.full(0.0), x.full(1.0));
    let slope = match f {
        // 1 above 0
        Activation::Relu => x.above(0.0).choose(one, zero),
        // (x Phi(x))' = Phi(x) + x phi(x)
        Activation::Gelu => {
            let density = (x * x * -0.5).exp() * (1.0 / (2.0 * PI).sqrt());
            ((x * FRAC_1_SQRT_2).unary(Unary::Erf) + 1.0) * 0.5 + x * density
        }
        // (x (1 + t) / 2)' = (1 + t) / 2 + x (1 - t^2) u' / 2 with t = tanh(u), u = c (x + 0.044715 x^3)
        Activation::GeluTanh => {
            let (c, square) = ((2.0 / PI).sqrt(), x * x);
            let t = (x * (square * 0.044715 + 1.0) * c).tanh();
            (t + 1.0) * 0.5 + x * (one - t * t) * (square * (3.0 * 0.044715) + 1.0) * (0.5 * c)
        }
        // (x s)' = s + 1.702 x s (1 - s) with s = sigmoid(1.702 x)
        Activation::QuickGelu => {
            let s = sigmoid(x * 1.702);
            s + x * s * (one - s) * 1.702
        }
        // s (1 - s)
        Activation::Sigmoid => {
            let s = sigmoid(x);
            s * (one - s)
        }
        // (x s)' = s (1 + x (1 - s))
        Activation::Silu => {
            let s = sigmoid(x);
            s * (x * (one - s) + 1.0)
        }
        // (x t)' = t + x (1 - t^2) sigmoid(x) with t = tanh(log(1 + e^x)), the logarithm as max(x, 0) + log(1 + e^-|x|)
        Activation::Mish => {
            let t = (x.max(0.0) + ((-x.abs()).exp() + 1.0).unary(Unary::Log)).tanh();
            t + x * (one - t * t) * sigmoid(x)
        }
        // (max(x, 0)^2)' = 2 max(x, 0)
        Activation::Relu2 => x.max(0.0) * 2.0,
        // 1 between 0 and 6
        Activation::Relu6 => x.above(0.0).choose((-x).above(-6.0).choose(one, zero), zero),
        // (x (x + 3) / 6)' = (2 x + 3) / 6 between -3 and 3; 1 beyond
        Activation::Hardswish => {
            let below = (-x).above(-3.0).choose((x * 2.0 + 3.0) * (1.0 / 6.0), one);
            x.above(-3.0).choose(below, zero)
        }
        // 1 above 0, else 0.01
        Activation::LeakyRelu => x.above(0.0).choose(one, x.full(0.01)),
    };
    step.give(0, dy * slope);
    Ok(())
}

/// `1 / (1 + e^-x)`
fn sigmoid<'s, 'g>(x: Term<'s, 'g>) -> Term<'s, 'g> {
    x.full(1.0) / ((-x).exp() + 1.0)
}

/// `dx = y (dy - sum(dy y))`
pub(super) fn softmax(step: &mut Step<'_, '_>) -> Ruled {
    let (y, dy) = (step.y.wide(), step.dy.wide());
    step.give(0, y * (dy - (dy * y).sum_last()));
    Ok(())
}

/// With `n = (x - mean) / deviation` and `g = dy weight`: `dx = (g - mean(g) - n mean(g n)) / deviation`; the weight's gradient
/// is the sum of `dy n`, that of the bias the sum of `dy`.
pub(super) fn layer_norm(step: &mut Step<'_, '_>, eps: f64) -> Ruled {
    let (x, dy) = (step.x(0)?.wide(), step.dy.wide());
    let centred = x - x.mean_last();
    let deviation = deviation(centred * centred, eps);
    let n = centred / deviation;
    if step.wants(0) {
        let g = step.optional(1).map_or(dy, |w| dy * w.wide().like(dy));
        step.give(0, (g - g.mean_last() - n * (g * n).mean_last()) / deviation);
    }
    if step.wants(1) {
        step.give(1, (dy * n).sum_rows());
    }
    if step.wants(2) {
        step.give(2, dy.sum_rows());
    }
    Ok(())
}

/// With `n = x / root` and `g = dy (weight + offset)`: `dx = (g - n mean(g n)) / root`; the weight's gradient is the sum of
/// `dy n`.
pub(super) fn rms_norm(step: &mut Step<'_, '_>, eps: f64, offset: f64) -> Ruled {
    let (x, dy) = (step.x(0)?.wide(), step.dy.wide());
    let root = deviation(x * x, eps);
    let n = x / root;
    if step.wants(0) {
        let weight = step.optional(1).map(|w| w.wide()).map(|w| if offset == 0.0 { w } else { w + offset });
        let g = weight.map_or(dy, |w| dy * w.like(dy));
        step.give(0, (g - n * (g * n).mean_last()) / root);
    }
    if step.wants(1) {
        step.give(1, (dy * n).sum_rows());
    }
    Ok(())
}

/// The root of the mean of squares, repeated along the row.
fn deviation<'s, 'g>(squares: Term<'s, 'g>, eps: f64) -> Term<'s, 'g> {
    squares.mean_of_last(|mean| (mean + eps).sqrt())
}

/// With `y = x / norm`: `dx = (dy - y sum(dy y)) / norm`; where the norm is `eps` instead, `dy / eps`.
pub(super) fn l2_norm(step: &mut Step<'_, '_>, eps: f64) -> Ruled {
    let (x, y, dy) = (step.x(0)?.wide(), step.y.wide(), step.dy.wide());
    let norm = (x * x).sum_last().sqrt();
    let along = norm.above(eps).choose(y * (dy * y).sum_last(), y.full(0.0));
    step.give(0, (dy - along) / norm.max(eps));
    Ok(())
}

/// With `Y = X W^T + b`: `dX = dY W`, `dW = dY^T X`, and the bias gets the sum of the rows of `dY`.
pub(super) fn linear(step: &mut Step<'_, '_>) -> Ruled {
    let (x, weight, dy) = (step.x(0)?, step.x(1)?, step.dy);
    let rows = |t: Term<'_, '_>| -> Vec<Dim> {
        let mut shape = t.shape();
        let last = shape.pop().unwrap_or(Dim::constant(1));
        vec![shape.into_iter().fold(Dim::constant(1), |a, d| a * d), last]
    };
    let flat = dy.reshape(&rows(dy));
    if step.wants(0) {
        step.give(0, flat.dot(weight, false).reshape(&x.shape()));
    }
    if step.wants(1) {
        step.give(1, flat.transposed().dot(x.reshape(&rows(x)), false));
    }
    if step.wants(2) {
        step.give(2, flat.sum_rows());
    }
    Ok(())
}

/// Every token gets what its sequence got: for a mean its share, for a maximum where it is the greatest; equal ones share.
pub(super) fn segment_pool(step: &mut Step<'_, '_>, f: Pool) -> Ruled {
    let (x, offsets, y, dy) = (step.x(0)?.wide(), step.x(1)?, step.y.wide(), step.dy.wide());
    let tokens = x.shape().first().cloned().ok_or("an axis is missing")?;
    let ids = offsets.op(Op::SegmentIds { tokens }, &[]);
    let dx = match f {
        Pool::Sum => dy.gather(ids, 0),
        Pool::Mean => {
            let ends = offsets.ty().elements();
            let starts = offsets.slice(0, Dim::default(), ends.clone() - Dim::constant(1));
            let count = (offsets.slice(0, Dim::constant(1), ends) - starts).max(1.0).cast(dy.ty().dtype);
            (dy / count.broadcast(&dy.shape(), &[0])).gather(ids, 0)
        }
        Pool::Max => {
            // The result may be rounded: the maximum is of the same elements.
            let hit = step.x(0)?.compare(Compare::Eq, step.y.gather(ids, 0));
            let count = hit.cast(y.ty().dtype).op(Op::SegmentPool { f: Pool::Sum }, &[offsets]);
            hit.choose((dy / count).gather(ids, 0), x.full(0.0))
        }
    };
    step.give(0, dx);
    Ok(())
}

/// [`Op::CrossEntropyGrad`]
pub(super) fn cross_entropy(step: &mut Step<'_, '_>, ignore: i64, smoothing: f64) -> Ruled {
    let (logits, labels) = (step.x(0)?, step.x(1)?);
    let dx = logits.op(Op::CrossEntropyGrad { ignore, smoothing }, &[labels, step.dy]);
    step.give(0, dx);
    Ok(())
}
