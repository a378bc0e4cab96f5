//! Every rule of canonicalization on the smallest graph it applies to, and graphs it must leave alone.

use lith_ir::{
    Binary, Builder, Compare, DType, Dim, Graph, Literal, Op, Program, Symbol, SymbolInfo, Type, Unary, Value,
};
use lith_passes::{Stage, run_until};

/// What is left of a graph: its nodes but arguments, in order, with their functions.
fn left(build: impl FnOnce(&mut Builder<'_>) -> Value) -> Vec<String> {
    graph_of(build).1
}

fn graph_of(build: impl FnOnce(&mut Builder<'_>) -> Value) -> (Graph, Vec<String>) {
    let mut graph = Graph::new();
    let value = build(&mut Builder::new(&mut graph, "here"));
    graph.add_result("y", value);
    let mut program = Program::new("test");
    program.symbols.insert(Symbol::new("t"), SymbolInfo::default());
    program.entries.insert("main".into(), graph);
    let compiled = run_until(program, Stage::Canonicalize).unwrap();
    let graph = compiled.program.entries["main"].clone();
    let name = |op: &Op| match op {
        Op::Unary { f } => f.name(),
        Op::Binary { f } => f.name(),
        Op::Compare { f } => f.name(),
        op => op.name(),
    };
    let nodes = graph.topological().unwrap().into_iter().map(|n| name(&graph.node(n).op).to_string());
    let nodes = nodes.filter(|n| n != "arg").collect();
    (graph, nodes)
}

fn t() -> Dim {
    Dim::symbol(&Symbol::new("t"))
}

fn d(n: i64) -> Dim {
    Dim::from(n)
}

fn x(b: &mut Builder<'_>, dtype: DType) -> Value {
    b.arg("x", Type { dtype, shape: vec![t(), d(4), d(6)] }).unwrap()
}

const NOTHING: [&str; 0] = [];

#[test]
fn steps_that_do_nothing_go() {
    type Step = fn(&mut Builder<'_>, Value) -> Value;
    let steps: [Step; 7] = [
        |b, x| b.op(Op::Reshape { shape: vec![t(), d(4), d(6)] }, &[x]).unwrap(),
        |b, x| b.transpose(x, &[0, 1, 2]).unwrap(),
        |b, x| b.op(Op::Cast { dtype: DType::F32 }, &[x]).unwrap(),
        |b, x| b.op(Op::Slice { axis: 0, start: d(0), stop: t(), step: 1 }, &[x]).unwrap(),
        |b, x| {
            let zero = b.scalar(DType::F32, 0.0).unwrap();
            b.op(Op::Pad { axis: 1, before: 0, after: 0 }, &[x, zero]).unwrap()
        },
        |b, x| b.op(Op::Broadcast { shape: vec![t(), d(4), d(6)], axes: vec![0, 1, 2] }, &[x]).unwrap(),
        |b, x| b.op(Op::Concat { axis: 1 }, &[x]).unwrap(),
    ];
    for step in steps {
        let nodes = left(|b| {
            let x = x(b, DType::F32);
            let y = step(b, x);
            b.unary(Unary::Exp, y).unwrap()
        });
        assert_eq!(nodes, ["exp"]);
    }
}

#[test]
fn movement_is_simplified() {
    let two_reshapes = left(|b| {
        let x = x(b, DType::F32);
        let y = b.reshape(x, &[t() * d(24)]).unwrap();
        b.reshape(y, &[t(), d(24)]).unwrap()
    });
    assert_eq!(two_reshapes, ["reshape"]);
    let there_and_back = left(|b| {
        let x = x(b, DType::F32);
        let y = b.transpose(x, &[1, 2, 0]).unwrap();
        b.transpose(y, &[2, 0, 1]).unwrap()
    });
    assert_eq!(there_and_back, NOTHING);
    let (graph, nodes) = graph_of(|b| {
        let x = x(b, DType::F32);
        let y = b.transpose(x, &[1, 2, 0]).unwrap();
        b.transpose(y, &[1, 0, 2]).unwrap()
    });
    assert_eq!(nodes, ["transpose"]);
    assert_eq!(graph.node(graph.results()[0].1.node).op, Op::Transpose { perm: vec![2, 1, 0] });
    let unit_axis = left(|b| {
        let x = x(b, DType::F32);
        let y = b.reshape(x, &[t(), d(1), d(24)]).unwrap();
        b.transpose(y, &[1, 0, 2]).unwrap()
    });
    assert_eq!(unit_axis, ["reshape"]);
    let (graph, nodes) = graph_of(|b| {
        let x = b.arg("x", Type { dtype: DType::F32, shape: vec![t()] }).unwrap();
        let column = b.reshape(x, &[t(), d(1)]).unwrap();
        let rows = b.broadcast(column, &[t(), d(6)], &[0, 1]).unwrap();
        b.broadcast(rows, &[t(), d(4), d(6)], &[0, 2]).unwrap()
    });
    assert_eq!(nodes, ["broadcast"]);
    let op = Op::Broadcast { shape: vec![t(), d(4), d(6)], axes: vec![0] };
    assert_eq!(graph.node(graph.results()[0].1.node).op, op);
}

#[test]
fn elementwise_of_broadcasts_is_small() {
    let (graph, nodes) = graph_of(|b| {
        let weight = b.arg("w", Type::new(DType::F32, [6i64])).unwrap();
        let bias = b.arg("b", Type::new(DType::F32, [6i64])).unwrap();
        let shape = [t(), d(4), d(6)];
        let (weight, bias) = (b.expand(weight, &shape).unwrap(), b.expand(bias, &shape).unwrap());
        b.mul(weight, bias).unwrap()
    });
    assert_eq!(nodes, ["mul", "broadcast"]);
    let product = graph.operand(graph.results()[0].1.node, 0).unwrap();
    assert_eq!(graph.ty(product), &Type::new(DType::F32, [6i64]));
}

#[test]
fn neutral_elements_go() {
    for (f, value, dtype) in [
        (Binary::Mul, 1.0, DType::F32),
        (Binary::Div, 1.0, DType::F16),
        (Binary::Sub, 0.0, DType::F32),
        (Binary::Add, -0.0, DType::Bf16),
        (Binary::Add, 0.0, DType::I32),
        (Binary::Mul, 1.0, DType::I8),
        (Binary::And, 1.0, DType::Bool),
        (Binary::And, -1.0, DType::I16),
        (Binary::Or, 0.0, DType::Bool),
    ] {
        let nodes = left(|b| {
            let x = x(b, dtype);
            b.binary_const(f, x, value).unwrap()
        });
        assert_eq!(nodes, NOTHING, "{} {value} {dtype}", f.name());
    }
    // 0.0 + -0.0 is 0.0; 1 - x is not x; integers divide by zero to 0.
    for (f, value, dtype) in
        [(Binary::Add, 0.0, DType::F32), (Binary::Max, 0.0, DType::F32), (Binary::Div, 0.0, DType::I32)]
    {
        let nodes = left(|b| {
            let x = x(b, dtype);
            b.binary_const(f, x, value).unwrap()
        });
        assert_eq!(nodes.len(), 3, "{} {value} {dtype}", f.name());
    }
    let reversed = left(|b| {
        let x = x(b, DType::F32);
        let one = b.full_like(x, 1.0).unwrap();
        b.div(one, x).unwrap()
    });
    assert_eq!(reversed, ["const", "broadcast", "div"]);
}

#[test]
fn division_by_a_power_of_two_is_a_product() {
    let divide = |by: f64| {
        left(|b| {
            let x = x(b, DType::F32);
            b.binary_const(Binary::Div, x, by).unwrap()
        })
    };
    assert_eq!(divide(8.0).last().unwrap(), "mul");
    assert_eq!(divide(-0.25).last().unwrap(), "mul");
    assert_eq!(divide(6.0).last().unwrap(), "div");
    assert_eq!(divide(0.0).last().unwrap(), "div");
    assert_eq!(divide(f64::INFINITY).last().unwrap(), "div");
}

#[test]
fn casts_by_way_of_a_wider_type() {
    let casts = |from: DType, between: DType, to: DType| {
        left(|b| {
            let x = x(b, from);
            let y = b.cast(x, between).unwrap();
            b.cast(y, to).unwrap()
        })
        .len()
    };
    assert_eq!(casts(DType::Bf16, DType::F32, DType::Bf16), 0);
    assert_eq!(casts(DType::I8, DType::I64, DType::F32), 1);
    assert_eq!(casts(DType::Bool, DType::F16, DType::F32), 1);
    assert_eq!(casts(DType::I16, DType::F32, DType::I32), 1);
    // 300 wraps to 44 as an integer and saturates to 255 as a float.
    assert_eq!(casts(DType::I32, DType::F64, DType::U8), 2);
    assert_eq!(casts(DType::F32, DType::F16, DType::F32), 2);
    assert_eq!(casts(DType::I64, DType::F64, DType::I64), 2);
    assert_eq!(casts(DType::F32, DType::Bool, DType::F32), 2);
}

#[test]
fn choices_that_are_known() {
    let select = |f: fn(&mut Builder<'_>, [Value; 3]) -> Value| {
        left(|b| {
            let shape = Type { dtype: DType::F32, shape: vec![t()] };
            let (p, q) = (b.arg("p", shape.clone()).unwrap(), b.arg("q", shape.clone()).unwrap());
            let c = b.arg("c", shape.with_dtype(DType::Bool)).unwrap();
            f(b, [c, p, q])
        })
    };
    assert_eq!(select(|b, [c, p, _]| b.select(c, p, p).unwrap()), NOTHING);
    assert_eq!(
        select(|b, [c, p, q]| {
            let yes = b.full_like(c, 1.0).unwrap();
            b.select(yes, p, q).unwrap()
        }),
        NOTHING
    );
    assert_eq!(
        select(|b, [c, p, q]| {
            let not = b.unary(Unary::Not, c).unwrap();
            b.select(not, p, q).unwrap()
        }),
        ["select"]
    );
    let twice = left(|b| {
        let x = x(b, DType::F32);
        let y = b.unary(Unary::Neg, x).unwrap();
        b.unary(Unary::Neg, y).unwrap()
    });
    assert_eq!(twice, NOTHING);
}

#[test]
fn constants_fold() {
    // Distances of positions, bucketed as relative position tables are.
    let (graph, nodes) = graph_of(|b| {
        let table = b.arg("table", Type::new(DType::F32, [32i64, 2])).unwrap();
        let i = b.iota(&[d(9)], 0, DType::I32).unwrap();
        let distance = b.add_const(i, -4.0).unwrap();
        let distance = b.unary(Unary::Abs, distance).unwrap();
        b.gather(table, distance, 0).unwrap()
    });
    assert_eq!(nodes, ["const", "gather"]);
    let indices = graph.operand(graph.results()[0].1.node, 1).unwrap();
    let expected = Literal::i32s(&[4, 3, 2, 1, 0, 1, 2, 3, 4]);
    assert_eq!(graph.node(indices.node).op, Op::Const { value: expected });

    // One number stays one number, whatever the shape.
    let full = left(|b| {
        let shape = [t(), d(6)];
        let two = b.full(&Type { dtype: DType::F32, shape: shape.to_vec() }, 2.0).unwrap();
        let root = b.unary(Unary::Sqrt, two).unwrap();
        b.transpose(root, &[1, 0]).unwrap()
    });
    assert_eq!(full, ["const", "broadcast"]);

    // A table too large to carry along is computed at run time.
    let large = left(|b| {
        let i = b.iota(&[d(1 << 17)], 0, DType::I32).unwrap();
        b.compare_const(Compare::Gt, i, 3.0).unwrap()
    });
    assert_eq!(large.last().unwrap(), "gt");
    assert_eq!(left(|b| b.op(Op::Size { dim: d(5) }, &[]).unwrap()), ["const"]);
    assert_eq!(left(|b| b.op(Op::Size { dim: t() }, &[]).unwrap()), ["size"]);
}

#[test]
fn equal_and_dead_nodes_go() {
    let nodes = left(|b| {
        let x = x(b, DType::F32);
        let (p, q) = (b.unary(Unary::Exp, x).unwrap(), b.unary(Unary::Exp, x).unwrap());
        b.unary(Unary::Tanh, x).unwrap();
        b.add(p, q).unwrap()
    });
    assert_eq!(nodes, ["exp", "add"]);
}
