//! What every way of choosing tokens has in common: it says which sequences are to run and takes their logits. Must not
//! know how sequences share a call of the model.

use std::sync::Arc;

use super::error::GenerationError;
use super::pages::{PagePool, Sequence};
use super::request::{Generated, TokenLogprob};
use super::rules::{Guess, Rules};
use super::stopping::FinishReason;

/// A sequence that is to run.
pub(super) struct Feed<'a> {
    pub sequence: &'a mut Sequence,
    /// How many of its pending tokens.
    pub take: usize,
    /// Tokens after those, to be checked.
    pub guesses: &'a [Guess],
    /// The last so many of these tokens have logits.
    pub outputs: usize,
}

impl<'a> Feed<'a> {
    /// All that is pending of a sequence, for the logits after its last token.
    pub fn last(sequence: &'a mut Sequence) -> Feed<'a> {
        let take = sequence.pending().len();
        Feed { sequence, take, guesses: &[], outputs: 1 }
    }

    /// Tokens that the call writes.
    pub fn tokens(&self) -> usize {
        self.take + self.guesses.len()
    }
}

/// The results of the feeds of a search, one after the other.
pub(super) struct Rows<'a> {
    pub logits: &'a mut [f32],
    pub vocab: usize,
    /// Hidden states of the same rows, where the search needs them.
    pub hidden: &'a [f32],
}

/// What a search works with.
pub(super) struct Context<'a> {
    pub rules: &'a mut Rules,
    pub pool: &'a mut PagePool,
    /// Whether finished sequences leave their pages for later requests.
    pub keep: bool,
    /// Takes a token of a sample.
    pub emit: &'a mut dyn FnMut(usize, u32, Option<TokenLogprob>),
}

impl Context<'_> {
    /// Gives a finished sequence back.
    pub fn release(&mut self, sequence: Sequence) {
        if self.keep { self.pool.release_kept(sequence) } else { self.pool.release(sequence) }
    }
}

/// What a search gives in the end.
#[derive(Default)]
pub(super) struct Results {
    pub sequences: Vec<Generated>,
    pub scores: Vec<Vec<Vec<f32>>>,
    pub logits: Vec<Vec<Vec<f32>>>,
    pub guessed: usize,
    pub accepted: usize,
}

/// A way of choosing tokens, after the prompt.
pub(super) trait Search: Send {
    /// The sequences that run next.
    fn feeds(&mut self) -> Vec<Feed<'_>>;

    /// Takes the rows of all feeds; whether the search is over. The first call after the prompt has the row of its last
    /// token alone.
    ///
    /// # Errors
    /// What ends the whole request.
    fn advance(&mut self, rows: Rows<'_>, context: &mut Context<'_>) -> Result<bool, GenerationError>;

    /// A sequence cannot run; the rest may.
    ///
    /// # Errors
    /// The error, when it ends the whole request.
    fn fail(&mut self, feed: usize, error: GenerationError, pool: &mut PagePool) -> Result<(), GenerationError> {
        let _ = (feed, pool);
        Err(error)
    }

    /// Guesses tokens ahead, where the search speculates from its own text.
    fn look_up(&mut self, rules: &Rules) {
        let _ = rules;
    }

    /// The samples that a draft model may guess for.
    fn speculating(&mut self) -> &mut [super::samples::Sample] {
        &mut []
    }

    /// Ends the search, now if it is not over; every page is given back.
    fn finish(self: Box<Self>, reason: FinishReason, context: &mut Context<'_>) -> Results;

    /// Gives every page back without results.
    fn discard(self: Box<Self>, pool: &mut PagePool);
}

/// How a sequence ended.
#[derive(Debug, Clone)]
pub(super) struct End {
    pub reason: FinishReason,
    pub error: Option<Arc<GenerationError>>,
}

impl From<FinishReason> for End {
    fn from(reason: FinishReason) -> End {
        End { reason, error: None }
    }
}

impl From<GenerationError> for End {
    fn from(error: GenerationError) -> End {
        End { reason: FinishReason::Error, error: Some(Arc::new(error)) }
    }
}
