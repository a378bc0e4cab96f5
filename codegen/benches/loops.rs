//! Nanoseconds an element of loop kernels on one thread, with vectors of 128 bits and with all wider ones that this
//! machine has. The operands fit the second-level cache, as those of an epilogue do.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lith_codegen::{CodegenError, Target, WeightData, WeightStorage};
use lith_ir::{Activation, Builder, DType, Dim, Graph, Op, Program as Ir, Symbol, SymbolInfo, Type, Unary, Value};
use lith_runtime::program::Program;
use lith_runtime::tensor::View;

/// Rows of an operand.
const ROWS: usize = 16;
/// Time to measure for.
const LEAST: Duration = Duration::from_millis(200);

type Body = fn(&mut Builder<'_>, Value, Value, Value, usize) -> Value;

/// The kernels: name, columns, and what is computed of `x` and `y` (rows of so many columns) and `w` (one row).
const KERNELS: [(&str, usize, Body); 8] = [
    ("sum", 384, |b, x, y, _, _| b.add(x, y).expect("a sum")),
    ("bias and gelu (erf)", 1536, |b, x, _, w, n| gelu(b, x, w, n, Activation::Gelu)),
    ("bias and gelu (tanh)", 1536, |b, x, _, w, n| gelu(b, x, w, n, Activation::GeluTanh)),
    ("silu times", 1536, |b, x, y, _, _| {
        let s = b.op(Op::Activation { f: Activation::Silu }, &[x]).expect("an activation");
        b.mul(s, y).expect("a product")
    }),
    ("exp", 384, |b, x, _, _, _| b.unary(Unary::Exp, x).expect("exp")),
    ("residual and layer norm", 384, |b, x, y, w, _| {
        let s = b.add(x, y).expect("a sum");
        b.op(Op::LayerNorm { eps: 1e-12 }, &[s, w, w]).expect("a norm")
    }),
    ("residual and rms norm", 576, |b, x, y, w, _| {
        let s = b.add(x, y).expect("a sum");
        b.op(Op::RmsNorm { eps: 1e-5, offset: 0.0 }, &[s, w]).expect("a norm")
    }),
    ("softmax", 128, |b, x, _, _, _| b.op(Op::Softmax {}, &[x]).expect("a softmax")),
];

fn gelu(b: &mut Builder<'_>, x: Value, w: Value, columns: usize, f: Activation) -> Value {
    let rows = Dim::symbol(&Symbol::new("rows"));
    let w = b.op(Op::Broadcast { shape: vec![rows, Dim::from(columns)], axes: vec![1] }, &[w]).expect("a broadcast");
    let x = b.add(x, w).expect("a sum");
    b.op(Op::Activation { f }, &[x]).expect("an activation")
}

fn program(columns: usize, body: Body) -> Ir {
    let rows = Symbol::new("rows");
    let mut ir = Ir::new("kernel");
    ir.symbols.insert(rows.clone(), SymbolInfo { min: 1, ..SymbolInfo::default() });
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, "");
    let matrix = Type::new(DType::F32, [Dim::symbol(&rows), Dim::from(columns)]);
    let x = b.arg("x", matrix.clone()).expect("an argument");
    let y = b.arg("y", matrix).expect("an argument");
    let w = b.arg("w", Type::new(DType::F32, [columns])).expect("an argument");
    let result = body(&mut b, x, y, w, columns);
    graph.add_result("result", result);
    ir.entries.insert("main".into(), graph);
    ir
}

/// Nanoseconds an element.
fn measure(ir: &Ir, columns: usize, target: &Target) -> f64 {
    let compiled = lith_passes::run(ir.clone(), &lith_passes::Options::default()).expect("passes");
    let storage = WeightStorage::of(DType::F32);
    let module = lith_codegen::compile(&compiled.program, &compiled.plan, target, &storage).expect("code");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("kernel.lith");
    let mut none = |_: &str| -> Result<WeightData<'static>, CodegenError> { unreachable!("no weights") };
    lith_codegen::write_artifact(&path, &module, &mut none, &[]).expect("an artifact");
    let program = Program::open(&path, 1).expect("a program");
    let values: Vec<f32> = (0..ROWS * columns).map(|i| (i % 977) as f32 / 150.0 - 3.2).collect();
    let (shape, row) = ([ROWS, columns], [columns]);
    let args = BTreeMap::from([
        ("x", View::f32(&shape, &values)),
        ("y", View::f32(&shape, &values)),
        ("w", View::f32(&row, &values[..columns])),
    ]);
    let entry = program.manifest().entry("main").expect("an entry point");
    let args: Vec<_> = entry.args.iter().map(|a| (a.name.as_str(), args[a.name.as_str()])).collect();
    let mut best = f64::INFINITY;
    let start = Instant::now();
    while start.elapsed() < LEAST {
        let call = Instant::now();
        program.run("main", &args).expect("a result");
        best = best.min(call.elapsed().as_nanos() as f64);
    }
    best / (ROWS * columns) as f64
}

fn main() {
    let narrow = Target::new("x86-64-v3").expect("a target").without_wide_vectors();
    let levels = ["x86-64-v3", "x86-64-v4"].map(|name| Target::new(name).expect("a target"));
    let here = levels.into_iter().filter(|t| t.features().iter().all(|f| lith_runtime::artifact::has_feature(f)));
    let targets: Vec<_> = std::iter::once(narrow).chain(here).collect();
    let names: String = targets.iter().skip(1).map(|t| format!("{:>11}", t.name())).collect();
    println!("{:24} {:>10}{names}", "ns an element", "128 bits");
    for (name, columns, body) in KERNELS {
        let ir = program(columns, body);
        let figures: String = targets.iter().map(|target| format!("{:11.3}", measure(&ir, columns, target))).collect();
        println!("{name:24}{figures}");
    }
}
