//! Targets of language models: the tokens themselves, or masked ones. Must not know losses.

use super::batch::Batch;
use super::error::CollateError;
use super::labelled::{causal_labels, separate};
use super::layout::{Layout, Rows, TOKEN_FEATURES, Tokens, lists, put, shape};
use super::stack::stack_others;
use super::{Collator, IGNORE_INDEX, Sample};
use crate::tokenizer::AutoTokenizer;
use crate::training::data::Draws;

/// Keeps what is masked independent of the order of a data set shuffled with the same seed.
const MASKING: u64 = 0x6d61_736b;

/// Which tokens are masked, and how. (COL-05)
#[derive(Debug, Clone, PartialEq)]
pub struct Masking {
    /// The share of tokens that is to be predicted.
    pub mlm_probability: f64,
    /// The share of those that the mask token replaces.
    pub mask_replace_prob: f64,
    /// The share of those that a random token replaces; the rest stay as they are.
    pub random_replace_prob: f64,
    /// Whether words are masked as a whole (COL-06): a word goes on where a token begins at the end of the one before, by the
    /// feature `offset_mapping`. All its tokens are then replaced by the mask token.
    pub whole_word_mask: bool,
    /// The seed.
    pub seed: u64,
}

impl Default for Masking {
    fn default() -> Self {
        Masking {
            mlm_probability: 0.15,
            mask_replace_prob: 0.8,
            random_replace_prob: 0.1,
            whole_word_mask: false,
            seed: 42,
        }
    }
}

/// Targets for masked and causal language models. (COL-05 to COL-07)
///
/// Causal: `labels` are the tokens, without the padding token's id (and so, as in Transformers, without the end of the text
/// where that is the padding token; set `ignored_label` to `None` to keep it). Labels that samples bring are kept. In the
/// padding-free layout each sample's first label is ignored, since a loss compares a token with the one before it.
#[derive(Debug, Clone)]
pub struct DataCollatorForLanguageModeling {
    layout: Layout,
    masking: Option<Masking>,
    mask_token_id: i32,
    vocabulary: usize,
    special: Vec<i32>,
    /// The token that is no target of a causal model.
    pub ignored_label: Option<i32>,
}

fn id(id: u32) -> Option<i32> {
    i32::try_from(id).ok()
}

impl DataCollatorForLanguageModeling {
    /// Targets of a causal model (`mlm=False`).
    pub fn causal(tokenizer: &AutoTokenizer, layout: Layout) -> Self {
        DataCollatorForLanguageModeling {
            layout,
            masking: None,
            mask_token_id: 0,
            vocabulary: tokenizer.len(),
            special: tokenizer.all_special_ids().into_iter().filter_map(id).collect(),
            ignored_label: tokenizer.pad_token_id().and_then(id),
        }
    }

    /// Targets of a masked model (`mlm=True`).
    ///
    /// # Errors
    /// When the tokenizer has no mask token, or a share is not between 0 and 1, or those of replaced tokens exceed 1.
    pub fn masked(tokenizer: &AutoTokenizer, layout: Layout, mut masking: Masking) -> Result<Self, CollateError> {
        let argument = |name, problem: String| Err(CollateError::Argument { name, problem });
        let Some(mask_token_id) = tokenizer.mask_token_id().and_then(id) else {
            return argument("mlm", "the tokenizer has no mask token; train a causal model (mlm=False) instead".into());
        };
        for (name, share) in [
            ("mlm_probability", masking.mlm_probability),
            ("mask_replace_prob", masking.mask_replace_prob),
            ("random_replace_prob", masking.random_replace_prob),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return argument(name, format!("{share} is not between 0 and 1"));
            }
        }
        let sum = masking.mask_replace_prob + masking.random_replace_prob;
        if sum > 1.0 {
            return argument("mask_replace_prob", format!("with random_replace_prob it is {sum}, more than 1"));
        }
        if masking.whole_word_mask && masking.mask_replace_prob < 1.0 {
            tracing::warn!("whole words are always replaced by the mask token: mask_replace_prob is 1");
            (masking.mask_replace_prob, masking.random_replace_prob) = (1.0, 0.0);
        }
        let causal = DataCollatorForLanguageModeling::causal(tokenizer, layout);
        Ok(DataCollatorForLanguageModeling { masking: Some(masking), mask_token_id, ..causal })
    }

    /// Which of a sample's tokens stand for no text.
    fn special(&self, ids: &[i32]) -> Vec<bool> {
        ids.iter().map(|id| self.special.contains(id)).collect()
    }

    /// Masks the tokens of one sample; gives the labels.
    fn mask(&self, masking: &Masking, ids: &mut [i32], chosen: &[bool], draws: Draws) -> Vec<i32> {
        let mut labels = vec![IGNORE_INDEX; ids.len()];
        for (at, id) in ids.iter_mut().enumerate().filter(|(at, _)| chosen[*at]) {
            labels[at] = *id;
            let place = 4 * at as u64;
            let how = draws.uniform(place + 1);
            if how < masking.mask_replace_prob {
                *id = self.mask_token_id;
            } else if how < masking.mask_replace_prob + masking.random_replace_prob {
                *id = draws.below(place + 2, self.vocabulary) as i32;
            }
        }
        labels
    }

    fn masked_batch(&self, masking: &Masking, samples: &[Sample<'_>]) -> Result<Batch, CollateError> {
        let mut tokens = Tokens::read(samples, &self.layout)?;
        let special: Vec<Vec<bool>> = match tokens.take("special_tokens_mask") {
            Some(masks) => masks.iter().map(|mask| mask.iter().map(|&m| m != 0).collect()).collect(),
            None => tokens.ids().iter().map(|ids| self.special(ids)).collect(),
        };
        let words = match masking.whole_word_mask {
            true => Some(words(samples, tokens.ids(), &special)?),
            false => None,
        };
        let longest = tokens.longest();
        let mut labels: Rows<'_> = Vec::with_capacity(samples.len());
        for (i, ids) in tokens.features[0].1.iter_mut().enumerate() {
            let draws = Draws::new(masking.seed ^ MASKING, samples[i].draw);
            let drawn = |at: usize| draws.uniform(4 * at as u64) < masking.mlm_probability;
            let chosen: Vec<bool> = match &words {
                // A word shares the draw of its first token.
                Some(words) => words[i].iter().map(|word| word.is_some_and(drawn)).collect(),
                None => special[i].iter().enumerate().map(|(at, special)| !special && drawn(at)).collect(),
            };
            labels.push(self.mask(masking, ids.to_mut(), &chosen, draws).into());
        }
        let mut batch = tokens.into_batch(&self.layout)?;
        put(&mut batch, "labels", &labels, &self.layout, longest, IGNORE_INDEX)?;
        Ok(batch)
    }

    fn causal_batch(&self, samples: &[Sample<'_>]) -> Result<Batch, CollateError> {
        let mut tokens = Tokens::read(samples, &self.layout)?;
        tokens.take("special_tokens_mask");
        let mut labels = causal_labels(samples, &tokens, self.ignored_label)?;
        if self.layout == Layout::PaddingFree {
            separate(&mut labels, IGNORE_INDEX);
        }
        let longest = tokens.longest();
        let mut batch = tokens.into_batch(&self.layout)?;
        put(&mut batch, "labels", &labels, &self.layout, longest, IGNORE_INDEX)?;
        Ok(batch)
    }
}

impl Collator for DataCollatorForLanguageModeling {
    fn collate(&self, samples: &[Sample<'_>]) -> Result<Batch, CollateError> {
        let mut batch = match &self.masking {
            Some(masking) => self.masked_batch(masking, samples)?,
            None => self.causal_batch(samples)?,
        };
        let known: Vec<&str> = TOKEN_FEATURES.into_iter().chain(["labels", "offset_mapping"]).collect();
        stack_others(&mut batch, samples, &known)?;
        Ok(batch)
    }
}

/// For each token the first token of its word; `None` for special ones.
fn words(
    samples: &[Sample<'_>],
    ids: &Rows<'_>,
    special: &[Vec<bool>],
) -> Result<Vec<Vec<Option<usize>>>, CollateError> {
    const NAME: &str = "offset_mapping";
    let offsets = lists(samples, NAME)?.ok_or_else(|| CollateError::Argument {
        name: "whole_word_mask",
        problem: "needs the feature offset_mapping".into(),
    })?;
    let mut all = Vec::with_capacity(samples.len());
    for (i, (offsets, special)) in offsets.iter().zip(special).enumerate() {
        if offsets.len() != 2 * ids[i].len() {
            let expected = format!("a start and an end for each of {} tokens", ids[i].len());
            return Err(shape(i, NAME, expected, format!("{} values", offsets.len())));
        }
        let mut word = None;
        let mut before: Option<(i32, bool)> = None;
        let mut row = Vec::with_capacity(special.len());
        for (at, (pair, &special)) in offsets.chunks_exact(2).zip(special).enumerate() {
            let begins = before.is_none_or(|(end, special)| end != pair[0] || special);
            if begins && !special {
                word = Some(at);
            }
            row.push(word.filter(|_| !special));
            before = Some((pair[1], special));
        }
        all.push(row);
    }
    Ok(all)
}
