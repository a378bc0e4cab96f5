//! Being built.
pub mod dtype;
pub use dtype::DType;
