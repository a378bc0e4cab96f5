//! Cases of the ops of training.

use super::maker::{Axis, Maker, Values, dims, fixed};
use super::ops::{FLOATS, each};
use super::{Case, Rng, tolerance};
use crate::dtype::DType;
use crate::graph::Value;
use crate::op::Op;

/// Cases of the op of this name; none when it is no op of training.
pub(super) fn cases_for(op: &str, rng: &mut Rng) -> Vec<Case> {
    match op {
        "scatter_add" => each(&DType::ALL[..10], rng, scatter_add),
        "cross_entropy" => each(&FLOATS, rng, |d, r| cross_entropy(false, d, r)),
        "cross_entropy_grad" => each(&FLOATS, rng, |d, r| cross_entropy(true, d, r)),
        "random_bits" => (0..4).map(|_| random_bits(rng)).collect(),
        _ => Vec::new(),
    }
}

/// Indices beyond both ends, and more of them than rows.
fn scatter_add(dtype: DType, rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let rank = 1 + m.rng.below(3);
    let mut shape = m.shape(rank);
    let x = m.arg(dtype, &shape, Values::Small);
    let count = m.axis();
    let index_dtype = m.rng.pick(&[DType::I32, DType::I64, DType::U8, DType::I8]);
    let rows = shape[0].size as i64;
    let indices = m.arg(index_dtype, std::slice::from_ref(&count), Values::Range(-2, rows + 1));
    shape[0] = count;
    let updates = m.arg(dtype, &shape, Values::Small);
    let y = m.op(Op::ScatterAdd {}, &[x, indices, updates]);
    m.finish(&format!("scatter_add {dtype}"), &[y], 8.0 * tolerance(dtype))
}

/// Labels that are ignored, and some outside the classes.
fn cross_entropy(gradient: bool, dtype: DType, rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let (rows, classes) = (m.axis(), m.rng.pick(&[1, 2, 3, 5, 16, 17, 33]));
    let classes = m.axis_of(classes);
    let logits = m.arg(dtype, &[rows.clone(), classes.clone()], Values::Range(-9, 9));
    let ignore = m.rng.pick(&[-100, -1, 0]);
    let labels = labels(&mut m, &rows, classes.size as i64, ignore);
    let smoothing = m.rng.pick(&[0.0, 0.0, 0.1, 1.0]);
    let (name, y) = if gradient {
        let dy = m.arg(dtype, &[rows], Values::Small);
        ("cross_entropy_grad", m.op(Op::CrossEntropyGrad { ignore, smoothing }, &[logits, labels, dy]))
    } else {
        ("cross_entropy", m.op(Op::CrossEntropy { ignore, smoothing }, &[logits, labels]))
    };
    m.finish(&format!("{name} ignoring {ignore}, smoothing {smoothing}"), &[y], 4.0 * tolerance(dtype))
}

fn labels(m: &mut Maker<'_>, rows: &Axis, classes: i64, ignore: i64) -> Value {
    let tensor = m.tensor(DType::I32, std::slice::from_ref(rows), Values::Range(-1, classes));
    let values = tensor.as_ints().unwrap_or_default().to_vec();
    let values = values.into_iter().map(|v| if m.rng.one_in(4) { ignore } else { v }).collect();
    let tensor = crate::interp::Tensor::ints(DType::I32, tensor.shape(), values);
    let tensor = tensor.unwrap_or_else(|e| panic!("test tensor: {e}"));
    m.arg_of(tensor, std::slice::from_ref(rows))
}

fn random_bits(rng: &mut Rng) -> Case {
    let mut m = Maker::new(rng);
    let key = m.arg(DType::U32, &[fixed(2)], Values::Any);
    let shape = m.any_shape();
    // Every symbol stands in an argument.
    let like = m.arg(DType::F32, &shape, Values::Small);
    let stream = m.rng.pick(&[0, 1, 7, u32::MAX as usize]);
    let y = m.op(Op::RandomBits { shape: dims(&shape), stream }, &[key]);
    m.finish(&format!("random_bits of stream {stream}"), &[y, like], 0.0)
}
