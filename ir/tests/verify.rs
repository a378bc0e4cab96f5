//! The verifier: each rule with a program that breaks it, read from the text form where it can be written there.

use lith_ir::text::parse;
use lith_ir::{Binary, Builder, DType, Graph, Op, Program, Symbol, SymbolInfo, Type, verify};

fn refused(text: &str, problem: &str) {
    let program = parse(&format!("program \"p\"\n{text}")).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let error = verify(&program).expect_err(text).to_string();
    assert!(error.contains(problem), "{error}\n{text}");
}

#[test]
fn names_must_refer_to_something() {
    let entry = |node: &str| format!("entry \"main\" () {{ %0: f32[2] = {node} @ \"a.b\" return y = %0 }}");
    refused(&entry("param {name: \"w\"}"), "graph `main`, node 0 `a.b`: param: unknown parameter `w`");
    refused(&format!("param \"w\": f32[3] {}", entry("param {name: \"w\"}")), "parameter `w` is f32[3], not f32[2]");
    refused(&entry("state_read {name: \"s\"}"), "unknown state `s`");
    refused(&entry("call {function: \"f\"}"), "unknown function `f`");
    refused("entry \"main\" (%0 x: f32[t]) { return }", "unknown symbol `t`");
    refused("entry \"main\" () { %0: i64[] = size {dim: 2*t} return }", "unknown symbol `t`");
    refused("param \"w\": f32[-2]", "parameter `w`: negative size in f32[-2]");
    refused("state \"w\": f32[u]", "state `w`: unknown symbol `u`");
}

#[test]
fn functions_take_everything_by_argument_and_do_not_recurse() {
    let param = "param \"w\": f32[2] func \"f\" () { %0: f32[2] = param {name: \"w\"} return y = %0 }";
    refused(param, "a function refers to parameter `w`");
    let call = |to: &str| format!("(%0 x: f32[2]) {{ %1: f32[2] = call(%0) {{function: \"{to}\"}} return y = %1 }}");
    refused(&format!("func \"f\" {}", call("f")), "graph `f`: the function calls itself");
    refused(&format!("func \"f\" {} func \"g\" {}", call("g"), call("f")), "calls itself");
    let leaf = "func \"leaf\" (%0 x: f32[2]) { return y = %0 }";
    let sound = format!("program \"p\" {leaf} func \"f\" {} func \"g\" {}", call("leaf"), call("f"));
    verify(&parse(&sound).unwrap()).unwrap();
    refused(&format!("{leaf} entry \"leaf\" () {{ return }}"), "both a function and an entry point");
    let wrong = "entry \"main\" (%0 x: f32[3]) { %1: f32[2] = call(%0) {function: \"leaf\"} return }";
    refused(&format!("{leaf} {wrong}"), "arguments (f32[3]) to `leaf`, expected (f32[2])");
    let wrong = "entry \"main\" (%0 x: f32[2]) { %1: f32[3] = call(%0) {function: \"leaf\"} return }";
    refused(&format!("{leaf} {wrong}"), "results (f32[3]) of `leaf`, which gives (f32[2])");
}

#[test]
fn arguments_and_results_are_unique() {
    let arg = |i: usize, index: usize, name: &str| format!("%{i}: f32[] = arg {{index: {index}, name: \"{name}\"}} ");
    let entry = |a: String, b: String| format!("entry \"main\" () {{ {a}{b} return }}");
    refused(&entry(arg(0, 0, "x"), arg(1, 0, "y")), "two arguments of index 0");
    refused(&entry(arg(0, 0, "x"), arg(1, 2, "y")), "graph `main`: no argument has index 1");
    refused(&entry(arg(0, 0, "x"), arg(1, 1, "x")), "two arguments of name `x`");
    refused("entry \"main\" (%0 x: f32[]) { return y = %0, y = %0 }", "two results of name `y`");
    let write = "%1: f32[] = state_write(%0) {name: \"s\"} %2: f32[] = state_write(%1) {name: \"s\"}";
    refused(&format!("state \"s\": f32[] entry \"main\" (%0 x: f32[]) {{ {write} return }}"), "`s` is written twice");
}

#[test]
fn symbols_are_sensible() {
    refused("symbol t in 5..=4", "symbol `t`: 5..=4 in multiples of 1 is no range");
    refused("symbol t in 0..=4 multiple_of 0", "in multiples of 0");
    let mut program = Program::new("p");
    program.symbols.insert(Symbol::new("a-b"), SymbolInfo::default());
    assert!(verify(&program).unwrap_err().to_string().contains("`a-b` is no name for a symbol"));
}

#[test]
fn results_and_operands_must_exist() {
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, "");
    let x = b.arg("x", Type::scalar(DType::F32)).unwrap();
    let y = b.op(Op::Binary { f: Binary::Add }, &[x, x]).unwrap();
    graph.add_result("y", y);
    let with = |graph: &Graph| {
        let mut program = Program::new("p");
        program.entries.insert("main".into(), graph.clone());
        verify(&program)
    };
    with(&graph).unwrap();
    let mut without_result = graph.clone();
    without_result.remove(y.node);
    assert!(with(&without_result).unwrap_err().to_string().contains("result `y` is no value of the graph"));
    graph.remove(x.node);
    assert!(with(&graph).unwrap_err().to_string().contains("operand `a` is missing"));
}
