//! What a model learns from: named lists of 32-bit numbers. Must not know rows' formats, tokenizers or batches.

use std::sync::Arc;

use super::error::{DataError, listed};
use super::row::Row;

/// One feature of an example.
#[derive(Debug, Clone, PartialEq)]
pub enum Feature {
    /// A class, a position, a flag.
    Int(i32),
    /// A regression target.
    Float(f32),
    /// Token ids, masks, a label for each token.
    Ints(Vec<i32>),
    /// Several targets, or one of 0 and 1 for each label.
    Floats(Vec<f32>),
}

/// One example: features by name, in order. Names are Transformers' (`input_ids`, `labels`, ...).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Example {
    fields: Vec<(Arc<str>, Feature)>,
}

impl Example {
    /// An example without features.
    pub fn new() -> Example {
        Example::default()
    }

    /// The example with one more feature; one of the same name is replaced.
    #[must_use]
    pub fn with(mut self, name: impl Into<Arc<str>>, feature: Feature) -> Example {
        self.set(name, feature);
        self
    }

    /// Sets a feature.
    pub fn set(&mut self, name: impl Into<Arc<str>>, feature: Feature) {
        let name = name.into();
        match self.fields.iter_mut().find(|(n, _)| *n == name) {
            Some((_, old)) => *old = feature,
            None => self.fields.push((name, feature)),
        }
    }

    /// The feature of a name.
    pub fn get(&self, name: &str) -> Option<&Feature> {
        self.fields.iter().find(|(n, _)| **n == *name).map(|(_, f)| f)
    }

    /// The whole numbers of a name.
    pub fn ints(&self, name: &str) -> Option<&[i32]> {
        match self.get(name) {
            Some(Feature::Ints(values)) => Some(values),
            _ => None,
        }
    }

    /// Its features.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &Feature)> {
        self.fields.iter().map(|(name, feature)| (&**name, feature))
    }

    /// Number of tokens: the length of `input_ids`, 0 without it.
    pub fn tokens(&self) -> usize {
        self.ints("input_ids").map_or(0, <[i32]>::len)
    }

    /// The example with only the features that a model accepts; `label` and `label_ids` always stay. (DS-03)
    ///
    /// # Errors
    /// [`DataError::NoColumns`] when no input is left.
    pub fn keep(mut self, accepted: &[&str]) -> Result<Example, DataError> {
        let columns = listed(self.fields.iter().map(|(n, _)| n));
        let label = |name: &str| matches!(name, "label" | "label_ids" | "labels");
        self.fields.retain(|(name, _)| accepted.contains(&&**name) || label(name));
        if self.fields.iter().all(|(name, _)| label(name)) {
            return Err(DataError::NoColumns { columns, accepted: listed(accepted) });
        }
        Ok(self)
    }
}

/// Examples that can be read in any order, as often as needed.
pub trait Examples: Send + Sync {
    /// How many there are.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One of them.
    ///
    /// # Errors
    /// When there is none of this number or it cannot be read.
    fn get(&self, index: usize) -> Result<Example, DataError>;

    /// Number of tokens of one, for batches of similar lengths.
    ///
    /// # Errors
    /// As [`Examples::get`].
    fn tokens(&self, index: usize) -> Result<usize, DataError> {
        self.get(index).map(|example| example.tokens())
    }
}

impl Examples for Vec<Example> {
    fn len(&self) -> usize {
        self.len()
    }

    fn get(&self, index: usize) -> Result<Example, DataError> {
        let problem = || format!("there is no example {index}: there are {}", self.len());
        self.as_slice().get(index).cloned().ok_or_else(|| DataError::argument("index", problem()))
    }

    fn tokens(&self, index: usize) -> Result<usize, DataError> {
        Ok(self.as_slice().get(index).map_or(0, Example::tokens))
    }
}

/// Makes examples of rows. Its answers are a function of the row and its settings alone, so rows may be prepared on any
/// number of threads and the result kept.
pub trait Preprocessor: Send + Sync {
    /// The examples of the `index`-th row: usually one; several where a long text is cut into windows. (DS-02)
    ///
    /// # Errors
    /// [`DataError`] naming the row.
    fn examples(&self, row: &Row, index: usize) -> Result<Vec<Example>, DataError>;

    /// All that decides the answers, as text: what was prepared before is used again only under the same settings.
    ///
    /// # Errors
    /// When the tokenizer cannot be described.
    fn settings(&self) -> Result<String, DataError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// DS-03: what the model takes stays, the label too; nothing left is an error that names the columns.
    #[test]
    fn ds_03_unused_columns_go() {
        let example = Example::new()
            .with("input_ids", Feature::Ints(vec![1, 2]))
            .with("offset_mapping", Feature::Ints(vec![0, 0, 0, 3]))
            .with("label", Feature::Int(1));
        let kept = example.clone().keep(&["input_ids", "token_type_ids"]).unwrap();
        assert_eq!(kept.fields().map(|(n, _)| n).collect::<Vec<_>>(), ["input_ids", "label"]);
        let error = example.keep(&["pixel_values"]).unwrap_err().to_string();
        let expected = r#"none of the columns "input_ids", "offset_mapping", "label" is an input of the model, which takes "pixel_values""#;
        assert_eq!(error, expected);
    }
}
