//! What can be wrong with a GGUF file.

use std::path::{Path, PathBuf};

use crate::source::SourceError;

/// Why a GGUF file cannot be used. Every variant is bad input (exit code 2).
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// A file could not be had.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A file is broken as a whole.
    #[error("{}: {reason}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// One entry of the metadata is absent, broken or of another type than it must be.
    #[error("{}: metadata `{key}`: {reason}", file.display())]
    Key {
        /// The file.
        file: PathBuf,
        /// The key.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// One tensor is broken.
    #[error("{}: tensor `{tensor}`: {reason}", file.display())]
    Tensor {
        /// The file.
        file: PathBuf,
        /// The tensor, by its name in the file.
        tensor: String,
        /// What is wrong.
        reason: String,
    },
    /// An architecture Lith does not have.
    #[error("{}: unknown architecture `{architecture}`; known: {known}", file.display())]
    Architecture {
        /// The file.
        file: PathBuf,
        /// `general.architecture`.
        architecture: String,
        /// Those Lith has.
        known: String,
    },
}

impl GgufError {
    pub(super) fn file(file: &Path, reason: impl Into<String>) -> Self {
        GgufError::File { file: file.to_path_buf(), reason: reason.into() }
    }

    pub(super) fn key(file: &Path, key: &str, reason: impl Into<String>) -> Self {
        GgufError::Key { file: file.to_path_buf(), key: key.to_string(), reason: reason.into() }
    }

    pub(super) fn tensor(file: &Path, tensor: &str, reason: impl Into<String>) -> Self {
        GgufError::Tensor { file: file.to_path_buf(), tensor: tensor.to_string(), reason: reason.into() }
    }
}
