//! Contrastive search: of the likeliest tokens the one that is likely and unlike what was said before (Su et al.: "A
//! contrastive framework for neural text generation", 2022). Every candidate runs one step ahead, since its likeness is
//! that of hidden states. Must not know pages beyond sharing and giving back. (GE-16)

use super::error::GenerationError;
use super::pages::{PagePool, Sequence};
use super::processors::Scores;
use super::request::{Generated, TokenLogprob};
use super::row;
use super::rules::{Record, Rules};
use super::search::{Context, End, Feed, Results, Rows, Search};
use super::stopping::FinishReason;

/// A token that may come next, already run.
struct Next {
    sequence: Sequence,
    token: u32,
    probability: f32,
}

/// Contrastive search for one prompt.
pub(super) struct Contrastive {
    /// All tokens but the one that is being chosen; the cache holds them.
    sequence: Sequence,
    candidates: Vec<Next>,
    /// Hidden states of the sequence, each of length 1.
    context: Vec<f32>,
    alpha: f32,
    /// The logits that the candidates come from, where log-probabilities are wanted.
    before: Vec<f32>,
    record: Record,
    end: Option<End>,
}

/// Makes each of the rows of this width a vector of length 1.
fn normalize(rows: &mut [f32], width: usize) {
    for row in rows.chunks_exact_mut(width.max(1)) {
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter_mut().for_each(|x| *x /= norm);
    }
}

impl Contrastive {
    /// A search that goes on from a prompt with these hidden states, whose last row comes next.
    pub fn new(prompt: Sequence, alpha: f32, mut hidden: Vec<f32>) -> Contrastive {
        let width = hidden.len() / prompt.tokens.len().max(1);
        normalize(&mut hidden, width);
        Contrastive {
            sequence: prompt,
            candidates: Vec::new(),
            context: hidden,
            alpha,
            before: Vec::new(),
            record: Record::default(),
            end: None,
        }
    }

    /// Takes the candidates of the next step from the logits of this one.
    fn look_ahead(&mut self, row: &mut [f32], rules: &mut Rules, pool: &mut PagePool) -> Result<(), GenerationError> {
        if rules.settings.output_logits {
            self.record.logits.push(row.to_vec());
        }
        if rules.settings.logprobs.is_some() {
            self.before = row.to_vec();
        }
        rules.processors.apply(&mut [Scores { row, tokens: &self.sequence.tokens }])?;
        let sum = row::log_sum_exp(row);
        row::top_k(row, rules.settings.top_k, &mut rules.candidates);
        rules.candidates.sort_unstable_by(row::best_first);
        rules.candidates.truncate(rules.settings.top_k);
        for candidate in &rules.candidates {
            let mut sequence = pool.fork(&self.sequence);
            sequence.tokens.push(candidate.id);
            self.candidates.push(Next { sequence, token: candidate.id, probability: (candidate.score - sum).exp() });
        }
        if rules.settings.output_scores {
            self.record.scores.push(row.to_vec());
        }
        if self.candidates.is_empty() {
            let problem = "every score is suppressed or not a number";
            return Err(GenerationError::Logits { tokens: self.sequence.tokens.len(), problem });
        }
        Ok(())
    }

    /// The place of the candidate with the most of `(1 - alpha) * probability - alpha * likeness`, likeness being the
    /// largest cosine to a hidden state before.
    fn choose(&self, hidden: &[f32], width: usize) -> usize {
        let mut best = (f32::NEG_INFINITY, 0);
        for (i, (candidate, own)) in self.candidates.iter().zip(hidden.chunks_exact(width)).enumerate() {
            let cosine = |old: &[f32]| old.iter().zip(own).map(|(a, b)| a * b).sum::<f32>();
            let likeness = self.context.chunks_exact(width).map(cosine).fold(f32::NEG_INFINITY, f32::max);
            let score = (1.0 - self.alpha) * candidate.probability - self.alpha * likeness;
            if score > best.0 {
                best = (score, i);
            }
        }
        best.1
    }
}

impl Search for Contrastive {
    fn feeds(&mut self) -> Vec<Feed<'_>> {
        self.candidates.iter_mut().map(|next| Feed::last(&mut next.sequence)).collect()
    }

    fn advance(&mut self, rows: Rows<'_>, context: &mut Context<'_>) -> Result<bool, GenerationError> {
        let Context { rules, pool, emit, .. } = context;
        let mut row = 0;
        if !self.candidates.is_empty() {
            let width = rows.hidden.len() / self.candidates.len();
            if width == 0 {
                return Err(GenerationError::Unsupported("the model gave no hidden states".into()));
            }
            let mut hidden = rows.hidden.to_vec();
            normalize(&mut hidden, width);
            row = self.choose(&hidden, width);
            self.context.extend_from_slice(&hidden[row * width..(row + 1) * width]);
            for (i, next) in std::mem::take(&mut self.candidates).into_iter().enumerate() {
                if i != row {
                    pool.release(next.sequence);
                    continue;
                }
                pool.release(std::mem::replace(&mut self.sequence, next.sequence));
                let logprob = rules.settings.logprobs.map(|top| TokenLogprob::of(&self.before, next.token, top));
                self.record.logprobs.extend(logprob.clone());
                emit(0, next.token, logprob);
            }
            self.end = rules.stopping.check(&self.sequence.tokens).map(End::from);
            if self.end.is_some() {
                return Ok(true);
            }
        }
        let row = rows.logits.chunks_exact_mut(rows.vocab).nth(row).unwrap_or_default();
        self.look_ahead(row, rules, pool)?;
        Ok(false)
    }

    fn finish(self: Box<Self>, reason: FinishReason, context: &mut Context<'_>) -> Results {
        self.candidates.into_iter().for_each(|next| context.pool.release(next.sequence));
        let tokens = self.sequence.tokens.get(context.rules.prompt..).unwrap_or_default().to_vec();
        context.release(self.sequence);
        let End { reason: finish, error } = self.end.unwrap_or_else(|| reason.into());
        let Record { scores, logits, logprobs } = self.record;
        let rows = vec![0; tokens.len()];
        let sequence = Generated { tokens, finish, error, logprobs, sequence_score: None, rows };
        Results { sequences: vec![sequence], scores: vec![scores], logits: vec![logits], ..Results::default() }
    }

    fn discard(self: Box<Self>, pool: &mut PagePool) {
        self.candidates.into_iter().for_each(|next| pool.release(next.sequence));
        pool.release(self.sequence);
    }
}
