//! Values of derived parameters that are vectors and matrices of `f32`: sums, products and parts of others, as folding
//! leaves them. The reference interpreter computes the same bits, at some fifty nanoseconds an element; here a weight of a
//! hundred million elements takes little longer than it takes to read. Knows nothing of files.

use std::borrow::Cow;
use std::collections::BTreeMap;

use lith_ir::{Binary, DType, Graph, NodeId, Op, Reduction, Value};

/// A value of at most two axes; one of a single axis is a row. Element `(i, j)` is `values[i * steps[0] + j * steps[1]]`.
#[derive(Clone)]
struct Matrix<'a> {
    values: Cow<'a, [f32]>,
    sizes: [usize; 2],
    steps: [usize; 2],
}

/// The value of a graph without arguments, row-major, from the `f32` parameters that `given` has, row-major; `None` where it
/// has an op that is not known here. Shapes are those of the graph, so what `given` has must be as long as they say.
pub(crate) fn value(graph: &Graph, given: &BTreeMap<&str, Vec<f32>>) -> Option<Vec<f32>> {
    let mut known: BTreeMap<NodeId, Matrix<'_>> = BTreeMap::new();
    let mut readers: BTreeMap<NodeId, usize> = BTreeMap::new();
    let order = graph.topological().ok()?;
    for &node in &order {
        graph.inputs(node).into_iter().for_each(|v| *readers.entry(v.node).or_default() += 1);
    }
    let (_, result) = graph.results().first()?;
    for node in order {
        let mut operands = Vec::new();
        for Value { node, .. } in graph.inputs(node) {
            let left = readers.get_mut(&node)?;
            *left -= 1;
            // The last reader may change it in place.
            operands.push(if *left == 0 && node != result.node {
                known.remove(&node)?
            } else {
                known.get(&node)?.clone()
            });
        }
        known.insert(node, computed(graph, node, operands, given)?);
    }
    Some(known.remove(&result.node)?.into_dense())
}

fn computed<'a>(
    graph: &Graph,
    node: NodeId,
    operands: Vec<Matrix<'a>>,
    given: &'a BTreeMap<&str, Vec<f32>>,
) -> Option<Matrix<'a>> {
    let ty = graph.try_ty(node.into()).filter(|ty| ty.dtype == DType::F32)?;
    let shape = ty.static_shape()?;
    let mut operands = operands.into_iter();
    let value = match &graph.node(node).op {
        Op::Param { name, .. } => Matrix::new(&shape, given.get(name.as_str())?.as_slice()),
        Op::Const { value } => {
            let values: Vec<f32> = value.bytes().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            Matrix::new(&shape, values)
        }
        Op::Reshape { .. } => Matrix::new(&shape, operands.next()?.into_dense()),
        Op::Broadcast { axes, .. } => {
            let from = graph.operand(node, 0).and_then(|x| graph.ty(x).static_shape())?;
            operands.next()?.broadcast(&from, axes, &shape)
        }
        Op::Concat { axis: 0 } => {
            let all: Vec<f32> = operands.flat_map(Matrix::into_dense).collect();
            Matrix::new(&shape, all)
        }
        Op::Binary { f } => {
            // One operation on two floats rounds as it does by way of 64 bits.
            let (a, b) = (operands.next()?, operands.next()?);
            match f {
                Binary::Add => a.pairs(&b, |x, y| x + y),
                Binary::Sub => a.pairs(&b, |x, y| x - y),
                Binary::Mul => a.pairs(&b, |x, y| x * y),
                Binary::Div => a.pairs(&b, |x, y| x / y),
                _ => None,
            }
        }
        Op::Reduce { f: Reduction::Sum, axes, .. } => {
            let x = operands.next()?;
            let last = graph.operand(node, 0).map(|x| graph.ty(x).rank())?.checked_sub(1)?;
            if axes[..] != [last] {
                return None;
            }
            let (width, dense) = (x.sizes[1], x.into_dense());
            let rows: Vec<f32> = match width {
                0 => vec![0.0; shape.iter().product()],
                width => dense.chunks_exact(width).map(sum).collect(),
            };
            Matrix::new(&shape, rows)
        }
        _ => None,
    }?;
    (Some(value.sizes) == sizes(&shape)).then_some(value)
}

/// Rows and columns of a shape of at most two axes.
fn sizes(shape: &[usize]) -> Option<[usize; 2]> {
    match *shape {
        [] => Some([1, 1]),
        [cols] => Some([1, cols]),
        [rows, cols] => Some([rows, cols]),
        _ => None,
    }
}

/// The order of the interpreter: eight lanes, then lane by lane.
fn sum(row: &[f32]) -> f32 {
    let mut lanes = [0f32; 8];
    for part in row.chunks(lanes.len()) {
        lanes.iter_mut().zip(part).for_each(|(lane, x)| *lane += x);
    }
    lanes.into_iter().fold(0.0, |a, b| a + b)
}

impl<'a> Matrix<'a> {
    /// `None` when there are not as many elements as the shape says, or it has more than two axes.
    fn new(shape: &[usize], values: impl Into<Cow<'a, [f32]>>) -> Option<Self> {
        let (sizes, values) = (sizes(shape)?, values.into());
        (sizes[0].checked_mul(sizes[1])? == values.len()).then_some(Matrix { values, sizes, steps: [sizes[1], 1] })
    }

    /// The elements in row-major order.
    fn into_dense(self) -> Vec<f32> {
        let [rows, cols] = self.sizes;
        if self.steps == [cols, 1] {
            return self.values.into_owned();
        }
        let mut dense = Vec::with_capacity(rows * cols);
        for i in 0..rows {
            dense.extend((0..cols).map(|j| self.values[i * self.steps[0] + j * self.steps[1]]));
        }
        dense
    }

    /// Axis `i` becomes axis `axes[i]` of `to`; other axes, and axes of size 1, repeat. Nothing is copied.
    fn broadcast(self, from: &[usize], axes: &[usize], to: &[usize]) -> Option<Matrix<'a>> {
        let mut steps = vec![0; to.len()];
        let own = &self.steps[2usize.checked_sub(from.len())?..];
        for ((&axis, &size), &step) in axes.iter().zip(from).zip(own) {
            *steps.get_mut(axis)? = if size == 1 { 0 } else { step };
        }
        let steps = match steps[..] {
            [] => [0, 0],
            [col] => [0, col],
            [row, col] => [row, col],
            _ => return None,
        };
        Some(Matrix { values: self.values, sizes: sizes(to)?, steps })
    }

    /// `f` of each pair of elements; `None` for matrices of different sizes.
    fn pairs(self, other: &Matrix<'_>, f: impl Fn(f32, f32) -> f32) -> Option<Matrix<'a>> {
        let sizes @ [_, cols] = self.sizes;
        if sizes != other.sizes {
            return None;
        }
        let mut values = self.into_dense();
        for (i, row) in values.chunks_exact_mut(cols.max(1)).enumerate() {
            let others = &other.values[i * other.steps[0]..];
            match other.steps[1] {
                0 => row.iter_mut().for_each(|x| *x = f(*x, others[0])),
                1 => row.iter_mut().zip(others).for_each(|(x, y)| *x = f(*x, *y)),
                step => row.iter_mut().zip(others.iter().step_by(step)).for_each(|(x, y)| *x = f(*x, *y)),
            }
        }
        Some(Matrix { values: values.into(), sizes, steps: [cols, 1] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lith_ir::interp::{Interpreter, Mode, Tensor};
    use lith_ir::testing::Rng;
    use lith_ir::{Program, text};

    /// What folding makes: scaled columns and rows, one after the other, the image of a vector, broadcasts of every kind.
    const PROGRAM: &str = r#"program "derived"
param "w": f32[5, 19]
param "u": f32[3, 19]
param "v": f32[19]
param "b": f32[5]
derived "columns" () {
  %0: f32[5, 19] = param {name: "w"}
  %1: f32[19] = param {name: "v"}
  %2: f32[] = const 1.5
  %3: f32[19] = broadcast(%2) {axes: []}
  %4: f32[19] = add(%1, %3)
  %5: f32[5, 19] = broadcast(%4) {axes: [1]}
  %6: f32[5, 19] = mul(%0, %5)
  %7: f32[3, 19] = param {name: "u"}
  %8: f32[8, 19] = concat(%6, %7) {axis: 0}
  return value = %8
}
derived "rows" () {
  %0: f32[5, 19] = param {name: "w"}
  %1: f32[5] = param {name: "b"}
  %2: f32[5, 19] = broadcast(%1) {axes: [0]}
  %3: f32[5, 19] = div(%2, %0)
  %4: f32[5, 19] = sub(%3, %0)
  return value = %4
}
derived "image" () {
  %0: f32[5, 19] = param {name: "w"}
  %1: f32[19] = param {name: "v"}
  %2: f32[5, 19] = broadcast(%1) {axes: [1]}
  %3: f32[5, 19] = mul(%0, %2)
  %4: f32[5] = reduce_sum(%3) {axes: [1], keep: false}
  %5: f32[5] = param {name: "b"}
  %6: f32[5] = add(%5, %4)
  %7: f32[5, 1] = reshape(%6)
  %8: f32[5, 2] = broadcast(%7) {axes: [0, 1]}
  return value = %8
}
derived "other" () {
  %0: f32[5, 19] = param {name: "w"}
  %1: f32[19, 5] = transpose(%0) {perm: [1, 0]}
  return value = %1
}
"#;

    #[test]
    fn values_are_the_bits_of_the_interpreter() {
        let program: Program = text::parse(PROGRAM).unwrap();
        let mut rng = Rng::new(7);
        let mut given: BTreeMap<&str, Vec<f32>> = BTreeMap::new();
        let mut tensors = BTreeMap::new();
        for (name, ty) in &program.params {
            let shape = ty.static_shape().unwrap();
            let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.between(-2.0, 3.0) as f32).collect();
            let wide = values.iter().map(|&v| f64::from(v)).collect();
            tensors.insert(name.clone(), Tensor::floats(DType::F32, &shape, wide).unwrap());
            given.insert(name, values);
        }
        let interpreter = Interpreter::new(&program, Mode::Rounded).unwrap();
        for (name, graph) in &program.derived {
            let expected = interpreter.derive(name, &|n| tensors.get(n).cloned()).unwrap().to_bytes();
            let found = value(graph, &given).map(|v| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
            assert_eq!(found, (name != "other").then_some(expected), "{name}");
        }
    }

    #[test]
    fn parameters_of_another_length_are_refused() {
        let program: Program = text::parse(PROGRAM).unwrap();
        let given = BTreeMap::from([("w", vec![0.0; 5 * 18]), ("b", vec![0.0; 5])]);
        assert_eq!(value(&program.derived["rows"], &given), None);
        assert_eq!(value(&program.derived["image"], &BTreeMap::new()), None);
    }
}
