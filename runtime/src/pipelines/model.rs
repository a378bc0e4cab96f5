//! What a pipeline knows of a model: how to call it and what its answers mean. Must not know how it is executed.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::PipelineError;

/// What a model is used for. (TR-01)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// One label for a text or a pair of texts.
    TextClassification,
    /// One label for each token or word.
    TokenClassification,
    /// The likeliest tokens at masked places.
    FillMask,
    /// A span of a context that answers a question.
    QuestionAnswering,
    /// The hidden states themselves.
    FeatureExtraction,
    /// Free labels, through a model of natural language inference.
    ZeroShotClassification,
    /// One vector for a text, as sentence-transformers makes it.
    SentenceEmbedding,
    /// The text that follows, or the answer in a conversation.
    TextGeneration,
}

/// Every task with its names, the usual one first.
const TASKS: &[(Task, &[&str])] = &[
    (Task::TextClassification, &["text-classification", "sentiment-analysis"]),
    (Task::TokenClassification, &["token-classification", "ner"]),
    (Task::FillMask, &["fill-mask"]),
    (Task::QuestionAnswering, &["question-answering"]),
    (Task::FeatureExtraction, &["feature-extraction"]),
    (Task::ZeroShotClassification, &["zero-shot-classification"]),
    (Task::SentenceEmbedding, &["sentence-embedding", "sentence-similarity"]),
    (Task::TextGeneration, &["text-generation"]),
];

impl Task {
    /// All tasks.
    pub fn all() -> impl Iterator<Item = Task> {
        TASKS.iter().map(|(task, _)| *task)
    }

    /// The task's usual name.
    pub fn name(self) -> &'static str {
        TASKS.iter().find(|(task, _)| *task == self).map_or("", |(_, names)| names[0])
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Task {
    type Err = PipelineError;

    fn from_str(s: &str) -> Result<Self, PipelineError> {
        let found = TASKS.iter().find(|(_, names)| names.contains(&s)).map(|(task, _)| *task);
        found.ok_or_else(|| PipelineError::UnknownTask {
            task: s.into(),
            known: TASKS.iter().flat_map(|(_, names)| *names).copied().collect::<Vec<_>>().join(", "),
        })
    }
}

/// What pipelines need to know of a model. It is stored with the compiled program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// What the program was compiled for.
    pub task: Task,
    /// The architecture family (`bert`, ...).
    pub model_type: String,
    /// Names of the labels by index.
    #[serde(default)]
    pub id2label: BTreeMap<usize, String>,
    /// Indices of the labels, in the order of the config.
    #[serde(default)]
    pub label2id: Vec<(String, usize)>,
    /// `regression`, `single_label_classification` or `multi_label_classification`, where the config says it.
    #[serde(default)]
    pub problem_type: Option<String>,
    /// Most tokens a sequence may have, special tokens included.
    #[serde(default)]
    pub max_positions: Option<usize>,
    /// Tokens that a sentence-transformers directory cuts every text to.
    #[serde(default)]
    pub max_seq_length: Option<usize>,
    /// Whether a sentence-transformers directory lowers every text before tokenization.
    #[serde(default)]
    pub do_lower_case: bool,
    /// Whether the model tells first and second sequence of a pair apart by token types.
    pub has_token_types: bool,
    /// Rows of the token embedding: every id must be below.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
}

impl ModelInfo {
    /// The name of label `index`: the config's, or `LABEL_<index>`.
    pub fn label(&self, index: usize) -> String {
        self.id2label.get(&index).cloned().unwrap_or_else(|| format!("LABEL_{index}"))
    }
}

/// Token sequences one after the other, without padding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenBatch {
    /// Token ids `[tokens]`.
    pub input_ids: Vec<i32>,
    /// Token types `[tokens]`; zeros for a model without them.
    pub token_type_ids: Vec<i32>,
    /// Where sequence `i` starts and ends: `offsets[i]..offsets[i + 1]`; `[sequences + 1]`, from 0 to the number of tokens.
    pub offsets: Vec<i32>,
}

impl TokenBatch {
    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Number of tokens of all sequences.
    pub fn tokens(&self) -> usize {
        self.input_ids.len()
    }
}

/// One result of a call, row-major.
///
/// Names are Transformers': `logits` (`[sequences, labels]`, `[tokens, labels]` or `[tokens, vocabulary]`), `start_logits`
/// and `end_logits` (`[tokens]` or `[tokens, 1]`; or `logits` `[tokens, 2]`), `last_hidden_state` (`[tokens, hidden]`),
/// `sentence_embedding` (`[sequences, dim]`).
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// Its sizes.
    pub shape: Vec<usize>,
    /// Its values.
    pub data: Vec<f32>,
}

/// A model failed to run.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct RunError(#[from] Box<dyn std::error::Error + Send + Sync>);

impl RunError {
    /// Wraps what went wrong: an error or a message.
    pub fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        RunError(error.into())
    }
}

/// A model that takes tokens. A sequence's results may not depend on the sequences beside it, bit for bit.
pub trait TokenModel: Send + Sync {
    /// Runs the model on a batch.
    ///
    /// # Errors
    /// When the program fails.
    fn forward(&self, batch: &TokenBatch) -> Result<Vec<Output>, RunError>;

    /// What its answers mean.
    fn info(&self) -> &ModelInfo;
}
