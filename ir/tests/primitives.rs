//! The interpreter's primitives against values computed by hand.

use lith_ir::interp::{Interpreter, Mode, Tensor};
use lith_ir::{Binary, Builder, Compare, DType, Dim, Graph, GraphError, Op, Program, Reduction, Type, Unary, Value};

fn floats(shape: &[usize], values: &[f64]) -> Tensor {
    Tensor::floats(DType::F64, shape, values.to_vec()).unwrap()
}

fn ints(dtype: DType, shape: &[usize], values: &[i64]) -> Tensor {
    Tensor::ints(dtype, shape, values.to_vec()).unwrap()
}

fn dims(sizes: &[i64]) -> Vec<Dim> {
    sizes.iter().map(|&s| Dim::from(s)).collect()
}

/// The result of what `body` builds on arguments of constant shapes.
fn run_in(
    mode: Mode,
    args: &[Tensor],
    body: impl FnOnce(&mut Builder<'_>, &[Value]) -> Result<Value, GraphError>,
) -> Tensor {
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, "test");
    let values: Vec<Value> = args
        .iter()
        .enumerate()
        .map(|(i, t)| b.arg(&format!("x{i}"), Type::new(t.dtype(), t.shape().iter().copied())).unwrap())
        .collect();
    let y = body(&mut b, &values).unwrap();
    graph.add_result("y", y);
    let mut program = Program::new("test");
    program.entries.insert("main".into(), graph);
    Interpreter::new(&program, mode).unwrap().run_pure("main", args).unwrap().remove(0)
}

fn run(op: Op, args: &[Tensor]) -> Tensor {
    run_in(Mode::Exact, args, |b, values| b.op(op, values))
}

/// Equal, NaN equal to NaN.
fn is(found: &Tensor, shape: &[usize], expected: &[f64]) {
    assert_eq!(found.shape(), shape);
    let same = |a: &f64, b: &f64| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    let found = found.as_floats().unwrap();
    assert!(
        found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| same(a, b)),
        "{found:?}, expected {expected:?}"
    );
}

fn is_ints(found: &Tensor, shape: &[usize], expected: &[i64]) {
    assert_eq!((found.shape(), found.as_ints().unwrap()), (shape, expected));
}

const NAN: f64 = f64::NAN;
const INF: f64 = f64::INFINITY;

#[test]
fn unary_of_floats() {
    let x = floats(&[6], &[-1.5, -0.0, 0.5, 2.5, INF, NAN]);
    for (f, expected) in [
        (Unary::Neg, [1.5, 0.0, -0.5, -2.5, -INF, NAN]),
        (Unary::Abs, [1.5, 0.0, 0.5, 2.5, INF, NAN]),
        (Unary::Sign, [-1.0, -0.0, 1.0, 1.0, 1.0, NAN]),
        (Unary::Floor, [-2.0, -0.0, 0.0, 2.0, INF, NAN]),
        (Unary::Ceil, [-1.0, -0.0, 1.0, 3.0, INF, NAN]),
        (Unary::Round, [-2.0, -0.0, 0.0, 2.0, INF, NAN]),
    ] {
        is(&run(Op::Unary { f }, std::slice::from_ref(&x)), &[6], &expected);
    }
    let x = floats(&[3], &[4.0, 0.0, -1.0]);
    for (f, expected) in
        [(Unary::Sqrt, [2.0, 0.0, NAN]), (Unary::Rsqrt, [0.5, INF, NAN]), (Unary::Log, [4f64.ln(), -INF, NAN])]
    {
        is(&run(Op::Unary { f }, std::slice::from_ref(&x)), &[3], &expected);
    }
}

/// Reference digits from tables of these functions (Abramowitz & Stegun 1964, chapters 4 and 7).
#[test]
fn transcendental_functions() {
    for (f, x, y) in [
        (Unary::Exp, 1.0, std::f64::consts::E),
        (Unary::Log, 2.0, std::f64::consts::LN_2),
        (Unary::Sin, 1.0, 0.8414709848078965),
        (Unary::Cos, 1.0, 0.5403023058681398),
        (Unary::Tanh, 0.5, 0.46211715726000975),
        (Unary::Erf, 0.5, 0.5204998778130465),
        (Unary::Erf, -2.0, -0.9953222650189527),
    ] {
        let found = run(Op::Unary { f }, &[floats(&[], &[x])]).as_floats().unwrap()[0];
        assert!((found - y).abs() <= 2e-16 * y.abs(), "{}({x}) = {found}", f.name());
    }
}

#[test]
fn unary_of_integers_wraps() {
    let x = ints(DType::I8, &[4], &[-128, -1, 0, 127]);
    is_ints(&run(Op::Unary { f: Unary::Neg }, std::slice::from_ref(&x)), &[4], &[-128, 1, 0, -127]);
    is_ints(&run(Op::Unary { f: Unary::Abs }, std::slice::from_ref(&x)), &[4], &[-128, 1, 0, 127]);
    is_ints(&run(Op::Unary { f: Unary::Sign }, std::slice::from_ref(&x)), &[4], &[-1, -1, 0, 1]);
    is_ints(&run(Op::Unary { f: Unary::Not }, &[x]), &[4], &[127, 0, -1, -128]);
    is_ints(&run(Op::Unary { f: Unary::Not }, &[ints(DType::U32, &[1], &[1])]), &[1], &[4294967294]);
    is_ints(&run(Op::Unary { f: Unary::Not }, &[ints(DType::Bool, &[2], &[0, 1])]), &[2], &[1, 0]);
    is_ints(&run(Op::Unary { f: Unary::Neg }, &[ints(DType::U8, &[1], &[1])]), &[1], &[255]);
}

#[test]
fn binary_of_floats() {
    let (a, b) = (floats(&[5], &[5.5, -5.5, 1.0, NAN, 2.0]), floats(&[5], &[2.0, 2.0, 0.0, 1.0, NAN]));
    for (f, expected) in [
        (Binary::Add, [7.5, -3.5, 1.0, NAN, NAN]),
        (Binary::Sub, [3.5, -7.5, 1.0, NAN, NAN]),
        (Binary::Mul, [11.0, -11.0, 0.0, NAN, NAN]),
        (Binary::Div, [2.75, -2.75, INF, NAN, NAN]),
        (Binary::Rem, [1.5, -1.5, NAN, NAN, NAN]),
        (Binary::Max, [5.5, 2.0, 1.0, NAN, NAN]),
        (Binary::Min, [2.0, -5.5, 0.0, NAN, NAN]),
        (Binary::Pow, [30.25, 30.25, 1.0, NAN, NAN]),
    ] {
        is(&run(Op::Binary { f }, &[a.clone(), b.clone()]), &[5], &expected);
    }
}

#[test]
fn binary_of_integers() {
    let (a, b) = (ints(DType::I32, &[4], &[7, -7, i32::MIN as i64, 5]), ints(DType::I32, &[4], &[2, 2, -1, 0]));
    for (f, expected) in [
        (Binary::Add, [9, -5, i32::MAX as i64, 5]),
        (Binary::Div, [3, -3, i32::MIN as i64, 0]),
        (Binary::Rem, [1, -1, 0, 0]),
        (Binary::Max, [7, 2, -1, 5]),
        (Binary::And, [2, 0, i32::MIN as i64, 0]),
        (Binary::Xor, [5, -5, i32::MAX as i64, 5]),
        // Places count modulo 32: by -1 is by 31.
        (Binary::Shl, [28, -28, 0, 5]),
        (Binary::Shr, [1, -2, -1, 5]),
    ] {
        is_ints(&run(Op::Binary { f }, &[a.clone(), b.clone()]), &[4], &expected);
    }
    let (a, b) = (ints(DType::U8, &[2], &[200, 3]), ints(DType::U8, &[2], &[100, 5]));
    is_ints(&run(Op::Binary { f: Binary::Add }, &[a.clone(), b.clone()]), &[2], &[44, 8]);
    is_ints(&run(Op::Binary { f: Binary::Sub }, &[a.clone(), b.clone()]), &[2], &[100, 254]);
    is_ints(&run(Op::Binary { f: Binary::Mul }, &[a, b]), &[2], &[32, 15]);
    let big = ints(DType::I64, &[1], &[i64::MAX]);
    is_ints(&run(Op::Binary { f: Binary::Mul }, &[big.clone(), big]), &[1], &[1]);
}

#[test]
fn comparisons_and_selection() {
    let (a, b) = (floats(&[4], &[1.0, 2.0, NAN, -0.0]), floats(&[4], &[1.0, 3.0, NAN, 0.0]));
    for (f, expected) in [
        (Compare::Eq, [1, 0, 0, 1]),
        (Compare::Ne, [0, 1, 1, 0]),
        (Compare::Lt, [0, 1, 0, 0]),
        (Compare::Le, [1, 1, 0, 1]),
        (Compare::Gt, [0, 0, 0, 0]),
        (Compare::Ge, [1, 0, 0, 1]),
    ] {
        is_ints(&run(Op::Compare { f }, &[a.clone(), b.clone()]), &[4], &expected);
    }
    let cond = ints(DType::Bool, &[4], &[1, 0, 0, 1]);
    is(&run(Op::Select {}, &[cond, a, b]), &[4], &[1.0, 3.0, NAN, -0.0]);
}

#[test]
fn casts() {
    let x = floats(&[7], &[-1.9, 300.7, -1e30, INF, NAN, 0.0, 255.9]);
    let to = |dtype| run(Op::Cast { dtype }, std::slice::from_ref(&x));
    is_ints(&to(DType::I8), &[7], &[-1, 127, -128, 127, 0, 0, 127]);
    is_ints(&to(DType::U8), &[7], &[0, 255, 0, 255, 0, 0, 255]);
    is_ints(&to(DType::I64), &[7], &[-1, 300, i64::MIN, i64::MAX, 0, 0, 255]);
    is_ints(&to(DType::Bool), &[7], &[1, 1, 1, 1, 1, 0, 1]);
    let x = ints(DType::I32, &[3], &[-1, 256, 513]);
    is_ints(&run(Op::Cast { dtype: DType::U8 }, std::slice::from_ref(&x)), &[3], &[255, 0, 1]);
    is_ints(&run(Op::Cast { dtype: DType::U32 }, std::slice::from_ref(&x)), &[3], &[4294967295, 256, 513]);
    is_ints(&run(Op::Cast { dtype: DType::Bool }, &[x]), &[3], &[1, 1, 1]);
    // Above the tie between two `f32`; by way of `f64` it would become the tie and round down.
    let x = ints(DType::I64, &[1], &[(1 << 60) + (1 << 36) + 1]);
    let y = run_in(Mode::Rounded, &[x], |b, v| b.cast(v[0], DType::F32));
    is(&y, &[1], &[((1u64 << 60) + (1 << 37)) as f64]);
}

#[test]
fn movement() {
    let x = floats(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let of = |op| run(op, std::slice::from_ref(&x));
    is(&of(Op::Reshape { shape: dims(&[3, 2]) }), &[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    is(&of(Op::Transpose { perm: vec![1, 0] }), &[3, 2], &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    let shape = dims(&[2, 2, 3]);
    let rows = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    is(&of(Op::Broadcast { shape: shape.clone(), axes: vec![1, 2] }), &[2, 2, 3], &[rows, rows].concat());
    let twice = [1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 4.0, 5.0, 6.0];
    is(&of(Op::Broadcast { shape, axes: vec![0, 2] }), &[2, 2, 3], &twice);
    let slice = |axis, start: i64, stop: i64, step| Op::Slice { axis, start: start.into(), stop: stop.into(), step };
    is(&of(slice(1, 0, 3, 2)), &[2, 2], &[1.0, 3.0, 4.0, 6.0]);
    is(&of(slice(0, 1, 2, 1)), &[1, 3], &[4.0, 5.0, 6.0]);
    is(&of(slice(0, 2, 2, 1)), &[0, 3], &[]);
    let value = floats(&[], &[9.0]);
    let padded = run(Op::Pad { axis: 1, before: 1, after: 2 }, &[x.clone(), value]);
    is(&padded, &[2, 6], &[9.0, 1.0, 2.0, 3.0, 9.0, 9.0, 9.0, 4.0, 5.0, 6.0, 9.0, 9.0]);
    let y = floats(&[2, 1], &[7.0, 8.0]);
    is(
        &run(Op::Concat { axis: 1 }, &[x.clone(), y, floats(&[2, 0], &[])]),
        &[2, 4],
        &[1.0, 2.0, 3.0, 7.0, 4.0, 5.0, 6.0, 8.0],
    );
    let iota = run(Op::Iota { shape: dims(&[2, 3]), axis: 1, dtype: DType::I32 }, &[]);
    is_ints(&iota, &[2, 3], &[0, 1, 2, 0, 1, 2]);
    let iota = run(Op::Iota { shape: dims(&[3]), axis: 0, dtype: DType::Bool }, &[]);
    is_ints(&iota, &[3], &[0, 1, 1]);
}

#[test]
fn gather_clamps() {
    let x = floats(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let rows = run(Op::Gather { axis: 0 }, &[x.clone(), ints(DType::I64, &[3], &[1, -5, 99])]);
    is(&rows, &[3, 3], &[4.0, 5.0, 6.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let columns = run(Op::Gather { axis: 1 }, &[x, ints(DType::I32, &[2, 1], &[2, 0])]);
    is(&columns, &[2, 2, 1], &[3.0, 1.0, 6.0, 4.0]);
    let empty = run(Op::Gather { axis: 0 }, &[floats(&[0, 2], &[]), ints(DType::I32, &[2], &[0, 1])]);
    is(&empty, &[2, 2], &[0.0; 4]);
}

#[test]
fn products() {
    let a = floats(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let b = floats(&[3, 2], &[1.0, 0.0, 0.0, 1.0, 2.0, -1.0]);
    is(&run(Op::Dot { transpose_rhs: false }, &[a.clone(), b]), &[2, 2], &[7.0, -1.0, 16.0, -1.0]);
    is(&run(Op::Dot { transpose_rhs: true }, &[a.clone(), a]), &[2, 2], &[14.0, 32.0, 32.0, 77.0]);
    let empty = run(Op::Dot { transpose_rhs: false }, &[floats(&[2, 0], &[]), floats(&[0, 1], &[])]);
    is(&empty, &[2, 1], &[0.0, 0.0]);
    let bytes = ints(DType::I8, &[1, 2], &[100, 100]);
    is_ints(&run(Op::Dot { transpose_rhs: true }, &[bytes.clone(), bytes]), &[1, 1], &[32]);
    let batch = floats(&[2, 1, 1], &[2.0, 3.0]);
    is(&run(Op::Dot { transpose_rhs: false }, &[batch.clone(), batch]), &[2, 1, 1], &[4.0, 9.0]);
}

#[test]
fn reductions() {
    let x = floats(&[2, 3], &[1.0, 5.0, 3.0, 4.0, NAN, 6.0]);
    let of =
        |x: &Tensor, f, axes: &[usize], keep| run(Op::Reduce { f, axes: axes.to_vec(), keep }, std::slice::from_ref(x));
    is(&of(&x, Reduction::Sum, &[1], false), &[2], &[9.0, NAN]);
    is(&of(&x, Reduction::Max, &[1], true), &[2, 1], &[5.0, NAN]);
    is(&of(&x, Reduction::Min, &[0], false), &[3], &[1.0, NAN, 3.0]);
    is(&of(&x, Reduction::Sum, &[], false), &[2, 3], &[1.0, 5.0, 3.0, 4.0, NAN, 6.0]);
    let nothing = floats(&[0, 2], &[]);
    for (f, identity) in [(Reduction::Sum, 0.0), (Reduction::Prod, 1.0), (Reduction::Max, -INF), (Reduction::Min, INF)]
    {
        is(&of(&nothing, f, &[0], false), &[2], &[identity; 2]);
        is(&of(&nothing, f, &[0, 1], false), &[], &[identity]);
    }
    let bytes = ints(DType::I8, &[3], &[100, 100, -3]);
    is_ints(&of(&bytes, Reduction::Sum, &[0], false), &[], &[-59]);
    is_ints(&of(&bytes, Reduction::Prod, &[0], true), &[1], &[-48]);
    let none = ints(DType::I8, &[0], &[]);
    is_ints(&of(&none, Reduction::Max, &[0], false), &[], &[-128]);
    is_ints(&of(&none, Reduction::Min, &[0], false), &[], &[127]);
    let bools = ints(DType::Bool, &[2, 2], &[0, 1, 1, 1]);
    is_ints(&of(&bools, Reduction::Min, &[1], false), &[2], &[0, 1]);
    is_ints(&of(&bools, Reduction::Max, &[0, 1], false), &[], &[1]);
}

#[test]
fn running_sums() {
    let x = floats(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    is(&run(Op::CumSum { axis: 1 }, std::slice::from_ref(&x)), &[2, 3], &[1.0, 3.0, 6.0, 4.0, 9.0, 15.0]);
    is(&run(Op::CumSum { axis: 0 }, &[x]), &[2, 3], &[1.0, 2.0, 3.0, 5.0, 7.0, 9.0]);
    is_ints(&run(Op::CumSum { axis: 0 }, &[ints(DType::U8, &[3], &[200, 100, 1])]), &[3], &[200, 44, 45]);
    is(&run(Op::CumSum { axis: 0 }, &[floats(&[0, 2], &[])]), &[0, 2], &[]);
}

/// `f32` keeps 24 bits after every operation, 16-bit floats add up in `f32`; exact mode keeps all.
#[test]
fn rounded_mode_rounds() {
    let one = Tensor::floats(DType::F32, &[1], vec![1.0]).unwrap();
    let plus = |b: &mut Builder<'_>, v: &[Value]| b.add_const(v[0], 2f64.powi(-24));
    is(&run_in(Mode::Rounded, std::slice::from_ref(&one), plus), &[1], &[1.0]);
    is(&run_in(Mode::Exact, &[one], plus), &[1], &[1.0 + 2f64.powi(-24)]);

    // 4096 + 1 + 1 in `f16`, whose spacing there is 4: step by step in `f16` it would stay 4096.
    let x = Tensor::floats(DType::F16, &[4], vec![4096.0, 1.0, 1.0, 1.0]).unwrap();
    let sum = |b: &mut Builder<'_>, v: &[Value]| b.reduce(Reduction::Sum, v[0], &[0], false);
    is(&run_in(Mode::Rounded, std::slice::from_ref(&x), sum), &[], &[4100.0]);
    is(&run_in(Mode::Exact, &[x], sum), &[], &[4099.0]);
}

#[test]
fn rows_are_added_in_order() {
    let x = floats(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let indices = ints(DType::I64, &[5], &[2, 0, -1, 3, 2]);
    let updates = floats(&[5, 2], &[10.0, 20.0, 30.0, 40.0, NAN, NAN, NAN, NAN, 0.5, 0.25]);
    is(&run(Op::ScatterAdd {}, &[x, indices, updates]), &[3, 2], &[31.0, 42.0, 3.0, 4.0, 15.5, 26.25]);
    // In `f32`, one after the other: the small ones are lost.
    let x = Tensor::floats(DType::F32, &[1], vec![1.0]).unwrap();
    let updates = Tensor::floats(DType::F32, &[3], vec![3e7, 1.0, -3e7]).unwrap();
    let sum = run_in(Mode::Rounded, &[x, ints(DType::I32, &[3], &[0; 3]), updates], |b, v| b.op(Op::ScatterAdd {}, v));
    is(&sum, &[1], &[0.0]);
    let wrapped = run(
        Op::ScatterAdd {},
        &[ints(DType::U8, &[1], &[200]), ints(DType::I32, &[1], &[0]), ints(DType::U8, &[1], &[100])],
    );
    is_ints(&wrapped, &[1], &[44]);
}
