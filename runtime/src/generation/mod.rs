//! Text generation: from prompts and options to tokens, over any [`LanguageModel`]. Knows token ids; text only where a
//! stop string asks for it. Must not know programs, artifacts or threads.

mod beams;
mod contrastive;
mod draft;
mod error;
mod generator;
mod groups;
mod job;
mod model;
mod options;
mod pages;
mod processors;
pub(crate) mod random;
mod request;
mod row;
mod rules;
mod samples;
mod search;
mod settings;
mod stopping;
mod stream;
mod warpers;

#[cfg(test)]
mod tests;

pub use error::GenerationError;
pub use generator::{Generator, Limits};
pub use model::{Batch, ForwardError, LanguageModel};
pub use options::{GenerationConfig, OPTIONS, OptionKind, OptionSpec, option_named};
pub use pages::{PagePool, Sequence};
pub use processors::{AllowedTokens, UserProcessor};
pub use random::Draws;
pub use request::{Cancel, Counts, Event, Generated, Output, Request, RequestId, TokenLogprob};
pub use settings::{EarlyStopping, Mode, Schedule, Settings};
pub use stopping::{Criterion, FinishReason};
pub use stream::{StreamDecoder, TokenText};

/// The likeliest token of a row of logits: the first of equals. `None` when no logit is above negative infinity.
pub fn likeliest(row: &[f32]) -> Option<u32> {
    row::argmax(row).map(|candidate| candidate.id)
}
