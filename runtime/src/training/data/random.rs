//! Random order without a state: every draw is a function of what it is for, so a data order can be found again at any
//! place without running through what came before. Must not know data sets.

use crate::generation::random::philox;

/// A stream of draws that may be read at any place: Philox4x32-10 (see the generator of text generation), keyed by the
/// seed; the counter is the place and the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draws {
    seed: u64,
    stream: u64,
}

impl Draws {
    /// The `stream`-th stream of a seed.
    pub fn new(seed: u64, stream: u64) -> Draws {
        Draws { seed, stream }
    }

    /// 64 random bits for `place`.
    pub fn bits(self, place: u64) -> u64 {
        let words = |x: u64| [x as u32, (x >> 32) as u32];
        let ([a, b], [c, d]) = (words(place), words(self.stream));
        let [low, high, ..] = philox([a, b, c, d], words(self.seed));
        u64::from(high) << 32 | u64::from(low)
    }

    /// Uniform in [0, 1): the upper 53 bits.
    pub fn uniform(self, place: u64) -> f64 {
        (self.bits(place) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform among `0..n`, by the upper half of a product (Lemire 2019): no value is likelier than another by more than
    /// `n / 2^64`. 0 when `n` is 0.
    pub fn below(self, place: u64, n: usize) -> usize {
        ((u128::from(self.bits(place)) * n as u128) >> 64) as usize
    }
}

/// A random order of `0..n` (Fisher and Yates, from the end). The same for the same seed and stream (the epoch, say).
pub fn permutation(n: usize, seed: u64, stream: u64) -> Vec<usize> {
    let draws = Draws::new(seed, stream);
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        order.swap(i, draws.below(i as u64, i + 1));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permutations_are_complete_repeatable_and_uniform() {
        for n in [0, 1, 2, 17, 1000] {
            let order = permutation(n, 3, 1);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..n).collect::<Vec<_>>());
            assert_eq!(order, permutation(n, 3, 1));
        }
        assert_ne!(permutation(1000, 3, 1), permutation(1000, 3, 2));
        // All 24 orders of four, 240 expected of each: chi-square with 23 degrees of freedom, 99.9 % quantile 49.7.
        let mut counts = std::collections::HashMap::new();
        (0..5760).for_each(|seed| *counts.entry(permutation(4, seed, 0)).or_insert(0usize) += 1);
        assert_eq!(counts.len(), 24);
        let chi: f64 = counts.values().map(|&n| (n as f64 - 240.0).powi(2) / 240.0).sum();
        assert!(chi < 49.7, "{chi}");
    }
}
