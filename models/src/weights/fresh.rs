//! Fresh parameters for a head that a checkpoint lacks (INS-03, INS-04).
//!
//! The same seed gives the same weights on every machine and whatever else is drawn: each parameter has a stream of its
//! own, SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014) started from the seed
//! and the FNV-1a hash of its name. Bit equality with PyTorch's generator is no goal.

/// How to draw fresh parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fresh {
    /// The seed.
    pub seed: u64,
    /// Standard deviation of weights: the config's `initializer_range`.
    pub std: f64,
}

/// What a fresh parameter starts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// Normally distributed: weights of linear and embedding layers.
    Normal,
    /// Uniform within one over the root of the number of columns: He et al. (2015) with a slope of the square root of 5, as
    /// PyTorch begins linear layers, and PEFT the first factors of adapters (PE-04).
    KaimingUniform,
    /// 0: biases.
    Zeros,
    /// 1: weights of norms.
    Ones,
}

impl Init {
    /// By name and rank: biases 0, weights of one dimension (norms) 1, all others normal.
    pub fn of(name: &str, shape: &[usize]) -> Init {
        match shape.len() {
            _ if name == "bias" || name.ends_with(".bias") => Init::Zeros,
            1 => Init::Ones,
            _ => Init::Normal,
        }
    }
}

impl Fresh {
    /// The values of a parameter, row-major.
    pub fn draw(&self, name: &str, shape: &[usize], init: Init) -> Vec<f32> {
        let count = shape.iter().product();
        match init {
            Init::Zeros => vec![0.0; count],
            Init::Ones => vec![1.0; count],
            Init::Normal => {
                let mut stream = self.stream(name);
                (0..count).map(|_| (stream.normal() * self.std) as f32).collect()
            }
            Init::KaimingUniform => {
                let columns = shape.last().copied().unwrap_or(1).max(1);
                let bound = 1.0 / (columns as f64).sqrt();
                let mut stream = self.stream(name);
                (0..count).map(|_| ((2.0 * stream.uniform() - 1.0) * bound) as f32).collect()
            }
        }
    }

    fn stream(&self, name: &str) -> SplitMix64 {
        let hash = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        SplitMix64(self.seed ^ hash)
    }
}

struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1), in steps of 2^-53.
    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal, by the polar method of Marsaglia and Bray (1964); the second of each pair is dropped.
    fn normal(&mut self) -> f64 {
        loop {
            let (x, y) = (2.0 * self.uniform() - 1.0, 2.0 * self.uniform() - 1.0);
            let square = x * x + y * y;
            if square > 0.0 && square < 1.0 {
                return x * (-2.0 * square.ln() / square).sqrt();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// INS-03, INS-04
    #[test]
    fn same_seed_same_weights_of_the_right_spread() {
        let fresh = Fresh { seed: 7, std: 0.02 };
        let draw = |fresh: Fresh, name| fresh.draw(name, &[100, 200], Init::of(name, &[100, 200]));
        let weights = draw(fresh, "classifier.weight");
        assert_eq!(weights, draw(fresh, "classifier.weight"));
        assert_ne!(weights, draw(fresh, "qa_outputs.weight"));
        assert_ne!(weights, draw(Fresh { seed: 8, ..fresh }, "classifier.weight"));
        let count = weights.len() as f64;
        let mean = weights.iter().map(|w| f64::from(*w)).sum::<f64>() / count;
        let std = (weights.iter().map(|w| (f64::from(*w) - mean).powi(2)).sum::<f64>() / count).sqrt();
        assert!(mean.abs() < 0.0007 && (std - 0.02).abs() < 0.0005, "mean {mean}, standard deviation {std}");
        assert_eq!(fresh.draw("classifier.bias", &[3], Init::of("classifier.bias", &[3])), [0.0; 3]);
        // Uniform of standard deviation bound / sqrt(3).
        let uniform = fresh.draw("q.lora_A.weight", &[100, 400], Init::KaimingUniform);
        let std = (uniform.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>() / uniform.len() as f64).sqrt();
        assert!(uniform.iter().all(|w| w.abs() <= 0.05) && (std - 0.05 / 3f64.sqrt()).abs() < 0.0003, "{std}");
        assert_eq!(fresh.draw("LayerNorm.weight", &[3], Init::of("LayerNorm.weight", &[3])), [1.0; 3]);
    }
}
