//! From rows to examples, a file for each task: what Transformers' example scripts do before training.
//! Must not know batches or models.

mod chat;
mod encoder;
mod labels;
mod language_modeling;
mod question_answering;
mod seq2seq;
mod text_classification;
mod token_classification;

#[cfg(test)]
mod tests;

pub use chat::{ChatColumns, ChatTuning};
pub use encoder::{Encoder, Overlong};
pub use labels::{Labels, Target};
pub use language_modeling::LanguageModeling;
pub use question_answering::QuestionAnswering;
pub use seq2seq::Seq2Seq;
pub use text_classification::TextClassification;
pub use token_classification::TokenClassification;

use super::error::DataError;
use super::example::{Example, Feature, Preprocessor};
use super::row::Row;
use super::value::Value;
