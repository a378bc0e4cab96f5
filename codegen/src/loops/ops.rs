//! Each op's value at an index, from its operands' values at theirs.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, types};
use lith_ir::{Binary, DType, Dim, Literal, NodeId, Op, Value};

use super::emit::{Emit, Res, Stop, Val};
use super::index::{Index, Pos};
use crate::builder::At;

impl Emit<'_> {
    /// The value of `value` at `index`.
    pub fn value(&mut self, value: Value, index: &Index) -> Res<Val> {
        let key = (value, index.clone());
        if let Some(&val) = self.memo.get(&key) {
            return Ok(val);
        }
        if !index.uniform() {
            self.lane_type(self.graph.ty(value).dtype, true)?;
        }
        let val = match self.buffers.get(&value) {
            Some(&buffer) => {
                let ty = self.graph.ty(value).clone();
                let raw = self.load(buffer, index, &ty.shape)?;
                if buffer.dtype == ty.dtype { raw } else { self.cast(buffer.dtype, ty.dtype, raw)? }
            }
            None => self.node(value.node, index)?,
        };
        self.memo.insert(key, val);
        Ok(val)
    }

    /// Shape of a value.
    pub fn shape(&self, value: Value) -> Vec<Dim> {
        self.graph.ty(value).shape.clone()
    }

    fn node(&mut self, node: NodeId, index: &Index) -> Res<Val> {
        let graph = self.graph;
        let (op, ty) = (&graph.node(node).op, &graph.node(node).types[0]);
        let xs = graph.inputs(node);
        let x = |i: usize| xs.get(i).copied().ok_or(Stop::NotVector);
        match op {
            Op::Unary { f } => {
                let x = self.value(x(0)?, index)?;
                self.unary(*f, ty.dtype, x)
            }
            Op::Binary { f } => self.binary_node(*f, ty.dtype, [x(0)?, x(1)?], index),
            Op::Compare { f } => {
                let dtype = graph.ty(x(0)?).dtype;
                let (a, b) = (self.value(x(0)?, index)?, self.value(x(1)?, index)?);
                self.compare(*f, dtype, a, b)
            }
            Op::Select {} => {
                let cond = self.value(x(0)?, index)?;
                let (a, b) = (self.value(x(1)?, index)?, self.value(x(2)?, index)?);
                Ok(self.choose(cond, a, b))
            }
            Op::Cast { dtype } => {
                let from = graph.ty(x(0)?).dtype;
                let x = self.value(x(0)?, index)?;
                self.cast(from, *dtype, x)
            }
            Op::Const { value } => self.constant(value),
            Op::Size { dim } => {
                let at = self.dim_at(dim);
                Ok(Val { at, vector: false })
            }
            Op::Iota { shape, axis, dtype } => {
                let pos = self.axis(index, shape, *axis)?;
                self.iota(&pos, *dtype)
            }
            Op::StateWrite { .. } => self.value(x(0)?, index),
            Op::Reshape { shape } => {
                let from = self.shape(x(0)?);
                let index = self.reshape(index, shape, &from)?;
                self.value(x(0)?, &index)
            }
            Op::Transpose { perm } => {
                let mut groups = vec![(Pos::constant(0), 1); perm.len()];
                for (to, &from) in perm.iter().enumerate() {
                    groups[from] = (self.axis(index, &ty.shape, to)?, 1);
                }
                self.value(x(0)?, &index.with(groups))
            }
            Op::Broadcast { shape, axes } => {
                let from = self.shape(x(0)?);
                let index = self.broadcast(index, shape, &from, axes)?;
                self.value(x(0)?, &index)
            }
            Op::Slice { axis, start, stop, step } => {
                let pos = self.axis(index, &ty.shape, *axis)?;
                let scaled = self.mul(&pos, &Pos::constant(*step as i64))?;
                let first = self.dim(start);
                let pos = self.add(&scaled, &first);
                let size = self.shape(x(0)?)[*axis].clone();
                let mut inner = self.replace_axis(index, &ty.shape, *axis, pos.clone())?;
                let at_least_0 = |d: Dim| d.bounds(self.symbols).0 >= 0;
                if !(at_least_0(start.clone()) && at_least_0(size.clone() - stop.clone())) {
                    // Nothing but the caller's shapes says that the bounds are inside: memory beyond is not read.
                    let inside = self.range(&pos, &Dim::constant(0), &size)?;
                    inner.guard = Some(self.both(inner.guard, inside.at));
                }
                self.value(x(0)?, &inner)
            }
            Op::Concat { axis } => self.concat(&xs, *axis, index, &ty.shape),
            Op::Pad { axis, before, .. } => {
                let pos = self.axis(index, &ty.shape, *axis)?;
                let before = Dim::from(*before);
                let size = self.shape(x(0)?)[*axis].clone();
                let inside = self.range(&pos, &before, &(before.clone() + size))?;
                let value = self.inner(x(0)?, index, &ty.shape, *axis, &pos, &before, inside)?;
                let fill = self.value(x(1)?, &Index::new(Vec::new()))?;
                Ok(self.choose(inside, value, fill))
            }
            Op::Gather { axis } => self.gather(x(0)?, x(1)?, *axis, index, &ty.shape),
            Op::Dot { transpose_rhs } => self.dot(node, [x(0)?, x(1)?], *transpose_rhs, index),
            Op::Reduce { f, axes, keep } => self.reduce(node, *f, x(0)?, axes, *keep, index),
            Op::SegmentIds { .. } => self.segment_ids(x(0)?, index),
            Op::SegmentPool { f } => self.segment_pool(*f, x(0)?, x(1)?, index),
            other => {
                let name = other.name();
                self.wrong(format!("`{name}` has no loop form"))
            }
        }
    }

    /// Binary ops; a sum with a product inside the kernel is one fused operation.
    fn binary_node(&mut self, f: Binary, dtype: DType, [a, b]: [Value; 2], index: &Index) -> Res<Val> {
        if f == Binary::Add && matches!(dtype, DType::F32 | DType::F64) {
            for (product, other) in [(a, b), (b, a)] {
                if self.buffers.contains_key(&product) || self.graph.users(product).len() != 1 {
                    continue;
                }
                if let Op::Binary { f: Binary::Mul } = self.graph.node(product.node).op {
                    let factors = self.graph.inputs(product.node);
                    let (x, y) = (self.value(factors[0], index)?, self.value(factors[1], index)?);
                    let z = self.value(other, index)?;
                    return Ok(self.fma(x, y, z));
                }
            }
        }
        let (x, y) = (self.value(a, index)?, self.value(b, index)?);
        self.binary(f, dtype, x, y)
    }

    /// A scalar constant; others lie in memory.
    fn constant(&mut self, value: &Literal) -> Res<Val> {
        let bytes = value.bytes();
        if bytes.len() != value.dtype().size() {
            return self.wrong("a constant of several elements without memory");
        }
        let mut raw = [0u8; 8];
        raw[..bytes.len()].copy_from_slice(bytes);
        let bits = i64::from_le_bytes(raw);
        let half = |b: i64| b as u16;
        Ok(match value.dtype() {
            DType::F64 => self.float(f64::from_bits(bits as u64), types::F64),
            DType::F32 => self.float(f32::from_bits(bits as u32).into(), types::F32),
            DType::F16 => self.float(half::f16::from_bits(half(bits)).to_f64(), types::F32),
            DType::Bf16 => self.float(half::bf16::from_bits(half(bits)).to_f64(), types::F32),
            dtype => {
                let ty = self.lane_type(dtype, false)?;
                self.integer(bits, ty)
            }
        })
    }

    fn iota(&mut self, pos: &Pos, dtype: DType) -> Res<Val> {
        let first = self.pos_at(pos);
        let first = Val { at: first, vector: false };
        if pos.step == 0 {
            return self.cast(DType::I64, dtype, first);
        }
        if !matches!(dtype, DType::I32 | DType::F32) {
            return Err(Stop::NotVector);
        }
        let mut lanes = Vec::new();
        for lane in 0..self.lanes {
            let offset = self.integer(lane * pos.step, types::I64);
            let i = self.bin(first, offset, |c, a, b| c.ins().iadd(a, b));
            lanes.push(self.cast(DType::I64, dtype, i)?);
        }
        self.gather_lanes(&lanes)
    }

    /// The operand's index under a broadcast. A group stays whole where all its axes of more than one element are the
    /// operand's.
    fn broadcast(&mut self, index: &Index, to: &[Dim], from: &[Dim], axes: &[usize]) -> Res<Index> {
        let mut groups = Vec::new();
        let mut first = 0;
        let one = Some(1);
        for (pos, count) in index.groups.clone() {
            let (lo, hi) = (first, first + count);
            first = hi;
            let mapped: Vec<usize> = (0..axes.len()).filter(|&j| (lo..hi).contains(&axes[j])).collect();
            let repeats = |j: usize| from[j].as_const() == one && to[axes[j]].as_const() != one;
            let covers = (lo..hi)
                .filter(|&t| to[t].as_const() != one)
                .all(|t| mapped.iter().any(|&j| axes[j] == t && !repeats(j)));
            if covers {
                if !mapped.is_empty() {
                    groups.push((pos, mapped.len()));
                }
                continue;
            }
            for j in mapped {
                let pos = if repeats(j) { Pos::constant(0) } else { self.axis(index, to, axes[j])? };
                groups.push((pos, 1));
            }
        }
        Ok(index.with(groups))
    }

    /// The index with another position along one axis.
    fn replace_axis(&mut self, index: &Index, shape: &[Dim], axis: usize, pos: Pos) -> Res<Index> {
        let mut groups = self.sub(index, shape, 0, axis)?;
        groups.push((pos, 1));
        groups.extend(self.sub(index, shape, axis + 1, shape.len())?);
        Ok(index.with(groups))
    }

    /// Whether a position is in `lo..hi`, as one answer for all lanes.
    fn range(&mut self, pos: &Pos, lo: &Dim, hi: &Dim) -> Res<Val> {
        if pos.step != 0 {
            // All lanes are on one side when the bounds lie between vectors.
            let aligned = |d: &Dim| d.is_multiple_of(self.lanes, self.symbols);
            if pos.step != 1 || !pos.lane_aligned(self.lanes) || !aligned(lo) || !aligned(hi) {
                return Err(Stop::NotVector);
            }
        }
        let at = self.pos_at(pos);
        let (lo, hi) = (self.dim_at(lo), self.dim_at(hi));
        let above = self.b.icmp(IntCC::SignedGreaterThanOrEqual, at, lo);
        let below = self.b.icmp(IntCC::SignedLessThan, at, hi);
        let scope = self.b.deeper(above.scope, below.scope);
        let at = self.b.put(scope, |c| c.ins().band(above.v, below.v));
        Ok(Val { at, vector: false })
    }

    /// The value of `x` at `pos - start` of an axis, where `inside` holds.
    #[allow(clippy::too_many_arguments, reason = "an index and where in it")]
    fn inner(
        &mut self,
        x: Value,
        index: &Index,
        shape: &[Dim],
        axis: usize,
        pos: &Pos,
        start: &Dim,
        inside: Val,
    ) -> Res<Val> {
        let start = self.dim(&(Dim::constant(0) - start.clone()));
        let pos = self.add(pos, &start);
        let mut index = self.replace_axis(index, shape, axis, pos)?;
        index.guard = Some(self.both(index.guard, inside.at));
        self.value(x, &index)
    }

    fn both(&mut self, guard: Option<At>, cond: At) -> At {
        match guard {
            None => cond,
            Some(g) => {
                let scope = self.b.deeper(g.scope, cond.scope);
                self.b.put(scope, |c| c.ins().band(g.v, cond.v))
            }
        }
    }

    fn concat(&mut self, xs: &[Value], axis: usize, index: &Index, shape: &[Dim]) -> Res<Val> {
        let pos = self.axis(index, shape, axis)?;
        let mut start = Dim::constant(0);
        let mut result: Option<Val> = None;
        for &x in xs {
            let end = start.clone() + self.shape(x)[axis].clone();
            let inside = self.range(&pos, &start, &end)?;
            let value = self.inner(x, index, shape, axis, &pos, &start, inside)?;
            result = Some(match result {
                None => value,
                Some(before) => self.choose(inside, value, before),
            });
            start = end;
        }
        match result {
            Some(v) => Ok(v),
            None => self.wrong("`concat` of nothing"),
        }
    }

    fn gather(&mut self, x: Value, indices: Value, axis: usize, index: &Index, shape: &[Dim]) -> Res<Val> {
        let (from, by) = (self.shape(x), self.graph.ty(indices).clone());
        let rank = by.rank();
        let at = index.with(self.sub(index, shape, axis, axis + rank)?);
        let chosen = self.value(indices, &at)?;
        if chosen.vector {
            return Err(Stop::NotVector);
        }
        let chosen = self.cast(by.dtype, DType::I64, chosen)?.at;
        let (zero, one, size) = (self.b.iconst(0), self.b.iconst(1), self.dim_at(&from[axis]));
        let last = {
            let scope = size.scope;
            self.b.put(scope, |c| c.ins().isub(size.v, one.v))
        };
        let beyond = self.b.icmp(IntCC::SignedGreaterThan, chosen, last);
        let chosen = self.b.select(beyond, last, chosen);
        let below = self.b.icmp(IntCC::SignedLessThan, chosen, zero);
        let chosen = self.b.select(below, zero, chosen);
        let mut groups = self.sub(index, shape, 0, axis)?;
        groups.push((Pos::of(chosen), 1));
        groups.extend(self.sub(index, shape, axis + rank, shape.len())?);
        let mut inner = index.with(groups);
        if from[axis].bounds(self.symbols).0 >= 1 {
            return self.value(x, &inner);
        }
        let some = self.b.icmp(IntCC::SignedGreaterThan, size, zero);
        inner.guard = Some(self.both(inner.guard, some));
        let value = self.value(x, &inner)?;
        let dtype = self.graph.ty(x).dtype;
        let zero = self.zero(dtype)?;
        Ok(self.choose(Val { at: some, vector: false }, value, zero))
    }

    /// Zero of a type.
    pub fn zero(&mut self, dtype: DType) -> Res<Val> {
        let ty = self.lane_type(dtype, false)?;
        Ok(if ty.is_float() { self.float(0.0, ty) } else { self.integer(0, ty) })
    }
}
