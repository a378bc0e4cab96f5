//! Pipelines: texts to answers, with the arguments and results of Transformers' pipelines.
//!
//! A pipeline knows its model as a [`TokenModel`] alone (token sequences in, named arrays out) or, for text generation, as
//! a [`LanguageModel`]. Each task is one file that encodes inputs, has the sequences run, and reads the answers. Must not
//! know programs, artifacts or how they run.

mod args;
mod error;
mod feature_extraction;
mod fill_mask;
mod input;
mod math;
mod model;
mod question_answering;
mod run;
mod sentence_embedding;
mod stream;
mod text_classification;
mod text_generation;
mod token_classification;
mod zero_shot;

use std::sync::Arc;

use serde_json::{Map, Value};

pub use args::{ArgKind, ArgSpec, Args};
pub use error::PipelineError;
pub use input::Input;
pub use model::{ModelInfo, Output, RunError, Task, TokenBatch, TokenModel};
pub use stream::{Answers, Gather};
pub use text_generation::Piece;

pub(crate) use stream::Batches;

use crate::generation::{Cancel, GenerationConfig, LanguageModel};
use crate::tokenizer::{AutoTokenizer, EncodeOptions};
use input::Form;
use text_generation::Writer;

/// A model with its tokenizer, ready for one task. Calls may run on many threads at once. (PI-07)
pub struct Pipeline {
    task: Task,
    model: Model,
    tokenizer: Arc<AutoTokenizer>,
    defaults: Args,
}

/// What a pipeline runs.
enum Model {
    /// A model that reads.
    Tokens(Box<dyn TokenModel>),
    /// A model that writes.
    Language(Box<Writer>),
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("task", &self.task).field("defaults", &self.defaults).finish_non_exhaustive()
    }
}

impl Pipeline {
    /// A pipeline for `task`; `defaults` hold for calls that do not override them (PI-01).
    ///
    /// # Errors
    /// When the model was compiled for a task whose outputs do not serve this one, when `defaults` are another task's,
    /// or when the tokenizer lacks a token the task needs.
    pub fn new(
        task: Task,
        model: Box<dyn TokenModel>,
        tokenizer: AutoTokenizer,
        defaults: Args,
    ) -> Result<Self, PipelineError> {
        Pipeline::build(task, Model::Tokens(model), tokenizer, defaults)
    }

    /// A pipeline for text generation. `config` is what the model's own files set (`generation_config.json`); `defaults`
    /// hold for calls that do not override them. A `draft` model guesses tokens ahead. (GE-01, GE-15)
    ///
    /// # Errors
    /// As [`Pipeline::new`]; and when the draft model's vocabulary is another.
    pub fn text_generation(
        model: Box<dyn LanguageModel>,
        info: ModelInfo,
        config: GenerationConfig,
        draft: Option<Box<dyn LanguageModel>>,
        tokenizer: AutoTokenizer,
        defaults: Args,
    ) -> Result<Self, PipelineError> {
        let writer = Writer::new(model, info, config, draft)?;
        Pipeline::build(Task::TextGeneration, Model::Language(Box::new(writer)), tokenizer, defaults)
    }

    fn build(task: Task, model: Model, mut tokenizer: AutoTokenizer, defaults: Args) -> Result<Self, PipelineError> {
        let info = model.info();
        if !serves(info.task, task) || defaults.task() != task {
            let wanted = if defaults.task() == task { task } else { defaults.task() };
            return Err(PipelineError::WrongTask { compiled: info.task.to_string(), wanted: wanted.to_string() });
        }
        // A tokenizer may promise more than the model has positions for.
        tokenizer.model_max_length = match (tokenizer.model_max_length, info.max_positions) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        if task == Task::FillMask && tokenizer.mask_token_id().is_none() {
            let problem = "the tokenizer does not define a mask_token".into();
            return Err(PipelineError::NoToken { task: task.to_string(), problem });
        }
        Ok(Pipeline { task, model, tokenizer: Arc::new(tokenizer), defaults })
    }

    /// What this pipeline does. (PI-04)
    pub fn task(&self) -> Task {
        self.task
    }

    /// What it knows of its model. (PI-04)
    pub fn info(&self) -> &ModelInfo {
        self.model.info()
    }

    /// Its tokenizer. (PI-04)
    pub fn tokenizer(&self) -> &AutoTokenizer {
        &self.tokenizer
    }

    /// Answers each input, in order: value `i` is what Transformers' `pipeline(inputs[i], **args)` returns.
    ///
    /// The inputs share forward calls, without padding; each answer is the same, bit for bit, as of the input alone.
    /// Only `similarity` of sentence embeddings relates inputs to each other: row `i` holds the similarities of input `i`
    /// to every input.
    ///
    /// # Errors
    /// [`PipelineError`] naming the input or the argument; no input is answered then.
    pub fn call(&self, inputs: &[Input], args: &Args) -> Result<Vec<Value>, PipelineError> {
        self.call_streaming(inputs, args, &Cancel::new(), &mut |_| {})
    }

    /// [`Pipeline::call`] that hands over new text as it comes, never a part of a character, and ends early when `cancel`
    /// is raised: what was written until then is the answer. Beam search has no pieces, nor have other tasks than text
    /// generation. (TD-07, GE-45)
    ///
    /// # Errors
    /// As [`Pipeline::call`].
    pub fn call_streaming(
        &self,
        inputs: &[Input],
        args: &Args,
        cancel: &Cancel,
        on_piece: &mut dyn FnMut(&Piece<'_>),
    ) -> Result<Vec<Value>, PipelineError> {
        if args.task() != self.task {
            let wanted = args.task().to_string();
            return Err(PipelineError::WrongTask { compiled: self.task.to_string(), wanted });
        }
        let args = args.over(&self.defaults);
        match self.task {
            Task::TextClassification => text_classification::call(self, inputs, &args),
            Task::TokenClassification => token_classification::call(self, inputs, &args),
            Task::FillMask => fill_mask::call(self, inputs, &args),
            Task::QuestionAnswering => question_answering::call(self, inputs, &args),
            Task::FeatureExtraction => feature_extraction::call(self, inputs, &args),
            Task::ZeroShotClassification => zero_shot::call(self, inputs, &args),
            Task::SentenceEmbedding => sentence_embedding::call(self, inputs, &args),
            Task::TextGeneration => text_generation::call(self, inputs, &args, cancel, on_piece),
        }
    }

    /// Transformers' `pipeline(inputs, **args)`: one input gives one answer, a list gives the list of answers. (PP-01)
    ///
    /// # Errors
    /// As [`Pipeline::call`] and [`Args::from_json`].
    pub fn call_json(&self, inputs: &Value, args: &Map<String, Value>) -> Result<Value, PipelineError> {
        let args = Args::from_json(self.task, args)?;
        let all = args.over(&self.defaults);
        let split = self.task == Task::TokenClassification && all.flag("is_split_into_words") == Some(true);
        let (inputs, form) = input::read(self.task, split, inputs)?;
        let mut answers = self.call(&inputs, &args)?;
        // Two habits of upstream: the best label of a text comes in a list of its own only for a text alone, and a list
        // of one masked text is answered like the text.
        if form == Form::List && self.task == Task::TextClassification && text_classification::best_only(&all) {
            for answer in &mut answers {
                if let Value::Array(labels) = answer {
                    *answer = labels.pop().unwrap_or(Value::Null);
                }
            }
        }
        let alone = form == Form::Single || (self.task == Task::FillMask && answers.len() == 1);
        Ok(if alone { answers.pop().unwrap_or(Value::Null) } else { Value::Array(answers) })
    }

    /// The tokenizer options `truncation` and `max_length`, found by `get`.
    fn encode_options<'a>(&self, get: impl Fn(&str) -> Option<&'a Value>) -> Result<EncodeOptions, PipelineError> {
        let mut options = EncodeOptions::default();
        if let Some(value) = get("truncation").filter(|v| !v.is_null()) {
            let word = value.as_str().map_or_else(|| value.to_string(), str::to_string);
            let truncation = word.parse().map_err(|e| PipelineError::argument("truncation", format!("{e}")))?;
            options.truncation = Some(truncation);
        }
        if let Some(value) = get("max_length").filter(|v| !v.is_null()) {
            let n = value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0);
            options.max_length =
                Some(n.ok_or_else(|| PipelineError::argument("max_length", "must be a whole number of at least 1"))?);
        }
        Ok(options)
    }
}

impl Model {
    fn info(&self) -> &ModelInfo {
        match self {
            Model::Tokens(model) => model.info(),
            Model::Language(writer) => writer.info(),
        }
    }
}

/// Whether a model compiled for one task has the outputs that another needs.
fn serves(compiled: Task, task: Task) -> bool {
    let head = |task| if task == Task::ZeroShotClassification { Task::TextClassification } else { task };
    head(compiled) == head(task)
}
