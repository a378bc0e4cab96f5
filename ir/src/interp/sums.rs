//! Primitives that accumulate: products of matrices, reductions, running sums. The order of additions is a function of
//! the reduced size alone.

use std::num::Wrapping;
use std::ops::{Add, Mul};

use super::elementwise::{max, min};
use super::layout::{around, transpose};
use super::tensor::Data;
use crate::dtype::DType;
use crate::op::Reduction;

/// What elements are accumulated in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accumulate {
    /// `f64`.
    Double,
    /// `f32`: rounded after every step.
    Single,
}

/// A number to accumulate in.
trait Number: Copy + Default + Add<Output = Self> + Mul<Output = Self> {}
impl Number for f64 {}
impl Number for f32 {}
impl Number for Wrapping<i64> {}

const LANES: usize = 8;

/// Sum of `f(i)` below `n`: lane `l` takes the terms `i = l mod 8`, then lanes are added in order.
fn lane_sum<T: Number>(n: usize, f: impl Fn(usize) -> T) -> T {
    let mut lanes = [T::default(); LANES];
    let whole = n - n % LANES;
    for start in (0..whole).step_by(LANES) {
        for (l, lane) in lanes.iter_mut().enumerate() {
            *lane = *lane + f(start + l);
        }
    }
    for (l, lane) in lanes.iter_mut().enumerate().take(n - whole) {
        *lane = *lane + f(whole + l);
    }
    lanes.into_iter().fold(T::default(), |a, b| a + b)
}

fn single(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&v| v as f32).collect()
}

fn double(x: Vec<f32>) -> Data {
    x.into_iter().map(f64::from).collect::<Vec<_>>().into()
}

fn wrapping(x: &[i64]) -> Vec<Wrapping<i64>> {
    x.iter().map(|&v| Wrapping(v)).collect()
}

fn wrapped(x: Vec<Wrapping<i64>>, dtype: DType) -> Data {
    x.into_iter().map(|v| dtype.wrap(v.0)).collect::<Vec<_>>().into()
}

/// Sizes of a matrix product: batches, rows, summed, columns.
#[derive(Clone, Copy, Debug)]
pub(super) struct DotSizes {
    pub batch: usize,
    pub m: usize,
    pub k: usize,
    pub n: usize,
}

/// `a [batch, m, k]` by `b [batch, n, k]` transposed; `None` when one side is of floats and the other is not.
pub(super) fn dot(a: &Data, b: &Data, sizes: DotSizes, dtype: DType, accumulate: Accumulate) -> Option<Data> {
    fn products<T: Number>(a: &[T], b: &[T], s: DotSizes) -> Vec<T> {
        let mut out = Vec::with_capacity(s.batch * s.m * s.n);
        for row in 0..s.batch * s.m {
            let a = &a[row * s.k..(row + 1) * s.k];
            let first = row / s.m * s.n;
            for column in first..first + s.n {
                let b = &b[column * s.k..(column + 1) * s.k];
                out.push(lane_sum(s.k, |i| a[i] * b[i]));
            }
        }
        out
    }
    Some(match (a, b) {
        (Data::Float(a), Data::Float(b)) => match accumulate {
            Accumulate::Double => products(a, b, sizes).into(),
            Accumulate::Single => double(products(&single(a), &single(b), sizes)),
        },
        (Data::Int(a), Data::Int(b)) => wrapped(products(&wrapping(a), &wrapping(b), sizes), dtype),
        _ => return None,
    })
}

/// Reduction over `axes`, floats not yet rounded to `dtype`.
pub(super) fn reduce(
    x: &Data,
    shape: &[usize],
    axes: &[usize],
    f: Reduction,
    dtype: DType,
    accumulate: Accumulate,
) -> Data {
    let kept = (0..shape.len()).filter(|a| !axes.contains(a));
    let perm: Vec<usize> = kept.chain(axes.iter().copied()).collect();
    let size: usize = axes.iter().map(|&a| shape[a]).product();
    let rows: usize = (0..shape.len()).filter(|a| !axes.contains(a)).map(|a| shape[a]).product();
    match transpose(x, shape, &perm) {
        Data::Float(v) => {
            let row = |r: usize| &v[r * size..(r + 1) * size];
            match accumulate {
                Accumulate::Double => (0..rows).map(|r| reduce_f64(f, row(r))).collect::<Vec<_>>().into(),
                Accumulate::Single => (0..rows).map(|r| reduce_f32(f, row(r))).collect::<Vec<_>>().into(),
            }
        }
        Data::Int(v) => {
            (0..rows).map(|r| reduce_int(f, dtype, &v[r * size..(r + 1) * size])).collect::<Vec<_>>().into()
        }
    }
}

fn reduce_f64(f: Reduction, row: &[f64]) -> f64 {
    match f {
        Reduction::Sum => lane_sum(row.len(), |i| row[i]),
        Reduction::Prod => row.iter().product(),
        Reduction::Max => row.iter().copied().fold(f64::NEG_INFINITY, max),
        Reduction::Min => row.iter().copied().fold(f64::INFINITY, min),
    }
}

fn reduce_f32(f: Reduction, row: &[f64]) -> f64 {
    match f {
        Reduction::Sum => lane_sum(row.len(), |i| row[i] as f32) as f64,
        Reduction::Prod => row.iter().map(|&v| v as f32).product::<f32>() as f64,
        Reduction::Max | Reduction::Min => reduce_f64(f, row),
    }
}

fn reduce_int(f: Reduction, dtype: DType, row: &[i64]) -> i64 {
    let (least, greatest) = dtype.int_range().unwrap_or((i64::MIN, i64::MAX));
    match f {
        Reduction::Sum => dtype.wrap(row.iter().fold(0, |a, &v| a.wrapping_add(v))),
        Reduction::Prod => dtype.wrap(row.iter().fold(1, |a, &v| a.wrapping_mul(v))),
        Reduction::Max => row.iter().copied().fold(least, i64::max),
        Reduction::Min => row.iter().copied().fold(greatest, i64::min),
    }
}

/// Inclusive running sum along `axis`, floats not yet rounded to `dtype`.
pub(super) fn cumsum(x: &Data, shape: &[usize], axis: usize, dtype: DType, accumulate: Accumulate) -> Data {
    fn run<T: Number>(mut x: Vec<T>, (outer, n, inner): (usize, usize, usize)) -> Vec<T> {
        for o in 0..outer {
            for at in (o * n + 1) * inner..(o + 1) * n * inner {
                x[at] = x[at - inner] + x[at];
            }
        }
        x
    }
    let sizes = around(shape, axis);
    match x {
        Data::Float(v) => match accumulate {
            Accumulate::Double => run(v.to_vec(), sizes).into(),
            Accumulate::Single => double(run(single(v), sizes)),
        },
        Data::Int(v) => wrapped(run(wrapping(v), sizes), dtype),
    }
}

/// Rows of `updates` added to those of `x` that `indices` name, in order; indices outside count for nothing. Floats not yet
/// rounded to `dtype`. `None` for operands of different kinds.
pub(super) fn scatter_add(
    x: &Data,
    shape: &[usize],
    indices: &[i64],
    updates: &Data,
    dtype: DType,
    accumulate: Accumulate,
) -> Option<Data> {
    fn add<T: Number>(mut x: Vec<T>, rows: usize, indices: &[i64], updates: &[T]) -> Vec<T> {
        let width = x.len() / rows.max(1);
        for (i, &row) in indices.iter().enumerate() {
            if let Some(row) = usize::try_from(row).ok().filter(|&row| row < rows) {
                let sums = x[row * width..][..width].iter_mut();
                sums.zip(&updates[i * width..][..width]).for_each(|(sum, &u)| *sum = *sum + u);
            }
        }
        x
    }
    let rows = shape.first().copied().unwrap_or(0);
    Some(match (x, updates) {
        (Data::Float(x), Data::Float(u)) => match accumulate {
            Accumulate::Double => add(x.to_vec(), rows, indices, u).into(),
            Accumulate::Single => double(add(single(x), rows, indices, &single(u))),
        },
        (Data::Int(x), Data::Int(u)) => wrapped(add(wrapping(x), rows, indices, &wrapping(u)), dtype),
        _ => return None,
    })
}
