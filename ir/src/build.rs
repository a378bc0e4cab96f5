//! Short methods that record ops into a graph at one path, for code that writes formulas: decompositions, tracers and
//! tests. Knows no op's meaning beyond its type rule.

use crate::dim::Dim;
use crate::dtype::DType;
use crate::graph::{Graph, GraphError, Value};
use crate::op::{Binary, Compare, Op, Reduction, Unary};
use crate::types::{Literal, Type};

/// The result of a step: the new value, or why the operands did not fit.
pub type Built = Result<Value, GraphError>;

/// Records into a graph at one path.
pub struct Builder<'g> {
    graph: &'g mut Graph,
    path: String,
}

impl<'g> Builder<'g> {
    /// A builder into `graph` whose nodes stand at `path`.
    pub fn new(graph: &'g mut Graph, path: &str) -> Self {
        Builder { graph, path: path.into() }
    }

    /// The graph.
    pub fn graph(&mut self) -> &mut Graph {
        self.graph
    }

    /// The type of a value of the graph.
    ///
    /// # Panics
    /// When it is not in the graph.
    pub fn ty(&self, x: Value) -> Type {
        self.graph.ty(x).clone()
    }

    /// Any op whose operands are all there.
    ///
    /// # Errors
    /// This and the methods below fail as [`Graph::add_with`] does.
    pub fn op(&mut self, op: Op, operands: &[Value]) -> Built {
        self.graph.add(op, operands, &self.path)
    }

    /// Any op; operands may be absent.
    ///
    /// # Errors
    /// As [`Graph::add_with`].
    pub fn op_with(&mut self, op: Op, operands: &[Option<Value>]) -> Built {
        self.graph.add_with(op, operands, &self.path).map(Value::from)
    }

    /// The next argument, of this name and type.
    pub fn arg(&mut self, name: &str, ty: Type) -> Built {
        let index = self.graph.args().len();
        self.op(Op::Arg { index, name: name.into(), ty }, &[])
    }

    /// The parameter of this name.
    pub fn param(&mut self, name: &str, ty: Type) -> Built {
        self.op(Op::Param { name: name.into(), ty }, &[])
    }

    /// A constant scalar, rounded or truncated to `dtype`.
    pub fn scalar(&mut self, dtype: DType, value: f64) -> Built {
        self.op(Op::Const { value: Literal::scalar(dtype, value) }, &[])
    }

    /// A tensor of type `ty` full of one value.
    pub fn full(&mut self, ty: &Type, value: f64) -> Built {
        let scalar = self.scalar(ty.dtype, value)?;
        if ty.rank() == 0 { Ok(scalar) } else { self.broadcast(scalar, &ty.shape, &[]) }
    }

    /// A tensor of the type of `x` full of one value.
    pub fn full_like(&mut self, x: Value, value: f64) -> Built {
        let ty = self.ty(x);
        self.full(&ty, value)
    }

    /// `0, 1, ..` along `axis` of `shape`.
    pub fn iota(&mut self, shape: &[Dim], axis: usize, dtype: DType) -> Built {
        self.op(Op::Iota { shape: shape.to_vec(), axis, dtype }, &[])
    }

    /// The value of a dimension as a scalar of `dtype`.
    pub fn size(&mut self, dim: &Dim, dtype: DType) -> Built {
        match dim.as_const() {
            Some(v) if dtype.is_float() => self.scalar(dtype, v as f64),
            _ => {
                let size = self.op(Op::Size { dim: dim.clone() }, &[])?;
                self.cast(size, dtype)
            }
        }
    }

    /// `f(x)`.
    pub fn unary(&mut self, f: Unary, x: Value) -> Built {
        self.op(Op::Unary { f }, &[x])
    }

    /// `f(a, b)`.
    pub fn binary(&mut self, f: Binary, a: Value, b: Value) -> Built {
        self.op(Op::Binary { f }, &[a, b])
    }

    /// `f(a, constant)`.
    pub fn binary_const(&mut self, f: Binary, a: Value, constant: f64) -> Built {
        let b = self.full_like(a, constant)?;
        self.binary(f, a, b)
    }

    /// `a + b`.
    pub fn add(&mut self, a: Value, b: Value) -> Built {
        self.binary(Binary::Add, a, b)
    }

    /// `a - b`.
    pub fn sub(&mut self, a: Value, b: Value) -> Built {
        self.binary(Binary::Sub, a, b)
    }

    /// `a * b`.
    pub fn mul(&mut self, a: Value, b: Value) -> Built {
        self.binary(Binary::Mul, a, b)
    }

    /// `a / b`.
    pub fn div(&mut self, a: Value, b: Value) -> Built {
        self.binary(Binary::Div, a, b)
    }

    /// `a + constant`.
    pub fn add_const(&mut self, a: Value, constant: f64) -> Built {
        self.binary_const(Binary::Add, a, constant)
    }

    /// `a * constant`.
    pub fn mul_const(&mut self, a: Value, constant: f64) -> Built {
        self.binary_const(Binary::Mul, a, constant)
    }

    /// `f(a, b)` as `bool`.
    pub fn compare(&mut self, f: Compare, a: Value, b: Value) -> Built {
        self.op(Op::Compare { f }, &[a, b])
    }

    /// `f(a, constant)` as `bool`.
    pub fn compare_const(&mut self, f: Compare, a: Value, constant: f64) -> Built {
        let b = self.full_like(a, constant)?;
        self.compare(f, a, b)
    }

    /// `cond ? a : b`.
    pub fn select(&mut self, cond: Value, a: Value, b: Value) -> Built {
        self.op(Op::Select {}, &[cond, a, b])
    }

    /// Conversion; `x` itself when it has that dtype.
    pub fn cast(&mut self, x: Value, dtype: DType) -> Built {
        if self.graph.try_ty(x).is_some_and(|t| t.dtype == dtype) { Ok(x) } else { self.op(Op::Cast { dtype }, &[x]) }
    }

    /// The same elements under another shape; `x` itself when it has that shape.
    pub fn reshape(&mut self, x: Value, shape: &[Dim]) -> Built {
        if self.graph.try_ty(x).is_some_and(|t| t.shape == shape) {
            Ok(x)
        } else {
            self.op(Op::Reshape { shape: shape.to_vec() }, &[x])
        }
    }

    /// Permutes axes.
    pub fn transpose(&mut self, x: Value, perm: &[usize]) -> Built {
        self.op(Op::Transpose { perm: perm.to_vec() }, &[x])
    }

    /// Axis `i` of `x` becomes axis `axes[i]` of `shape`, the rest repeats; `x` itself when it has that shape.
    pub fn broadcast(&mut self, x: Value, shape: &[Dim], axes: &[usize]) -> Built {
        if self.graph.try_ty(x).is_some_and(|t| t.shape == shape) {
            Ok(x)
        } else {
            self.op(Op::Broadcast { shape: shape.to_vec(), axes: axes.to_vec() }, &[x])
        }
    }

    /// Repeats axes of size 1, or adds leading axes, until `x` has `shape`: its axes are the last ones.
    pub fn expand(&mut self, x: Value, shape: &[Dim]) -> Built {
        let rank = self.ty(x).rank();
        let axes: Vec<usize> = (shape.len().saturating_sub(rank)..shape.len()).collect();
        self.broadcast(x, shape, &axes)
    }

    /// Reduction of the last axis, which stays as size 1.
    pub fn reduce_last(&mut self, f: Reduction, x: Value) -> Built {
        let last = self.ty(x).rank().saturating_sub(1);
        self.reduce(f, x, &[last], true)
    }

    /// Reduction.
    pub fn reduce(&mut self, f: Reduction, x: Value, axes: &[usize], keep: bool) -> Built {
        self.op(Op::Reduce { f, axes: axes.to_vec(), keep }, &[x])
    }

    /// Slices of `x` along `axis` chosen by `indices`.
    pub fn gather(&mut self, x: Value, indices: Value, axis: usize) -> Built {
        self.op(Op::Gather { axis }, &[x, indices])
    }

    /// Batched matrix product.
    pub fn dot(&mut self, lhs: Value, rhs: Value, transpose_rhs: bool) -> Built {
        self.op(Op::Dot { transpose_rhs }, &[lhs, rhs])
    }
}
