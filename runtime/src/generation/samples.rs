//! Greedy search and sampling: each result goes its own way, with guesses checked where there are any, and against a
//! second prompt where `guidance_scale` asks for it. (GE-10, GE-11, GE-15)

use super::error::GenerationError;
use super::pages::{PagePool, Sequence};
use super::random::Draws;
use super::request::Generated;
use super::row;
use super::rules::{Guess, Record, Rules};
use super::search::{Context, End, Feed, Results, Rows, Search};
use super::settings::Schedule;
use super::stopping::FinishReason;

/// One result in the making.
pub(super) struct Sample {
    pub sequence: Sequence,
    /// The sequence of `negative_prompt_ids` and the same text.
    guide: Option<Sequence>,
    pub draws: Draws,
    pub guesses: Vec<Guess>,
    /// Most tokens to guess next.
    pub ahead: usize,
    /// The same sequence in the cache of the draft model.
    pub draft: Option<Sequence>,
    end: Option<End>,
    /// The text, once the sequence has been given back.
    text: Vec<u32>,
    record: Record,
    guessed: usize,
    accepted: usize,
}

/// All results of a request.
pub(super) struct Samples {
    samples: Vec<Sample>,
    /// Whether the next row is that of the prompt, for all of them.
    fresh: bool,
    /// Tokens of the prompt.
    prompt: usize,
}

impl Samples {
    /// Samples that go on from a prompt. `fresh`: its last row comes next; otherwise its last token is still to run.
    pub fn new(prompt: Sequence, fresh: bool, rules: &Rules, pool: &mut PagePool) -> Samples {
        let s = &rules.settings;
        let guide = |pool: &mut PagePool| {
            let last = prompt.tokens.last().map(|&id| vec![id]).unwrap_or_default();
            let tokens = s.negative_prompt_ids.clone().filter(|ids| !ids.is_empty()).unwrap_or(last);
            (s.guidance_scale != 1.0).then(|| pool.start(tokens, false))
        };
        let mut samples = Vec::new();
        for i in 0..u32::try_from(s.num_return_sequences).unwrap_or(u32::MAX) {
            samples.push(Sample {
                sequence: pool.fork(&prompt),
                guide: guide(pool),
                draws: Draws::new(rules.seed, i),
                guesses: Vec::new(),
                ahead: s.num_assistant_tokens,
                draft: None,
                end: None,
                text: Vec::new(),
                record: Record::default(),
                guessed: 0,
                accepted: 0,
            });
        }
        pool.release(prompt);
        Samples { samples, fresh, prompt: rules.prompt }
    }

    fn running(&mut self) -> impl Iterator<Item = (usize, &mut Sample)> {
        self.samples.iter_mut().enumerate().filter(|(_, sample)| sample.end.is_none())
    }
}

impl Sample {
    /// Whether tokens may be guessed for it.
    pub fn speculates(&self) -> bool {
        self.end.is_none() && self.guide.is_none()
    }

    /// Its sequence in the draft's cache, once it or the request is over.
    pub fn take_draft(&mut self, over: bool) -> Option<Sequence> {
        if over || self.end.is_some() { self.draft.take() } else { None }
    }

    /// Takes its rows: one for each guess and one more.
    fn advance(
        &mut self,
        index: usize,
        rows: &mut [f32],
        guide: Option<&mut [f32]>,
        vocab: usize,
        context: &mut Context<'_>,
    ) -> Result<(), GenerationError> {
        let guesses = std::mem::take(&mut self.guesses);
        let scale = context.rules.settings.guidance_scale;
        if let Some(guide) = guide {
            row::log_softmax(rows);
            row::log_softmax(guide);
            rows.iter_mut().zip(&*guide).for_each(|(x, u)| *x = scale * (*x - u) + u);
        }
        let mut right = 0;
        for (i, row) in rows.chunks_exact_mut(vocab).enumerate() {
            let guess = guesses.get(i);
            let tokens = &self.sequence.tokens;
            let token = context.rules.choose(row, tokens, self.draws, guess, &mut self.record)?;
            self.sequence.tokens.push(token);
            if let Some(guide) = &mut self.guide {
                guide.tokens.push(token);
            }
            let logprob = context.rules.settings.logprobs.and_then(|_| self.record.logprobs.last().cloned());
            (context.emit)(index, token, logprob);
            self.end = context.rules.stopping.check(&self.sequence.tokens).map(End::from);
            if self.end.is_some() || guess.is_none_or(|guess| guess.token != token) {
                break;
            }
            right += 1;
        }
        if !guesses.is_empty() {
            self.guessed += guesses.len();
            self.accepted += right;
            if context.rules.settings.num_assistant_tokens_schedule == Schedule::Heuristic {
                self.ahead = if right == guesses.len() { self.ahead + 2 } else { self.ahead.saturating_sub(1).max(1) };
            }
        }
        // The last token has not run, and what was guessed wrongly is to be forgotten.
        let ran = self.sequence.tokens.len().saturating_sub(1);
        context.pool.truncate(&mut self.sequence, ran);
        Ok(())
    }

    /// Gives all pages back. Those of the draft stay with it and are given back by their own pool.
    fn close(&mut self, prompt: usize, give: &mut dyn FnMut(Sequence)) {
        let sequence = std::mem::take(&mut self.sequence);
        self.text = sequence.tokens.get(prompt..).unwrap_or_default().to_vec();
        give(sequence);
    }
}

impl Search for Samples {
    fn feeds(&mut self) -> Vec<Feed<'_>> {
        let mut feeds = Vec::new();
        for (_, sample) in self.running() {
            let take = sample.sequence.pending().len();
            let outputs = sample.guesses.len() + 1;
            feeds.push(Feed { sequence: &mut sample.sequence, take, guesses: &sample.guesses, outputs });
            feeds.extend(sample.guide.as_mut().map(Feed::last));
        }
        feeds
    }

    fn advance(&mut self, rows: Rows<'_>, context: &mut Context<'_>) -> Result<bool, GenerationError> {
        let Rows { mut logits, vocab, .. } = rows;
        let fresh = std::mem::take(&mut self.fresh);
        let last = self.samples.len().saturating_sub(1);
        for (index, sample) in self.running() {
            let result = if fresh && index < last {
                sample.advance(index, &mut logits.to_vec(), None, vocab, context)
            } else {
                let own = if fresh { 1 } else { sample.guesses.len() + 1 };
                let guided = !fresh && sample.guide.is_some();
                let (rows, rest) = std::mem::take(&mut logits).split_at_mut(own * vocab);
                let (guide, rest) = rest.split_at_mut(if guided { vocab } else { 0 });
                logits = rest;
                sample.advance(index, rows, guided.then_some(guide), vocab, context)
            };
            if let Err(error) = result {
                sample.end = Some(error.into());
            }
            if sample.end.is_some() {
                let (prompt, keep) = (context.rules.prompt, context.keep);
                if let Some(guide) = sample.guide.take() {
                    context.pool.release(guide);
                }
                sample
                    .close(prompt, &mut |s| if keep { context.pool.release_kept(s) } else { context.pool.release(s) });
            }
        }
        Ok(self.running().next().is_none())
    }

    fn fail(&mut self, feed: usize, error: GenerationError, pool: &mut PagePool) -> Result<(), GenerationError> {
        let mut at = 0;
        let prompt = self.prompt;
        for (_, sample) in self.running() {
            at += 1 + usize::from(sample.guide.is_some());
            if feed < at {
                sample.end = Some(error.into());
                sample.guide.take().into_iter().for_each(|guide| pool.release(guide));
                sample.close(prompt, &mut |s| pool.release(s));
                break;
            }
        }
        Ok(())
    }

    fn look_up(&mut self, rules: &Rules) {
        let s = &rules.settings;
        let Some(count) = s.prompt_lookup_num_tokens else { return };
        for (_, sample) in self.running().filter(|(_, sample)| sample.speculates()) {
            let tokens = &sample.sequence.tokens;
            let most = count.min(rules.limit.saturating_sub(tokens.len() + 1));
            let found = look_up(tokens, s.max_matching_ngram_size, most);
            let found = found.iter().take_while(|id| !s.eos_token_id.contains(id));
            sample.guesses = found.map(|&token| Guess { token, distribution: Vec::new() }).collect();
        }
    }

    fn speculating(&mut self) -> &mut [Sample] {
        &mut self.samples
    }

    fn finish(mut self: Box<Self>, reason: FinishReason, context: &mut Context<'_>) -> Results {
        let mut results = Results::default();
        for (row, mut sample) in self.samples.drain(..).enumerate() {
            if sample.end.is_none() {
                sample.guide.take().into_iter().for_each(|guide| context.pool.release(guide));
                let prompt = context.rules.prompt;
                sample.close(prompt, &mut |s| context.release(s));
            }
            let End { reason, error } = sample.end.unwrap_or_else(|| reason.into());
            results.guessed += sample.guessed;
            results.accepted += sample.accepted;
            results.scores.push(sample.record.scores);
            results.logits.push(sample.record.logits);
            let rows = vec![row; sample.text.len()];
            let (tokens, logprobs) = (sample.text, sample.record.logprobs);
            results.sequences.push(Generated { tokens, finish: reason, error, logprobs, sequence_score: None, rows });
        }
        results
    }

    fn discard(mut self: Box<Self>, pool: &mut PagePool) {
        for sample in self.samples.drain(..) {
            pool.release(sample.sequence);
            sample.guide.into_iter().for_each(|guide| pool.release(guide));
        }
    }
}

/// The tokens that followed an earlier place of the last few tokens: the longest match of at most `longest` tokens, its
/// first place (Saxena: "Prompt lookup decoding", 2023).
fn look_up(tokens: &[u32], longest: usize, count: usize) -> &[u32] {
    for size in (1..=longest.min(tokens.len().saturating_sub(1))).rev() {
        let last = &tokens[tokens.len() - size..];
        let earlier = &tokens[..tokens.len() - 1];
        if let Some(at) = earlier.windows(size).position(|window| window == last) {
            let start = at + size;
            return &tokens[start..tokens.len().min(start.saturating_add(count))];
        }
    }
    &[]
}
