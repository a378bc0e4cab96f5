//! Random graphs: steps over a pool of values, as models have them.

use super::maker::{Axis, Maker, Rng, Values, built, dims, fixed};
use super::{Case, tolerance};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::graph::Value;
use crate::op::{Activation, Binary, Compare, Op, Reduction, Unary};

/// A random graph of 4 to 20 steps over `f32[rows, width]` values with inputs; the same for the same seed. Its functions
/// are smooth and its values stay small, so that another order of rounding gives nearly the same.
pub fn random_case(seed: u64) -> Case {
    let mut rng = Rng::new(seed ^ 0x5eed);
    let mut m = Maker::new(&mut rng);
    let size = m.size();
    let rows = if m.rng.one_in(4) { fixed(size) } else { m.symbolic(size) };
    let width = fixed(m.rng.pick(&[1, 2, 4, 6, 8, 12, 16, 18, 32]));
    let shape = [rows, width];
    let mut pool = vec![m.arg(DType::F32, &shape, Values::Small), m.arg(DType::F32, &shape, Values::Small)];
    for _ in 0..4 + m.rng.below(17) {
        let x = m.rng.pick(&pool);
        let y = m.rng.pick(&pool);
        let next = step(&mut m, &shape, x, y);
        pool.push(next);
    }
    let last = pool[pool.len() - 1];
    let other = m.rng.pick(&pool[2..]);
    m.finish(&format!("random graph {seed}"), &[last, other], 100.0 * tolerance(DType::F32))
}

/// A value of `shape` from two others.
fn step(m: &mut Maker<'_>, shape: &[Axis; 2], x: Value, y: Value) -> Value {
    let (rows, width) = (&shape[0], &shape[1]);
    let to = dims(shape);
    match m.rng.below(14) {
        0 => {
            let f = m.rng.pick(&[Unary::Neg, Unary::Abs, Unary::Tanh, Unary::Erf, Unary::Sin, Unary::Cos]);
            built(m.build().unary(f, x))
        }
        1 => {
            let f = m.rng.pick(&[Binary::Max, Binary::Min, Binary::Sub]);
            let z = built(m.build().binary(f, x, y));
            built(m.build().unary(Unary::Tanh, z))
        }
        2 => {
            let product = built(m.build().mul(x, y));
            built(m.build().unary(Unary::Tanh, product))
        }
        3 => {
            let f = m.rng.pick(Activation::ALL);
            let z = m.op(Op::Activation { f }, &[x]);
            built(m.build().unary(Unary::Tanh, z))
        }
        4 => m.op(Op::Softmax {}, &[x]),
        5 => {
            // A large eps keeps rows of equal elements from magnifying rounding.
            let weight = m.param(DType::F32, std::slice::from_ref(width), Values::Small);
            m.op(Op::LayerNorm { eps: 0.1 }, &[x, weight])
        }
        6 => {
            let inner = fixed(m.rng.pick(&[1, 3, 16, 17]));
            let up = m.param(DType::F32, &[inner.clone(), width.clone()], Values::Small);
            let down = m.param(DType::F32, &[width.clone(), inner], Values::Small);
            let bias = m.param(DType::F32, std::slice::from_ref(width), Values::Small);
            let h = m.op(Op::Linear {}, &[x, up]);
            let h = m.op(Op::Activation { f: Activation::Gelu }, &[h]);
            let h = m.op(Op::Linear {}, &[h, down, bias]);
            built(m.build().unary(Unary::Tanh, h))
        }
        7 => {
            let f = m.rng.pick(&[Reduction::Max, Reduction::Min, Reduction::Sum]);
            let axis = m.rng.below(2);
            let reduced = built(m.build().reduce(f, x, &[axis], true));
            let spread = built(m.build().expand(reduced, &to));
            // Empty reductions may be infinite, but then no element of the result is there.
            let sum = built(m.build().add(spread, y));
            built(m.build().unary(Unary::Tanh, sum))
        }
        8 => {
            let t = m.op(Op::Transpose { perm: vec![1, 0] }, &[x]);
            let t = built(m.build().unary(Unary::Neg, t));
            m.op(Op::Transpose { perm: vec![1, 0] }, &[t])
        }
        9 => {
            let flat = built(m.build().reshape(x, &[rows.dim.clone() * width.dim.clone()]));
            let flat = built(m.build().mul_const(flat, 0.5));
            built(m.build().reshape(flat, &to))
        }
        10 => {
            let both = m.op(Op::Concat { axis: 1 }, &[x, y]);
            let stop = width.dim.clone() * Dim::constant(2);
            m.op(Op::Slice { axis: 1, start: Dim::constant(0), stop, step: 2 }, &[both])
        }
        11 => {
            // Comparing inputs with a constant, not computed values with each other: no tie to break by rounding.
            let fresh = m.arg(DType::F32, shape, Values::Small);
            let positive = built(m.build().compare_const(Compare::Gt, fresh, 0.0));
            built(m.build().select(positive, x, y))
        }
        12 => {
            let table = m.param(DType::F32, &[fixed(5), width.clone()], Values::Small);
            let ids = m.arg(DType::I32, std::slice::from_ref(rows), Values::Range(-1, 6));
            let embedded = built(m.build().gather(table, ids, 0));
            let sum = built(m.build().add(embedded, x));
            built(m.build().mul_const(sum, 0.5))
        }
        _ => {
            let heads = if width.size % 2 == 0 { 2 } else { 1 };
            let one: Vec<Dim> = std::iter::once(Dim::constant(1)).chain(to.clone()).collect();
            let (q, k) = (built(m.build().reshape(x, &one)), built(m.build().reshape(y, &one)));
            let op = Op::Attention { heads, kv_heads: heads, scale: 0.5, causal: m.rng.one_in(2) };
            let mixed = m.op(op, &[q, k, k]);
            built(m.build().reshape(mixed, &to))
        }
    }
}
