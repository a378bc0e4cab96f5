//! From one row of logits to one token, by the options of a request. Must not know pages or other sequences.

use super::error::GenerationError;
use super::processors::{Processors, Scores};
use super::random::{Draws, Use};
use super::request::TokenLogprob;
use super::row::{self, Candidate};
use super::settings::Settings;
use super::stopping::Stopping;
use super::warpers::Warpers;

/// A token that was guessed, to be checked by the model.
#[derive(Debug, Clone)]
pub(super) struct Guess {
    pub token: u32,
    /// The distribution it was drawn from, by id; empty when it was not drawn at random.
    pub distribution: Vec<(u32, f64)>,
}

/// What is recorded of each step when it is asked for.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub scores: Vec<Vec<f32>>,
    pub logits: Vec<Vec<f32>>,
    pub logprobs: Vec<TokenLogprob>,
}

/// The options of a request at work.
pub(super) struct Rules {
    pub settings: Settings,
    pub processors: Processors,
    pub warpers: Warpers,
    pub stopping: Stopping,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Most tokens of a sequence.
    pub limit: usize,
    pub seed: u64,
    /// Room to work in.
    pub candidates: Vec<Candidate>,
    weights: Vec<f64>,
}

impl Rules {
    pub fn new(settings: Settings, processors: Processors, stopping: Stopping, prompt: usize, limit: usize) -> Rules {
        let warpers = Warpers::new(&settings);
        let seed = settings.seed.unwrap_or_else(super::random::fresh_seed);
        let (candidates, weights) = (Vec::new(), Vec::new());
        Rules { settings, processors, warpers, stopping, prompt, limit, seed, candidates, weights }
    }

    /// Chooses the token after `tokens` from the logits in `row`, which is changed. With a guess that was drawn from a
    /// distribution the choice follows the rule of Leviathan, Kalman, Matias ("Fast inference from transformers via
    /// speculative decoding", 2022): the guess is taken with probability `min(1, p / q)`, else a token is drawn from
    /// `max(p - q, 0)`; so the choice is distributed as without it.
    ///
    /// # Errors
    /// [`GenerationError::Logits`] when nothing can be chosen.
    pub fn choose(
        &mut self,
        row: &mut [f32],
        tokens: &[u32],
        draws: Draws,
        guess: Option<&Guess>,
        record: &mut Record,
    ) -> Result<u32, GenerationError> {
        let step = tokens.len() - self.prompt.min(tokens.len());
        if self.settings.output_logits {
            record.logits.push(row.to_vec());
        }
        // Log-probabilities are of the logits as they came; a copy is needed where they change.
        let changes = !self.processors.is_empty() || self.settings.output_scores;
        let before = (self.settings.logprobs.is_some() && changes).then(|| row.to_vec());
        self.processors.apply(&mut [Scores { row, tokens }])?;
        let token = if self.settings.do_sample {
            self.distribution(row);
            if self.settings.output_scores {
                row.fill(f32::NEG_INFINITY);
                self.candidates.iter().for_each(|c| row[c.id as usize] = c.score);
            }
            self.draw(draws, step, guess)
        } else {
            row::argmax(row).map(|c| c.id)
        };
        let problem = "every score is suppressed or not a number";
        let token = token.ok_or(GenerationError::Logits { tokens: tokens.len(), problem })?;
        if self.settings.output_scores {
            record.scores.push(row.to_vec());
        }
        if let Some(top) = self.settings.logprobs {
            record.logprobs.push(TokenLogprob::of(before.as_deref().unwrap_or(row), token, top));
        }
        Ok(token)
    }

    /// Guesses the token after `tokens` as a draft does, and how probable it is.
    pub fn guess(
        &mut self,
        row: &mut [f32],
        tokens: &[u32],
        draws: Draws,
    ) -> Result<Option<(Guess, f64)>, GenerationError> {
        let step = tokens.len() - self.prompt.min(tokens.len());
        self.processors.apply(&mut [Scores { row, tokens }])?;
        if !self.settings.do_sample {
            let best = row::argmax(row);
            let probability = |c: Candidate| f64::from(c.score - row::log_sum_exp(row)).exp();
            return Ok(best.map(|c| (Guess { token: c.id, distribution: Vec::new() }, probability(c))));
        }
        self.distribution(row);
        let Some(i) = row::pick(&self.weights, draws.uniform(step, Use::Draft)) else { return Ok(None) };
        let ids = self.candidates.iter().map(|c| c.id);
        let mut distribution: Vec<(u32, f64)> = ids.zip(self.weights.iter().copied()).collect();
        let (token, probability) = distribution[i];
        distribution.sort_unstable_by_key(|(id, _)| *id);
        Ok(Some((Guess { token, distribution }, probability)))
    }

    /// Fills in the candidates of a processed row and their probabilities.
    fn distribution(&mut self, row: &[f32]) {
        self.warpers.candidates(row, &mut self.candidates);
        row::softmax(&self.candidates, &mut self.weights);
    }

    /// Draws from the candidates.
    fn draw(&mut self, draws: Draws, step: usize, guess: Option<&Guess>) -> Option<u32> {
        let token = draws.uniform(step, Use::Token);
        if let Some(guess) = guess.filter(|guess| !guess.distribution.is_empty()) {
            let guessed = |id: u32| {
                let place = guess.distribution.binary_search_by_key(&id, |(id, _)| *id);
                place.map_or(0.0, |i| guess.distribution[i].1)
            };
            let p = self.candidates.iter().position(|c| c.id == guess.token).map_or(0.0, |i| self.weights[i]);
            if draws.uniform(step, Use::Accept) * guessed(guess.token) < p {
                return Some(guess.token);
            }
            for (c, weight) in self.candidates.iter().zip(&mut self.weights) {
                *weight = (*weight - guessed(c.id)).max(0.0);
            }
            if self.weights.iter().sum::<f64>() <= 0.0 {
                // Rounding alone can leave nothing: then both distributions are the same.
                row::softmax(&self.candidates, &mut self.weights);
            }
        }
        let i = row::pick(&self.weights, token)?;
        self.candidates.get(i).map(|c| c.id)
    }
}
