//! The `lith` command: parses arguments, does what they say, prints. What it does stands in the library.

pub mod args;
mod compile;
mod inspect;
mod lora;
mod measure;
mod merge;
mod progress;
mod run;
mod train;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Cli, Command, LessonArgs, ModelArgs};
use lith_frontend::CacheType;
use lith_passes::saturate::Numeric;
use lith_runtime::training::arguments::TrainingArguments;
use lith_runtime::training::fine_tune::DataArguments;

use crate::bench::calibrate::read_profile;
use crate::cache::Blocks;
use crate::compile::CompileOptions;
use crate::error::{Error, Result};
use crate::model::ModelOptions;
use crate::quantize::Quantization;
use crate::train::Lesson;

/// Runs the command line of this process. Exit codes: 0 fine, 1 failed, 2 wrong usage or bad input.
pub fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Compile(args) => compile::compile(&args),
        Command::Run(args) => return run::run(&args),
        Command::Train(args) => return train::train(&args),
        Command::Merge(args) => merge::merge(&args),
        Command::Inspect(args) => inspect::inspect(&args),
        Command::Verify(args) => measure::verify(&args),
        Command::Tokenize(args) => inspect::tokenize(&args),
        Command::Bench(args) => measure::bench(&args),
        Command::Completions { shell } => {
            let mut out = Vec::new();
            clap_complete::generate(shell, &mut command(), "lith", &mut out);
            print_bytes(&out)
        }
        Command::Man => man(),
    };
    finish(done)
}

/// The whole command with the arguments of `run`, for completions and the manual.
fn command() -> clap::Command {
    Cli::command().mut_subcommand("run", |_| run::command()).mut_subcommand("train", |_| train::command())
}

/// Whether an argument names a program in text form rather than a model.
fn is_text_program(name: &str) -> bool {
    let path = Path::new(name);
    path.extension().is_some_and(|e| e == "ir") && path.is_file()
}

fn man() -> Result<()> {
    let mut out = Vec::new();
    clap_mangen::Man::new(command()).render(&mut out).map_err(Error::failure)?;
    for sub in command().get_subcommands() {
        clap_mangen::Man::new(sub.clone()).render_synopsis_section(&mut out).map_err(Error::failure)?;
        clap_mangen::Man::new(sub.clone()).render_options_section(&mut out).map_err(Error::failure)?;
    }
    print_bytes(&out)
}

/// Writes to standard output; a reader that has seen enough is no failure.
fn print_bytes(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::failure(format!("standard output: {e}"))),
        _ => Ok(()),
    }
}

fn print(text: &str) -> Result<()> {
    print_bytes(text.as_bytes())
}

fn finish(done: Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(e.blame() as u8)
        }
    }
}

impl LessonArgs {
    /// The library's form.
    ///
    /// # Errors
    /// When a value is of the wrong kind.
    pub fn lesson(&self) -> Result<Lesson> {
        let mut args = TrainingArguments::default();
        let named = [
            ("optim", &self.optim),
            ("optim_args", &self.optim_args),
            ("label_smoothing_factor", &self.label_smoothing_factor),
        ];
        for (name, text) in named.into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?))) {
            args.set_text(name, text).map_err(Error::input)?;
        }
        let (args, _) = args.checked().map_err(Error::input)?;
        let train_files = self.train_file.clone();
        let data = DataArguments { train_files, label_column: self.label_column.clone(), ..DataArguments::default() };
        Ok(Lesson { labels: self.labels.clone(), data, args })
    }
}

impl ModelArgs {
    /// The library's form.
    ///
    /// # Errors
    /// When a name is unknown.
    pub fn options(&self) -> Result<ModelOptions> {
        Ok(ModelOptions {
            training: None,
            lora: None,
            adapter: self.adapter.clone(),
            source: lith_models::SourceOptions {
                revision: self.revision.clone(),
                cache_dir: self.cache_dir.clone(),
                token: self.token.clone(),
                endpoint: None,
                local_files_only: self.local_files_only,
                force_download: self.force_download,
                subfolder: self.subfolder.clone(),
            },
            task: self.task.clone(),
            variant: self.variant.clone(),
            overrides: self.set.clone(),
            strict: self.strict,
            fresh_head: self.fresh_head,
            from_scratch: false,
            fresh_seed: 0,
            ignore_mismatched_sizes: self.ignore_mismatched_sizes,
            padded: false,
            cache: self.cache_type()?,
        })
    }

    fn cache_type(&self) -> Result<CacheType> {
        match self.cache_dtype.as_str() {
            "float32" => Ok(CacheType::F32),
            "float16" => Ok(CacheType::F16),
            "bfloat16" => Ok(CacheType::Bf16),
            "int8" => Ok(CacheType::Int8),
            other => Err(Error::input(format!("--cache-dtype {other}: expected float32, float16, bfloat16 or int8"))),
        }
    }

    /// How the model is compiled.
    ///
    /// # Errors
    /// When a name is unknown or options contradict each other.
    pub fn compile_options(&self) -> Result<CompileOptions> {
        let [widths, embeddings, activations] =
            [&self.quantize, &self.quantize_embeddings, &self.activations].map(Option::as_deref);
        let quantization = Quantization::new(widths, self.error_budget, embeddings, activations)?;
        let numeric = Numeric::from_name(&self.numeric).ok_or_else(|| {
            let known: Vec<&str> = Numeric::ALL.iter().map(|n| n.name()).collect();
            Error::input(format!("--numeric {}: expected one of {}", self.numeric, known.join(", ")))
        })?;
        let device = self.device_profile.as_deref().map(read_profile).transpose()?.unwrap_or_default();
        let saturate = !self.no_saturate;
        let options = CompileOptions::new(&self.dtype, &self.target)?;
        Ok(CompileOptions { quantization, numeric, device, saturate, memo: Blocks::of_user(), ..options })
    }
}
