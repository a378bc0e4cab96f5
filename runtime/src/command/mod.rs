//! The `run` command: inputs from arguments, files or standard input, answers on standard output. `lith run` and every
//! compiled executable are this; it must not reach the compiler.

mod answer;
mod chat;
mod generate;
mod inputs;
mod interrupt;
pub mod learn;
pub mod train;

pub use interrupt::StopOnSignal;

use std::borrow::Cow;
use std::io::{IsTerminal, Write};
use std::mem::ManuallyDrop;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::artifact::Artifact;
use crate::model::{CacheSize, OpenError, OpenOptions, model_info, pipeline};
use crate::pipelines::{Args, Batches, Gather, Input, Pipeline, PipelineError, Task};
use crate::threads::MAX_THREADS;
use crate::training::executable::ExecutableError;
use crate::training::fine_tune::FineTuneError;
use generate::Show;
use inputs::Inputs;
use interrupt::Interrupt;

/// Most prompts answered together when they come from a file or standard input: enough to fill the machine, few enough
/// that answers appear while more are read.
const PROMPTS: usize = 64;

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum RunCommandError {
    /// The artifact cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// An argument or input cannot be used, or the model failed.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// Training failed, or its rows or arguments are wrong.
    #[error(transparent)]
    Training(Box<FineTuneError>),
    /// The executable cannot take or give weights, or an argument contradicts what it was compiled with.
    #[error(transparent)]
    Executable(#[from] ExecutableError),
    /// The inputs cannot be had.
    #[error("{0}")]
    Input(String),
    /// Some of the results ended with an error; those and the others are printed.
    #[error("{0}")]
    Partial(String),
    /// A signal, with the exit code that tells it; what was written until then is printed.
    #[error("interrupted")]
    Interrupted(u8),
    /// The answers cannot be written.
    #[error("standard output: {0}")]
    Output(#[from] std::io::Error),
}

impl From<FineTuneError> for RunCommandError {
    fn from(error: FineTuneError) -> RunCommandError {
        RunCommandError::Training(Box::new(error))
    }
}

impl RunCommandError {
    /// 2 for wrong usage or bad input, 130 for Ctrl-C and 143 for a request to terminate, 1 for all else.
    pub fn exit_code(&self) -> u8 {
        match self {
            RunCommandError::Open(_) | RunCommandError::Input(_) => 2,
            RunCommandError::Pipeline(e) if e.is_usage() => 2,
            RunCommandError::Training(e) if e.is_usage() => 2,
            RunCommandError::Executable(e) if e.is_usage() => 2,
            RunCommandError::Interrupted(code) => *code,
            RunCommandError::Pipeline(_) | RunCommandError::Training(_) | RunCommandError::Executable(_) => 1,
            RunCommandError::Output(_) | RunCommandError::Partial(_) => 1,
        }
    }
}

/// Reads a number of threads.
pub fn threads() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(..=MAX_THREADS as u64)
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
                .value_parser(threads())
                .allow_negative_numbers(true)
                .default_value("0")
                .help("Threads to run on; 0 means all cores"),
        )
        .arg(
            Arg::new("pin").long("pin").action(ArgAction::SetTrue).help("Keep each thread to one core"),
        )
        .arg(
            Arg::new("batch_wait")
                .long("batch-wait")
                .value_name("MS")
                .value_parser(clap::value_parser!(u32))
                .allow_negative_numbers(true)
                .default_value("5")
                .help("Milliseconds that an input from a file or standard input waits for others to share a call of the model"),
        );
    if task.is_none_or(|task| task == Task::TextGeneration) {
        command = with_chat_arguments(command);
    }
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
            command = command.arg(if spec.is_flag() {
                arg.num_args(0..=1).require_equals(true).default_missing_value("true")
            } else {
                let action = if spec.is_list() { ArgAction::Append } else { ArgAction::Set };
                arg.action(action).allow_negative_numbers(true)
            });
        }
    }
    command
}

/// Adds what only text generation takes on a command line.
fn with_chat_arguments(command: Command) -> Command {
    const HEADING: &str = "text-generation on the command line";
    let flag = |name: &'static str| Arg::new(name).long(name.replace('_', "-")).help_heading(HEADING);
    let number = || clap::value_parser!(usize);
    command
        .arg(
            flag("chat")
                .action(ArgAction::SetTrue)
                .help("Talk with the model: inputs are messages; without any, a conversation on the terminal or, from a pipe, a message a line"),
        )
        .arg(flag("system").value_name("TEXT").help("Begin conversations with this system message; implies --chat"))
        .arg(
            flag("stream")
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .value_parser(clap::value_parser!(bool))
                .help("Print text as it is written [default: true for a single input without --json]"),
        )
        .arg(
            flag("draft")
                .value_name("ARTIFACT")
                .value_parser(clap::value_parser!(PathBuf))
                .help("Smaller compiled model that guesses tokens ahead in greedy search and sampling: same text (sampled: same chances), faster"),
        )
        .arg(
            flag("cache_tokens")
                .value_name("N")
                .value_parser(number())
                .help("Tokens that the cache has room for [default: several full sequences, up to half of the memory]"),
        )
        .arg(
            flag("cache_memory")
                .value_name("MIB")
                .value_parser(number())
                .conflicts_with("cache_tokens")
                .help("Most memory of the cache, in MiB"),
        )
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
    select_kernels()?;
    if matches.get_flag("pin") || crate::env::pin() {
        crate::threads::pin();
    }
    // Never given back: the process ends after this, and freeing a vocabulary word by word takes milliseconds.
    let pipeline = ManuallyDrop::new(pipeline(artifact, &open_options(task, matches))?);
    let args = task_args(pipeline.task(), matches)?;
    let inputs = Inputs::from_matches(pipeline.task(), matches)?;
    let json = matches.get_flag("json");
    if pipeline.task() == Task::TextGeneration {
        return write(&pipeline, &args, inputs, matches);
    }
    if let Some(name) = CHAT_ARGUMENTS.iter().find(|name| given(matches, name)) {
        let (flag, task) = (name.replace('_', "-"), pipeline.task());
        return Err(RunCommandError::Input(format!("--{flag} is for text-generation, the model does {task}")));
    }
    let out = std::io::stdout();
    let mut out = std::io::BufWriter::new(out.lock());
    // Similarities relate all inputs of a call to each other.
    let whole = given(matches, "similarity");
    answer_stream(&pipeline, inputs, whole, gather(&args, matches)?, |batch, before, many| {
        let (answers, error) = pipeline.answer(batch, &args);
        for (input, value) in batch.iter().zip(&answers) {
            if json {
                serde_json::to_writer(&mut out, value).map_err(std::io::Error::from)?;
                out.write_all(b"\n")?;
            } else {
                answer::print(pipeline.task(), input, value, many, &mut out)?;
            }
        }
        out.flush()?;
        error.map_or(Ok(()), |e| Err(e.after(before).into()))
    })
}

/// When a batch of inputs from a file or standard input goes to the model.
fn gather(args: &Args, matches: &ArgMatches) -> Result<Gather, PipelineError> {
    let standard = Gather::default();
    let wait = matches.get_one::<u32>("batch_wait").map_or(standard.wait, |&ms| Duration::from_millis(ms.into()));
    Ok(Gather { tokens: args.positive("batch_tokens")?.unwrap_or(standard.tokens), wait, ..standard })
}

/// Hands inputs to `answer` in batches: those of arguments all at once, or all there are if the `whole` is wanted; others
/// as they come. `answer` also learns how many came before, and whether there are several inputs, as far as is known.
fn answer_stream(
    pipeline: &Pipeline,
    inputs: Inputs,
    whole: bool,
    gather: Gather,
    mut answer: impl FnMut(&[Input], usize, bool) -> Result<(), RunCommandError>,
) -> Result<(), RunCommandError> {
    if whole || inputs.are_given() {
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        return if inputs.is_empty() { Err(no_input()) } else { answer(&inputs, 0, inputs.len() > 1) };
    }
    let reader = |e| RunCommandError::Input(format!("no thread to read inputs: {e}"));
    let mut batches = Batches::new(inputs, gather).map_err(reader)?;
    let (mut before, mut many) = (0, false);
    loop {
        let batch = batches.next(|input| input.as_ref().map_or(0, |input| pipeline.tokens(input)));
        let (mut inputs, mut failed) = (Vec::with_capacity(batch.len()), None);
        for input in batch {
            match input {
                Ok(input) => inputs.push(input),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        many |= inputs.len() > 1 || !batches.ended();
        if !inputs.is_empty() {
            answer(&inputs, before, many)?;
            before += inputs.len();
        }
        match failed {
            Some(error) => return Err(error),
            None if inputs.is_empty() && before == 0 => return Err(no_input()),
            None if inputs.is_empty() => return Ok(()),
            None => {}
        }
    }
}

fn no_input() -> RunCommandError {
    RunCommandError::Input("no input: give texts as arguments, with --file, or on standard input".into())
}

/// The arguments of [`with_chat_arguments`].
const CHAT_ARGUMENTS: [&str; 6] = ["chat", "system", "stream", "draft", "cache_tokens", "cache_memory"];

/// How parsed arguments want the model opened.
fn open_options(task: Option<Task>, matches: &ArgMatches) -> OpenOptions {
    let number = |name: &str| matches.try_get_one::<usize>(name).ok().flatten().copied();
    let cache = match (number("cache_tokens"), number("cache_memory")) {
        (Some(tokens), _) => CacheSize::Tokens(tokens),
        (None, Some(mib)) => CacheSize::Bytes(mib.saturating_mul(1 << 20)),
        (None, None) => CacheSize::Automatic,
    };
    let draft = matches.try_get_one::<PathBuf>("draft").ok().flatten().cloned();
    OpenOptions { threads: number("threads").unwrap_or(0), task, cache, draft }
}

/// Text generation: streams, converses or answers.
fn write(pipeline: &Pipeline, args: &Args, inputs: Inputs, matches: &ArgMatches) -> Result<(), RunCommandError> {
    let interrupt = Interrupt::watch().map_err(|e| RunCommandError::Input(format!("Ctrl-C cannot be watched: {e}")))?;
    let system = matches.get_one::<String>("system").map(String::as_str);
    let chat = matches.get_flag("chat") || system.is_some();
    let json = matches.get_flag("json");
    let mut out = std::io::stdout().lock();
    if chat && !inputs.are_named() {
        return chat::converse(pipeline, args, system, json, &interrupt, &mut out);
    }
    let stream = matches.get_one::<bool>("stream").copied();
    let show = Show { json, stream: stream.unwrap_or(!json), prompt: args.flag("return_full_text") == Some(true) };
    // Plain output is the new text; the whole of it only for those who ask.
    let mut args = args.clone();
    if !json && !chat && args.flag("return_full_text").is_none() && args.flag("return_tensors").is_none() {
        args.set("return_full_text", false.into())?;
    }
    let gather = Gather { inputs: PROMPTS, ..gather(&args, matches)? };
    answer_stream(pipeline, inputs, false, gather, |batch, before, many| {
        let messages = || batch.iter().map(|input| generate::as_message(input.clone(), system)).collect();
        let batch: Cow<'_, [Input]> = if chat { Cow::Owned(messages()) } else { Cow::Borrowed(batch) };
        let mut answer = |inputs: &[Input], before: usize| {
            let done = generate::answer_all(pipeline, inputs, &args, &show, many, &interrupt, &mut out);
            done.map_err(|e| match e {
                RunCommandError::Pipeline(e) => e.after(before).into(),
                other => other,
            })
        };
        match answer(&batch, before) {
            // Those before the first that cannot be answered are.
            Err(RunCommandError::Pipeline(e)) if e.is_usage() && batch.len() > 1 => {
                batch.iter().enumerate().try_for_each(|(i, input)| answer(std::slice::from_ref(input), before + i))?;
            }
            done => done?,
        }
        if interrupt.take() { Err(RunCommandError::Interrupted(interrupt::EXIT_CODE)) } else { Ok(()) }
    })
}

/// Takes the instruction set that the environment names.
fn select_kernels() -> Result<(), RunCommandError> {
    let selected = crate::kernels::select(crate::env::isa().as_deref());
    selected.map(drop).map_err(|e| RunCommandError::Input(format!("{}: {e}", crate::env::ISA)))
}

/// The main function of a compiled executable: the artifact is behind the program in its own file.
pub fn executable_main() -> ExitCode {
    let run = || {
        let Own { artifact, task, command, .. } = Own::open()?;
        run(artifact, Some(task), &with_arguments(command, Some(task)).get_matches())
    };
    finish(run())
}

/// A compiled executable as it finds itself.
struct Own {
    path: PathBuf,
    artifact: Artifact,
    task: Task,
    /// Its command line, without arguments.
    command: Command,
}

impl Own {
    fn open() -> Result<Own, RunCommandError> {
        let path = std::env::current_exe();
        let path = path.map_err(|e| RunCommandError::Input(format!("the executable's own path: {e}")))?;
        let artifact = Artifact::open(&path).map_err(OpenError::from)?;
        let task = model_info(&artifact).map_err(OpenError::from)?.task;
        let name = path.file_name().map_or("model".into(), |n| n.to_string_lossy().into_owned());
        let about = format!("A compiled model for {task}");
        let command = Command::new(name).about(about).version(env!("CARGO_PKG_VERSION"));
        Ok(Own { path, artifact, task, command })
    }
}

/// Tells what went wrong, if anything, and the exit code. A reader that has seen enough is no failure.
pub fn finish(done: Result<(), RunCommandError>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(RunCommandError::Interrupted(code)) => ExitCode::from(code),
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
