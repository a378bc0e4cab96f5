//! Plans of decoders: layers as functions with their caches, what is changed in place, what the kernels are, and programs
//! that would read a cache after it was changed.

mod common;

use std::collections::BTreeMap;

use common::decoder::Decoder;
use lith_ir::plan::{KernelKind, Layout, PAGE_TOKENS, Place};
use lith_ir::{Binary, Builder, CachePart, DType, Dim, Graph, Op, Program, Symbol, SymbolInfo, Type, Value};
use lith_passes::check::{check, check_memory};
use lith_passes::{Compiled, Options, dump, run};

fn compile(program: Program) -> Compiled {
    compile_with(program, &Options::default())
}

fn compile_with(program: Program, options: &Options) -> Compiled {
    let compiled = run(program, options).unwrap();
    check(&compiled).unwrap();
    for size in [0, 1, 2, 17, 100] {
        check_memory(&compiled, &|_| Some(size)).unwrap();
        check_memory(&compiled, &|s| Some(if s.name() == "tokens" { size } else { 3 })).unwrap();
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

/// The functions called by a graph, in order.
fn calls(compiled: &Compiled, graph: &str) -> Vec<String> {
    let graph_of = compiled.program.graph(graph).unwrap();
    let called = |k: &lith_ir::plan::Kernel| match &graph_of.node(k.nodes[0]).op {
        Op::Call { function, .. } => Some(function.clone()),
        _ => None,
    };
    compiled.plan.graphs[graph].kernels.iter().filter_map(called).collect()
}

#[test]
fn depth_adds_calls_only() {
    let (few, many) = (compile(Decoder::new(2).program()), compile(Decoder::new(30).program()));
    for (compiled, layers) in [(&few, 2), (&many, 30)] {
        assert_eq!(compiled.program.functions.len(), 1);
        assert_eq!(calls(compiled, "main"), vec!["model.layers"; layers]);
    }
    assert_eq!(few.plan.graphs["model.layers"], many.plan.graphs["model.layers"]);
    assert_eq!(few.plan.graphs["main"].arena, many.plan.graphs["main"].arena);
    // Two norms with the residual before them or by themselves, and the five products, queries, keys and values being one:
    // the gate's activation and its product with the other half are epilogues, and so are the residuals.
    let layer = BTreeMap::from([("append", 2), ("attention", 1), ("contraction", 5), ("loop", 2), ("rope", 2)]);
    assert_eq!(kinds(&many, "model.layers"), layer, "{}", dump::kernels(&many));
}

/// Angles and slots are made once, outside the layers, and the states stay in the entry point.
#[test]
fn layers_take_what_all_share_by_argument() {
    let compiled = compile(Decoder::new(3).program());
    let layer = &compiled.program.functions["model.layers"];
    let names: Vec<&str> = layer.petgraph().node_weights().map(|n| n.op.name()).collect();
    for op in ["state_read", "state_write", "segment_ids", "iota"] {
        assert!(!names.contains(&op), "{op}");
    }
    let plan = &compiled.plan.graphs["model.layers"];
    assert_eq!(plan.cache_args.len(), 2);
    assert_eq!(plan.in_place.iter().flatten().count(), 2);
    assert_eq!(plan.in_place[0], None);
    let main = &compiled.plan.graphs["main"];
    let graph = &compiled.program.entries["main"];
    let mut written = 0;
    for n in graph.petgraph().node_indices() {
        let Op::StateWrite { name } = &graph.node(n).op else { continue };
        let mut place = &main.places[&graph.operand(n, 0).unwrap()];
        while let Place::Alias(v) = place {
            place = &main.places[v];
        }
        assert_eq!(place, &Place::State(name.clone()));
        assert!(!main.kernels.iter().any(|k| k.nodes.contains(&n)), "a write of what was changed in place");
        written += 1;
    }
    assert_eq!(written, 6);
}

/// Layers with a window and without, in whatever order: the code of each kind is there once, in a function.
#[test]
fn layers_of_two_kinds() {
    for order in ["LLLLLGLLLLLGLLLLLGLLLLLGLL", "LGLGLGLG", "LLLGLLLGLLLG", "GLLGL", "LLLLGGGG"] {
        let windows: Vec<usize> = order.chars().map(|c| if c == 'L' { 16 } else { 0 }).collect();
        let compiled = compile(Decoder { windows, ..Decoder::new(0) }.program());
        let functions = compiled.program.functions.keys();
        let attentions: usize = functions.filter_map(|f| kinds(&compiled, f).get("attention").copied()).sum();
        assert_eq!(attentions, 2, "{order}\n{}", dump::kernels(&compiled));
        assert_eq!(kinds(&compiled, "main").get("attention"), None, "{order}");
    }
}

#[test]
fn a_tied_table_is_stored_once() {
    let name = "model.embed_tokens.weight";
    let tied = compile(Decoder { tied: true, ..Decoder::new(2) }.program());
    assert_eq!(tied.plan.layouts[name], [Layout::Panels]);
    assert_eq!(kinds(&tied, "main")["embedding"], 1);
    let untied = compile(Decoder::new(2).program());
    assert_eq!(untied.plan.layouts[name], [Layout::Rows]);
    assert!(!kinds(&untied, "main").contains_key("embedding"));
    // One that is quantized lies in panels without a head to share it with.
    let options = Options { packed_tables: [name.to_string()].into(), ..Options::default() };
    let packed = compile_with(Decoder::new(2).program(), &options);
    assert_eq!(packed.plan.layouts[name], [Layout::Panels]);
    assert_eq!(kinds(&packed, "main")["embedding"], 1);
    // What reads rows cannot be served.
    let norm = "model.norm.weight";
    let options = Options { packed_tables: [norm.to_string()].into(), ..Options::default() };
    let error = run(Decoder::new(2).program(), &options).unwrap_err().to_string();
    assert!(error.contains(norm) && error.contains("`model.norm`"), "{error}");
}

#[test]
fn contractions_take_8_bit_activations_in() {
    let compiled = compile(Decoder { quantized: true, ..Decoder::new(2) }.program());
    let layer = &compiled.program.functions["model.layers"];
    let mut quantized = 0;
    for kernel in &compiled.plan.graphs["model.layers"].kernels {
        let KernelKind::Contraction { core } = kernel.kind else { continue };
        let x = layer.operand(core, 0).unwrap();
        assert!(matches!(layer.node(x.node).op, Op::DynamicQuantize { group: 32, levels: 127 }));
        assert!(kernel.nodes.contains(&x.node));
        quantized += 1;
    }
    assert_eq!(quantized, 5);
    let layer = BTreeMap::from([("append", 2), ("attention", 1), ("contraction", 5), ("loop", 2), ("rope", 2)]);
    assert_eq!(kinds(&compiled, "model.layers"), layer);
}

#[test]
fn pages_hold_all_states() {
    for (cached, size) in [(DType::F32, 4u64), (DType::Bf16, 2), (DType::I8, 1)] {
        let compiled = compile(Decoder { cached, ..Decoder::new(3) }.program());
        let cache = compiled.plan.cache.as_ref().unwrap();
        assert_eq!(cache.pages, Symbol::new("page_count"));
        let mut end = 0;
        for (name, part) in &cache.parts {
            let scale = name.ends_with("_scale");
            assert_eq!(part.bytes, PAGE_TOKENS as u64 * 2 * if scale { 4 } else { 8 * size }, "{name}");
            assert_eq!((part.offset, part.offset % 64), (end, 0), "{name}");
            let is = if scale {
                CachePart::Scales
            } else if name.ends_with(".k") {
                CachePart::Keys
            } else {
                CachePart::Values
            };
            assert_eq!(part.part, is);
            end += part.bytes;
        }
        assert_eq!((cache.page_bytes, cache.parts.len()), (end, if cached == DType::I8 { 12 } else { 6 }));
    }
    assert_eq!(compile(common::numbered(1, false)).plan.cache, None);
}

/// A program of one state, `[page_count, page, 1, 4]`, which `body` does something to.
fn one_state(page: usize, body: impl FnOnce(&mut Builder<'_>, [Value; 3]) -> Value) -> Result<Compiled, String> {
    let mut program = Program::new("test");
    for name in ["tokens", "page_count"] {
        program.symbols.insert(Symbol::new(name), SymbolInfo::default());
    }
    let shape = vec![common::sym("page_count"), Dim::from(page), Dim::from(1i64), Dim::from(4i64)];
    let ty = Type { dtype: DType::F32, shape };
    program.states.insert("cache".into(), ty.clone());
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, "layer");
    let x = b.arg("x", Type::new(DType::F32, [common::sym("tokens"), Dim::from(4i64)])).unwrap();
    let slots = b.arg("slots", Type::new(DType::I32, [common::sym("tokens")])).unwrap();
    let cache = b.op(Op::StateRead { name: "cache".into(), ty }, &[]).unwrap();
    let y = body(&mut b, [cache, x, slots]);
    graph.add_result("y", y);
    program.entries.insert("main".into(), graph);
    run(program, &Options::default()).map_err(|e| e.to_string())
}

fn append(b: &mut Builder<'_>, cache: Value, x: Value, slots: Value) -> Value {
    b.op(Op::CacheAppend { part: CachePart::Keys }, &[cache, x, slots]).unwrap()
}

fn write(b: &mut Builder<'_>, cache: Value) {
    b.op(Op::StateWrite { name: "cache".into() }, &[cache]).unwrap();
}

#[test]
fn a_cache_has_one_version_at_a_time() {
    let fine = one_state(PAGE_TOKENS, |b, [cache, x, slots]| {
        let once = append(b, cache, x, slots);
        let twice = append(b, once, x, slots);
        write(b, twice);
        b.add(x, x).unwrap()
    })
    .unwrap();
    check(&fine).unwrap();
    assert_eq!(kinds(&fine, "main"), BTreeMap::from([("append", 2), ("loop", 1)]));

    let expect = |found: Result<Compiled, String>, expected: &str| assert_eq!(found.map(|_| ()).unwrap_err(), expected);
    let forked = one_state(PAGE_TOKENS, |b, [cache, x, slots]| {
        let one = append(b, cache, x, slots);
        let other = b.mul_const(x, 2.0).unwrap();
        append(b, cache, other, slots);
        write(b, one);
        let other = append(b, cache, other, slots);
        b.reshape(other, &[common::sym("page_count") * Dim::from(256i64)]).unwrap()
    });
    assert!(forked.unwrap_err().contains("`cache_append` at `layer` changes state `cache`"));
    expect(
        one_state(PAGE_TOKENS, |b, [cache, x, slots]| {
            let new = append(b, cache, x, slots);
            write(b, new);
            b.binary(Binary::Add, cache, cache).unwrap()
        }),
        "graph `main`: `binary` at `layer` reads the pages of state `cache`",
    );
    expect(
        one_state(PAGE_TOKENS, |b, [cache, x, slots]| {
            let new = append(b, cache, x, slots);
            write(b, new);
            new
        }),
        "graph `main`: the cache of state `cache` is a result",
    );
    expect(
        one_state(PAGE_TOKENS, |b, [cache, x, slots]| {
            let new = append(b, cache, x, slots);
            let ends = b.op(Op::Slice { axis: 0, start: Dim::default(), stop: Dim::from(1i64), step: 1 }, &[slots]);
            let past = b.op(Op::Slice { axis: 0, start: Dim::default(), stop: Dim::default(), step: 1 }, &[slots]);
            let (ends, past) = (ends.unwrap(), past.unwrap());
            let table = b.reshape(past, &[Dim::default(), Dim::from(2i64)]).unwrap();
            let op = Op::PagedAttention { heads: 1, kv_heads: 1, scale: 1.0, window: 0, softcap: 0.0 };
            b.op(op, &[x, new, new, ends, past, table]).unwrap()
        }),
        "graph `main`: `cache_append` at `layer` changes state `cache`, which is not written back",
    );
    expect(
        one_state(32, |b, [cache, x, slots]| {
            let new = append(b, cache, x, slots);
            write(b, new);
            x
        }),
        "graph `main`: state `cache` is f32[page_count, 32, 1, 4], which has no place in pages of 64 tokens",
    );
}
