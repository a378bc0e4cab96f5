//! A request at work: its prompt first, then its search. Must not know other requests.

use std::time::Instant;

use super::beams::Beams;
use super::contrastive::Contrastive;
use super::error::GenerationError;
use super::groups::GroupBeams;
use super::pages::{PagePool, Sequence};
use super::request::{Cancel, Counts, Event, Generated, Output, RequestId};
use super::rules::Rules;
use super::samples::Samples;
use super::search::{Context, Feed, Results, Rows, Search};
use super::settings::Mode;
use super::stopping::FinishReason;

/// How a request ended.
pub(super) enum End {
    /// Its search is over.
    Over,
    Cancelled,
    Failed(GenerationError),
}

/// A request at work.
pub(super) struct Job {
    pub id: RequestId,
    prompt: Vec<u32>,
    /// The sequence of the prompt, until the search takes it over.
    reading: Option<Sequence>,
    pub search: Option<Box<dyn Search>>,
    pub rules: Rules,
    pub cancel: Cancel,
    /// Whether kept pages are used and left.
    keep: bool,
    /// Pages it may come to need.
    pub reserved: usize,
    /// Prompt tokens of the next call.
    pub share: usize,
    /// Hidden states of the prompt, where the search needs them.
    hidden: Vec<f32>,
    pub end: Option<End>,
    submitted: Instant,
    counts: Counts,
}

impl Job {
    pub fn new(id: RequestId, prompt: Vec<u32>, rules: Rules, cancel: Cancel, keep: bool, reserved: usize) -> Job {
        let counts = Counts { prompt_tokens: prompt.len(), ..Counts::default() };
        Job {
            id,
            prompt,
            reading: None,
            search: None,
            rules,
            cancel,
            keep,
            reserved,
            share: 0,
            hidden: Vec::new(),
            end: None,
            submitted: Instant::now(),
            counts,
        }
    }

    /// Begins to read the prompt, after what the cache holds of it.
    pub fn start(&mut self, pool: &mut PagePool) {
        let sequence = pool.start(self.prompt.clone(), self.keep);
        self.counts.reused_tokens = sequence.cached();
        self.reading = Some(sequence);
        if self.prompt_left() == 0 {
            self.begin(pool);
        }
    }

    /// With a second prompt to lead away from, the last token of the prompt runs beside that of the other.
    fn guided(&self) -> bool {
        self.rules.settings.guidance_scale != 1.0
    }

    /// Whether hidden states are wanted of every token.
    pub fn wants_hidden(&self) -> bool {
        matches!(self.rules.settings.mode, Mode::Contrastive(_))
    }

    /// Prompt tokens that are still to run before the search.
    pub fn prompt_left(&self) -> usize {
        let end = self.prompt.len() - usize::from(self.guided());
        self.reading.as_ref().map_or(0, |sequence| end - sequence.cached().min(end))
    }

    /// The sequences that run next.
    pub fn feeds(&mut self) -> Vec<Feed<'_>> {
        let left = self.prompt_left();
        let outputs = match (self.wants_hidden(), self.guided()) {
            (true, _) => self.share,
            (false, guided) => usize::from(self.share == left && !guided),
        };
        match (&self.end, &mut self.search, &mut self.reading) {
            (Some(_), ..) => Vec::new(),
            (None, Some(search), _) => search.feeds(),
            (None, None, Some(sequence)) if self.share > 0 => {
                vec![Feed { sequence, take: self.share, guesses: &[], outputs }]
            }
            (None, None, _) => Vec::new(),
        }
    }

    /// A sequence cannot run.
    pub fn fail_feed(&mut self, feed: usize, error: GenerationError, pool: &mut PagePool) {
        let fate = match &mut self.search {
            Some(search) => search.fail(feed, error, pool),
            None => Err(error),
        };
        match fate {
            Err(error) => self.end = Some(End::Failed(error)),
            Ok(()) if self.feeds().is_empty() => self.end = Some(End::Over),
            Ok(()) => {}
        }
    }

    /// Goes from the prompt to the search.
    fn begin(&mut self, pool: &mut PagePool) {
        let Some(sequence) = self.reading.take() else { return };
        if self.keep {
            pool.keep_pages_of(&sequence);
        }
        let rules = &self.rules;
        self.search = Some(match rules.settings.mode {
            Mode::Tokens => Box::new(Samples::new(sequence, !self.guided(), rules, pool)),
            Mode::Beams => Box::new(Beams::new(sequence, rules, pool)),
            Mode::GroupBeams => Box::new(GroupBeams::new(sequence, rules, pool)),
            Mode::Contrastive(alpha) => {
                let hidden = std::mem::take(&mut self.hidden);
                Box::new(Contrastive::new(sequence, alpha, hidden))
            }
        });
    }

    /// Takes the rows of its feeds, which have run.
    pub fn advance(
        &mut self,
        mut rows: Rows<'_>,
        pool: &mut PagePool,
        on_event: &mut dyn FnMut(Event),
    ) -> Result<(), GenerationError> {
        if self.end.is_some() {
            return Ok(());
        }
        if self.search.is_none() {
            if self.wants_hidden() {
                self.hidden.extend_from_slice(rows.hidden);
            }
            if self.prompt_left() > 0 {
                return Ok(());
            }
            self.begin(pool);
            if self.guided() {
                return Ok(());
            }
            // The search goes on from the last row.
            let last = rows.logits.len() - rows.vocab.min(rows.logits.len());
            rows.logits = &mut rows.logits[last..];
        }
        let (id, submitted, counts) = (self.id, self.submitted, &mut self.counts);
        let mut emit = |sample, token, logprob| {
            if counts.first_token.is_zero() {
                counts.first_token = submitted.elapsed();
            }
            on_event(Event::Token { request: id, sample, token, logprob });
        };
        let mut context = Context { rules: &mut self.rules, pool, keep: self.keep, emit: &mut emit };
        if let Some(search) = &mut self.search
            && search.advance(rows, &mut context)?
        {
            self.end = Some(End::Over);
        }
        Ok(())
    }

    /// The sequences of its samples in the draft's cache that are not needed any more.
    pub fn take_drafts(&mut self) -> Vec<Sequence> {
        let over = self.end.is_some();
        let samples = self.search.iter_mut().flat_map(|search| search.speculating());
        samples.filter_map(|sample| sample.take_draft(over)).collect()
    }

    /// The results; every page is given back.
    pub fn finish(mut self, pool: &mut PagePool) -> Result<Output, GenerationError> {
        let mut no_emit = |_, _, _| {};
        let mut context = Context { rules: &mut self.rules, pool, keep: self.keep, emit: &mut no_emit };
        if let Some(sequence) = self.reading {
            context.release(sequence);
        }
        let reason = match self.end {
            Some(End::Failed(error)) => {
                self.search.into_iter().for_each(|search| search.discard(context.pool));
                return Err(error);
            }
            Some(End::Over) => FinishReason::Length,
            Some(End::Cancelled) | None => FinishReason::Cancelled,
        };
        let results = match self.search {
            Some(search) => search.finish(reason, &mut context),
            None => Results {
                sequences: vec![nothing(reason); self.rules.settings.num_return_sequences],
                ..Results::default()
            },
        };
        let counts = Counts {
            new_tokens: results.sequences.iter().map(|s| s.tokens.len()).sum(),
            guessed_tokens: results.guessed,
            accepted_tokens: results.accepted,
            total: self.submitted.elapsed(),
            ..self.counts
        };
        let Results { sequences, scores, logits, .. } = results;
        let keep = |rows: Vec<Vec<Vec<f32>>>, wanted| if wanted { rows } else { Vec::new() };
        let s = &self.rules.settings;
        let (scores, logits) = (keep(scores, s.output_scores), keep(logits, s.output_logits));
        Ok(Output { prompt: self.prompt, sequences, scores, logits, seed: self.rules.seed, counts })
    }
}

/// A result without a token.
fn nothing(finish: FinishReason) -> Generated {
    Generated { tokens: Vec::new(), finish, error: None, logprobs: Vec::new(), sequence_score: None, rows: Vec::new() }
}
