//! Training from a command line: what is shown of it, which `lith train` shares, and executables that learn. It must not
//! reach the compiler, and executables that only answer must not reach it: rows and trainer are a quarter of it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Arg, ArgMatches, Command};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Own, RunCommandError, StopOnSignal, finish, run, select_kernels, train};
use crate::artifact::Artifact;
use crate::model::{OpenError, model_info};
use crate::program::Program;
use crate::tokenizer::AutoTokenizer;
use crate::training::arguments::TrainingArguments;
use crate::training::callbacks::{
    Callback, CallbackError, Event, JsonlLog, Progress as Steps, ProgressCallback, TrainerControl,
};
use crate::training::card::ModelCard;
use crate::training::compiled::{CompiledTraining, Hyperparameters};
use crate::training::executable::{ExecutableError, Recipe, save_executable, take_saved};
use crate::training::fine_tune::{Data, FineTuneError, FineTuning, Outcome, name_of, target_of};
use crate::training::program::StepError;
use crate::training::state::{Logs, TrainerState};
use crate::training::trainer::format_metrics;

/// The main function of a compiled executable that learns: it takes what every one does, the command `train`, and other
/// weights.
pub fn executable_main() -> ExitCode {
    finish(answer_or_learn())
}

fn answer_or_learn() -> Result<(), RunCommandError> {
    let Own { path, mut artifact, task, command } = Own::open()?;
    let train = train::with_arguments(Command::new("train").about("Train the model further on files of rows")).arg(
        Arg::new("save_executable")
            .long("save-executable")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help("Write a copy of this executable that has learnt"),
    );
    let weights = Arg::new("weights")
        .long("weights")
        .value_name("FOLDER")
        .value_parser(clap::value_parser!(PathBuf))
        .help("Answer with the weights that training saved there");
    let command = super::with_arguments(command, Some(task)).arg(weights).subcommand(train);
    let matches = command.args_conflicts_with_subcommands(true).get_matches();
    if let Some((_, matches)) = matches.subcommand() {
        drop(artifact);
        return learn(&path, matches);
    }
    if let Some(folder) = matches.get_one::<PathBuf>("weights") {
        take_saved(&mut artifact, &learner(&path)?, folder)?;
    }
    run(artifact, Some(task), &matches)
}

/// The artifact that learns in the executable `own`.
fn learner(own: &Path) -> Result<Artifact, RunCommandError> {
    let absent = || RunCommandError::Input(format!("{}: there is nothing in it that learns", own.display()));
    Artifact::open_training(own).map_err(OpenError::from)?.ok_or_else(absent)
}

/// The `train` command of the executable `own`.
fn learn(own: &Path, matches: &ArgMatches) -> Result<(), RunCommandError> {
    select_kernels()?;
    let artifact = learner(own)?;
    let recipe = Recipe::of(&artifact).map_err(OpenError::from)?;
    let command = train::read(matches, recipe.arguments()).map_err(|e| RunCommandError::Input(e.to_string()))?;
    for note in &command.notes {
        eprintln!("note: {note}");
    }
    let train::TrainCommand { data: data_args, args, report, threads, json, .. } = command;
    recipe.check(&args)?;
    let info = model_info(&artifact).map_err(OpenError::from)?;
    let data = Data::read(&data_args, args.seed).map_err(FineTuneError::from)?;
    let target = target_of(&info).map_err(FineTuneError::from)?;
    let tokenizer = Arc::new(AutoTokenizer::from_assets(&artifact).map_err(OpenError::from)?);
    let files = recipe.files(&artifact);
    let program = Program::new(artifact, threads).map_err(OpenError::from)?;
    let program = CompiledTraining::new(program, Hyperparameters::of(&args));
    let program = program.map_err(|e| ExecutableError::Program(StepError::Batch(e.to_string())))?;
    let mut learner = program.stored_as(&recipe.stored).map_err(ExecutableError::Program)?;
    let card = ModelCard {
        name: name_of(Path::new(&args.output_dir)),
        base_model: Some(recipe.base_model),
        dataset: Some(data_args.train_files.join(", ")),
        task: Some(info.task.name().into()),
        ..ModelCard::default()
    };
    let signals = StopOnSignal::default();
    let mut callbacks = watchers(Path::new(&args.output_dir), json);
    callbacks.push(Box::new(signals.clone()));
    let stop = signals.flag();
    let (program, info) = (&mut learner, &info);
    let tuning =
        FineTuning { program, info, tokenizer, data, data_args, args, target, files, card, report, callbacks, stop };
    let outcome = tuning.run().map_err(|e| match signals.exit_code() {
        Some(code) => {
            eprintln!("error: {e}");
            RunCommandError::Interrupted(code)
        }
        None => e.into(),
    })?;
    if let Some(new) = matches.get_one::<PathBuf>("save_executable") {
        save_executable(own, &learner, new)?;
    }
    Ok(print(&outcome_text(&outcome, json))?)
}

/// What follows a run: a log in its folder, and lines of JSON on standard output or a bar on the terminal.
pub fn watchers(output_dir: &Path, json: bool) -> Vec<Box<dyn Callback>> {
    let shown: Box<dyn Callback> = if json { Box::new(Lines) } else { Box::new(bar()) };
    vec![Box::new(JsonlLog::new(output_dir.join("log.jsonl"))), shown]
}

/// What fine-tuning came to, as tables or lines of JSON.
pub fn outcome_text(outcome: &Outcome, json: bool) -> String {
    let show = |split: &str, logs: &Logs| match json {
        true => format!("{}\n", serde_json::json!({ split: logs })),
        false => format_metrics(split, logs),
    };
    let eval = outcome.eval.as_ref().map(|logs| show("eval", logs)).unwrap_or_default();
    show("train", &outcome.train.metrics) + &eval
}

/// Writes to standard output; a reader that has seen enough is no failure.
fn print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e),
        _ => Ok(()),
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
    ) -> Result<(), CallbackError> {
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
