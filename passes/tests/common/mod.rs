//! Programs that the tests compile: encoders written by hand, as a tracer would record them.
#![allow(dead_code)]

pub mod decoder;
pub mod execute;
pub mod training;

use std::collections::BTreeMap;

use lith_ir::interp::Tensor;
use lith_ir::{Activation, Builder, DType, Dim, Graph, Op, Program, Symbol, SymbolInfo, Type, Value};

pub const HIDDEN: i64 = 32;
pub const HEADS: usize = 2;

pub fn sym(name: &str) -> Dim {
    Dim::symbol(&Symbol::new(name))
}

/// Values of the symbols from the shapes of arguments and states: of those that a dimension consists of, or has times a
/// number plus a number.
pub fn symbols_of(
    program: &Program,
    entry: &str,
    args: &[Tensor],
    states: &BTreeMap<String, Tensor>,
) -> BTreeMap<Symbol, i64> {
    let graph = &program.entries[entry];
    let mut sizes: Vec<(Dim, i64)> = Vec::new();
    let mut add = |ty: &Type, t: &Tensor| {
        sizes.extend(ty.shape.iter().cloned().zip(t.shape().iter().map(|&n| n as i64)));
    };
    graph.args().iter().zip(args).for_each(|(&a, t)| add(graph.ty(a.into()), t));
    states.iter().for_each(|(name, t)| add(&program.states[name], t));
    let mut found: BTreeMap<Symbol, i64> = BTreeMap::new();
    for (dim, size) in sizes {
        if let [symbol] = &dim.symbols()[..] {
            let value = (0..=size).find(|&v| dim.eval(&|_| Some(v)) == Ok(size));
            found.insert(symbol.clone(), value.expect("a size that no value of the symbol gives"));
        }
    }
    found
}

/// A graph under construction together with the parameters it uses.
pub struct Model<'p> {
    pub program: &'p mut Program,
    pub graph: Graph,
}

impl Model<'_> {
    pub fn at(&mut self, path: &str) -> Builder<'_> {
        Builder::new(&mut self.graph, path)
    }

    pub fn param(&mut self, name: &str, shape: &[i64]) -> Value {
        let ty = Type::new(DType::F32, shape.iter().copied());
        self.program.params.insert(name.into(), ty.clone());
        self.at("").param(name, ty).unwrap()
    }

    pub fn linear(&mut self, path: &str, x: Value, from: i64, to: i64) -> Value {
        let weight = self.param(&format!("bert.{path}.weight"), &[to, from]);
        let bias = self.param(&format!("bert.{path}.bias"), &[to]);
        self.at(path).op(Op::Linear {}, &[x, weight, bias]).unwrap()
    }

    pub fn norm(&mut self, path: &str, x: Value) -> Value {
        let weight = self.param(&format!("bert.{path}.weight"), &[HIDDEN]);
        let bias = self.param(&format!("bert.{path}.bias"), &[HIDDEN]);
        self.at(path).op(Op::LayerNorm { eps: 1e-12 }, &[x, weight, bias]).unwrap()
    }

    /// `mask` in the padded layout, else offsets.
    pub fn layer(&mut self, p: &str, x: Value, seen: Value, padded: bool) -> Value {
        let q = self.linear(&format!("{p}.attention.self.query"), x, HIDDEN, HIDDEN);
        let k = self.linear(&format!("{p}.attention.self.key"), x, HIDDEN, HIDDEN);
        let v = self.linear(&format!("{p}.attention.self.value"), x, HIDDEN, HIDDEN);
        let scale = 1.0 / (HIDDEN as f64 / HEADS as f64).sqrt();
        let op = if padded {
            Op::Attention { heads: HEADS, kv_heads: HEADS, scale, causal: false }
        } else {
            Op::PackedAttention { heads: HEADS, kv_heads: HEADS, scale, causal: false, dropout: 0.0 }
        };
        let context = self.at(&format!("{p}.attention.self")).op(op, &[q, k, v, seen]).unwrap();
        let y = self.linear(&format!("{p}.attention.output.dense"), context, HIDDEN, HIDDEN);
        let y = self.at(&format!("{p}.attention.output")).add(y, x).unwrap();
        let h = self.norm(&format!("{p}.attention.output.LayerNorm"), y);
        let y = self.linear(&format!("{p}.intermediate.dense"), h, HIDDEN, 4 * HIDDEN);
        let y = self.at(&format!("{p}.intermediate")).op(Op::Activation { f: Activation::Gelu }, &[y]).unwrap();
        let y = self.linear(&format!("{p}.output.dense"), y, 4 * HIDDEN, HIDDEN);
        let y = self.at(&format!("{p}.output")).add(y, h).unwrap();
        self.norm(&format!("{p}.output.LayerNorm"), y)
    }
}

/// A BERT encoder with a pooled, normalized sentence embedding. `path_of` tells where each layer stands; layers at one
/// path share their weights.
pub fn bert(layers: usize, padded: bool, path_of: &dyn Fn(usize) -> String) -> Program {
    let mut program = Program::new("bert");
    for name in ["tokens", "sequences", "batch", "seq"] {
        program.symbols.insert(Symbol::new(name), SymbolInfo::default());
    }
    let mut m = Model { program: &mut program, graph: Graph::new() };
    let grid = if padded { vec![sym("batch"), sym("seq")] } else { vec![sym("tokens")] };
    let ids = m.at("").arg("input_ids", Type { dtype: DType::I32, shape: grid.clone() }).unwrap();
    let seen = if padded {
        m.at("").arg("attention_mask", Type { dtype: DType::Bool, shape: grid.clone() }).unwrap()
    } else {
        let count = sym("sequences") + Dim::constant(1);
        m.at("").arg("offsets", Type { dtype: DType::I32, shape: vec![count] }).unwrap()
    };
    let words = m.param("bert.embeddings.word_embeddings.weight", &[100, HIDDEN]);
    let positions = m.param("bert.embeddings.position_embeddings.weight", &[64, HIDDEN]);
    let word = m.at("embeddings.word_embeddings").gather(words, ids, 0).unwrap();
    let position = if padded {
        m.at("embeddings").iota(&grid, 1, DType::I32).unwrap()
    } else {
        let mut b = m.at("embeddings");
        let segments = b.op(Op::SegmentIds { tokens: sym("tokens") }, &[seen]).unwrap();
        let start = b.gather(seen, segments, 0).unwrap();
        let index = b.iota(&grid, 0, DType::I32).unwrap();
        b.sub(index, start).unwrap()
    };
    let position = m.at("embeddings.position_embeddings").gather(positions, position, 0).unwrap();
    let sum = m.at("embeddings").add(word, position).unwrap();
    let mut h = m.norm("embeddings.LayerNorm", sum);
    for i in 0..layers {
        h = m.layer(&path_of(i), h, seen, padded);
    }
    if padded {
        m.graph.add_result("last_hidden_state", h);
    } else {
        let pooled = m.at("pooling").op(Op::SegmentPool { f: lith_ir::Pool::Mean }, &[h, seen]).unwrap();
        let unit = m.at("normalize").op(Op::L2Norm { eps: 1e-12 }, &[pooled]).unwrap();
        m.graph.add_result("last_hidden_state", h);
        m.graph.add_result("sentence_embedding", unit);
    }
    let graph = m.graph;
    program.entries.insert("encode".into(), graph);
    program
}

/// [`bert`] with layers `encoder.layer.N`.
pub fn numbered(layers: usize, padded: bool) -> Program {
    bert(layers, padded, &|i| format!("encoder.layer.{i}"))
}
