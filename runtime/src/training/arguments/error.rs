//! What can be wrong with the arguments of training. All of it is wrong usage (exit code 2).

/// An error of training arguments.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArgumentError {
    /// An argument that does not exist.
    #[error("unknown training argument {name:?}{hint}")]
    Unknown {
        /// The name given.
        name: String,
        /// The most similar names, as a sentence to follow; empty when none is similar.
        hint: String,
    },
    /// A value that cannot be used.
    #[error("training argument {name}: {problem}")]
    Value {
        /// The argument.
        name: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// Arguments that contradict each other, or what else was given.
    #[error("{0}")]
    Conflict(String),
    /// A file of arguments that cannot be read.
    #[error("{file}: {problem}")]
    File {
        /// The file.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl ArgumentError {
    pub(in crate::training) fn value(name: &str, problem: impl Into<String>) -> Self {
        ArgumentError::Value { name: name.into(), problem: problem.into() }
    }
}
