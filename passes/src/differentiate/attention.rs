//! Backward rules of attention and of what turns its operands.

use lith_ir::{Dim, Op};

use super::{Ruled, Step};

/// A turn by the negative angle.
pub(super) fn rope(step: &mut Step<'_, '_>, heads: usize, interleaved: bool) -> Ruled {
    let (cos, sin) = (step.x(1)?, step.x(2)?);
    let dx = step.dy.op(Op::Rope { heads, interleaved }, &[cos, -sin]);
    step.give(0, dx);
    Ok(())
}

/// Columns of `op`, an [`Op::PackedAttentionGrad`].
pub(super) fn packed(step: &mut Step<'_, '_>, op: Op) -> Ruled {
    let (q, k, v) = (step.x(0)?, step.x(1)?, step.x(2)?);
    let (bias, key) = (step.optional(4), step.optional(5));
    let all = q.op_with(op, &[Some(k), Some(v), Some(step.x(3)?), Some(step.dy), bias, key]);
    let mut start = Dim::default();
    for (i, x) in [q, k, v].into_iter().enumerate() {
        let width = x.shape().pop().ok_or("an axis is missing")?;
        let stop = start.clone() + width;
        if step.wants(i) {
            step.give(i, all.slice(1, start, stop.clone()));
        }
        start = stop;
    }
    Ok(())
}
