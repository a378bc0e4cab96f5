//! What can go wrong when examples become a batch. Must not know how errors are shown.

/// An error of a collator. Every variant is bad data or wrong usage (exit code 2). Samples are counted from 0 within their
/// batch.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CollateError {
    /// A batch of nothing.
    #[error("a batch needs at least one sample")]
    Empty,
    /// A sample lacks a feature that is needed, or that others of its batch have.
    #[error("sample {sample} has no feature {name:?}; it has {known}")]
    Missing {
        /// Which sample.
        sample: usize,
        /// The feature.
        name: String,
        /// The features it has.
        known: String,
    },
    /// A feature has another kind or length than it must have.
    #[error("feature {name:?} of sample {sample}: expected {expected}, found {found}")]
    Shape {
        /// Which sample.
        sample: usize,
        /// The feature.
        name: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The batch has more tokens than a program counts.
    #[error("a batch of {tokens} tokens is too large: {limit} at most")]
    TooLarge {
        /// Tokens, padding included.
        tokens: usize,
        /// The most there may be.
        limit: usize,
    },
    /// A setting cannot be used.
    #[error("{name}: {problem}")]
    Argument {
        /// The setting.
        name: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}
