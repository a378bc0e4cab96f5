//! A small decoder, its sequences in a paged cache, and the interpreter on the same.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use lith_codegen::{CodegenError, Module, Target, WeightData, WeightStorage};
use lith_frontend::nn::{self, Act, Frequencies, Rope};
use lith_frontend::sequence::AttentionSpec;
use lith_frontend::{CacheType, Layout, Sequence, Trace};
use lith_ir::interp::{Interpreter, Mode, Tensor};
use lith_ir::quant::{QuantMatrix, Scheme, Storage};
use lith_ir::testing::Rng;
use lith_ir::{DType, Literal, Program as Ir};
use lith_passes::Options;
use lith_runtime::cache::PagePool;
use lith_runtime::program::Program;
use lith_runtime::tensor::View;

pub const VOCABULARY: usize = 50;
pub const LAYERS: usize = 3;
const WIDTH: usize = 64;
const INNER: usize = 96;
const HEAD: usize = 16;
pub const PAGE: usize = 64;

/// What differs between decoders.
#[derive(Clone, Debug)]
pub struct Form {
    pub cache: CacheType,
    pub heads: usize,
    pub kv_heads: usize,
    pub window: usize,
    pub softcap: f64,
    pub slopes: bool,
    pub interleaved: bool,
    /// How linear weights and the table are quantized.
    pub schemes: Vec<Scheme>,
    /// Whether activations are rounded to 8 bits.
    pub activations: bool,
}

impl Default for Form {
    fn default() -> Form {
        Form {
            cache: CacheType::F32,
            heads: 4,
            kv_heads: 2,
            window: 0,
            softcap: 0.0,
            slopes: false,
            interleaved: false,
            schemes: Vec::new(),
            activations: false,
        }
    }
}

/// A decoder with its weights.
pub struct Decoder {
    /// After the passes.
    pub program: Ir,
    plan: lith_ir::plan::Plan,
    /// Values of the parameters: of quantized ones, what their codes stand for.
    params: BTreeMap<String, Tensor>,
    stored: BTreeMap<String, QuantMatrix>,
}

impl Decoder {
    pub fn new(form: &Form) -> Decoder {
        let ir = trace(form);
        let mut rng = Rng::new(11);
        let (mut params, mut stored) = (BTreeMap::new(), BTreeMap::new());
        let mut matrices = BTreeSet::new();
        for (name, ty) in &ir.params {
            let shape = ty.static_shape().expect("a weight of known size");
            let bound = if shape.len() == 2 { 2.0 / (shape[1] as f64).sqrt() } else { 1.0 };
            let mut values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.between(-bound, bound) as f32).collect();
            if shape.len() == 2 {
                if let Some(&scheme) = form.schemes.get(matrices.len() % form.schemes.len().max(1)) {
                    let matrix = lith_passes::quantize::quantize(&values, shape[1], scheme);
                    values = matrix.dequantize();
                    stored.insert(name.clone(), matrix);
                }
                matrices.insert(name.clone());
            }
            let values = values.into_iter().map(f64::from).collect();
            params.insert(name.clone(), Tensor::floats(DType::F32, &shape, values).expect("a weight"));
        }
        let int8_activations = if form.activations { matrices } else { BTreeSet::new() };
        let rounding = lith_passes::quantize::Rounding::Everywhere;
        let storage = |(n, m): (&String, &QuantMatrix)| (n.clone(), Storage::Quantized(m.scheme));
        let packed = stored.iter().map(storage).collect();
        let options = Options { rounding, int8_activations, stored: packed, ..Options::default() };
        let (program, plan) = super::planned(&ir, &options);
        Decoder { program, plan, params, stored }
    }

    pub fn module(&self, target: &Target) -> Result<Module, CodegenError> {
        let by_param = self.stored.iter().map(|(n, m)| (n.clone(), Storage::Quantized(m.scheme))).collect();
        lith_codegen::compile(&self.program, &self.plan, target, &WeightStorage { default: DType::F32, by_param })
    }

    pub fn write(&self, path: &Path) -> Result<(), CodegenError> {
        let module = self.module(&Target::new("native")?)?;
        let mut weights = |name: &str| {
            Ok(match self.stored.get(name) {
                Some(matrix) => WeightData::Quantized(matrix.clone()),
                None => super::elements(&self.params[name]),
            })
        };
        lith_codegen::write_artifact::<CodegenError>(path, &module, &mut weights, &[])
    }
}

fn trace(form: &Form) -> Ir {
    let trace = Trace::new("decoder", DType::F32);
    let sequence = Sequence::arguments(&trace, Layout::Paged(form.cache), false, 4 * PAGE);
    let frequencies = Frequencies::Fixed((0..HEAD / 2).map(|i| 100f64.powf(-(i as f64) / 8.0)).collect());
    let rope = Rope { frequencies, scale: 1.0, interleaved: form.interleaved };
    let angles = rope.angles(&sequence);
    let slopes: Vec<f32> = (0..form.heads).map(|h| 0.02 * (h + 1) as f32).collect();
    let slopes = trace.constant(Literal::f32s(vec![form.heads], &slopes).expect("slopes"));
    let s = trace.root();
    let mut x = nn::embedding(&s, "embed", sequence.ids(), [VOCABULARY, WIDTH]);
    for layer in 0..LAYERS {
        x = s.at(&format!("layers.{layer}"), |s| {
            let h = nn::rms_norm(s, "norm1", &x, WIDTH, [1e-5, 0.0]);
            let heads = |name: &str, n: usize| nn::linear_no_bias(s, name, &h, [n * HEAD, WIDTH]);
            let q = angles.turn(&heads("q", form.heads), form.heads);
            let k = angles.turn(&heads("k", form.kv_heads), form.kv_heads);
            let v = heads("v", form.kv_heads);
            let spec = AttentionSpec {
                kv_heads: form.kv_heads,
                causal: true,
                window: form.window,
                softcap: form.softcap,
                slopes: form.slopes.then_some(&slopes),
                ..AttentionSpec::plain(form.heads, HEAD as f64)
            };
            let y = s.at("attention", |s| sequence.attention(s, &q, &k, &v, &spec));
            let x = &x + nn::linear(s, "o", &y, [WIDTH, form.heads * HEAD]);
            let h = nn::rms_norm(s, "norm2", &x, WIDTH, [1e-5, 1.0]);
            let act = Act::from_name("silu").expect("silu");
            let gate = act.apply(&nn::linear_no_bias(s, "gate", &h, [INNER, WIDTH]));
            let y = gate * nn::linear_no_bias(s, "up", &h, [INNER, WIDTH]);
            &x + nn::linear_no_bias(s, "down", &y, [WIDTH, INNER])
        });
    }
    let x = nn::rms_norm(&s, "norm", &sequence.output_rows(&x), WIDTH, [1e-5, 0.0]);
    // The output layer is tied to the table.
    let logits = nn::linear_no_bias(&s, "embed", &x, [VOCABULARY, WIDTH]);
    trace.result("logits", &logits);
    trace.finish("forward").expect("a sound trace")
}

/// The arguments of a call.
pub struct Call {
    args: [(&'static str, Vec<usize>, Vec<i32>); 5],
}

impl Call {
    pub fn views(&self) -> Vec<(&'static str, View<'_>)> {
        self.args.iter().map(|(name, shape, values)| (*name, View::i32(shape, values))).collect()
    }

    fn tensors(&self) -> Vec<Tensor> {
        let ints = |values: &[i32]| values.iter().map(|&v| v.into()).collect();
        self.args.iter().map(|(_, shape, v)| Tensor::ints(DType::I32, shape, ints(v)).expect("an argument")).collect()
    }

    /// The values of an argument.
    pub fn values(&mut self, name: &str) -> &mut Vec<i32> {
        &mut self.args.iter_mut().find(|(n, ..)| *n == name).expect("an argument").2
    }
}

/// Sequences by number: how much of each the cache holds, and where.
#[derive(Clone)]
pub struct Sequences {
    past: Vec<usize>,
    pages: Vec<Vec<i32>>,
}

impl Sequences {
    pub fn new(pages: &[&[i32]]) -> Sequences {
        Sequences { past: vec![0; pages.len()], pages: pages.iter().map(|p| p.to_vec()).collect() }
    }

    /// The call that appends these tokens to these sequences and wants all logits.
    pub fn call(&mut self, new: &[(usize, &[i32])]) -> Call {
        let table = new.iter().map(|&(s, _)| self.pages[s].len()).max().unwrap_or(0);
        let (mut ids, mut offsets, mut past, mut pages) = (Vec::new(), vec![0], Vec::new(), Vec::new());
        for &(s, tokens) in new {
            ids.extend_from_slice(tokens);
            offsets.push(ids.len() as i32);
            past.push(self.past[s] as i32);
            pages.extend((0..table).map(|i| self.pages[s].get(i).copied().unwrap_or(0)));
            self.past[s] += tokens.len();
        }
        let outputs: Vec<i32> = (0..ids.len() as i32).collect();
        let args = [
            ("input_ids", vec![ids.len()], ids),
            ("offsets", vec![offsets.len()], offsets),
            ("past", vec![past.len()], past),
            ("pages", vec![new.len(), table], pages),
            ("outputs", vec![outputs.len()], outputs),
        ];
        Call { args }
    }
}

/// Logits of all tokens of a call, by machine code.
pub fn run(program: &Program, pool: &mut PagePool, call: &Call) -> Vec<f32> {
    program.run_cached("forward", &call.views(), pool).unwrap_or_else(|e| panic!("{e}"))[0].f32s().to_vec()
}

/// The interpreter with its states.
pub struct Reference<'a> {
    decoder: &'a Decoder,
    interpreter: Interpreter,
    states: BTreeMap<String, Tensor>,
}

impl<'a> Reference<'a> {
    pub fn new(decoder: &'a Decoder, pages: usize) -> Reference<'a> {
        let zeros = |(name, ty): (&String, &lith_ir::Type)| {
            let shape: Vec<usize> = ty.shape.iter().map(|d| d.as_const().map_or(pages, |d| d as usize)).collect();
            (name.clone(), Tensor::zeros(ty.dtype, &shape).expect("a state"))
        };
        let states = decoder.program.states.iter().map(zeros).collect();
        let interpreter = Interpreter::new(&decoder.program, Mode::Rounded).expect("a sound program");
        Reference { decoder, interpreter, states }
    }

    pub fn run(&mut self, call: &Call) -> Vec<f64> {
        let params = |name: &str| self.decoder.params.get(name).cloned();
        let results = self.interpreter.run("forward", &call.tensors(), &params, &mut self.states);
        results.unwrap_or_else(|e| panic!("{e}"))[0].as_floats().expect("logits").to_vec()
    }
}
