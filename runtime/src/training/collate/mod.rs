//! Collators: examples to one batch, padding-free as programs take it or padded where that is asked for.
//!
//! A collator has no state: its random numbers are a function of its seed, the sample's number and the place in it. Must not
//! know files, programs or where examples come from.

mod batch;
mod error;
mod labelled;
mod language;
mod layout;
mod stack;

#[cfg(test)]
mod tests;

pub use batch::Batch;
pub use error::CollateError;
pub use labelled::{DataCollatorForSeq2Seq, DataCollatorForTokenClassification, DataCollatorWithFlattening};
pub use language::{DataCollatorForLanguageModeling, Masking};
pub use layout::{Layout, Pad};
pub use stack::{DataCollatorWithPadding, DefaultDataCollator};

use super::data::{Example, Feature};

/// Labels of this value do not count. Transformers' `label_pad_token_id`.
pub const IGNORE_INDEX: i32 = -100;

/// An example on its way into a batch.
#[derive(Debug, Clone, Copy)]
pub struct Sample<'a> {
    /// The example.
    pub example: &'a Example,
    /// The number of this visit of an example since training began (`epoch * examples + index`, say). What a collator draws
    /// at random for a sample depends on this number alone, so it depends on neither batch size nor order.
    pub draw: u64,
}

/// Makes one batch of several examples. (COL-11)
pub trait Collator: Send + Sync {
    /// The batch, with the samples in this order.
    ///
    /// # Errors
    /// [`CollateError`] naming the feature and the sample in the batch, from 0.
    fn collate(&self, samples: &[Sample<'_>]) -> Result<Batch, CollateError>;
}
