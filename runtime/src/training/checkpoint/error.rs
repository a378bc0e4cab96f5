//! What can go wrong with checkpoints. Must not know how errors are shown.

use std::io;
use std::path::{Path, PathBuf};

use crate::training::program::StepError;

/// An error of writing or reading a checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// There is none to resume from. (EC-20)
    #[error("{}: there is no checkpoint to resume from", folder.display())]
    None {
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// It is broken, of another program, or not one of Lith's.
    #[error("checkpoint {}: {problem}", path.display())]
    Unusable {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it, expected and found.
        problem: String,
    },
    /// It cannot be written. Earlier ones are as they were.
    #[error("{} cannot be written: {source}{}", path.display(), match kept {
        Some(kept) => format!("; the last complete checkpoint is {}", kept.display()),
        None => String::new(),
    })]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
        /// The newest checkpoint there is.
        kept: Option<PathBuf>,
    },
    /// The program does not give or take a tensor.
    #[error(transparent)]
    Program(#[from] StepError),
}

impl CheckpointError {
    pub(super) fn unusable(path: &Path, problem: impl Into<String>) -> Self {
        CheckpointError::Unusable { path: path.into(), problem: problem.into() }
    }

    pub(super) fn write(path: &Path, source: io::Error) -> Self {
        CheckpointError::Write { path: path.into(), source, kept: None }
    }

    /// Whether what was given is at fault (exit code 2) and not the machine (exit code 1).
    pub fn is_usage(&self) -> bool {
        matches!(self, CheckpointError::None { .. } | CheckpointError::Unusable { .. })
    }
}
