//! What a plan computes is what the program says: cases of every op and random graphs, through every stage, against the
//! reference interpreter on the program as it was.

mod common;

use std::collections::BTreeMap;

use common::decoder::Decoder;
use common::execute::Execution;
use common::training::{classifier, gradients_of};
use common::{bert, numbered, symbols_of};
use lith_ir::interp::{Mode, Tensor};
use lith_ir::plan::Layout;
use lith_ir::testing::{Case, Rng, cases_for, close, random_case};
use lith_ir::{Activation, Binary, Builder, DType, Dim, Graph, Op, Program, Reduction, Type, Unary, Value, verify};
use lith_passes::check::{check, check_memory};
use lith_passes::{Options, Stage, run, run_until};

fn hold(case: &Case) {
    for &stage in Stage::ALL {
        let compiled = run_until(case.program.clone(), stage).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        verify(&compiled.program).unwrap_or_else(|e| panic!("{} after {}: {e}", case.name, stage.name()));
        if stage >= Stage::Fuse {
            check(&compiled).unwrap_or_else(|e| panic!("{} after {}: {e}", case.name, stage.name()));
        }
    }
    let compiled = run(case.program.clone(), &Options::default()).unwrap();
    let symbols = symbols_of(&case.program, "main", &case.args, &case.states);
    check_memory(&compiled, &|s| symbols.get(s).copied()).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    let (found, states) = Execution::run(&compiled, "main", &case.args, &case.params, &case.states, symbols);
    case.check(&found).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    let mut expected = case.states.clone();
    case.run_with(Mode::Rounded, &mut expected).unwrap();
    for (name, state) in expected {
        close(&state, &states[&name], 0.0).unwrap_or_else(|e| panic!("{}: state `{name}`: {e}", case.name));
    }
}

#[test]
fn every_op() {
    let mut rng = Rng::new(7);
    for op in Op::NAMES {
        let cases = cases_for(op, &mut rng);
        assert!(!cases.is_empty(), "no case of `{op}`");
        cases.iter().for_each(hold);
    }
}

/// Whole encoders, in both layouts, with layers as functions.
#[test]
fn encoders() {
    for padded in [false, true] {
        for layers in [0, 1, 3] {
            hold(&case_of(numbered(layers, padded), padded, &format!("{layers} layers, padded: {padded}")));
        }
        hold(&case_of(bert(3, padded, &|_| "encoder.group.0.layer.0".into()), padded, "shared layers"));
    }
}

/// Whole decoders with their cache, over prefill, decoding and both at once.
#[test]
fn decoders() {
    let plain = Decoder::new(2);
    for sequences in [&[(0, 5)][..], &[(63, 1), (64, 1), (130, 1)], &[(0, 3), (70, 2), (5, 0), (0, 1)], &[]] {
        hold(&plain.case(sequences, "decoder"));
    }
    let batch = [(0, 3), (66, 2)];
    for cached in [DType::F16, DType::Bf16, DType::I8] {
        hold(&Decoder { cached, ..plain.clone() }.case(&batch, "decoder"));
    }
    hold(&Decoder { tied: true, quantized: true, ..Decoder::new(3) }.case(&batch, "decoder"));
    hold(&Decoder { windows: vec![0], ..plain.clone() }.case(&batch, "one layer"));
    hold(&Decoder { windows: vec![4, 4, 0, 4, 4, 0, 4], ..plain.clone() }.case(&batch, "two kinds of layers"));
    hold(&Decoder { windows: vec![4, 0, 0, 4, 0], ..plain }.case(&batch, "layers in no order"));
}

/// What differentiation adds goes through every stage too.
#[test]
fn gradients() {
    for seed in 0..12 {
        hold(&gradients_of(&random_case(seed)));
    }
    for padded in [false, true] {
        hold(&gradients_of(&classifier(2, padded)));
    }
}

/// Layers computed again give the same numbers in less memory.
#[test]
fn recomputed_activations() {
    let case = gradients_of(&classifier(12, false));
    let compile = |activation_memory| {
        let compiled = run(case.program.clone(), &Options { activation_memory, ..Options::default() }).unwrap();
        verify(&compiled.program).unwrap();
        check(&compiled).unwrap();
        compiled
    };
    let tokens = |s: &lith_ir::Symbol| Some(if s.name() == "tokens" { 4096 } else { 32 });
    let mut arenas = Vec::new();
    // Everything is kept, most is, nothing is.
    for budget in [None, Some(1 << 20), Some(0)] {
        let compiled = compile(budget);
        let symbols = symbols_of(&case.program, "main", &case.args, &case.states);
        check_memory(&compiled, &|s| symbols.get(s).copied()).unwrap();
        let (found, _) = Execution::run(&compiled, "main", &case.args, &case.params, &case.states, symbols);
        case.check(&found).unwrap();
        let again = |n: &lith_ir::Node| matches!(&n.op, Op::Call { function, .. } if function.contains(".again"));
        let calls = compiled.program.entries["main"].petgraph().node_weights().filter(|n| again(n)).count();
        arenas.push((calls, compiled.plan.graphs["main"].arena.eval(&tokens).unwrap()));
    }
    println!("{arenas:?}");
    let [kept, some, none] = arenas[..] else { panic!("three plans") };
    assert!(kept.0 == 0 && some.0 > 0 && some.0 < none.0 && none.0 == 12, "{arenas:?}");
    assert!(some.1 < kept.1 && none.1 < some.1 && 2 * none.1 < kept.1, "{arenas:?}");
}

/// The gradient of a layer's inputs reads the weight in the panels that the layer reads: it is in memory once.
#[test]
fn weights_are_read_across() {
    let compiled = run(gradients_of(&classifier(3, false)).program, &Options::default()).unwrap();
    let matrices = compiled.plan.layouts.iter().filter(|(name, _)| {
        compiled.program.params.get(*name).is_some_and(|ty| ty.rank() == 2) && !name.contains("embeddings")
    });
    let matrices: Vec<_> = matrices.collect();
    assert!(matrices.len() > 12, "{matrices:?}");
    for (name, layouts) in matrices {
        assert_eq!(layouts, &[Layout::Panels], "{name}");
    }
}

/// One layer with another constant, function or wiring is no repetition of the others.
#[test]
fn layers_that_differ_in_little() {
    type Change = fn(&Op, &mut Vec<Option<Value>>) -> Option<Op>;
    let changes: [Change; 4] = [
        |op, _| matches!(op, Op::LayerNorm { .. }).then_some(Op::LayerNorm { eps: 0.5 }),
        |op, _| matches!(op, Op::Activation { .. }).then_some(Op::Activation { f: Activation::Relu }),
        |op, operands| {
            operands.swap(0, 2);
            matches!(op, Op::PackedAttention { .. }).then(|| op.clone())
        },
        |op, operands| {
            operands[1] = operands[0];
            matches!(op, Op::Binary { f: Binary::Add }).then(|| op.clone())
        },
    ];
    for (i, change) in changes.into_iter().enumerate() {
        for layer in [0, 2, 3] {
            let mut case = case_of(numbered(4, false), false, &format!("change {i} of layer {layer}"));
            let graph = case.program.entries.get_mut("main").unwrap();
            let nodes = graph.topological().unwrap().into_iter();
            let here = format!("encoder.layer.{layer}.");
            let changed = nodes.filter(|&n| graph.node(n).path.starts_with(&here)).find_map(|n| {
                let mut operands = graph.operands(n);
                change(&graph.node(n).op, &mut operands).map(|op| (n, op, operands))
            });
            let (node, op, operands) = changed.unwrap();
            let path = graph.node(node).path.clone();
            let new = graph.add_with(op, &operands, &path).unwrap();
            graph.replace(node.into(), new.into());
            graph.remove(node);
            hold(&case);
        }
    }
}

/// A program of [`common`] with random parameters, on three sequences of 5, 1 and 7 tokens.
fn case_of(program: Program, padded: bool, name: &str) -> Case {
    let mut rng = Rng::new(11);
    let params = program.params.iter().map(|(name, ty)| {
        let shape = ty.static_shape().unwrap();
        let values = (0..shape.iter().product()).map(|_| rng.between(-0.3, 0.3)).collect();
        (name.clone(), Tensor::floats(DType::F32, &shape, values).unwrap())
    });
    let params = params.collect();
    let mut ids = |shape: &[usize]| {
        let values = (0..shape.iter().product()).map(|_| rng.below(100) as i64).collect();
        Tensor::ints(DType::I32, shape, values).unwrap()
    };
    let args = if padded {
        let seen = [5, 1, 7].iter().flat_map(|&n| (0..7).map(move |i| i64::from(i < n))).collect();
        vec![ids(&[3, 7]), Tensor::ints(DType::Bool, &[3, 7], seen).unwrap()]
    } else {
        vec![ids(&[13]), Tensor::ints(DType::I32, &[4], vec![0, 5, 6, 13]).unwrap()]
    };
    let mut program = program;
    let encode = program.entries.remove("encode").unwrap();
    program.entries.insert("main".into(), encode);
    Case { name: name.into(), program, args, params, states: BTreeMap::new(), tolerance: 1e-5 }
}

fn small_case(name: &str, states: &[&str], build: impl FnOnce(&mut Builder<'_>) -> Vec<Value>) -> Case {
    let ty = Type::new(DType::F32, [2i64, 3]);
    let tensor =
        |first: i64| Tensor::floats(DType::F32, &[2, 3], (first..first + 6).map(|v| v as f64).collect()).unwrap();
    let mut program = Program::new(name);
    let mut graph = Graph::new();
    let results = build(&mut Builder::new(&mut graph, ""));
    for (i, v) in results.into_iter().enumerate() {
        graph.add_result(&format!("r{i}"), v);
    }
    let args = (0..graph.args().len() as i64).map(tensor).collect();
    program.entries.insert("main".into(), graph);
    let states: BTreeMap<_, _> = states.iter().zip(10..).map(|(n, first)| (n.to_string(), tensor(first))).collect();
    program.states = states.keys().map(|n| (n.clone(), ty.clone())).collect();
    Case { name: name.into(), program, args, params: BTreeMap::new(), states, tolerance: 1e-5 }
}

/// Results that no kernel would store by itself: an argument, one value twice, the bytes of another result, constants.
#[test]
fn results_of_every_origin() {
    hold(&small_case("results", &[], |b| {
        let x = b.arg("x", Type::new(DType::F32, [2i64, 3])).unwrap();
        let y = b.unary(Unary::Exp, x).unwrap();
        let flat = b.reshape(y, &[Dim::from(6i64)]).unwrap();
        let other = b.reshape(x, &[Dim::from(6i64)]).unwrap();
        let one = b.scalar(DType::F32, 1.0).unwrap();
        let ones = b.full_like(x, 1.0).unwrap();
        vec![x, x, y, y, flat, other, one, ones]
    }));
    hold(&small_case("a reshaped result", &[], |b| {
        let x = b.arg("x", Type::new(DType::F32, [2i64, 3])).unwrap();
        let y = b.unary(Unary::Exp, x).unwrap();
        let sum = b.reduce(Reduction::Sum, y, &[0], false).unwrap();
        vec![b.reshape(y, &[Dim::from(6i64)]).unwrap(), sum]
    }));
}

/// States are read as they were before the call, and a result may be what is written.
#[test]
fn states_that_change_places() {
    hold(&small_case("swap", &["a", "b"], |b| {
        let ty = Type::new(DType::F32, [2i64, 3]);
        let x = b.arg("x", ty.clone()).unwrap();
        let read =
            |b: &mut Builder<'_>, name: &str| b.op(Op::StateRead { name: name.into(), ty: ty.clone() }, &[]).unwrap();
        let (old_a, old_b) = (read(b, "a"), read(b, "b"));
        let new_a = b.op(Op::StateWrite { name: "a".into() }, &[old_b]).unwrap();
        b.op(Op::StateWrite { name: "b".into() }, &[old_a]).unwrap();
        let sum = b.add(new_a, x).unwrap();
        vec![sum, new_a, old_a]
    }));
}

#[test]
fn random_graphs() {
    for seed in 0..150 {
        hold(&random_case(seed));
    }
}

/// No figure of the plan hangs on chance, such as the order of a hash table.
#[test]
fn the_same_program_has_the_same_plan() {
    for seed in 0..20 {
        let case = random_case(seed);
        let plans: Vec<String> =
            (0..2).map(|_| format!("{:?}", run(case.program.clone(), &Options::default()).unwrap().plan)).collect();
        assert_eq!(plans[0], plans[1]);
    }
}
