//! The arguments of training on a command line: those of the data, and all of `TrainingArguments` by their names. What
//! `lith train` and training executables share.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::training::arguments::{ARGUMENTS, ArgumentError, ArgumentKind, Effect, TrainingArguments, removed_names};
use crate::training::fine_tune::DataArguments;

/// What a command line says of training.
#[derive(Clone, Debug)]
pub struct TrainCommand {
    /// The rows.
    pub data: DataArguments,
    /// How training goes.
    pub args: TrainingArguments,
    /// Where a page with curves goes.
    pub report: Option<PathBuf>,
    /// Threads; 0 means all cores.
    pub threads: usize,
    /// Whether lines of JSON are printed.
    pub json: bool,
    /// What the user should know, of arguments that are called otherwise now.
    pub notes: Vec<String>,
}

/// Adds the arguments.
pub fn with_arguments(mut command: Command) -> Command {
    let files = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name.replace('_', "-")).value_name("FILE").action(ArgAction::Append).help(help)
    };
    let text = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name.replace('_', "-")).value_name(value).help(help)
    };
    let number =
        |name: &'static str, help: &'static str| text(name, "N", help).value_parser(clap::value_parser!(usize));
    let share =
        |name: &'static str, help: &'static str| text(name, "SHARE", help).value_parser(clap::value_parser!(f64));
    command = command.next_help_heading("Data").args([
        files("train_file", "Rows to learn from: JSONL, JSON, CSV, TSV, text or Parquet; a folder or a pattern")
            .required(true),
        files("validation_file", "Rows to evaluate on"),
        share("validation_split", "Keep this share of the rows, or so many, for evaluation"),
        text("text_column", "NAME", "Column of the text [default: text or sentence; of tags: tokens]"),
        text("pair_column", "NAME", "Column of the second text of pairs"),
        text("label_column", "NAME", "Column of the target [default: label or labels; of tags: ner_tags or tags]"),
        number("max_seq_length", "Most tokens of an example, or of a window of a context [default: 384, windows]"),
        number("doc_stride", "Question answering: tokens that a window repeats [default: 128]"),
        Arg::new("truncate")
            .long("truncate")
            .action(ArgAction::SetTrue)
            .help("Cut longer texts; else they are an error"),
        number("block_size", "Language models: join texts and cut them to blocks of so many tokens"),
        share("mlm_probability", "Masked language models: the share of tokens to predict [default: 0.15]"),
        number("max_train_samples", "Learn from at most so many rows"),
        number("max_eval_samples", "Evaluate on at most so many rows"),
        text("data_cache", "FOLDER", "Keep prepared examples there").value_parser(clap::value_parser!(PathBuf)),
    ]);
    command = command.next_help_heading("Training").args([
        text("config", "FILE", "Arguments of training from a file, TOML or JSON; those given here go before"),
        text("report", "FILE", "Write a page with curves and figures").value_parser(clap::value_parser!(PathBuf)),
        number("threads", "Threads to run on; 0 means all cores").default_value("0"),
        Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print lines of JSON: logs, then results"),
    ]);
    for spec in ARGUMENTS.iter() {
        let long = spec.name.replace('_', "-");
        let mut arg = Arg::new(spec.name).long(long).alias(spec.name).help(spec.help()).allow_negative_numbers(true);
        arg = match spec.kind {
            ArgumentKind::Bool => arg.num_args(0..=1).default_missing_value("true").value_name("BOOL"),
            ArgumentKind::Choice(words) => arg.value_name("WORD").value_parser(words.to_vec()),
            ArgumentKind::Int | ArgumentKind::Float => arg.value_name("N"),
            ArgumentKind::Text | ArgumentKind::List | ArgumentKind::Object | ArgumentKind::Any => {
                arg.value_name("TEXT")
            }
        };
        // A bare --resume-from-checkpoint is the last one's.
        if spec.name == "resume_from_checkpoint" {
            arg = arg.num_args(0..=1).default_missing_value("true");
        }
        command = command.arg(arg.hide(spec.effect != Effect::Full));
    }
    // What older releases called them still does what it did. (TA-39)
    for name in removed_names() {
        let old = Arg::new(name).long(name.replace('_', "-")).alias(name).hide(true);
        command = command.arg(old.num_args(0..=1).default_missing_value("true"));
    }
    command.next_help_heading(None::<&str>)
}

/// What a command line says; arguments of training that it does not name are those of `args`.
///
/// # Errors
/// When a value is of the wrong kind, or the file of arguments cannot be read.
pub fn read(matches: &ArgMatches, mut args: TrainingArguments) -> Result<TrainCommand, ArgumentError> {
    let one = |name: &str| matches.get_one::<String>(name).cloned();
    let many = |name: &str| matches.get_many::<String>(name).into_iter().flatten().cloned().collect::<Vec<_>>();
    let number = |name: &str| matches.get_one::<usize>(name).copied();
    let share = |name: &str| matches.get_one::<f64>(name).copied();
    let path = |name: &str| matches.get_one::<PathBuf>(name).cloned();
    let data = DataArguments {
        train_files: many("train_file"),
        validation_files: many("validation_file"),
        validation_split: share("validation_split"),
        text_column: one("text_column"),
        pair_column: one("pair_column"),
        label_column: one("label_column"),
        max_seq_length: number("max_seq_length"),
        doc_stride: number("doc_stride"),
        truncate: matches.get_flag("truncate"),
        block_size: number("block_size"),
        mlm_probability: share("mlm_probability"),
        max_train_samples: number("max_train_samples"),
        max_eval_samples: number("max_eval_samples"),
        cache: path("data_cache"),
    };
    let mut notes = Vec::new();
    if let Some(file) = one("config") {
        let wrong = |e: std::io::Error| ArgumentError::File { file: file.clone(), problem: e.to_string() };
        let text = std::fs::read_to_string(&file).map_err(wrong)?;
        notes.extend(args.set_file(&file, &text)?);
    }
    for name in removed_names().chain(ARGUMENTS.iter().map(|spec| spec.name)) {
        if let Some(value) = one(name) {
            notes.extend(args.set_text(name, &value)?);
        }
    }
    let (report, threads) = (path("report"), number("threads").unwrap_or(0));
    Ok(TrainCommand { data, args, report, threads, json: matches.get_flag("json"), notes })
}
