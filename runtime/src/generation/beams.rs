//! Beam search and beam sampling, as Transformers defines them since version 5. Must not know pages beyond sharing and
//! giving back. (GE-12, GE-13, GE-14)

use super::error::GenerationError;
use super::pages::{PagePool, Sequence};
use super::processors::Scores;
use super::random::{Draws, Use};
use super::request::Generated;
use super::row::{self, Candidate};
use super::rules::Rules;
use super::search::{Context, Feed, Results, Rows, Search};
use super::settings::EarlyStopping;
use super::stopping::FinishReason;

/// The score of what is not to be chosen, as upstream has it: far below any sum of log-probabilities, yet finite.
pub(super) const LOW: f32 = -1e9;

/// A sequence in the making.
pub(super) struct Beam {
    pub sequence: Sequence,
    /// Sum of processed log-probabilities.
    pub score: f32,
    /// The beam that each new token was chosen from.
    pub rows: Vec<usize>,
}

impl Beam {
    /// The beam with one more token, and the number it had among its fellows.
    pub fn next(&self, token: u32, score: f32, row: usize, pool: &mut PagePool) -> Beam {
        let mut sequence = pool.fork(&self.sequence);
        sequence.tokens.push(token);
        Beam { sequence, score, rows: [&self.rows[..], &[row]].concat() }
    }
}

/// A beam and a token that may follow it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Continuation {
    pub beam: usize,
    pub token: u32,
    /// Sum of log-probabilities with the token.
    pub score: f32,
}

/// The best `count` continuations, best first; of equal ones that of the smaller beam and token.
pub(super) fn best(beams: &[f32], rows: &[&[f32]], count: usize) -> Vec<Continuation> {
    let mut found: Vec<Candidate> = Vec::new();
    let mut all = Vec::new();
    for (beam, (&score, row)) in beams.iter().zip(rows).enumerate() {
        row::top_k(row, count, &mut found);
        all.extend(found.iter().map(|c| Continuation { beam, token: c.id, score: score + c.score }));
    }
    all.sort_by(|a, b| b.score.total_cmp(&a.score));
    all.truncate(count);
    all
}

/// `length ^ length_penalty`, in the precision that scores are divided in.
fn penalty(length: usize, exponent: f64) -> f32 {
    (length as f64).powf(exponent) as f32
}

/// A finished sequence.
struct Finished {
    tokens: Vec<u32>,
    rows: Vec<usize>,
    score: f32,
    reason: FinishReason,
}

/// Beam search for one prompt.
pub(super) struct Beams {
    /// Best first.
    running: Vec<Beam>,
    /// Best first, at most `num_beams`.
    finished: Vec<Finished>,
    /// Whether a running beam may still become better than a finished one.
    open: bool,
    /// Whether the next row is that of the prompt, for all beams.
    fresh: bool,
    draws: Draws,
    scores: Vec<Vec<Vec<f32>>>,
    logits: Vec<Vec<Vec<f32>>>,
}

impl Beams {
    /// Beams that go on from a prompt, whose last row comes next.
    pub fn new(prompt: Sequence, rules: &Rules, pool: &mut PagePool) -> Beams {
        let beams = rules.settings.num_beams;
        // All but the first begin so low that the first step chooses different tokens of one beam.
        let score = |i| if i == 0 { 0.0 } else { LOW };
        let beam = |i| Beam { sequence: pool.fork(&prompt), score: score(i), rows: Vec::new() };
        let running = (0..beams).map(beam).collect();
        pool.release(prompt);
        Beams {
            running,
            finished: Vec::new(),
            open: true,
            fresh: true,
            draws: Draws::new(rules.seed, 0),
            scores: vec![Vec::new(); beams],
            logits: vec![Vec::new(); beams],
        }
    }

    /// Log-probabilities, processed and warped, in place; recorded as asked.
    fn process(&mut self, rows: &mut [&mut [f32]], rules: &mut Rules) -> Result<(), GenerationError> {
        let last = rows.len() - 1;
        if rules.settings.output_logits {
            for (i, record) in self.logits.iter_mut().enumerate() {
                record.push(rows[i.min(last)].to_vec());
            }
        }
        rows.iter_mut().for_each(|row| row::log_softmax(row));
        let tokens = self.running.iter().map(|beam| &beam.sequence.tokens[..]);
        let mut scores: Vec<Scores<'_>> =
            rows.iter_mut().zip(tokens).map(|(row, tokens)| Scores { row, tokens }).collect();
        rules.processors.apply(&mut scores)?;
        if rules.settings.do_sample {
            rows.iter_mut().for_each(|row| rules.warpers.warp(row, &mut rules.candidates));
        }
        if rules.settings.output_scores {
            for (i, record) in self.scores.iter_mut().enumerate() {
                record.push(rows[i.min(last)].to_vec());
            }
        }
        Ok(())
    }

    /// Draws `count` continuations without replacement, each with a probability in proportion to the exponential of its
    /// score among those left: the largest sums of score and Gumbel noise (Kool, van Hoof, Welling: "Stochastic beams and
    /// where to find them", 2019), in the order drawn.
    fn draw(&self, rows: &[&[f32]], step: usize, count: usize) -> Vec<Continuation> {
        let mut all = Vec::new();
        for (beam, (running, row)) in self.running.iter().zip(rows).enumerate() {
            for (token, &x) in (0u32..).zip(*row).filter(|(_, x)| **x > f32::NEG_INFINITY) {
                let score = running.score + x;
                let index = (beam * row.len()) as u32 + token;
                let draw = self.draws.indexed(step, Use::Beam, index);
                let noise = -(-draw.max(f64::MIN_POSITIVE).ln()).ln();
                all.push((f64::from(score) + noise, Continuation { beam, token, score }));
            }
        }
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        all.truncate(count);
        all.into_iter().map(|(_, continuation)| continuation).collect()
    }
}

impl Search for Beams {
    fn feeds(&mut self) -> Vec<Feed<'_>> {
        self.running.iter_mut().map(|beam| Feed::last(&mut beam.sequence)).collect()
    }

    fn advance(&mut self, rows: Rows<'_>, context: &mut Context<'_>) -> Result<bool, GenerationError> {
        let Context { rules, pool, .. } = context;
        let beams = rules.settings.num_beams;
        let length = self.running.first().map_or(0, |beam| beam.sequence.tokens.len());
        let new = length - rules.prompt + 1;
        let mut rows: Vec<&mut [f32]> = rows.logits.chunks_exact_mut(rows.vocab).collect();
        if rows.is_empty() {
            return Ok(true);
        }
        self.process(&mut rows, rules)?;
        let rows: Vec<&[f32]> = match std::mem::take(&mut self.fresh) {
            true => vec![&*rows[0]; self.running.len()],
            false => rows.iter().map(|row| &**row).collect(),
        };
        // More than there are beams, so that enough are left when many end.
        let s = &rules.settings;
        let count = (1 + s.eos_token_id.len()).max(2).saturating_mul(beams);
        let found = if s.do_sample {
            self.draw(&rows, new - 1, count)
        } else {
            let scores: Vec<f32> = self.running.iter().map(|beam| beam.score).collect();
            best(&scores, &rows, count)
        };
        if found.is_empty() {
            let problem = "every score is suppressed or not a number";
            return Err(GenerationError::Logits { tokens: length, problem });
        }
        let ends: Vec<Option<FinishReason>> = found
            .iter()
            .map(|c| rules.stopping.check(&[&self.running[c.beam].sequence.tokens[..], &[c.token]].concat()))
            .collect();

        // Only what ends among the best `num_beams` counts as finished.
        let full = self.finished.len() == beams && s.early_stopping == EarlyStopping::Yes;
        for (c, reason) in found.iter().zip(&ends).take(beams) {
            let (Some(reason), true, false) = (*reason, self.open, full) else { continue };
            let score = c.score / penalty(new, s.length_penalty);
            let beam = &self.running[c.beam];
            if score > LOW {
                let tokens = [&beam.sequence.tokens[rules.prompt..], &[c.token]].concat();
                self.finished.push(Finished { tokens, rows: [&beam.rows[..], &[c.beam]].concat(), score, reason });
            }
        }
        self.finished.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.finished.truncate(beams);

        let mut next: Vec<Continuation> = found
            .iter()
            .zip(&ends)
            .map(|(c, end)| Continuation { score: if end.is_some() { c.score + LOW } else { c.score }, ..*c })
            .collect();
        next.sort_by(|a, b| b.score.total_cmp(&a.score));
        next.truncate(beams);
        let best_length = match s.early_stopping {
            EarlyStopping::Never if s.length_penalty > 0.0 => rules.limit - rules.prompt,
            _ => new,
        };
        let attainable = next.first().map_or(LOW, |c| c.score) / penalty(best_length, s.length_penalty);
        let complete = self.finished.len() == beams;
        let worst = self.finished.last().filter(|_| complete).map_or(LOW, |finished| finished.score);
        self.open &= attainable > worst;
        let done = !self.open || complete && s.early_stopping == EarlyStopping::Yes || ends.iter().all(Option::is_some);
        if !done {
            let running = next.iter().map(|c| self.running[c.beam].next(c.token, c.score, c.beam, pool)).collect();
            for old in std::mem::replace(&mut self.running, running) {
                pool.release(old.sequence);
            }
        }
        Ok(done)
    }

    fn finish(mut self: Box<Self>, reason: FinishReason, context: &mut Context<'_>) -> Results {
        let s = &context.rules.settings;
        let count = s.num_return_sequences;
        // Cut short, the running beams stand in for what is missing.
        for beam in self.running.iter().filter(|beam| !beam.rows.is_empty()) {
            if self.finished.len() < count && reason == FinishReason::Cancelled {
                let tokens = beam.sequence.tokens.get(context.rules.prompt..).unwrap_or_default().to_vec();
                let score = beam.score / penalty(tokens.len(), s.length_penalty);
                self.finished.push(Finished { tokens, rows: beam.rows.clone(), score, reason });
            }
        }
        self.finished.truncate(count);
        let result = |f: Finished| Generated {
            tokens: f.tokens,
            finish: f.reason,
            error: None,
            logprobs: Vec::new(),
            sequence_score: Some(f.score),
            rows: f.rows,
        };
        let sequences = self.finished.into_iter().map(result).collect();
        self.running.into_iter().for_each(|beam| context.pool.release(beam.sequence));
        Results { sequences, scores: self.scores, logits: self.logits, ..Results::default() }
    }

    fn discard(self: Box<Self>, pool: &mut PagePool) {
        self.running.into_iter().for_each(|beam| pool.release(beam.sequence));
    }
}
