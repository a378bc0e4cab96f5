//! What sampling does to the distribution after the processors, in Transformers' order (GE-20, formulas GE-21). Works on
//! the candidates that are left, which after top-k are few. Must not know sequences.

use super::row::{self, Candidate};
use super::settings::Settings;

/// Candidates that top-h looks at, as upstream.
const TOP_H_CANDIDATES: usize = 100;

/// The warpers of a request and the room they work in.
pub(super) struct Warpers {
    temperature: f32,
    top_h: Option<f64>,
    top_k: usize,
    top_p: f64,
    min_p: Option<f64>,
    typical_p: f64,
    epsilon: f64,
    eta: f64,
    renormalize: bool,
    min_keep: usize,
    probabilities: Vec<f64>,
}

impl Warpers {
    /// The warpers that these settings ask for.
    pub fn new(s: &Settings) -> Warpers {
        // Beams need something to go on with besides the end tokens.
        let min_keep = match (s.beams(), s.eos_token_id.len()) {
            (false, _) => 1,
            (true, 0) => 2,
            (true, ends) => ends + 1,
        };
        Warpers {
            temperature: s.temperature,
            top_h: s.top_h,
            top_k: if s.top_k == 0 { 0 } else { s.top_k.max(min_keep) },
            top_p: s.top_p,
            min_p: s.min_p,
            typical_p: s.typical_p,
            epsilon: s.epsilon_cutoff,
            eta: s.eta_cutoff,
            renormalize: s.renormalize_logits,
            min_keep,
            probabilities: Vec::new(),
        }
    }

    /// The candidates of a row with their warped scores; none when nothing may be chosen.
    pub fn candidates(&mut self, row: &[f32], found: &mut Vec<Candidate>) {
        // Dividing by a temperature keeps the order, so candidates are selected first.
        let first = match (self.top_h, self.top_k) {
            (Some(_), _) => TOP_H_CANDIDATES,
            (None, 0) => usize::MAX,
            (None, k) => k,
        };
        row::top_k(row, first, found);
        if self.temperature != 1.0 {
            found.iter_mut().for_each(|c| c.score /= self.temperature);
        }
        if let Some(share) = self.top_h {
            self.top_h(found, share);
            row::keep_top(found, self.top_k);
        }
        if self.top_p < 1.0 {
            self.top_p(found);
        }
        if let Some(min_p) = self.min_p {
            row::softmax(found, &mut self.probabilities);
            let top = self.probabilities.iter().copied().fold(0.0, f64::max);
            self.keep_probable(found, min_p * top);
        }
        if self.typical_p < 1.0 {
            self.typical(found);
        }
        if self.epsilon > 0.0 {
            row::softmax(found, &mut self.probabilities);
            self.keep_probable(found, self.epsilon);
        }
        if self.eta > 0.0 {
            row::softmax(found, &mut self.probabilities);
            let cutoff = self.epsilon_of_eta();
            self.keep_probable(found, cutoff);
        }
        if self.renormalize && !found.is_empty() {
            let scores: Vec<f32> = found.iter().map(|c| c.score).collect();
            let sum = row::log_sum_exp(&scores);
            found.iter_mut().for_each(|c| c.score -= sum);
        }
    }

    /// Makes the whole row what the warpers leave of it.
    pub fn warp(&mut self, row: &mut [f32], found: &mut Vec<Candidate>) {
        self.candidates(row, found);
        row.fill(f32::NEG_INFINITY);
        for c in found.iter() {
            if let Some(x) = row.get_mut(c.id as usize) {
                *x = c.score;
            }
        }
    }

    /// Entropy of the probabilities, in nats.
    fn entropy(&self) -> f64 {
        -self.probabilities.iter().filter(|p| **p > 0.0).map(|p| p * p.ln()).sum::<f64>()
    }

    /// `min(eta, sqrt(eta) * exp(-entropy))` (Hewitt, Manning, Liang: "Truncation sampling as language model
    /// desmoothing", 2022).
    fn epsilon_of_eta(&self) -> f64 {
        self.eta.min(self.eta.sqrt() * (-self.entropy()).exp())
    }

    /// Keeps candidates at least this probable, and the `min_keep` best.
    fn keep_probable(&self, found: &mut Vec<Candidate>, cutoff: f64) {
        let mut best: Vec<f32> = found.iter().map(|c| c.score).collect();
        best.sort_by(|a, b| b.total_cmp(a));
        let threshold = best.get(self.min_keep - 1).or(best.last()).copied().unwrap_or(f32::NEG_INFINITY);
        let mut probabilities = self.probabilities.iter();
        found.retain(|c| probabilities.next().is_some_and(|&p| p >= cutoff) || c.score >= threshold);
    }

    /// Removes the least probable candidates that together have at most `1 - top_p` (Holtzman et al.: "The curious case
    /// of neural text degeneration", 2019).
    fn top_p(&mut self, found: &mut Vec<Candidate>) {
        // Of equal ones upstream removes the smaller id first.
        found.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(b.id.cmp(&a.id)));
        row::softmax(found, &mut self.probabilities);
        let mut sum = 0.0;
        let tail = self.probabilities.iter().rev().take_while(|p| {
            sum += **p;
            sum <= 1.0 - self.top_p
        });
        let keep = found.len() - tail.count();
        found.truncate(keep.max(self.min_keep));
    }

    /// Keeps the best candidates while the entropy they add up to is at most `share` of the whole (Potraghloo et al.:
    /// "Top-H decoding", 2025).
    fn top_h(&mut self, found: &mut Vec<Candidate>, share: f64) {
        found.sort_unstable_by(row::best_first);
        found.truncate(TOP_H_CANDIDATES);
        row::softmax(found, &mut self.probabilities);
        let most = share * self.entropy();
        let mut sum = 0.0;
        let kept = self.probabilities.iter().take_while(|p| {
            sum -= if **p > 0.0 { **p * p.ln() } else { 0.0 };
            sum <= most
        });
        let keep = kept.count().max(1);
        found.truncate(keep);
    }

    /// Keeps the candidates whose surprise is nearest to the entropy, until they have the mass `typical_p` (Meister et
    /// al.: "Locally typical sampling", 2022).
    fn typical(&mut self, found: &mut Vec<Candidate>) {
        row::softmax(found, &mut self.probabilities);
        let entropy = self.entropy();
        // Distance, probability, candidate.
        let mut by_distance: Vec<(f64, f64, Candidate)> = found
            .iter()
            .zip(&self.probabilities)
            .map(|(c, &p)| (if p > 0.0 { (-p.ln() - entropy).abs() } else { f64::INFINITY }, p, *c))
            .collect();
        by_distance.sort_by(|a, b| a.0.total_cmp(&b.0).then(row::best_first(&a.2, &b.2)));
        let mut sum = 0.0;
        let below = by_distance.iter().take_while(|(_, p, _)| {
            sum += p;
            sum < self.typical_p
        });
        let last = below.count().min(by_distance.len().saturating_sub(1));
        let Some(&(distance, ..)) = by_distance.get(last) else { return };
        let kept = by_distance.into_iter().enumerate().filter(|(i, (d, ..))| *i < self.min_keep || *d <= distance);
        *found = kept.map(|(_, (_, _, c))| c).collect();
    }
}
