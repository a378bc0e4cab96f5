//! The text form: round trips over every op and random graphs, literals to the bit, errors with their place, hostile text.

use lith_ir::dim::SymbolInfo;
use lith_ir::testing::{Case, Rng, cases_for, random_case};
use lith_ir::text::{parse, print};
use lith_ir::{Builder, DType, Dim, Graph, Literal, Op, Program, Symbol, Type, verify};
use proptest::prelude::*;

/// Printing, parsing and printing again gives the same text, and the parsed program is sound and means the same.
fn round_trip(case: &Case) {
    let text = print(&case.program);
    let parsed = parse(&text).unwrap_or_else(|e| panic!("{}: {e}\n{text}", case.name));
    assert_eq!(print(&parsed), text);
    verify(&parsed).unwrap_or_else(|e| panic!("{}: {e}\n{text}", case.name));
    let (before, after) = (case, Case { program: parsed, ..case.clone() });
    let mode = lith_ir::interp::Mode::Rounded;
    let bits = |c: &Case| c.run(mode).unwrap().iter().map(|t| t.to_bytes()).collect::<Vec<_>>();
    assert_eq!(bits(before), bits(&after), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_op_round_trips(seed: u64) {
        for name in Op::NAMES {
            cases_for(name, &mut Rng::new(seed)).iter().for_each(round_trip);
        }
    }

    #[test]
    fn random_graphs_round_trip(seed: u64) {
        round_trip(&random_case(seed));
    }

    #[test]
    fn literals_round_trip_to_the_bit(bytes in prop::collection::vec(any::<u8>(), 64), dtype in 0..11usize) {
        let dtype = DType::ALL[dtype];
        for count in [0, 1, 64 / dtype.size()] {
            let value = Literal::new(dtype, vec![count], bytes[..count * dtype.size()].to_vec()).unwrap();
            prop_assert_eq!(through_text(&value), value);
        }
        let scalar = Literal::new(dtype, vec![], bytes[..dtype.size()].to_vec()).unwrap();
        prop_assert_eq!(through_text(&scalar), scalar);
    }

    #[test]
    fn names_and_paths_round_trip(name: String, path: String) {
        let mut graph = Graph::new();
        let x = Builder::new(&mut graph, &path).arg(&name, Type::scalar(DType::F32)).unwrap();
        graph.add_result(&name, x);
        let mut program = Program::new(&name);
        program.entries.insert(name.clone(), graph);
        let parsed = parse(&print(&program)).unwrap();
        prop_assert_eq!(&parsed.name, &name);
        let graph = &parsed.entries[&name];
        let node = graph.node(graph.args()[0]);
        prop_assert_eq!(&*node.path, path.as_str());
        let is_arg = matches!(&node.op, Op::Arg { name: n, .. } if *n == name);
        prop_assert!(is_arg);
        prop_assert_eq!(&graph.results()[0].0, &name);
    }

    #[test]
    fn dimensions_round_trip(a in any::<i64>(), b in -5i64..5, c in 1i64..9, d in any::<i32>()) {
        let (s, t) = (Dim::symbol(&Symbol::new("s")), Dim::symbol(&Symbol::new("t")));
        let inner = s.clone() * Dim::from(b) + t.clone() * t.clone() + Dim::from(d as i64);
        let dim = inner.floor_div(c) * s.clone() - t + Dim::from(a);
        let mut graph = Graph::new();
        let x = graph.add(Op::Size { dim: dim.clone() }, &[], "").unwrap();
        graph.add_result("x", x);
        let mut program = Program::new("p");
        program.entries.insert("main".into(), graph);
        let parsed = parse(&print(&program)).unwrap();
        let graph = &parsed.entries["main"];
        prop_assert_eq!(&graph.node(graph.results()[0].1.node).op, &Op::Size { dim });
    }

    /// Any text gives a program or an error, never a panic.
    #[test]
    fn noise_does_not_panic(text in ".*") {
        let _ = parse(&text);
        let _ = parse(&format!("program \"p\" {text}"));
    }

    /// Neither does a program with a piece cut out, nor running what is left on the inputs of the whole.
    #[test]
    fn damaged_programs_do_not_panic(seed: u64, from in 0.0..1.0f64, length in 0..12usize) {
        let case = random_case(seed);
        let text = print(&case.program);
        let from = (from * text.len() as f64) as usize;
        let to = (from + length).min(text.len());
        // What the generator prints is ASCII.
        if let Ok(program) = parse(&format!("{}{}", &text[..from], &text[to..])) {
            let _ = Case { program, ..case }.run(lith_ir::interp::Mode::Exact);
        }
    }
}

fn through_text(value: &Literal) -> Literal {
    let mut graph = Graph::new();
    let x = graph.add(Op::Const { value: value.clone() }, &[], "").unwrap();
    graph.add_result("x", x);
    let mut program = Program::new("p");
    program.entries.insert("main".into(), graph);
    let text = print(&program);
    let parsed = parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let graph = &parsed.entries["main"];
    match &graph.node(graph.results()[0].1.node).op {
        Op::Const { value } => value.clone(),
        other => panic!("{other:?}"),
    }
}

const BERT: &str = r#"program "bert"
symbol batch in 1..=64 multiple_of 8
symbol tokens in 0..=2147483647
param "embeddings.weight": f32[30522, 384]
state "cache": f16[8, 64]

func "layer" (%0 x: f32[tokens, 384], %1 weight: f32[384, 384]) {
  %2: f32[tokens, 384] = linear(%0, %1) @ "query"
  %3: f32[tokens, 384] = gelu(%2)
  %4: f32[tokens, 384] = layer_norm(%3) {eps: 1e-12} @ "norm"
  return hidden = %4, "the input" = %0
}

entry "encode" (%0 ids: i64[tokens], %1 weight: f32[384, 384]) {
  %2: f32[30522, 384] = param {name: "embeddings.weight"}
  %3: f32[tokens, 384] = gather(%2, %0) {axis: 0} @ "embeddings"
  %4: (f32[tokens, 384], f32[tokens, 384]) = call(%3, %1) {function: "layer"} @ "layer.0"
  %5: f32[tokens, 384] = add(%4, %4.1)
  %6: f32[384] = const hex "00"
  return hidden = %5
}
"#;

/// The example without its faulty constant.
fn bert() -> String {
    BERT.lines().filter(|l| !l.contains("hex")).map(|l| format!("{l}\n")).collect()
}

#[test]
fn printing_is_what_was_read() {
    let program = parse(&bert()).unwrap();
    verify(&program).unwrap();
    assert_eq!(print(&program), bert());
    let batch = SymbolInfo { min: 1, max: 64, multiple_of: 8 };
    assert_eq!(program.symbols[&Symbol::new("batch")], batch);
}

#[test]
fn odd_floats_are_readable() {
    let text = "program \"p\"\n\nentry \"main\" () {\n  %0: f32[6] = const [nan, -0.0, inf, -inf, 1e-45, nan(\"ffc00001\")]\n  \
                %1: bool[2] = const [true, false]\n  %2: i8[] = const -128\n  %3: f16[] = const 0.1\n  return a = %0\n}\n";
    // The least `f16` above 0.1 is written as the `f32` it is.
    assert_eq!(print(&parse(text).unwrap()), text.replace("const 0.1", "const 0.099975586"));
}

#[test]
fn an_absent_operand_keeps_its_place() {
    let text = "program \"p\"\n\nentry \"main\" (%0 x: f32[2, 3], %1 b: f32[3]) {\n  \
                %2: f32[2, 3] = layer_norm(%0, _, %1) {eps: 0.5}\n  return y = %2\n}\n";
    assert_eq!(print(&parse(text).unwrap()), text);
}

#[test]
fn errors_name_the_place_and_what_was_expected() {
    let entry = |node: &str| format!("program \"p\"\nentry \"e\" (%0 x: f32[2]) {{\n  {node}\n  return y = %1\n}}");
    for (text, error) in [
        ("".into(), "1:1: expected `program`, found the end of the text"),
        ("program p".into(), "1:9: expected the program's name in quotes, found `p`"),
        ("program \"p\"\nsymbol f32 in 0..=1".into(), "2:8: expected a symbol, found `f32`"),
        (
            "program \"p\"\nparam \"w\": f31[2]".into(),
            "2:12: unknown dtype `f31`; known: f64, f32, f16, bf16, i64, i32, i16, i8, u32, u8, bool",
        ),
        ("program \"p\nq\"".into(), "1:9: text without a closing quote"),
        ("program \"p\" ~".into(), "1:13: unexpected character '~'"),
        (entry("%1: f32[2] = ad(%0, %0)"), "3:16: unknown op `ad`"),
        (entry("%1: f32[2] = add(%0, %7)"), "3:24: no node `%7` before this"),
        (entry("%0: f32[2] = add(%0, %0)"), "3:3: `%0` is there already"),
        (entry("%1: f32[2] = add(%0)"), "3:16: at ``: binary: operand `b` is missing"),
        (entry("%1: f32[3] = add(%0, %0)"), "3:3: binary gives (f32[2]), written is (f32[3])"),
        (entry("%1: f32[2] = softmax(%0) {axis: 1}"), "3:29: `axis` of `softmax`: no attribute here"),
        (entry("%1: f32[2] = cumsum(%0)"), "3:16: `cumsum` needs the attribute `axis`"),
        (entry("%1: f32[2] = const [1.0]"), "3:16: 1 elements for f32[2]"),
        (entry("%1: i8[] = const 128"), "3:20: 128 does not fit i8"),
        (entry("%1: f32[floor(2, 0)] = const 1"), "3:20: expected a positive divisor, found 0"),
        (entry("%1: f32[99999999999999999999] = const 1"), "3:11: 99999999999999999999 does not fit 64 bits"),
        (entry("%1: f32[2] = add(%0, %0.1)"), "3:16: at ``: operand 1 is no value of this graph"),
        (BERT.into(), "19:18: 0 elements for f32[384]"),
    ] {
        assert_eq!(parse(&text).map(|p| print(&p)).unwrap_err().to_string(), error, "{text}");
    }
}

#[test]
fn hostile_text_is_refused_quickly() {
    let size = |dim: &str| format!("program \"p\" entry \"e\" () {{ %0: i64[] = size {{dim: {dim}}} return }}");
    let product: String = (0..40).map(|i| format!("(a{i}+b{i})*")).collect();
    let sums: Vec<String> = (0..16).map(|i| format!("a{i} + b{i} + c{i}")).collect();
    // Every floor is a sum of 60 terms after simplification; their product would have 60^8.
    let sum: Vec<String> = (0..60).map(|i| format!("2*a{i}")).collect();
    let floor = format!("floor({}, 2)", sum.join(" + "));
    for text in [
        size(&"floor(".repeat(100_000)),
        size(&"[".repeat(100_000)),
        size(&product),
        size(&"a*".repeat(100_000)),
        size(&vec![floor; 8].join("*")),
        size(&(0..100_000).map(|i| format!("a{i}+")).collect::<String>()),
        format!("program \"p\" param \"w\": f32[{}]", sums.join(", ")),
        format!("program \"p\" param \"w\": f32[{}]", "1,".repeat(100_000) + "1"),
        "program \"p\" entry \"e\" () { %0: f32[9223372036854775807, 9223372036854775807] = const 1 return }".into(),
    ] {
        let start = std::time::Instant::now();
        assert!(parse(&text).is_err(), "{}", &text[..200.min(text.len())]);
        assert!(start.elapsed().as_secs() < 5);
    }
}

#[test]
fn a_broken_program_still_prints() {
    let mut graph = Graph::new();
    let ty = Type::scalar(DType::F32);
    for index in [3, 3] {
        graph.add(Op::Arg { index, name: "x".into(), ty: ty.clone() }, &[], "").unwrap();
    }
    let mut program = Program::new("p");
    program.entries.insert("main".into(), graph);
    let text = print(&program);
    assert!(text.contains("%0: f32[] = arg {index: 3, name: \"x\"}"), "{text}");
    let parsed = parse(&text).unwrap();
    assert_eq!(print(&parsed), text);
    assert!(verify(&parsed).is_err());
}
