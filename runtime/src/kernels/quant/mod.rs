//! Products with quantized weights: their layout in panels, and the two ways to compute with them, floating-point
//! activations times dequantized weights, and 8-bit activations times codes.

pub(crate) mod activations;
pub(crate) mod bytes;
pub(crate) mod dequant;
pub(crate) mod integer;
pub(crate) mod layout;
mod streams;
mod unpack;
pub(crate) mod values;
#[cfg(target_arch = "x86_64")]
mod x86;
