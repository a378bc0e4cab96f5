//! What can go wrong in training. Must not know how errors are shown.

use crate::training::arguments::ArgumentError;
use crate::training::callbacks::CallbackError;
use crate::training::checkpoint::CheckpointError;
use crate::training::collate::CollateError;
use crate::training::data::DataError;
use crate::training::program::StepError;

/// An error of training, evaluation or prediction.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainerError {
    /// Arguments that cannot be, or contradict each other or what was given. (TI-02)
    #[error(transparent)]
    Argument(#[from] ArgumentError),
    /// An example cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Examples do not make a batch.
    #[error("{place}: {source}")]
    Collate {
        /// Which batch of what.
        place: String,
        /// Why.
        source: CollateError,
    },
    /// A loss or a gradient is no number. What was saved before stays. (TL-14)
    #[error(
        "the {what} of update {step} is {value} (epoch {epoch}, batch {batch} of it, examples {examples}); training \
         stops and nothing is saved; look at these examples, or lower learning_rate or max_grad_norm"
    )]
    NotFinite {
        /// Loss or norm of the gradients.
        what: &'static str,
        /// Its value.
        value: f32,
        /// The update, from 1.
        step: u64,
        /// The epoch, from 0.
        epoch: u64,
        /// The (last) batch of the update, from 1, in its epoch.
        batch: u64,
        /// Numbers of the batch's examples.
        examples: String,
    },
    /// Memory does not suffice. (TL-18)
    #[error(
        "out of memory with {examples} examples of {tokens} tokens (the longest has {longest}) in a batch: {problem}; \
         lower {argument} or the length of texts{more}"
    )]
    Memory {
        /// Examples of the batch.
        examples: usize,
        /// Their tokens.
        tokens: usize,
        /// Tokens of the longest.
        longest: usize,
        /// What the program says it needs.
        problem: String,
        /// The argument that says how many examples make a batch.
        argument: &'static str,
        /// What else helps.
        more: &'static str,
    },
    /// The program failed.
    #[error("{place}: {source}")]
    Program {
        /// Which batch of what.
        place: String,
        /// Why.
        source: StepError,
    },
    /// A checkpoint cannot be used or saved.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The metric that chooses models is not among those computed. (EC-09)
    #[error("metric_for_best_model is {name}, which evaluation does not give; it gives {known}")]
    Metric {
        /// The metric.
        name: String,
        /// Those there are.
        known: String,
    },
    /// Metrics cannot be computed from the predictions.
    #[error("metrics: {0}")]
    Metrics(String),
    /// A callback ended training.
    #[error("callback: {0}")]
    Callback(Box<dyn std::error::Error + Send + Sync>),
}

impl From<CallbackError> for TrainerError {
    fn from(error: CallbackError) -> Self {
        match error {
            CallbackError::Argument(error) => TrainerError::Argument(error),
            CallbackError::Other(error) => TrainerError::Callback(error),
        }
    }
}

impl TrainerError {
    /// Whether the data or the usage is at fault (exit code 2) and not the model or the machine (exit code 1).
    pub fn is_usage(&self) -> bool {
        match self {
            TrainerError::Argument(_) | TrainerError::Collate { .. } | TrainerError::Metric { .. } => true,
            TrainerError::Data(error) => error.is_usage(),
            TrainerError::Checkpoint(error) => error.is_usage(),
            TrainerError::NotFinite { .. }
            | TrainerError::Memory { .. }
            | TrainerError::Program { .. }
            | TrainerError::Metrics(_)
            | TrainerError::Callback(_) => false,
        }
    }

    pub(super) fn conflict(text: impl Into<String>) -> Self {
        TrainerError::Argument(ArgumentError::Conflict(text.into()))
    }
}
