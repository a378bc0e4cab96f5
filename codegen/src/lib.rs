//! Lith's code generator: a program and its plan become machine code, and machine code with weights an artifact.
//! Knows loops and calls; it must not know models, tokenizers or tasks.
#![forbid(unsafe_code)]

mod arguments;
mod artifact;
mod builder;
mod calls;
mod compile;
mod constants;
mod cores;
mod dims;
mod entry;
mod error;
mod hazards;
mod link;
mod loops;
mod regions;
mod target;
mod wide;

pub use artifact::write_artifact;
pub use compile::{Module, WeightStorage, compile};
pub use error::CodegenError;
pub use target::Target;

pub use lith_runtime::weights::WeightData;
