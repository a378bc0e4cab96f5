//! Primitives that move elements: everything is a copy along strides, a concatenation or a choice of slices.

use std::sync::Arc;

use super::tensor::Data;

/// Row-major strides.
pub(super) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i].max(1);
    }
    strides
}

/// Elements `offset + sum(index * strides)` for every index of `shape`, in row-major order.
pub(super) fn strided(x: &Data, shape: &[usize], strides: &[usize], offset: usize) -> Data {
    fn copy<T: Copy>(x: &[T], shape: &[usize], strides: &[usize], offset: usize) -> Vec<T> {
        let count: usize = shape.iter().product();
        let mut out = Vec::with_capacity(count);
        if count == 0 {
            return out;
        }
        let (Some((&inner, outer)), Some((&step, outer_strides))) = (shape.split_last(), strides.split_last()) else {
            out.extend(x.get(offset));
            return out;
        };
        let mut index = vec![0usize; outer.len()];
        let mut at = offset;
        loop {
            if step == 1 {
                out.extend_from_slice(&x[at..at + inner]);
            } else {
                out.extend((0..inner).map(|i| x[at + i * step]));
            }
            let mut axis = outer.len();
            loop {
                if axis == 0 {
                    return out;
                }
                axis -= 1;
                index[axis] += 1;
                at += outer_strides[axis];
                if index[axis] < outer[axis] {
                    break;
                }
                at -= outer_strides[axis] * outer[axis];
                index[axis] = 0;
            }
        }
    }
    match x {
        Data::Float(v) => copy(v, shape, strides, offset).into(),
        Data::Int(v) => copy(v, shape, strides, offset).into(),
    }
}

/// Axes in the order of `perm`.
pub(super) fn transpose(x: &Data, shape: &[usize], perm: &[usize]) -> Data {
    if perm.is_sorted() {
        return x.clone();
    }
    let from = strides(shape);
    let to: Vec<usize> = perm.iter().map(|&p| shape[p]).collect();
    let steps: Vec<usize> = perm.iter().map(|&p| from[p]).collect();
    strided(x, &to, &steps, 0)
}

/// Axis `i` becomes axis `axes[i]` of `to`; other axes, and axes of size 1, repeat.
pub(super) fn broadcast(x: &Data, shape: &[usize], to: &[usize], axes: &[usize]) -> Data {
    let from = strides(shape);
    let mut steps = vec![0; to.len()];
    for (i, &axis) in axes.iter().enumerate() {
        if shape[i] != 1 {
            steps[axis] = from[i];
        }
    }
    strided(x, to, &steps, 0)
}

/// Sizes before, at and after an axis.
pub(super) fn around(shape: &[usize], axis: usize) -> (usize, usize, usize) {
    (shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product())
}

/// `parts`, each with its size along the axis, one after the other; `outer` and `inner` lie around that axis. `None` when
/// they are of different kinds.
pub(super) fn concat(parts: &[(&Data, usize)], outer: usize, inner: usize) -> Option<Data> {
    fn join<T: Copy>(parts: &[(&[T], usize)], outer: usize, inner: usize) -> Vec<T> {
        let mut out = Vec::with_capacity(parts.iter().map(|(p, _)| p.len()).sum());
        for o in 0..outer {
            for (part, size) in parts {
                let row = size * inner;
                out.extend_from_slice(&part[o * row..(o + 1) * row]);
            }
        }
        out
    }
    if parts.iter().all(|(p, _)| matches!(p, Data::Float(_))) {
        let parts: Vec<_> = parts
            .iter()
            .filter_map(|(p, n)| match p {
                Data::Float(v) => Some((v.as_slice(), *n)),
                Data::Int(_) => None,
            })
            .collect();
        Some(join(&parts, outer, inner).into())
    } else {
        let ints: Option<Vec<_>> = parts
            .iter()
            .map(|(p, n)| match p {
                Data::Int(v) => Some((v.as_slice(), *n)),
                Data::Float(_) => None,
            })
            .collect();
        Some(join(&ints?, outer, inner).into())
    }
}

/// `n` times the first element of `x`.
pub(super) fn repeat(x: &Data, n: usize) -> Data {
    match x {
        Data::Float(v) => vec![v.first().copied().unwrap_or(0.0); n].into(),
        Data::Int(v) => vec![v.first().copied().unwrap_or(0); n].into(),
    }
}

/// Slices along `axis`; indices are clamped, an empty axis gives zeros.
pub(super) fn gather(x: &Data, shape: &[usize], axis: usize, indices: &[i64]) -> Data {
    fn pick<T: Copy + Default>(x: &[T], (outer, n, inner): (usize, usize, usize), indices: &[i64]) -> Vec<T> {
        let mut out = Vec::with_capacity(outer * indices.len() * inner);
        for o in 0..outer {
            for &i in indices {
                if n == 0 {
                    out.extend(std::iter::repeat_n(T::default(), inner));
                } else {
                    let row = o * n + i.clamp(0, n as i64 - 1) as usize;
                    out.extend_from_slice(&x[row * inner..(row + 1) * inner]);
                }
            }
        }
        out
    }
    let sizes = around(shape, axis);
    match x {
        Data::Float(v) => Data::Float(Arc::new(pick(v, sizes, indices))),
        Data::Int(v) => Data::Int(Arc::new(pick(v, sizes, indices))),
    }
}

/// Rows of `x` at `indices` replaced by those of `updates`, in order; indices outside count for nothing. `None` for
/// operands of different kinds.
pub(super) fn scatter(x: &Data, shape: &[usize], indices: &[i64], updates: &Data) -> Option<Data> {
    fn put<T: Copy>(x: &[T], rows: usize, indices: &[i64], updates: &[T]) -> Vec<T> {
        let mut out = x.to_vec();
        let width = x.len() / rows.max(1);
        for (i, &row) in indices.iter().enumerate() {
            if let Some(row) = usize::try_from(row).ok().filter(|&row| row < rows) {
                out[row * width..][..width].copy_from_slice(&updates[i * width..][..width]);
            }
        }
        out
    }
    let rows = shape.first().copied().unwrap_or(0);
    match (x, updates) {
        (Data::Float(x), Data::Float(u)) => Some(put(x, rows, indices, u).into()),
        (Data::Int(x), Data::Int(u)) => Some(put(x, rows, indices, u).into()),
        _ => None,
    }
}
