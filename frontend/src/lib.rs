//! Lith's tracer: [`Tensor`] values with operators and methods that record what is done to them into a graph, scopes
//! that give nodes their model path and parameters their on-disk names, `nn` blocks, and sequence layouts that model
//! code does not notice. Knows no configuration, no checkpoint and no model.
#![forbid(unsafe_code)]

mod cache;
mod error;
pub mod nn;
pub mod sequence;
mod tensor;
mod trace;

pub use cache::CacheType;
pub use error::TraceError;
pub use sequence::{Layout, Sequence};
pub use tensor::Tensor;
pub use trace::{LinearLayer, Scope, Trace};

#[cfg(test)]
mod tests;
