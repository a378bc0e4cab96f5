//! The functions and premises that rules name: from attributes and facts of operands to an attribute. A premise holds when
//! it has a value other than `false`. A function without a value keeps its rule from applying.

use lith_ir::{DType, Dim, Literal, Type};

use super::analysis::{Facet, Splat};
use super::language::Attr;

/// An argument of a function.
#[derive(Clone, Debug)]
pub enum Arg<'a> {
    /// An attribute.
    Attr(Attr),
    /// A tensor.
    Tensor(&'a Facet),
    /// An absent operand, or what no rule speaks of.
    Absent,
}

/// A function of rules.
pub type Function = fn(&[Arg<'_>]) -> Option<Attr>;

/// The function of this name.
pub fn find(name: &str) -> Option<Function> {
    FUNCTIONS.iter().find(|(n, _)| *n == name).map(|(_, f)| *f)
}

fn tensor<'a>(args: &[Arg<'a>], i: usize) -> Option<&'a Facet> {
    match args.get(i)? {
        Arg::Tensor(t) => Some(t),
        _ => None,
    }
}

fn ty<'a>(args: &[Arg<'a>], i: usize) -> Option<&'a Type> {
    tensor(args, i).map(|t| &t.ty)
}

/// A number: an attribute, or what a tensor is full of.
fn number(args: &[Arg<'_>], i: usize) -> Option<f64> {
    match args.get(i)? {
        Arg::Attr(attr) => attr.get(),
        Arg::Tensor(t) => match t.splat.as_ref()? {
            Splat::Number(v) => Some(*v),
            Splat::Size(_) => None,
        },
        Arg::Absent => None,
    }
}

fn dims(args: &[Arg<'_>], i: usize) -> Option<Vec<Dim>> {
    match args.get(i)? {
        Arg::Attr(attr) => attr.get(),
        Arg::Tensor(t) => Some(t.ty.shape.clone()),
        Arg::Absent => None,
    }
}

fn axes(args: &[Arg<'_>], i: usize) -> Option<Vec<usize>> {
    match args.get(i)? {
        Arg::Attr(attr) => attr.get(),
        _ => None,
    }
}

fn axis(args: &[Arg<'_>], i: usize) -> Option<usize> {
    match args.get(i)? {
        Arg::Attr(attr) => attr.get(),
        _ => None,
    }
}

fn dim(args: &[Arg<'_>], i: usize) -> Option<Dim> {
    match args.get(i)? {
        Arg::Attr(attr) => attr.get(),
        _ => None,
    }
}

fn dtype(args: &[Arg<'_>], i: usize) -> Option<DType> {
    match args.get(i)? {
        Arg::Attr(attr) => attr.get(),
        _ => None,
    }
}

fn float(v: f64) -> Option<Attr> {
    (!v.is_nan()).then(|| Attr::of(&v))
}

/// The shortest decimal that a `f32` is the rounding of: `1e-5` rather than what is stored for it.
fn shortest(dtype: DType, v: f64) -> f64 {
    if dtype == DType::F32 { (v as f32).to_string().parse().unwrap_or(v) } else { v }
}

fn holds(premise: bool) -> Option<Attr> {
    premise.then(|| Attr::of(&true))
}

fn list(items: impl IntoIterator<Item = usize>) -> Option<Attr> {
    Some(Attr::of(&items.into_iter().collect::<Vec<usize>>()))
}

fn shape(items: Vec<Dim>) -> Option<Attr> {
    Some(Attr::of(&items))
}

/// Swaps the last two entries.
fn swap_last(mut perm: Vec<usize>) -> Option<Vec<usize>> {
    let n = perm.len();
    (n >= 2).then(|| {
        perm.swap(n - 2, n - 1);
        perm
    })
}

/// Where the value of a float or integer scalar of a type rounds to.
fn rounded(dtype: DType, v: f64) -> f64 {
    if dtype.is_float() { dtype.round(v) } else { v }
}

/// The table: name, and what it is of its arguments.
const FUNCTIONS: &[(&str, Function)] = &[
    // Premises on values.
    ("splat", |a| holds(matches!(tensor(a, 0)?.splat, Some(Splat::Number(v)) if v.is_finite()))),
    ("varies", |a| holds(tensor(a, 0)?.splat.is_none())),
    ("splat_or_never", |a| holds(number(a, 0)? < f64::INFINITY)),
    ("nonzero", |a| holds(number(a, 0)? != 0.0)),
    ("positive", |a| holds(number(a, 0)? > 0.0)),
    ("equal", |a| holds(number(a, 0)? == number(a, 1)?)),
    // So low that `exp` of it is 0 beside anything.
    ("never", |a| holds(number(a, 0)? <= -1e9)),
    ("float", |a| holds(ty(a, 0)?.dtype.is_float())),
    ("integer", |a| holds(ty(a, 0)?.dtype.is_int())),
    ("boolean", |a| holds(ty(a, 0)?.dtype == DType::Bool)),
    // Floats that composites compute in.
    ("wide", |a| holds(matches!(ty(a, 0)?.dtype, DType::F32 | DType::F64))),
    ("param", |a| holds(tensor(a, 0)?.param())),
    // A weight that may be computed with when weights are packed.
    ("plain", |a| holds(tensor(a, 0)?.known.weight().is_some_and(|w| w.stored == 0 && !w.shared))),
    // Weights that can be stored one after the other.
    ("alike", |a| {
        let weights = (0..a.len()).map(|i| tensor(a, i)?.known.weight().filter(|w| !w.shared));
        let weights: Vec<_> = weights.collect::<Option<_>>()?;
        holds(weights.windows(2).all(|w| w[0].stored == w[1].stored))
    }),
    // Premises on types and attributes.
    ("same", |a| {
        holds(match (a.first()?, a.get(1)?) {
            (Arg::Attr(x), Arg::Attr(y)) => x == y,
            (Arg::Tensor(x), Arg::Tensor(y)) => x.ty == y.ty,
            _ => false,
        })
    }),
    ("rank", |a| holds(ty(a, 0)?.rank() == axis(a, 1)?)),
    // No axis can be of size 0.
    ("no_empty", |a| holds(ty(a, 0)?.shape.iter().all(|d| d.as_const().is_some_and(|n| n > 0)))),
    ("one_a_row", |a| holds(ty(a, 0)?.shape.last()?.as_const() == Some(1))),
    ("nonempty_rows", |a| holds(ty(a, 0)?.shape.first()?.as_const().is_none_or(|n| n > 0))),
    ("rank_above", |a| holds(ty(a, 0)?.rank() > axis(a, 1)?)),
    ("below_last", |a| holds(axis(a, 0)? + 1 < ty(a, 1)?.rank())),
    // The axes are the last one of `x` alone.
    ("last", |a| holds(axes(a, 0)? == [ty(a, 1)?.rank().checked_sub(1)?])),
    // A row of one axis repeated over all but the last axis of a shape.
    ("row", |a| holds(axes(a, 0)? == [dims(a, 1)?.len().checked_sub(1)?])),
    // Axes in their own place, as after a reduction that keeps them.
    ("in_place", |a| holds(axes(a, 0)?.into_iter().eq(0..dims(a, 1)?.len()))),
    // Numbers.
    ("value", |a| float(ty(a, 0).map_or(number(a, 0)?, |t| shortest(t.dtype, number(a, 0).unwrap_or(0.0))))),
    ("neg", |a| float(-number(a, 0)?)),
    ("recip", |a| float(1.0 / number(a, 0)?)),
    ("times", |a| float(number(a, 0)? * number(a, 1)?)),
    ("plus", |a| float(number(a, 0)? + number(a, 1)?)),
    ("over", |a| float(number(a, 0)? / number(a, 1)?)),
    // The size of the last axis, if `n` is a number full of it.
    ("count", |a| {
        let (n, last) = (tensor(a, 0)?, ty(a, 1)?.shape.last()?);
        holds(match n.splat.as_ref()? {
            Splat::Number(v) => last.as_const().is_some_and(|d| rounded(n.ty.dtype, d as f64) == *v),
            Splat::Size(d) => d == last,
        })
    }),
    ("reciprocal_count", |a| {
        let (c, last) = (number(a, 0)?, ty(a, 1)?.shape.last()?.as_const()? as f64);
        holds(last > 0.0 && (c * last - 1.0).abs() < 2e-6)
    }),
    ("greater", |a| float(number(a, 0)?.max(number(a, 1)?))),
    ("lesser", |a| float(number(a, 0)?.min(number(a, 1)?))),
    ("last_size", |a| float(ty(a, 0)?.shape.last()?.as_const()? as f64)),
    // Zeros for the rows of a weight: a bias that is none.
    ("no_bias", |a| {
        let w = ty(a, 0)?;
        let n = usize::try_from(w.shape.first()?.as_const()?).ok()?;
        Literal::new(w.dtype, vec![n], vec![0; n.checked_mul(w.dtype.size())?]).map(|zeros| Attr::of(&zeros))
    }),
    // Shapes and axes.
    ("shape", |a| shape(dims(a, 0)?)),
    ("dtype", |a| Some(Attr::of(&ty(a, 0)?.dtype))),
    ("all_axes", |a| list(0..dims(a, 0)?.len())),
    // transpose(transpose(x, q), p) = transpose(x, compose(p, q))
    ("compose", |a| {
        let (p, q) = (axes(a, 0)?, axes(a, 1)?);
        list(p.iter().map(|&i| q.get(i).copied()).collect::<Option<Vec<_>>>()?)
    }),
    // The permutation with its last two entries exchanged.
    ("swap_last", |a| list(swap_last(axes(a, 0)?)?)),
    ("swaps_last", |a| holds(swap_last(axes(a, 0)?)?.is_sorted())),
    // The shape of a transposed value.
    ("permuted", |a| {
        let (p, d) = (axes(a, 0)?, dims(a, 1)?);
        shape(p.iter().map(|&i| d.get(i).cloned()).collect::<Option<_>>()?)
    }),
    // A permutation that only moves axes of size 1: the elements stay in order.
    ("unit_moves", |a| {
        let (p, d) = (axes(a, 0)?, dims(a, 1)?);
        holds(p.into_iter().filter(|&i| d.get(i).is_some_and(|d| d.as_const() != Some(1))).is_sorted())
    }),
    // broadcast(broadcast(x, b), a) = broadcast(x, through(b, a))
    ("through", |a| {
        let (b, outer) = (axes(a, 0)?, axes(a, 1)?);
        list(b.iter().map(|&i| outer.get(i).copied()).collect::<Option<Vec<_>>>()?)
    }),
    // The axes of broadcast(reshape(x), a) as those of broadcast(x), where the reshape only adds or drops axes of size 1
    // and the broadcast of `x` keeps all its axes in place.
    ("without_reshape", |a| {
        let (target, outer, from, to) = (dims(a, 0)?, axes(a, 1)?, dims(a, 2)?, dims(a, 3)?);
        let real = |s: &[Dim]| -> Vec<usize> { (0..s.len()).filter(|&i| s[i].as_const() != Some(1)).collect() };
        let (x, y) = (real(&from), real(&to));
        let fits = x.len() == y.len() && x.iter().zip(&y).all(|(&i, &j)| from[i] == to[j]);
        if !fits {
            return None;
        }
        let targets: Vec<usize> = y.iter().map(|&j| outer.get(j).copied()).collect::<Option<_>>()?;
        if x.len() == from.len() {
            return list(targets);
        }
        (from.len() == target.len() && x == targets).then(|| list(0..from.len()))?
    }),
    ("without", |a| {
        let (d, gone) = (dims(a, 1)?, axes(a, 0)?);
        shape(d.into_iter().enumerate().filter(|(i, _)| !gone.contains(i)).map(|(_, d)| d).collect())
    }),
    // Axes of a value as axes of what it was transposed from, ascending.
    ("axes_through", |a| {
        let (p, x) = (axes(a, 0)?, axes(a, 1)?);
        let mut found = x.iter().map(|&i| p.get(i).copied()).collect::<Option<Vec<_>>>()?;
        found.sort_unstable();
        list(found)
    }),
    ("axis_through", |a| Some(Attr::of(&axes(a, 0)?.get(axis(a, 1)?).copied()?))),
    // Slices.
    ("add_dims", |a| Some(Attr::of(&(dim(a, 0)? + dim(a, 1)?)))),
    ("sub_dims", |a| Some(Attr::of(&(dim(a, 0)? - dim(a, 1)?)))),
    ("size", |a| Some(Attr::of(&dims(a, 0)?.get(axis(a, 1)?).cloned()?))),
    ("same_dims", |a| holds(dim(a, 0)? == dim(a, 1)?)),
    // Known to be at most.
    ("at_most", |a| holds((dim(a, 1)? - dim(a, 0)?).as_const()? >= 0)),
    // A shape with another last size, that of a weight's rows.
    ("with_last", |a| {
        let (mut d, w) = (dims(a, 0)?, ty(a, 1)?);
        *d.last_mut()? = w.shape.first()?.clone();
        shape(d)
    }),
    ("same_last", |a| holds(dims(a, 0)?.last()? == dims(a, 1)?.last()?)),
    // Two shapes that keep the last `n` sizes of a value, so that a product over them may be taken in either.
    ("same_tail", |a| {
        let (x, y, n) = (dims(a, 0)?, dims(a, 1)?, axis(a, 2)?);
        holds(x.len() >= n && y.len() >= n && x[x.len() - n..] == y[y.len() - n..])
    }),
    ("same_lead", |a| {
        let (x, y) = (dims(a, 0)?, dims(a, 1)?);
        holds(x.len() >= 2 && x.len() == y.len() && x[..x.len() - 2] == y[..y.len() - 2])
    }),
    // Attention. The shape is `[b, s, heads, d]`; its heads.
    ("heads", |a| {
        let d = dims(a, 0)?;
        let n = (d.len() == 4).then(|| d[2].as_const())??;
        usize::try_from(n).ok().filter(|&n| n > 0).map(|n| Attr::of(&n))
    }),
    // The shape is `[b, s, heads, d]` of `x [b, s, heads * d]`.
    ("splits_heads", |a| {
        let (d, x) = (dims(a, 0)?, dims(a, 1)?);
        holds(d.len() == 4 && x.len() == 3 && d[..2] == x[..2])
    }),
    // The shape is `[1, tokens, heads, d]` of `x [tokens, heads * d]`.
    ("splits_packed", |a| {
        let (d, x) = (dims(a, 0)?, dims(a, 1)?);
        holds(d.len() == 4 && x.len() == 2 && d[0].as_const() == Some(1) && d[1] == x[0])
    }),
    ("same_shape", |a| holds(dims(a, 0)? == dims(a, 1)?)),
    // The shape is `[b, kv_heads, groups, s, d]` of `[b, s, kv_heads, d]`: each key head for `groups` query heads.
    ("repeats_heads", |a| {
        let (g, k) = (dims(a, 0)?, dims(a, 1)?);
        holds(g.len() == 5 && k.len() == 4 && g[0] == k[0] && g[1] == k[2] && g[3] == k[1] && g[4] == k[3])
    }),
    // As many queries as keys, or `first` is by how many more keys there are.
    ("aligned", |a| holds(dims(a, 0)?.get(1)? == dims(a, 1)?.get(1)?)),
    ("first", |a| {
        let (q, k) = (dims(a, 1)?, dims(a, 2)?);
        let first = k.get(1)?.clone() - q.get(1)?.clone();
        holds(match tensor(a, 0)?.splat.as_ref()? {
            Splat::Number(v) => first.as_const().is_some_and(|f| f as f64 == *v),
            Splat::Size(d) => *d == first,
        })
    }),
    // The middle of a table `[heads, 2p - 1]` of biases.
    ("middle", |a| {
        let width = ty(a, 1)?.shape.get(1)?.as_const()?;
        holds(width % 2 == 1 && number(a, 0)? == ((width - 1) / 2) as f64)
    }),
    // Rotary positions. The shape splits heads in pairs: `[.., heads, 2, r / 2]` at its last axis but one, or
    // `[.., heads, r / 2, 2]` at its last.
    ("pair_heads", |a| {
        let (d, x) = (dims(a, 0)?, dims(a, 1)?);
        let lead = x.len().checked_sub(1)?;
        let fits = d.len() == lead + 3 && d[..lead] == x[..lead];
        let heads = fits.then(|| d[lead].as_const())??;
        usize::try_from(heads).ok().filter(|&n| n > 0).map(|n| Attr::of(&n))
    }),
    ("interleaved", |a| {
        let (axis, d) = (axis(a, 0)?, dims(a, 1)?);
        let two = d.get(axis)?.as_const() == Some(2);
        (two && axis + 2 >= d.len()).then(|| Attr::of(&(axis + 1 == d.len())))
    }),
    // Angles `[.., r / 2]` repeated for each head.
    ("over_heads", |a| {
        let (axes, pair) = (axes(a, 0)?, dims(a, 1)?);
        let lead = pair.len().checked_sub(2)?;
        holds(axes.into_iter().eq((0..lead).chain([lead + 1])))
    }),
    ("is_last", |a| holds(axis(a, 0)? + 1 == ty(a, 1)?.rank())),
    // Half of the last axis.
    ("halves", |a| holds(dim(a, 0)? * Dim::constant(2) == *ty(a, 1)?.shape.last()?)),
    ("half_shape", |a| {
        let mut d = dims(a, 0)?;
        let last = d.last_mut()?;
        *last = Dim::from(last.as_const().filter(|n| n % 2 == 0)? / 2);
        shape(d)
    }),
    ("whole", |a| {
        let v = number(a, 0)?;
        (v.fract() == 0.0 && (1.0..1e9).contains(&v)).then(|| Attr::of(&(v as usize)))
    }),
    // All of a row as one group.
    ("whole_group", |a| {
        let n = usize::try_from(ty(a, 0)?.shape.last()?.as_const()?).ok()?;
        (n > 0).then(|| Attr::of(&n))
    }),
    // The shape `[.., n / group, group]` of `x [.., n]`.
    ("grouped", |a| {
        let (d, group, x) = (dims(a, 0)?, axis(a, 1)?, dims(a, 2)?);
        let lead = x.len().checked_sub(1)?;
        holds(d.len() == lead + 2 && d[..lead] == x[..lead] && d[lead + 1] == Dim::from(group))
    }),
    // Every value of `x` is one of the dtype.
    ("holds", |a| {
        let (to, from) = (dtype(a, 0)?, ty(a, 1)?.dtype);
        holds(crate::canonicalize::holds(to, from))
    }),
    ("casts_alike", |a| {
        let (to, between, from) = (dtype(a, 0)?, dtype(a, 1)?, ty(a, 2)?.dtype);
        holds(!to.is_int() || between.is_float() == from.is_float() || crate::canonicalize::holds(to, from))
    }),
    ("third_last", |a| {
        let d = dims(a, 0)?;
        let heads = d.get(d.len().checked_sub(3)?)?.as_const()?;
        usize::try_from(heads).ok().filter(|&n| n > 0).map(|n| Attr::of(&n))
    }),
    // The shape `[.., heads, d]` of `x [.., heads * d]`, cut along its last axis.
    ("cuts_heads", |a| {
        let (d, x, last) = (dims(a, 0)?, dims(a, 1)?, axis(a, 2)?);
        let lead = x.len().checked_sub(1)?;
        holds(d.len() == lead + 2 && d[..lead] == x[..lead] && last == lead + 1)
    }),
    // The pairs of `[.., heads, 2, r / 2]` or `[.., heads, r / 2, 2]` without the axis of size 2.
    ("pairs", |a| {
        let (mut d, axis) = (dims(a, 0)?, axis(a, 1)?);
        if d.get(axis)?.as_const() != Some(2) || axis + 2 < d.len() {
            return None;
        }
        d.remove(axis);
        shape(d)
    }),
    ("ends_in_last", |a| holds(axes(a, 0)?.last().copied() == dims(a, 1)?.len().checked_sub(1))),
    ("last_dim", |a| Some(Attr::of(ty(a, 0)?.shape.last()?))),
    // `[b, kv_heads, groups, s, d]` as `[b, heads, s, d]`.
    ("heads_fill", |a| {
        let (full, g) = (dims(a, 0)?, dims(a, 1)?);
        let heads = g.get(1)?.clone() * g.get(2)?.clone();
        holds(full.len() == 4 && g.len() == 5 && full[0] == g[0] && full[1] == heads && full[2..] == g[3..])
    }),
    // `[b, 1, heads, s, d]` of the one key head `[b, s, d]` or `[tokens, d]`, for queries split as `[b, s, heads, d]`.
    ("repeats_single", |a| {
        let (g, k, q) = (dims(a, 0)?, dims(a, 1)?, dims(a, 2)?);
        let fits = g.len() == 5 && q.len() == 4 && g[0] == q[0] && g[1].as_const() == Some(1) && g[2] == q[2];
        let padded = k.len() == 3 && g[0] == k[0];
        let packed = k.len() == 2 && g[0].as_const() == Some(1);
        holds(fits && (padded || packed) && g[3..] == k[k.len() - 2..])
    }),
    // `p [sequences, tokens]` and `cube [sequences, tokens, h]` of `x [tokens, h]` with its offsets.
    ("pools", |a| {
        let (x, offsets, p, cube) = (dims(a, 0)?, dims(a, 1)?, dims(a, 2)?, dims(a, 3)?);
        let sequences = offsets.first()?.clone() - Dim::constant(1);
        holds(p == [sequences.clone(), x.first()?.clone()] && cube == [sequences, x[0].clone(), x.get(1)?.clone()])
    }),
];
