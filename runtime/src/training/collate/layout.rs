//! How the tokens of several samples lie in one array: one sample after the other, or padded to one length.
//! Must not know what the tokens are for.

use std::borrow::Cow;

use super::batch::Batch;
use super::error::CollateError;
use super::{Feature, Sample};
use crate::tokenizer::{AutoTokenizer, Padding, Side};
use crate::training::data::listed;

/// The most tokens of a batch, padding included: programs count them in 32 bits.
const MAX_TOKENS: usize = i32::MAX as usize;

/// Features of tokens: lists as long as `input_ids`, joined or padded alike.
pub(super) const TOKEN_FEATURES: [&str; 5] =
    ["input_ids", "token_type_ids", "attention_mask", "special_tokens_mask", "position_ids"];

/// How the tokens of a batch lie.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Layout {
    /// One sample after the other, with `offsets`. Tokens that a sample's own `attention_mask` rules out are left out.
    #[default]
    PaddingFree,
    /// One row a sample, padded, with an `attention_mask`. (COL-02)
    Padded(Pad),
}

/// How rows are padded, as [`AutoTokenizer::pad`] does it. (COL-02, PT-01)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pad {
    /// To which length; with [`Padding::DoNotPad`] rows must be of one length.
    pub padding: Padding,
    /// The length of [`Padding::MaxLength`].
    pub max_length: Option<usize>,
    /// Lengths are rounded up to a multiple of this.
    pub pad_to_multiple_of: Option<usize>,
    /// The side on which padding goes.
    pub padding_side: Side,
    /// The padding token, if the tokenizer has one.
    pub pad_token_id: Option<u32>,
    /// The padding's token type.
    pub pad_token_type_id: u32,
}

impl Pad {
    /// Padding to the longest row with a tokenizer's token and side.
    pub fn longest(tokenizer: &AutoTokenizer) -> Pad {
        Pad {
            padding: Padding::Longest,
            max_length: None,
            pad_to_multiple_of: None,
            padding_side: tokenizer.padding_side,
            pad_token_id: tokenizer.pad_token_id(),
            pad_token_type_id: tokenizer.pad_token_type_id,
        }
    }

    /// The length for rows of at most `longest`.
    pub(super) fn length(&self, longest: usize) -> usize {
        let length = match (self.padding, self.max_length) {
            (Padding::DoNotPad, _) => return longest,
            (Padding::MaxLength, Some(max_length)) => longest.max(max_length),
            (Padding::Longest | Padding::MaxLength, _) => longest,
        };
        match self.pad_to_multiple_of.filter(|m| *m > 0) {
            Some(multiple) => length.checked_next_multiple_of(multiple).unwrap_or(usize::MAX),
            None => length,
        }
    }
}

/// A list of numbers for each sample.
pub(super) type Rows<'a> = Vec<Cow<'a, [i32]>>;

/// The error of a sample that lacks a feature.
pub(super) fn missing(samples: &[Sample<'_>], sample: usize, name: &str) -> CollateError {
    let known = samples.get(sample).map(|s| listed(s.example.fields().map(|(n, _)| n))).unwrap_or_default();
    CollateError::Missing { sample, name: name.into(), known }
}

/// The error of a feature that is not what it should be.
pub(super) fn shape(sample: usize, name: &str, expected: impl Into<String>, found: impl Into<String>) -> CollateError {
    CollateError::Shape { sample, name: name.into(), expected: expected.into(), found: found.into() }
}

/// What a feature is, for messages.
pub(super) fn describe(feature: &Feature) -> String {
    match feature {
        Feature::Int(_) => "a whole number".into(),
        Feature::Float(_) => "a number".into(),
        Feature::Ints(values) => format!("{} whole numbers", values.len()),
        Feature::Floats(values) => format!("{} numbers", values.len()),
    }
}

/// The lists of a feature; `None` when the first sample has no such feature.
pub(super) fn lists<'a>(samples: &[Sample<'a>], name: &str) -> Result<Option<Rows<'a>>, CollateError> {
    let Some(first) = samples.first() else { return Err(CollateError::Empty) };
    if first.example.get(name).is_none() {
        return Ok(None);
    }
    let list = |(i, sample): (usize, &Sample<'a>)| match sample.example.get(name) {
        Some(Feature::Ints(values)) => Ok(Cow::Borrowed(&values[..])),
        Some(other) => Err(shape(i, name, "a list of whole numbers", describe(other))),
        None => Err(missing(samples, i, name)),
    };
    samples.iter().enumerate().map(list).collect::<Result<_, _>>().map(Some)
}

/// The features of the samples' tokens.
pub(super) struct Tokens<'a> {
    /// Names and lists, one entry a token; `input_ids` first.
    pub features: Vec<(&'static str, Rows<'a>)>,
    /// For each sample, whether each of its tokens counts; `None` when all of all samples do.
    counts: Option<Vec<Vec<bool>>>,
}

impl<'a> Tokens<'a> {
    /// The token features of the samples. In a padding-free layout tokens outside of `attention_mask` are left out.
    pub fn read(samples: &[Sample<'a>], layout: &Layout) -> Result<Tokens<'a>, CollateError> {
        let ids = lists(samples, "input_ids")?.ok_or_else(|| missing(samples, 0, "input_ids"))?;
        let mut tokens = Tokens { features: vec![("input_ids", ids)], counts: None };
        if *layout == Layout::PaddingFree
            && let Some(masks) = lists(samples, "attention_mask")?
        {
            tokens.check("attention_mask", &masks)?;
            if masks.iter().any(|mask| mask.contains(&0)) {
                let counts: Vec<Vec<bool>> = masks.iter().map(|m| m.iter().map(|&x| x != 0).collect()).collect();
                let ids = std::mem::take(&mut tokens.features);
                tokens.counts = Some(counts);
                tokens.features = ids.into_iter().map(|(name, rows)| (name, tokens.counting(rows))).collect();
            }
        }
        for name in TOKEN_FEATURES {
            let left_out = *layout == Layout::PaddingFree && name == "attention_mask";
            if name != "input_ids" && !left_out {
                tokens.add(samples, name)?;
            }
        }
        Ok(tokens)
    }

    /// One more feature of tokens, if the samples have it.
    pub fn add(&mut self, samples: &[Sample<'a>], name: &'static str) -> Result<(), CollateError> {
        if let Some(rows) = self.like_tokens(samples, name)? {
            self.features.push((name, rows));
        }
        Ok(())
    }

    /// The lists of a feature with one entry a token, without those of tokens that were left out.
    pub fn like_tokens(&self, samples: &[Sample<'a>], name: &str) -> Result<Option<Rows<'a>>, CollateError> {
        let Some(rows) = lists(samples, name)? else { return Ok(None) };
        self.check(name, &rows)?;
        Ok(Some(self.counting(rows)))
    }

    /// That a feature has one entry a token.
    fn check(&self, name: &str, rows: &Rows<'_>) -> Result<(), CollateError> {
        for (i, row) in rows.iter().enumerate() {
            let tokens = match &self.counts {
                Some(counts) => counts[i].len(),
                None => self.ids()[i].len(),
            };
            if row.len() != tokens {
                return Err(shape(i, name, format!("{tokens} values, one a token"), format!("{} values", row.len())));
            }
        }
        Ok(())
    }

    /// Rows without the entries of tokens that do not count.
    fn counting<'b>(&self, rows: Rows<'b>) -> Rows<'b> {
        let Some(counts) = &self.counts else { return rows };
        let kept = |(row, counts): (Cow<'b, [i32]>, &Vec<bool>)| {
            row.iter().zip(counts).filter(|(_, counts)| **counts).map(|(x, _)| *x).collect()
        };
        rows.into_iter().zip(counts).map(kept).collect()
    }

    /// The token ids of each sample.
    pub fn ids(&self) -> &Rows<'a> {
        &self.features[0].1
    }

    /// Takes a feature out.
    pub fn take(&mut self, name: &str) -> Option<Rows<'a>> {
        let at = self.features.iter().position(|(n, _)| *n == name)?;
        Some(self.features.remove(at).1)
    }

    /// The length of the longest sample.
    pub fn longest(&self) -> usize {
        self.ids().iter().map(|row| row.len()).max().unwrap_or(0)
    }

    /// A batch of the features: joined, with `offsets`, or padded, with an `attention_mask`.
    pub fn into_batch(self, layout: &Layout) -> Result<Batch, CollateError> {
        let mut batch = Batch::default();
        let lengths: Vec<usize> = self.ids().iter().map(|row| row.len()).collect();
        let longest = self.longest();
        let masked = self.features.iter().any(|(name, _)| *name == "attention_mask");
        for (name, rows) in &self.features {
            put(&mut batch, name, rows, layout, longest, padding_value(name, layout))?;
        }
        match layout {
            Layout::PaddingFree => set_offsets(&mut batch, "offsets", &lengths)?,
            Layout::Padded(_) if !masked => {
                let ones: Rows<'_> = lengths.iter().map(|&n| vec![1; n].into()).collect();
                put(&mut batch, "attention_mask", &ones, layout, longest, 0)?;
            }
            Layout::Padded(_) => {}
        }
        Ok(batch)
    }
}

/// What a token feature is at padding; -1 stands for "there is no padding token".
fn padding_value(name: &str, layout: &Layout) -> i32 {
    let Layout::Padded(pad) = layout else { return 0 };
    match name {
        "input_ids" => pad.pad_token_id.and_then(|id| i32::try_from(id).ok()).unwrap_or(-1),
        "token_type_ids" => i32::try_from(pad.pad_token_type_id).unwrap_or(0),
        "special_tokens_mask" => 1,
        _ => 0,
    }
}

/// Where each of several runs of these lengths begins and ends: `i32[runs + 1]`.
pub(super) fn set_offsets(batch: &mut Batch, name: &str, lengths: &[usize]) -> Result<(), CollateError> {
    let mut offsets = Vec::with_capacity(lengths.len() + 1);
    let mut end = 0usize;
    offsets.push(0);
    for length in lengths {
        end = end.saturating_add(*length);
        offsets.push(i32::try_from(end).map_err(|_| CollateError::TooLarge { tokens: end, limit: MAX_TOKENS })?);
    }
    batch.set_i32(name, vec![offsets.len()], &offsets)
}

/// Sets an array of lists: joined, or padded to the layout's length for rows of at most `longest`.
pub(super) fn put(
    batch: &mut Batch,
    name: &str,
    rows: &Rows<'_>,
    layout: &Layout,
    longest: usize,
    value: i32,
) -> Result<(), CollateError> {
    let Layout::Padded(pad) = layout else {
        let joined: Vec<i32> = rows.concat();
        if joined.len() > MAX_TOKENS {
            return Err(CollateError::TooLarge { tokens: joined.len(), limit: MAX_TOKENS });
        }
        return batch.set_i32(name, vec![joined.len()], &joined);
    };
    let length = pad.length(longest);
    if let Some(short) = rows.iter().position(|row| row.len() < length) {
        if pad.padding == Padding::DoNotPad {
            let expected = format!("{length} values as the longest of the batch, because padding is off");
            return Err(shape(short, name, expected, format!("{} values", rows[short].len())));
        }
        if value == -1 && name == "input_ids" {
            let problem = "cannot pad: the tokenizer has no padding token".to_string();
            return Err(CollateError::Argument { name: "padding", problem });
        }
    }
    let tokens = rows.len().saturating_mul(length);
    if tokens > MAX_TOKENS {
        return Err(CollateError::TooLarge { tokens, limit: MAX_TOKENS });
    }
    let mut padded = Vec::with_capacity(tokens);
    for row in rows {
        let gap = length.saturating_sub(row.len());
        if pad.padding_side == Side::Left {
            padded.extend(std::iter::repeat_n(value, gap));
        }
        padded.extend_from_slice(row);
        if pad.padding_side == Side::Right {
            padded.extend(std::iter::repeat_n(value, gap));
        }
    }
    batch.set_i32(name, vec![rows.len(), length], &padded)
}
