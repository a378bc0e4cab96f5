//! What can go wrong while tracing.

use lith_ir::GraphError;
use lith_ir::Type;

/// Why a trace has no program: the first thing that did not fit. What came after it was not recorded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// Operands do not fit an op: the model path and the types of both.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// One parameter was asked for with two types.
    #[error("at `{path}`: parameter `{name}` is {first} and {second}")]
    Parameter {
        /// The model path of the second request.
        path: String,
        /// The parameter.
        name: String,
        /// The type of the first request.
        first: Type,
        /// The type of the second request.
        second: Type,
    },
    /// A tensor of another trace was used.
    #[error("at `{path}`: {op} of a tensor of another trace")]
    Foreign {
        /// The model path.
        path: String,
        /// The op.
        op: &'static str,
    },
    /// Two results, arguments or symbols of one name.
    #[error("at `{path}`: a second {what} `{name}`")]
    Duplicate {
        /// The model path.
        path: String,
        /// What there are two of.
        what: &'static str,
        /// Their name.
        name: String,
    },
}
