//! When a sequence ends. Must not know how tokens are chosen. (GE-25)

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::GenerationError;
use super::settings::Settings;
use super::stream::TokenText;

/// Whether a sequence (prompt and text) is to end after its last token.
pub type Criterion = Arc<dyn Fn(&[u32]) -> bool + Send + Sync>;

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// An end token came; it is part of the tokens.
    EndToken,
    /// A stop string came; it is part of the text. The number is its place among `stop_strings`.
    StopString(usize),
    /// The length limit.
    Length,
    /// The time limit.
    Time,
    /// The caller's criterion.
    Criterion,
    /// The caller's wish.
    Cancelled,
    /// An error of this sequence.
    Error,
}

impl FinishReason {
    /// The reason in one word, as servers give it: `stop`, `length`, `cancelled` or `error`.
    pub fn word(self) -> &'static str {
        match self {
            FinishReason::EndToken | FinishReason::StopString(_) | FinishReason::Criterion => "stop",
            FinishReason::Length | FinishReason::Time => "length",
            FinishReason::Cancelled => "cancelled",
            FinishReason::Error => "error",
        }
    }
}

/// The stop rules of a request.
pub(super) struct Stopping {
    end: Vec<u32>,
    limit: usize,
    deadline: Option<Instant>,
    strings: Vec<String>,
    text: Option<Arc<dyn TokenText>>,
    criterion: Option<Criterion>,
}

impl Stopping {
    /// The rules of these settings, for sequences of at most `limit` tokens.
    ///
    /// # Errors
    /// [`GenerationError::Option`] for stop strings without a way to read tokens as text.
    pub fn new(
        settings: &Settings,
        limit: usize,
        text: Option<Arc<dyn TokenText>>,
        criterion: Option<Criterion>,
    ) -> Result<Stopping, GenerationError> {
        if !settings.stop_strings.is_empty() && text.is_none() {
            return Err(GenerationError::option("stop_strings", "needs the model's tokenizer"));
        }
        // A time past the end of time is no limit.
        let time = settings.max_time.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let deadline = time.and_then(|time| Instant::now().checked_add(time));
        let strings = settings.stop_strings.clone();
        Ok(Stopping { end: settings.eos_token_id.clone(), limit, deadline, strings, text, criterion })
    }

    /// Whether the sequence ends with its last token, and why.
    pub fn check(&self, tokens: &[u32]) -> Option<FinishReason> {
        let last = tokens.last()?;
        if self.end.contains(last) {
            return Some(FinishReason::EndToken);
        }
        if let Some(i) = self.string(tokens) {
            return Some(FinishReason::StopString(i));
        }
        if self.criterion.as_ref().is_some_and(|criterion| criterion(tokens)) {
            return Some(FinishReason::Criterion);
        }
        if tokens.len() >= self.limit {
            return Some(FinishReason::Length);
        }
        self.deadline.filter(|deadline| Instant::now() >= *deadline).map(|_| FinishReason::Time)
    }

    /// The stop string that the last token completes, maybe with characters after it. One that was complete before the
    /// last token (in the prompt) does not count.
    fn string(&self, tokens: &[u32]) -> Option<usize> {
        let text = self.text.as_ref()?;
        let longest = self.strings.iter().map(String::len).max()?;
        // A token that shows has at least a byte; a few more, since the first of a window may lose a space.
        let window = &tokens[tokens.len().saturating_sub(longest + 4)..];
        let all = text.text(window);
        let before = text.text(&window[..window.len().saturating_sub(1)]);
        let old: usize = all.chars().zip(before.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
        let fresh = |stop: &String| {
            let from = old.saturating_sub(stop.len());
            let from = (0..=from).rev().find(|&i| all.is_char_boundary(i)).unwrap_or(0);
            all[from..].match_indices(stop.as_str()).any(|(at, _)| from + at + stop.len() > old)
        };
        self.strings.iter().position(fresh)
    }
}
