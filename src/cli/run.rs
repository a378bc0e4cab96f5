//! `lith run`: a model, artifact or executable answers. A model is compiled into the cache first.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, FromArgMatches};
use lith_runtime::artifact::Artifact;
use lith_runtime::command::{self, RunCommandError};
use lith_runtime::pipelines::Task;

use super::args::{ModelArgs, Run};
use super::finish;
use super::progress::Progress;
use crate::error::{Error, Result};

/// The full `run` command: model options and the arguments of every task.
pub fn command() -> clap::Command {
    let base = clap::Command::new("run")
        .bin_name("lith run")
        .arg(clap::Arg::new("model").required(true).help("Directory, hub id, bundled model, artifact or executable"));
    // The description comes last: the model options bring one of their own.
    ModelArgs::augment_args(command::with_arguments(base, None))
        .about("Run a model, an artifact or an executable on inputs")
}

pub fn run(args: &Run) -> ExitCode {
    let matches =
        match command().try_get_matches_from(std::iter::once("run".to_string()).chain(args.rest.iter().cloned())) {
            Ok(matches) => matches,
            Err(e) => {
                let _ = e.print();
                let fine = matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
                return if fine { ExitCode::SUCCESS } else { ExitCode::from(2) };
            }
        };
    let prepared = ModelArgs::from_arg_matches(&matches).map_err(Error::input).and_then(|from| {
        let model = matches.get_one::<String>("model").cloned().unwrap_or_default();
        let task = from.task.as_ref().map(|t| t.parse::<Task>().map_err(Error::input)).transpose()?;
        Ok((artifact_of(&model, &from)?, task))
    });
    let (path, task) = match prepared {
        Ok(found) => found,
        Err(e) => return finish(Err(e)),
    };
    let artifact = Artifact::open(&path).map_err(|e| RunCommandError::Open(e.into()));
    command::finish(artifact.and_then(|artifact| command::run(artifact, task, &matches)))
}

/// The artifact of a model, compiled into the cache when it is not there; an artifact or executable is its own.
pub fn artifact_of(model: &str, from: &ModelArgs) -> Result<PathBuf> {
    let path = Path::new(model);
    if crate::executable::holds_artifact(path)? {
        return Ok(path.into());
    }
    let progress = Progress::new(false);
    let options = from.compile_options()?;
    let (path, warnings) = crate::compile::compile_cached(model, &from.options()?, &options, &|s| progress.say(s))?;
    drop(progress);
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    Ok(path)
}
