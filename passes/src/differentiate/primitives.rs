//! Backward rules of primitives: `dy` is the gradient of the result `y`, `dx` that of an operand `x`.

use lith_ir::{Binary, Compare, DType, Dim, Op, Reduction, Type, Unary};

use super::term::Term;
use super::{Ruled, Step};

pub(super) fn unary(step: &mut Step<'_, '_>, f: Unary) -> Ruled {
    let (x, y, dy) = (step.x(0)?, step.y, step.dy);
    let dx = match f {
        // (-x)' = -1
        Unary::Neg => -dy,
        // |x|' = sign x
        Unary::Abs => dy * x.unary(Unary::Sign),
        // (e^x)' = e^x
        Unary::Exp => dy * y,
        // (log x)' = 1 / x
        Unary::Log => dy / x,
        // (x^(1/2))' = 1 / (2 x^(1/2))
        Unary::Sqrt => dy * 0.5 / y,
        // (x^(-1/2))' = -x^(-1/2) / (2 x)
        Unary::Rsqrt => dy * y * -0.5 / x,
        // sin' = cos
        Unary::Sin => dy * x.unary(Unary::Cos),
        // cos' = -sin
        Unary::Cos => -(dy * x.unary(Unary::Sin)),
        // tanh' = 1 - tanh^2
        Unary::Tanh => dy - dy * y * y,
        // (erf x)' = 2 / sqrt(pi) e^(-x^2)
        Unary::Erf => dy * (-(x * x)).exp() * std::f64::consts::FRAC_2_SQRT_PI,
        // Steps: constant almost everywhere.
        Unary::Sign | Unary::Floor | Unary::Ceil | Unary::Round | Unary::Not => return Ok(()),
    };
    step.give(0, dx);
    Ok(())
}

pub(super) fn binary(step: &mut Step<'_, '_>, f: Binary) -> Ruled {
    let (a, b, y, dy) = (step.x(0)?, step.x(1)?, step.y, step.dy);
    let (first, second) = (step.wants(0), step.wants(1));
    // Only what is asked for is recorded.
    let da = |da: &dyn Fn() -> _| first.then(da);
    let db = |db: &dyn Fn() -> _| second.then(db);
    let (da, db) = match f {
        // (a + b)' = a' + b'
        Binary::Add => (da(&|| dy), db(&|| dy)),
        // (a - b)' = a' - b'
        Binary::Sub => (da(&|| dy), db(&|| -dy)),
        // (a b)' = a' b + a b'
        Binary::Mul => (da(&|| dy * b), db(&|| dy * a)),
        // (a / b)' = a' / b - (a / b) b' / b
        Binary::Div => (da(&|| dy / b), db(&|| -(dy * y / b))),
        // y = a - b q, q whole
        Binary::Rem => (da(&|| dy), db(&|| dy * (y - a) / b)),
        // (a^b)' = b a^(b - 1) a' + a^b log(a) b', the latter 0 at a = 0
        Binary::Pow => (
            da(&|| dy * b * a.binary(Binary::Pow, b - 1.0)),
            db(&|| dy * y * a.compare(Compare::Eq, a.full(0.0)).choose(a.full(1.0), a).unary(Unary::Log)),
        ),
        // To the one that is taken; equal ones share.
        Binary::Max => (da(&|| dy * share(a, b, Compare::Gt)), db(&|| dy * share(b, a, Compare::Gt))),
        Binary::Min => (da(&|| dy * share(a, b, Compare::Lt)), db(&|| dy * share(b, a, Compare::Lt))),
        Binary::And | Binary::Or | Binary::Xor | Binary::Shl | Binary::Shr => return Err("it is of integers"),
    };
    for (i, dx) in [da, db].into_iter().enumerate() {
        if let Some(dx) = dx {
            step.give(i, dx);
        }
    }
    Ok(())
}

/// 1 where `f(a, b)`, a half where they are equal, else 0.
fn share<'s, 'g>(a: Term<'s, 'g>, b: Term<'s, 'g>, f: Compare) -> Term<'s, 'g> {
    let tie = a.compare(Compare::Eq, b).choose(a.full(0.5), a.full(0.0));
    a.compare(f, b).choose(a.full(1.0), tie)
}

pub(super) fn select(step: &mut Step<'_, '_>) -> Ruled {
    let (cond, dy) = (step.x(0)?, step.dy);
    let zero = dy.full(0.0);
    step.give(1, cond.choose(dy, zero));
    step.give(2, cond.choose(zero, dy));
    Ok(())
}

pub(super) fn reshape(step: &mut Step<'_, '_>) -> Ruled {
    let dx = step.dy.reshape(&step.x(0)?.shape());
    step.give(0, dx);
    Ok(())
}

pub(super) fn transpose(step: &mut Step<'_, '_>, perm: &[usize]) -> Ruled {
    let mut inverse = vec![0; perm.len()];
    for (to, &from) in perm.iter().enumerate() {
        if let Some(place) = inverse.get_mut(from) {
            *place = to;
        }
    }
    let dx = step.dy.transpose(&inverse);
    step.give(0, dx);
    Ok(())
}

/// The sum over all that an element was repeated to.
pub(super) fn broadcast(step: &mut Step<'_, '_>, axes: &[usize]) -> Ruled {
    let (x, dy) = (step.x(0)?, step.dy);
    let (from, to) = (x.shape(), dy.shape());
    let stays = |axis: &usize| axes.iter().zip(&from).any(|(a, d)| a == axis && to.get(*axis) == Some(d));
    let repeated: Vec<usize> = (0..to.len()).filter(|axis| !stays(axis)).collect();
    let dx = dy.reduce(Reduction::Sum, &repeated, false).reshape(&from);
    step.give(0, dx);
    Ok(())
}

/// Zeros around, and `by - 1` zeros after each element that was taken.
pub(super) fn slice(step: &mut Step<'_, '_>, axis: usize, start: &Dim, stop: &Dim, by: usize) -> Ruled {
    let (x, mut dx) = (step.x(0)?, step.dy);
    let ty = x.ty();
    let size = ty.shape.get(axis).cloned().ok_or("an axis is missing")?;
    if by > 1 {
        let mut apart = dx.shape();
        let taken = apart.get(axis).cloned().ok_or("an axis is missing")?;
        apart.insert(axis + 1, Dim::constant(1));
        let zero = dx.full_of(&Type::scalar(ty.dtype), 0.0);
        dx = dx.reshape(&apart).op(Op::Pad { axis: axis + 1, before: 0, after: by - 1 }, &[zero]);
        let mut spread = ty.shape.clone();
        spread[axis] = taken * Dim::from(by);
        dx = dx.reshape(&spread).slice(axis, Dim::default(), stop.clone() - start.clone());
    }
    let around = |length: Dim| {
        let mut ty = ty.clone();
        ty.shape[axis] = length.clone();
        (length.as_const() != Some(0)).then(|| dx.full_of(&ty, 0.0))
    };
    let (before, after) = (around(start.clone()), around(size - stop.clone()));
    let parts: Vec<Term<'_, '_>> = before.into_iter().chain([dx]).chain(after).collect();
    if let [first, rest @ ..] = &parts[..] {
        let dx = if rest.is_empty() { *first } else { first.op(Op::Concat { axis }, rest) };
        step.give(0, dx);
    }
    Ok(())
}

pub(super) fn concat(step: &mut Step<'_, '_>, axis: usize) -> Ruled {
    let mut start = Dim::default();
    for i in 0..step.operands.len() {
        let size = step.x(i)?.shape().get(axis).cloned().ok_or("an axis is missing")?;
        let stop = start.clone() + size;
        if step.wants(i) {
            let dx = step.dy.slice(axis, start, stop.clone());
            step.give(i, dx);
        }
        start = stop;
    }
    Ok(())
}

pub(super) fn pad(step: &mut Step<'_, '_>, axis: usize, before: usize, after: usize) -> Ruled {
    let dy = step.dy;
    let size = dy.shape().get(axis).cloned().ok_or("an axis is missing")?;
    let (first, last) = (Dim::from(before), size.clone() - Dim::from(after));
    if step.wants(0) {
        step.give(0, dy.slice(axis, first.clone(), last.clone()));
    }
    if step.wants(1) {
        let all: Vec<usize> = (0..dy.shape().len()).collect();
        let sum = |start, stop| dy.slice(axis, start, stop).reduce(Reduction::Sum, &all, false);
        step.give(1, sum(Dim::default(), first) + sum(last, size));
    }
    Ok(())
}

/// What each slice was taken for, added up where it was taken.
pub(super) fn gather(step: &mut Step<'_, '_>, axis: usize) -> Ruled {
    let (x, indices, dy) = (step.x(0)?, step.x(1)?, step.dy);
    let ty = x.ty();
    let size = ty.shape.get(axis).cloned().ok_or("an axis is missing")?;
    let (taken, rank) = (indices.shape(), ty.rank());
    // Taking clamps indices to the axis.
    let indices = if indices.ty().dtype == DType::I32 { indices } else { indices.cast(DType::I64) };
    let indices = indices.max(0.0);
    let indices = indices.binary(Binary::Min, indices.full_size(&(size.clone() - Dim::constant(1))));
    let indices = indices.reshape(&[indices.ty().elements()]);
    // The axes of the indices to the front, where they become one.
    let (places, behind) = (axis..axis + taken.len(), axis + taken.len()..rank - 1 + taken.len());
    let perm: Vec<usize> = places.chain(0..axis).chain(behind).collect();
    let mut rest = ty.shape.clone();
    rest.remove(axis);
    let with = |first: Dim| -> Vec<Dim> { std::iter::once(first).chain(rest.iter().cloned()).collect() };
    let updates = dy.transpose(&perm).reshape(&with(indices.ty().elements()));
    let none = dy.full_of(&Type { dtype: ty.dtype, shape: with(size) }, 0.0);
    let dx = none.op(Op::ScatterAdd {}, &[indices, updates]);
    let back: Vec<usize> = (1..=axis).chain([0]).chain(axis + 1..rank).collect();
    step.give(0, dx.transpose(&back));
    Ok(())
}

/// With `Y = A B`: `dA = dY B^T`, `dB = A^T dY`.
pub(super) fn dot(step: &mut Step<'_, '_>, transpose_rhs: bool) -> Ruled {
    let (a, b, dy) = (step.x(0)?, step.x(1)?, step.dy);
    if step.wants(0) {
        step.give(0, dy.dot(b, !transpose_rhs));
    }
    if step.wants(1) {
        let db = if transpose_rhs { dy.transposed().dot(a, false) } else { a.transposed().dot(dy, false) };
        step.give(1, db);
    }
    Ok(())
}

pub(super) fn reduce(step: &mut Step<'_, '_>, f: Reduction, axes: &[usize], keep: bool) -> Ruled {
    let x = step.x(0)?;
    let shape = x.shape();
    let stay: Vec<usize> = (0..shape.len()).filter(|a| keep || !axes.contains(a)).collect();
    let spread = |t: Term<'_, '_>| t.broadcast(&shape, &stay).value();
    let spread = |t| step.sheet.term(spread(t));
    let (y, dy) = (step.y, step.dy);
    let zero = x.full(0.0);
    let dx = match f {
        Reduction::Sum => spread(dy),
        // To the elements that are the extreme; equal ones share.
        Reduction::Max | Reduction::Min => {
            let hit = x.compare(Compare::Eq, spread(y));
            let count = hit.cast(x.ty().dtype).reduce(Reduction::Sum, axes, keep);
            hit.choose(spread(dy / count), zero)
        }
        // The product of the others: y / x where no element is 0, that of the rest where one is, else 0.
        Reduction::Prod => {
            let none = x.compare(Compare::Eq, zero);
            let zeros = none.cast(x.ty().dtype).reduce(Reduction::Sum, axes, keep);
            let factors = none.choose(x.full(1.0), x);
            let rest = factors.reduce(Reduction::Prod, axes, keep);
            let alone = zeros.compare(Compare::Eq, zeros.full(1.0)).choose(rest, zeros.full(0.0));
            spread(dy) * none.choose(spread(alone), spread(y) / factors)
        }
    };
    step.give(0, dx);
    Ok(())
}

/// The running sum from the end.
pub(super) fn cumsum(step: &mut Step<'_, '_>, axis: usize) -> Ruled {
    let dy = step.dy;
    let size = dy.shape().get(axis).cloned().ok_or("an axis is missing")?;
    let count = dy.count(&size, DType::I64);
    let backwards = count.full_size(&(size - Dim::constant(1))) - count;
    let dx = dy.gather(backwards, axis).op(Op::CumSum { axis }, &[]).gather(backwards, axis);
    step.give(0, dx);
    Ok(())
}

/// `x` where nothing was put; an update where it was the last one put there.
pub(super) fn scatter(step: &mut Step<'_, '_>) -> Ruled {
    let (x, indices, updates, dy) = (step.x(0)?, step.x(1)?, step.x(2)?, step.dy);
    if step.wants(0) {
        step.give(0, dy.op(Op::Scatter {}, &[indices, updates.full(0.0)]));
    }
    if step.wants(2) {
        let (rows, puts) = (x.shape()[..1].to_vec(), updates.shape()[..1].to_vec());
        let number = updates.count(&puts[0], DType::I64);
        let nobody = updates.full_of(&Type { dtype: DType::I64, shape: rows.clone() }, -1.0);
        let last = nobody.op(Op::Scatter {}, &[indices, number]);
        let stayed = last.gather(indices, 0).compare(Compare::Eq, number);
        let stayed = stayed.binary(Binary::And, inside(indices, &rows[0]));
        let stayed = stayed.broadcast(&updates.shape(), &[0]);
        step.give(2, stayed.choose(dy.gather(indices, 0), updates.full(0.0)));
    }
    Ok(())
}

pub(super) fn scatter_add(step: &mut Step<'_, '_>) -> Ruled {
    let (x, indices, updates, dy) = (step.x(0)?, step.x(1)?, step.x(2)?, step.dy);
    step.give(0, dy);
    if step.wants(2) {
        let added = inside(indices, &x.shape()[0]).broadcast(&updates.shape(), &[0]);
        step.give(2, added.choose(dy.gather(indices, 0), updates.full(0.0)));
    }
    Ok(())
}

/// Whether indices are of rows that there are.
fn inside<'s, 'g>(indices: Term<'s, 'g>, rows: &Dim) -> Term<'s, 'g> {
    let indices = indices.cast(DType::I64);
    let below = indices.compare(Compare::Lt, indices.full_size(rows));
    indices.above(-1.0).binary(Binary::And, below)
}
