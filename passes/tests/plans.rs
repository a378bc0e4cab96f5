//! Plans of encoders: their kernels, their memory, and that depth adds no code.

mod common;

use std::collections::BTreeMap;

use common::*;
use lith_ir::plan::{Layout, Place};
use lith_ir::{Dim, Op, Symbol};
use lith_passes::check::{check, check_memory};
use lith_passes::{Compiled, Options, Stage, dump, run, run_until};

fn compile(program: lith_ir::Program) -> Compiled {
    let compiled = run(program, &Options::default()).unwrap();
    check(&compiled).unwrap();
    for size in [0, 1, 2, 3, 7, 16, 33, 100, 1000] {
        check_memory(&compiled, &|_| Some(size)).unwrap();
        // Few tokens in many sequences and the other way round.
        check_memory(&compiled, &|s| Some(if s.name() == "tokens" { size } else { 17 })).unwrap();
        check_memory(&compiled, &|s| Some(if s.name() == "seq" { size } else { 5 })).unwrap();
    }
    compiled
}

fn kinds(compiled: &Compiled, graph: &str) -> BTreeMap<&'static str, usize> {
    let mut count = BTreeMap::new();
    for kernel in &compiled.plan.graphs[graph].kernels {
        *count.entry(kernel.kind.name()).or_insert(0) += 1;
    }
    count
}

#[test]
fn depth_adds_calls_only() {
    for padded in [false, true] {
        let (six, many) = (compile(numbered(6, padded)), compile(numbered(48, padded)));
        for (compiled, layers) in [(&six, 6), (&many, 48)] {
            assert_eq!(compiled.program.functions.len(), 1);
            assert_eq!(kinds(compiled, "encode")["call"], layers);
        }
        assert_eq!(six.plan.graphs["encoder.layer"], many.plan.graphs["encoder.layer"]);
        assert_eq!(six.plan.graphs["encode"].arena, many.plan.graphs["encode"].arena);
        assert_eq!(six.plan.graphs["encode"].kernels.len() + 42, many.plan.graphs["encode"].kernels.len());
    }
}

#[test]
fn calls_stand_at_their_layer_and_take_its_weights() {
    let compiled = run_until(numbered(3, false), Stage::Outline).unwrap();
    let graph = &compiled.program.entries["encode"];
    let mut paths = Vec::new();
    for n in graph.topological().unwrap() {
        if !matches!(graph.node(n).op, Op::Call { .. }) {
            continue;
        }
        let path = graph.node(n).path.to_string();
        for (arg, value) in compiled.program.functions["encoder.layer"].args().into_iter().zip(graph.inputs(n)) {
            let Op::Arg { name, .. } = &compiled.program.functions["encoder.layer"].node(arg).op else { panic!() };
            if let Op::Param { name: param, .. } = &graph.node(value.node).op {
                assert_eq!(param, &format!("bert.{path}.{name}"));
            }
        }
        paths.push(path);
    }
    assert_eq!(paths, ["encoder.layer.0", "encoder.layer.1", "encoder.layer.2"]);
    let function = &compiled.program.functions["encoder.layer"];
    let paths: Vec<&str> = function.petgraph().node_weights().map(|n| &*n.path).collect();
    assert!(paths.contains(&"attention.self.query") && !paths.iter().any(|p| p.starts_with("encoder")));
}

/// Albert: all layers share their weights and stand at one path.
#[test]
fn shared_layers_are_calls_too() {
    let compiled = compile(bert(12, false, &|_| "encoder.albert_layer_groups.0.albert_layers.0".into()));
    assert_eq!(compiled.program.functions.len(), 1);
    assert_eq!(kinds(&compiled, "encode")["call"], 12);
}

/// A layer that differs stays where it is.
#[test]
fn a_layer_of_another_kind_is_not_called() {
    let mut program = lith_ir::Program::new("mixed");
    for name in ["tokens", "sequences"] {
        program.symbols.insert(Symbol::new(name), lith_ir::SymbolInfo::default());
    }
    let mut m = Model { program: &mut program, graph: lith_ir::Graph::new() };
    let width = [sym("tokens"), Dim::from(HIDDEN)];
    let mut h = m.at("").arg("x", lith_ir::Type::new(lith_ir::DType::F32, width)).unwrap();
    let offsets = [sym("sequences") + Dim::from(1i64)];
    let offsets = m.at("").arg("offsets", lith_ir::Type::new(lith_ir::DType::I32, offsets)).unwrap();
    for i in 0..6 {
        h = m.layer(&format!("encoder.layer.{i}"), h, offsets, false);
        if i == 2 {
            h = m.at("encoder.layer.2").unary(lith_ir::Unary::Tanh, h).unwrap();
        }
    }
    m.graph.add_result("y", h);
    let graph = m.graph;
    program.entries.insert("encode".into(), graph);
    let compiled = compile(program);
    // Layers 3 to 5; then 0 and 1, which end in another value but are the same function, and 2 up to its norm.
    assert_eq!(compiled.program.functions.len(), 1);
    assert_eq!(kinds(&compiled, "encode"), BTreeMap::from([("call", 6), ("loop", 1)]));
}

#[test]
fn kernels_of_a_layer() {
    // Queries, keys and values are one contraction, of which attention reads columns.
    let packed = compile(numbered(2, false));
    let layer = BTreeMap::from([("attention", 1), ("contraction", 4), ("loop", 2)]);
    assert_eq!(kinds(&packed, "encoder.layer"), layer, "{}", dump::kernels(&packed));
    // segment_ids; embeddings with their norm; pooling; normalization.
    assert_eq!(kinds(&packed, "encode"), BTreeMap::from([("call", 2), ("loop", 4)]), "{}", dump::kernels(&packed));
    // The embeddings are one kernel with their norm.
    let padded = compile(numbered(2, true));
    assert_eq!(kinds(&padded, "encoder.layer"), layer, "{}", dump::kernels(&padded));
    assert_eq!(kinds(&padded, "encode"), BTreeMap::from([("call", 2), ("loop", 1)]), "{}", dump::kernels(&padded));
}

#[test]
fn weights_of_contractions_are_in_panels() {
    let compiled = compile(numbered(2, false));
    for (name, layouts) in &compiled.plan.layouts {
        let panels = name.contains(".layer.") && name.ends_with("weight") && !name.contains("LayerNorm");
        assert_eq!(layouts, &[if panels { Layout::Panels } else { Layout::Rows }], "{name}");
    }
    // Of each layer three weights and three biases are one.
    assert_eq!(compiled.plan.layouts.len() + 2 * 4, compiled.program.params.len());
}

/// The widest moment of a layer is what follows attention: its result, of which rows are needed until the last block of rows
/// is through, projection, norm, the four times wider values. Around it lie the hidden states of the caller.
#[test]
fn peak_memory_of_a_layer() {
    let compiled = compile(numbered(6, false));
    let row = 4 * HIDDEN;
    let tokens = sym("tokens");
    assert_eq!(compiled.plan.graphs["encoder.layer"].arena, tokens.clone() * Dim::from(7 * row));
    let plan = &compiled.plan.graphs["encode"];
    let hidden: Vec<&Place> = plan.places.values().filter(|p| matches!(p, Place::Arena(_))).collect();
    assert!(hidden.len() >= 6, "{}", dump::memory(&compiled, &|_| Some(100)));
    let at_100 = plan.arena.eval(&|_| Some(100)).unwrap();
    // Two hidden states besides the layer's arena, the pooled vectors and the segment numbers.
    assert_eq!(at_100, 100 * 9 * row + 100 * row + 448, "{}", dump::memory(&compiled, &|_| Some(100)));
}

/// An elementwise kernel stores where the operand lay that it reads last; one that reads at other indices does not.
#[test]
fn elementwise_kernels_work_in_place() {
    let arena = |between: fn(&mut lith_ir::Builder<'_>, lith_ir::Value) -> lith_ir::Value| {
        let mut graph = lith_ir::Graph::new();
        let mut b = lith_ir::Builder::new(&mut graph, "");
        let x = b.arg("x", lith_ir::Type::new(lith_ir::DType::F32, [16i64, 16])).unwrap();
        let sum = b.op(Op::CumSum { axis: 0 }, &[x]).unwrap();
        let y = between(&mut b, sum);
        let sum = b.op(Op::CumSum { axis: 0 }, &[y]).unwrap();
        graph.add_result("y", sum);
        let mut program = lith_ir::Program::new("test");
        program.entries.insert("main".into(), graph);
        compile(program).plan.graphs["main"].arena.as_const().unwrap()
    };
    assert_eq!(arena(|b, x| b.unary(lith_ir::Unary::Exp, x).unwrap()), 1024);
    assert_eq!(arena(|b, x| b.transpose(x, &[1, 0]).unwrap()), 2048);
    assert_eq!(
        arena(|b, x| {
            let y = b.transpose(x, &[1, 0]).unwrap();
            b.add(x, y).unwrap()
        }),
        2048
    );
}

#[test]
fn stages_have_names_and_stop() {
    for &stage in Stage::ALL {
        assert_eq!(Stage::from_name(stage.name()), Some(stage));
        let compiled = run_until(numbered(2, false), stage).unwrap();
        assert_eq!(compiled.plan.graphs.is_empty(), stage < Stage::Fuse);
        assert_eq!(compiled.program.functions.len(), usize::from(stage >= Stage::Outline));
    }
    assert_eq!(Stage::from_name("saturated"), None);
}

#[test]
fn what_works_row_by_row_is_one_region() {
    let compiled = compile(numbered(3, false));
    let layer = &compiled.plan.graphs["encoder.layer"];
    let kinds = |r: &lith_ir::plan::Region| layer.kernels[r.kernels.clone()].iter().map(|k| k.kind.name()).collect();
    let found: Vec<Vec<&str>> = layer.regions.iter().map(kinds).collect();
    // Before attention one projection; behind it output, norm, two of the perceptron, norm.
    let behind = ["contraction", "loop", "contraction", "contraction", "loop"];
    assert_eq!(found, [&["contraction"][..], &behind]);
    let inner: Vec<usize> = layer.regions.iter().map(|r| r.inner.len()).collect();
    assert_eq!(inner, [0, 4], "all but the last result, and what attention reads");
    let tokens = Dim::symbol(&Symbol::new("tokens"));
    assert!(layer.regions.iter().all(|r| r.rows == tokens));
}

#[test]
fn values_read_at_other_rows_end_a_region() {
    use lith_ir::{Binary, Builder, DType, Graph, Program, SymbolInfo, Type};
    let rows = Symbol::new("rows");
    for turned in [false, true] {
        let mut program = Program::new("rows");
        program.symbols.insert(rows.clone(), SymbolInfo::default());
        let (wide, weight) =
            (Type::new(DType::F32, [Dim::symbol(&rows), Dim::constant(8)]), Type::new(DType::F32, [8usize, 8]));
        program.params.insert("w".into(), weight.clone());
        let mut graph = Graph::new();
        let mut b = Builder::new(&mut graph, "");
        let x = b.arg("x", wide).unwrap();
        let w = b.param("w", weight).unwrap();
        let mut y = b.op(Op::Linear {}, &[x, w]).unwrap();
        if turned {
            // Every row becomes the last row before it: a running sum goes over rows.
            y = b.op(Op::CumSum { axis: 0 }, &[y]).unwrap();
        }
        let y = b.op(Op::Linear {}, &[y, w]).unwrap();
        let y = b.op(Op::Binary { f: Binary::Add }, &[y, x]).unwrap();
        graph.add_result("y", y);
        program.entries.insert("main".into(), graph);
        let compiled = compile(program);
        let regions = &compiled.plan.graphs["main"].regions;
        let kernels: Vec<usize> = regions.iter().map(|r| r.kernels.len()).collect();
        assert_eq!(kernels, if turned { vec![1, 1] } else { vec![2] }, "{}", dump::kernels(&compiled));
    }
}
