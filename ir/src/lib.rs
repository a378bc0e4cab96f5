//! Lith's intermediate representation: dtypes, symbolic dimensions, ops, graphs and programs, with verifier, text form
//! and a reference interpreter. Knows no device, no file format and no model.
#![forbid(unsafe_code)]

pub mod attr;
pub mod build;
pub mod decompose;
pub mod dim;
pub mod dtype;
pub mod graph;
pub mod infer;
pub mod interp;
pub mod op;
pub mod plan;
pub mod program;
pub mod quant;
pub mod testing;
pub mod text;
pub mod types;
pub mod verify;

pub use build::Builder;
pub use dim::{Dim, Symbol, SymbolInfo, Symbols};
pub use dtype::DType;
pub use graph::{Graph, GraphError, Node, NodeId, Use, Value};
pub use op::{Activation, Arity, Binary, CachePart, Class, Compare, Op, Pool, Reduction, Unary, dropped_of};
pub use program::Program;
pub use types::{Literal, Type};
pub use verify::{VerifyError, verify};
