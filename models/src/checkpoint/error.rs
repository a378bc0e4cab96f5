//! What can be wrong with a checkpoint.

use std::path::{Path, PathBuf};

use crate::source::SourceError;

/// Why a checkpoint cannot be read. Every variant is bad input (exit code 2).
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file could not be had.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// No weights were found.
    #[error("{place}: no weights; looked for {looked_for}{hint}")]
    NotFound {
        /// The directory or repository.
        place: String,
        /// The file names that were looked for.
        looked_for: String,
        /// What lies there instead, or an empty string.
        hint: String,
    },
    /// Weights are there, but not of the variant asked for.
    #[error("{place}: no weights of variant `{variant}`; {present} is there: leave the variant out to use it")]
    NoVariant {
        /// The directory or repository.
        place: String,
        /// The variant asked for.
        variant: String,
        /// The plain weights.
        present: String,
    },
    /// Shards that the index names are not there.
    #[error("{}: missing shards: {}", index.display(), shards.join(", "))]
    MissingShards {
        /// The index file.
        index: PathBuf,
        /// Every missing shard.
        shards: Vec<String>,
    },
    /// The index is not one.
    #[error("{}: not an index of shards: {reason}", file.display())]
    Index {
        /// The index file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file is broken as a whole.
    #[error("{}: {reason}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// One tensor of a file is broken.
    #[error("{}: tensor `{tensor}`: {reason}", file.display())]
    Tensor {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong.
        reason: String,
    },
    /// A pickle asks for something that is not needed for tensors.
    #[error("{}: the pickle asks for `{callable}`, which is no tensor; Lith executes nothing from a checkpoint", file.display())]
    ForbiddenCallable {
        /// The file.
        file: PathBuf,
        /// `module.name` of what it asks for.
        callable: String,
    },
}

impl CheckpointError {
    pub(super) fn file(file: &Path, reason: impl Into<String>) -> Self {
        CheckpointError::File { file: file.to_path_buf(), reason: reason.into() }
    }

    pub(super) fn tensor(file: &Path, tensor: &str, reason: impl Into<String>) -> Self {
        CheckpointError::Tensor { file: file.to_path_buf(), tensor: tensor.to_string(), reason: reason.into() }
    }
}
