//! Tensors: handles of values in a trace. Every operator and method records a node; shapes that differ broadcast as in
//! NumPy, by explicit nodes.

use std::ops::{Add, Div, Mul, Neg, Sub};

use lith_ir::{Activation, Binary, Compare, DType, Dim, Literal, Op, Reduction, Type, Unary, Value};

use crate::Trace;

/// A value in a trace, or nothing where the trace has met a misfit. Cheap to clone.
///
/// Axes count from 0; negative ones from the end, -1 the last.
#[derive(Clone, Debug)]
pub struct Tensor {
    trace: Trace,
    known: Option<(Value, Type)>,
}

impl Tensor {
    pub(crate) fn new(trace: &Trace, value: Value, ty: Type) -> Self {
        Tensor { trace: trace.clone(), known: Some((value, ty)) }
    }

    /// What a misfit yields.
    pub(crate) fn none(trace: &Trace) -> Self {
        Tensor { trace: trace.clone(), known: None }
    }

    pub(crate) fn value(&self) -> Option<Value> {
        self.known.as_ref().map(|(value, _)| *value)
    }

    /// Whether both are the same value of one trace.
    pub fn is(&self, other: &Tensor) -> bool {
        self.value().is_some() && self.value() == other.value() && self.trace.is(&other.trace)
    }

    /// The trace.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// The type; none where the trace has met a misfit.
    pub fn ty(&self) -> Option<&Type> {
        self.known.as_ref().map(|(_, ty)| ty)
    }

    /// The sizes, outermost first; empty where the trace has met a misfit.
    pub fn shape(&self) -> &[Dim] {
        self.ty().map_or(&[], |ty| &ty.shape)
    }

    /// The axis counted from 0; records a misfit when there is none.
    fn axis(&self, op: &'static str, axis: isize) -> Option<usize> {
        let ty = self.ty()?;
        let found = if axis < 0 { ty.rank().checked_add_signed(axis) } else { Some(axis.unsigned_abs()) };
        let found = found.filter(|&a| a < ty.rank());
        if found.is_none() {
            self.trace.misfit(op, format!("axis {axis} of {ty}"));
        }
        found
    }

    fn with_axis(&self, op: &'static str, axis: isize, f: impl FnOnce(usize) -> Tensor) -> Tensor {
        self.axis(op, axis).map_or_else(|| Tensor::none(&self.trace), f)
    }

    /// A scalar of this tensor's element type; integers must be whole.
    fn scalar(&self, op: &'static str, value: f64) -> Tensor {
        let Some(ty) = self.ty() else { return Tensor::none(&self.trace) };
        if !ty.dtype.is_float() && value.fract() != 0.0 {
            return self.trace.misfit(op, format!("{ty} and {value}"));
        }
        self.trace.constant(Literal::scalar(ty.dtype, value))
    }

    /// Repeats the tensor to `shape`: axes align at the end, sizes are equal or 1.
    pub fn broadcast_to(&self, shape: &[Dim]) -> Tensor {
        let Some(ty) = self.ty() else { return self.clone() };
        if ty.shape == shape {
            return self.clone();
        }
        match shape.len().checked_sub(ty.rank()) {
            Some(first) => {
                let axes = (first..shape.len()).collect();
                self.trace.record(Op::Broadcast { shape: shape.to_vec(), axes }, &[self])
            }
            None => self.trace.misfit("broadcast", format!("{ty} to {} axes", shape.len())),
        }
    }

    /// Both tensors at the shape that both broadcast to.
    fn aligned(&self, op: &'static str, other: &Tensor) -> (Tensor, Tensor) {
        let (Some(a), Some(b)) = (self.ty(), other.ty()) else {
            return (Tensor::none(&self.trace), other.clone());
        };
        let rank = a.rank().max(b.rank());
        // Size of an axis counted from the end; absent axes count as 1.
        let size = |ty: &Type, from_end: usize| {
            ty.rank().checked_sub(from_end + 1).map_or(Dim::constant(1), |axis| ty.shape[axis].clone())
        };
        let mut shape = Vec::with_capacity(rank);
        for from_end in (0..rank).rev() {
            let (x, y) = (size(a, from_end), size(b, from_end));
            if x == y || y.as_const() == Some(1) {
                shape.push(x);
            } else if x.as_const() == Some(1) {
                shape.push(y);
            } else {
                let none = self.trace.misfit(op, format!("{a} and {b} do not broadcast"));
                return (none.clone(), none);
            }
        }
        (self.broadcast_to(&shape), other.broadcast_to(&shape))
    }

    fn unary(&self, f: Unary) -> Tensor {
        self.trace.record(Op::Unary { f }, &[self])
    }

    fn binary(&self, f: Binary, other: &Tensor) -> Tensor {
        let (a, b) = self.aligned(f.name(), other);
        self.trace.record(Op::Binary { f }, &[&a, &b])
    }

    fn binary_scalar(&self, f: Binary, value: f64) -> Tensor {
        self.binary(f, &self.scalar(f.name(), value))
    }

    /// `e^x`
    pub fn exp(&self) -> Tensor {
        self.unary(Unary::Exp)
    }

    /// Natural logarithm.
    pub fn log(&self) -> Tensor {
        self.unary(Unary::Log)
    }

    /// Sine, radians.
    pub fn sin(&self) -> Tensor {
        self.unary(Unary::Sin)
    }

    /// Cosine, radians.
    pub fn cos(&self) -> Tensor {
        self.unary(Unary::Cos)
    }

    /// Nearest whole number, ties to even.
    pub fn round(&self) -> Tensor {
        self.unary(Unary::Round)
    }

    /// `|x|`
    pub fn abs(&self) -> Tensor {
        self.unary(Unary::Abs)
    }

    /// Square root.
    pub fn sqrt(&self) -> Tensor {
        self.unary(Unary::Sqrt)
    }

    /// Hyperbolic tangent.
    pub fn tanh(&self) -> Tensor {
        self.unary(Unary::Tanh)
    }

    /// Error function.
    pub fn erf(&self) -> Tensor {
        self.unary(Unary::Erf)
    }

    /// Logical negation, or complement of the bits.
    pub fn not(&self) -> Tensor {
        self.unary(Unary::Not)
    }

    /// The greater of each element and a number.
    pub fn at_least(&self, value: f64) -> Tensor {
        self.binary_scalar(Binary::Max, value)
    }

    /// The smaller of each element and a number.
    pub fn at_most(&self, value: f64) -> Tensor {
        self.binary_scalar(Binary::Min, value)
    }

    /// Elementwise comparison, as `bool`.
    pub fn compare(&self, f: Compare, other: &Tensor) -> Tensor {
        let (a, b) = self.aligned(f.name(), other);
        self.trace.record(Op::Compare { f }, &[&a, &b])
    }

    /// Comparison of every element with a number, as `bool`.
    pub fn compare_to(&self, f: Compare, value: f64) -> Tensor {
        self.compare(f, &self.scalar(f.name(), value))
    }

    /// `self ? a : b` for every element of this `bool` tensor; all three broadcast.
    pub fn select(&self, a: &Tensor, b: &Tensor) -> Tensor {
        let (a, b) = a.aligned("select", b);
        let (cond, a) = self.aligned("select", &a);
        let b = b.broadcast_to(a.shape());
        self.trace.record(Op::Select {}, &[&cond, &a, &b])
    }

    /// Conversion to another element type.
    pub fn cast(&self, dtype: DType) -> Tensor {
        if self.ty().is_some_and(|ty| ty.dtype == dtype) {
            return self.clone();
        }
        self.trace.record(Op::Cast { dtype }, &[self])
    }

    /// The same elements under another shape.
    pub fn reshape(&self, shape: impl IntoIterator<Item = impl Into<Dim>>) -> Tensor {
        let shape: Vec<Dim> = shape.into_iter().map(Into::into).collect();
        if self.shape() == shape { self.clone() } else { self.trace.record(Op::Reshape { shape }, &[self]) }
    }

    /// The axes in another order.
    pub fn transpose(&self, perm: &[usize]) -> Tensor {
        self.trace.record(Op::Transpose { perm: perm.to_vec() }, &[self])
    }

    /// Elements `start .. stop` of an axis.
    pub fn slice(&self, axis: isize, start: impl Into<Dim>, stop: impl Into<Dim>) -> Tensor {
        let (start, stop) = (start.into(), stop.into());
        self.with_axis("slice", axis, |axis| self.trace.record(Op::Slice { axis, start, stop, step: 1 }, &[self]))
    }

    /// One index of an axis, which vanishes; on an empty axis zeros.
    pub fn index(&self, axis: isize, index: i32) -> Tensor {
        self.gather(axis, &self.trace.constant(Literal::int(DType::I32, index.into())))
    }

    /// Tensors one after the other along an axis.
    pub fn concat(&self, axis: isize, others: &[Tensor]) -> Tensor {
        if others.is_empty() {
            return self.clone();
        }
        let all: Vec<&Tensor> = std::iter::once(self).chain(others).collect();
        self.with_axis("concat", axis, |axis| self.trace.record(Op::Concat { axis }, &all))
    }

    /// `before` and `after` zeros around the tensor along an axis.
    pub fn pad(&self, axis: isize, before: usize, after: usize) -> Tensor {
        let zero = self.scalar("pad", 0.0);
        self.with_axis("pad", axis, |axis| self.trace.record(Op::Pad { axis, before, after }, &[self, &zero]))
    }

    /// Slices along an axis chosen by integer `indices`, whose shape replaces the axis.
    pub fn gather(&self, axis: isize, indices: &Tensor) -> Tensor {
        self.with_axis("gather", axis, |axis| self.trace.record(Op::Gather { axis }, &[self, indices]))
    }

    /// Matrix product `[.., m, k]` by `[.., k, n]` over equal leading axes.
    pub fn matmul(&self, rhs: &Tensor) -> Tensor {
        self.trace.record(Op::Dot { transpose_rhs: false }, &[self, rhs])
    }

    fn reduce(&self, f: Reduction, axes: &[isize], keep: bool) -> Tensor {
        let mut found = Vec::with_capacity(axes.len());
        for &axis in axes {
            match self.axis(f.name(), axis) {
                Some(axis) => found.push(axis),
                None => return Tensor::none(&self.trace),
            }
        }
        found.sort_unstable();
        self.trace.record(Op::Reduce { f, axes: found, keep }, &[self])
    }

    /// Sum over axes, which stay as size 1 when `keep`.
    pub fn sum(&self, axes: &[isize], keep: bool) -> Tensor {
        self.reduce(Reduction::Sum, axes, keep)
    }

    /// Greatest element over axes, which stay as size 1 when `keep`.
    pub fn max(&self, axes: &[isize], keep: bool) -> Tensor {
        self.reduce(Reduction::Max, axes, keep)
    }

    /// Mean over axes, which stay as size 1 when `keep`. Floats only; NaN over an empty axis.
    pub fn mean(&self, axes: &[isize], keep: bool) -> Tensor {
        let sum = self.reduce(Reduction::Sum, axes, keep);
        let (Some(ty), Some(_)) = (self.ty(), sum.ty()) else { return sum };
        // `reduce` has seen that every axis is there.
        let sizes = axes.iter().filter_map(|&axis| self.axis("mean", axis)).map(|axis| ty.shape[axis].clone());
        let count = sizes.fold(Dim::constant(1), |product, size| product * size);
        sum / self.trace.size(count, ty.dtype)
    }

    /// Inclusive running sum along an axis.
    pub fn cumsum(&self, axis: isize) -> Tensor {
        self.with_axis("cumsum", axis, |axis| self.trace.record(Op::CumSum { axis }, &[self]))
    }

    /// Softmax along the last axis.
    pub fn softmax(&self) -> Tensor {
        self.trace.record(Op::Softmax {}, &[self])
    }

    /// What is lost on each row of these logits, see [`Op::CrossEntropy`].
    pub fn cross_entropy(&self, labels: &Tensor, ignore: i64, smoothing: f64) -> Tensor {
        self.trace.record(Op::CrossEntropy { ignore, smoothing }, &[self, labels])
    }

    /// An activation function of every element.
    pub fn activation(&self, f: Activation) -> Tensor {
        self.trace.record(Op::Activation { f }, &[self])
    }

    /// `x[.., k] * weight[n, k]^T + bias[n]`
    pub fn linear(&self, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
        self.trace.record_with(Op::Linear {}, &[Some(self), Some(weight), bias])
    }

    /// `(x - mean) / sqrt(var + eps) * weight + bias` along the last axis.
    pub fn layer_norm(&self, weight: Option<&Tensor>, bias: Option<&Tensor>, eps: f64) -> Tensor {
        self.trace.record_with(Op::LayerNorm { eps }, &[Some(self), weight, bias])
    }

    /// `x / sqrt(mean(x^2) + eps) * (weight + offset)` along the last axis.
    pub fn rms_norm(&self, weight: Option<&Tensor>, eps: f64, offset: f64) -> Tensor {
        self.trace.record_with(Op::RmsNorm { eps, offset }, &[Some(self), weight])
    }

    /// Every element 0 with probability `p`, else over `1 - p` (Srivastava et al. 2014); the tensor itself unless the trace has
    /// started dropout. `p` is below 1.
    pub fn dropout(&self, p: f64) -> Tensor {
        if !(p > 0.0 && p < 1.0) {
            return self.clone();
        }
        let Some(key) = self.trace.next_key() else { return self.clone() };
        let bits = self.trace.record(Op::RandomBits { shape: self.shape().to_vec(), stream: 0 }, &[&key]);
        // Of all numbers of 32 bits the share p is dropped.
        let kept = bits.compare_to(Compare::Ge, (p * 4294967296.0).floor());
        kept.select(&(self * (1.0 / (1.0 - p))), &(self * 0.0))
    }

    /// Rotary position embedding of `heads` heads side by side, see [`Op::Rope`].
    pub fn rope(&self, cos: &Tensor, sin: &Tensor, heads: usize, interleaved: bool) -> Tensor {
        self.trace.record(Op::Rope { heads, interleaved }, &[self, cos, sin])
    }

    /// `x / max(|x|, eps)` along the last axis, Euclidean norm.
    pub fn l2_norm(&self, eps: f64) -> Tensor {
        self.trace.record(Op::L2Norm { eps }, &[self])
    }
}

/// The operator for every mix of owned and borrowed operands, and for a number at the right.
macro_rules! operators {
    ($($operator:ident $method:ident),*) => {$(
        impl $operator<&Tensor> for &Tensor {
            type Output = Tensor;
            fn $method(self, rhs: &Tensor) -> Tensor { self.binary(Binary::$operator, rhs) }
        }
        impl $operator<Tensor> for &Tensor {
            type Output = Tensor;
            fn $method(self, rhs: Tensor) -> Tensor { self.binary(Binary::$operator, &rhs) }
        }
        impl $operator<&Tensor> for Tensor {
            type Output = Tensor;
            fn $method(self, rhs: &Tensor) -> Tensor { self.binary(Binary::$operator, rhs) }
        }
        impl $operator<Tensor> for Tensor {
            type Output = Tensor;
            fn $method(self, rhs: Tensor) -> Tensor { self.binary(Binary::$operator, &rhs) }
        }
        impl $operator<f64> for &Tensor {
            type Output = Tensor;
            fn $method(self, rhs: f64) -> Tensor { self.binary_scalar(Binary::$operator, rhs) }
        }
        impl $operator<f64> for Tensor {
            type Output = Tensor;
            fn $method(self, rhs: f64) -> Tensor { self.binary_scalar(Binary::$operator, rhs) }
        }
    )*};
}

operators!(Add add, Sub sub, Mul mul, Div div);

impl Neg for &Tensor {
    type Output = Tensor;
    fn neg(self) -> Tensor {
        self.unary(Unary::Neg)
    }
}

impl Neg for Tensor {
    type Output = Tensor;
    fn neg(self) -> Tensor {
        self.unary(Unary::Neg)
    }
}
