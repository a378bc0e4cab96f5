//! Plain text for masked and causal language models. Must not know models.

use super::encoder::offsets;
use super::{DataError, Encoder, Example, Feature, Preprocessor, Row};
use crate::tokenizer::{Encoding, Text};

/// The tokens of a text. Targets are the collator's affair.
#[derive(Debug, Clone)]
pub struct LanguageModeling {
    /// The tokenizer.
    pub encoder: Encoder,
    /// The column of the text.
    pub text: String,
    /// Whether texts are joined afterwards ([`crate::training::data::Packing`]): then they may be of any length, and empty.
    pub joined: bool,
    /// Whether the end of a text is marked by the tokenizer's `eos_token`.
    pub add_eos: bool,
    /// Whether `special_tokens_mask` is made, for masked models.
    pub special_tokens_mask: bool,
    /// Whether `offset_mapping` is made, for masking whole words.
    pub offset_mapping: bool,
}

impl LanguageModeling {
    /// Texts of the column `text`, one an example.
    pub fn new(encoder: Encoder) -> LanguageModeling {
        LanguageModeling {
            encoder,
            text: "text".into(),
            joined: false,
            add_eos: false,
            special_tokens_mask: false,
            offset_mapping: false,
        }
    }

    fn example(&self, row: &Row, mut encoding: Encoding) -> Result<Example, DataError> {
        if self.add_eos {
            let eos = self.encoder.tokenizer().eos_token_id();
            let eos = eos.ok_or_else(|| DataError::argument("add_eos", "the tokenizer has no eos_token"))?;
            let end = encoding.offsets.last().map_or(0, |(_, end)| *end);
            encoding.ids.push(eos);
            encoding.type_ids.push(encoding.type_ids.last().copied().unwrap_or(0));
            encoding.special_tokens_mask.push(1);
            encoding.offsets.push((end, end));
        }
        let mut example = self.encoder.example(row, &encoding)?;
        if self.special_tokens_mask {
            let mask = encoding.special_tokens_mask.iter().map(|m| i32::from(*m != 0)).collect();
            example.set("special_tokens_mask", Feature::Ints(mask));
        }
        if self.offset_mapping {
            example.set("offset_mapping", Feature::Ints(offsets(&encoding, |_| true)));
        }
        Ok(example)
    }
}

impl Preprocessor for LanguageModeling {
    fn examples(&self, row: &Row, _: usize) -> Result<Vec<Example>, DataError> {
        let text = row.text(&self.text)?;
        if self.joined {
            return Ok(vec![self.example(row, self.encoder.encode_all(row, text)?)?]);
        }
        // The mark at the end takes a place.
        let encoder = match (self.add_eos, self.encoder.limit()) {
            (true, Some(limit)) => &self.encoder.clone().max_length(Some(limit.saturating_sub(1))),
            _ => &self.encoder,
        };
        let encodings = encoder.encode(row, Text::Raw(text), None)?;
        encodings.into_iter().map(|encoding| self.example(row, encoding)).collect()
    }

    fn settings(&self) -> Result<String, DataError> {
        let flags = (self.joined, self.add_eos, self.special_tokens_mask, self.offset_mapping);
        Ok(format!("language-modeling {} {:?} {flags:?}", self.encoder.settings()?, self.text))
    }
}
