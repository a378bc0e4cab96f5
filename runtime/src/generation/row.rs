//! One row of scores over the vocabulary: the passes that selection is made of. Scores that may not be chosen are
//! negative infinity; NaN is never chosen. Must not know options.

use std::cmp::Ordering;

/// A token and its score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub score: f32,
    pub id: u32,
}

/// Best first; of equal scores the smaller id.
pub(super) fn best_first(a: &Candidate, b: &Candidate) -> Ordering {
    b.score.total_cmp(&a.score).then(a.id.cmp(&b.id))
}

/// Largest value, in lanes that the compiler turns into vector instructions; negative infinity for none.
fn max_of(values: &[f32]) -> f32 {
    const LANES: usize = 32;
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder().iter().fold(f32::NEG_INFINITY, |m, &x| larger(m, x));
    for chunk in chunks {
        for (m, &x) in lanes.iter_mut().zip(chunk) {
            *m = larger(*m, x);
        }
    }
    lanes.iter().fold(rest, |m, &x| larger(m, x))
}

/// The largest score and its first place; `None` when every score is NaN or negative infinity.
pub(super) fn argmax(row: &[f32]) -> Option<Candidate> {
    const BLOCK: usize = 2048;
    let mut best = (f32::NEG_INFINITY, 0);
    for (i, block) in row.chunks(BLOCK).enumerate() {
        let max = max_of(block);
        if max > best.0 {
            best = (max, i);
        }
    }
    let (score, block) = best;
    let start = block * BLOCK;
    let place = row.get(start..)?.iter().take(BLOCK).position(|&x| x == score && score > f32::NEG_INFINITY)?;
    Some(Candidate { score, id: u32::try_from(start + place).ok()? })
}

/// Sum of `exp(x - max)` in f64: exact enough that its order of additions does not show in f32.
fn exp_sum(row: &[f32], max: f32) -> f64 {
    row.iter().map(|&x| f64::from((x - max).exp())).sum()
}

/// `ln(sum(exp(row)))`; negative infinity when nothing is finite.
pub(super) fn log_sum_exp(row: &[f32]) -> f32 {
    let max = max_of(row);
    if !max.is_finite() {
        return max;
    }
    (f64::from(max) + exp_sum(row, max).ln()) as f32
}

/// Makes scores log-probabilities, in place.
pub(super) fn log_softmax(row: &mut [f32]) {
    let max = max_of(row);
    if !max.is_finite() {
        return;
    }
    let log = exp_sum(row, max).ln() as f32;
    row.iter_mut().for_each(|x| *x = (*x - max) - log);
}

/// The candidates of a row whose score is at least its `k`-th largest, ties of it included, in order of id. Scores of
/// negative infinity and NaN are no candidates.
pub(super) fn top_k(row: &[f32], k: usize, found: &mut Vec<Candidate>) {
    found.clear();
    if k == 0 {
        return;
    }
    let candidates = row.iter().zip(0u32..).filter(|(x, _)| **x > f32::NEG_INFINITY);
    if k >= row.len() {
        found.extend(candidates.map(|(&score, id)| Candidate { score, id }));
        return;
    }
    // Those that may still be among the best are collected and cut back whenever they are many.
    const BLOCK: usize = 64;
    let mut threshold = f32::NEG_INFINITY;
    let mut full = k.saturating_mul(2).max(1024);
    for (block, start) in row.chunks(BLOCK).zip((0u32..).step_by(BLOCK)) {
        let max = max_of(block);
        if max < threshold || max == f32::NEG_INFINITY {
            continue;
        }
        let at_least = block.iter().zip(start..).filter(|(x, _)| **x >= threshold && **x > f32::NEG_INFINITY);
        found.extend(at_least.map(|(&score, id)| Candidate { score, id }));
        if found.len() >= full {
            threshold = keep_top(found, k);
            full = found.len().saturating_mul(2).max(full);
        }
    }
    keep_top(found, k);
}

/// Keeps the `k` best candidates and ties of the last, in the order they are in; the score of the last.
pub(super) fn keep_top(found: &mut Vec<Candidate>, k: usize) -> f32 {
    if k == 0 || found.len() <= k {
        return f32::NEG_INFINITY;
    }
    let mut scores: Vec<f32> = found.iter().map(|c| c.score).collect();
    let (_, &mut threshold, _) = scores.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    found.retain(|c| c.score >= threshold);
    threshold
}

/// Probabilities of candidates among themselves, summed in their order.
pub(super) fn softmax(candidates: &[Candidate], probabilities: &mut Vec<f64>) {
    let max = candidates.iter().map(|c| c.score).fold(f32::NEG_INFINITY, f32::max);
    probabilities.clear();
    probabilities.extend(candidates.iter().map(|c| if c.score == max { 1.0 } else { f64::from(c.score - max).exp() }));
    let sum: f64 = probabilities.iter().sum();
    probabilities.iter_mut().for_each(|p| *p /= sum);
}

/// The index that a uniform draw in [0, 1) falls on when weights stand one after the other; the last one that is
/// positive if rounding leads past the end.
pub(super) fn pick(weights: &[f64], draw: f64) -> Option<usize> {
    let target = draw * weights.iter().sum::<f64>();
    let mut sum = 0.0;
    let mut last = None;
    for (i, &weight) in weights.iter().enumerate().filter(|(_, w)| **w > 0.0) {
        sum += weight;
        last = Some(i);
        if sum > target {
            break;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::super::random::{Draws, Use};
    use super::*;

    #[test]
    fn argmax_takes_the_first_of_equals_and_no_nan() {
        let mut row = vec![0.0f32; 5000];
        (row[4999], row[3000], row[17]) = (7.0, 7.0, f32::NAN);
        assert_eq!(argmax(&row).map(|c| c.id), Some(3000));
        assert_eq!(argmax(&[f32::NAN, f32::NEG_INFINITY]), None);
        assert_eq!(argmax(&[]), None);
    }

    #[test]
    fn pick_stays_inside() {
        assert_eq!(pick(&[0.0, 0.5, 0.5, 0.0], 0.0), Some(1));
        assert_eq!(pick(&[0.0, 0.5, 0.5, 0.0], 0.999_999_999_999_999_9), Some(2));
        assert_eq!(pick(&[0.0], 0.5), None);
    }

    /// Selection equals sorting, with ties, infinities and NaN in the row.
    #[test]
    fn top_k_equals_sorting() {
        for case in 0..300u32 {
            let draws = Draws::new(1, case);
            let number = |step, below: usize| (draws.uniform(step, Use::Token) * below as f64) as usize;
            let (len, k) = (1 + number(0, 4000), 1 + number(1, if case % 3 == 0 { 2000 } else { 80 }));
            let levels = [6, 40, 1 << 20][number(2, 3)];
            let value = |step| match number(step, levels) {
                0 if case % 2 == 0 => f32::NAN,
                1 if case % 2 == 0 => f32::NEG_INFINITY,
                n => n as f32 * 0.5 - 7.0,
            };
            let row: Vec<f32> = (3..3 + len).map(value).collect();
            let candidates = row.iter().zip(0u32..).filter(|(x, _)| **x > f32::NEG_INFINITY);
            let mut sorted: Vec<Candidate> = candidates.map(|(&score, id)| Candidate { score, id }).collect();
            sorted.sort_by(best_first);
            let threshold = sorted.get(k - 1).map_or(f32::NEG_INFINITY, |c| c.score);
            sorted.retain(|c| c.score >= threshold);
            assert_eq!(argmax(&row), sorted.first().copied());
            sorted.sort_by_key(|c| c.id);
            let mut found = Vec::new();
            top_k(&row, k, &mut found);
            assert_eq!(found, sorted, "case {case}");
        }
    }
}
