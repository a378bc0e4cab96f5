//! `lith compile`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use lith_passes::Stage;

use super::args::{Compile, Emit};
use super::print;
use super::progress::Progress;
use crate::cache::write_atomic;
use crate::compile::{Compilation, prepare};
use crate::error::{Error, Result};
use crate::model::Model;

pub fn compile(args: &Compile) -> Result<()> {
    let options = args.from.compile_options()?;
    let stop_after = args.stop_after.as_deref().map(stage).transpose()?;
    if stop_after.is_some() && args.emit != Emit::Ir {
        return Err(Error::input("--stop-after stops before there is code: it goes with --emit ir"));
    }
    let start = Instant::now();
    let progress = Progress::new(args.quiet);
    progress.say("reading the model");
    let model = Model::open(&args.model, &args.from.options()?)?;
    let warnings = model.warnings.clone();
    progress.say("compiling");
    let compilation = prepare(model, &options, stop_after)?;
    let output = args.output.clone().unwrap_or_else(|| default_output(&args.model, args.emit));
    match text_form(&compilation, args.emit)? {
        Some(text) if output.as_os_str() == "-" => print(&text)?,
        Some(text) => {
            write_atomic(&output, text.as_bytes()).map_err(|e| Error::input(format!("{}: {e}", output.display())))?
        }
        None if output.as_os_str() == "-" => {
            return Err(Error::input("-o -: executables and artifacts are not printed; name a file"));
        }
        None if args.emit == Emit::Exe => compilation.write_executable(&output)?,
        None => compilation.write_artifact(&output)?,
    }
    drop(progress);
    if args.quiet {
        return Ok(());
    }
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    if output.as_os_str() != "-" {
        let size = std::fs::metadata(&output).map_or(0, |m| m.len());
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

/// The text of the forms that are text; these are printed unless an output is named.
fn text_form(compilation: &Compilation, emit: Emit) -> Result<Option<String>> {
    Ok(match emit {
        Emit::Exe | Emit::Artifact => None,
        Emit::Ir => Some(lith_ir::text::print(&compilation.compiled.program)),
        Emit::Kernels => Some(compilation.plan_text()),
        Emit::Clif => Some(compilation.module()?.clif()),
        Emit::Asm => Some(compilation.module()?.asm()),
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
