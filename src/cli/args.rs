//! The command line: what `lith` takes. Names are Transformers' with dashes where Transformers has them.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use lith_runtime::command::threads;

use super::lora::LoraArgs;

/// An ahead-of-time compiler for transformer models: a checkpoint goes in, one file that answers comes out.
#[derive(Debug, Parser)]
#[command(name = "lith", version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Compile a model to an executable or an artifact
    Compile(Box<Compile>),
    /// Run a model, an artifact or an executable on inputs
    #[command(disable_help_flag = true)]
    Run(Run),
    /// Train a model further on files of rows
    #[command(disable_help_flag = true)]
    Train(Run),
    /// Write a model with an adapter merged into its weights, as Transformers saves models
    Merge(Box<Merge>),
    /// Show what a model or an artifact is made of
    Inspect(Inspect),
    /// Check an artifact against the reference interpreter on random inputs
    Verify(Verify),
    /// Show the tokens of a text
    Tokenize(Tokenize),
    /// Measure an artifact on random inputs
    Bench(Bench),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}

/// Where a model comes from and how it is read.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Model options")]
pub struct ModelArgs {
    /// Task, such as text-classification; else the one of the checkpoint's architecture
    #[arg(long)]
    pub task: Option<String>,
    /// Branch, tag or commit of a hub repository
    #[arg(long)]
    pub revision: Option<String>,
    /// Folder inside the repository or directory
    #[arg(long)]
    pub subfolder: Option<String>,
    /// Weight file variant, such as fp16
    #[arg(long)]
    pub variant: Option<String>,
    /// Hub cache folder
    #[arg(long)]
    pub cache_dir: Option<PathBuf>,
    /// Hub access token
    #[arg(long)]
    pub token: Option<String>,
    /// Use the hub cache only; open no connection
    #[arg(long)]
    pub local_files_only: bool,
    /// Download again what the hub cache has
    #[arg(long)]
    pub force_download: bool,
    /// Override a field of the configuration; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Folder or hub id of a LoRA adapter in PEFT's form, merged into the weights
    #[arg(long, value_name = "ADAPTER")]
    pub adapter: Option<String>,
    /// Weight storage: float32, or float16 or bfloat16 with computation in float32
    #[arg(long, default_value = "float32")]
    pub dtype: String,
    /// Widths of linear layers' weights: int8, int8-32, int4-32, int4-128, int4-32-min, int4-128-min, nf4, or mixed, which
    /// picks one for each layer by --error-budget
    #[arg(long, value_name = "SCHEME")]
    pub quantize: Option<String>,
    /// Greatest relative RMS error of a layer's weights with --quantize mixed [default: 0.08]
    #[arg(long, value_name = "E")]
    pub error_budget: Option<f64>,
    /// Scheme of embedding tables and of output layers tied to them; `none` leaves them [default: int8-32 with --quantize]
    #[arg(long, value_name = "SCHEME")]
    pub quantize_embeddings: Option<String>,
    /// Activations that enter linear layers of quantized weights: float32; int16 in groups of 32; int8 where answers
    /// depend on it least, and int16 elsewhere; int8-all
    /// [default: float32]
    #[arg(long, value_name = "DTYPE")]
    pub activations: Option<String>,
    /// Key/value cache of language models: float32, float16, bfloat16 or int8
    #[arg(long, value_name = "DTYPE", default_value = "float32")]
    pub cache_dtype: String,
    /// How much rewrites may change numbers: exact (not a bit), reassociate (sums and products in another order), or
    /// approximate
    #[arg(long, value_name = "CLASS", default_value = "exact")]
    pub numeric: String,
    /// Figures of the device that the optimizer estimates costs for, as `lith bench --calibrate` writes them
    /// [default: a desktop core]
    #[arg(long, value_name = "FILE")]
    pub device_profile: Option<PathBuf>,
    /// Leave out equality saturation, for comparison
    #[arg(long)]
    pub no_saturate: bool,
    /// Processor: native, x86-64-v2, x86-64-v3 or x86-64-v4
    #[arg(long, default_value = "native")]
    pub target: String,
    /// Tensors of the checkpoint that the model does not use are an error
    #[arg(long)]
    pub strict: bool,
    /// Initialise a head that the checkpoint lacks, instead of refusing
    #[arg(long)]
    pub fresh_head: bool,
    /// Re-initialise tensors whose shape differs, instead of refusing
    #[arg(long)]
    pub ignore_mismatched_sizes: bool,
}

/// Arguments of `merge`.
#[derive(Debug, Args)]
pub struct Merge {
    /// Directory or hub id of the model that the adapter (--adapter) is for; --dtype is what floats are saved as
    pub model: String,
    /// Folder to write to
    #[arg(short, long, value_name = "FOLDER")]
    pub output_dir: PathBuf,
    /// Say nothing but errors
    #[arg(short, long)]
    pub quiet: bool,
    /// Where the model comes from
    #[command(flatten)]
    pub from: ModelArgs,
}

/// What compilation writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Emit {
    /// An executable that takes inputs and prints answers
    Exe,
    /// A .lith file for `lith run`
    Artifact,
    /// The graph in text form
    Ir,
    /// Kernels and memory plan
    Kernels,
    /// Cranelift's intermediate form
    Clif,
    /// Machine code, disassembled
    Asm,
}

/// Arguments of `compile`.
#[derive(Debug, Args)]
pub struct Compile {
    /// Directory, hub id, or the name of a bundled model; or a program in text form, a file that ends in .ir (with --emit
    /// ir or kernels)
    pub model: String,
    /// Output file; `-` prints text forms [default: named after the model]
    #[arg(short, long)]
    pub output: Option<PathBuf>,
    /// What to write
    #[arg(long, value_enum, default_value = "exe")]
    pub emit: Emit,
    /// Stop after this stage (with --emit ir): trace, canonicalize, outline, legalize
    #[arg(long, value_name = "STAGE")]
    pub stop_after: Option<String>,
    /// Say nothing but errors
    #[arg(short, long)]
    pub quiet: bool,
    /// Print what was written, how long each stage took and what saturation found as one line of JSON
    #[arg(long)]
    pub json: bool,
    /// Tell how long each stage took
    #[arg(long)]
    pub timings: bool,
    /// An executable that can be trained further, too; with other forms, the steps of training instead of what answers
    #[arg(long)]
    pub train: bool,
    /// With --train: adapters
    #[command(flatten)]
    pub adapters: LoraArgs,
    /// What is settled of training
    #[command(flatten)]
    pub lesson: LessonArgs,
    /// With --train: compute activations again in the backward pass in place of keeping them
    #[arg(long, alias = "gradient-checkpointing", requires = "train")]
    pub activation_checkpointing: bool,
    /// Where the model comes from and how it is read
    #[command(flatten)]
    pub from: ModelArgs,
}

/// What is settled of training when a model is compiled.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Training")]
pub struct LessonArgs {
    /// Names of the classes, with commas between [default: the model's own]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', requires = "train", conflicts_with = "train_file")]
    pub labels: Vec<String>,
    /// Rows whose labels are the classes
    #[arg(long, value_name = "FILE", requires = "train")]
    pub train_file: Vec<String>,
    /// The column of the labels [default: label or labels; of tags: ner_tags or tags]
    #[arg(long, value_name = "NAME", requires = "train_file")]
    pub label_column: Option<String>,
    /// The optimizer, by Transformers' names [default: adamw_torch]
    #[arg(long, value_name = "NAME", requires = "train")]
    pub optim: Option<String>,
    /// Its form: nesterov=true
    #[arg(long, value_name = "KEY=VALUE", requires = "train")]
    pub optim_args: Option<String>,
    /// How much of a target is spread over all classes [default: 0]
    #[arg(long, value_name = "SHARE", requires = "train")]
    pub label_smoothing_factor: Option<String>,
}

/// Arguments of `run`, before the task is known.
#[derive(Debug, Args)]
pub struct Run {
    /// Model, inputs and arguments; see `lith run --help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub rest: Vec<String>,
}

/// Forms of `inspect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Counts and structure
    Summary,
    /// The graph in text form
    Text,
    /// Graphviz source
    Dot,
    /// Counts and structure as JSON
    Json,
}

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Model, artifact or executable
    pub model: String,
    /// Form
    #[arg(long, value_enum, default_value = "summary")]
    pub format: Format,
    /// List the kernels
    #[arg(long)]
    pub kernels: bool,
    /// Tell which rewrites made the nodes at this path, with their equations
    #[arg(long, value_name = "NODE")]
    pub explain: Option<String>,
    /// List the quantized weights of an artifact with their errors
    #[arg(long)]
    pub weights: bool,
    /// Show the memory plan and its peak
    #[arg(long)]
    pub memory: bool,
    /// Count operations and memory for this batch and length
    #[arg(long, default_value = "1x128", value_name = "BATCHxLENGTH")]
    pub shape: String,
    /// Where the model comes from and how it is read
    #[command(flatten)]
    pub from: ModelArgs,
}

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// Artifact or executable
    pub artifact: PathBuf,
    /// Number of random batches
    #[arg(long, default_value_t = 3)]
    pub batches: usize,
    /// Seed of the random inputs
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Threads; 0 means all cores
    #[arg(long, default_value_t = 0, value_parser = threads())]
    pub threads: usize,
    /// Largest difference allowed, relative to the largest magnitude of each result [default: 1e-4; where
    /// activations are rounded and a code may fall to either side of a tie, 0.1 with int8 and 4e-4 with int16]
    #[arg(long)]
    pub tolerance: Option<f64>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `tokenize`.
#[derive(Debug, Args)]
pub struct Tokenize {
    /// Model, artifact or executable
    pub model: String,
    /// The text
    pub text: String,
    /// A second text, for pairs
    pub pair: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Do not add special tokens
    #[arg(long)]
    pub no_special_tokens: bool,
    /// Where the model comes from and how it is read
    #[command(flatten)]
    pub from: ModelArgs,
}

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub struct Bench {
    /// Artifact, executable or model; or a program in text form, a file that ends in .ir, which is measured with and
    /// without equality saturation, on made-up weights and arguments
    #[arg(required_unless_present = "calibrate")]
    pub artifact: Option<String>,
    /// Measure this machine instead, for --device-profile
    #[arg(long, conflicts_with_all = ["artifact", "against", "profile", "shapes", "mixed"])]
    pub calibrate: bool,
    /// With --calibrate, the file to write [default: print it]
    #[arg(short, long, value_name = "FILE", requires = "calibrate")]
    pub output: Option<PathBuf>,
    /// A second artifact or executable, called in turn with the first
    #[arg(long, value_name = "ARTIFACT", conflicts_with = "profile")]
    pub against: Option<PathBuf>,
    /// Language models: tokens of the prompt
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    pub prefill: usize,
    /// Language models: tokens decoded after the prompt
    #[arg(long, value_name = "TOKENS", default_value_t = 64)]
    pub decode: usize,
    /// Language models: sequences
    #[arg(long, value_name = "B", default_value_t = 1)]
    pub batch: usize,
    /// Measure steps of training instead: forward, backward and optimizer
    #[arg(long, conflicts_with_all = ["against", "calibrate"])]
    pub train: bool,
    /// With --train: compute activations again in the backward pass in place of keeping them
    #[arg(long, alias = "gradient-checkpointing", requires = "train")]
    pub activation_checkpointing: bool,
    /// Time each kernel as well
    #[arg(long)]
    pub profile: bool,
    /// Batch and length; may be repeated [default: 8x128 without --mixed]
    #[arg(long = "shape", value_name = "BATCHxLENGTH")]
    pub shapes: Vec<String>,
    /// 64 sequences of 6 to 200 tokens, 7006 in all, in one call
    #[arg(long)]
    pub mixed: bool,
    /// Threads; 0 means all cores
    #[arg(long, default_value_t = 0, value_parser = threads())]
    pub threads: usize,
    /// Keep each thread to one core
    #[arg(long)]
    pub pin: bool,
    /// Print one JSON line for each shape
    #[arg(long)]
    pub json: bool,
    /// Where the model comes from and how it is read
    #[command(flatten)]
    pub from: ModelArgs,
}
