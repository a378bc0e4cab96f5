//! Text generation: from prompts and options to tokens, over any [`LanguageModel`]. Knows token ids; text only where a
//! stop string asks for it. Must not know programs, artifacts or threads.

mod model;

pub use model::{Batch, ForwardError, LanguageModel};
