//! Random numbers without a state: a draw is a function of what it is for. So the text of a request depends on its seed
//! and its own tokens alone, whatever else runs beside it and however calls are cut. (GE-11, GE-48)
//!
//! The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
//! Key: the seed, low word first. Counter: step (low word, high word), sample, use. A draw is the high 53 bits of the
//! first two output words (second word above), divided by 2^53: uniform in [0, 1).

/// What a draw is for; draws of one step for different uses are independent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// The token of the step.
    Token = 0,
    /// The token that a draft model guesses for the step.
    Draft = 1,
    /// Whether that guess is accepted.
    Accept = 2,
    /// The candidates of beam sampling; their number is added.
    Beam = 16,
}

/// The draws of one sample of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draws {
    seed: u64,
    sample: u32,
}

impl Draws {
    /// Draws of the `sample`-th result of a request with this seed.
    pub fn new(seed: u64, sample: u32) -> Self {
        Draws { seed, sample }
    }

    /// The draw of a step (the number of tokens generated before it): uniform in [0, 1).
    pub(super) fn uniform(self, step: usize, kind: Use) -> f64 {
        self.indexed(step, kind, 0)
    }

    /// The `index`-th of several draws of a step.
    pub(super) fn indexed(self, step: usize, kind: Use, index: u32) -> f64 {
        let step = step as u64;
        let counter = [step as u32, (step >> 32) as u32, self.sample, (kind as u32).wrapping_add(index)];
        let [low, high, ..] = philox(counter, [self.seed as u32, (self.seed >> 32) as u32]);
        let bits = (u64::from(high) << 32 | u64::from(low)) >> 11;
        bits as f64 / (1u64 << 53) as f64
    }
}

/// A seed that no one chose: different in each process and each call.
pub(super) fn fresh_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::time::SystemTime::now())
}

/// One block of the generator: four words that are a function of the counter and the key alone.
pub(crate) fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(counter[0]) * 0xD251_1F53;
        let b = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that the authors publish with their library.
    #[test]
    fn philox_known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let counter = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        let key = [0xa409_3822, 0x299f_31d0];
        assert_eq!(philox(counter, key), [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    /// GE-11: draws are uniform (chi-square over 64 cells, 63 degrees of freedom: 99.9 % quantile 103.4) over steps,
    /// samples and seeds alike.
    #[test]
    fn ge_11_draws_are_uniform() {
        let walks: [fn(usize) -> f64; 3] = [
            |i| Draws::new(7, 0).uniform(i, Use::Token),
            |i| Draws::new(7, i as u32).uniform(3, Use::Accept),
            |i| Draws::new(i as u64, 1).uniform(0, Use::Token),
        ];
        for walk in walks {
            let mut cells = [0usize; 64];
            (0..64_000).for_each(|i| cells[(walk(i) * 64.0) as usize] += 1);
            let chi: f64 = cells.iter().map(|&n| (n as f64 - 1000.0).powi(2) / 1000.0).sum();
            assert!(chi < 103.4, "{chi}");
        }
    }
}
