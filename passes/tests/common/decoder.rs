//! A decoder written by hand, as a tracer would record it: rotary positions, grouped heads, a paged cache, a gated
//! feed-forward part, one entry point for prefill and decoding.

use lith_ir::interp::Tensor;
use lith_ir::plan::PAGE_TOKENS;
use lith_ir::testing::{Case, Rng};
use lith_ir::{
    Activation, Binary, Builder, CachePart, DType, Dim, Graph, Literal, Op, Program, Symbol, SymbolInfo, Type, Unary,
    Value,
};

use super::{Model, sym};

const VOCAB: i64 = 50;
const HIDDEN: i64 = 32;
const INNER: i64 = 48;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const WIDTH: usize = 8;

/// What kinds of decoders there are.
#[derive(Clone, Debug)]
pub struct Decoder {
    /// The sliding window of each layer, 0 for none.
    pub windows: Vec<usize>,
    /// Element type of the cache.
    pub cached: DType,
    /// Whether the head is the embedding's table.
    pub tied: bool,
    /// Whether layers compute from 8-bit activations.
    pub quantized: bool,
}

impl Decoder {
    /// All layers alike.
    pub fn new(layers: usize) -> Decoder {
        Decoder { windows: vec![0; layers], cached: DType::F32, tied: false, quantized: false }
    }

    /// The program; its entry point is `main`.
    pub fn program(&self) -> Program {
        let mut program = Program::new("decoder");
        for name in ["tokens", "sequences", "table", "outputs", "page_count"] {
            program.symbols.insert(Symbol::new(name), SymbolInfo::default());
        }
        let mut m = Model { program: &mut program, graph: Graph::new() };
        let ints = |shape: &[Dim]| Type { dtype: DType::I32, shape: shape.to_vec() };
        let ids = m.at("").arg("input_ids", ints(&[sym("tokens")])).unwrap();
        let offsets = m.at("").arg("offsets", ints(&[sym("sequences") + Dim::constant(1)])).unwrap();
        let past = m.at("").arg("past", ints(&[sym("sequences")])).unwrap();
        let pages = m.at("").arg("pages", ints(&[sym("sequences"), sym("table")])).unwrap();
        let outputs = m.at("").arg("outputs", ints(&[sym("outputs")])).unwrap();

        let (position, slots) = places(&mut m.at("model"), offsets, past, pages);
        let angles = [10000.0, 100.0].map(|base| angles(&mut m.at("model.rotary"), position, base));
        let table = m.param("model.embed_tokens.weight", &[VOCAB, HIDDEN]);
        let mut h = m.at("model.embed_tokens").gather(table, ids, 0).unwrap();
        for (i, &window) in self.windows.iter().enumerate() {
            let sequence = Sequence { offsets, past, pages, slots, angles: angles[usize::from(window != 0)] };
            h = self.layer(&mut m, &format!("model.layers.{i}"), h, &sequence, window);
        }
        let h = norm(&mut m, "model.norm", h);
        let h = m.at("lm_head").gather(h, outputs, 0).unwrap();
        let head = if self.tied { table } else { m.param("lm_head.weight", &[VOCAB, HIDDEN]) };
        let logits = m.at("lm_head").op(Op::Linear {}, &[h, head]).unwrap();
        m.graph.add_result("logits", logits);
        let graph = m.graph;
        program.entries.insert("main".into(), graph);
        program
    }

    fn layer(&self, m: &mut Model<'_>, p: &str, x: Value, s: &Sequence, window: usize) -> Value {
        let normed = norm(m, &format!("{p}.input_layernorm"), x);
        let given = self.activations(m, p, normed);
        let attention = format!("{p}.self_attn");
        let [q, k, v] = [("q_proj", HEADS), ("k_proj", KV_HEADS), ("v_proj", KV_HEADS)]
            .map(|(name, heads)| linear(m, &format!("{attention}.{name}"), given, (heads * WIDTH) as i64));
        let [cos, sin] = s.angles;
        let mut turn = |x: Value, heads: usize| {
            m.at(&attention).op(Op::Rope { heads, interleaved: false }, &[x, cos, sin]).unwrap()
        };
        let (q, k) = (turn(q, HEADS), turn(k, KV_HEADS));
        let (k, k_scale) = self.append(m, p, "k", CachePart::Keys, k, s.slots);
        let (v, v_scale) = self.append(m, p, "v", CachePart::Values, v, s.slots);
        let scale = 1.0 / (WIDTH as f64).sqrt();
        let op = Op::PagedAttention { heads: HEADS, kv_heads: KV_HEADS, scale, window, softcap: 0.0 };
        let operands = [Some(q), Some(k), Some(v), Some(s.offsets), Some(s.past), Some(s.pages), k_scale, v_scale];
        let y: Value = m.graph.add_with(op, &operands, &attention).unwrap().into();
        let y = self.activations(m, &attention, y);
        let y = linear(m, &format!("{attention}.o_proj"), y, HIDDEN);
        let h = m.at(p).add(x, y).unwrap();
        let mlp = format!("{p}.mlp");
        let y = norm(m, &format!("{p}.post_attention_layernorm"), h);
        let y = self.activations(m, &mlp, y);
        let gate = linear(m, &format!("{mlp}.gate_proj"), y, INNER);
        let gate = m.at(&mlp).op(Op::Activation { f: Activation::Silu }, &[gate]).unwrap();
        let up = linear(m, &format!("{mlp}.up_proj"), y, INNER);
        let y = m.at(&mlp).mul(gate, up).unwrap();
        let y = self.activations(m, &mlp, y);
        let y = linear(m, &format!("{mlp}.down_proj"), y, HIDDEN);
        m.at(p).add(h, y).unwrap()
    }

    fn activations(&self, m: &mut Model<'_>, path: &str, x: Value) -> Value {
        if self.quantized { m.at(path).op(Op::DynamicQuantize { group: 32, levels: 127 }, &[x]).unwrap() } else { x }
    }

    /// The state after `x` went into it, and its scales after theirs did.
    fn append(
        &self,
        m: &mut Model<'_>,
        p: &str,
        name: &str,
        part: CachePart,
        x: Value,
        slots: Value,
    ) -> (Value, Option<Value>) {
        let shape = [sym("page_count"), Dim::from(PAGE_TOKENS), Dim::from(KV_HEADS), Dim::from(WIDTH)];
        let state = |m: &mut Model<'_>, name: String, part, dtype, shape: &[Dim], x: Value| {
            let ty = Type { dtype, shape: shape.to_vec() };
            m.program.states.insert(name.clone(), ty.clone());
            let mut b = m.at(&format!("{p}.self_attn"));
            let cache = b.op(Op::StateRead { name: name.clone(), ty }, &[]).unwrap();
            let cache = b.op(Op::CacheAppend { part }, &[cache, x, slots]).unwrap();
            b.op(Op::StateWrite { name }, &[cache]).unwrap();
            cache
        };
        if self.cached != DType::I8 {
            return (state(m, format!("{p}.{name}"), part, self.cached, &shape, x), None);
        }
        let mut b = m.at(&format!("{p}.self_attn"));
        let heads = [sym("tokens"), Dim::from(KV_HEADS), Dim::from(WIDTH)];
        let flat = b.ty(x).shape;
        let split = b.reshape(x, &heads).unwrap();
        let magnitude = b.unary(Unary::Abs, split).unwrap();
        let max = b.reduce_last(lith_ir::Reduction::Max, magnitude).unwrap();
        let max = b.binary_const(Binary::Max, max, 1e-9).unwrap();
        let scale = b.binary_const(Binary::Div, max, 127.0).unwrap();
        let steps = b.full_like(max, 127.0).unwrap();
        let inverse = b.div(steps, max).unwrap();
        let inverse = b.expand(inverse, &heads).unwrap();
        let codes = b.mul(split, inverse).unwrap();
        let codes = b.unary(Unary::Round, codes).unwrap();
        let codes = b.cast(codes, DType::I8).unwrap();
        let codes = b.reshape(codes, &flat).unwrap();
        let scale = b.reshape(scale, &heads[..2]).unwrap();
        let codes = state(m, format!("{p}.{name}"), part, DType::I8, &shape, codes);
        let scale = state(m, format!("{p}.{name}_scale"), CachePart::Scales, DType::F32, &shape[..3], scale);
        (codes, Some(scale))
    }

    /// The program on these sequences of `(tokens before, new tokens)`, with random parameters and states.
    pub fn case(&self, sequences: &[(usize, usize)], name: &str) -> Case {
        let program = self.program();
        let mut rng = Rng::new(31);
        let mut floats = |shape: &[usize], low: f64, high: f64| {
            let values = (0..shape.iter().product()).map(|_| rng.between(low, high)).collect();
            Tensor::floats(DType::F32, shape, values).unwrap()
        };
        let params =
            program.params.iter().map(|(name, ty)| (name.clone(), floats(&ty.static_shape().unwrap(), -0.3, 0.3)));
        let params = params.collect();
        let needed = |&(past, new): &(usize, usize)| (past + new).div_ceil(PAGE_TOKENS);
        let count = sequences.iter().map(needed).sum::<usize>() + 1;
        let states = program.states.iter().map(|(name, ty)| {
            let shape: Vec<usize> = ty.shape.iter().map(|d| d.as_const().map_or(count, |n| n as usize)).collect();
            let scales = name.ends_with("_scale");
            let held = if scales { floats(&shape, 0.001, 0.01) } else { floats(&shape, -1.0, 1.0) };
            let steps = if ty.dtype == DType::I8 { 127.0 } else { 1.0 };
            let values = held.as_floats().unwrap().iter().map(|v| v * steps);
            let tensor = match ty.dtype {
                DType::I8 => Tensor::ints(DType::I8, &shape, values.map(|v| v as i64).collect()),
                dtype => Tensor::floats(dtype, &shape, values.map(|v| dtype.round(v)).collect()),
            };
            (name.clone(), tensor.unwrap())
        });
        let states = states.collect();
        // Pages from the last to the first.
        let (mut free, mut table, mut offsets) = (count as i64, Vec::new(), vec![0i64]);
        let width = sequences.iter().map(needed).max().unwrap_or(0);
        for sequence in sequences {
            table.extend((0..width).map(|i| if i < needed(sequence) { free - 1 - i as i64 } else { 0 }));
            free -= needed(sequence) as i64;
            offsets.push(offsets[offsets.len() - 1] + sequence.1 as i64);
        }
        let tokens = offsets[offsets.len() - 1];
        let ints = |shape: &[usize], values: Vec<i64>| Tensor::ints(DType::I32, shape, values).unwrap();
        let ends: Vec<i64> = offsets[1..].iter().map(|o| (o - 1).max(0)).collect();
        let args = vec![
            ints(&[tokens as usize], (0..tokens).map(|i| i * 7 % VOCAB).collect()),
            ints(&[offsets.len()], offsets.clone()),
            ints(&[sequences.len()], sequences.iter().map(|s| s.0 as i64).collect()),
            ints(&[sequences.len(), width], table),
            ints(&[ends.len()], ends),
        ];
        Case { name: format!("{name}: {self:?}"), program, args, params, states, tolerance: 1e-4 }
    }
}

/// What the layers know of the sequences.
struct Sequence {
    offsets: Value,
    past: Value,
    pages: Value,
    slots: Value,
    angles: [Value; 2],
}

/// Position in its sequence, and slot in the cache, of each token.
fn places(b: &mut Builder<'_>, offsets: Value, past: Value, pages: Value) -> (Value, Value) {
    let ids = b.op(Op::SegmentIds { tokens: sym("tokens") }, &[offsets]).unwrap();
    let starts = b.gather(offsets, ids, 0).unwrap();
    let token = b.iota(&[sym("tokens")], 0, DType::I32).unwrap();
    let new = b.sub(token, starts).unwrap();
    let before = b.gather(past, ids, 0).unwrap();
    let position = b.add(before, new).unwrap();
    let page = b.binary_const(Binary::Div, position, PAGE_TOKENS as f64).unwrap();
    let width = b.size(&sym("table"), DType::I32).unwrap();
    let width = b.broadcast(width, &[sym("tokens")], &[]).unwrap();
    let entry = b.mul(ids, width).unwrap();
    let entry = b.add(entry, page).unwrap();
    let flat = b.reshape(pages, &[sym("sequences") * sym("table")]).unwrap();
    let page = b.gather(flat, entry, 0).unwrap();
    let first = b.mul_const(page, PAGE_TOKENS as f64).unwrap();
    let place = b.binary_const(Binary::Rem, position, PAGE_TOKENS as f64).unwrap();
    let slots = b.add(first, place).unwrap();
    (position, slots)
}

/// Cosines and sines of the angles of each token.
fn angles(b: &mut Builder<'_>, position: Value, base: f64) -> [Value; 2] {
    let half = WIDTH / 2;
    let bytes: Vec<u8> = (0..half).flat_map(|i| (base.powf(-(i as f64) / half as f64) as f32).to_le_bytes()).collect();
    let rates = b.op(Op::Const { value: Literal::new(DType::F32, vec![half], bytes).unwrap() }, &[]).unwrap();
    let shape = [sym("tokens"), Dim::from(half)];
    let position = b.cast(position, DType::F32).unwrap();
    let position = b.broadcast(position, &shape, &[0]).unwrap();
    let rates = b.broadcast(rates, &shape, &[1]).unwrap();
    let angle = b.mul(position, rates).unwrap();
    [Unary::Cos, Unary::Sin].map(|f| b.unary(f, angle).unwrap())
}

fn norm(m: &mut Model<'_>, path: &str, x: Value) -> Value {
    let weight = m.param(&format!("{path}.weight"), &[HIDDEN]);
    m.at(path).op(Op::RmsNorm { eps: 1e-5, offset: 0.0 }, &[x, weight]).unwrap()
}

fn linear(m: &mut Model<'_>, path: &str, x: Value, to: i64) -> Value {
    let from = m.graph.ty(x).shape[1].as_const().unwrap();
    let weight = m.param(&format!("{path}.weight"), &[to, from]);
    m.at(path).op(Op::Linear {}, &[x, weight]).unwrap()
}
