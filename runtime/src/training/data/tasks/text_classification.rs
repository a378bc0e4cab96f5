//! Sequence classification and regression: a text or a pair with a target. Must not know models.

use super::{DataError, Encoder, Example, Preprocessor, Row, Target};
use crate::tokenizer::Text;

/// A text, or a pair of texts, and a target.
#[derive(Debug, Clone)]
pub struct TextClassification {
    /// The tokenizer.
    pub encoder: Encoder,
    /// The column of the text.
    pub text: String,
    /// The column of the second text, for pairs.
    pub pair: Option<String>,
    /// The column of the target and what it means; `None` for prediction.
    pub label: Option<(String, Target)>,
}

impl Preprocessor for TextClassification {
    fn examples(&self, row: &Row, _: usize) -> Result<Vec<Example>, DataError> {
        let text = row.text(&self.text)?;
        let pair = self.pair.as_ref().map(|column| row.text(column)).transpose()?;
        let label = self.label.as_ref().map(|(column, target)| target.feature(row, column)).transpose()?;
        let encodings = self.encoder.encode(row, Text::Raw(text), pair.map(Text::Raw))?;
        let mut examples = Vec::with_capacity(encodings.len());
        for encoding in &encodings {
            let mut example = self.encoder.example(row, encoding)?;
            if let Some(label) = &label {
                example.set("label", label.clone());
            }
            examples.push(example);
        }
        Ok(examples)
    }

    fn settings(&self) -> Result<String, DataError> {
        let label = self.label.as_ref().map(|(column, target)| match target {
            Target::Single(labels) | Target::Multi(labels) => (column, target.problem_type(), labels.names(), 0),
            Target::Regression(outputs) => (column, target.problem_type(), &[][..], *outputs),
        });
        let encoder = self.encoder.settings()?;
        Ok(format!("text-classification {encoder} {:?} {:?} {label:?}", self.text, self.pair))
    }
}
