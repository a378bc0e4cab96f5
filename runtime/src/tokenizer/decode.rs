//! Ids to text. Must not know how ids were made.

use tokenizers::Decoder;
use tokenizers::models::ModelWrapper;

use super::AutoTokenizer;
use super::error::TokenizerError;
use super::guard::guarded;

impl AutoTokenizer {
    /// The text of ids. (TD-01)
    ///
    /// `clean_up_tokenization_spaces`: remove the spaces that word pieces leave before punctuation; `None` means the
    /// tokenizer's own setting. Byte-level and other BPE tokenizers have no such spaces, for them it is ignored.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownId`].
    pub fn decode(
        &self,
        ids: &[u32],
        skip_special_tokens: bool,
        clean_up_tokenization_spaces: Option<bool>,
    ) -> Result<String, TokenizerError> {
        for &id in ids {
            self.id_to_token(id)?;
        }
        let text = guarded(|| self.tokenizer.decode(ids, skip_special_tokens))
            .and_then(|r| r.map_err(|e| e.to_string()))
            .map_err(TokenizerError::Failed)?;
        let clean_up = clean_up_tokenization_spaces.unwrap_or(self.clean_up_tokenization_spaces);
        let bpe = matches!(self.tokenizer.get_model(), ModelWrapper::BPE(_));
        Ok(if clean_up && !bpe { clean_up_spaces(text) } else { text })
    }

    /// The texts of several sequences of ids.
    ///
    /// # Errors
    /// As [`AutoTokenizer::decode`].
    pub fn batch_decode<I: AsRef<[u32]>>(
        &self,
        sequences: &[I],
        skip_special_tokens: bool,
        clean_up_tokenization_spaces: Option<bool>,
    ) -> Result<Vec<String>, TokenizerError> {
        let one = |ids: &I| self.decode(ids.as_ref(), skip_special_tokens, clean_up_tokenization_spaces);
        sequences.iter().map(one).collect()
    }

    /// The text of tokens. (TD-05)
    ///
    /// # Errors
    /// [`TokenizerError::Failed`].
    pub fn convert_tokens_to_string(&self, tokens: Vec<String>) -> Result<String, TokenizerError> {
        match self.tokenizer.get_decoder() {
            Some(decoder) => guarded(|| decoder.decode(tokens))
                .and_then(|r| r.map_err(|e| e.to_string()))
                .map_err(TokenizerError::Failed),
            None => Ok(tokens.join(" ")),
        }
    }
}

/// Joins punctuation and English contractions to the word before. (TD-02)
fn clean_up_spaces(mut text: String) -> String {
    const RULES: [(&str, &str); 10] = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    for (from, to) in RULES {
        if text.contains(from) {
            text = text.replace(from, to);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::clean_up_spaces;

    /// TD-02
    #[test]
    fn td_02_spaces_before_punctuation_go() {
        let dirty = "well , i do n't know ; they 're here , are n't they ? it 's bob ' s . i 'm , we 've ! yes";
        let clean = "well, i don't know ; they're here, aren't they? it's bob's. i'm, we've! yes";
        assert_eq!(clean_up_spaces(dirty.into()), clean);
    }
}
