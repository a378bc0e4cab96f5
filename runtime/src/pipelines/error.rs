//! What can go wrong in a pipeline. Must not know how errors are shown.

use super::model::RunError;
use crate::generation::GenerationError;
use crate::tokenizer::TokenizerError;

/// An error of a pipeline. Inputs are counted from 0.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// A task that does not exist.
    #[error("unknown task {task:?}; known tasks: {known}")]
    UnknownTask {
        /// The name given.
        task: String,
        /// The names that exist.
        known: String,
    },
    /// The model was compiled for something else.
    #[error("the model was compiled for {compiled} and cannot be used for {wanted}")]
    WrongTask {
        /// What the model is for.
        compiled: String,
        /// What was asked for.
        wanted: String,
    },
    /// An argument the task does not have.
    #[error("{task} has no argument {name:?}; its arguments: {known}")]
    UnknownArgument {
        /// The task.
        task: String,
        /// The argument given.
        name: String,
        /// The arguments that exist.
        known: String,
    },
    /// An argument's value cannot be used.
    #[error("argument {name}: {problem}")]
    Argument {
        /// The argument.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An input cannot be used.
    #[error("input {index}: {problem}")]
    Input {
        /// Which input.
        index: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// An input has more tokens than the model takes. (PP-06)
    #[error("input {index} has {tokens} tokens, more than the {limit} the model takes; {remedy}")]
    TooLong {
        /// Which input.
        index: usize,
        /// Its length.
        tokens: usize,
        /// The model's limit.
        limit: usize,
        /// What to do.
        remedy: String,
    },
    /// The tokenizer refused an input or an option.
    #[error("input {index}: {source}")]
    Tokenizer {
        /// Which input (the first of those encoded together).
        index: usize,
        /// Why.
        source: TokenizerError,
    },
    /// The options of generation cannot be used, or generation failed.
    #[error(transparent)]
    Generation(#[from] GenerationError),
    /// The tokenizer lacks something the task needs.
    #[error("{task}: {problem}")]
    NoToken {
        /// The task.
        task: String,
        /// What is missing.
        problem: String,
    },
    /// The model failed.
    #[error("the model failed: {0}")]
    Model(#[from] RunError),
    /// The model's output is not what the task needs.
    #[error("the model's output {name}: {problem}")]
    Output {
        /// The output.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl PipelineError {
    /// Whether the input or the usage is at fault (exit code 2) and not the model or the machine (exit code 1).
    pub fn is_usage(&self) -> bool {
        match self {
            PipelineError::Model(_) | PipelineError::Output { .. } => false,
            PipelineError::Generation(e) => e.is_usage(),
            _ => true,
        }
    }

    /// The error of an input before which `inputs` others came.
    pub(crate) fn after(mut self, inputs: usize) -> Self {
        match &mut self {
            PipelineError::Input { index, .. }
            | PipelineError::TooLong { index, .. }
            | PipelineError::Tokenizer { index, .. } => *index += inputs,
            _ => {}
        }
        self
    }

    pub(super) fn argument(name: &str, problem: impl Into<String>) -> Self {
        PipelineError::Argument { name: name.into(), problem: problem.into() }
    }

    pub(super) fn output(name: &str, problem: impl Into<String>) -> Self {
        PipelineError::Output { name: name.into(), problem: problem.into() }
    }
}
