//! Diverse beam search: groups of beams, each kept from the tokens that groups before it chose in the same step
//! (Vijayakumar et al.: "Diverse beam search", 2016), as Transformers had it built in up to version 4.49. Must not know
//! pages beyond sharing and giving back. (GE-16)

use super::beams::{Beam, LOW, best};
use super::error::GenerationError;
use super::pages::{PagePool, Sequence};
use super::processors::Scores;
use super::request::Generated;
use super::row;
use super::rules::Rules;
use super::search::{Context, Feed, Results, Rows, Search};
use super::settings::{EarlyStopping, Settings};
use super::stopping::FinishReason;

/// A hypothesis of a group.
struct Hypothesis {
    score: f64,
    tokens: Vec<u32>,
    rows: Vec<usize>,
    /// Whether an end token follows.
    ended: bool,
    reason: FinishReason,
}

/// A group of beams.
struct Group {
    running: Vec<Beam>,
    /// The best that have ended, in order of coming.
    hypotheses: Vec<Hypothesis>,
    done: bool,
}

/// Diverse beam search for one prompt.
pub(super) struct GroupBeams {
    groups: Vec<Group>,
    /// Beams of a group.
    size: usize,
    fresh: bool,
    scores: Vec<Vec<Vec<f32>>>,
    logits: Vec<Vec<Vec<f32>>>,
}

impl Group {
    /// Takes a hypothesis with its sum of log-probabilities over so many tokens, if it is among the `size` best.
    fn add(&mut self, hypothesis: Hypothesis, size: usize) {
        let worst = self.worst();
        if self.hypotheses.len() < size || hypothesis.score > worst.map_or(f64::NEG_INFINITY, |(_, score)| score) {
            self.hypotheses.push(hypothesis);
        }
        if let Some((i, _)) = self.worst().filter(|_| self.hypotheses.len() > size) {
            self.hypotheses.remove(i);
        }
    }

    fn worst(&self) -> Option<(usize, f64)> {
        let scores = self.hypotheses.iter().map(|h| h.score).enumerate();
        scores.min_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// Whether no running beam is to become better than the hypotheses there are, `new` tokens after the prompt.
    fn is_done(&self, size: usize, best: f32, new: usize, most: usize, s: &Settings) -> bool {
        if self.hypotheses.len() < size {
            return false;
        }
        let length = match s.early_stopping {
            EarlyStopping::Yes => return true,
            EarlyStopping::Never if s.length_penalty > 0.0 => most,
            EarlyStopping::Heuristic | EarlyStopping::Never => new,
        };
        let attainable = f64::from(best) / (length as f64).powf(s.length_penalty);
        self.worst().is_some_and(|(_, worst)| worst >= attainable)
    }
}

impl GroupBeams {
    /// Groups that go on from a prompt, whose last row comes next.
    pub fn new(prompt: Sequence, rules: &Rules, pool: &mut PagePool) -> GroupBeams {
        let (beams, groups) = (rules.settings.num_beams, rules.settings.num_beam_groups);
        let size = beams / groups.max(1);
        let mut group = || {
            let score = |i| if i == 0 { 0.0 } else { LOW };
            let beam = |i| Beam { sequence: pool.fork(&prompt), score: score(i), rows: Vec::new() };
            Group { running: (0..size).map(beam).collect(), hypotheses: Vec::new(), done: false }
        };
        let groups = (0..groups).map(|_| group()).collect();
        pool.release(prompt);
        GroupBeams { groups, size, fresh: true, scores: vec![Vec::new(); beams], logits: vec![Vec::new(); beams] }
    }

    /// One step of a group; the tokens it chose. `rows` are those of its beams, or one row for all.
    fn step(
        &mut self,
        index: usize,
        rows: &mut [&mut [f32]],
        chosen: &[u32],
        rules: &mut Rules,
        pool: &mut PagePool,
    ) -> Result<Vec<u32>, GenerationError> {
        let size = self.size;
        let group = &mut self.groups[index];
        let last = rows.len() - 1;
        let first_row = index * size;
        for row in &mut *rows {
            row::log_softmax(row);
            for &token in chosen {
                if let Some(x) = row.get_mut(token as usize) {
                    *x -= rules.settings.diversity_penalty;
                }
            }
        }
        let tokens = group.running.iter().map(|beam| &beam.sequence.tokens[..]);
        let mut scores: Vec<Scores<'_>> =
            rows.iter_mut().zip(tokens).map(|(row, tokens)| Scores { row, tokens }).collect();
        rules.processors.apply(&mut scores)?;
        if rules.settings.output_scores {
            for (i, record) in self.scores.iter_mut().skip(first_row).take(size).enumerate() {
                record.push(rows[i.min(last)].to_vec());
            }
        }
        let s = &rules.settings;
        let rows: Vec<&[f32]> = (0..group.running.len()).map(|i| &*rows[i.min(last)]).collect();
        let scores: Vec<f32> = group.running.iter().map(|beam| beam.score).collect();
        let found = best(&scores, &rows, (1 + s.eos_token_id.len()).max(2).saturating_mul(size));
        let length = group.running.first().map_or(0, |beam| beam.sequence.tokens.len());
        let new = length + 1 - rules.prompt;
        let mut running = Vec::new();
        for (rank, c) in found.iter().enumerate() {
            let beam = &group.running[c.beam];
            if !s.eos_token_id.contains(&c.token) {
                running.push(beam.next(c.token, c.score, first_row + c.beam, pool));
            } else if rank < size {
                let tokens = beam.sequence.tokens[rules.prompt..].to_vec();
                let rows = [&beam.rows[..], &[first_row + c.beam]].concat();
                let score = f64::from(c.score) / (new as f64).powf(s.length_penalty);
                let reason = FinishReason::EndToken;
                group.add(Hypothesis { score, tokens, rows, ended: true, reason }, size);
            }
            if running.len() == size {
                break;
            }
        }
        for old in std::mem::replace(&mut group.running, running) {
            pool.release(old.sequence);
        }
        let best = found.first().map_or(LOW, |c| c.score);
        group.done = group.running.is_empty() || group.is_done(size, best, new, rules.limit - rules.prompt, s);
        Ok(group.running.iter().filter_map(|beam| beam.sequence.tokens.last().copied()).collect())
    }
}

impl Search for GroupBeams {
    fn feeds(&mut self) -> Vec<Feed<'_>> {
        let running = self.groups.iter_mut().filter(|group| !group.done).flat_map(|group| &mut group.running);
        running.map(|beam| Feed::last(&mut beam.sequence)).collect()
    }

    fn advance(&mut self, rows: Rows<'_>, context: &mut Context<'_>) -> Result<bool, GenerationError> {
        let Context { rules, pool, .. } = context;
        let Rows { mut logits, vocab, .. } = rows;
        let fresh = std::mem::take(&mut self.fresh);
        let mut chosen = Vec::new();
        for index in 0..self.groups.len() {
            let group = &self.groups[index];
            if group.done {
                // It goes on with fill, as far as the others can see.
                chosen.extend(std::iter::repeat_n(rules.settings.pad_token_id.unwrap_or(0), self.size));
                continue;
            }
            let mut copy = if fresh { logits.to_vec() } else { Vec::new() };
            let count = group.running.len() * vocab;
            let own: &mut [f32] = if fresh {
                &mut copy
            } else {
                let (own, rest) = std::mem::take(&mut logits).split_at_mut(count);
                logits = rest;
                own
            };
            let mut rows: Vec<&mut [f32]> = own.chunks_exact_mut(vocab).collect();
            if rows.is_empty() {
                return Ok(true);
            }
            if rules.settings.output_logits {
                let last = rows.len() - 1;
                for (i, record) in self.logits.iter_mut().skip(index * self.size).take(self.size).enumerate() {
                    record.push(rows[i.min(last)].to_vec());
                }
            }
            let tokens = self.step(index, &mut rows, &chosen, rules, pool)?;
            chosen.extend(tokens);
        }
        let mut running = self.groups.iter().filter(|group| !group.done).flat_map(|group| &group.running);
        let over = running.all(|beam| rules.stopping.check(&beam.sequence.tokens).is_some());
        Ok(over)
    }

    fn finish(mut self: Box<Self>, reason: FinishReason, context: &mut Context<'_>) -> Results {
        let rules = &*context.rules;
        let s = &rules.settings;
        let mut all = Vec::new();
        for mut group in self.groups.drain(..) {
            for beam in std::mem::take(&mut group.running) {
                let cut = rules.stopping.check(&beam.sequence.tokens).unwrap_or(reason);
                let tokens = beam.sequence.tokens.get(rules.prompt..).unwrap_or_default().to_vec();
                if !group.done && !tokens.is_empty() {
                    let score = f64::from(beam.score) / (tokens.len() as f64).powf(s.length_penalty);
                    group.add(Hypothesis { score, tokens, rows: beam.rows, ended: false, reason: cut }, self.size);
                }
                context.pool.release(beam.sequence);
            }
            all.append(&mut group.hypotheses);
        }
        // Best first, of equal ones the later, as upstream takes them from the end.
        all.reverse();
        all.sort_by(|a, b| b.score.total_cmp(&a.score));
        all.truncate(s.num_return_sequences);
        let result = |mut h: Hypothesis| {
            h.tokens.extend(s.eos_token_id.first().filter(|_| h.ended));
            Generated {
                finish: h.reason,
                tokens: h.tokens,
                error: None,
                logprobs: Vec::new(),
                sequence_score: Some(h.score as f32),
                rows: h.rows,
            }
        };
        let sequences = all.into_iter().map(result).collect();
        Results { sequences, scores: self.scores, logits: self.logits, ..Results::default() }
    }

    fn discard(self: Box<Self>, pool: &mut PagePool) {
        self.groups.into_iter().flat_map(|group| group.running).for_each(|beam| pool.release(beam.sequence));
    }
}
