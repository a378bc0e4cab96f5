//! Quantization: schemes for weights with the error each makes, and 8-bit activations, which are part of the graph.
//!
//! How a weight is stored is no matter of the graph: a parameter keeps its type, and its value is what the stored codes
//! stand for. What changes the graph is rounding activations; that is this module's stage.

mod activations;
mod report;
mod round;
mod schemes;

pub use activations::Rounding;
pub(crate) use activations::run;
pub use report::{Error, LayerError, MIXED, bits_per_weight, compare};
pub use round::quantize;
pub use schemes::{SCHEMES, describe, scheme};
