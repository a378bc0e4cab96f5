//! What can be wrong with a configuration.

use std::path::PathBuf;

use crate::source::SourceError;

/// Why a configuration cannot be used. Every variant is bad input (exit code 2).
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no `config.json`.
    #[error(
        "{place}: no config.json{}",
        if *adapter { "; adapter_config.json is there: this is an adapter, give the model it adapts" } else { "" }
    )]
    Missing {
        /// The directory or repository.
        place: String,
        /// Whether `adapter_config.json` lies there.
        adapter: bool,
    },
    /// The file could not be had.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Not JSON, or no JSON object.
    #[error("{}: not a JSON configuration: {reason}", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// What the JSON reader says.
        reason: String,
    },
    /// No `model_type`.
    #[error("{}: no `model_type`; add one of {known}", file.display())]
    NoModelType {
        /// The file.
        file: PathBuf,
        /// The types Lith has.
        known: String,
    },
    /// A `model_type` Lith does not have.
    #[error("{}: unknown model_type `{model_type}`; known: {known} (a newer Lith may know more)", file.display())]
    UnknownModelType {
        /// The file.
        file: PathBuf,
        /// Its model type.
        model_type: String,
        /// The types Lith has.
        known: String,
    },
    /// The repository brings Python code that the architecture needs.
    #[error("{}: {what} needs Python code from the repository (`auto_map`), which Lith does not run", file.display())]
    RemoteCode {
        /// The file.
        file: PathBuf,
        /// What needs code.
        what: String,
    },
    /// A field of a wrong type or value.
    #[error("{}: field `{field}`: expected {expected}, found {found}", file.display())]
    Field {
        /// The file.
        file: PathBuf,
        /// The field.
        field: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// An override that is not `key=value`.
    #[error("`{assignment}` is no override: write key=value")]
    Override {
        /// What was given.
        assignment: String,
    },
}
