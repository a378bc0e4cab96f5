//! What can be wrong with adapters.

use std::path::PathBuf;

use crate::checkpoint::CheckpointError;
use crate::source::SourceError;

/// Why adapters cannot be read, placed or made. Every variant is bad input (exit code 2).
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// A file could not be had.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The weights are broken.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A file of an adapter is not there.
    #[error("{place}: no adapter: it has no {file}")]
    Missing {
        /// The folder or repository.
        place: String,
        /// What was looked for.
        file: String,
    },
    /// Not JSON, or no JSON object.
    #[error("{}: not a JSON configuration: {reason}", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// What the JSON reader says.
        reason: String,
    },
    /// A field of a wrong type or value.
    #[error("{}: field `{field}`: expected {expected}, found {found}", file.display())]
    Field {
        /// The file, or what stands for it.
        file: PathBuf,
        /// The field.
        field: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A field asks for what Lith does not do.
    #[error("{}: field `{field}`: {problem}", file.display())]
    Unsupported {
        /// The file, or what stands for it.
        file: PathBuf,
        /// The field.
        field: String,
        /// What is not done.
        problem: String,
    },
    /// Nothing tells which layers are adapted.
    #[error("`{model_type}` has no default target modules: name some; its linear layers are {known}")]
    NoTargets {
        /// The model type.
        model_type: String,
        /// Its layers.
        known: String,
    },
    /// None of the layers is a target.
    #[error("{place}: the target modules {targets} are none of the model's linear layers, which are {known}")]
    NoMatch {
        /// The adapter.
        place: String,
        /// What it names.
        targets: String,
        /// The model's layers.
        known: String,
    },
    /// Tensors that belong nowhere in the model.
    #[error("{place}: the model has no place for {}; its linear layers are {known}", names.join(", "))]
    Unplaced {
        /// The adapter's file.
        place: String,
        /// The tensors.
        names: Vec<String>,
        /// The model's layers.
        known: String,
    },
    /// A tensor lacks its partner.
    #[error("{place}: there is `{found}`, but no `{missing}`")]
    Half {
        /// The adapter's file.
        place: String,
        /// The tensor that is there.
        found: String,
        /// The one that is not.
        missing: String,
    },
    /// A tensor of another shape.
    #[error("{place}: tensor `{tensor}`: expected {expected:?}, found {found:?}: the adapter was made for {base}")]
    Shape {
        /// The adapter's file.
        place: String,
        /// The tensor.
        tensor: String,
        /// The shape that fits the model.
        expected: Vec<usize>,
        /// Its shape.
        found: Vec<usize>,
        /// The model that the adapter says it is for.
        base: String,
    },
    /// Infinite or no numbers.
    #[error("{place}: tensor `{tensor}`: it holds numbers that are not finite")]
    NotFinite {
        /// The adapter's file.
        place: String,
        /// The tensor.
        tensor: String,
    },
    /// A module that would have to change where it is shared, but not elsewhere.
    #[error("{place}: `{module}` is tied to the output layer, which the adapter does not adapt")]
    Tied {
        /// The adapter's file.
        place: String,
        /// The module.
        module: String,
    },
}
