//! Reductions as inner loops: over the last axis sixteen elements at once, each sixteenth added to its own sum whatever
//! the width of vectors, and the sums joined in an order that depends on the length alone; over other axes one after the other. Products of matrices and the segments of
//! packed sequences are reductions as well.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, types};
use lith_ir::{Binary, Compare, DType, Dim, NodeId, Pool, Reduction, Value};

use super::emit::{Emit, LANES, Res, Stop, Val, little};
use super::index::{Index, Pos, product};
use crate::builder::{At, ScopeId};

/// Independent sums of a vector reduction: as many as the widest vector has lanes, so that all targets add alike.
const SUMS: i64 = 16;

/// The element of a reduction at a position along the reduced axis, joined to what was accumulated before it.
type Step<'f, 'a> = dyn FnMut(&mut Emit<'a>, &Pos, Val) -> Res<Val> + 'f;

/// What is reduced, and how elements are joined.
struct Reducer<'f, 'a> {
    /// Reduction of accumulators.
    join: Binary,
    /// Dtype that accumulates.
    dtype: DType,
    /// The value of an empty reduction.
    identity: Val,
    step: &'f mut Step<'f, 'a>,
}

fn function(f: Reduction) -> Binary {
    match f {
        Reduction::Sum => Binary::Add,
        Reduction::Prod => Binary::Mul,
        Reduction::Max => Binary::Max,
        Reduction::Min => Binary::Min,
    }
}

/// What values of this dtype accumulate in.
pub fn accumulator(dtype: DType) -> DType {
    match dtype {
        DType::F16 | DType::Bf16 => DType::F32,
        other => other,
    }
}

impl<'a> Emit<'a> {
    fn identity(&mut self, f: Reduction, dtype: DType) -> Res<Val> {
        let ty = self.lane_type(dtype, false)?;
        let (least, most) = dtype.int_range().unwrap_or((0, 0));
        Ok(match (f, ty.is_float()) {
            (Reduction::Sum, true) => self.float(0.0, ty),
            (Reduction::Prod, true) => self.float(1.0, ty),
            (Reduction::Max, true) => self.float(f64::NEG_INFINITY, ty),
            (Reduction::Min, true) => self.float(f64::INFINITY, ty),
            (Reduction::Sum, false) => self.integer(0, ty),
            (Reduction::Prod, false) => self.integer(1, ty),
            (Reduction::Max, false) => self.integer(least, ty),
            (Reduction::Min, false) => self.integer(most, ty),
        })
    }

    /// A loop over `begin..end`, one element a turn.
    fn reduce_scalar(&mut self, scope: ScopeId, begin: At, end: At, init: Val, r: &mut Reducer<'_, 'a>) -> Res<Val> {
        let open = self.b.open_loop(scope, begin, end, 1, &[init.at]);
        let before = Val { at: open.carried[0], vector: init.vector };
        let next = (r.step)(self, &Pos::of(open.i), before)?;
        let next = if init.vector { self.splat(next) } else { next };
        let after = self.b.close_loop(open, &[next.at]);
        Ok(Val { at: after[0], vector: init.vector })
    }

    /// A loop over `0..length`, a vector at once.
    fn reduce_vector(&mut self, scope: ScopeId, length: &Pos, r: &mut Reducer<'_, 'a>) -> Res<Val> {
        let outside = self.lanes;
        let zero = self.b.iconst(0);
        let end = self.pos_at(length);
        let known = length.as_const();
        // Whole turns of all sums, then of the first four, then single elements.
        let floor = |e: &mut Self, unit: i64| match known {
            Some(n) => e.b.iconst(n.max(0) / unit * unit),
            None => e.b.put(end.scope, |c| c.ins().band_imm_s(end.v, -unit)),
        };
        let (wide_end, vector_end) = (floor(self, SUMS), floor(self, LANES));
        let mut sums = Vec::new();
        if known.is_none_or(|n| n >= SUMS) {
            self.lanes = self.machine.lanes;
            let identity = self.splat(r.identity);
            let init: Vec<At> = (0..SUMS / self.lanes).map(|_| identity.at).collect();
            let open = self.b.open_loop(scope, zero, wide_end, SUMS, &init);
            let mut next = Vec::new();
            for (i, &before) in open.carried.iter().enumerate() {
                let pos = Pos::lanes(open.i, self.lanes * i as i64, self.lanes);
                let y = (r.step)(self, &pos, Val { at: before, vector: true })?;
                next.push(self.splat(y).at);
            }
            for at in self.b.close_loop(open, &next) {
                sums.extend(self.quarters(at)?);
            }
        }
        self.lanes = LANES;
        if sums.is_empty() {
            sums = vec![self.splat(r.identity); (SUMS / LANES) as usize];
        }
        if known.is_none_or(|n| n.max(0) % SUMS >= LANES) {
            let open = self.b.open_loop(scope, wide_end, vector_end, LANES, &[sums[0].at]);
            let before = Val { at: open.carried[0], vector: true };
            let y = (r.step)(self, &Pos::lanes(open.i, 0, LANES), before)?;
            let y = self.splat(y);
            sums[0].at = self.b.close_loop(open, &[y.at])[0];
        }
        let low = self.binary(r.join, r.dtype, sums[0], sums[1])?;
        let high = self.binary(r.join, r.dtype, sums[2], sums[3])?;
        let all = self.binary(r.join, r.dtype, low, high)?;
        self.lanes = outside;
        let mut lanes = Vec::new();
        for i in 0..LANES as u8 {
            let at = self.b.put(all.at.scope, |c| c.ins().extractlane(all.at.v, i));
            lanes.push(Val { at, vector: false });
        }
        let low = self.binary(r.join, r.dtype, lanes[0], lanes[2])?;
        let high = self.binary(r.join, r.dtype, lanes[1], lanes[3])?;
        let all = self.binary(r.join, r.dtype, low, high)?;
        if known.is_some_and(|n| n.max(0) % LANES == 0) {
            return Ok(all);
        }
        let rest = self.reduce_scalar(scope, vector_end, end, r.identity, r)?;
        self.binary(r.join, r.dtype, all, rest)
    }

    /// The vectors of four lanes that a vector of `f32` is made of.
    fn quarters(&mut self, x: At) -> Res<Vec<Val>> {
        if self.lanes == LANES {
            return Ok(vec![Val { at: x, vector: true }]);
        }
        let parts = self.lanes / LANES;
        let ty = types::I128.by(parts as u32).ok_or(Stop::NotVector)?;
        let all = self.b.put(x.scope, |c| c.ins().bitcast(ty, little(), x.v));
        let part = |i: i64| {
            let at = self.b.put(x.scope, |c| {
                let bits = c.ins().extractlane(all.v, i as u8);
                c.ins().bitcast(types::F32X4, little(), bits)
            });
            Val { at, vector: true }
        };
        Ok((0..parts).map(part).collect())
    }

    /// A reduction over `0..length` on behalf of `node`: a vector at once if `vector` and the step allow it.
    fn reduce_over(
        &mut self,
        node: NodeId,
        scope: ScopeId,
        length: &Dim,
        vector: bool,
        r: &mut Reducer<'_, 'a>,
    ) -> Res<Val> {
        let length = self.dim(length);
        if vector
            && r.dtype == DType::F32
            && !self.scalar.contains(&node)
            && length.as_const().is_none_or(|n| n >= LANES)
        {
            return self.reduce_vector(scope, &length, r).map_err(|stop| match stop {
                Stop::NotVector => Stop::NotVectorAt(node),
                other => other,
            });
        }
        let (zero, end) = (self.b.iconst(0), self.pos_at(&length));
        let init = r.identity;
        self.reduce_scalar(scope, zero, end, init, r)
    }

    /// `reduce` at an index of its result.
    pub fn reduce(
        &mut self,
        node: NodeId,
        f: Reduction,
        x: Value,
        axes: &[usize],
        keep: bool,
        index: &Index,
    ) -> Res<Val> {
        let graph = self.graph;
        let (from, to) = (graph.ty(x).clone(), graph.node(node).types[0].shape.clone());
        let dtype = accumulator(from.dtype);
        // Trailing reduced axes are one loop; those before them a loop each, outside of it.
        let rank = from.rank();
        let mut first_trailing = rank;
        while first_trailing > 0 && axes.contains(&(first_trailing - 1)) {
            first_trailing -= 1;
        }
        let outer: Vec<usize> = axes.iter().copied().filter(|&a| a < first_trailing).collect();
        // The index of the kept axes, in runs between reduced ones; `None` stands for a reduced axis.
        let mut pattern: Vec<Option<Vec<(Pos, usize)>>> = Vec::new();
        let (mut axis, mut kept) = (0, 0);
        while axis < first_trailing {
            if outer.contains(&axis) {
                pattern.push(None);
                axis += 1;
                kept += usize::from(keep);
                continue;
            }
            let run = (axis..first_trailing).take_while(|a| !outer.contains(a)).count();
            pattern.push(Some(self.sub(index, &to, kept, kept + run)?));
            axis += run;
            kept += run;
        }
        let identity = self.identity(f, dtype)?;
        let y = self.reduce_nest(node, f, x, index, &pattern, &outer, &[], identity)?;
        Ok(self.rounded(from.dtype, y))
    }

    #[allow(clippy::too_many_arguments, reason = "one recursive step of `reduce`")]
    fn reduce_nest(
        &mut self,
        node: NodeId,
        f: Reduction,
        x: Value,
        index: &Index,
        pattern: &[Option<Vec<(Pos, usize)>>],
        outer: &[usize],
        positions: &[Pos],
        identity: Val,
    ) -> Res<Val> {
        let from = self.graph.ty(x).clone();
        let dtype = accumulator(from.dtype);
        let join = function(f);
        let at = |positions: &[Pos], last: Option<(Pos, usize)>| {
            let mut reduced = positions.iter();
            let mut groups = Vec::new();
            for part in pattern {
                match part {
                    Some(kept) => groups.extend(kept.iter().cloned()),
                    None => groups.extend(reduced.next().map(|p| (p.clone(), 1))),
                }
            }
            groups.extend(last);
            index.with(groups)
        };
        let scope = self.index_scope(&at(positions, None));
        if let Some((&axis, rest)) = outer.split_first() {
            let length = from.shape[axis].clone();
            let init = if index.uniform() { identity } else { self.splat_of(dtype, identity)? };
            let mut step = |e: &mut Emit<'a>, pos: &Pos, before: Val| {
                let known: Vec<Pos> = positions.iter().chain([pos]).cloned().collect();
                let inner = e.reduce_nest(node, f, x, index, pattern, rest, &known, identity)?;
                e.binary(join, dtype, before, inner)
            };
            let mut r = Reducer { join, dtype, identity: init, step: &mut step };
            return self.reduce_over(node, scope, &length, false, &mut r);
        }
        let trailing: usize = from.rank() - pattern_axes(pattern);
        if trailing == 0 {
            return self.value(x, &at(positions, None));
        }
        let length = product(&from.shape[from.rank() - trailing..]);
        let mut step = |e: &mut Emit<'a>, pos: &Pos, before: Val| {
            let y = e.value(x, &at(positions, Some((pos.clone(), trailing))))?;
            e.binary(join, dtype, before, y)
        };
        let uniform = index.uniform();
        let init = if uniform { identity } else { self.splat_of(dtype, identity)? };
        let mut r = Reducer { join, dtype, identity: init, step: &mut step };
        self.reduce_over(node, scope, &length, uniform, &mut r)
    }

    /// `dot` at an index of its result.
    pub fn dot(&mut self, node: NodeId, [a, b]: [Value; 2], transposed: bool, index: &Index) -> Res<Val> {
        let graph = self.graph;
        let (from, to) = (graph.ty(a).clone(), graph.node(node).types[0].shape.clone());
        let rank = to.len();
        let rows = self.sub(index, &to, 0, rank - 1)?;
        let batch = self.sub(index, &to, 0, rank - 2)?;
        let column = self.sub(index, &to, rank - 1, rank)?;
        let dtype = accumulator(from.dtype);
        let scope = self.index_scope(index);
        let mut step = |e: &mut Emit<'a>, pos: &Pos, before: Val| {
            let k = (pos.clone(), 1);
            let mut left = rows.clone();
            left.push(k.clone());
            let mut right = batch.clone();
            if transposed {
                right.extend(column.iter().cloned());
                right.push(k);
            } else {
                right.push(k);
                right.extend(column.iter().cloned());
            }
            let (x, y) = (e.value(a, &index.with(left))?, e.value(b, &index.with(right))?);
            if dtype.is_float() {
                return Ok(e.fma(x, y, before));
            }
            let product = e.binary(Binary::Mul, dtype, x, y)?;
            e.binary(Binary::Add, dtype, before, product)
        };
        let uniform = index.uniform();
        let identity = self.identity(Reduction::Sum, dtype)?;
        let identity = if uniform { identity } else { self.splat_of(dtype, identity)? };
        let mut r = Reducer { join: Binary::Add, dtype, identity, step: &mut step };
        let y = self.reduce_over(node, scope, &from.shape[from.rank() - 1], uniform && transposed, &mut r)?;
        Ok(self.rounded(from.dtype, y))
    }

    /// `splat`, where four elements of the dtype are a vector.
    fn splat_of(&mut self, dtype: DType, x: Val) -> Res<Val> {
        self.lane_type(dtype, true)?;
        Ok(self.splat(x))
    }

    /// An element of `offsets` as 64 bits.
    fn offset(&mut self, offsets: Value, pos: Pos, index: &Index) -> Res<At> {
        let x = self.value(offsets, &index.with(vec![(pos, 1)]))?;
        Ok(self.cast(DType::I32, DType::I64, x)?.at)
    }

    /// `segment_ids` at a token: how many sequences end at or before it, by bisection.
    pub fn segment_ids(&mut self, offsets: Value, index: &Index) -> Res<Val> {
        if !index.uniform() {
            return Err(Stop::NotVector);
        }
        let count = self.graph.ty(offsets).shape[0].clone();
        let token = match index.groups.first() {
            Some((pos, _)) => self.pos_at(&pos.clone()),
            None => self.b.iconst(0),
        };
        // Invariant: ends before `low` are at or before the token, ends from `high` on behind it. 32 halvings do for any
        // number of sequences; those after the end change nothing.
        let (zero, turns) = (self.b.iconst(0), self.b.iconst(32));
        let sequences = self.dim_at(&(count - Dim::constant(1)));
        let scope = self.index_scope(index);
        let open = self.b.open_loop(scope, zero, turns, 1, &[zero, sequences]);
        let (low, high) = (open.carried[0], open.carried[1]);
        let inner = open.scope;
        let searching = self.b.icmp(IntCC::SignedLessThan, low, high);
        let middle = self.b.put(inner, |c| {
            let sum = c.ins().iadd(low.v, high.v);
            c.ins().ushr_imm_u(sum, 1)
        });
        let end = self.b.put(inner, |c| c.ins().iadd_imm_s(middle.v, 1));
        let mut guarded = index.clone();
        guarded.guard = Some(match index.guard {
            None => searching,
            Some(g) => self.b.put(inner, |c| c.ins().band(g.v, searching.v)),
        });
        let offset = self.offset(offsets, Pos::of(end), &guarded)?;
        let behind = self.b.icmp(IntCC::SignedGreaterThan, offset, token);
        let new_high = self.b.select(behind, middle, high);
        let new_low = self.b.select(behind, low, end);
        let next = [self.b.select(searching, new_low, low), self.b.select(searching, new_high, high)];
        let after = self.b.close_loop(open, &next);
        self.cast(DType::I64, DType::I32, Val { at: after[0], vector: false })
    }

    /// `segment_pool` at an index of its result.
    pub fn segment_pool(&mut self, f: Pool, x: Value, offsets: Value, index: &Index) -> Res<Val> {
        let ty = self.graph.ty(x).clone();
        let dtype = accumulator(ty.dtype);
        let to = [self.graph.ty(offsets).shape[0].clone() - Dim::constant(1), ty.shape[1].clone()];
        let sequence = self.axis(index, &to, 0)?;
        let feature = self.axis(index, &to, 1)?;
        if sequence.step != 0 {
            return Err(Stop::NotVector);
        }
        let following = self.add(&sequence, &Pos::constant(1));
        let (begin, end) = (self.offset(offsets, sequence, index)?, self.offset(offsets, following, index)?);
        // Offsets come from the caller: no token outside `x` is read, whatever they are.
        let (zero, tokens) = (self.b.iconst(0), self.dim_at(&ty.shape[0]));
        let clamp = |e: &mut Self, v: At| {
            let below = e.b.icmp(IntCC::SignedLessThan, v, zero);
            let v = e.b.select(below, zero, v);
            let beyond = e.b.icmp(IntCC::SignedGreaterThan, v, tokens);
            e.b.select(beyond, tokens, v)
        };
        let (begin, end) = (clamp(self, begin), clamp(self, end));
        let reduction = if f == Pool::Max { Reduction::Max } else { Reduction::Sum };
        let join = function(reduction);
        let identity = self.identity(reduction, dtype)?;
        let identity = if index.uniform() { identity } else { self.splat_of(dtype, identity)? };
        let mut step = |e: &mut Emit<'a>, pos: &Pos, before: Val| {
            let y = e.value(x, &index.with(vec![(pos.clone(), 1), (feature.clone(), 1)]))?;
            e.binary(join, dtype, before, y)
        };
        let mut r = Reducer { join, dtype, identity, step: &mut step };
        let scope = self.index_scope(index);
        let mut y = self.reduce_scalar(scope, begin, end, identity, &mut r)?;
        if f == Pool::Mean {
            let scope = self.b.deeper(begin.scope, end.scope);
            let count = self.b.put(scope, |c| c.ins().isub(end.v, begin.v));
            let count = self.cast(DType::I64, dtype, Val { at: count, vector: false })?;
            let ty = self.ty(count);
            let (zero, one) = (self.float(0.0, ty), self.float(1.0, ty));
            let some = self.compare(Compare::Gt, dtype, count, zero)?;
            let count = self.choose(some, count, one);
            y = self.binary(Binary::Div, dtype, y, count)?;
        }
        Ok(self.rounded(ty.dtype, y))
    }
}

fn pattern_axes(pattern: &[Option<Vec<(Pos, usize)>>]) -> usize {
    pattern.iter().map(|p| p.as_ref().map_or(1, |groups| groups.iter().map(|(_, n)| n).sum())).sum()
}
