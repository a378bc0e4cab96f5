//! The `run` command: inputs from arguments, files or standard input, answers on standard output. `lith run` and every
//! compiled executable are this; it must not reach the compiler.

mod answer;
mod inputs;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::artifact::Artifact;
use crate::model::{OpenError, model_info, pipeline};
use crate::pipelines::{ArgKind, Args, Input, Pipeline, PipelineError, Task};
use inputs::Inputs;

/// Inputs answered together when they come from a file or standard input: enough to fill the machine, few enough that
/// answers appear while more are read.
const CHUNK: usize = 64;

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum RunCommandError {
    /// The artifact cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// An argument or input cannot be used, or the model failed.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// The inputs cannot be had.
    #[error("{0}")]
    Input(String),
    /// The answers cannot be written.
    #[error("standard output: {0}")]
    Output(#[from] std::io::Error),
}

impl RunCommandError {
    /// 2 for wrong usage or bad input, 1 for all else.
    pub fn exit_code(&self) -> u8 {
        match self {
            RunCommandError::Open(_) | RunCommandError::Input(_) => 2,
            RunCommandError::Pipeline(e) if e.is_usage() => 2,
            RunCommandError::Pipeline(_) | RunCommandError::Output(_) => 1,
        }
    }
}

/// Adds the arguments of `run` to a command: those every task has, and those of `task`, or of all tasks when it is not
/// known yet.
pub fn with_arguments(command: Command, task: Option<Task>) -> Command {
    let mut command = command
        .arg(Arg::new("input").num_args(0..).help("Inputs; without any, lines of --file or standard input"))
        .arg(
            Arg::new("file")
                .long("file")
                .value_name("PATH")
                .action(ArgAction::Append)
                .value_parser(clap::value_parser!(PathBuf))
                .help("Read inputs from a file, one a line; - is standard input"),
        )
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print one line of JSON for each input"))
        .arg(
            Arg::new("threads")
                .long("threads")
                .value_name("N")
                .value_parser(clap::value_parser!(usize))
                .default_value("0")
                .help("Threads to run on; 0 means all cores"),
        );
    let mut seen: Vec<&str> = Vec::new();
    for task in Task::all().filter(|t| task.is_none_or(|only| only == *t)) {
        let heading = format!("{task} arguments");
        for key in task.record_keys().iter().filter(|_| task.record_keys().len() > 1) {
            if !seen.contains(key) {
                seen.push(key);
                let help = "One input given by its parts instead of a JSON object";
                command =
                    command.arg(Arg::new(*key).long(key.replace('_', "-")).help(help).help_heading(heading.clone()));
            }
        }
        for spec in task.args().iter() {
            if seen.contains(&spec.name) {
                continue;
            }
            seen.push(spec.name);
            let help = format!("{} [default: {}]", spec.help, spec.default);
            let arg = Arg::new(spec.name).long(spec.name.replace('_', "-")).help(help).help_heading(heading.clone());
            command = command.arg(match spec.kind {
                ArgKind::Bool | ArgKind::Switch(_) => {
                    arg.num_args(0..=1).require_equals(true).default_missing_value("true")
                }
                ArgKind::List => arg.action(ArgAction::Append),
                ArgKind::Int | ArgKind::Text | ArgKind::Choice(_) | ArgKind::Object => arg.action(ArgAction::Set),
            });
        }
    }
    command
}

/// Whether the user gave this argument.
fn given(matches: &ArgMatches, name: &str) -> bool {
    matches!(matches.try_contains_id(name), Ok(true)) && matches.value_source(name) == Some(ValueSource::CommandLine)
}

/// The task's arguments among the parsed ones; one of another task is wrong usage.
fn task_args(task: Task, matches: &ArgMatches) -> Result<Args, PipelineError> {
    let mut args = Args::new(task);
    let mut names: Vec<&str> = Task::all().flat_map(|t| t.args().iter().map(|s| s.name)).collect();
    names.sort_unstable();
    names.dedup();
    for name in names.into_iter().filter(|name| given(matches, name)) {
        for text in matches.get_many::<String>(name).into_iter().flatten() {
            args.set_text(name, Some(text))?;
        }
    }
    Ok(args)
}

/// Answers the inputs that parsed arguments name with an artifact or executable.
///
/// # Errors
/// When the artifact, an argument or an input cannot be used, or the answers cannot be written. What was answered
/// before stays printed.
pub fn run(artifact: Artifact, task: Option<Task>, matches: &ArgMatches) -> Result<(), RunCommandError> {
    crate::kernels::select(crate::env::isa().as_deref())
        .map_err(|e| RunCommandError::Input(format!("{}: {e}", crate::env::ISA)))?;
    let threads = matches.get_one::<usize>("threads").copied().unwrap_or(0);
    let pipeline = pipeline(artifact, threads, task)?;
    let args = task_args(pipeline.task(), matches)?;
    let mut inputs = Inputs::from_matches(pipeline.task(), matches)?;
    let json = matches.get_flag("json");
    // Similarities relate all inputs of a call to each other.
    let whole = given(matches, "similarity");
    let chunk = if whole || inputs.are_given() { usize::MAX } else { CHUNK };
    let out = std::io::stdout();
    let mut out = std::io::BufWriter::new(out.lock());
    let mut answered = 0;
    loop {
        let batch: Vec<Input> = inputs.by_ref().take(chunk).collect::<Result<_, _>>()?;
        if batch.is_empty() {
            break;
        }
        answered += batch.len();
        answer_all(&pipeline, &batch, &args, json, &mut out)?;
    }
    if answered == 0 {
        return Err(RunCommandError::Input(
            "no input: give texts as arguments, with --file, or on standard input".into(),
        ));
    }
    Ok(())
}

fn answer_all(
    pipeline: &Pipeline,
    batch: &[Input],
    args: &Args,
    json: bool,
    out: &mut impl Write,
) -> Result<(), RunCommandError> {
    for (input, value) in batch.iter().zip(pipeline.call(batch, args)?) {
        if json {
            serde_json::to_writer(&mut *out, &value).map_err(std::io::Error::from)?;
            out.write_all(b"\n")?;
        } else {
            answer::print(pipeline.task(), input, &value, batch.len() > 1, out)?;
        }
    }
    out.flush()?;
    Ok(())
}

/// The main function of a compiled executable: the artifact is behind the program in its own file.
pub fn executable_main() -> ExitCode {
    finish(run_executable())
}

fn run_executable() -> Result<(), RunCommandError> {
    let path = std::env::current_exe();
    let path = path.map_err(|e| RunCommandError::Input(format!("the executable's own path: {e}")))?;
    let artifact = Artifact::open(&path).map_err(OpenError::from)?;
    let task = model_info(&artifact).map_err(OpenError::from)?.task;
    let name = path.file_name().map_or("model".into(), |n| n.to_string_lossy().into_owned());
    let command = Command::new(name).about(format!("A compiled model for {task}")).version(env!("CARGO_PKG_VERSION"));
    let matches = with_arguments(command, Some(task)).get_matches();
    run(artifact, Some(task), &matches)
}

/// Tells what went wrong, if anything, and the exit code. A reader that has seen enough is no failure.
pub fn finish(done: Result<(), RunCommandError>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(RunCommandError::Output(e)) if e.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(e.exit_code())
        }
    }
}

/// Whether standard input is a person at a terminal.
fn stdin_is_terminal() -> bool {
    std::io::stdin().is_terminal()
}
