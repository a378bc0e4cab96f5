//! Rewrites by equation, each exact to the last bit. A rule looks at one node and gives what equals its result.

use lith_ir::{Binary, Builder, DType, Dim, Graph, GraphError, Literal, NodeId, Op, Type, Unary, Value};

use crate::canonicalize::fold;

/// The value that a node's result may be replaced by; `None` when the rule does not apply.
type Rewritten = Result<Option<Value>, GraphError>;

/// A rule: name and function.
pub(super) type Rule = (&'static str, fn(&mut Graph, NodeId) -> Rewritten);

/// Every rule; the first that applies to a node is taken.
pub(super) const RULES: &[Rule] = &[
    // reshape(x, shape of x) = transpose(x, [0, 1, ..]) = cast(x, dtype of x) = concat(x) = .. = x
    ("nothing-done", |g, n| Ok(nothing_done(g, n))),
    // reshape(reshape(x, a), b) = reshape(x, b)
    ("reshape-reshape", |g, n| match (op(g, n), inner(g, n)) {
        (Op::Reshape { .. }, Some((Op::Reshape { .. }, x))) => again(g, n, &[Some(x)]),
        _ => Ok(None),
    }),
    // transpose(transpose(x, p), q) = transpose(x, p[q])
    ("transpose-transpose", |g, n| match (op(g, n), inner(g, n)) {
        (Op::Transpose { perm: q }, Some((Op::Transpose { perm: p }, x))) => {
            let perm: Vec<usize> = q.iter().filter_map(|&i| p.get(i).copied()).collect();
            make(g, n, Op::Transpose { perm }, x)
        }
        _ => Ok(None),
    }),
    // transpose(x, p) = reshape(x) where p keeps the order of all axes but those of size 1
    ("transpose-of-unit-axes", |g, n| match (op(g, n), g.operand(n, 0)) {
        (Op::Transpose { perm }, Some(x)) => {
            let from = &g.ty(x).shape;
            let real: Vec<usize> =
                perm.iter().copied().filter(|&i| from.get(i).is_some_and(|d| d.as_const() != Some(1))).collect();
            let shape = g.ty(n.into()).shape.clone();
            if real.is_sorted() { make(g, n, Op::Reshape { shape }, x) } else { Ok(None) }
        }
        _ => Ok(None),
    }),
    // broadcast(broadcast(x, a), b) = broadcast(x, b[a])
    ("broadcast-broadcast", |g, n| match (op(g, n), inner(g, n)) {
        (Op::Broadcast { shape, axes: b }, Some((Op::Broadcast { axes: a, .. }, x))) => {
            let axes = a.iter().filter_map(|&i| b.get(i).copied()).collect();
            let shape = shape.clone();
            make(g, n, Op::Broadcast { shape, axes }, x)
        }
        _ => Ok(None),
    }),
    // broadcast(reshape(x), b) = broadcast(x) where the reshape only adds axes of size 1
    ("broadcast-of-unit-axes", |g, n| match (op(g, n), inner(g, n)) {
        (Op::Broadcast { shape, axes }, Some((Op::Reshape { shape: unit }, x))) => {
            let real: Vec<usize> = (0..unit.len()).filter(|&i| unit[i].as_const() != Some(1)).collect();
            let kept: Vec<&Dim> = real.iter().map(|&i| &unit[i]).collect();
            if g.ty(x).shape.iter().ne(kept) {
                return Ok(None);
            }
            let axes = real.into_iter().filter_map(|i| axes.get(i).copied()).collect();
            let shape = shape.clone();
            make(g, n, Op::Broadcast { shape, axes }, x)
        }
        _ => Ok(None),
    }),
    // reshape(full(c)) = transpose(full(c)) = slice(full(c)) = full(c)
    ("move-full", |g, n| match (op(g, n), inner(g, n)) {
        (Op::Reshape { .. } | Op::Transpose { .. } | Op::Slice { .. }, Some((Op::Broadcast { axes, .. }, x)))
            if axes.is_empty() =>
        {
            let shape = g.ty(n.into()).shape.clone();
            make(g, n, Op::Broadcast { shape, axes: Vec::new() }, x)
        }
        _ => Ok(None),
    }),
    // f(broadcast(a), broadcast(b), ..) = broadcast(f(a, b, ..)) where all broadcasts are alike
    ("elementwise-of-broadcasts", elementwise_of_broadcasts),
    // cast(cast(x, d), e) = cast(x, e) where d holds every value of x, and e as well if it is an integer type: integers
    // wrap into it, floats saturate
    ("cast-cast", |g, n| match (op(g, n), inner(g, n)) {
        (&Op::Cast { dtype }, Some((&Op::Cast { dtype: between }, x))) => {
            let from = g.ty(x).dtype;
            let alike = !dtype.is_int() || between.is_float() == from.is_float() || holds(dtype, from);
            if holds(between, from) && alike { make(g, n, Op::Cast { dtype }, x) } else { Ok(None) }
        }
        _ => Ok(None),
    }),
    // --x = x; !!x = x
    ("involution", |g, n| match (op(g, n), inner(g, n)) {
        (Op::Unary { f: Unary::Neg }, Some((Op::Unary { f: Unary::Neg }, x)))
        | (Op::Unary { f: Unary::Not }, Some((Op::Unary { f: Unary::Not }, x))) => Ok(Some(x)),
        _ => Ok(None),
    }),
    // x + -0.0 = x; x - 0 = x; x * 1 = x; x / 1 = x; and the other way round where the order is free
    ("neutral-element", |g, n| Ok(neutral_element(g, n))),
    // x / c = x * (1 / c) where c is a power of two
    ("divide-by-power-of-two", divide_by_power_of_two),
    // select(c, a, a) = a; select(true, a, b) = a; select(false, a, b) = b
    ("select-known", |g, n| Ok(select_known(g, n))),
    // select(!c, a, b) = select(c, b, a)
    ("select-not", |g, n| match (op(g, n), inner(g, n)) {
        (Op::Select {}, Some((Op::Unary { f: Unary::Not }, c))) => {
            again(g, n, &[Some(c), g.operand(n, 2), g.operand(n, 1)])
        }
        _ => Ok(None),
    }),
    // size(4) = 4
    ("size-known", |g, n| match op(g, n) {
        Op::Size { dim } => match dim.as_const() {
            Some(v) => again_as(g, n, Op::Const { value: Literal::int(DType::I64, v) }, &[]),
            None => Ok(None),
        },
        _ => Ok(None),
    }),
    // f(constants) = constant, by the reference interpreter
    ("fold", fold::fold),
];

fn op(g: &Graph, n: NodeId) -> &Op {
    &g.node(n).op
}

/// The op that makes operand 0, and its own operand 0.
fn inner(g: &Graph, n: NodeId) -> Option<(&Op, Value)> {
    let y = g.operand(n, 0)?;
    Some((op(g, y.node), g.operand(y.node, 0)?))
}

/// The node's op on other operands.
fn again(g: &mut Graph, n: NodeId, operands: &[Option<Value>]) -> Rewritten {
    again_as(g, n, op(g, n).clone(), operands)
}

fn again_as(g: &mut Graph, n: NodeId, op: Op, operands: &[Option<Value>]) -> Rewritten {
    let path = g.node(n).path.clone();
    g.add_with(op, operands, &path).map(|id| Some(id.into()))
}

fn make(g: &mut Graph, n: NodeId, op: Op, x: Value) -> Rewritten {
    again_as(g, n, op, &[Some(x)])
}

/// The scalar constant that every element of `v` is.
pub(super) fn full(g: &Graph, v: Value) -> Option<Literal> {
    match &g.node(v.node).op {
        Op::Const { value } if value.shape().is_empty() => Some(value.clone()),
        Op::Broadcast { axes, .. } if axes.is_empty() => full(g, g.operand(v.node, 0)?),
        _ => None,
    }
}

fn nothing_done(g: &Graph, n: NodeId) -> Option<Value> {
    let x = g.operand(n, 0)?;
    let same = || g.ty(x) == g.ty(n.into());
    let nothing = match op(g, n) {
        Op::Reshape { .. } | Op::Cast { .. } | Op::Broadcast { .. } => same(),
        Op::Transpose { perm } => perm.is_sorted(),
        Op::Slice { start, step, .. } => *step == 1 && start.as_const() == Some(0) && same(),
        Op::Pad { before, after, .. } => *before == 0 && *after == 0,
        Op::Concat { .. } => g.inputs(n).len() == 1,
        Op::Reduce { axes, .. } => axes.is_empty(),
        _ => false,
    };
    nothing.then_some(x)
}

fn elementwise_of_broadcasts(g: &mut Graph, n: NodeId) -> Rewritten {
    if !matches!(op(g, n), Op::Unary { .. } | Op::Binary { .. } | Op::Compare { .. } | Op::Select {} | Op::Cast { .. })
    {
        return Ok(None);
    }
    let mut sources = Vec::new();
    let mut alike: Option<(Vec<usize>, Vec<Dim>)> = None;
    for v in g.inputs(n) {
        let (Op::Broadcast { axes, .. }, Some(x)) = (op(g, v.node), g.operand(v.node, 0)) else { return Ok(None) };
        let this = (axes.clone(), g.ty(x).shape.clone());
        if alike.as_ref().is_some_and(|a| *a != this) {
            return Ok(None);
        }
        alike = Some(this);
        sources.push(Some(x));
    }
    let Some((axes, _)) = alike else { return Ok(None) };
    let Some(small) = again(g, n, &sources)? else { return Ok(None) };
    let shape = g.ty(n.into()).shape.clone();
    make(g, n, Op::Broadcast { shape, axes }, small)
}

/// Whether every value of `from` is a value of `to`.
pub(crate) fn holds(to: DType, from: DType) -> bool {
    // Bits of a float's fraction and of its exponent.
    let float = |d: DType| match d {
        DType::F64 => Some((52, 11)),
        DType::F32 => Some((23, 8)),
        DType::F16 => Some((10, 5)),
        DType::Bf16 => Some((7, 8)),
        _ => None,
    };
    match (float(to), float(from), to.int_range(), from.int_range()) {
        (Some(to), Some(from), ..) => to.0 >= from.0 && to.1 >= from.1,
        (Some((fraction, _)), None, _, Some((min, max))) => {
            let most = 1i64 << (fraction + 1);
            -most <= min && max <= most
        }
        (None, None, Some(to), Some(from)) => to.0 <= from.0 && from.1 <= to.1,
        _ => false,
    }
}

fn select_known(g: &Graph, n: NodeId) -> Option<Value> {
    let (Op::Select {}, &[Some(c), Some(a), Some(b)]) = (op(g, n), &g.operands(n)[..]) else { return None };
    match a == b {
        true => Some(a),
        false => full(g, c).map(|v| if v.bytes() == [0] { b } else { a }),
    }
}

fn neutral_element(g: &Graph, n: NodeId) -> Option<Value> {
    let &Op::Binary { f } = op(g, n) else { return None };
    let (a, b) = (g.operand(n, 0)?, g.operand(n, 1)?);
    let dtype = g.ty(a).dtype;
    let neutral = match f {
        // Adding 0.0 would make -0.0 positive.
        Binary::Add if dtype.is_float() => Literal::float(dtype, -0.0),
        Binary::Add | Binary::Sub | Binary::Or | Binary::Xor | Binary::Shl | Binary::Shr => Literal::scalar(dtype, 0.0),
        Binary::Mul | Binary::Div => Literal::scalar(dtype, 1.0),
        Binary::And => Literal::int(dtype, if dtype == DType::Bool { 1 } else { -1 }),
        Binary::Rem | Binary::Pow | Binary::Max | Binary::Min => return None,
    };
    let ordered = matches!(f, Binary::Sub | Binary::Div | Binary::Shl | Binary::Shr);
    match (full(g, a), full(g, b)) {
        (_, Some(v)) if v == neutral => Some(a),
        (Some(v), _) if v == neutral && !ordered => Some(b),
        _ => None,
    }
}

/// Both round the same real number to nearest, so they are equal as long as `1 / c` is a normal number.
fn divide_by_power_of_two(g: &mut Graph, n: NodeId) -> Rewritten {
    let (Op::Binary { f: Binary::Div }, Some(x), Some(c)) = (op(g, n), g.operand(n, 0), g.operand(n, 1)) else {
        return Ok(None);
    };
    let ty: Type = g.ty(x).clone();
    let reciprocal = match (ty.dtype, full(g, c)) {
        (DType::F32, Some(v)) => v.bytes().try_into().ok().map(|b| 1.0 / f64::from(f32::from_le_bytes(b))),
        (DType::F64, Some(v)) => v.bytes().try_into().ok().map(|b| 1.0 / f64::from_le_bytes(b)),
        _ => None,
    };
    // A power of two has no bit set in its fraction; far from the ends of the range of `f32`.
    let power = |r: f64| r.to_bits() << 12 == 0 && (1e-30..1e30).contains(&r.abs());
    let Some(reciprocal) = reciprocal.filter(|&r| power(r) && r != 1.0) else { return Ok(None) };
    let path = g.node(n).path.clone();
    let mut b = Builder::new(g, &path);
    let factor = b.full(&ty, reciprocal)?;
    b.mul(x, factor).map(Some)
}
