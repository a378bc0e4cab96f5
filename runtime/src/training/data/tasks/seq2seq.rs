//! Sequence to sequence: a source text and a target text. (DS-09) Must not know models.

use super::encoder::signed;
use super::{DataError, Encoder, Example, Feature, Preprocessor, Row};
use crate::tokenizer::Text;

/// A source text, whose target's tokens are the labels.
#[derive(Debug, Clone)]
pub struct Seq2Seq {
    /// The tokenizer with the limit on sources.
    pub encoder: Encoder,
    /// The tokenizer with the limit on targets.
    pub target_encoder: Encoder,
    /// The column of the source.
    pub source: String,
    /// The column of the target.
    pub target: String,
    /// What goes before each source (`translate English to German: `).
    pub prefix: String,
}

impl Preprocessor for Seq2Seq {
    fn examples(&self, row: &Row, _: usize) -> Result<Vec<Example>, DataError> {
        let source = format!("{}{}", self.prefix, row.text(&self.source)?);
        let target = row.text(&self.target)?;
        let labels = self.target_encoder.encode(row, Text::Raw(target), None)?;
        let [labels] = &labels[..] else {
            return Err(row.error("the target does not fit in one window; truncate targets instead"));
        };
        let labels = signed(row, &labels.ids)?;
        let encodings = self.encoder.encode(row, Text::Raw(&source), None)?;
        let example = |encoding| {
            let example = self.encoder.example(row, encoding)?;
            Ok(example.with("labels", Feature::Ints(labels.clone())))
        };
        encodings.iter().map(example).collect()
    }

    fn settings(&self) -> Result<String, DataError> {
        let columns = (&self.source, &self.target, &self.prefix);
        let encoders = (self.encoder.settings()?, self.target_encoder.settings()?);
        Ok(format!("seq2seq {encoders:?} {columns:?}"))
    }
}
