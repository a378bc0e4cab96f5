//! Low-rank adapters (Hu et al. 2021) as PEFT writes them (spec rows PE-*): read, placed in a model, merged into its weights;
//! and traced, to be trained.
//!
//! ```text
//! adapter_config.json        ──▶ config ──▶ targets    which layers, which rank and scale
//! adapter_model.safetensors  ──▶ placed                which tensor changes which parameter, and the merged weights
//!                                trace                 the layers with their adapters in the graph of a training
//! ```
//!
//! Knows families only by what they tell of their layers.

mod config;
mod error;
mod placed;
mod targets;
mod trace;

pub use config::{Bias, CONFIG_FILE, LoraConfig, Modules};
pub use error::AdapterError;
pub use placed::{Adapter, Placed};
pub use targets::{Ranks, Targets, default_targets};
pub use trace::{Adapted, MAGNITUDE, PREFIX, WEIGHTS_STEM, is_adapter};
pub(crate) use trace::{Adapting, Model};
