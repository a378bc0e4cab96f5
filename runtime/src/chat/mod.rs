//! Chat templates: conversations to prompts, by the Jinja templates that checkpoints carry, with the functions, filters
//! and whitespace rules that Transformers gives them.
//!
//! A template is a program that strangers wrote: it runs with bounded work, output and nesting, reaches no file and no
//! clock but the one it is given. Must not know tokenizers' files, models or programs.

mod clock;
mod engine;
mod error;
mod json;
mod methods;
mod tags;
mod template;

pub use clock::Clock;
pub use error::ChatError;
pub use template::{ChatTemplate, Conversation, Rendered};
