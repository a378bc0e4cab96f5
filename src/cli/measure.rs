//! `lith bench` and `lith verify`.

use std::path::Path;

use lith_ir::plan::PAGE_TOKENS;
use lith_runtime::generation::LanguageModel;
use lith_runtime::model::{CacheSize, CompiledLanguageModel, CompiledModel, ENTRY, model_info};
use lith_runtime::pipelines::TokenModel;
use lith_runtime::program::Program;
use lith_runtime::training::compiled::{CompiledTraining, Hyperparameters};

use super::args::{Bench, Verify};
use super::print;
use super::progress::Progress;
use crate::bench::language::{Job, Traffic, measure_language};
use crate::bench::program::{measure_worth, read_program};
use crate::bench::{MIXED, Shape, calibrate, measure};
use crate::error::{Error, Result};
use crate::inspect::flops::flops;
use crate::verify::{program_of, verify as compare};

pub fn bench(args: &Bench) -> Result<()> {
    let parse = |s: &String| s.parse::<Shape>().map_err(Error::input);
    let mut shapes: Vec<(String, Vec<usize>)> =
        args.shapes.iter().map(|s| Ok((s.clone(), parse(s)?.lengths()))).collect::<Result<_>>()?;
    if args.mixed {
        shapes.push(("mixed".into(), MIXED.to_vec()));
    }
    lith_runtime::kernels::select(lith_runtime::env::isa().as_deref()).map_err(Error::input)?;
    if args.pin || lith_runtime::env::pin() {
        lith_runtime::threads::pin();
    }
    let Some(artifact) = &args.artifact else { return calibrate(args) };
    if super::is_text_program(artifact) {
        return bench_text(args, Path::new(artifact));
    }
    if args.train {
        return bench_training(args, artifact, shapes);
    }
    let path = super::run::artifact_of(artifact, &args.from)?;
    let mut programs = Vec::new();
    for path in std::iter::once(&path).chain(&args.against) {
        programs.push(Program::open(path, args.threads).map_err(Error::input)?);
    }
    programs[0].set_profiling(args.profile);
    if programs[0].manifest().cache.is_some() {
        if args.mixed || !args.shapes.is_empty() {
            return Err(Error::input(
                "--mixed and --shape are for encoders; language models have --prefill, --decode, --batch",
            ));
        }
        return bench_language(args, programs);
    }
    if shapes.is_empty() {
        shapes.push(("8x128".into(), vec![128; 8]));
    }
    let models: Vec<CompiledModel> =
        programs.into_iter().map(|p| CompiledModel::new(p).map_err(Error::input)).collect::<Result<_>>()?;
    let mut measured = Vec::new();
    for model in &models {
        let program = program_of(model.program().artifact())?;
        let entry = program.entries.get(ENTRY).ok_or_else(|| Error::input(format!("no entry point `{ENTRY}`")))?;
        measured.push((model.program(), flops(&program, entry)));
    }
    let limit = models.iter().filter_map(|m| m.info().max_positions).min().unwrap_or(usize::MAX);
    let vocabulary = models.iter().map(|m| m.info().vocab_size).min().unwrap_or(0);
    for (shape, lengths) in shapes {
        if lengths.iter().any(|&length| length > limit) {
            return Err(Error::input(format!("shape {shape}: the model takes at most {limit} tokens")));
        }
        for found in measure(&measured, &shape, &lengths, vocabulary)? {
            if args.json {
                print_json(&found, models[0].program(), args.profile)?;
            } else {
                print(&format!(
                    "{:>8}  {} threads  {:9.3} ms  {:10.0} tokens/s  {:7.1} GFLOP/s\n",
                    found.shape, found.threads, found.median_ms, found.tokens_per_s, found.gflops_per_s
                ))?;
                print_profile(models[0].program(), args.profile)?;
            }
        }
    }
    Ok(())
}

/// Steps of training of a model.
fn bench_training(args: &Bench, model: &str, mut shapes: Vec<(String, Vec<usize>)>) -> Result<()> {
    if shapes.is_empty() {
        shapes.push(("8x128".into(), vec![128; 8]));
    }
    let mut from = args.from.options()?;
    crate::train::to_train(&mut from);
    let model = crate::model::Model::open(model, &from)?;
    let (vocabulary, labels) = (model.info.vocab_size, model.info.id2label.len());
    let progress = Progress::new(args.json);
    let mut options = args.from.compile_options()?;
    options.activation_memory = args.activation_checkpointing.then_some(0);
    let (path, _) = crate::compile::cached(model, &from, &options, &|s| progress.say(s))?;
    drop(progress);
    for (shape, lengths) in shapes {
        let program = Program::open(&path, args.threads).map_err(Error::failure)?;
        program.set_profiling(args.profile);
        let training = CompiledTraining::new(program, Hyperparameters::default()).map_err(Error::failure)?;
        let found = crate::bench::train::measure(&training, &shape, &lengths, vocabulary, labels)?;
        if args.json {
            print_json(&found, training.program(), args.profile)?;
            continue;
        }
        print(&format!(
            "{:>8}  {} threads  {:9.3} steps/s  {:8.1} MB at most\n",
            found.shape, found.threads, found.steps_per_s, found.peak_mb
        ))?;
        print_profile(training.program(), args.profile)?;
    }
    Ok(())
}

/// A program in text form, with and without saturation.
fn bench_text(args: &Bench, path: &Path) -> Result<()> {
    if args.profile || args.against.is_some() || args.mixed || !args.shapes.is_empty() {
        return Err(Error::input("--profile, --against, --mixed and --shape are for models, not for text programs"));
    }
    let options = args.from.compile_options()?.of_passes();
    for found in measure_worth(&read_program(path)?, &options, args.threads)? {
        if args.json {
            print(&(serde_json::to_string(&found).map_err(Error::failure)? + "\n"))?;
            continue;
        }
        print(&format!(
            "{}  {} threads  without saturation {:10.1} us (estimated {:10.1})  with it {:10.1} us (estimated {:10.1})\n",
            found.entry,
            found.threads,
            found.measured_before_us,
            found.estimated_before_us,
            found.measured_after_us,
            found.estimated_after_us
        ))?;
    }
    Ok(())
}

fn calibrate(args: &Bench) -> Result<()> {
    let progress = Progress::new(args.json);
    let profile = calibrate::calibrate(args.threads, &|what| progress.say(what))?;
    drop(progress);
    if let Some(path) = &args.output {
        calibrate::write_profile(&profile, path)?;
    }
    if args.json || args.output.is_none() {
        return print(&(serde_json::to_string(&profile).map_err(Error::failure)? + "\n"));
    }
    print(&format!(
        "{}: each thread {:.3} GFLOP/s, {:.3} GB/s, {:.3} G elements/s; {:.3} us to start a kernel\n",
        profile.name,
        profile.flops_per_second / 1e9,
        profile.bytes_per_second / 1e9,
        profile.elements_per_second / 1e9,
        profile.launch_us
    ))
}

/// Rounds of a language model's measurement; the median counts.
const ROUNDS: usize = 5;

fn bench_language(args: &Bench, programs: Vec<Program>) -> Result<()> {
    let job = Job { prefill: args.prefill, decode: args.decode, batch: args.batch };
    if job.prefill == 0 || job.decode == 0 || job.batch == 0 {
        return Err(Error::input("--prefill, --decode and --batch are at least 1"));
    }
    let tokens = (job.prefill + job.decode).next_multiple_of(PAGE_TOKENS).saturating_mul(job.batch);
    let mut models = Vec::new();
    for program in programs {
        let traffic = Traffic::of(&program_of(program.artifact())?, program.manifest());
        let model = CompiledLanguageModel::new(program, CacheSize::Tokens(tokens)).map_err(Error::input)?;
        let limit = model.info().max_positions.unwrap_or(usize::MAX);
        if job.prefill + job.decode > limit {
            return Err(Error::input(format!("--prefill and --decode: the model takes at most {limit} tokens")));
        }
        models.push((model, traffic));
    }
    let threads = models[0].0.program().threads();
    let mut measured: Vec<(&mut dyn LanguageModel, Traffic)> = Vec::new();
    for (model, traffic) in &mut models {
        measured.push((model, *traffic));
    }
    for found in measure_language(&mut measured, job, threads, ROUNDS)? {
        let program = models[0].0.program();
        if args.json {
            print_json(&found, program, args.profile)?;
            continue;
        }
        print(&format!(
            "prefill {:>5} x {}  {} threads  {:9.1} tokens/s\ndecode  {:>5} x {}  {} threads  {:9.1} tokens/s\n\
             {:.1} MB a token at {:.1} of {:.1} GB/s: {:.0} % of the memory roof\n",
            found.prefill,
            found.batch,
            found.threads,
            found.prefill_tokens_per_s,
            found.decode,
            found.batch,
            found.threads,
            found.decode_tokens_per_s,
            found.bytes_per_token / 1e6,
            found.decode_tokens_per_s * found.bytes_per_token / 1e9,
            found.memory_bytes_per_s / 1e9,
            found.memory_roof_share * 100.0,
        ))?;
        print_profile(program, args.profile)?;
    }
    Ok(())
}

/// A measurement as a line of JSON, with the kernels' times where they were taken.
fn print_json(found: &impl serde::Serialize, program: &Program, profile: bool) -> Result<()> {
    let mut json = serde_json::to_value(found).map_err(Error::failure)?;
    if profile {
        let times = program.take_profile().into_iter().map(
            |k| serde_json::json!({"kernel": k.name, "kind": k.kind, "calls": k.calls, "nanoseconds": k.nanoseconds}),
        );
        json["kernels"] = times.collect();
    }
    print(&format!("{json}\n"))
}

fn print_profile(program: &Program, profile: bool) -> Result<()> {
    if !profile {
        return Ok(());
    }
    let mut times = program.take_profile();
    times.sort_by_key(|k| std::cmp::Reverse(k.nanoseconds));
    let total: u64 = times.iter().map(|k| k.nanoseconds).sum();
    for k in times.iter().filter(|k| k.calls > 0) {
        let share = 100.0 * k.nanoseconds as f64 / total.max(1) as f64;
        let (each, ms) = (k.nanoseconds as f64 / k.calls as f64 / 1e3, k.nanoseconds as f64 / 1e6);
        print(&format!("{share:5.1} %  {ms:9.1} ms  {:>8} x {each:9.1} us  {:<14}  {}\n", k.calls, k.kind, k.name))?;
    }
    Ok(())
}

pub fn verify(args: &Verify) -> Result<()> {
    let program = Program::open(&args.artifact, args.threads).map_err(Error::input)?;
    let info = model_info(program.artifact()).map_err(Error::input)?;
    let found = compare(&program, args.batches, info.vocab_size, args.seed)?;
    for d in &found {
        if args.json {
            print(&(serde_json::to_string(d).map_err(Error::failure)? + "\n"))?;
        } else {
            print(&format!(
                "{:<20} lengths {:?}: largest difference {:.3e}, relative {:.3e}\n",
                d.result, d.lengths, d.absolute, d.relative
            ))?;
        }
    }
    let tolerance = match args.tolerance {
        Some(tolerance) => tolerance,
        // A code may fall to either side of a tie.
        None => match fewest_levels(&program_of(program.artifact())?) {
            None => 1e-4,
            Some(levels) => (12.7 / levels as f64).max(1e-4),
        },
    };
    match found.iter().find(|d| d.relative.is_nan() || d.relative > tolerance) {
        None => Ok(()),
        Some(d) => Err(Error::failure(format!(
            "`{}` differs from the interpreter by {:.3e} relative, more than {:.1e}",
            d.result, d.relative, tolerance
        ))),
    }
}

/// The fewest levels that a program rounds activations to, if it does.
fn fewest_levels(program: &lith_ir::Program) -> Option<usize> {
    let nodes = program.graphs().flat_map(|(_, graph)| graph.petgraph().node_weights());
    let levels = |node: &lith_ir::Node| match node.op {
        lith_ir::Op::DynamicQuantize { levels, .. } => Some(levels),
        _ => None,
    };
    nodes.filter_map(levels).min()
}
