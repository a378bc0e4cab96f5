//! `lith train`: a model learns from files of rows.

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, FromArgMatches};
use indicatif::{ProgressBar, ProgressStyle};
use lith_runtime::command::train::{read, with_arguments};
use lith_runtime::training::arguments::TrainingArguments;
use lith_runtime::training::callbacks::{
    Callback, CallbackError, Event, JsonlLog, Progress as Steps, ProgressCallback, TrainerControl,
};
use lith_runtime::training::state::{Logs, TrainerState};
use lith_runtime::training::trainer::format_metrics;

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
    finish(run(&matches))
}

fn run(matches: &clap::ArgMatches) -> Result<()> {
    let from = ModelArgs::from_arg_matches(matches).map_err(Error::input)?;
    let model = matches.get_one::<String>("model").cloned().unwrap_or_default();
    let command = read(matches).map_err(Error::input)?;
    for note in &command.notes {
        eprintln!("note: {note}");
    }
    let json = command.json;
    let adapters = LoraArgs::from_arg_matches(matches).map_err(Error::input)?;
    let options = ModelOptions { lora: adapters.options()?, ..from.options()? };
    if options.lora.is_some() && options.adapter.is_some() {
        return Err(Error::input("--lora with --adapter: adapters are trained beside the base model's own weights"));
    }
    let job = Job { model, from: options, compile: from.compile_options()?, command };
    let spinner = Progress::new(json);
    let log = std::path::Path::new(&job.command.args.output_dir).join("log.jsonl");
    let mut callbacks: Vec<Box<dyn Callback>> = vec![Box::new(JsonlLog::new(log))];
    if json {
        callbacks.push(Box::new(Lines));
    } else {
        callbacks.push(Box::new(bar()));
    }
    let outcome = fine_tune(job, &|what| spinner.say(what), &|what| eprintln!("warning: {what}"), callbacks)?;
    drop(spinner);
    let show = |split: &str, logs: &Logs| match json {
        true => print(&format!("{}\n", serde_json::json!({ split: logs }))),
        false => print(&format_metrics(split, logs)),
    };
    show("train", &outcome.train.metrics)?;
    match &outcome.eval {
        Some(logs) => show("eval", logs),
        None => Ok(()),
    }
}

/// What is logged as lines of JSON on standard output.
struct Lines;

impl Callback for Lines {
    fn name(&self) -> &'static str {
        "Lines"
    }

    fn on(
        &mut self,
        event: &Event<'_>,
        _: &TrainingArguments,
        state: &TrainerState,
        _: &mut TrainerControl,
    ) -> std::result::Result<(), CallbackError> {
        match (event, state.log_history.last()) {
            (Event::Log(_), Some(line)) => {
                let line = serde_json::to_string(line).map_err(|e| CallbackError::Other(e.into()))?;
                print(&(line + "\n")).map_err(|e| CallbackError::Other(e.into()))
            }
            _ => Ok(()),
        }
    }
}

/// A bar on a terminal with the loss, the rate and the time left; nothing in a pipe.
fn bar() -> impl Callback {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} {elapsed} elapsed, {eta} left") {
        bar.set_style(style);
    }
    ProgressCallback::new(move |steps: &Steps| {
        bar.set_length(steps.max_steps);
        bar.set_position(steps.step);
        let figure = |name: &str, value: Option<f64>| value.map_or(String::new(), |v| format!("{name} {v:.4e} "));
        let evaluation = steps.evaluation.map_or(String::new(), |(done, of)| format!("evaluation {done}/{of} "));
        let loss = steps.loss.map_or(String::new(), |v| format!("loss {v:.4} "));
        bar.set_message(format!("epoch {:.2} {loss}{}{evaluation}", steps.epoch, figure("rate", steps.learning_rate)));
        if steps.step >= steps.max_steps {
            bar.finish_and_clear();
        }
    })
}
