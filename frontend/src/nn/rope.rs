//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864): angles of the tokens, made once and shared by all layers
//! of a kind.

use lith_ir::{Compare, DType, Dim, Literal};

use crate::{Sequence, Tensor};

/// The angle, in radians, by which each position turns each pair of features.
#[derive(Clone, Debug, PartialEq)]
pub enum Frequencies {
    /// The same for every sequence.
    Fixed(Vec<f64>),
    /// `long` in sequences of more than `limit` tokens, `short` in others (LongRoPE, Ding et al. 2024, arXiv 2402.13753).
    ByLength {
        /// Most tokens of a short sequence.
        limit: usize,
        /// Frequencies in short sequences.
        short: Vec<f64>,
        /// Frequencies in long sequences, as many.
        long: Vec<f64>,
    },
    /// Of `n` frequencies number `i` is `plain[i] * g^(-i / (n - 1))` with `g = max(1, 1 + factor * (length - limit) /
    /// limit)`: the base of the frequencies grows with the sequence (dynamic NTK).
    Dynamic {
        /// Most tokens of a sequence that has the plain frequencies.
        limit: usize,
        /// How fast the base grows.
        factor: f64,
        /// Frequencies in short sequences.
        plain: Vec<f64>,
    },
}

/// Rotary positions of one kind of layer.
///
/// Where frequencies depend on a length, it is that of each token's own sequence, the tokens in the cache included, at the
/// time of the call; keys in the cache stay as they were turned. (Transformers takes the longest sequence of the batch;
/// here a sequence's results do not depend on the others.)
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// One for each pair.
    pub frequencies: Frequencies,
    /// Sines and cosines are multiplied by this.
    pub scale: f64,
    /// Whether pairs are neighbours, see [`lith_ir::Op::Rope`].
    pub interleaved: bool,
}

/// The angles of all tokens.
#[derive(Clone, Debug)]
pub struct Angles {
    cos: Tensor,
    sin: Tensor,
    interleaved: bool,
}

impl Rope {
    /// The angles of the tokens of a batch.
    pub fn angles(&self, sequence: &Sequence) -> Angles {
        let trace = sequence.ids().trace();
        let vector = |values: &[f64]| {
            let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
            match Literal::f32s(vec![values.len()], &values) {
                Some(literal) => trace.constant(literal),
                None => trace.misfit("rope", "frequencies".into()),
            }
        };
        let column = |x: &Tensor| x.reshape(x.shape().iter().cloned().chain([Dim::constant(1)]));
        let frequencies = match &self.frequencies {
            Frequencies::Fixed(values) => vector(values),
            Frequencies::ByLength { limit, short, long } => {
                let both = [short, long].map(|values| vector(values).reshape([1, values.len()]));
                let is_long = sequence.reaches().compare_to(Compare::Gt, *limit as f64).cast(DType::I32);
                both[0].concat(0, &both[1..]).gather(0, &is_long)
            }
            Frequencies::Dynamic { limit, factor, plain } => {
                let over = (sequence.reaches() - *limit as f64).at_least(0.0).cast(DType::F32);
                let growth = (over * (factor / *limit as f64) + 1.0).log();
                let last = plain.len().saturating_sub(1).max(1) as f64;
                let exponents: Vec<f64> = (0..plain.len()).map(|i| -(i as f64) / last).collect();
                vector(plain) * (column(&growth) * vector(&exponents)).exp()
            }
        };
        // Positions have more digits than 16-bit floats.
        let angle = column(&sequence.positions().cast(DType::F32)) * frequencies;
        let scaled = |x: Tensor| if self.scale == 1.0 { x } else { x * self.scale }.cast(trace.dtype());
        Angles { cos: scaled(angle.cos()), sin: scaled(angle.sin()), interleaved: self.interleaved }
    }
}

impl Angles {
    /// Turns the heads of `x [.., heads * d]`.
    pub fn turn(&self, x: &Tensor, heads: usize) -> Tensor {
        x.rope(&self.cos, &self.sin, heads, self.interleaved)
    }
}
