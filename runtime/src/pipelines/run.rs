//! From encoded rows to a model's answers: checks, batches without padding, and each sequence's share of the outputs.
//! Must not know tasks.

use std::ops::Range;

use super::error::PipelineError;
use super::model::{Output, Task, TokenBatch};
use super::{Args, Model, Pipeline};
use crate::tokenizer::{EncodeOptions, Encoding, Text, TokenizerError};

/// Tokens of one forward call by default, unless a single sequence has more: enough to keep every core busy, few enough
/// that the intermediate results stay small.
pub(super) const BATCH_TOKENS: usize = 4096;

/// Most output values of one forward call (64 MiB): bounds the logits of models with large vocabularies.
const BATCH_VALUES: usize = 1 << 24;

/// One sequence to run.
#[derive(Debug, Clone)]
pub(super) struct Sequence {
    ids: Vec<i32>,
    types: Vec<i32>,
}

/// One sequence's share of what a forward call gave.
pub(super) struct Answer<'a> {
    outputs: &'a [Output],
    sequence: usize,
    tokens: Range<usize>,
    batch: &'a TokenBatch,
}

impl<'a> Answer<'a> {
    /// The first output with one of these names, cut to `rows` of `total` rows.
    fn cut(&self, names: &[&str], rows: Range<usize>, total: usize) -> Result<(usize, &'a [f32]), PipelineError> {
        let shown = names.join(" or ");
        let output = names.iter().find_map(|name| self.outputs.iter().find(|o| o.name == *name));
        let output = output.ok_or_else(|| PipelineError::output(&shown, "is missing"))?;
        let width = match output.shape[..] {
            [n] if n == total => 1,
            [n, width] if n == total => width,
            _ => {
                return Err(PipelineError::output(
                    &output.name,
                    format!("has shape {:?}, expected {total} rows", output.shape),
                ));
            }
        };
        let range = rows.start * width..rows.end * width;
        let data = output.data.get(range).filter(|_| output.data.len() == total * width);
        let data = data.ok_or_else(|| {
            PipelineError::output(
                &output.name,
                format!("has {} values for shape {:?}", output.data.len(), output.shape),
            )
        })?;
        if data.iter().any(|x| x.is_nan()) {
            return Err(PipelineError::output(&output.name, "is not a number"));
        }
        Ok((width, data))
    }

    /// The sequence's row of an output `[sequences, width]`.
    pub fn row(&self, names: &[&str]) -> Result<&'a [f32], PipelineError> {
        let (_, data) = self.cut(names, self.sequence..self.sequence + 1, self.batch.sequences())?;
        if data.is_empty() { Err(PipelineError::output(&names.join(" or "), "is empty")) } else { Ok(data) }
    }

    /// Width and rows of an output `[tokens, width]`, one row a token of the sequence.
    pub fn rows(&self, names: &[&str]) -> Result<(usize, &'a [f32]), PipelineError> {
        let (width, data) = self.cut(names, self.tokens.clone(), self.batch.tokens())?;
        if width == 0 { Err(PipelineError::output(&names.join(" or "), "is empty")) } else { Ok((width, data)) }
    }

    /// Whether there is an output of this name.
    pub fn has(&self, name: &str) -> bool {
        self.outputs.iter().any(|o| o.name == name)
    }
}

impl Pipeline {
    /// Encodes inputs together, or says which one cannot be encoded.
    pub(super) fn encode(
        &self,
        inputs: &[(Text<'_>, Option<Text<'_>>)],
        options: &EncodeOptions,
    ) -> Result<(Vec<Encoding>, Vec<usize>), PipelineError> {
        match self.tokenizer.encode_batch(inputs, options) {
            Ok(batch) => Ok((batch.rows, batch.overflow_to_sample_mapping)),
            Err(source) => {
                let fails =
                    |&(text, pair): &(Text<'_>, Option<Text<'_>>)| self.tokenizer.encode(text, pair, options).is_err();
                let index = inputs.iter().position(fails).unwrap_or(0);
                Err(PipelineError::Tokenizer { index, source })
            }
        }
    }

    /// An encoded row as the model takes it. `remedy` says what to do about one that is too long. (PP-06, SP-03)
    pub(super) fn sequence(&self, index: usize, row: &Encoding, remedy: &str) -> Result<Sequence, PipelineError> {
        let info = self.info();
        if row.is_empty() {
            return Err(PipelineError::Input { index, problem: "has no tokens".into() });
        }
        if let Some(limit) = info.max_positions.filter(|&limit| row.len() > limit) {
            return Err(PipelineError::TooLong { index, tokens: row.len(), limit, remedy: remedy.into() });
        }
        // Checked here because the model looks rows up by id.
        if let Some(&id) = row.ids.iter().find(|&&id| id as usize >= info.vocab_size || i32::try_from(id).is_err()) {
            let source = TokenizerError::UnknownId { id, len: info.vocab_size };
            return Err(PipelineError::Tokenizer { index, source });
        }
        let typed = info.has_token_types && self.tokenizer.model_input_names.iter().any(|n| n == "token_type_ids");
        let to_i32 = |v: &[u32]| v.iter().map(|&x| x as i32).collect();
        let types = if typed { to_i32(&row.type_ids) } else { vec![0; row.len()] };
        Ok(Sequence { ids: to_i32(&row.ids), types })
    }

    /// Output values a token gives rise to.
    fn values_per_token(&self) -> usize {
        let info = self.info();
        match info.task {
            Task::FillMask => info.vocab_size,
            Task::FeatureExtraction => info.hidden_size,
            _ => 1,
        }
        .max(1)
    }

    /// Runs sequences, as many to a call as fit, and hands each one's answer to `read`, in order. (PF-02)
    pub(super) fn run(
        &self,
        sequences: &[Sequence],
        args: &Args,
        mut read: impl FnMut(usize, &Answer<'_>) -> Result<(), PipelineError>,
    ) -> Result<(), PipelineError> {
        let Model::Tokens(model) = &self.model else {
            let compiled = self.info().task.to_string();
            return Err(PipelineError::WrongTask { compiled, wanted: self.task.to_string() });
        };
        let most = args.positive("batch_size")?.unwrap_or(usize::MAX);
        let tokens = args.positive("batch_tokens")?.unwrap_or(BATCH_TOKENS);
        let budget = tokens.min(BATCH_VALUES / self.values_per_token());
        let mut start = 0;
        while start < sequences.len() {
            let mut batch = TokenBatch { offsets: vec![0], ..TokenBatch::default() };
            let mut end = start;
            while let Some(next) = sequences.get(end) {
                let tokens = batch.tokens() + next.ids.len();
                if end > start && (tokens > budget || end - start >= most) {
                    break;
                }
                batch.input_ids.extend(&next.ids);
                batch.token_type_ids.extend(&next.types);
                // At most the budget, or one text's tokens, whose number fits as its ids' does.
                batch.offsets.push(i32::try_from(tokens).map_err(|_| PipelineError::Input {
                    index: end,
                    problem: format!("{tokens} tokens are too many"),
                })?);
                end += 1;
            }
            let outputs = model.forward(&batch)?;
            for i in start..end {
                let sequence = i - start;
                let tokens = batch.offsets[sequence] as usize..batch.offsets[sequence + 1] as usize;
                read(i, &Answer { outputs: &outputs, sequence, tokens, batch: &batch })?;
            }
            start = end;
        }
        Ok(())
    }
}
