//! Formulas as they are written on paper: terms with operators that record nodes. The first node that does not fit is
//! remembered, so that formulas need no question marks. Knows no op's derivative.

use std::cell::RefCell;
use std::ops::{Add, Div, Mul, Neg, Sub};

use lith_ir::{Binary, Builder, Compare, DType, Dim, Graph, GraphError, Op, Reduction, Type, Unary, Value};

/// Where terms are recorded: a graph, at one path.
pub(super) struct Sheet<'g> {
    b: RefCell<Builder<'g>>,
    error: RefCell<Option<GraphError>>,
}

/// A value of a formula.
#[derive(Clone, Copy)]
pub(super) struct Term<'s, 'g> {
    sheet: &'s Sheet<'g>,
    value: Value,
}

impl<'g> Sheet<'g> {
    pub fn new(graph: &'g mut Graph, path: &str) -> Self {
        Sheet { b: RefCell::new(Builder::new(graph, path)), error: RefCell::default() }
    }

    pub fn term(&self, value: Value) -> Term<'_, 'g> {
        Term { sheet: self, value }
    }

    /// What went wrong first, if anything did.
    pub fn finish(self) -> Result<(), GraphError> {
        self.error.into_inner().map_or(Ok(()), Err)
    }

    /// What `f` records; after a failure `instead`, which nobody will use.
    fn record(&self, instead: Value, f: impl FnOnce(&mut Builder<'g>) -> Result<Value, GraphError>) -> Term<'_, 'g> {
        let failed = self.error.borrow().is_some();
        let value = if failed { Ok(instead) } else { f(&mut self.b.borrow_mut()) };
        let value = value.unwrap_or_else(|e| {
            *self.error.borrow_mut() = Some(e);
            instead
        });
        self.term(value)
    }
}

impl<'s, 'g> Term<'s, 'g> {
    pub fn value(self) -> Value {
        self.value
    }

    pub fn ty(self) -> Type {
        self.sheet.b.borrow_mut().ty(self.value)
    }

    pub fn shape(self) -> Vec<Dim> {
        self.ty().shape
    }

    fn then(self, f: impl FnOnce(&mut Builder<'g>, Value) -> Result<Value, GraphError>) -> Term<'s, 'g> {
        self.sheet.record(self.value, |b| f(b, self.value))
    }

    /// An op on this and other operands.
    pub fn op(self, op: Op, others: &[Term<'s, 'g>]) -> Self {
        let operands: Vec<Value> = std::iter::once(self.value).chain(others.iter().map(|t| t.value)).collect();
        self.then(|b, _| b.op(op, &operands))
    }

    /// An op on this and other operands, some of which may be absent.
    pub fn op_with(self, op: Op, others: &[Option<Term<'s, 'g>>]) -> Self {
        let others = others.iter().map(|t| t.map(|t| t.value));
        let operands: Vec<Option<Value>> = std::iter::once(Some(self.value)).chain(others).collect();
        self.then(|b, _| b.op_with(op, &operands))
    }

    pub fn unary(self, f: Unary) -> Self {
        self.then(|b, x| b.unary(f, x))
    }

    pub fn exp(self) -> Self {
        self.unary(Unary::Exp)
    }

    pub fn sqrt(self) -> Self {
        self.unary(Unary::Sqrt)
    }

    pub fn abs(self) -> Self {
        self.unary(Unary::Abs)
    }

    pub fn tanh(self) -> Self {
        self.unary(Unary::Tanh)
    }

    pub fn binary(self, f: Binary, other: Self) -> Self {
        self.then(|b, x| b.binary(f, x, other.value))
    }

    /// The greater of each element and a number.
    pub fn max(self, number: f64) -> Self {
        self.then(|b, x| b.binary_const(Binary::Max, x, number))
    }

    pub fn compare(self, f: Compare, other: Self) -> Self {
        self.then(|b, x| b.compare(f, x, other.value))
    }

    /// Whether each element is above a number.
    pub fn above(self, number: f64) -> Self {
        self.then(|b, x| b.compare_const(Compare::Gt, x, number))
    }

    /// `self ? a : b`, `self` being `bool`.
    pub fn choose(self, a: Self, b: Self) -> Self {
        self.then(|builder, cond| builder.select(cond, a.value, b.value))
    }

    /// A tensor of this type full of one number.
    pub fn full(self, number: f64) -> Self {
        self.then(|b, x| b.full_like(x, number))
    }

    /// A tensor of any type full of one number.
    pub fn full_of(self, ty: &Type, number: f64) -> Self {
        self.then(|b, _| b.full(ty, number))
    }

    /// `0, 1, ..` along the one axis of this size.
    pub fn count(self, size: &Dim, dtype: DType) -> Self {
        self.then(|b, _| b.iota(std::slice::from_ref(size), 0, dtype))
    }

    /// The value of a dimension, as a tensor of this type.
    pub fn full_size(self, dim: &Dim) -> Self {
        self.then(|b, x| {
            let ty = b.ty(x);
            let size = b.size(dim, ty.dtype)?;
            b.broadcast(size, &ty.shape, &[])
        })
    }

    pub fn cast(self, dtype: DType) -> Self {
        self.then(|b, x| b.cast(x, dtype))
    }

    /// In the type that composites compute in.
    pub fn wide(self) -> Self {
        let dtype = self.ty().dtype;
        if dtype.is_float() && dtype.size() == 2 { self.cast(DType::F32) } else { self }
    }

    pub fn reshape(self, shape: &[Dim]) -> Self {
        self.then(|b, x| b.reshape(x, shape))
    }

    pub fn transpose(self, perm: &[usize]) -> Self {
        if perm.is_sorted() { self } else { self.then(|b, x| b.transpose(x, perm)) }
    }

    /// With the last two axes exchanged.
    pub fn transposed(self) -> Self {
        let mut perm: Vec<usize> = (0..self.shape().len()).collect();
        if let [.., a, b] = &mut perm[..] {
            std::mem::swap(a, b);
        }
        self.transpose(&perm)
    }

    pub fn broadcast(self, shape: &[Dim], axes: &[usize]) -> Self {
        self.then(|b, x| b.broadcast(x, shape, axes))
    }

    /// Repeated to the shape of `other`, by the last axes.
    pub fn like(self, other: Self) -> Self {
        let shape = other.shape();
        self.then(|b, x| b.expand(x, &shape))
    }

    pub fn slice(self, axis: usize, start: Dim, stop: Dim) -> Self {
        self.op(Op::Slice { axis, start, stop, step: 1 }, &[])
    }

    /// Slices along `axis` by `indices`.
    pub fn gather(self, indices: Self, axis: usize) -> Self {
        self.op(Op::Gather { axis }, &[indices])
    }

    pub fn reduce(self, f: Reduction, axes: &[usize], keep: bool) -> Self {
        if axes.is_empty() { self } else { self.then(|b, x| b.reduce(f, x, axes, keep)) }
    }

    /// The sum of the last axis, repeated along it.
    pub fn sum_last(self) -> Self {
        self.then(|b, x| b.reduce_last(Reduction::Sum, x)).like(self)
    }

    /// The mean of the last axis, repeated along it.
    pub fn mean_last(self) -> Self {
        self.mean_of_last(|mean| mean)
    }

    /// A function of the mean of the last axis, repeated along it.
    pub fn mean_of_last(self, f: impl FnOnce(Self) -> Self) -> Self {
        let sum = self.then(|b, x| b.reduce_last(Reduction::Sum, x));
        let last = self.shape().pop().unwrap_or(Dim::constant(1));
        f(sum / sum.full_size(&last)).like(self)
    }

    /// The sum over all axes but the last.
    pub fn sum_rows(self) -> Self {
        let axes: Vec<usize> = (0..self.shape().len().saturating_sub(1)).collect();
        self.reduce(Reduction::Sum, &axes, false)
    }

    /// Matrix product.
    pub fn dot(self, rhs: Self, transpose_rhs: bool) -> Self {
        self.then(|b, x| b.dot(x, rhs.value, transpose_rhs))
    }
}

macro_rules! operator {
    ($trait:ident, $method:ident, $f:ident) => {
        impl $trait for Term<'_, '_> {
            type Output = Self;
            fn $method(self, other: Self) -> Self {
                self.binary(Binary::$f, other)
            }
        }

        impl $trait<f64> for Term<'_, '_> {
            type Output = Self;
            fn $method(self, number: f64) -> Self {
                self.then(|b, x| b.binary_const(Binary::$f, x, number))
            }
        }
    };
}

operator!(Add, add, Add);
operator!(Sub, sub, Sub);
operator!(Mul, mul, Mul);
operator!(Div, div, Div);

impl Neg for Term<'_, '_> {
    type Output = Self;
    fn neg(self) -> Self {
        self.unary(Unary::Neg)
    }
}
