//! Collators whose labels are lists: one for each token, or a sequence of their own. Must not know losses.

use super::batch::Batch;
use super::error::CollateError;
use super::layout::{Layout, Rows, TOKEN_FEATURES, Tokens, lists, put, set_offsets};
use super::stack::stack_others;
use super::{Collator, IGNORE_INDEX, Sample};

/// The name under which a batch's samples have their label.
fn label_name(samples: &[Sample<'_>]) -> &'static str {
    match samples.first() {
        Some(first) if first.example.get("label").is_some() => "label",
        _ => "labels",
    }
}

/// Tokens with a label each. (COL-03)
#[derive(Debug, Clone)]
pub struct DataCollatorForTokenClassification {
    /// How tokens lie; labels are padded on the side of the tokens.
    pub layout: Layout,
    /// The label of padding.
    pub label_pad_token_id: i32,
}

impl Default for DataCollatorForTokenClassification {
    fn default() -> Self {
        DataCollatorForTokenClassification { layout: Layout::default(), label_pad_token_id: IGNORE_INDEX }
    }
}

impl Collator for DataCollatorForTokenClassification {
    fn collate(&self, samples: &[Sample<'_>]) -> Result<Batch, CollateError> {
        let tokens = Tokens::read(samples, &self.layout)?;
        let name = label_name(samples);
        let labels = tokens.like_tokens(samples, name)?;
        let longest = tokens.longest();
        let mut batch = tokens.into_batch(&self.layout)?;
        if let Some(labels) = labels {
            put(&mut batch, "labels", &labels, &self.layout, longest, self.label_pad_token_id)?;
        }
        let known: Vec<&str> = TOKEN_FEATURES.into_iter().chain([name]).collect();
        stack_others(&mut batch, samples, &known)?;
        Ok(batch)
    }
}

/// Tokens of a source and, as labels, those of a target of another length. (COL-04)
///
/// Padding-free, the targets are joined to `labels i32[target tokens]` with `decoder_offsets i32[sequences + 1]`.
#[derive(Debug, Clone)]
pub struct DataCollatorForSeq2Seq {
    /// How tokens lie; labels are padded to their own longest, on the side of the tokens.
    pub layout: Layout,
    /// The label of padding.
    pub label_pad_token_id: i32,
    /// For models that take their targets shifted to the right as `decoder_input_ids`: the token that goes first.
    pub decoder_start_token_id: Option<i32>,
    /// The token that stands for ignored labels in `decoder_input_ids`.
    pub pad_token_id: i32,
}

impl Default for DataCollatorForSeq2Seq {
    fn default() -> Self {
        DataCollatorForSeq2Seq {
            layout: Layout::default(),
            label_pad_token_id: IGNORE_INDEX,
            decoder_start_token_id: None,
            pad_token_id: 0,
        }
    }
}

impl Collator for DataCollatorForSeq2Seq {
    fn collate(&self, samples: &[Sample<'_>]) -> Result<Batch, CollateError> {
        let mut batch = Tokens::read(samples, &self.layout)?.into_batch(&self.layout)?;
        let name = label_name(samples);
        if let Some(labels) = lists(samples, name)? {
            let lengths: Vec<usize> = labels.iter().map(|row| row.len()).collect();
            let longest = lengths.iter().copied().max().unwrap_or(0);
            put(&mut batch, "labels", &labels, &self.layout, longest, self.label_pad_token_id)?;
            if self.layout == Layout::PaddingFree {
                set_offsets(&mut batch, "decoder_offsets", &lengths)?;
            }
            if let Some(start) = self.decoder_start_token_id {
                self.shift_right(&mut batch, &lengths, start)?;
            }
        }
        let known: Vec<&str> = TOKEN_FEATURES.into_iter().chain([name]).collect();
        stack_others(&mut batch, samples, &known)?;
        Ok(batch)
    }
}

impl DataCollatorForSeq2Seq {
    /// Sets `decoder_input_ids`: each row of `labels` moved one place to the right behind the start token, with the padding
    /// token where labels are ignored.
    fn shift_right(&self, batch: &mut Batch, lengths: &[usize], start: i32) -> Result<(), CollateError> {
        let Some(shape) = batch.get("labels").map(|t| t.shape().to_vec()) else { return Ok(()) };
        let labels = batch.i32s("labels");
        let widths: Vec<usize> = match shape[..] {
            [rows, width] => vec![width; rows],
            _ => lengths.to_vec(),
        };
        let mut shifted = Vec::with_capacity(labels.len());
        let mut rest = labels;
        for width in widths {
            let (row, after) = rest.split_at_checked(width).unwrap_or((rest, &[]));
            let moved = std::iter::once(start).chain(row.iter().copied()).take(row.len());
            shifted.extend(moved.map(|id| if id == self.label_pad_token_id { self.pad_token_id } else { id }));
            rest = after;
        }
        batch.set_i32("decoder_input_ids", shape, &shifted)
    }
}

/// Samples one after the other, with positions that begin anew at each and labels that do not cross them. (COL-08)
///
/// `offsets` is what programs take; the other names are those of Transformers' padding-free models. Arrays have no batch
/// dimension of one.
#[derive(Debug, Clone)]
pub struct DataCollatorWithFlattening {
    /// Whether `position_ids` are made.
    pub return_position_ids: bool,
    /// The position of each sample's first token.
    pub position_ids_start: i32,
    /// The label of each sample's first token.
    pub separator_id: i32,
    /// Whether `cu_seq_lens_q`, `cu_seq_lens_k` (both as `offsets`), `max_length_q` and `max_length_k` are made.
    pub return_flash_attn_kwargs: bool,
    /// Whether `seq_idx` is made: the number of the sample that a token is of.
    pub return_seq_idx: bool,
}

impl Default for DataCollatorWithFlattening {
    fn default() -> Self {
        DataCollatorWithFlattening {
            return_position_ids: true,
            position_ids_start: 0,
            separator_id: IGNORE_INDEX,
            return_flash_attn_kwargs: false,
            return_seq_idx: false,
        }
    }
}

impl Collator for DataCollatorWithFlattening {
    fn collate(&self, samples: &[Sample<'_>]) -> Result<Batch, CollateError> {
        let layout = Layout::PaddingFree;
        let mut tokens = Tokens::read(samples, &layout)?;
        tokens.take("special_tokens_mask");
        tokens.take("position_ids");
        let mut labels = match tokens.like_tokens(samples, "labels")? {
            Some(labels) => labels,
            None => tokens.ids().clone(),
        };
        separate(&mut labels, self.separator_id);
        let lengths: Vec<usize> = tokens.ids().iter().map(|row| row.len()).collect();
        let longest = tokens.longest();
        let mut batch = tokens.into_batch(&layout)?;
        put(&mut batch, "labels", &labels, &layout, longest, self.separator_id)?;
        if self.return_position_ids {
            let positions = |n: &usize| (0..*n as i32).map(|i| self.position_ids_start.saturating_add(i)).collect();
            let positions: Rows<'_> = lengths.iter().map(positions).collect();
            put(&mut batch, "position_ids", &positions, &layout, longest, 0)?;
        }
        if self.return_seq_idx {
            let numbers: Rows<'_> = lengths.iter().zip(0..).map(|(&n, i)| vec![i; n].into()).collect();
            put(&mut batch, "seq_idx", &numbers, &layout, longest, 0)?;
        }
        if self.return_flash_attn_kwargs {
            for name in ["cu_seq_lens_q", "cu_seq_lens_k"] {
                set_offsets(&mut batch, name, &lengths)?;
            }
            let longest = i32::try_from(longest).unwrap_or(i32::MAX);
            for name in ["max_length_q", "max_length_k"] {
                batch.set_i32(name, Vec::new(), &[longest])?;
            }
        }
        Ok(batch)
    }
}

/// Labels of the first tokens of samples do not count: what would predict them is another sample.
pub(super) fn separate(labels: &mut Rows<'_>, separator: i32) {
    for row in labels {
        if let Some(first) = row.to_mut().first_mut() {
            *first = separator;
        }
    }
}

/// The labels of tokens that the samples bring, or a copy of their ids without `ignored` ones; see
/// [`super::DataCollatorForLanguageModeling`].
pub(super) fn causal_labels<'a>(
    samples: &[Sample<'a>],
    tokens: &Tokens<'a>,
    ignored: Option<i32>,
) -> Result<Rows<'a>, CollateError> {
    if let Some(labels) = tokens.like_tokens(samples, "labels")? {
        return Ok(labels);
    }
    let mut labels = tokens.ids().clone();
    if let Some(ignored) = ignored {
        for row in labels.iter_mut().filter(|row| row.contains(&ignored)) {
            row.to_mut().iter_mut().filter(|id| **id == ignored).for_each(|id| *id = IGNORE_INDEX);
        }
    }
    Ok(labels)
}
