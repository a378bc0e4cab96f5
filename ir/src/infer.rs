//! The type rule of every op: result types from operand types and attributes.

use crate::dim::Dim;
use crate::dtype::DType;
use crate::op::{Arity, Binary, CachePart, Op, Pool, Unary};
use crate::types::Type;

/// Why operands do not fit an op.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{op}: {problem}")]
pub struct TypeError {
    /// Name of the op.
    pub op: &'static str,
    /// What was expected and found, with the types.
    pub problem: String,
}

/// Types of the results of `op` on operands of these types (`None`: an optional operand that is absent; operands
/// beyond the row's last are its repeated one).
///
/// # Errors
/// When an operand is missing, superfluous or of a wrong dtype or shape, or an attribute does not fit.
pub fn result_types(op: &Op, operands: &[Option<&Type>]) -> Result<Vec<Type>, TypeError> {
    let rule = Rule { op: op.name(), operands, row: op.operands() };
    rule.arity()?;
    rule.results(op).map_err(|problem| TypeError { op: op.name(), problem })
}

struct Rule<'a> {
    op: &'static str,
    operands: &'a [Option<&'a Type>],
    row: &'static [(&'static str, Arity)],
}

fn ensure(holds: bool, problem: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(problem()) }
}

impl Rule<'_> {
    fn arity(&self) -> Result<(), TypeError> {
        let error = |problem| Err(TypeError { op: self.op, problem });
        let many = self.row.last().is_some_and(|(_, a)| *a == Arity::Many);
        if self.operands.len() > self.row.len() && !many {
            return error(format!("{} operands, expected at most {}", self.operands.len(), self.row.len()));
        }
        for (i, (name, arity)) in self.row.iter().enumerate() {
            if *arity == Arity::One && self.get(i).is_none() {
                return error(format!("operand `{name}` is missing"));
            }
        }
        if many && self.operands.iter().any(Option::is_none) {
            return error("a repeated operand is missing".into());
        }
        Ok(())
    }

    fn get(&self, i: usize) -> Option<&Type> {
        self.operands.get(i).copied().flatten()
    }

    /// Operand `i`, which `arity` has seen.
    fn operand(&self, i: usize) -> Result<&Type, String> {
        self.get(i).ok_or_else(|| format!("operand {i} is missing"))
    }

    fn same(&self, i: usize, j: usize) -> Result<Type, String> {
        let (a, b) = (self.operand(i)?, self.operand(j)?);
        ensure(a == b, || format!("operands differ: {a} and {b}"))?;
        Ok(a.clone())
    }

    fn float(&self, i: usize) -> Result<Type, String> {
        let t = self.operand(i)?;
        ensure(t.dtype.is_float(), || format!("expected a floating-point operand, found {t}"))?;
        Ok(t.clone())
    }

    fn expect(&self, i: usize, name: &str, wanted: &Type) -> Result<(), String> {
        match self.get(i) {
            Some(t) => ensure(t == wanted, || format!("`{name}` is {t}, expected {wanted}")),
            None => Ok(()),
        }
    }

    fn axis(&self, t: &Type, axis: usize) -> Result<Dim, String> {
        t.shape.get(axis).cloned().ok_or_else(|| format!("axis {axis} of {t}"))
    }

    fn last(&self, t: &Type) -> Result<Dim, String> {
        t.shape.last().cloned().ok_or_else(|| format!("expected at least one axis, found {t}"))
    }

    fn offsets(&self, i: usize) -> Result<Dim, String> {
        let t = self.operand(i)?;
        ensure(t.dtype == DType::I32 && t.rank() == 1, || format!("`offsets` is {t}, expected i32[sequences + 1]"))?;
        Ok(t.shape[0].clone() - Dim::constant(1))
    }

    fn results(&self, op: &Op) -> Result<Vec<Type>, String> {
        let result = match op {
            Op::Arg { ty, .. } | Op::Param { ty, .. } | Op::StateRead { ty, .. } => ty.clone(),
            Op::Const { value } => value.ty(),
            Op::Iota { shape, axis, dtype } => {
                ensure(*axis < shape.len(), || format!("axis {axis} of a shape of {} axes", shape.len()))?;
                Type { dtype: *dtype, shape: shape.clone() }
            }
            Op::Size { .. } => Type::scalar(DType::I64),
            Op::Unary { f } => {
                let t = self.operand(0)?;
                let fits = match f {
                    Unary::Neg | Unary::Abs | Unary::Sign => t.dtype != DType::Bool,
                    Unary::Not => !t.dtype.is_float(),
                    Unary::Exp
                    | Unary::Log
                    | Unary::Sqrt
                    | Unary::Rsqrt
                    | Unary::Sin
                    | Unary::Cos
                    | Unary::Tanh
                    | Unary::Erf
                    | Unary::Floor
                    | Unary::Ceil
                    | Unary::Round => t.dtype.is_float(),
                };
                ensure(fits, || format!("`{}` of {t}", f.name()))?;
                t.clone()
            }
            Op::Binary { f } => {
                let t = self.same(0, 1)?;
                let fits = match f {
                    Binary::Add | Binary::Sub | Binary::Mul | Binary::Div | Binary::Rem => t.dtype != DType::Bool,
                    Binary::Pow => t.dtype.is_float(),
                    Binary::Max | Binary::Min => true,
                    Binary::And | Binary::Or | Binary::Xor => !t.dtype.is_float(),
                    Binary::Shl | Binary::Shr => t.dtype.is_int(),
                };
                ensure(fits, || format!("`{}` of {t}", f.name()))?;
                t
            }
            Op::Compare { .. } => self.same(0, 1)?.with_dtype(DType::Bool),
            Op::Select {} => {
                let t = self.same(1, 2)?;
                self.expect(0, "cond", &t.with_dtype(DType::Bool))?;
                t
            }
            Op::Cast { dtype } => self.operand(0)?.with_dtype(*dtype),
            Op::Reshape { shape } => {
                let t = self.operand(0)?;
                let result = Type { dtype: t.dtype, shape: shape.clone() };
                ensure(t.elements() == result.elements(), || format!("{t} to {result}: element counts differ"))?;
                result
            }
            Op::Transpose { perm } => {
                let t = self.operand(0)?;
                let mut seen = perm.clone();
                seen.sort_unstable();
                ensure(seen.iter().copied().eq(0..t.rank()), || {
                    format!("{perm:?} is no permutation of the axes of {t}")
                })?;
                Type { dtype: t.dtype, shape: perm.iter().map(|&p| t.shape[p].clone()).collect() }
            }
            Op::Broadcast { shape, axes } => {
                let t = self.operand(0)?;
                ensure(axes.len() == t.rank(), || format!("{} axes for {t}", axes.len()))?;
                ensure(axes.is_sorted_by(|a, b| a < b), || format!("axes {axes:?} do not ascend"))?;
                for (d, &to) in t.shape.iter().zip(axes) {
                    let target =
                        shape.get(to).ok_or_else(|| format!("axis {to} of a shape of {} axes", shape.len()))?;
                    ensure(d == target || d.as_const() == Some(1), || {
                        format!("{t}: {d} does not broadcast to {target}")
                    })?;
                }
                Type { dtype: t.dtype, shape: shape.clone() }
            }
            Op::Slice { axis, start, stop, step } => {
                let mut t = self.operand(0)?.clone();
                let size = self.axis(&t, *axis)?;
                ensure(*step > 0, || "step 0".into())?;
                for (bound, name) in [(start, "start"), (stop, "stop")] {
                    let beyond = (size.clone() - bound.clone()).as_const().is_some_and(|room| room < 0);
                    let negative = bound.as_const().is_some_and(|v| v < 0);
                    ensure(!beyond && !negative, || format!("{name} {bound} outside axis {axis} of {t}"))?;
                }
                let length = stop.clone() - start.clone();
                ensure(length.as_const().is_none_or(|v| v >= 0), || format!("start {start} after stop {stop}"))?;
                t.shape[*axis] = length.ceil_div(*step as i64);
                t
            }
            Op::Concat { axis } => {
                let mut t = self.operand(0)?.clone();
                let mut total = self.axis(&t, *axis)?;
                for i in 1..self.operands.len() {
                    let next = self.operand(i)?;
                    total = total + self.axis(next, *axis)?;
                    let mut aligned = next.clone();
                    aligned.shape[*axis] = t.shape[*axis].clone();
                    ensure(aligned == t, || format!("{t} and {next} along axis {axis}"))?;
                }
                t.shape[*axis] = total;
                t
            }
            Op::Pad { axis, before, after } => {
                let mut t = self.operand(0)?.clone();
                self.expect(1, "value", &Type::scalar(t.dtype))?;
                t.shape[*axis] = self.axis(&t, *axis)? + Dim::from(*before) + Dim::from(*after);
                t
            }
            Op::Gather { axis } => {
                let (t, indices) = (self.operand(0)?, self.operand(1)?);
                self.axis(t, *axis)?;
                ensure(indices.dtype.is_int(), || format!("`indices` is {indices}, expected integers"))?;
                let mut shape = t.shape.clone();
                shape.splice(*axis..=*axis, indices.shape.iter().cloned());
                Type { dtype: t.dtype, shape }
            }
            Op::Dot { transpose_rhs } => {
                let (a, b) = (self.operand(0)?, self.operand(1)?);
                let problem = || format!("{a} by {b}{}", if *transpose_rhs { " transposed" } else { "" });
                let rank = a.rank();
                ensure(rank >= 2 && b.rank() == rank && a.dtype == b.dtype && a.dtype != DType::Bool, problem)?;
                let (k, n) = if *transpose_rhs { (rank - 1, rank - 2) } else { (rank - 2, rank - 1) };
                ensure(a.shape[..rank - 2] == b.shape[..rank - 2] && a.shape[rank - 1] == b.shape[k], problem)?;
                let mut t = a.clone();
                t.shape[rank - 1] = b.shape[n].clone();
                t
            }
            Op::Reduce { f: _, axes, keep } => {
                let t = self.operand(0)?;
                ensure(axes.is_sorted_by(|a, b| a < b), || format!("axes {axes:?} do not ascend"))?;
                ensure(axes.last().is_none_or(|&a| a < t.rank()), || format!("axes {axes:?} of {t}"))?;
                ensure(
                    t.dtype != DType::Bool
                        || !matches!(op, Op::Reduce { f: crate::op::Reduction::Sum | crate::op::Reduction::Prod, .. }),
                    || format!("sum or product of {t}"),
                )?;
                let shape = t.shape.iter().enumerate().filter_map(|(i, d)| match (axes.contains(&i), keep) {
                    (false, _) => Some(d.clone()),
                    (true, true) => Some(Dim::constant(1)),
                    (true, false) => None,
                });
                Type { dtype: t.dtype, shape: shape.collect() }
            }
            Op::Scatter {} | Op::ScatterAdd {} => {
                let (t, indices, updates) = (self.operand(0)?, self.operand(1)?, self.operand(2)?);
                ensure(indices.dtype.is_int() && indices.rank() == 1, || {
                    format!("`indices` is {indices}, expected integers of one axis")
                })?;
                self.last(t)?;
                let mut expected = t.clone();
                expected.shape[0] = indices.shape[0].clone();
                ensure(*updates == expected, || format!("`updates` is {updates}, expected {expected}"))?;
                ensure(t.dtype != DType::Bool || matches!(op, Op::Scatter {}), || format!("sum of {t}"))?;
                t.clone()
            }
            Op::CumSum { axis } => {
                let t = self.operand(0)?;
                self.axis(t, *axis)?;
                ensure(t.dtype != DType::Bool, || format!("running sum of {t}"))?;
                t.clone()
            }
            Op::Activation { .. } => self.float(0)?,
            Op::DynamicQuantize { group, levels } => {
                ensure(*group > 0, || "groups of 0".into())?;
                // So that rounded codes are exact in any type the op computes in.
                ensure((1..=1 << 22).contains(levels), || format!("{levels} levels"))?;
                let t = self.float(0)?;
                ensure(self.last(&t)?.as_const().is_some(), || format!("groups of the last axis of {t}"))?;
                t
            }
            Op::RmsNorm { .. } => {
                let t = self.float(0)?;
                let row = Type { dtype: t.dtype, shape: vec![self.last(&t)?] };
                self.expect(1, "weight", &row)?;
                t
            }
            Op::Rope { heads, .. } => {
                let t = self.float(0)?;
                let width = self.last(&t)?.as_const().filter(|w| *heads > 0 && w % *heads as i64 == 0);
                let head = width.map(|w| w / *heads as i64);
                let cos = self.operand(1)?;
                let half = cos.shape.last().and_then(Dim::as_const);
                let fits = head.zip(half).is_some_and(|(d, half)| 2 * half <= d);
                let lead = cos.rank() == t.rank() && cos.shape[..cos.rank() - 1] == t.shape[..t.rank() - 1];
                ensure(fits && lead && cos.dtype == t.dtype, || format!("{t} of {heads} heads by angles {cos}"))?;
                let cos = cos.clone();
                self.expect(2, "sin", &cos)?;
                t
            }
            Op::CacheAppend { part } => {
                let (cache, x) = (self.operand(0)?, self.operand(1)?);
                let rank = if *part == CachePart::Scales { 3 } else { 4 };
                ensure(cache.rank() == rank, || {
                    format!("a cache of {} is {cache}, expected {rank} axes", part.name())
                })?;
                let width = cache.shape[2..].iter().cloned().fold(Dim::constant(1), |a, d| a * d);
                let fits = x.rank() == 2 && x.shape[1] == width && (x.dtype == cache.dtype || x.dtype.is_float());
                ensure(fits, || format!("{x} into {cache}"))?;
                self.expect(2, "slots", &Type { dtype: DType::I32, shape: vec![x.shape[0].clone()] })?;
                cache.clone()
            }
            Op::PagedAttention { heads, kv_heads, .. } => self.paged_attention(*heads, *kv_heads)?,
            Op::Softmax {} | Op::L2Norm { .. } => {
                let t = self.float(0)?;
                self.last(&t)?;
                t
            }
            Op::LayerNorm { .. } => {
                let t = self.float(0)?;
                let row = Type { dtype: t.dtype, shape: vec![self.last(&t)?] };
                self.expect(1, "weight", &row)?;
                self.expect(2, "bias", &row)?;
                t
            }
            Op::Linear {} => {
                let mut t = self.float(0)?;
                let weight = self.operand(1)?;
                ensure(weight.rank() == 2 && weight.dtype == t.dtype, || {
                    format!("`weight` is {weight}, expected {}[out, in]", t.dtype)
                })?;
                let k = self.last(&t)?;
                ensure(t.rank() >= 2 && k == weight.shape[1], || format!("{t} by weight {weight}"))?;
                self.expect(2, "bias", &Type { dtype: t.dtype, shape: vec![weight.shape[0].clone()] })?;
                let last = t.rank() - 1;
                t.shape[last] = weight.shape[0].clone();
                t
            }
            Op::Attention { heads, kv_heads, .. } => {
                let q = self.attention(3, *heads, *kv_heads)?;
                let k = self.operand(1)?;
                ensure(q.shape[0] == k.shape[0], || format!("batches of {q} and {k} differ"))?;
                self.expect(3, "mask", &Type { dtype: DType::Bool, shape: k.shape[..2].to_vec() })?;
                self.rel_bias(4, &q, *heads)?;
                q
            }
            Op::PackedAttention { heads, kv_heads, dropout, .. } => {
                self.packed_attention(*heads, *kv_heads, *dropout, 4)?
            }
            Op::PackedAttentionGrad { heads, kv_heads, dropout, .. } => {
                let mut t = self.packed_attention(*heads, *kv_heads, *dropout, 5)?;
                self.expect(4, "dy", &t)?;
                let keys = self.operand(1)?;
                t.shape[1] = t.shape[1].clone() + self.last(keys)? * Dim::constant(2);
                t
            }
            Op::CrossEntropy { smoothing, .. } | Op::CrossEntropyGrad { smoothing, .. } => {
                let t = self.float(0)?;
                ensure(t.rank() == 2, || format!("`logits` is {t}, expected [rows, classes]"))?;
                ensure((0.0..=1.0).contains(smoothing), || format!("smoothing {smoothing}, expected 0 to 1"))?;
                self.expect(1, "labels", &Type { dtype: DType::I32, shape: vec![t.shape[0].clone()] })?;
                let rows = Type { dtype: t.dtype, shape: vec![t.shape[0].clone()] };
                self.expect(2, "dy", &rows)?;
                if matches!(op, Op::CrossEntropy { .. }) { rows } else { t }
            }
            Op::RandomBits { shape, stream } => {
                self.expect(0, "key", &Type::new(DType::U32, [2i64]))?;
                ensure(u32::try_from(*stream).is_ok(), || format!("stream {stream}, expected less than 2^32"))?;
                Type { dtype: DType::U32, shape: shape.clone() }
            }
            Op::SegmentIds { tokens } => {
                self.offsets(0)?;
                Type { dtype: DType::I32, shape: vec![tokens.clone()] }
            }
            Op::SegmentPool { f } => {
                let t = self.float(0)?;
                ensure(t.rank() == 2, || {
                    format!(
                        "`{}` pooling of {t}, expected [tokens, hidden]",
                        match f {
                            Pool::Mean | Pool::Max | Pool::Sum => f.name(),
                        }
                    )
                })?;
                Type { dtype: t.dtype, shape: vec![self.offsets(1)?, t.shape[1].clone()] }
            }
            Op::Call { results, .. } => return Ok(results.clone()),
            Op::StateWrite { .. } => self.operand(0)?.clone(),
        };
        Ok(vec![result])
    }

    /// Shapes of query, key and value with `rank` axes; returns the query's type.
    fn attention(&self, rank: usize, heads: usize, kv_heads: usize) -> Result<Type, String> {
        let (q, k, v) = (self.float(0)?, self.operand(1)?, self.operand(2)?);
        ensure(q.rank() == rank && k.rank() == rank, || format!("query {q} and key {k}, expected {rank} axes"))?;
        ensure(k == v && k.dtype == q.dtype, || format!("key {k} and value {v} of query {q}"))?;
        ensure(kv_heads > 0 && heads > 0 && heads.is_multiple_of(kv_heads), || {
            format!("{heads} heads over {kv_heads} key heads")
        })?;
        let width =
            |t: &Type, n: usize| t.shape[rank - 1].as_const().filter(|w| w % n as i64 == 0).map(|w| w / n as i64);
        let (dq, dk) = (width(&q, heads), width(k, kv_heads));
        ensure(dq.is_some() && dq == dk, || format!("query {q} of {heads} heads and key {k} of {kv_heads} heads"))?;
        Ok(q)
    }

    /// Shapes of query, key and value over `offsets`, with the bias as operand `bias` and the key of dropout behind it; returns
    /// the query's type.
    fn packed_attention(&self, heads: usize, kv_heads: usize, dropout: f64, bias: usize) -> Result<Type, String> {
        let q = self.attention(2, heads, kv_heads)?;
        let k = self.operand(1)?;
        ensure(q.shape[0] == k.shape[0], || format!("tokens of {q} and {k} differ"))?;
        self.offsets(3)?;
        self.rel_bias(bias, &q, heads)?;
        ensure((0.0..1.0).contains(&dropout), || format!("dropout {dropout}, expected 0 to below 1"))?;
        self.expect(bias + 1, "key", &Type::new(DType::U32, [2i64]))?;
        ensure((dropout > 0.0) == self.get(bias + 1).is_some(), || {
            format!("dropout {dropout}, expected a key where it is not 0 and only there")
        })?;
        Ok(q)
    }

    fn paged_attention(&self, heads: usize, kv_heads: usize) -> Result<Type, String> {
        let (q, k, v) = (self.float(0)?, self.operand(1)?, self.operand(2)?);
        ensure(kv_heads > 0 && heads > 0 && heads.is_multiple_of(kv_heads), || {
            format!("{heads} heads over {kv_heads} key heads")
        })?;
        let fits = q.rank() == 2
            && k.rank() == 4
            && k == v
            && k.shape[2] == Dim::from(kv_heads)
            && q.shape[1] == k.shape[3].clone() * Dim::from(heads)
            && (k.dtype.is_float() || k.dtype == DType::I8);
        ensure(fits, || format!("query {q} of {heads} heads, key {k} and value {v} of {kv_heads} heads"))?;
        let sequences = self.offsets(3)?;
        self.expect(4, "past", &Type { dtype: DType::I32, shape: vec![sequences.clone()] })?;
        let table = self.operand(5)?;
        ensure(table.dtype == DType::I32 && table.rank() == 2 && table.shape[0] == sequences, || {
            format!("`table` is {table}, expected i32[{sequences}, n]")
        })?;
        ensure((k.dtype == DType::I8) == self.get(6).is_some(), || format!("scales of a cache of {}", k.dtype))?;
        let scale = Type { dtype: DType::F32, shape: k.shape[..3].to_vec() };
        self.expect(6, "k_scale", &scale)?;
        self.expect(7, "v_scale", &scale)?;
        ensure(self.get(6).is_some() == self.get(7).is_some(), || "one of two scales".into())?;
        self.expect(8, "slopes", &Type { dtype: q.dtype, shape: vec![Dim::from(heads)] })?;
        Ok(q)
    }

    fn rel_bias(&self, i: usize, q: &Type, heads: usize) -> Result<(), String> {
        let Some(t) = self.get(i) else { return Ok(()) };
        let odd = t.rank() == 2 && t.shape[1].as_const().is_some_and(|w| w % 2 == 1);
        ensure(odd && t.dtype == q.dtype && t.shape[0] == Dim::from(heads), || {
            format!("`rel_bias` is {t}, expected {}[{heads}, 2p - 1]", q.dtype)
        })
    }
}
