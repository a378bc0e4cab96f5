//! Data sets: rows read from files, chosen, ordered and made into the features a model learns from.
//!
//! Two forms, one after the other. A [`Row`] is what a file holds: named [`Value`]s of any kind. An [`Example`] is what a
//! model takes: named lists of 32-bit numbers, which is all that stays in memory (or in the cache on disk) during training.
//! A [`Preprocessor`] makes the one from the other. Must not know programs, batches or metrics.

mod cache;
mod dataset;
mod error;
mod example;
mod files;
mod packing;
mod prepare;
mod random;
mod row;
mod split;
mod stream;
mod tasks;
mod value;

pub use cache::CachedExamples;
pub use dataset::{Dataset, Stopping};
pub(crate) use error::listed;
pub use error::{DataError, Place};
pub use example::{Example, Examples, Feature, Preprocessor};
pub use files::{DataFiles, Format, ReadOptions, SampleBy, files_matching};
pub use packing::Packing;
pub use prepare::{ExampleStream, Rows, prepare};
pub use random::{Draws, permutation};
pub use row::Row;
pub use split::{Size, SplitSpec, TrainTestSplit, part_of};
pub use stream::{RowStream, ShuffleBuffer, interleave};
pub use tasks::{
    ChatColumns, ChatTuning, Encoder, Labels, LanguageModeling, Overlong, QuestionAnswering, Seq2Seq, Target,
    TextClassification, TokenClassification,
};
pub use value::Value;
