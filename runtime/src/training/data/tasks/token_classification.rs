//! Token classification: words with a tag each. (DS-07) Must not know models.

use super::{DataError, Encoder, Example, Feature, Labels, Preprocessor, Row};
use crate::tokenizer::Text;
use crate::training::collate::IGNORE_INDEX;

/// Words, each with a tag.
#[derive(Debug, Clone)]
pub struct TokenClassification {
    /// The tokenizer.
    pub encoder: Encoder,
    /// The column with the list of words.
    pub tokens: String,
    /// The column with the list of tags, by name or number, and what they mean; `None` for prediction, where examples have
    /// `word_ids` instead (the number of each token's word, -1 for special tokens).
    pub tags: Option<(String, Labels)>,
    /// Whether a word's further tokens have its tag too (`B-X` as `I-X`, where there is one); otherwise they do not count.
    pub label_all_tokens: bool,
}

impl TokenClassification {
    /// The tag of a word's further tokens.
    fn inside(&self, labels: &Labels, tag: i32) -> i32 {
        if !self.label_all_tokens {
            return IGNORE_INDEX;
        }
        let name = usize::try_from(tag).ok().and_then(|tag| labels.names().get(tag));
        let inside = name.and_then(|name| name.strip_prefix("B-")).and_then(|name| labels.get(&format!("I-{name}")));
        inside.and_then(|i| i32::try_from(i).ok()).unwrap_or(tag)
    }
}

impl Preprocessor for TokenClassification {
    fn examples(&self, row: &Row, _: usize) -> Result<Vec<Example>, DataError> {
        let words = row.texts(&self.tokens)?;
        let tags = match &self.tags {
            None => None,
            Some((column, labels)) => {
                let value = row.column(column)?;
                let tags = value.as_list().ok_or_else(|| row.wrong(column, "a list of tags", value))?;
                if tags.len() != words.len() {
                    let problem = format!(
                        "column {:?} has {} words and column {column:?} has {} tags",
                        self.tokens,
                        words.len(),
                        tags.len()
                    );
                    return Err(row.error(problem));
                }
                let ids: Vec<i32> = tags.iter().map(|tag| labels.id(row, column, tag)).collect::<Result<_, _>>()?;
                Some((ids, labels))
            }
        };
        let mut examples = Vec::new();
        for encoding in self.encoder.encode(row, Text::Words(&words), None)? {
            let mut example = self.encoder.example(row, &encoding)?;
            let mut before = None;
            let mut aligned = Vec::with_capacity(encoding.len());
            for &word in &encoding.word_ids {
                let Some((tags, labels)) = &tags else { break };
                let tag = word.and_then(|w| tags.get(w as usize)).copied();
                aligned.push(match tag {
                    None => IGNORE_INDEX,
                    Some(tag) if word != before => tag,
                    Some(tag) => self.inside(labels, tag),
                });
                before = word;
            }
            if tags.is_some() {
                example.set("labels", Feature::Ints(aligned));
            } else {
                // Predictions are read word by word.
                let number = |word: &Option<u32>| word.map_or(-1, |w| i32::try_from(w).unwrap_or(i32::MAX));
                let numbers = encoding.word_ids.iter().map(number).collect();
                example.set("word_ids", Feature::Ints(numbers));
            }
            examples.push(example);
        }
        Ok(examples)
    }

    fn settings(&self) -> Result<String, DataError> {
        let tags = self.tags.as_ref().map(|(column, labels)| (column, labels.names()));
        let encoder = self.encoder.settings()?;
        Ok(format!("token-classification {encoder} {:?} {tags:?} {}", self.tokens, self.label_all_tokens))
    }
}
