//! What can go wrong in generation. Must not know how errors are shown.

use super::model::ForwardError;

/// An error of generation: of the options, of a request, or of one sequence while others go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerationError {
    /// An option that does not exist. (GE-04)
    #[error("unknown generation option {name:?}; known options: {known}")]
    UnknownOption {
        /// The name given.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// An option's value cannot be used, alone or beside another's.
    #[error("option {name}: {problem}")]
    Option {
        /// The option.
        name: String,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// The prompt cannot be continued.
    #[error("{0}")]
    Prompt(String),
    /// The model cannot do what the options ask for.
    #[error("{0}")]
    Unsupported(String),
    /// The draft model does not fit the model.
    #[error(
        "the draft model has {draft} tokens in its vocabulary, the model has {model}; both must share one tokenizer"
    )]
    Draft {
        /// Vocabulary of the draft model.
        draft: usize,
        /// Vocabulary of the model.
        model: usize,
    },
    /// The cache is too small for a sequence; other sequences go on.
    #[error(
        "out of cache: {tokens} tokens need {need} pages of {page_tokens} tokens, {have} can be had; \
         shorten the prompt, ask for fewer tokens or sequences, or give the cache more memory"
    )]
    Pages {
        /// Tokens of the sequences.
        tokens: usize,
        /// Pages they need.
        need: usize,
        /// Pages they hold or could still get.
        have: usize,
        /// Tokens of a page.
        page_tokens: usize,
    },
    /// Nothing can be chosen from the logits.
    #[error("no token can follow after {tokens} tokens: {problem}")]
    Logits {
        /// Tokens so far.
        tokens: usize,
        /// What the scores look like.
        problem: &'static str,
    },
    /// The model failed.
    #[error(transparent)]
    Forward(#[from] ForwardError),
}

impl GenerationError {
    pub(super) fn option(name: &str, problem: impl Into<String>) -> Self {
        GenerationError::Option { name: name.into(), problem: problem.into() }
    }

    /// Whether the caller can mend it by asking differently (exit code 2).
    pub fn is_usage(&self) -> bool {
        match self {
            GenerationError::UnknownOption { .. }
            | GenerationError::Option { .. }
            | GenerationError::Prompt(_)
            | GenerationError::Unsupported(_)
            | GenerationError::Draft { .. } => true,
            GenerationError::Pages { .. } | GenerationError::Logits { .. } | GenerationError::Forward(_) => false,
        }
    }
}
