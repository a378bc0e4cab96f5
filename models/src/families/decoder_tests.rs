//! Every checkpoint of `tests/fixtures/decoders` through the interpreter, against what Transformers computed: prompts of
//! several sequences in one call, then 32 steps of one token each.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lith_frontend::{CacheType, Layout};
use lith_ir::interp::{Interpreter, Mode, Tensor};
use lith_ir::plan::PAGE_TOKENS;
use lith_ir::{DType, Op};
use serde_json::Value;

use super::tests::{difference, json, load, numbers};
use super::*;
use crate::source::Source;

/// Largest accepted difference, relative to the largest value. Goldens are of double precision, frequencies and other
/// constants of the program are rounded to `f32`.
const TOLERANCE: f64 = 5e-6;

/// Numbers of pages of each sequence.
const TABLE: usize = 2;

fn fixtures() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/decoders");
    let mut found: Vec<_> = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

struct Case {
    prompt: usize,
    ids: Vec<i64>,
    /// `[33, columns]`: of the last token of the prompt and the tokens after it.
    logits: Vec<f64>,
    /// Of each token of the prompt the first column.
    prefill: Vec<f64>,
}

struct Fixture {
    name: String,
    config: Config,
    columns: Vec<usize>,
    cases: Vec<Case>,
    params: BTreeMap<String, Tensor>,
    /// Whether frequencies follow the length, so that keys in the cache tell how it was filled.
    by_length: bool,
}

impl Fixture {
    fn read(path: &Path) -> Fixture {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let source = Source::folder_at(path);
        let config = Config::load(&source).unwrap();
        assert_eq!(config.head(), Some(Head::CausalLm), "{name}");
        let golden = json(&path.join("golden.json"));
        let whole = |value: &Value| numbers(value).into_iter().map(|n| n as i64).collect::<Vec<_>>();
        let lists = |key: &str| golden[key].as_array().unwrap().iter().map(numbers).collect::<Vec<_>>();
        let cases = golden["cases"].as_array().unwrap().iter().zip(lists("logits")).zip(lists("prefill"));
        let cases = cases.map(|((case, logits), prefill)| {
            let prompt = case["prompt"].as_u64().unwrap() as usize;
            Case { prompt, ids: whole(&case["ids"]), logits, prefill }
        });
        let cases = cases.collect();
        let columns = whole(&golden["columns"]).into_iter().map(|n| n as usize).collect();
        let traced = trace(&config, Head::CausalLm, &Options::default());
        let paged = Options { layout: Layout::Paged(CacheType::F32), ..Options::default() };
        let traced = traced.or_else(|_| trace(&config, Head::CausalLm, &paged)).unwrap();
        let part = &traced.parts[0];
        let loaded = load(&source, part);
        assert!(loaded.report().is_clean(), "{name}: {}", loaded.report());
        let params = part.wanted.iter().map(|wanted| {
            let bytes = loaded.bytes(&wanted.name, DType::F64).unwrap().unwrap();
            let values = bytes.chunks_exact(8).map(|chunk| f64::from_le_bytes(chunk.try_into().unwrap())).collect();
            (wanted.name.clone(), Tensor::floats(DType::F32, &wanted.shape, values).unwrap())
        });
        let params = params.collect();
        let by_length = ["dynamic", "longrope"].iter().any(|kind| name.contains(kind));
        Fixture { name, config, columns, cases, params, by_length }
    }

    fn program(&self, layout: Layout) -> Result<Program, FamilyError> {
        Ok(trace(&self.config, Head::CausalLm, &Options { layout, ..Options::default() })?.program)
    }

    /// The golden columns of rows of logits.
    fn columns(&self, logits: &Tensor) -> Vec<Vec<f64>> {
        let width = *logits.shape().last().unwrap();
        let rows = logits.as_floats().unwrap().chunks(width);
        rows.map(|row| self.columns.iter().map(|&column| row[column]).collect()).collect()
    }
}

/// A model with its cache.
struct Running<'a> {
    fixture: &'a Fixture,
    program: Program,
    interpreter: Interpreter,
    states: BTreeMap<String, Tensor>,
    /// For each sequence how many tokens the cache holds, and where.
    past: Vec<i64>,
    pages: Vec<i64>,
}

impl<'a> Running<'a> {
    fn new(fixture: &'a Fixture, cache: CacheType, mode: Mode, sequences: usize) -> Self {
        let program = fixture.program(Layout::Paged(cache)).unwrap();
        let interpreter = Interpreter::new(&program, mode).unwrap();
        // Pages in no order, one of them nobody's.
        let count = sequences * TABLE + 1;
        let pages = (0..sequences * TABLE).map(|i| ((i * 5 + 3) % count) as i64).collect::<Vec<_>>();
        let states = program.states.iter().map(|(name, ty)| {
            let mut shape = vec![count];
            shape.extend(ty.shape[1..].iter().map(|d| d.as_const().unwrap() as usize));
            assert_eq!(shape[1], PAGE_TOKENS);
            (name.clone(), Tensor::zeros(ty.dtype, &shape).unwrap())
        });
        let states = states.collect();
        Running { fixture, program, interpreter, states, past: vec![0; sequences], pages }
    }

    /// The golden columns of the wanted tokens' logits; `new` has the new tokens of each sequence.
    fn step(&mut self, new: &[&[i64]], outputs: &[usize]) -> Vec<Vec<f64>> {
        let graph = &self.program.entries[ENTRY];
        let sequences = new.len();
        let flat = new.concat();
        let mut offsets = vec![0];
        for tokens in new {
            offsets.push(offsets.last().unwrap() + tokens.len() as i64);
        }
        let argument = |id| {
            let Op::Arg { name, .. } = &graph.node(id).op else { panic!("no argument") };
            let (shape, values) = match name.as_str() {
                "input_ids" => (vec![flat.len()], flat.clone()),
                "offsets" => (vec![sequences + 1], offsets.clone()),
                "past" => (vec![sequences], self.past.clone()),
                "pages" => (vec![sequences, TABLE], self.pages.clone()),
                "outputs" => (vec![outputs.len()], outputs.iter().map(|&i| i as i64).collect()),
                other => panic!("unknown argument `{other}`"),
            };
            Tensor::ints(DType::I32, &shape, values).unwrap()
        };
        let args: Vec<Tensor> = graph.args().into_iter().map(argument).collect();
        let param = |name: &str| self.fixture.params.get(name).cloned();
        let results = self.interpreter.run(ENTRY, &args, &param, &mut self.states).unwrap();
        for (past, tokens) in self.past.iter_mut().zip(new) {
            *past += tokens.len() as i64;
        }
        assert_eq!(results[0].shape()[0], outputs.len());
        self.fixture.columns(&results[0])
    }
}

/// Prompts of all cases in one call and the decoding steps of all together; returns the largest difference.
fn check(fixture: &Fixture, cache: CacheType, mode: Mode) -> f64 {
    let cases = &fixture.cases;
    let mut running = Running::new(fixture, cache, mode, cases.len());
    let prompts: Vec<&[i64]> = cases.iter().map(|case| &case.ids[..case.prompt]).collect();
    let total: usize = cases.iter().map(|case| case.prompt).sum();
    let all: Vec<usize> = (0..total).collect();
    let mut rows = running.step(&prompts, &all).into_iter();
    let mut found: Vec<Vec<f64>> = Vec::new();
    let mut worst = 0.0f64;
    for case in cases {
        let of_case: Vec<Vec<f64>> = rows.by_ref().take(case.prompt).collect();
        let first: Vec<f64> = of_case.iter().map(|row| row[0]).collect();
        let scale = difference(&vec![0.0; case.logits.len()], &case.logits);
        assert!(scale > 0.9);
        worst = worst.max(difference(&first, &case.prefill));
        found.push(of_case.into_iter().next_back().unwrap());
    }
    let last: Vec<usize> = (0..cases.len()).collect();
    for step in 0..cases[0].ids.len() - cases[0].prompt {
        let new: Vec<&[i64]> = cases.iter().map(|case| &case.ids[case.prompt + step..][..1]).collect();
        for (found, row) in found.iter_mut().zip(running.step(&new, &last)) {
            found.extend(row);
        }
    }
    cases.iter().zip(&found).map(|(case, found)| difference(found, &case.logits)).fold(worst, f64::max)
}

/// ROPE-01 to ROPE-06, ROPE-07 to ROPE-10, ROPE-12, CFG-22, WLD-03, WLD-04, WLD-07, WLD-10, WLD-12
#[test]
fn decoders_give_what_transformers_gives() {
    let paths = fixtures();
    assert!(paths.len() >= 39, "only {} fixtures were there", paths.len());
    let mut failed = Vec::new();
    for path in paths {
        let fixture = Fixture::read(&path);
        let off = check(&fixture, CacheType::F32, Mode::Exact);
        println!("{:32} {off:.1e}", fixture.name);
        if off.is_nan() || off > TOLERANCE {
            failed.push(format!("{}: off by {off:e}", fixture.name));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// A prompt in pieces is the prompt; a sequence alone is the sequence in a batch.
#[test]
fn pieces_of_a_prompt_are_the_prompt() {
    for path in fixtures() {
        let fixture = Fixture::read(&path);
        if fixture.by_length {
            continue;
        }
        let case = &fixture.cases[2];
        let mut running = Running::new(&fixture, CacheType::F32, Mode::Exact, 1);
        let mut found = Vec::new();
        for piece in [&case.ids[..13], &case.ids[13..14], &case.ids[14..case.prompt]] {
            found = running.step(&[piece], &[piece.len() - 1]);
        }
        // Several tokens at once after the prompt, as checking of guessed tokens has them.
        found.extend(running.step(&[&case.ids[case.prompt..]], &(0..32).collect::<Vec<_>>()));
        let off = difference(&found.concat(), &case.logits);
        assert!(off <= TOLERANCE, "{}: off by {off:e}", fixture.name);
    }
}

/// The layouts without a cache give the logits of the whole text, or say what they lack.
#[test]
fn decoders_without_a_cache() {
    let mut ran = 0;
    for path in fixtures() {
        let fixture = Fixture::read(&path);
        for layout in [Layout::Packed, Layout::Padded] {
            let program = match fixture.program(layout) {
                Ok(program) => program,
                Err(error) => {
                    assert!(error.to_string().contains("need the paged layout"), "{error}");
                    continue;
                }
            };
            if fixture.by_length {
                continue;
            }
            let case = &fixture.cases[1];
            let count = case.ids.len();
            let ids = |shape: &[usize]| Tensor::ints(DType::I32, shape, case.ids.clone()).unwrap();
            let args = match layout {
                Layout::Padded => [ids(&[1, count]), Tensor::ints(DType::Bool, &[1, count], vec![1; count]).unwrap()],
                _ => [ids(&[count]), Tensor::ints(DType::I32, &[2], vec![0, count as i64]).unwrap()],
            };
            let interpreter = Interpreter::new(&program, Mode::Exact).unwrap();
            let param = |name: &str| fixture.params.get(name).cloned();
            let results = interpreter.run(ENTRY, &args, &param, &mut BTreeMap::new()).unwrap();
            let found = fixture.columns(&results[0])[case.prompt - 1..].concat();
            let off = difference(&found, &case.logits);
            assert!(off <= TOLERANCE, "{}, {layout:?}: off by {off:e}", fixture.name);
            ran += 1;
        }
    }
    assert!(ran >= 40, "only {ran} ran");
}

/// Caches of fewer bits lose what those bits hold.
#[test]
fn caches_of_fewer_bits() {
    let path = fixtures().into_iter().find(|path| path.ends_with("llama-tied-biases")).unwrap();
    let fixture = Fixture::read(&path);
    let bounds = [
        (CacheType::F32, 1e-7, 2e-4),
        (CacheType::F16, 1e-5, 5e-3),
        (CacheType::Bf16, 1e-4, 5e-2),
        (CacheType::Int8, 1e-4, 1e-1),
    ];
    for (cache, least, most) in bounds {
        let off = check(&fixture, cache, Mode::Rounded);
        println!("{cache:?} {off:.1e}");
        assert!((least..most).contains(&off), "{cache:?}: off by {off:e}");
    }
    let program = fixture.program(Layout::Paged(CacheType::Int8)).unwrap();
    let states: Vec<String> = program.states.iter().map(|(name, ty)| format!("{name} {ty}")).take(4).collect();
    assert_eq!(
        states,
        [
            "model.layers.0.self_attn.k i8[page_count, 64, 2, 10]",
            "model.layers.0.self_attn.k_scale f32[page_count, 64, 2]",
            "model.layers.0.self_attn.v i8[page_count, 64, 2, 10]",
            "model.layers.0.self_attn.v_scale f32[page_count, 64, 2]",
        ]
    );
}

fn config(fields: &str) -> Config {
    crate::config::parse_str(&format!("{{{fields}}}"), Path::new("m/config.json")).unwrap()
}

fn paged(config: &Config) -> Result<Traced, FamilyError> {
    trace(config, Head::CausalLm, &Options { layout: Layout::Paged(CacheType::F32), ..Options::default() })
}

/// ROPE-13, CFG-20: what positions cannot be made of names the field.
#[test]
fn fields_that_do_not_fit_are_named() {
    let llama = r#""model_type": "llama", "num_hidden_layers": 1, "head_dim": 8"#;
    let rope = |fields: &str| format!(r#"{llama}, "rope_parameters": {{{fields}}}"#);
    let cases = [
        (rope(r#""rope_type": "spiral""#), "field `rope_parameters.rope_type`: expected default, linear"),
        (format!(r#"{llama}, "rope_scaling": {{"type": 3}}"#), "field `rope_scaling.type`: expected string, found 3"),
        (rope(r#""rope_type": "linear""#), "field `rope_parameters.factor`: expected number, found nothing"),
        (rope(r#""rope_type": "dynamic", "factor": "2""#), "field `rope_parameters.factor`: expected number"),
        (rope(r#""rope_type": "linear", "factor": 0"#), "field `rope_parameters.factor`: expected positive number"),
        (
            rope(r#""rope_type": "llama3", "factor": 8, "low_freq_factor": 1"#),
            "field `rope_parameters.high_freq_factor`",
        ),
        (
            rope(r#""rope_type": "yarn", "factor": 4, "truncate": 1"#),
            "field `rope_parameters.truncate`: expected boolean",
        ),
        (rope(r#""rope_type": "longrope", "factor": 4"#), "field `rope_parameters.short_factor`: expected list of 4"),
        (
            rope(r#""rope_type": "longrope", "factor": 4, "short_factor": [1, 2, 3]"#),
            "field `rope_parameters.short_factor`: expected list of 4 positive numbers, found 3 items",
        ),
        (rope(r#""rope_theta": -1"#), "field `rope_parameters.rope_theta`: expected number above 1"),
        (
            rope(r#""partial_rotary_factor": 1.5"#),
            "field `rope_parameters.partial_rotary_factor`: expected number from",
        ),
        (rope(r#""partial_rotary_factor": 0.4"#), "expected an even number of turned features, found 3"),
        (format!(r#"{llama}, "num_key_value_heads": 0"#), "field `num_key_value_heads`: expected positive"),
        (
            r#""model_type": "llama", "hidden_size": 10, "num_attention_heads": 3"#.into(),
            "field `num_attention_heads`: expected a divisor of hidden_size 10",
        ),
        (
            r#""model_type": "gemma2", "num_hidden_layers": 2, "layer_types": ["full_attention"]"#.into(),
            "field `layer_types`: expected 2 items",
        ),
        (
            r#""model_type": "gemma2", "num_hidden_layers": 1, "layer_types": ["conv"]"#.into(),
            "field `layer_types`: expected full_attention or sliding_attention, found \"conv\"",
        ),
        (
            r#""model_type": "smollm3", "num_hidden_layers": 2, "no_rope_layers": [1]"#.into(),
            "field `no_rope_layers`: expected 2 items",
        ),
        (
            r#""model_type": "falcon", "alibi": true, "hidden_size": 1000000, "num_attention_heads": 1000000"#.into(),
            "field `num_attention_heads`: expected at most 65536 heads",
        ),
        (r#""model_type": "llama", "head_dim": 1000000000"#.into(), "field `head_dim`: expected at most 65536 heads"),
        (r#""model_type": "gpt2", "add_cross_attention": true"#.into(), "field `add_cross_attention`: expected false"),
    ];
    for (fields, expected) in cases {
        let error = paged(&config(&fields)).unwrap_err().to_string();
        assert!(error.starts_with("m/config.json: ") && error.contains(expected), "{error}, expected {expected}");
    }
    // Heads that do not divide, and encoders, whose tokens see what comes after them.
    let uneven = format!(r#"{llama}, "num_attention_heads": 3, "num_key_value_heads": 2"#);
    assert!(paged(&config(&uneven)).unwrap_err().to_string().contains("3 heads over 2 key heads"));
    let bert = config(r#""model_type": "bert", "num_hidden_layers": 1"#);
    let layout = Layout::Paged(CacheType::F32);
    let error = trace(&bert, Head::Base, &Options { layout, ..Options::default() }).unwrap_err().to_string();
    assert!(error.contains("the paged layout is for causal attention"), "{error}");
}

/// CFG-05, CFG-22: layers with and without a window.
#[test]
fn windows_of_layers() {
    let windows = |fields: &str| {
        let fields = format!(
            r#"{fields}, "sliding_window": 9, "hidden_size": 8, "num_attention_heads": 2, "head_dim": 4,
            "num_key_value_heads": 1, "num_hidden_layers": 4"#
        );
        let program = paged(&config(&fields)).unwrap().program;
        let nodes: Vec<_> = program.entries[ENTRY].petgraph().node_weights().collect();
        let window = |i: usize| {
            let path = format!("model.layers.{i}.self_attn");
            nodes.iter().find_map(|node| match node.op {
                Op::PagedAttention { window, .. } if *node.path == *path => Some(window),
                _ => None,
            })
        };
        [0, 1, 2, 3].map(|i| window(i).unwrap())
    };
    assert_eq!(windows(r#""model_type": "mistral""#), [9; 4]);
    let some = r#""layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]"#;
    assert_eq!(windows(&format!(r#""model_type": "mistral", {some}"#)), [0, 9, 9, 0]);
    assert_eq!(windows(r#""model_type": "qwen2""#), [0; 4]);
    let qwen = r#""model_type": "qwen3", "use_sliding_window": true, "max_window_layers": 2"#;
    assert_eq!(windows(qwen), [0, 0, 9, 9]);
    assert_eq!(windows(r#""model_type": "gemma2""#), [9, 0, 9, 0]);
    assert_eq!(windows(r#""model_type": "gemma3_text", "sliding_window_pattern": 3"#), [9, 9, 0, 9]);
}

/// What callers of a decoder's program rely on.
#[test]
fn the_form_of_a_decoder() {
    let fields = r#""model_type": "llama", "num_hidden_layers": 2, "hidden_size": 24, "num_attention_heads": 4,
        "intermediate_size": 8, "vocab_size": 10, "max_position_embeddings": 100, "tie_word_embeddings": true"#;
    let traced = paged(&config(fields)).unwrap();
    assert_eq!(traced.max_length, 100);
    let graph = &traced.program.entries[ENTRY];
    let arguments: Vec<String> = graph
        .args()
        .into_iter()
        .map(|id| match &graph.node(id).op {
            Op::Arg { name, ty, .. } => format!("{name} {ty}"),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = ["input_ids i32[tokens]", "offsets i32[sequences + 1]", "past i32[sequences]"];
    assert_eq!(arguments[..3], expected);
    assert_eq!(arguments[3..], ["pages i32[sequences, table]", "outputs i32[outputs]"]);
    let results: Vec<String> = graph.results().iter().map(|(name, v)| format!("{name} {}", graph.ty(*v))).collect();
    assert_eq!(results, ["logits f32[outputs, 10]", "hidden_states f32[outputs, 24]"]);
    assert_eq!(traced.program.states.len(), 4);
    // One table for embedding and output, and what all layers share stands in none of them.
    assert!(!traced.program.params.contains_key("lm_head.weight"));
    let count = |name: &str, path: &str| {
        graph.petgraph().node_weights().filter(|node| node.op.name() == name && node.path.starts_with(path)).count()
    };
    assert_eq!((count("segment_ids", ""), count("segment_ids", "model.layers")), (1, 0));
    assert_eq!((count("cache_append", ""), count("state_write", "model.layers.1.self_attn")), (4, 2));
    assert_eq!((count("rope", "model.layers.0"), count("unary", "model.layers")), (2, 0));
}

/// Wholes of another shape than their pieces say, and wholes that are not there.
#[test]
fn misshaped_fused_weights() {
    let path = fixtures().into_iter().find(|path| path.ends_with("phi3")).unwrap();
    let source = Source::folder_at(&path);
    let mut config = Config::load(&source).unwrap();
    assert!(config.set("num_key_value_heads=4").unwrap());
    let traced = paged(&config).unwrap();
    let refused = |source: &Source, part: &Part| {
        let checkpoint = crate::checkpoint::Checkpoint::open(source, &Default::default()).unwrap();
        crate::weights::resolve(checkpoint, &part.wanted, &part.rules, &Default::default()).unwrap_err()
    };
    let error = refused(&source, &traced.parts[0]);
    assert_eq!(error.mismatched.len(), 9, "{error}");
    assert_eq!((&error.mismatched[0].stored[..], &error.mismatched[0].wanted[..]), (&[48, 24][..], &[72, 24][..]));
    let other = Source::folder_at(path.with_file_name("gpt2"));
    let error = refused(&other, &traced.parts[0]);
    assert!(error.missing.iter().any(|name| name == "model.layers.0.self_attn.k_proj.weight"), "{error}");
}
