//! Lith's input side: where a model's files are, what its configuration means, and which tensor of its checkpoint is
//! which parameter.
//!
//! ```text
//! source  ──▶ config      config.json with the defaults of its model type
//!   files ──▶ checkpoint  safetensors, shards and PyTorch pickles as one set of tensors
//!                 └─────▶ weights   parameters by name, and what did not fit
//!                           └──▶ adapters   what PEFT trained beside them
//! ```
//!
//! Everything read here comes from strangers: no parser panics, allocates by a number it has not checked, or executes
//! anything, and every error names the file and the field or tensor. All errors of this crate are bad input: the
//! command ends with exit code 2.

pub mod adapters;
pub mod checkpoint;
pub mod config;
pub mod families;
pub mod gguf;
pub mod source;
pub mod weights;

pub use checkpoint::{Checkpoint, CheckpointError};
pub use config::{Config, ConfigError, Head};
pub use lith_ir::DType;
pub use source::{HubEnv, Source, SourceError, SourceOptions};
pub use weights::{LoadError, LoadOptions, LoadReport, Loaded, Rules, Wanted};
