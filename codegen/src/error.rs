//! Why code generation fails.

use std::path::PathBuf;

/// Why a program cannot be compiled or its artifact not be written.
#[derive(Debug, thiserror::Error)]
pub enum CodegenError {
    /// No such target.
    #[error("unknown target `{name}`; known: {}", crate::Target::NAMES.join(", "))]
    Target {
        /// What was asked for.
        name: String,
    },
    /// The plan is not one of this program: a pass has a bug.
    #[error("plan of `{graph}`: {problem}")]
    Plan {
        /// Function or entry point.
        graph: String,
        /// What does not fit.
        problem: String,
    },
    /// Cranelift refused generated code: a bug.
    #[error("{what}: {problem}")]
    Internal {
        /// What was generated.
        what: String,
        /// Cranelift's message.
        problem: String,
    },
    /// A weight is not what the program says.
    #[error(transparent)]
    Weight(#[from] lith_runtime::weights::WeightError),
    /// The artifact cannot be written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}
