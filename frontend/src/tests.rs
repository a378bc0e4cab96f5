//! The tracer through the reference interpreter.

use std::collections::BTreeMap;

use lith_ir::interp::{Interpreter, Mode, Tensor as Values};
use lith_ir::{Activation, Compare, DType, Dim, Literal, Op, Program};

use crate::nn::{self, Act, Pooling, SelfAttention};
use crate::{Layout, Scope, Sequence, Tensor, Trace, TraceError};

fn floats(shape: &[usize], values: &[f64]) -> Values {
    Values::floats(DType::F32, shape, values.to_vec()).unwrap()
}

/// Runs the one entry point with parameters that depend on their name alone.
fn run(program: &Program, args: &[Values]) -> BTreeMap<String, Values> {
    let param = |name: &str| {
        let shape = program.params.get(name)?.static_shape()?;
        let seed = name.bytes().fold(7u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
        let value = |i: usize| f64::from(seed.wrapping_add(i as u32).wrapping_mul(2_654_435_761) >> 16) / 32768.0 - 1.0;
        Some(floats(&shape, &(0..shape.iter().product()).map(value).collect::<Vec<_>>()))
    };
    let interpreter = Interpreter::new(program, Mode::Exact).unwrap();
    let results = interpreter.run("main", args, &param, &mut BTreeMap::new()).unwrap();
    program.entries["main"].results().iter().map(|(name, _)| name.clone()).zip(results).collect()
}

/// What `f` makes of a vector.
fn of_vector(values: &[f64], f: impl FnOnce(&Tensor) -> Tensor) -> Vec<f64> {
    let trace = Trace::new("test", DType::F32);
    let x = trace.argument("x", DType::F32, [values.len()]);
    trace.result("y", &f(&x));
    let program = trace.finish("main").unwrap();
    run(&program, &[floats(&[values.len()], values)])["y"].as_floats().unwrap().to_vec()
}

fn close(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (f, e) in found.iter().zip(expected) {
        assert!((f - e).abs() <= 1e-6 * (1.0 + e.abs()), "{found:?}, expected {expected:?}");
    }
}

#[test]
fn a_misfit_names_path_and_both_types() {
    let trace = Trace::new("test", DType::F32);
    let tokens = trace.symbol("tokens", Default::default());
    let x = trace.argument("x", DType::F32, [tokens, Dim::from(32i64)]);
    let y = trace
        .root()
        .at("bert", |s| s.at("encoder.layer.0", |s| nn::linear(s, "attention.self.query", &x, [16, 9]).tanh() + &x));
    // Nothing after the first misfit is told.
    trace.result("y", &(y / x.reshape([7i64])));
    assert_eq!(
        trace.finish("main").unwrap_err().to_string(),
        "at `bert.encoder.layer.0.attention.self.query`: linear: f32[tokens, 32] by weight f32[16, 9]"
    );
}

#[test]
fn misfits_before_a_node_name_path_and_types_too() {
    let misfit = |f: &dyn Fn(&Scope, &Tensor, &Tensor)| {
        let trace = Trace::new("test", DType::F32);
        let x = trace.argument("x", DType::F32, [4i64, 8]);
        let y = trace.argument("y", DType::I32, [3i64]);
        trace.root().at("block", |s| f(s, &x, &y));
        trace.finish("main").unwrap_err().to_string()
    };
    type Step<'a> = &'a dyn Fn(&Scope, &Tensor, &Tensor);
    let cases: [(Step<'_>, &str); 9] = [
        (&|_, x, y| drop(x + y), "add: f32[4, 8] and i32[3] do not broadcast"),
        (&|_, x, _| drop(x.sum(&[2], false)), "sum: axis 2 of f32[4, 8]"),
        (&|_, x, _| drop(x.slice(-3, 0i64, 1i64)), "slice: axis -3 of f32[4, 8]"),
        (&|_, _, y| drop(y + 0.5), "add: i32[3] and 0.5"),
        (&|_, x, _| drop(x.broadcast_to(&[Dim::from(8i64)])), "broadcast: f32[4, 8] to 1 axes"),
        (&|s, _, _| drop((s.param("w", [2i64]), s.param("w", [3i64]))), "parameter `block.w` is f32[2] and f32[3]"),
        (&|s, _, _| drop(s.trace().argument("x", DType::F32, [1i64])), "a second argument `x`"),
        (
            &|s, x, y| {
                s.trace().result("z", x);
                s.trace().result("z", y);
            },
            "a second result `z`",
        ),
        (
            &|_, x, _| drop(x + Trace::new("other", DType::F32).constant(Literal::float(DType::F32, 1.0)).exp()),
            "another",
        ),
    ];
    for (f, expected) in cases {
        let error = misfit(f);
        assert!(error.starts_with("at `block`: ") && error.contains(expected), "{error}, expected {expected}");
    }
}

#[test]
fn operators_and_broadcasts() {
    let trace = Trace::new("test", DType::F32);
    let a = trace.argument("a", DType::F32, [2i64, 3]);
    let b = trace.argument("b", DType::F32, [3i64]);
    let column = b.slice(0, 0i64, 2i64).reshape([2i64, 1]);
    let results = [
        ("sum", &a + &b),
        ("difference", &b - &a),
        ("product", &a * &column),
        ("quotient", -(&a / 2.0) + 1.0),
        ("mean", a.mean(&[-1], false)),
        ("chosen", a.compare_to(Compare::Gt, 3.0).select(&b, &a)),
        ("matrix", a.matmul(&a.transpose(&[1, 0]))),
        ("joined", column.concat(-1, std::slice::from_ref(&a))),
        ("cell", a.index(1, 2)),
        ("counted", a.cast(DType::I32).cumsum(1).cast(DType::F32)),
        ("padded", b.pad(0, 1, 2)),
    ];
    for (name, tensor) in &results {
        trace.result(name, tensor);
    }
    let program = trace.finish("main").unwrap();
    let found = run(&program, &[floats(&[2, 3], &[1., 2., 3., 4., 5., 6.]), floats(&[3], &[10., 20., 30.])]);
    let expected: [(&str, &[usize], &[f64]); 11] = [
        ("sum", &[2, 3], &[11., 22., 33., 14., 25., 36.]),
        ("difference", &[2, 3], &[9., 18., 27., 6., 15., 24.]),
        ("product", &[2, 3], &[10., 20., 30., 80., 100., 120.]),
        ("quotient", &[2, 3], &[0.5, 0., -0.5, -1., -1.5, -2.]),
        ("mean", &[2], &[2., 5.]),
        ("chosen", &[2, 3], &[1., 2., 3., 10., 20., 30.]),
        ("matrix", &[2, 2], &[14., 32., 32., 77.]),
        ("joined", &[2, 4], &[10., 1., 2., 3., 20., 4., 5., 6.]),
        ("cell", &[2], &[3., 6.]),
        ("counted", &[2, 3], &[1., 3., 6., 4., 9., 15.]),
        ("padded", &[6], &[0., 10., 20., 30., 0., 0.]),
    ];
    for (name, shape, values) in expected {
        assert_eq!(found[name].shape(), shape, "{name}");
        close(found[name].as_floats().unwrap(), values);
    }
}

#[test]
fn scopes_give_paths_and_names() {
    let trace = Trace::new("test", DType::F32);
    let x = trace.argument("x", DType::F32, [1i64, 2]);
    let y = trace.root().at("a", |s| {
        let y = s.shared("layer.0", "group.0", |s| nn::linear(s, "dense", &x, [2, 2]));
        s.shared("layer.1", "group.0", |s| nn::linear(s, "dense", &y, [2, 2])) + &x
    });
    trace.result("y", &y);
    let program = trace.finish("main").unwrap();
    assert_eq!(program.params.keys().collect::<Vec<_>>(), ["a.group.0.dense.bias", "a.group.0.dense.weight"]);
    let nodes = program.entries["main"].petgraph().node_weights();
    let computed = nodes.filter(|n| matches!(n.op, Op::Linear {} | Op::Binary { .. })).map(|n| n.path.to_string());
    assert_eq!(computed.collect::<Vec<_>>(), ["a.layer.0.dense", "a.layer.1.dense", "a"]);
}

/// PST-11: every name without parameters of its own, at points on both sides of its bends.
#[test]
fn activations_by_name() {
    let xs = [-12.0, -3.5, -1.0, 0.0, 0.4, 2.5, 12.0];
    let erf = |x: f64| of_vector(&[x], Tensor::erf)[0];
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let softplus = |x: f64| (1.0 + x.exp()).ln();
    let gelu = |x: f64| x * 0.5 * (1.0 + erf(x / 2f64.sqrt()));
    let tanh_gelu =
        |x: f64| x * 0.5 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh());
    let relu6 = |x: f64| x.clamp(0.0, 6.0);
    type Row<'a> = (&'a [&'a str], &'a dyn Fn(f64) -> f64);
    let rows: [Row<'_>; 16] = [
        (&["gelu", "gelu_python"], &gelu),
        (&["gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_accurate"], &tanh_gelu),
        (&["gelu_10"], &|x| gelu(x).clamp(-10.0, 10.0)),
        (&["quick_gelu"], &|x| x * sigmoid(1.702 * x)),
        (&["relu"], &|x| x.max(0.0)),
        (&["relu2"], &|x| x.max(0.0).powi(2)),
        (&["relu6"], &relu6),
        (&["silu", "swish"], &|x| x * sigmoid(x)),
        (&["sigmoid"], &sigmoid),
        (&["tanh"], &f64::tanh),
        (&["linear"], &|x| x),
        (&["mish"], &|x| x * softplus(x).tanh()),
        (&["hardswish"], &|x| x * relu6(x + 3.0) / 6.0),
        (&["leaky_relu"], &|x| if x > 0.0 { x } else { 0.01 * x }),
        (&["laplace"], &|x| 0.5 * (1.0 + erf((x - 0.707_106_999_999) / (0.282095 * 2f64.sqrt())))),
        (&["sqrtsoftplus"], &|x| softplus(x).sqrt()),
    ];
    for (names, f) in rows {
        for name in names {
            close(&of_vector(&xs, |x| Act::from_name(name).unwrap().apply(x)), &xs.map(f));
        }
    }
    assert_eq!(Act::from_name("gelu_new"), Some(Act::Op(Activation::GeluTanh)));
    assert_eq!(["prelu", "xielu", "Gelu", ""].map(Act::from_name), [None; 4]);
}

/// A small model that asks a sequence for everything it has.
fn sequence_model(layout: Layout) -> Program {
    let trace = Trace::new("test", DType::F32);
    let tokens = Sequence::arguments(&trace, layout, true, 16);
    let s = trace.root();
    let words = nn::embedding(&s, "words", tokens.ids(), [11, 4]);
    let kinds = nn::embedding(&s, "kinds", tokens.type_ids().unwrap(), [2, 4]);
    let places = nn::embedding(&s, "places", &tokens.positions(), [16, 4]);
    let counts = nn::embedding(&s, "counts", &tokens.running_count(&tokens.is_not(3)), [16, 4]);
    let x = nn::layer_norm(&s, "norm", &(words + kinds + places + counts), 4, 1e-5);
    let bias = s.param("bias", [2i64, 5]);
    let attention = |causal, rel_bias| {
        let names = ["q", "k", "v"];
        SelfAttention { names, width: 4, heads: 2, causal, rel_bias, dropout: 0.0 }.apply(&s, &tokens, &x)
    };
    let x = attention(false, Some(&bias)) + attention(true, None);
    let x = nn::mlp(&s, ["in", "out"], &x, [4, 6], Act::Op(Activation::Gelu)) + x;
    trace.result("tokens", &x);
    let ways = [
        ("cls", Pooling::Cls),
        ("max", Pooling::Max),
        ("mean", Pooling::Mean),
        ("mean_sqrt_len", Pooling::MeanSqrtLen),
        ("weighted_mean", Pooling::WeightedMean),
        ("last", Pooling::LastToken),
    ];
    for (name, way) in ways {
        trace.result(name, &way.apply(&tokens, &x));
    }
    trace.result("lengths", &tokens.lengths());
    trace.finish("main").unwrap()
}

fn ids(sequence: &[i64]) -> Values {
    Values::ints(DType::I32, &[sequence.len()], sequence.to_vec()).unwrap()
}

fn packed(sequences: &[&[i64]]) -> BTreeMap<String, Values> {
    let flat = sequences.concat();
    let types: Vec<i64> = flat.iter().map(|id| id % 2).collect();
    let mut offsets = vec![0];
    offsets.extend(sequences.iter().scan(0, |end, s| {
        *end += s.len() as i64;
        Some(*end)
    }));
    run(&sequence_model(Layout::Packed), &[ids(&flat), ids(&types), ids(&offsets)])
}

fn padded(sequences: &[&[i64]], width: usize) -> BTreeMap<String, Values> {
    let grid = |dtype, f: &dyn Fn(Option<&i64>) -> i64| {
        let values = sequences.iter().flat_map(|s| (0..width).map(|i| f(s.get(i)))).collect();
        Values::ints(dtype, &[sequences.len(), width], values).unwrap()
    };
    let args = [
        grid(DType::I32, &|id| id.copied().unwrap_or(0)),
        grid(DType::I32, &|id| id.map_or(0, |id| id % 2)),
        grid(DType::Bool, &|id| id.is_some().into()),
    ];
    run(&sequence_model(Layout::Padded), &args)
}

const SEQUENCES: [&[i64]; 4] = [&[5, 3, 8], &[7], &[1, 2, 3, 3, 4, 9, 10], &[6, 6]];

#[test]
fn layouts_agree() {
    let (a, b) = (packed(&SEQUENCES), padded(&SEQUENCES, 9));
    for (name, found) in &a {
        let (found, grid) = (found.as_floats().unwrap(), b[name].as_floats().unwrap());
        if name == "tokens" {
            let rows = SEQUENCES.iter().enumerate();
            let real: Vec<f64> = rows.flat_map(|(i, s)| &grid[i * 36..(i * 9 + s.len()) * 4]).copied().collect();
            close(found, &real);
        } else {
            close(found, grid);
        }
    }
}

/// Each sequence is what it is by itself, whatever stands around it: others, sequences without tokens, or nothing.
#[test]
fn neighbours_do_not_matter() {
    let empty: &[i64] = &[];
    let [a, b, c, d] = SEQUENCES;
    let together = packed(&[empty, a, empty, empty, b, c, d, empty]);
    let mut first = 0;
    for (row, sequence) in [(1, a), (4, b), (5, c), (6, d)] {
        for (name, alone) in packed(&[sequence]) {
            let alone = alone.as_floats().unwrap();
            let start = if name == "tokens" { first * 4 } else { row * alone.len() };
            close(&together[&name].as_floats().unwrap()[start..start + alone.len()], alone);
        }
        first += sequence.len();
    }
    for row in [0, 2, 3, 7] {
        for name in ["mean", "mean_sqrt_len", "weighted_mean"] {
            close(&together[name].as_floats().unwrap()[row * 4..row * 4 + 4], &[0.0; 4]);
        }
    }
}

#[test]
fn nothing_to_do_is_no_error() {
    for none in [packed(&[]), packed(&[&[], &[]]), padded(&[], 3), padded(&[&[], &[]], 0), padded(&[&[]], 4)] {
        assert!(none["mean"].as_floats().unwrap().iter().all(|v| *v == 0.0));
    }
}

#[test]
fn a_second_symbol_of_a_name_is_refused() {
    let trace = Trace::new("test", DType::F32);
    trace.symbol("n", Default::default());
    trace.symbol("n", Default::default());
    assert!(matches!(trace.finish("main"), Err(TraceError::Duplicate { what: "symbol", .. })));
}
