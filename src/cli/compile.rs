//! `lith compile`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use lith_passes::{Stage, dump};

use super::args::{Compile, Emit};
use super::print;
use super::progress::Progress;
use crate::bench::program::read_program;
use crate::cache::write_atomic;
use crate::compile::{Compilation, CompileOptions, Timing, prepare};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::train::Learner;

pub fn compile(args: &Compile) -> Result<()> {
    let mut options = args.from.compile_options()?;
    options.activation_memory = args.activation_checkpointing.then_some(0);
    let stop_after = args.stop_after.as_deref().map(stage).transpose()?;
    if stop_after.is_some() && args.emit != Emit::Ir {
        return Err(Error::input("--stop-after stops before there is code: it goes with --emit ir"));
    }
    if super::is_text_program(&args.model) {
        return compile_text(args, &options, stop_after);
    }
    let start = Instant::now();
    let progress = Progress::new(args.quiet);
    progress.say("reading the model");
    let mut from = args.from.options()?;
    let output = args.output.clone().unwrap_or_else(|| default_output(&args.model, args.emit));
    let mut options = options;
    let lora = args.adapters.options()?;
    let learner = match (args.train, args.emit) {
        (false, _) if lora.is_some() => {
            return Err(Error::input(
                "--lora: adapters are trained; --adapter merges what was trained (or add --train)",
            ));
        }
        (false, _) => None,
        (true, Emit::Exe) if lora.is_some() => {
            return Err(Error::input(
                "--lora: an executable that learns has no adapters; --emit artifact, or lith train",
            ));
        }
        (true, Emit::Exe) => {
            progress.say("compiling the steps of training");
            Some(Learner::new(&args.model, &mut from, &options, &args.lesson.lesson()?, &output)?)
        }
        (true, _) => {
            let (training, optimizer) = args.lesson.lesson()?.settle(&args.model, &mut from)?;
            (from.training, from.lora, options.optimizer) = (Some(training), lora, optimizer);
            None
        }
    };
    let model = Model::open(&args.model, &from)?;
    let warnings = model.warnings.clone();
    let mut timings = Timings(vec![("read".into(), start.elapsed())]);
    progress.say("compiling");
    let compilation = prepare(model, &options, stop_after)?;
    let stages = compilation.compiled.timings.iter();
    timings.0.extend(stages.map(|(stage, time)| (stage.name().to_string(), *time)));
    let printed = output.as_os_str() == "-";
    let is_text = !matches!(args.emit, Emit::Exe | Emit::Artifact);
    if printed && args.json {
        return Err(Error::input("--json prints to where the output goes; name a file with -o"));
    }
    if printed && !is_text {
        return Err(Error::input("-o -: executables and artifacts are not printed; name a file"));
    }
    let last = Instant::now();
    match args.emit {
        Emit::Exe => timings.0.extend(compilation.write_executable(&output, learner.as_ref())?),
        Emit::Artifact => timings.0.extend(compilation.write_artifact(&output)?),
        emit => {
            let text = text_form(&compilation, emit)?;
            match printed {
                true => print(&text)?,
                false => write_text(&output, &text)?,
            }
            timings.0.push(("print".into(), last.elapsed()));
        }
    }
    drop(progress);
    let size = std::fs::metadata(&output).map_or(0, |m| m.len());
    if args.json {
        let saturation = &compilation.compiled.saturation;
        let (before, after) = saturation.total_us();
        let told = serde_json::json!({
            "output": output.display().to_string(),
            "kind": what(args.emit),
            "task": compilation.model.info.task.to_string(),
            "bytes": size,
            "seconds": start.elapsed().as_secs_f64(),
            "timings_ms": timings.json(),
            "cost_before_us": before,
            "cost_after_us": after,
            "graphs": saturation.graphs,
        });
        print(&format!("{told}\n"))?;
    }
    if args.quiet {
        return Ok(());
    }
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    if args.timings {
        eprint!("{}", timings.text());
    }
    if !printed {
        eprintln!(
            "{}: {} for {}, {:.1} MB, in {:.2} s",
            output.display(),
            what(args.emit),
            compilation.model.info.task,
            size as f64 / 1e6,
            start.elapsed().as_secs_f64()
        );
    }
    Ok(())
}

/// A program in text form, which has no weights: its forms that are text.
fn compile_text(args: &Compile, options: &CompileOptions, stop_after: Option<Stage>) -> Result<()> {
    let program = read_program(Path::new(&args.model))?;
    let options = lith_passes::Options { stop_after, ..options.of_passes() };
    let compiled = lith_passes::run(program, &options).map_err(Error::failure)?;
    let text = match args.emit {
        Emit::Ir => lith_ir::text::print(&compiled.program),
        Emit::Kernels => dump::kernels(&compiled),
        _ => return Err(Error::input("a program in text form has no weights: --emit ir or --emit kernels")),
    };
    let output = args.output.as_deref().filter(|o| o.as_os_str() != "-");
    match output {
        Some(path) => write_text(path, &text)?,
        None if args.json => {}
        None => print(&text)?,
    }
    if args.json {
        let (before, after) = compiled.saturation.total_us();
        let told = serde_json::json!({
            "cost_before_us": before,
            "cost_after_us": after,
            "graphs": compiled.saturation.graphs,
            "rewrites": compiled.saturation.rewrites,
        });
        print(&format!("{told}\n"))?;
    }
    Ok(())
}

fn write_text(path: &Path, text: &str) -> Result<()> {
    write_atomic(path, text.as_bytes()).map_err(|e| Error::input(format!("{}: {e}", path.display())))
}

/// How long each stage took, in order.
struct Timings(Vec<Timing>);

impl Timings {
    fn milliseconds(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(stage, time)| (stage.as_str(), time.as_secs_f64() * 1e3))
    }

    fn text(&self) -> String {
        self.milliseconds().map(|(stage, ms)| format!("{ms:10.2} ms  {stage}\n")).collect()
    }

    fn json(&self) -> serde_json::Value {
        self.milliseconds().map(|(stage, ms)| (stage.to_string(), ms)).collect()
    }
}

fn stage(name: &str) -> Result<Stage> {
    Stage::from_name(name).ok_or_else(|| {
        let known: Vec<&str> = Stage::ALL.iter().map(|s| s.name()).collect();
        Error::input(format!("--stop-after {name}: no such stage; stages are {}", known.join(", ")))
    })
}

fn what(emit: Emit) -> &'static str {
    match emit {
        Emit::Exe => "executable",
        Emit::Artifact => "artifact",
        Emit::Ir => "graph",
        Emit::Kernels => "kernels",
        Emit::Clif => "Cranelift IR",
        Emit::Asm => "disassembly",
    }
}

/// The text of the forms that are text; empty for others.
fn text_form(compilation: &Compilation, emit: Emit) -> Result<String> {
    Ok(match emit {
        Emit::Exe | Emit::Artifact => String::new(),
        Emit::Ir => lith_ir::text::print(&compilation.compiled.program),
        Emit::Kernels => compilation.plan_text(),
        Emit::Clif => compilation.module()?.clif(),
        Emit::Asm => compilation.module()?.asm(),
    })
}

/// Named after the model: its last path component without revision.
fn default_output(model: &str, emit: Emit) -> PathBuf {
    let name = Path::new(model).file_name().map_or("model".into(), |n| n.to_string_lossy().into_owned());
    let name = name.split('@').next().unwrap_or_default().to_string();
    match emit {
        // The model's own directory is often right here: the executable must not be in its way.
        Emit::Exe if Path::new(&name).is_dir() => format!("{name}-exe").into(),
        Emit::Exe => name.into(),
        Emit::Artifact => format!("{name}.lith").into(),
        Emit::Ir | Emit::Kernels | Emit::Clif | Emit::Asm => "-".into(),
    }
}
