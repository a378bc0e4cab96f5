//! One primitive on whole tensors.

use super::Mode;
use super::elementwise as each;
use super::layout;
use super::sums::{self, Accumulate, DotSizes};
use super::symbols::Bindings;
use super::tensor::{Data, Tensor, count};
use crate::dtype::DType;
use crate::op::Op;
use crate::types::Type;

/// Computes a source or primitive. Operands are of the types the op was built on, so shapes fit each other; what depends
/// on values of symbols is checked here.
pub(super) fn evaluate(
    op: &Op,
    types: &[Type],
    operands: &[Tensor],
    bindings: &Bindings,
    mode: Mode,
) -> Result<Tensor, String> {
    let ty = types.first().ok_or("no result")?;
    let shape = bindings.shape(&ty.shape)?;
    let total = count(&shape).map_err(|e| e.to_string())?;
    let operand = |i: usize| operands.get(i).ok_or_else(|| format!("operand {i} is missing"));
    let kinds = || "operands of different kinds".to_string();
    let accumulate = match (mode, ty.dtype) {
        (Mode::Rounded, DType::F32 | DType::F16 | DType::Bf16) => Accumulate::Single,
        _ => Accumulate::Double,
    };

    let data = match op {
        Op::Const { value } => return Tensor::try_from(value).map_err(|e| e.to_string()),
        Op::Iota { axis, dtype, .. } => {
            let (outer, n, inner) = layout::around(&shape, *axis);
            let mut values = Vec::with_capacity(total);
            for _ in 0..outer {
                for i in 0..n as i64 {
                    values.extend(std::iter::repeat_n(i, inner));
                }
            }
            each::cast(&values.into(), *dtype)
        }
        Op::Size { dim } => vec![bindings.eval(dim)?].into(),
        Op::Unary { f } => each::unary(*f, ty.dtype, operand(0)?.data()),
        Op::Binary { f } => each::binary(*f, ty.dtype, operand(0)?.data(), operand(1)?.data()).ok_or_else(kinds)?,
        Op::Compare { f } => each::compare(*f, operand(0)?.data(), operand(1)?.data()).ok_or_else(kinds)?,
        Op::Select {} => each::select(operand(0)?.data(), operand(1)?.data(), operand(2)?.data()).ok_or_else(kinds)?,
        Op::Cast { dtype } => each::cast(operand(0)?.data(), *dtype),
        Op::Reshape { .. } => operand(0)?.data().clone(),
        Op::Transpose { perm } => layout::transpose(operand(0)?.data(), operand(0)?.shape(), perm),
        Op::Broadcast { axes, .. } => layout::broadcast(operand(0)?.data(), operand(0)?.shape(), &shape, axes),
        Op::Slice { axis, start, stop, step } => {
            let x = operand(0)?;
            let size = x.shape()[*axis];
            let (from, to) = (bindings.eval(start)?, bindings.eval(stop)?);
            if from < 0 || from > to || to > size as i64 {
                return Err(format!("{from}..{to} of an axis of size {size}"));
            }
            let mut strides = layout::strides(x.shape());
            let offset = from as usize * strides[*axis];
            // A step beyond the axis is never taken, and may not fit.
            strides[*axis] = if shape[*axis] > 1 { strides[*axis] * step } else { 0 };
            layout::strided(x.data(), &shape, &strides, offset)
        }
        Op::Concat { axis } => {
            let (outer, _, inner) = layout::around(&shape, *axis);
            let parts: Vec<_> = operands.iter().map(|t| (t.data(), t.shape()[*axis])).collect();
            layout::concat(&parts, outer, inner).ok_or_else(kinds)?
        }
        Op::Pad { axis, before, after } => {
            let (x, value) = (operand(0)?, operand(1)?);
            let (outer, _, inner) = layout::around(&shape, *axis);
            let fill = |n: usize| layout::repeat(value.data(), outer * n * inner);
            let (head, tail) = (fill(*before), fill(*after));
            let parts = [(&head, *before), (x.data(), x.shape()[*axis]), (&tail, *after)];
            layout::concat(&parts, outer, inner).ok_or_else(kinds)?
        }
        Op::Gather { axis } => {
            let indices = operand(1)?.as_ints().ok_or_else(kinds)?;
            layout::gather(operand(0)?.data(), operand(0)?.shape(), *axis, indices)
        }
        Op::Scatter {} => {
            let indices = operand(1)?.as_ints().ok_or_else(kinds)?;
            layout::scatter(operand(0)?.data(), operand(0)?.shape(), indices, operand(2)?.data()).ok_or_else(kinds)?
        }
        Op::ScatterAdd {} => {
            let (x, indices) = (operand(0)?, operand(1)?.as_ints().ok_or_else(kinds)?);
            sums::scatter_add(x.data(), x.shape(), indices, operand(2)?.data(), ty.dtype, accumulate)
                .ok_or_else(kinds)?
        }
        Op::Dot { transpose_rhs } => {
            let (a, b) = (operand(0)?, operand(1)?);
            let rank = a.shape().len();
            let sizes = DotSizes {
                batch: shape[..rank - 2].iter().product(),
                m: shape[rank - 2],
                k: a.shape()[rank - 1],
                n: shape[rank - 1],
            };
            let rhs = if *transpose_rhs {
                b.data().clone()
            } else {
                let perm: Vec<usize> = (0..rank - 2).chain([rank - 1, rank - 2]).collect();
                layout::transpose(b.data(), b.shape(), &perm)
            };
            sums::dot(a.data(), &rhs, sizes, ty.dtype, accumulate).ok_or_else(kinds)?
        }
        Op::Reduce { f, axes, .. } => {
            sums::reduce(operand(0)?.data(), operand(0)?.shape(), axes, *f, ty.dtype, accumulate)
        }
        Op::CumSum { axis } => sums::cumsum(operand(0)?.data(), operand(0)?.shape(), *axis, ty.dtype, accumulate),
        Op::Arg { .. } | Op::Param { .. } | Op::Call { .. } | Op::StateRead { .. } | Op::StateWrite { .. } => {
            return Err("not a primitive".into());
        }
        Op::Activation { .. }
        | Op::Softmax {}
        | Op::LayerNorm { .. }
        | Op::RmsNorm { .. }
        | Op::Rope { .. }
        | Op::DynamicQuantize { .. }
        | Op::CacheAppend { .. }
        | Op::PagedAttention { .. }
        | Op::L2Norm { .. }
        | Op::Linear {}
        | Op::Attention { .. }
        | Op::PackedAttention { .. }
        | Op::PackedAttentionGrad { .. }
        | Op::CrossEntropy { .. }
        | Op::CrossEntropyGrad { .. }
        | Op::RandomBits { .. }
        | Op::SegmentIds { .. }
        | Op::SegmentPool { .. } => return Err("a composite that was not decomposed".into()),
    };
    let data = if mode == Mode::Rounded && computes(op, operands, ty.dtype) { round(data, ty.dtype) } else { data };
    Tensor::from_data(ty.dtype, shape, data).map_err(|e| e.to_string())
}

/// Whether results may need rounding: movements, and casts to a type that holds every value of the operand's, do not.
fn computes(op: &Op, operands: &[Tensor], to: DType) -> bool {
    match op {
        Op::Unary { .. }
        | Op::Binary { .. }
        | Op::Dot { .. }
        | Op::Reduce { .. }
        | Op::ScatterAdd {}
        | Op::CumSum { .. }
        | Op::Iota { .. } => true,
        Op::Cast { .. } => match (operands.first().map(Tensor::dtype), to) {
            (Some(from), to) if from == to => false,
            (_, DType::F64) | (Some(DType::F16 | DType::Bf16), DType::F32) => false,
            _ => true,
        },
        _ => false,
    }
}

fn round(data: Data, dtype: DType) -> Data {
    match data {
        Data::Float(v) if dtype != DType::F64 => v.iter().map(|&x| dtype.round(x)).collect::<Vec<_>>().into(),
        other => other,
    }
}
