//! Conversations, and prompts with completions, with a loss on the answers alone. (DS-10) Must not know models.

use std::ops::Range;

use serde_json::Value as Json;

use super::encoder::signed;
use super::{DataError, Encoder, Example, Feature, Preprocessor, Row, Value};
use crate::tokenizer::{ChatOptions, EncodeOptions, Encoding, Truncation};
use crate::training::collate::IGNORE_INDEX;

/// Where conversations are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChatColumns {
    /// A column with the list of messages (`role`, `content`).
    Messages(String),
    /// A column with the prompt and one with its completion: texts, or lists of messages.
    PromptCompletion(String, String),
}

/// Conversations of which a model learns the answers.
#[derive(Debug, Clone)]
pub struct ChatTuning {
    /// The tokenizer; a conversation that is too long is refused or cut, never read in windows.
    pub encoder: Encoder,
    /// Where conversations are.
    pub columns: ChatColumns,
    /// The column with the list of tools, if there is one.
    pub tools: Option<String>,
    /// Whether the loss counts the tokens of answers alone: what the template marks as generation or, without such marks, the
    /// assistant's messages; the completion of a prompt. Otherwise it counts all tokens.
    pub answers_only: bool,
}

impl ChatTuning {
    /// Conversations of the column `messages`, with a loss on answers alone.
    pub fn new(encoder: Encoder) -> ChatTuning {
        ChatTuning { encoder, columns: ChatColumns::Messages("messages".into()), tools: None, answers_only: true }
    }

    /// A list of messages as the template takes it.
    fn messages(row: &Row, column: &str) -> Result<Vec<Json>, DataError> {
        let value = row.column(column)?;
        let wrong = || row.wrong(column, "a list of messages with \"role\" and \"content\"", value);
        let messages = value.as_list().filter(|list| !list.is_empty()).ok_or_else(wrong)?;
        let valid = |m: &Value| m.field("role").and_then(Value::as_str).is_some() && m.field("content").is_some();
        if !messages.iter().all(valid) {
            return Err(wrong());
        }
        Ok(messages.iter().map(without_nulls).collect())
    }

    fn tools(&self, row: &Row) -> Result<Option<Vec<Json>>, DataError> {
        let Some(column) = &self.tools else { return Ok(None) };
        match row.column(column)? {
            Value::Null => Ok(None),
            Value::List(tools) => Ok(Some(tools.iter().map(without_nulls).collect())),
            other => Err(row.wrong(column, "a list of tools", other)),
        }
    }

    /// The tokens of a conversation and whether each counts. Answers among the first `given` messages do not.
    fn conversation(&self, row: &Row, messages: &[Json], given: usize) -> Result<(Encoding, Vec<bool>), DataError> {
        let tokenizer = self.encoder.tokenizer();
        let tools = self.tools(row)?;
        let options = ChatOptions { tools: tools.as_deref(), ..ChatOptions::default() };
        let whole = EncodeOptions { truncation: Some(Truncation::DoNotTruncate), ..EncodeOptions::default() };
        let template = tokenizer.chat_template(None, tools.is_some());
        let marks = template.map_err(|e| Encoder::failed(row, e.into()))?.marks_generation();
        let encoded = tokenizer.encode_chat(messages, &options, &whole, self.answers_only && marks);
        let encoded = encoded.map_err(|e| Encoder::failed(row, e))?;
        let parts = Parts { task: self, row, messages, text: &encoded.text, options: &options };
        let counts: Vec<bool> = match &encoded.assistant_masks {
            _ if !self.answers_only => vec![true; encoded.encoding.len()],
            // Marks tell answers from prompts, but not answers of the prompt from those to be learned.
            Some(masks) => {
                let learned = parts.end(given, false)?;
                let counts = |(mask, offsets): (&u32, &(usize, usize))| *mask != 0 && offsets.1 > learned;
                masks.iter().zip(&encoded.encoding.offsets).map(counts).collect()
            }
            None => within(&encoded.encoding, &parts.answers(given)?),
        };
        if !counts.contains(&true) {
            return Err(row.error("the conversation has no answer of the assistant"));
        }
        Ok((encoded.encoding, counts))
    }

    /// The tokens of a prompt with its completion and the end of the text, and whether each counts.
    fn completion(&self, row: &Row, prompt: &str, completion: &str) -> Result<(Encoding, Vec<bool>), DataError> {
        let text = format!("{prompt}{completion}");
        let mut encoding = self.encoder.encode_all(row, &text)?;
        let start = prompt.chars().count();
        let mut counts = match self.answers_only {
            true => within(&encoding, std::slice::from_ref(&(start..text.chars().count()))),
            false => vec![true; encoding.len()],
        };
        if let Some(eos) = self.encoder.tokenizer().eos_token_id() {
            if encoding.ids.last() == Some(&eos) {
                counts.last_mut().into_iter().for_each(|counts| *counts = true);
            } else {
                encoding.ids.push(eos);
                encoding.type_ids.push(0);
                counts.push(true);
            }
        }
        Ok((encoding, counts))
    }
}

/// What the template makes of the first messages of a conversation.
struct Parts<'a> {
    task: &'a ChatTuning,
    row: &'a Row,
    messages: &'a [Json],
    /// The whole conversation's text.
    text: &'a str,
    options: &'a ChatOptions<'a>,
}

impl Parts<'_> {
    /// Where, in characters, the first `count` messages end in the text, with what asks for an answer if that is wanted.
    fn end(&self, count: usize, add_generation_prompt: bool) -> Result<usize, DataError> {
        if count == 0 && !add_generation_prompt {
            return Ok(0);
        }
        let options = ChatOptions { add_generation_prompt, ..self.options.clone() };
        let part = self.messages.get(..count).unwrap_or(self.messages);
        let part = self.task.encoder.tokenizer().apply_chat_template(part, &options);
        let part = part.map_err(|e| Encoder::failed(self.row, e.into()))?;
        if !self.text.starts_with(&part) {
            return Err(self.row.error(
                "the chat template does not write messages one after the other, so answers cannot be told from prompts",
            ));
        }
        Ok(part.chars().count())
    }

    /// Where the assistant's messages from the `given`-th on stand in the text, in characters: what the template writes with
    /// the message and does not write to ask for it.
    fn answers(&self, given: usize) -> Result<Vec<Range<usize>>, DataError> {
        let role = |at: usize| self.messages.get(at).and_then(|m| m.get("role")).and_then(Json::as_str);
        let answers = (given..self.messages.len()).filter(|&at| role(at) == Some("assistant"));
        answers.map(|at| Ok(self.end(at, true)?..self.end(at + 1, false)?)).collect()
    }
}

/// Whether each token lies, in part at least, in one of these spans of characters.
fn within(encoding: &Encoding, spans: &[Range<usize>]) -> Vec<bool> {
    let inside = |&(start, end): &(usize, usize)| spans.iter().any(|span| start < span.end && end > span.start);
    encoding.offsets.iter().map(inside).collect()
}

/// JSON without the fields that are null: columnar files have every field of some row in all rows.
fn without_nulls(value: &Value) -> Json {
    match value {
        Value::Struct(fields) => {
            let present = fields.iter().filter(|(_, value)| !value.is_null());
            Json::Object(present.map(|(name, value)| (name.to_string(), without_nulls(value))).collect())
        }
        Value::List(values) => values.iter().map(without_nulls).collect(),
        other => other.to_json(),
    }
}

impl Preprocessor for ChatTuning {
    fn examples(&self, row: &Row, _: usize) -> Result<Vec<Example>, DataError> {
        let (encoding, counts) = match &self.columns {
            ChatColumns::Messages(column) => self.conversation(row, &ChatTuning::messages(row, column)?, 0)?,
            ChatColumns::PromptCompletion(prompt, completion) => {
                if row.column(prompt)?.as_list().is_some() {
                    let mut messages = ChatTuning::messages(row, prompt)?;
                    let given = messages.len();
                    messages.extend(ChatTuning::messages(row, completion)?);
                    self.conversation(row, &messages, given)?
                } else {
                    self.completion(row, row.text(prompt)?, row.text(completion)?)?
                }
            }
        };
        let mut ids = signed(row, &encoding.ids)?;
        let label = |(id, counts): (&i32, &bool)| if *counts { *id } else { IGNORE_INDEX };
        let mut labels: Vec<i32> = ids.iter().zip(&counts).map(label).collect();
        self.encoder.cut(row, &mut [&mut ids, &mut labels])?;
        Ok(vec![Example::new().with("input_ids", Feature::Ints(ids)).with("labels", Feature::Ints(labels))])
    }

    fn settings(&self) -> Result<String, DataError> {
        let settings = (&self.columns, &self.tools, self.answers_only);
        Ok(format!("chat {} {settings:?}", self.encoder.settings()?))
    }
}
