//! Text to ids: the call options of Transformers' tokenizers, truncation, windows and padding.
//!
//! The tokenizers crate holds truncation and padding as state of a tokenizer; here they are arguments of a call, so that
//! one tokenizer serves many threads. Must not know where the tokenizer came from.

use std::str::FromStr;
use std::sync::atomic::Ordering;

use rayon::prelude::*;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::tokenizer::InputSequence;
use tokenizers::utils::truncation::TruncationDirection;
use tokenizers::{PostProcessor, Tokenizer};

use super::AutoTokenizer;
use super::config::Side;
use super::encoding::{BatchEncoding, Encoding};
use super::error::TokenizerError;
use super::guard::guarded;

/// Padding goes no further than this many tokens a row.
const MAX_PAD: usize = 1 << 24;

/// Batches with fewer bytes of text than this are encoded on the calling thread: starting others costs more.
const PARALLEL_BYTES: usize = 1 << 14;

/// What is encoded: a text, or its words (`is_split_into_words` upstream).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Text<'a> {
    /// Running text.
    Raw(&'a str),
    /// Words; offsets then count from the start of each word.
    Words(&'a [String]),
}

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Self {
        Text::Raw(text)
    }
}

impl<'a> From<&'a [String]> for Text<'a> {
    fn from(words: &'a [String]) -> Self {
        Text::Words(words)
    }
}

impl Text<'_> {
    fn bytes(&self) -> usize {
        match self {
            Text::Raw(text) => text.len(),
            Text::Words(words) => words.iter().map(String::len).sum(),
        }
    }
}

/// How short rows are lengthened. (PT-01)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Padding {
    /// Not at all.
    #[default]
    DoNotPad,
    /// To the longest row of the batch.
    Longest,
    /// To `max_length`, else to the tokenizer's limit, else not at all.
    MaxLength,
}

impl FromStr for Padding {
    type Err = TokenizerError;

    fn from_str(s: &str) -> Result<Self, TokenizerError> {
        match s {
            "do_not_pad" | "false" => Ok(Padding::DoNotPad),
            "longest" | "true" => Ok(Padding::Longest),
            "max_length" => Ok(Padding::MaxLength),
            _ => Err(TokenizerError::Option {
                option: "padding",
                value: s.into(),
                allowed: "true, longest, max_length, false, do_not_pad",
            }),
        }
    }
}

/// Which sequence is shortened when a row is too long. (PT-02)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truncation {
    /// None: the row stays as long as it is.
    DoNotTruncate,
    /// The longer of a pair, then both evenly.
    LongestFirst,
    /// The first.
    OnlyFirst,
    /// The second.
    OnlySecond,
}

impl FromStr for Truncation {
    type Err = TokenizerError;

    fn from_str(s: &str) -> Result<Self, TokenizerError> {
        match s {
            "do_not_truncate" | "false" => Ok(Truncation::DoNotTruncate),
            "longest_first" | "true" => Ok(Truncation::LongestFirst),
            "only_first" => Ok(Truncation::OnlyFirst),
            "only_second" => Ok(Truncation::OnlySecond),
            _ => Err(TokenizerError::Option {
                option: "truncation",
                value: s.into(),
                allowed: "true, longest_first, only_first, only_second, false, do_not_truncate",
            }),
        }
    }
}

/// The options of a call, named and preset as in Transformers. (TE-01)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Surround the text with the model's special tokens.
    pub add_special_tokens: bool,
    /// How short rows are lengthened.
    pub padding: Padding,
    /// Which sequence gives way; `None` means [`Truncation::LongestFirst`] if `max_length` is given and no padding is
    /// asked for, else no truncation.
    pub truncation: Option<Truncation>,
    /// Longest row, special tokens included; `None` means the tokenizer's own limit.
    pub max_length: Option<usize>,
    /// Tokens that a window repeats from the one before.
    pub stride: usize,
    /// Round padded lengths up to a multiple of this.
    pub pad_to_multiple_of: Option<usize>,
    /// Side of the padding; `None` means the tokenizer's own.
    pub padding_side: Option<Side>,
    /// Keep what truncation cuts off as further rows.
    pub return_overflowing_tokens: bool,
    /// Read special tokens in the text as plain text (SP-05); `None` means the tokenizer's own setting.
    pub split_special_tokens: Option<bool>,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        EncodeOptions {
            add_special_tokens: true,
            padding: Padding::DoNotPad,
            truncation: None,
            max_length: None,
            stride: 0,
            pad_to_multiple_of: None,
            padding_side: None,
            return_overflowing_tokens: false,
            split_special_tokens: None,
        }
    }
}

/// Options after the rules that connect them.
struct Resolved {
    padding: Padding,
    truncation: Truncation,
    max_length: Option<usize>,
}

/// Lengths of a pair cut to `total` together (PT-03): the longer is cut to what the shorter leaves, but not below the
/// shorter; if that is still too long, each gets half and the longer the odd token.
fn longest_first(first: usize, second: usize, total: usize) -> (usize, usize) {
    if first + second <= total {
        return (first, second);
    }
    let short = first.min(second);
    let (short, long) = match total.checked_sub(short) {
        Some(rest) if rest >= short => (short, rest),
        _ => (total / 2, total - total / 2),
    };
    if first <= second { (short, long) } else { (long, short) }
}

impl AutoTokenizer {
    /// Encodes one text, or one pair of texts.
    ///
    /// # Errors
    /// [`TokenizerError`] when options contradict each other or the tokenizer's rules fail on the text.
    pub fn encode<'a>(
        &self,
        text: impl Into<Text<'a>>,
        pair: Option<Text<'a>>,
        options: &EncodeOptions,
    ) -> Result<BatchEncoding, TokenizerError> {
        self.encode_batch(&[(text.into(), pair)], options)
    }

    /// Encodes several texts or pairs; rows are in the order of the inputs. (TE-02, TE-11)
    ///
    /// # Errors
    /// As [`AutoTokenizer::encode`].
    pub fn encode_batch(
        &self,
        inputs: &[(Text<'_>, Option<Text<'_>>)],
        options: &EncodeOptions,
    ) -> Result<BatchEncoding, TokenizerError> {
        let resolved = self.resolve(options)?;
        let tokenizer = self.backend(options.split_special_tokens);
        let one =
            |&(text, pair): &(Text<'_>, Option<Text<'_>>)| self.windows(tokenizer, text, pair, options, &resolved);
        let bytes: usize = inputs.iter().map(|(a, b)| a.bytes() + b.map_or(0, |b| b.bytes())).sum();
        let parallel = inputs.len() > 1 && bytes >= PARALLEL_BYTES && tokenizers::parallelism::get_parallelism();
        let windows: Vec<Vec<Encoding>> = if parallel {
            inputs.par_iter().map(one).collect::<Result<_, _>>()?
        } else {
            inputs.iter().map(one).collect::<Result<_, _>>()?
        };

        let mut batch = BatchEncoding::default();
        for (input, rows) in windows.into_iter().enumerate() {
            batch.overflow_to_sample_mapping.extend(std::iter::repeat_n(input, rows.len()));
            batch.rows.extend(rows);
        }
        if options.max_length.is_none() {
            self.warn_if_too_long(&batch);
        }
        self.pad_rows(&mut batch, &resolved, options)?;
        Ok(batch)
    }

    /// Pads rows that exist already. (PT-05) Of `options` only the padding counts.
    ///
    /// # Errors
    /// As [`AutoTokenizer::encode`].
    pub fn pad(&self, batch: &mut BatchEncoding, options: &EncodeOptions) -> Result<(), TokenizerError> {
        let padding_only = EncodeOptions { truncation: Some(Truncation::DoNotTruncate), ..options.clone() };
        let resolved = self.resolve(&padding_only)?;
        self.pad_rows(batch, &resolved, options)
    }

    /// The rules between padding, truncation and lengths. (PT-01, PT-02, SP-04)
    fn resolve(&self, options: &EncodeOptions) -> Result<Resolved, TokenizerError> {
        let mut padding = options.padding;
        let mut max_length = options.max_length;
        let mut truncation = options.truncation.unwrap_or(match (max_length, padding) {
            (Some(_), Padding::DoNotPad) => {
                tracing::debug!("max_length is given without truncation: truncating with longest_first");
                Truncation::LongestFirst
            }
            _ => Truncation::DoNotTruncate,
        });
        if max_length.is_none() {
            match self.model_max_length {
                None => {
                    if padding == Padding::MaxLength {
                        padding = Padding::DoNotPad;
                    }
                    truncation = Truncation::DoNotTruncate;
                }
                Some(limit) if padding == Padding::MaxLength || truncation != Truncation::DoNotTruncate => {
                    max_length = Some(limit);
                }
                Some(_) => {}
            }
        }
        if padding != Padding::DoNotPad && self.pad_token_id().is_none() {
            return Err(TokenizerError::NoPadToken);
        }
        if let (Some(multiple), Some(max_length)) = (options.pad_to_multiple_of.filter(|&m| m > 0), max_length)
            && truncation != Truncation::DoNotTruncate
            && padding != Padding::DoNotPad
            && !max_length.is_multiple_of(multiple)
        {
            return Err(TokenizerError::NotMultiple { max_length, multiple });
        }
        Ok(Resolved { padding, truncation, max_length })
    }

    /// TE-08: says once that a row is longer than the model takes.
    fn warn_if_too_long(&self, batch: &BatchEncoding) {
        let Some(limit) = self.model_max_length else { return };
        let longest = batch.rows.iter().map(Encoding::len).max().unwrap_or(0);
        if longest > limit && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!("a text has {longest} tokens, more than the {limit} that the model takes");
        }
    }

    /// One input as its rows: a single one, or one a window.
    fn windows(
        &self,
        tokenizer: &Tokenizer,
        text: Text<'_>,
        pair: Option<Text<'_>>,
        options: &EncodeOptions,
        resolved: &Resolved,
    ) -> Result<Vec<Encoding>, TokenizerError> {
        let mut first = raw(tokenizer, text)?;
        let mut second = pair.map(|pair| raw(tokenizer, pair)).transpose()?;
        if let Some(second) = &mut second {
            second.set_type_ids(vec![1; second.len()]);
        }
        if let (Some(max_length), true) = (resolved.max_length, resolved.truncation != Truncation::DoNotTruncate) {
            self.truncate(&mut first, second.as_mut(), max_length, options, resolved.truncation)?;
        }
        guarded(|| self.post_process(first, second, options.add_special_tokens))
            .and_then(|r| r.map_err(|e| e.to_string()))
            .map_err(TokenizerError::Failed)
    }

    /// Shortens one or both sequences so that the row with its special tokens has `max_length` tokens. (PT-03, PT-04, PT-06)
    fn truncate(
        &self,
        first: &mut tokenizers::Encoding,
        mut second: Option<&mut tokenizers::Encoding>,
        max_length: usize,
        options: &EncodeOptions,
        strategy: Truncation,
    ) -> Result<(), TokenizerError> {
        let specials = if options.add_special_tokens { self.num_special_tokens_to_add(second.is_some()) } else { 0 };
        let no_room = TokenizerError::NoRoom { max_length, specials };
        let room = max_length.checked_sub(specials).ok_or(no_room)?;
        let stride = if options.return_overflowing_tokens { options.stride } else { 0 };
        if options.stride > room {
            return Err(TokenizerError::Stride { stride: options.stride, max_length, room });
        }
        let (n1, n2) = (first.len(), second.as_ref().map_or(0, |s| s.len()));
        let remove = (n1 + n2).saturating_sub(room);
        if remove == 0 {
            return Ok(());
        }
        let shorten = |len: usize, strategy| {
            let short = TokenizerError::TooShort { strategy, max_length, specials, len, remove };
            // At least one token has to stay, unless there is no room for any.
            len.checked_sub(remove).filter(|&rest| rest > 0 || room == 0).ok_or(short)
        };
        let (m1, m2) = match strategy {
            Truncation::DoNotTruncate => (n1, n2),
            Truncation::LongestFirst if second.is_some() => longest_first(n1, n2, room),
            Truncation::LongestFirst => (room, 0),
            Truncation::OnlyFirst => (shorten(n1, "only_first")?, n2),
            Truncation::OnlySecond if second.is_some() => (n1, shorten(n2, "only_second")?),
            Truncation::OnlySecond => return Err(TokenizerError::NoSecond),
        };
        let direction = match self.truncation_side {
            Side::Left => TruncationDirection::Left,
            Side::Right => TruncationDirection::Right,
        };
        let cut = |encoding: &mut tokenizers::Encoding, to: usize| {
            if to < encoding.len() {
                if stride > 0 && stride >= to {
                    return Err(TokenizerError::Stride { stride, max_length, room: to });
                }
                encoding.truncate(to, stride, direction);
                if !options.return_overflowing_tokens {
                    // Dropped here, before pairs would multiply their windows.
                    encoding.take_overflowing();
                }
            }
            Ok(())
        };
        cut(first, m1)?;
        second.as_mut().map_or(Ok(()), |second| cut(second, m2))
    }

    /// Joins the sequences, adds special tokens, and unfolds the windows.
    fn post_process(
        &self,
        first: tokenizers::Encoding,
        second: Option<tokenizers::Encoding>,
        add_special_tokens: bool,
    ) -> tokenizers::Result<Vec<Encoding>> {
        let mut joined = match &self.post_processor {
            Some(processor) => processor.process(first, second, add_special_tokens)?,
            None => {
                let parts = std::iter::once(first).chain(second).collect();
                let joined = <dyn PostProcessor>::default_process(parts, add_special_tokens)?;
                joined.into_iter().next().unwrap_or_default()
            }
        };
        let overflowing = joined.take_overflowing();
        Ok(std::iter::once(joined).chain(overflowing).map(row).collect())
    }

    /// Pads every row of a batch to one length. (PT-01)
    fn pad_rows(
        &self,
        batch: &mut BatchEncoding,
        resolved: &Resolved,
        options: &EncodeOptions,
    ) -> Result<(), TokenizerError> {
        let longest = batch.rows.iter().map(Encoding::len).max().unwrap_or(0);
        let mut length = match (resolved.padding, resolved.max_length) {
            (Padding::DoNotPad, _) => return Ok(()),
            (Padding::MaxLength, Some(max_length)) => max_length,
            (Padding::Longest, _) | (Padding::MaxLength, None) => longest,
        };
        if let Some(multiple) = options.pad_to_multiple_of.filter(|&m| m > 0) {
            length = length.checked_next_multiple_of(multiple).unwrap_or(usize::MAX);
        }
        if length > MAX_PAD && length > longest {
            return Err(TokenizerError::PadTooLong { length, limit: MAX_PAD });
        }
        let (id, token) = self.pad_token_id().zip(self.pad_token()).ok_or(TokenizerError::NoPadToken)?;
        let left = options.padding_side.unwrap_or(self.padding_side) == Side::Left;
        for row in &mut batch.rows {
            row.pad(length, left, id, self.pad_token_type_id, token);
        }
        Ok(())
    }

    /// How many special tokens a row gets. (SP-07)
    pub fn num_special_tokens_to_add(&self, pair: bool) -> usize {
        self.post_processor.as_ref().map_or(0, |processor: &PostProcessorWrapper| processor.added_tokens(pair))
    }
}

/// The tokens of one text, before anything is cut or added.
fn raw(tokenizer: &Tokenizer, text: Text<'_>) -> Result<tokenizers::Encoding, TokenizerError> {
    let sequence: InputSequence<'_> = match text {
        Text::Raw(text) => text.into(),
        Text::Words(words) => words.into(),
    };
    guarded(|| tokenizer.encode_char_offsets(sequence, false))
        .and_then(|r| r.map_err(|e| e.to_string()))
        .map_err(TokenizerError::Failed)
}

/// A row in our own form.
fn row(encoding: tokenizers::Encoding) -> Encoding {
    Encoding {
        ids: encoding.get_ids().to_vec(),
        type_ids: encoding.get_type_ids().to_vec(),
        tokens: encoding.get_tokens().to_vec(),
        offsets: encoding.get_offsets().to_vec(),
        word_ids: encoding.get_word_ids().to_vec(),
        sequence_ids: encoding.get_sequence_ids(),
        special_tokens_mask: encoding.get_special_tokens_mask().to_vec(),
        attention_mask: encoding.get_attention_mask().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::longest_first;

    /// PT-03, on all small lengths: against removing one token at a time from the longer sequence.
    #[test]
    fn pt_03_longest_first_shares_fairly() {
        for first in 0..12usize {
            for second in 0..12usize {
                for total in 0..26 {
                    let (a, b) = longest_first(first, second, total);
                    assert_eq!(a + b, (first + second).min(total), "{first} {second} {total}");
                    assert!(a <= first && b <= second, "{first} {second} {total}");
                    let short = first.min(second);
                    if first + second > total {
                        let long = short.max(total.saturating_sub(short));
                        let (x, y) = if short + long > total { (total / 2, total - total / 2) } else { (short, long) };
                        assert_eq!((a.min(b), a.max(b)), (x.min(y), x.max(y)), "{first} {second} {total}");
                    }
                }
            }
        }
    }
}
