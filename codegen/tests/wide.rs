//! Which loops run with the widest vectors of their target. Compiles only: any machine can do that.

mod support;

use lith_codegen::{Target, WeightStorage};
use lith_ir::{Activation, Builder, DType, Dim, Graph, Op, Program as Ir, Symbol, SymbolInfo, Type};
use lith_passes::Options;
use support::decoder::{Decoder, Form};

/// The targets with wide vectors, and how CLIF writes a vector of theirs.
const WIDE: [(&str, &str); 2] = [("x86-64-v3", "x8"), ("x86-64-v4", "x16")];

/// Functions of a listing that compute on elements, but not with this vector type. Those that call the runtime (sines,
/// powers) cannot.
fn narrow(clif: &str, vector: &str) -> Vec<String> {
    let functions = clif.split(";; ").skip(1);
    let computes = |f: &&str| f.contains("load.f32") || f.contains("f32x4") || f.contains("i32x4");
    let wide = |f: &&str| f.contains(&format!("f32{vector}")) || f.contains(&format!("i32{vector}"));
    let name = |f: &str| f.lines().next().unwrap_or_default().to_string();
    functions.filter(computes).filter(|f| !wide(f) && !f.contains("call_indirect")).map(name).collect()
}

/// The kernels of an encoder's layer around its products and attention, and its pooling.
fn encoder() -> Ir {
    let (tokens, batch) = (Symbol::new("tokens"), Symbol::new("batch"));
    let mut ir = Ir::new("layer");
    for symbol in [&tokens, &batch] {
        ir.symbols.insert(symbol.clone(), SymbolInfo { min: 1, ..SymbolInfo::default() });
    }
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, "");
    let hidden = |n: usize| Type::new(DType::F32, [Dim::symbol(&tokens), Dim::from(n)]);
    let x = b.arg("x", hidden(384)).unwrap();
    let offsets = Type::new(DType::I32, [Dim::symbol(&batch) + Dim::constant(1)]);
    let offsets = b.arg("offsets", offsets).unwrap();
    let arg = |b: &mut Builder<'_>, name: &str, shape: &[usize]| {
        b.arg(name, Type::new(DType::F32, shape.iter().copied())).unwrap()
    };
    let (scale, shift) = (arg(&mut b, "scale", &[384]), arg(&mut b, "shift", &[384]));
    let (up, up_bias) = (arg(&mut b, "up", &[1536, 384]), arg(&mut b, "up_bias", &[1536]));
    let (down, down_bias) = (arg(&mut b, "down", &[384, 1536]), arg(&mut b, "down_bias", &[384]));
    let h = b.op(Op::Linear {}, &[x, up, up_bias]).unwrap();
    let h = b.op(Op::Activation { f: Activation::Gelu }, &[h]).unwrap();
    let h = b.op(Op::Linear {}, &[h, down, down_bias]).unwrap();
    let h = b.add(h, x).unwrap();
    let y = b.op(Op::LayerNorm { eps: 1e-12 }, &[h, scale, shift]).unwrap();
    let s = b.op(Op::Softmax {}, &[y]).unwrap();
    let pooled = b.op(Op::SegmentPool { f: lith_ir::Pool::Mean }, &[y, offsets]).unwrap();
    graph.add_result("softmax", s);
    graph.add_result("pooled", pooled);
    ir.entries.insert("main".into(), graph);
    ir
}

#[test]
fn loops_of_encoders_have_the_widest_vectors() {
    let (program, plan) = support::planned(&encoder(), &Options::default());
    for (target, vector) in WIDE {
        let storage = WeightStorage::of(DType::F32);
        let module = lith_codegen::compile(&program, &plan, &Target::new(target).unwrap(), &storage).unwrap();
        assert_eq!(narrow(&module.clif(), vector), [""; 0], "{target}");
        assert!(module.asm().contains(if vector == "x8" { "ymm" } else { "zmm" }));
    }
}

#[test]
fn loops_of_decoders_have_the_widest_vectors() {
    let decoder = Decoder::new(&Form::default());
    for (target, vector) in WIDE {
        let module = decoder.module(&Target::new(target).unwrap()).unwrap();
        assert_eq!(narrow(&module.clif(), vector), [""; 0], "{target}");
    }
}
