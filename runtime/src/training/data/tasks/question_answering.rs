//! Extractive question answering: windows of a context with the answer's first and last token. (DS-08)
//! Must not know models.

use std::sync::Arc;

use super::encoder::offsets;
use super::{DataError, Encoder, Example, Feature, Preprocessor, Row, Value};
use crate::tokenizer::{AutoTokenizer, EncodeOptions, Encoding, Side, Text, Truncation};

/// A question, a context and answers in it, in SQuAD's form: `answers` is `{"text": [...], "answer_start": [...]}` or a list of
/// `{"text", "answer_start"}`, with starts counted in characters. Without an answer the answer is the token `[CLS]`.
#[derive(Debug, Clone)]
pub struct QuestionAnswering {
    encoder: Encoder,
    /// The column of the question.
    pub question: String,
    /// The column of the context.
    pub context: String,
    /// The column of the answers.
    pub answers: String,
    /// Most tokens of a window.
    pub max_seq_length: usize,
    /// Tokens that a window repeats of the one before.
    pub doc_stride: usize,
    /// For predicting: instead of positions, windows get `overflow_to_sample_mapping` (the row's number), `offset_mapping`
    /// (start and end of each token in the context, -1 twice for others) and `null_token` (the one that stands for no
    /// answer).
    pub for_prediction: bool,
}

impl QuestionAnswering {
    /// Columns named as in SQuAD, windows of at most 384 tokens that overlap by 128, or by half where the model takes fewer
    /// tokens.
    pub fn new(tokenizer: Arc<AutoTokenizer>, max_positions: Option<usize>) -> QuestionAnswering {
        let encoder = Encoder::new(tokenizer, max_positions);
        let max_seq_length = encoder.limit().map_or(384, |limit| limit.min(384));
        QuestionAnswering {
            encoder,
            max_seq_length,
            doc_stride: (max_seq_length / 2).min(128),
            question: "question".into(),
            context: "context".into(),
            answers: "answers".into(),
            for_prediction: false,
        }
    }

    /// The texts of all answers.
    ///
    /// # Errors
    /// When the row has no column of answers, or something else in it.
    pub fn references(&self, row: &Row) -> Result<Vec<String>, DataError> {
        let value = row.column(&self.answers)?;
        let texts = match value {
            Value::Null => Some(Vec::new()),
            Value::List(answers) => answers.iter().map(|answer| answer.field("text")).collect(),
            _ => value.field("text").and_then(Value::as_list).map(|texts| texts.iter().collect()),
        };
        let texts = texts.and_then(|texts| texts.into_iter().map(|t| t.as_str().map(String::from)).collect());
        texts.ok_or_else(|| row.wrong(&self.answers, "answers with \"text\" and \"answer_start\"", value))
    }

    /// The token of a window that stands for no answer.
    fn null_token(&self, ids: &[u32]) -> usize {
        let tokenizer = self.encoder.tokenizer();
        let place = |id: Option<u32>| id.and_then(|id| ids.iter().position(|i| *i == id));
        let bos = tokenizer.special_token_id("bos_token");
        place(tokenizer.cls_token_id()).or_else(|| place(bos)).unwrap_or(0)
    }

    /// The first answer: its first character and the one after its last.
    fn answer(&self, row: &Row) -> Result<Option<(usize, usize)>, DataError> {
        let column = &self.answers;
        let value = row.column(column)?;
        let wrong = || row.wrong(column, "answers with \"text\" and \"answer_start\"", value);
        let (text, start) = match value {
            Value::Null => return Ok(None),
            Value::List(answers) => match answers.first() {
                None => return Ok(None),
                Some(first) => (first.field("text"), first.field("answer_start")),
            },
            Value::Struct(_) => {
                let list = |name: &str| value.field(name).and_then(Value::as_list);
                let (texts, starts) = list("text").zip(list("answer_start")).ok_or_else(wrong)?;
                if texts.is_empty() && starts.is_empty() {
                    return Ok(None);
                }
                (texts.first(), starts.first())
            }
            _ => return Err(wrong()),
        };
        let text = text.and_then(Value::as_str).ok_or_else(wrong)?;
        let start = start.and_then(Value::as_int).and_then(|s| usize::try_from(s).ok()).ok_or_else(wrong)?;
        let end = start.checked_add(text.chars().count()).ok_or_else(wrong)?;
        let context = row.text(&self.context)?;
        if end > context.chars().count() {
            return Err(row.error(format!("column {column:?}: the answer ends at {end}, behind the context")));
        }
        let found: String = context.chars().skip(start).take(end - start).collect();
        if found != text {
            return Err(row.error(format!("column {column:?}: the context has {found:?} where the answer is {text:?}")));
        }
        Ok(Some((start, end)))
    }

    /// First and last token of the characters `start..end` of the context; `None` when they are not all in this window.
    fn span(encoding: &Encoding, context: usize, start: usize, end: usize) -> Option<(usize, usize)> {
        let of_context = |t: &usize| encoding.sequence_ids[*t] == Some(context);
        let first = (0..encoding.len()).find(of_context)?;
        let last = (0..encoding.len()).rfind(of_context)?;
        if encoding.offsets[first].0 > start || encoding.offsets[last].1 < end {
            return None;
        }
        let from = (first..=last).rfind(|&t| encoding.offsets[t].0 <= start)?;
        let to = (first..=last).find(|&t| encoding.offsets[t].1 >= end)?;
        Some((from, to))
    }
}

impl Preprocessor for QuestionAnswering {
    fn examples(&self, row: &Row, index: usize) -> Result<Vec<Example>, DataError> {
        let tokenizer = self.encoder.tokenizer();
        // Spaces before a question can be longer than a window, and mean nothing.
        let question = row.text(&self.question)?.trim_start();
        let context = row.text(&self.context)?;
        let answer = if self.for_prediction { None } else { self.answer(row)? };
        // The question stands first for tokenizers that pad on the right.
        let context_is_second = tokenizer.padding_side == Side::Right;
        let (first, second, truncation) = match context_is_second {
            true => (question, context, Truncation::OnlySecond),
            false => (context, question, Truncation::OnlyFirst),
        };
        let options = EncodeOptions {
            truncation: Some(truncation),
            max_length: Some(self.max_seq_length),
            stride: self.doc_stride,
            return_overflowing_tokens: true,
            ..EncodeOptions::default()
        };
        let windows = tokenizer.encode(first, Some(Text::Raw(second)), &options);
        let windows = windows.map_err(|e| Encoder::failed(row, e))?.rows;
        let sequence = usize::from(context_is_second);
        let position = |t: usize| Feature::Int(i32::try_from(t).unwrap_or(i32::MAX));
        let mut examples = Vec::with_capacity(windows.len());
        for encoding in &windows {
            self.encoder.check(row, encoding.len())?;
            let mut example = self.encoder.example(row, encoding)?;
            if self.for_prediction {
                let shown = |t: usize| encoding.sequence_ids.get(t) == Some(&Some(sequence));
                example.set("overflow_to_sample_mapping", Feature::Int(i32::try_from(index).unwrap_or(i32::MAX)));
                example.set("offset_mapping", Feature::Ints(offsets(encoding, shown)));
                example.set("null_token", position(self.null_token(&encoding.ids)));
            } else {
                let nothing = self.null_token(&encoding.ids);
                let span = answer.and_then(|(start, end)| Self::span(encoding, sequence, start, end));
                let (start, end) = span.unwrap_or((nothing, nothing));
                example.set("start_positions", position(start));
                example.set("end_positions", position(end));
            }
            examples.push(example);
        }
        Ok(examples)
    }

    fn settings(&self) -> Result<String, DataError> {
        let columns = (&self.question, &self.context, &self.answers);
        let windows = (self.max_seq_length, self.doc_stride, self.for_prediction);
        Ok(format!("question-answering {} {columns:?} {windows:?}", self.encoder.settings()?))
    }
}
