//! What is asked of a generator and what it gives back. Must not know how it is done.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::error::GenerationError;
use super::processors::{AllowedTokens, UserProcessor};
use super::row;
use super::settings::Settings;
use super::stopping::{Criterion, FinishReason};
use super::stream::TokenText;

/// A flag that ends requests early and cleanly: Ctrl-C, a closed connection.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A flag that is not raised.
    pub fn new() -> Self {
        Cancel::default()
    }

    /// Ends every request that holds this flag, after the call of the model that is running.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the flag is raised.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// The flag itself, for a signal handler.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.0.clone()
    }
}

/// A prompt and what to do with it.
#[derive(Clone)]
pub struct Request {
    /// Token ids; with none, `bos_token_id` stands for them.
    pub prompt: Vec<u32>,
    /// The options.
    pub settings: Settings,
    /// Text of token ids with special tokens shown: needed for stop strings.
    pub text: Option<Arc<dyn TokenText>>,
    /// The tokens that may follow (`prefix_allowed_tokens_fn`): what constrains a text to a form.
    pub allowed: Option<AllowedTokens>,
    /// A processor of scores of the caller's own; runs after all others.
    pub processor: Option<UserProcessor>,
    /// A stop rule of the caller's own.
    pub criterion: Option<Criterion>,
    /// Ends the request early.
    pub cancel: Cancel,
    /// Whether pages that earlier requests left may be used, and left for later ones. Results do not depend on it.
    pub reuse_prefix: bool,
}

impl Request {
    /// A request without hooks.
    pub fn new(prompt: Vec<u32>, settings: Settings) -> Self {
        Request {
            prompt,
            settings,
            text: None,
            allowed: None,
            processor: None,
            criterion: None,
            cancel: Cancel::new(),
            reuse_prefix: true,
        }
    }
}

/// The number of a request, in order of submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(super) u64);

/// A token with the model's own log-probability, before any processor.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub token: u32,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// The likeliest tokens of that step, best first, as many as `logprobs` asks for.
    pub top: Vec<(u32, f32)>,
}

impl TokenLogprob {
    /// Of the model's logits.
    pub(super) fn of(logits: &[f32], token: u32, top: usize) -> TokenLogprob {
        let sum = row::log_sum_exp(logits);
        let mut best = Vec::new();
        row::top_k(logits, top, &mut best);
        best.sort_unstable_by(row::best_first);
        best.truncate(top);
        let top = best.iter().map(|c| (c.id, c.score - sum)).collect();
        TokenLogprob { token, logprob: logits.get(token as usize).map_or(f32::NAN, |x| x - sum), top }
    }
}

/// What comes while a generator works.
#[derive(Debug)]
pub enum Event {
    /// A token of greedy search, sampling or contrastive search, as soon as it is sure. Beam search has none.
    Token {
        /// Of which request.
        request: RequestId,
        /// Of which of its results.
        sample: usize,
        /// The token.
        token: u32,
        /// Its log-probability, when `logprobs` is set.
        logprob: Option<TokenLogprob>,
    },
    /// The end of a request, the last event of it.
    Finished {
        /// Which request.
        request: RequestId,
        /// Its results, or why there are none. Errors of single sequences stand in their results.
        result: Result<Output, GenerationError>,
    },
}

/// One result of a request.
#[derive(Debug, Clone)]
pub struct Generated {
    /// The new tokens, with the end token if one came.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: FinishReason,
    /// The error, when `finish` is [`FinishReason::Error`]; the tokens before it are there.
    pub error: Option<Arc<GenerationError>>,
    /// One for each token, when `logprobs` is set.
    pub logprobs: Vec<TokenLogprob>,
    /// Beam search: sum of log-probabilities over length to the power of the length penalty.
    pub sequence_score: Option<f32>,
    /// For each token the row of [`Output::scores`] it was chosen from.
    pub rows: Vec<usize>,
}

/// How much was done for a request.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Counts {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of these, tokens that the cache held already.
    pub reused_tokens: usize,
    /// New tokens of all results.
    pub new_tokens: usize,
    /// Tokens guessed by speculation.
    pub guessed_tokens: usize,
    /// Of these, tokens that were right.
    pub accepted_tokens: usize,
    /// From submission to the first token.
    pub first_token: Duration,
    /// From submission to the end.
    pub total: Duration,
}

/// The results of a request.
#[derive(Debug, Clone)]
pub struct Output {
    /// The prompt, as it ran.
    pub prompt: Vec<u32>,
    /// The results, best first for beams. (GE-07)
    pub sequences: Vec<Generated>,
    /// Processed scores, with `output_scores`: by row (result, or beam), step and token. (GE-35)
    pub scores: Vec<Vec<Vec<f32>>>,
    /// The model's logits, with `output_logits`, in the same order.
    pub logits: Vec<Vec<Vec<f32>>>,
    /// The seed of the draws; the one of the options, or a fresh one.
    pub seed: u64,
    /// Counts and times.
    pub counts: Counts,
}

impl Output {
    /// The sequences with the prompt before each, rows filled with `pad` to one length. (GE-05, GE-36)
    pub fn padded(&self, pad: u32) -> Vec<Vec<u32>> {
        let longest = self.sequences.iter().map(|s| s.tokens.len()).max().unwrap_or(0);
        let row = |s: &Generated| {
            let mut row = [&self.prompt[..], &s.tokens].concat();
            row.resize(self.prompt.len() + longest, pad);
            row
        };
        self.sequences.iter().map(row).collect()
    }

    /// The score of each token of each result at the step it was chosen, from [`Output::scores`]; `normalize` makes scores
    /// log-probabilities first. Empty without `output_scores`. (GE-35)
    pub fn transition_scores(&self, normalize: bool) -> Vec<Vec<f32>> {
        let score = |step: usize, row: usize, token: u32| {
            let scores = self.scores.get(row)?.get(step)?;
            let sum = if normalize { row::log_sum_exp(scores) } else { 0.0 };
            Some(scores.get(token as usize)? - sum)
        };
        let of = |s: &Generated| {
            let steps = s.tokens.iter().zip(&s.rows).enumerate();
            steps.map_while(|(step, (&token, &row))| score(step, row, token)).collect()
        };
        self.sequences.iter().map(of).collect()
    }
}
