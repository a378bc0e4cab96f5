//! One op run by the interpreter, and numbers to hold its result against.
#![allow(dead_code, reason = "each test file uses a part")]

use lith_ir::interp::{Interpreter, Mode, Tensor};
use lith_ir::testing::Rng;
use lith_ir::{DType, Graph, Op, Program, Type, Value};

pub fn floats(shape: &[usize], values: Vec<f64>) -> Tensor {
    Tensor::floats(DType::F64, shape, values).unwrap()
}

pub fn random(rng: &mut Rng, shape: &[usize]) -> Tensor {
    let count = shape.iter().product();
    floats(shape, (0..count).map(|_| rng.between(-2.0, 2.0)).collect())
}

/// The result of one op on these operands.
pub fn run_in(mode: Mode, op: Op, operands: &[Option<&Tensor>]) -> Tensor {
    let mut graph = Graph::new();
    let mut values: Vec<Option<Value>> = Vec::new();
    let mut args = Vec::new();
    for operand in operands {
        let Some(tensor) = operand else {
            values.push(None);
            continue;
        };
        let index = args.len();
        let ty = Type::new(tensor.dtype(), tensor.shape().iter().copied());
        values.push(Some(graph.add(Op::Arg { index, name: format!("x{index}"), ty }, &[], "").unwrap()));
        args.push((*tensor).clone());
    }
    let y = graph.add_with(op, &values, "test").unwrap();
    graph.add_result("y", y.into());
    let mut program = Program::new("test");
    program.entries.insert("main".into(), graph);
    Interpreter::new(&program, mode).unwrap().run_pure("main", &args).unwrap().remove(0)
}

pub fn run(op: Op, operands: &[Option<&Tensor>]) -> Tensor {
    run_in(Mode::Exact, op, operands)
}

pub fn near(found: &Tensor, expected: &[f64]) {
    let found = found.as_floats().unwrap();
    assert_eq!(found.len(), expected.len());
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!(f == e || (f - e).abs() <= 1e-12 * e.abs().max(1.0), "element {i}: {f}, expected {e}");
    }
}
