//! What keeps a configuration from becoming a program.

use std::path::PathBuf;

use lith_frontend::TraceError;

use crate::adapters::AdapterError;
use crate::config::{ConfigError, Head};

/// Why a model cannot be traced. Every variant is bad input (exit code 2).
#[derive(Debug, thiserror::Error)]
pub enum FamilyError {
    /// The configuration is known, its architecture is not implemented.
    #[error("{}: no architecture for model_type `{model_type}`; there are {known}", file.display())]
    NoFamily {
        /// The configuration file.
        file: PathBuf,
        /// Its model type.
        model_type: &'static str,
        /// The model types there are.
        known: String,
    },
    /// The family lacks the head.
    #[error("{}: `{model_type}` has no head `{head}`; its heads are {heads}", file.display())]
    NoHead {
        /// The configuration file.
        file: PathBuf,
        /// Its model type.
        model_type: &'static str,
        /// The head that was asked for.
        head: Head,
        /// The heads there are.
        heads: String,
    },
    /// Adapters cannot be made for it.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// A field is absent or out of range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Sizes in the configuration do not fit each other.
    #[error("{}: {source}", file.display())]
    Trace {
        /// The configuration file.
        file: PathBuf,
        /// The model path and the types that do not fit.
        source: Box<TraceError>,
    },
    /// A sentence-transformers module is not usable.
    #[error("{}: {problem}", file.display())]
    Module {
        /// `modules.json`, or the module's configuration.
        file: PathBuf,
        /// What is wrong.
        problem: String,
    },
}
