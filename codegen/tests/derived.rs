//! Parameters that follow from others: folded into weights by saturation, computed when the artifact is written, the same
//! function for every layer, and nothing stored that nobody reads.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use lith_codegen::{CodegenError, WeightData, WeightStorage};
use lith_ir::interp::{Interpreter, Mode, Tensor};
use lith_ir::quant::Storage;
use lith_ir::testing::{Rng, close};
use lith_ir::{Activation, Builder, DType, Dim, Graph, Op, Program as Ir, Symbol, SymbolInfo, Type, Value};
use lith_passes::Options;
use lith_passes::saturate::Numeric;
use lith_runtime::program::Program;
use lith_runtime::tensor::View;

const WIDTH: usize = 32;
const INNER: usize = 48;
const LAYERS: usize = 3;

struct Model {
    ir: Ir,
    params: BTreeMap<String, Tensor>,
    rng: Rng,
    graph: Graph,
}

impl Model {
    fn at(&mut self, path: &str) -> Builder<'_> {
        Builder::new(&mut self.graph, path)
    }

    fn param(&mut self, name: &str, shape: &[usize]) -> Value {
        let ty = Type::new(DType::F32, shape.iter().copied());
        self.ir.params.insert(name.into(), ty.clone());
        let values = (0..shape.iter().product()).map(|_| f64::from(self.rng.between(-0.4, 0.6) as f32)).collect();
        self.params.insert(name.into(), Tensor::floats(DType::F32, shape, values).unwrap());
        self.at("").param(name, ty).unwrap()
    }

    fn linear(&mut self, path: &str, x: Value, to: usize, biased: bool) -> Value {
        let from = self.at("").ty(x).shape[1].as_const().unwrap() as usize;
        let mut operands = vec![x, self.param(&format!("{path}.weight"), &[to, from])];
        if biased {
            operands.push(self.param(&format!("{path}.bias"), &[to]));
        }
        self.at(path).op(Op::Linear {}, &operands).unwrap()
    }

    /// A norm before two layers, a scale behind them.
    fn layer(&mut self, p: &str, x: Value) -> Value {
        let weight = self.param(&format!("{p}.norm.weight"), &[WIDTH]);
        let h = self.at(&format!("{p}.norm")).op(Op::RmsNorm { eps: 1e-5, offset: 1.0 }, &[x, weight]).unwrap();
        let h = self.linear(&format!("{p}.up"), h, INNER, true);
        let h = self.at(p).op(Op::Activation { f: Activation::Silu }, &[h]).unwrap();
        let y = self.linear(&format!("{p}.down"), h, WIDTH, true);
        let scale = self.param(&format!("{p}.scale"), &[WIDTH]);
        let shape = self.at("").ty(y).shape;
        let mut b = self.at(p);
        let scale = b.expand(scale, &shape).unwrap();
        let y = b.mul(y, scale).unwrap();
        b.add(y, x).unwrap()
    }
}

/// Queries, keys and values of packed sequences, attention, and a layer behind it.
fn attention(m: &mut Model, p: &str, x: Value, offsets: Value) -> Value {
    let [q, k, v] = ["query", "key", "value"].map(|n| m.linear(&format!("{p}.{n}"), x, WIDTH, true));
    let op = Op::PackedAttention { heads: 2, kv_heads: 2, scale: 0.25, causal: false, dropout: 0.0 };
    let context = m.at(p).op(op, &[q, k, v, offsets]).unwrap();
    let y = m.linear(&format!("{p}.output"), context, WIDTH, true);
    m.at(p).add(y, x).unwrap()
}

/// Layers that read nothing but tokens, or layers of attention.
fn model(attends: bool) -> Model {
    let tokens = Symbol::new("tokens");
    let mut ir = Ir::new("layers");
    ir.symbols.insert(tokens.clone(), SymbolInfo { min: 1, ..SymbolInfo::default() });
    let mut m = Model { ir, params: BTreeMap::new(), rng: Rng::new(11), graph: Graph::new() };
    let ty = Type::new(DType::F32, [Dim::symbol(&tokens), Dim::from(WIDTH)]);
    let mut x = m.at("").arg("x", ty).unwrap();
    let sequences = Symbol::new("sequences");
    if attends {
        m.ir.symbols.insert(sequences.clone(), SymbolInfo { min: 1, ..SymbolInfo::default() });
    }
    let ty = Type::new(DType::I32, [Dim::symbol(&sequences) + Dim::constant(1)]);
    let offsets = attends.then(|| m.at("").arg("offsets", ty).unwrap());
    for i in 0..LAYERS {
        let path = format!("layers.{i}");
        x = match offsets {
            Some(offsets) => attention(&mut m, &path, x, offsets),
            None => m.layer(&path, x),
        };
    }
    m.graph.add_result("y", x);
    m.ir.entries.insert("main".into(), m.graph.clone());
    m
}

fn input(rows: usize) -> Tensor {
    let mut rng = Rng::new(rows as u64);
    let values = (0..rows * WIDTH).map(|_| f64::from(rng.between(-1.0, 1.0) as f32)).collect();
    Tensor::floats(DType::F32, &[rows, WIDTH], values).unwrap()
}

fn interpreted(ir: &Ir, params: &BTreeMap<String, Tensor>, args: &[Tensor], mode: Mode) -> Tensor {
    let param = |name: &str| params.get(name).cloned();
    let interpreter = Interpreter::new(ir, mode).unwrap();
    interpreter.run("main", args, &param, &mut BTreeMap::new()).unwrap().remove(0)
}

#[test]
fn scales_and_norm_weights_are_in_the_stored_weights() {
    let m = model(false);
    let options = Options { numeric: Numeric::Reassociate, ..Options::default() };
    let (ir, plan) = support::planned(&m.ir, &options);
    assert_eq!(ir.functions.len(), 1, "{ir}");
    let function = ir.functions.values().next().unwrap();
    assert!(ir.derived.len() >= 3 * LAYERS, "{ir}");
    // The form with derived parameters prints, parses, and means what the model means.
    let parsed: Ir = ir.to_string().parse().unwrap();
    assert_eq!(parsed.to_string(), ir.to_string());
    let x = input(5);
    let expected = interpreted(&m.ir, &m.params, std::slice::from_ref(&x), Mode::Exact);
    close(&expected, &interpreted(&parsed, &m.params, std::slice::from_ref(&x), Mode::Exact), 1e-9).unwrap();

    let folder = tempfile::tempdir().unwrap();
    let paths = ["a", "b"].map(|name| folder.path().join(name));
    for path in &paths {
        let module =
            lith_codegen::compile(&ir, &plan, &support::target("native"), &WeightStorage::of(DType::F32)).unwrap();
        let mut weights = |name: &str| Ok(support::elements(&m.params[name]));
        lith_codegen::write_artifact::<CodegenError>(path, &module, &mut weights, &[]).unwrap();
    }
    let [a, b] = paths.each_ref().map(|p| std::fs::read(p).unwrap());
    assert!(a == b, "the same input gives other bytes");
    let program = Program::open(&paths[0], 2).unwrap();
    let stored: BTreeSet<&str> = program.manifest().params.iter().map(|p| p.name.as_str()).collect();
    for layer in 0..LAYERS {
        for gone in ["norm.weight", "up.weight", "down.weight", "down.bias", "scale"] {
            assert!(!stored.contains(format!("layers.{layer}.{gone}").as_str()), "{gone} is stored: {stored:?}");
        }
    }
    assert_eq!(function.args().len(), 1 + stored.len() / LAYERS, "arguments that nothing reads: {ir}");
    for rows in [1, 5, 40] {
        let x = input(rows);
        let bytes = x.to_bytes();
        let view = View { dtype: DType::F32, shape: x.shape(), bytes: &bytes };
        let found = program.run("main", &[("x", view)]).unwrap();
        let found = Tensor::from_bytes(DType::F32, found[0].shape(), found[0].bytes()).unwrap();
        close(&interpreted(&m.ir, &m.params, std::slice::from_ref(&x), Mode::Exact), &found, 2e-5).unwrap();
    }
}

#[test]
fn weights_that_are_stored_otherwise_stay() {
    let m = model(false);
    let stored = (0..LAYERS).flat_map(|i| ["up", "down"].map(|n| format!("layers.{i}.{n}.weight")));
    let stored = stored.map(|n| (n, Storage::Float(DType::Bf16))).collect();
    let options = Options { numeric: Numeric::Reassociate, stored, ..Options::default() };
    let (ir, _) = support::planned(&m.ir, &options);
    let params = |g: &Graph| -> Vec<String> {
        let name = |op: &Op| match op {
            Op::Param { name, .. } => Some(name.clone()),
            _ => None,
        };
        g.petgraph().node_weights().filter_map(|n| name(&n.op)).collect()
    };
    let read: BTreeSet<String> = ir.entries.values().flat_map(params).collect();
    assert!((0..LAYERS).all(|i| read.contains(&format!("layers.{i}.up.weight"))), "{ir}");
    assert!(ir.derived.values().flat_map(params).all(|n| !n.ends_with("up.weight")), "{ir}");
}

/// Queries, keys and values are columns of one product, also where weights are stored as codes, and mean what they meant layer
/// by layer.
#[test]
fn one_product_gives_queries_keys_and_values() {
    let m = model(true);
    let scheme = lith_passes::quantize::scheme("int8-32").unwrap();
    let codes: BTreeMap<String, Storage> =
        m.ir.params
            .iter()
            .filter(|(_, t)| t.rank() == 2)
            .map(|(n, _)| (n.clone(), Storage::Quantized(scheme)))
            .collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("attention");
    for stored in [BTreeMap::new(), codes] {
        let (ir, plan) = support::planned(&m.ir, &Options { stored: stored.clone(), ..Options::default() });
        assert_eq!(ir.derived.len(), 2 * LAYERS, "{ir}");
        let layer = plan.graphs.get(ir.functions.keys().next().unwrap()).unwrap();
        assert_eq!(layer.kernels.iter().filter(|k| k.kind.name() == "loop").count(), 0, "columns are copied");
        let storage = WeightStorage { by_param: stored.clone(), ..WeightStorage::of(DType::F32) };
        let module = lith_codegen::compile(&ir, &plan, &support::target("native"), &storage).unwrap();
        let values =
            |name: &str| -> Vec<f32> { m.params[name].as_floats().unwrap().iter().map(|&v| v as f32).collect() };
        let quantized = |name: &str| lith_passes::quantize::quantize(&values(name), WIDTH, scheme);
        let mut weights = |name: &str| {
            let codes = stored.contains_key(name);
            Ok(if codes { WeightData::Quantized(quantized(name)) } else { support::elements(&m.params[name]) })
        };
        lith_codegen::write_artifact::<CodegenError>(&path, &module, &mut weights, &[]).unwrap();
        // What the program means by its parameters is what the codes stand for.
        let mut params = m.params.clone();
        for name in stored.keys() {
            let values = quantized(name).dequantize().into_iter().map(f64::from).collect();
            params.insert(name.clone(), Tensor::floats(DType::F32, params[name].shape(), values).unwrap());
        }
        for threads in [1, 2] {
            let program = Program::open(&path, threads).unwrap();
            for ends in [&[0, 9][..], &[0, 3, 20, 21]] {
                let x = input(*ends.last().unwrap() as usize);
                let offsets =
                    Tensor::ints(DType::I32, &[ends.len()], ends.iter().map(|&e| e as i64).collect()).unwrap();
                let bytes = [x.to_bytes(), offsets.to_bytes()];
                let [x_view, offsets_view] = [0, 1].map(|i| {
                    let of = [&x, &offsets][i];
                    View { dtype: of.dtype(), shape: of.shape(), bytes: &bytes[i] }
                });
                let found = program.run("main", &[("x", x_view), ("offsets", offsets_view)]).unwrap();
                let found = Tensor::from_bytes(DType::F32, found[0].shape(), found[0].bytes()).unwrap();
                let args = [x, offsets];
                close(&interpreted(&m.ir, &params, &args, Mode::Exact), &found, 2e-5).unwrap();
            }
        }
    }
}
