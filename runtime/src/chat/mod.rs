//! Chat templates: conversations to prompts, by the Jinja templates that checkpoints carry, with the functions, filters
//! and whitespace rules that Transformers gives them.
//!
//! A template is a program that strangers wrote: it runs a bounded number of steps, which pay for what it writes too, and
//! reaches no file and no clock but the one it is given. Not bounded is what the engine does in one step on lists that
//! hold each other exponentially often (`a + a`, `a ~ ''`, `a == b`). Must not know tokenizers' files, models or programs.

mod clock;
mod engine;
mod error;
mod json;
mod methods;
mod print;
mod tags;
mod template;

pub use clock::Clock;
pub use error::ChatError;
pub use template::{ChatTemplate, Conversation, Rendered};
