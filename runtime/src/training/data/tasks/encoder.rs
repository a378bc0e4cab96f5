//! Texts of rows to tokens, with the limit on their length and errors that name the row. Must not know tasks.

use std::sync::Arc;

use super::{DataError, Example, Feature, Row};
use crate::tokenizer::{AutoTokenizer, EncodeOptions, Encoding, Side, Text, TokenizerError, Truncation};

/// What becomes of a text with more tokens than the model takes. (DS-12)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overlong {
    /// An error that names the row.
    #[default]
    Refuse,
    /// It is cut.
    Truncate,
    /// It becomes several examples; each repeats `stride` tokens of the one before. (DS-02)
    Windows {
        /// The overlap.
        stride: usize,
    },
}

/// A tokenizer with the limit on lengths.
#[derive(Debug, Clone)]
pub struct Encoder {
    tokenizer: Arc<AutoTokenizer>,
    /// Most tokens of an example, special ones included: the least of what is asked for, what the tokenizer says and what
    /// the model has positions for; `None` without a limit.
    limit: Option<usize>,
    overlong: Overlong,
}

impl Encoder {
    /// An encoder that refuses texts longer than the tokenizer's own limit and the model's (`max_positions`).
    pub fn new(tokenizer: Arc<AutoTokenizer>, max_positions: Option<usize>) -> Encoder {
        let limit = tokenizer.model_max_length.into_iter().chain(max_positions).min();
        Encoder { tokenizer, limit, overlong: Overlong::Refuse }
    }

    /// The same with a lower limit (`max_length`), if it is one.
    #[must_use]
    pub fn max_length(mut self, max_length: Option<usize>) -> Encoder {
        self.limit = self.limit.into_iter().chain(max_length).min();
        self
    }

    /// The same with another treatment of texts that are too long.
    #[must_use]
    pub fn overlong(mut self, overlong: Overlong) -> Encoder {
        self.overlong = overlong;
        self
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &AutoTokenizer {
        &self.tokenizer
    }

    /// Most tokens of an example.
    pub fn limit(&self) -> Option<usize> {
        self.limit
    }

    /// All that decides what encoding gives.
    pub(super) fn settings(&self) -> Result<String, DataError> {
        let failed = |e: TokenizerError| DataError::argument("tokenizer", e.to_string());
        let tokenizer = self.tokenizer.fingerprint().map_err(failed)?;
        Ok(format!("{tokenizer} {:?} {:?}", self.limit, self.overlong))
    }

    /// The error of a row that the tokenizer refused.
    pub(super) fn failed(row: &Row, source: TokenizerError) -> DataError {
        DataError::Tokenizer { place: row.place().clone(), source }
    }

    /// A text or pair as tokens, in windows if that is asked for.
    pub(super) fn encode(&self, row: &Row, text: Text<'_>, pair: Option<Text<'_>>) -> Result<Vec<Encoding>, DataError> {
        let mut options = EncodeOptions { truncation: Some(Truncation::DoNotTruncate), ..EncodeOptions::default() };
        if self.overlong != Overlong::Refuse {
            options.truncation = Some(Truncation::LongestFirst);
            options.max_length = self.limit;
        }
        if let Overlong::Windows { stride } = self.overlong {
            options.stride = stride;
            options.return_overflowing_tokens = true;
        }
        let rows = self.tokenizer.encode(text, pair, &options).map_err(|e| Encoder::failed(row, e))?.rows;
        for encoding in &rows {
            self.check(row, encoding.len())?;
        }
        Ok(rows)
    }

    /// A text as tokens of any number.
    pub(super) fn encode_all(&self, row: &Row, text: &str) -> Result<Encoding, DataError> {
        let options = EncodeOptions { truncation: Some(Truncation::DoNotTruncate), ..EncodeOptions::default() };
        let encoded = self.tokenizer.encode(text, None, &options).map_err(|e| Encoder::failed(row, e))?;
        Ok(encoded.into_single())
    }

    /// That an example is neither empty nor too long.
    pub(super) fn check(&self, row: &Row, tokens: usize) -> Result<(), DataError> {
        if tokens == 0 {
            return Err(row.error("the text has no tokens"));
        }
        match self.limit {
            Some(limit) if tokens > limit => Err(DataError::TooLong { place: row.place().clone(), tokens, limit }),
            _ => Ok(()),
        }
    }

    /// Lists with one entry a token, cut to the limit if that is asked for. Whatever the treatment, no windows are made.
    pub(super) fn cut(&self, row: &Row, lists: &mut [&mut Vec<i32>]) -> Result<(), DataError> {
        if let Some(limit) = self.limit.filter(|_| self.overlong != Overlong::Refuse) {
            for list in &mut *lists {
                match self.tokenizer.truncation_side {
                    Side::Right => list.truncate(limit),
                    Side::Left => drop(list.drain(..list.len().saturating_sub(limit))),
                }
            }
        }
        self.check(row, lists.first().map_or(0, |list| list.len()))
    }

    /// The inputs of a model: `input_ids` and, for tokenizers that make them, `token_type_ids`. There is no mask: nothing is
    /// padded yet.
    pub(super) fn example(&self, row: &Row, encoding: &Encoding) -> Result<Example, DataError> {
        let ids = signed(row, &encoding.ids)?;
        let example = Example::new().with("input_ids", Feature::Ints(ids));
        if !self.tokenizer.default_fields().token_type_ids {
            return Ok(example);
        }
        Ok(example.with("token_type_ids", Feature::Ints(signed(row, &encoding.type_ids)?)))
    }
}

/// Ids as models take them.
pub(super) fn signed(row: &Row, ids: &[u32]) -> Result<Vec<i32>, DataError> {
    let id = |&id: &u32| i32::try_from(id).map_err(|_| row.error(format!("token id {id} is too large")));
    ids.iter().map(id).collect()
}

/// Start and end of each token, one after the other, in characters; -1 twice where `shown` is false.
pub(super) fn offsets(encoding: &Encoding, shown: impl Fn(usize) -> bool) -> Vec<i32> {
    let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let pair = |(token, &(start, end)): (usize, &(usize, usize))| match shown(token) {
        true => [number(start), number(end)],
        false => [-1, -1],
    };
    encoding.offsets.iter().enumerate().flat_map(pair).collect()
}
