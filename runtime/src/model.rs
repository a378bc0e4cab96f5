//! A compiled program as the model of a pipeline: token batches in, named arrays out, or a language model over a paged
//! cache. Knows the entry point `forward` and the names of its arguments, no architecture.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::artifact::format::FormatError;
use crate::artifact::{Artifact, ArtifactError};
use crate::cache::{PagePool, PoolError};
use crate::generation::{Batch, ForwardError, GenerationConfig, LanguageModel};
use crate::pipelines::{Args, ModelInfo, Output, Pipeline, PipelineError, RunError, Task, TokenBatch, TokenModel};
use crate::program::{CallError, Program};
use crate::tensor::{Tensor, View};
use crate::tokenizer::{Assets, AutoTokenizer, TokenizerError};

/// Name of the entry point that pipelines call.
pub const ENTRY: &str = "forward";

/// Why an artifact cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The artifact itself.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// Its tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Its task.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// Memory for its cache cannot be had.
    #[error("{path}: {source}")]
    Cache {
        /// The artifact.
        path: PathBuf,
        /// The cause.
        source: PoolError,
    },
    /// A draft model that cannot guess for the model.
    #[error("draft model {} for {}: {problem}", draft.display(), model.display())]
    Draft {
        /// The draft model's artifact.
        draft: PathBuf,
        /// The model's artifact.
        model: PathBuf,
        /// Why not.
        problem: String,
    },
}

/// What an artifact says of its model.
///
/// # Errors
/// When it does not say it in the pipelines' form.
pub fn model_info(artifact: &Artifact) -> Result<ModelInfo, ArtifactError> {
    serde_json::from_value(artifact.manifest().model.clone()).map_err(|e| ArtifactError::Format {
        path: artifact.path().into(),
        source: FormatError::Malformed { what: "the model's description", problem: e.to_string() },
    })
}

/// A program with what pipelines know of it.
pub struct CompiledModel {
    program: Program,
    info: ModelInfo,
}

impl CompiledModel {
    /// A model of a program.
    ///
    /// # Errors
    /// When the manifest does not say what the model is.
    pub fn new(program: Program) -> Result<CompiledModel, ArtifactError> {
        let info = model_info(program.artifact())?;
        Ok(CompiledModel { program, info })
    }

    /// The program.
    pub fn program(&self) -> &Program {
        &self.program
    }
}

impl TokenModel for CompiledModel {
    fn forward(&self, batch: &TokenBatch) -> Result<Vec<Output>, RunError> {
        let vocab = self.info.vocab_size;
        if let Some(id) = batch.input_ids.iter().find(|&&id| usize::try_from(id).map_or(true, |id| id >= vocab)) {
            return Err(RunError::new(format!("token id {id}, the model knows {vocab} tokens")));
        }
        let (tokens, bounds) = ([batch.input_ids.len()], [batch.offsets.len()]);
        let mut args =
            vec![("input_ids", View::i32(&tokens, &batch.input_ids)), ("offsets", View::i32(&bounds, &batch.offsets))];
        let entry = self.program.manifest().entry(ENTRY);
        if entry.is_some_and(|e| e.args.iter().any(|a| a.name == "token_type_ids")) {
            args.push(("token_type_ids", View::i32(&tokens, &batch.token_type_ids)));
        }
        let results = self.program.run(ENTRY, &args).map_err(RunError::new)?;
        let names = entry.map(|e| e.results.as_slice()).unwrap_or_default();
        let output = |(entry, tensor): (&crate::manifest::ResultEntry, crate::tensor::Tensor)| Output {
            name: entry.name.clone(),
            shape: tensor.shape().to_vec(),
            data: tensor.f32s().to_vec(),
        };
        Ok(names.iter().zip(results).map(output).collect())
    }

    fn info(&self) -> &ModelInfo {
        &self.info
    }
}

/// The files an artifact carries, for the tokenizer.
impl Assets for Artifact {
    fn read(&self, name: &str) -> io::Result<Option<Cow<'_, [u8]>>> {
        Ok(self.asset(name).map(Cow::Borrowed))
    }

    fn place(&self) -> String {
        self.path().display().to_string()
    }
}

/// How large a language model's cache may become. Memory is taken as it is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheSize {
    /// Several sequences of the model's full length, but no more than half of the machine's memory.
    #[default]
    Automatic,
    /// Room for this many tokens.
    Tokens(usize),
    /// At most this many bytes.
    Bytes(usize),
}

/// Sequences of full length that the cache has room for by default.
const SEQUENCES: usize = 8;

/// Tokens of a sequence of full length, where positions are not limited.
const UNLIMITED: usize = 32 << 10;

impl CacheSize {
    /// Pages of a cache.
    fn pages(self, page_tokens: usize, page_bytes: usize, max_positions: Option<usize>) -> usize {
        let (page_tokens, page_bytes) = (page_tokens.max(1), page_bytes.max(1));
        let pages = match self {
            CacheSize::Tokens(tokens) => tokens.div_ceil(page_tokens),
            CacheSize::Bytes(bytes) => bytes / page_bytes,
            CacheSize::Automatic => {
                let wanted = max_positions.unwrap_or(UNLIMITED).div_ceil(page_tokens).saturating_mul(SEQUENCES);
                wanted.min(physical_memory() / 2 / page_bytes)
            }
        };
        pages.clamp(1, i32::MAX as usize)
    }
}

/// Bytes of the machine's memory, or a modest guess where the system does not tell.
fn physical_memory() -> usize {
    const GUESS: usize = 4 << 30;
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = info.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<usize>().ok());
    kib.and_then(|kib| kib.checked_mul(1024)).unwrap_or(GUESS)
}

/// A program as a language model, with its cache.
pub struct CompiledLanguageModel {
    program: Program,
    pool: PagePool,
    info: ModelInfo,
    page_tokens: usize,
}

impl CompiledLanguageModel {
    /// A language model of a program with a paged cache.
    ///
    /// # Errors
    /// When the manifest does not say what the model is, or the program has no paged cache or no room for it.
    pub fn new(program: Program, size: CacheSize) -> Result<CompiledLanguageModel, OpenError> {
        let info = model_info(program.artifact())?;
        let failed = |source| OpenError::Cache { path: program.artifact().path().into(), source };
        let cache = program.manifest().cache.as_ref().ok_or(PoolError::NoCache).map_err(failed)?;
        let page_tokens = cache.page_tokens;
        let pages = size.pages(page_tokens, cache.page_bytes, info.max_positions);
        let pool = program.page_pool(pages).map_err(failed)?;
        Ok(CompiledLanguageModel { program, pool, info, page_tokens })
    }

    /// The program.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// What pipelines know of the model.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }
}

impl LanguageModel for CompiledLanguageModel {
    fn vocab_size(&self) -> usize {
        self.info.vocab_size
    }

    fn max_positions(&self) -> Option<usize> {
        self.info.max_positions
    }

    fn page_tokens(&self) -> usize {
        self.page_tokens
    }

    fn pages(&self) -> usize {
        self.pool.pages()
    }

    fn forward(&mut self, batch: &Batch) -> Result<Tensor, ForwardError> {
        Ok(self.results(batch)?.0)
    }

    fn copy_page(&mut self, from: u32, to: u32) {
        self.pool.copy_page(from, to);
    }

    fn hidden_size(&self) -> Option<usize> {
        Some(self.info.hidden_size)
    }

    fn forward_hidden(&mut self, batch: &Batch) -> Result<(Tensor, Tensor), ForwardError> {
        let (logits, hidden) = self.results(batch)?;
        Ok((logits, hidden.ok_or(ForwardError::Unsupported("hidden states"))?))
    }
}

impl CompiledLanguageModel {
    /// Logits, and the hidden states they are made of.
    fn results(&mut self, batch: &Batch) -> Result<(Tensor, Option<Tensor>), ForwardError> {
        let (tokens, bounds, sequences) = ([batch.ids.len()], [batch.offsets.len()], [batch.past.len()]);
        let (table, outputs) = ([batch.past.len(), batch.table], [batch.outputs.len()]);
        let args = [
            ("input_ids", View::i32(&tokens, &batch.ids)),
            ("offsets", View::i32(&bounds, &batch.offsets)),
            ("past", View::i32(&sequences, &batch.past)),
            ("pages", View::i32(&table, &batch.pages)),
            ("outputs", View::i32(&outputs, &batch.outputs)),
        ];
        let results = self.program.run_cached(ENTRY, &args, &mut self.pool).map_err(|e| match e {
            CallError::Memory { .. } => ForwardError::Memory(e.to_string()),
            other => ForwardError::Batch(other.to_string()),
        })?;
        let mut results = results.into_iter();
        let logits = results.next().ok_or_else(|| ForwardError::Batch(format!("`{ENTRY}` has no result")))?;
        Ok((logits, results.next()))
    }
}

/// What a model's files set for generation: `generation_config.json`, and the special tokens that only `config.json`
/// names. (GE-01)
///
/// # Errors
/// When a file is no JSON object.
pub fn generation_config(assets: &(impl Assets + ?Sized)) -> Result<GenerationConfig, TokenizerError> {
    let object = |file: &str| -> Result<Map<String, Value>, TokenizerError> {
        let broken = |message: String| TokenizerError::Broken { place: assets.place(), file: file.into(), message };
        match assets.read(file).map_err(|e| broken(e.to_string()))? {
            None => Ok(Map::new()),
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|e| broken(format!("not a JSON object: {e}"))),
        }
    };
    let (own, warnings) = GenerationConfig::from_model(&object("generation_config.json")?);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let mut config = object("config.json")?;
    config.retain(|name, _| ["bos_token_id", "eos_token_id", "pad_token_id"].contains(&name.as_str()));
    Ok(own.over(&GenerationConfig::from_model(&config).0))
}

/// How an artifact is opened.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Threads to run on; 0 means all cores.
    pub threads: usize,
    /// The task, when it is not the one the artifact was compiled for.
    pub task: Option<Task>,
    /// Room for a language model's cache.
    pub cache: CacheSize,
    /// Artifact of a smaller language model that guesses tokens ahead. (GE-15)
    pub draft: Option<PathBuf>,
}

/// Opens an artifact or executable as a pipeline for `task`, or for the one it was compiled for.
///
/// # Errors
/// When the artifact is broken, carries no tokenizer, or was compiled for another task.
pub fn open_pipeline(path: &Path, threads: usize, task: Option<Task>) -> Result<Pipeline, OpenError> {
    pipeline(Artifact::open(path)?, &OpenOptions { threads, task, ..OpenOptions::default() })
}

/// [`open_pipeline`] of an artifact that is open already.
///
/// # Errors
/// As [`open_pipeline`]; and when the draft model is no language model or has another vocabulary.
pub fn pipeline(artifact: Artifact, options: &OpenOptions) -> Result<Pipeline, OpenError> {
    let tokenizer = AutoTokenizer::from_assets(&artifact)?;
    let task = match options.task {
        Some(task) => task,
        None => model_info(&artifact)?.task,
    };
    if task != Task::TextGeneration {
        let model = CompiledModel::new(Program::new(artifact, options.threads)?)?;
        return Ok(Pipeline::new(task, Box::new(model), tokenizer, Args::new(task))?);
    }
    let config = generation_config(&artifact)?;
    let draft = match &options.draft {
        Some(path) => Some(draft_model(path, artifact.path(), &tokenizer, options)?),
        None => None,
    };
    let model = CompiledLanguageModel::new(Program::new(artifact, options.threads)?, options.cache)?;
    let info = model.info().clone();
    Ok(Pipeline::text_generation(Box::new(model), info, config, draft, tokenizer, Args::new(task))?)
}

/// Opens a draft model and sees to it that its tokens are the model's.
fn draft_model(
    path: &Path,
    model: &Path,
    tokenizer: &AutoTokenizer,
    options: &OpenOptions,
) -> Result<Box<dyn LanguageModel>, OpenError> {
    let artifact = Artifact::open(path)?;
    let own = AutoTokenizer::from_assets(&artifact)?;
    if own.get_vocab() != tokenizer.get_vocab() {
        return Err(OpenError::Draft {
            draft: path.into(),
            model: model.into(),
            problem: format!(
                "its vocabulary of {} tokens is not the model's of {}; both must share one tokenizer",
                own.len(),
                tokenizer.len()
            ),
        });
    }
    let draft = CompiledLanguageModel::new(Program::new(artifact, options.threads)?, options.cache)?;
    Ok(Box::new(draft))
}
