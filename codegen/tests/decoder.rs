//! A decoder over a paged cache, compiled, against the interpreter: prefill, decoding, sequences of all kinds in one call;
//! and bits that do not depend on how sequences are cut into calls, who else is in a call, which pages they have, or how
//! many threads there are.

mod support;

use lith_frontend::CacheType;
use lith_ir::testing::Rng;
use lith_passes::quantize::SCHEMES;
use lith_runtime::cache::PagePool;
use lith_runtime::program::{CallError, Program};
use support::decoder::{Call, Decoder, Form, LAYERS, Reference, Sequences, VOCABULARY, run};
use support::planned;

const PAGES: usize = 9;

fn tokens(n: usize, seed: u64) -> Vec<i32> {
    let mut rng = Rng::new(seed);
    (0..n).map(|_| rng.below(VOCABULARY) as i32).collect()
}

/// Calls of a few sequences: prefill over a border of pages, decoding, a guess of three tokens beside a new prompt.
fn calls() -> Vec<Call> {
    let mut s = Sequences::new(&[&[5, 2, 7], &[3], &[6, 0]]);
    let [a, b, c] = [(80, 1), (9, 2), (66, 3)].map(|(n, seed)| tokens(n, seed));
    let steps: [&[(usize, &[i32])]; 4] = [
        &[(0, &a[..70]), (1, &b[..5])],
        &[(1, &b[5..6]), (0, &a[70..71])],
        &[(0, &a[71..74]), (2, &c[..65]), (1, &b[6..7])],
        &[(2, &c[65..])],
    ];
    steps.iter().map(|new| s.call(new)).collect()
}

/// For each row of logits of all calls its greatest distance from the interpreter, relative to the greatest logit of the
/// call; ascending.
fn distances(form: &Form) -> Vec<f64> {
    let decoder = Decoder::new(form);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("decoder.lith");
    decoder.write(&path).unwrap_or_else(|e| panic!("{form:?}: {e}"));
    let program = Program::open(&path, 2).unwrap();
    let mut pool = program.page_pool(PAGES).unwrap();
    let mut reference = Reference::new(&decoder, PAGES);
    let mut distances = Vec::new();
    for call in calls() {
        let (found, expected) = (run(&program, &mut pool, &call), reference.run(&call));
        assert_eq!(found.len(), expected.len());
        let scale = expected.iter().fold(0f64, |a, v| a.max(v.abs()));
        assert!(scale > 0.1 && scale.is_finite(), "{form:?}: {scale}");
        assert!(found.iter().all(|f| f.is_finite()), "{form:?}");
        for (found, expected) in found.chunks(VOCABULARY).zip(expected.chunks(VOCABULARY)) {
            let gap = |(f, e): (&f32, &f64)| (f64::from(*f) - e).abs() / scale;
            distances.push(found.iter().zip(expected).map(gap).fold(0.0, f64::max));
        }
    }
    distances.sort_by(f64::total_cmp);
    distances
}

fn distance(form: &Form) -> f64 {
    distances(form).last().copied().unwrap_or(0.0)
}

#[test]
fn plain_caches_of_every_type_agree_with_the_interpreter() {
    // Where elements of the cache are rounded, some may be rounded to the other side.
    for (cache, tolerance) in
        [(CacheType::F32, 1e-5), (CacheType::F16, 1e-3), (CacheType::Bf16, 1e-2), (CacheType::Int8, 1e-2)]
    {
        let found = distance(&Form { cache, ..Form::default() });
        assert!(found <= tolerance, "{cache:?}: {found:e}");
    }
}

#[test]
fn attention_of_every_kind_agrees_with_the_interpreter() {
    let forms = [
        Form { heads: 4, kv_heads: 4, interleaved: true, ..Form::default() },
        Form { heads: 6, kv_heads: 1, ..Form::default() },
        Form { window: 7, ..Form::default() },
        Form { window: 65, softcap: 5.0, ..Form::default() },
        Form { slopes: true, ..Form::default() },
        Form { slopes: true, window: 20, softcap: 8.0, cache: CacheType::Int8, ..Form::default() },
    ];
    for form in forms {
        let tolerance = if form.cache == CacheType::F32 { 1e-5 } else { 1e-2 };
        let found = distance(&form);
        assert!(found <= tolerance, "{form:?}: {found:e}");
    }
}

#[test]
fn quantized_weights_agree_with_what_their_codes_stand_for() {
    let schemes: Vec<_> = SCHEMES.iter().map(|(_, scheme)| *scheme).collect();
    for schemes in [vec![schemes[1]], schemes.clone(), schemes.into_iter().rev().collect()] {
        let form = Form { schemes, ..Form::default() };
        let found = distance(&form);
        assert!(found <= 1e-5, "{form:?}: {found:e}");
    }
}

#[test]
fn eight_bit_activations_agree_with_the_interpreter() {
    let schemes: Vec<_> = SCHEMES.iter().map(|(_, scheme)| *scheme).collect();
    for schemes in [vec![schemes[1]], vec![schemes[2]], schemes, Vec::new()] {
        let form = Form { schemes, activations: true, ..Form::default() };
        // An activation at the border of two codes may get the other one, and what comes of it differs by that.
        let found = distances(&form);
        let (median, worst) = (found[found.len() / 2], found[found.len() - 1]);
        assert!(median <= 1e-5 && worst <= 5e-2, "{form:?}: {median:e} {worst:e}");
    }
}

/// The logits of the tokens of one sequence, by position, from calls that bring them in some order.
struct Session<'a> {
    program: &'a Program,
    pool: PagePool,
    sequences: Sequences,
    logits: Vec<Vec<f32>>,
}

impl Session<'_> {
    fn new<'a>(program: &'a Program, pages: &[&[i32]]) -> Session<'a> {
        let pool = program.page_pool(PAGES).unwrap();
        Session { program, pool, sequences: Sequences::new(pages), logits: vec![Vec::new(); pages.len()] }
    }

    fn feed(&mut self, new: &[(usize, &[i32])]) {
        let call = self.sequences.call(new);
        let mut logits = run(self.program, &mut self.pool, &call);
        for &(s, tokens) in new {
            let rest = logits.split_off(tokens.len() * VOCABULARY);
            self.logits[s].extend(std::mem::replace(&mut logits, rest));
        }
    }
}

#[test]
fn bits_depend_on_the_sequence_alone() {
    let schemes: Vec<_> = SCHEMES.iter().map(|(_, scheme)| *scheme).collect();
    let forms = [
        Form::default(),
        Form { cache: CacheType::Int8, schemes: schemes.clone(), activations: true, ..Form::default() },
        Form { cache: CacheType::F16, window: 40, softcap: 6.0, slopes: true, schemes, ..Form::default() },
    ];
    let (a, b) = (tokens(90, 7), tokens(70, 8));
    for form in forms {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("decoder.lith");
        Decoder::new(&form).write(&path).unwrap();
        let programs = [1, 2, 3].map(|n| Program::open(&path, n).unwrap());
        let mut whole = Session::new(&programs[0], &[&[0, 1]]);
        whole.feed(&[(0, &a)]);
        let expected = &whole.logits[0];
        for program in &programs {
            let name = format!("{form:?} on {} threads", program.threads());
            let mut chunks = Session::new(program, &[&[8, 4]]);
            for part in [0..1, 1..33, 33..64, 64..65, 65..90] {
                chunks.feed(&[(0, &a[part])]);
            }
            assert!(chunks.logits[0] == *expected, "{name}: chunks");
            let mut steps = Session::new(program, &[&[3, 2, 1], &[6, 7]]);
            steps.feed(&[(1, &b[..40]), (0, &a[..60])]);
            for i in 0..30 {
                steps.feed(&[(0, &a[60 + i..61 + i]), (1, &b[40 + i..41 + i])]);
            }
            assert!(steps.logits[0] == *expected, "{name}: steps beside another sequence");
        }
    }
}

#[test]
fn a_call_that_would_leave_the_pool_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("decoder.lith");
    Decoder::new(&Form::default()).write(&path).unwrap();
    let program = Program::open(&path, 1).unwrap();
    let cache = program.manifest().cache.unwrap();
    // Three layers of keys and values of two heads of sixteen `f32`.
    assert_eq!((cache.page_tokens, cache.page_bytes), (64, LAYERS * 2 * 64 * 2 * 16 * 4));
    let mut pool = program.page_pool(PAGES).unwrap();
    let make = || Sequences::new(&[&[5, 2], &[3, 4]]).call(&[(0, &[1; 70]), (1, &[2; 3])]);
    let mut refused = |change: &dyn Fn(&mut Call), word: &str| {
        let mut call = make();
        change(&mut call);
        let error = program.run_cached("forward", &call.views(), &mut pool).unwrap_err();
        assert!(matches!(error, CallError::Argument { .. }) && error.to_string().contains(word), "{error}");
    };
    refused(&|c| c.values("pages")[1] = 9, "page 9 of sequence 0");
    refused(&|c| c.values("pages")[0] = -1, "page -1 of sequence 0");
    refused(&|c| c.values("pages")[2] = 2, "page 2 is written and used twice");
    refused(&|c| c.values("past")[1] = -1, "-1 tokens before");
    refused(&|c| c.values("past")[0] = 64, "tokens need 3");
    refused(&|c| c.values("past")[0] = i32::MAX, "tokens need");
    refused(&|c| c.values("offsets")[1] = 99, "offsets ascend");
    // What no token needs may be anything; ids and outputs are clamped.
    let mut call = make();
    call.values("pages")[3] = 77;
    call.values("input_ids")[0] = -5;
    call.values("outputs")[0] = i32::MAX;
    run(&program, &mut pool, &call);
    let error = program.run("forward", &make().views()).unwrap_err();
    assert!(error.to_string().contains("pool of pages"), "{error}");
    let mut other = PagePool::new(4, 64).unwrap();
    let error = program.run_cached("forward", &make().views(), &mut other).unwrap_err();
    assert!(error.to_string().contains("not one for this program"), "{error}");
}

#[test]
fn a_profile_counts_every_kernel() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("decoder.lith");
    Decoder::new(&Form::default()).write(&path).unwrap();
    let program = Program::open(&path, 2).unwrap();
    let mut pool = program.page_pool(PAGES).unwrap();
    assert!(program.take_profile().is_empty());
    program.set_profiling(true);
    for call in calls() {
        run(&program, &mut pool, &call);
    }
    let profile = program.take_profile();
    let calls_of = |kind: &str| profile.iter().filter(|t| t.kind == kind).map(|t| t.calls).sum::<u64>();
    assert_eq!(calls_of("attention"), 4 * LAYERS as u64, "{profile:?}");
    assert_eq!(calls_of("append"), 4 * 2 * LAYERS as u64, "{profile:?}");
    assert!(profile.iter().all(|t| t.nanoseconds > 0 && !t.name.is_empty()), "{profile:?}");
    assert!(program.take_profile().is_empty());
}

/// A parameter that is looked up by another axis than its rows cannot be codes.
#[test]
fn codes_where_rows_are_needed_are_refused_by_name() {
    use lith_codegen::{Target, WeightStorage, compile};
    use lith_ir::quant::Storage;
    use lith_ir::{Builder, DType, Graph, Type};
    let mut ir = lith_ir::Program::new("sum");
    let ty = Type::new(DType::F32, [4i64, 32]);
    ir.params.insert("layer.table".into(), ty.clone());
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, "");
    let x = b.arg("x", ty.clone()).unwrap();
    let table = b.param("layer.table", ty.clone()).unwrap();
    let y = b.add(x, table).unwrap();
    graph.add_result("y", y);
    ir.entries.insert("main".into(), graph);
    let (ir, plan) = planned(&ir, &lith_passes::Options::default());
    let by_param = [("layer.table".to_string(), Storage::Quantized(SCHEMES[1].1))].into();
    let storage = WeightStorage { default: DType::F32, by_param };
    let error = compile(&ir, &plan, &Target::new("native").unwrap(), &storage).err().expect("an error");
    assert!(error.to_string().contains("`layer.table`: is quantized"), "{error}");
}
