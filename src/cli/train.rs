//! `lith train`: a model learns from files of rows.

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, FromArgMatches};
use lith_runtime::command::StopOnSignal;
use lith_runtime::command::learn::{outcome_text, watchers};
use lith_runtime::command::train::{read, with_arguments};
use lith_runtime::training::arguments::TrainingArguments;

use super::args::{ModelArgs, Run};
use super::lora::LoraArgs;
use super::progress::Progress;
use super::{finish, print};
use crate::error::{Error, Result};
use crate::model::ModelOptions;
use crate::train::{Job, fine_tune};

/// The full `train` command: model options and the arguments of training.
pub fn command() -> clap::Command {
    let base = clap::Command::new("train")
        .bin_name("lith train")
        .arg(clap::Arg::new("model").required(true).help("Directory, hub id or bundled model"));
    let base = base.arg(
        clap::Arg::new("from_scratch")
            .long("from-scratch")
            .action(clap::ArgAction::SetTrue)
            .help("Draw all weights from the seed: only the configuration and the tokenizer of the model are read"),
    );
    // The description comes last: the model options bring one of their own.
    ModelArgs::augment_args(LoraArgs::augment_args(with_arguments(base)))
        .about("Train a model further on files of rows")
}

pub fn train(args: &Run) -> ExitCode {
    let given = std::iter::once("train".to_string()).chain(args.rest.iter().cloned());
    let matches = match command().try_get_matches_from(given) {
        Ok(matches) => matches,
        Err(e) => {
            let _ = e.print();
            let fine = matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return if fine { ExitCode::SUCCESS } else { ExitCode::from(2) };
        }
    };
    let signals = StopOnSignal::default();
    let done = run(&matches, &signals);
    let ended_by = signals.exit_code().filter(|_| done.is_err());
    let code = finish(done);
    ended_by.map_or(code, ExitCode::from)
}

fn run(matches: &clap::ArgMatches, signals: &StopOnSignal) -> Result<()> {
    let from = ModelArgs::from_arg_matches(matches).map_err(Error::input)?;
    let model = matches.get_one::<String>("model").cloned().unwrap_or_default();
    let command = read(matches, TrainingArguments::default()).map_err(Error::input)?;
    for note in &command.notes {
        eprintln!("note: {note}");
    }
    let json = command.json;
    let adapters = LoraArgs::from_arg_matches(matches).map_err(Error::input)?;
    let from_scratch = matches.get_flag("from_scratch");
    let options = ModelOptions { lora: adapters.options()?, from_scratch, ..from.options()? };
    if options.lora.is_some() && options.adapter.is_some() {
        return Err(Error::input("--lora with --adapter: adapters are trained beside the base model's own weights"));
    }
    let job = Job { model, from: options, compile: from.compile_options()?, command, stop: signals.flag() };
    let spinner = Progress::new(json);
    let mut callbacks = watchers(std::path::Path::new(&job.command.args.output_dir), json);
    callbacks.push(Box::new(signals.clone()));
    let outcome = fine_tune(job, &|what| spinner.say(what), &|what| eprintln!("warning: {what}"), callbacks)?;
    drop(spinner);
    print(&outcome_text(&outcome, json))
}
