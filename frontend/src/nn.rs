//! Building blocks of models. Each takes the scope it stands in and the on-disk name of its parameters there.

mod rope;

pub use rope::{Angles, Frequencies, Rope};

use lith_ir::{Activation, Dim};

use crate::sequence::AttentionSpec;
use crate::{LinearLayer, Scope, Sequence, Tensor};

/// `x[.., in] * weight[out, in]^T + bias[out]`; parameters `NAME.weight`, `NAME.bias`.
pub fn linear(scope: &Scope, name: &str, x: &Tensor, shape: [usize; 2]) -> Tensor {
    projection(scope, name, x, shape, true)
}

/// [`linear`] without bias.
pub fn linear_no_bias(scope: &Scope, name: &str, x: &Tensor, shape: [usize; 2]) -> Tensor {
    projection(scope, name, x, shape, false)
}

/// [`linear`] with or without bias.
pub fn projection(scope: &Scope, name: &str, x: &Tensor, shape: [usize; 2], bias: bool) -> Tensor {
    scope.at(name, |s| {
        let weight = s.param("weight", shape);
        let bias = bias.then(|| s.param("bias", [shape[0]]));
        let y = x.linear(&weight, bias.as_ref());
        s.linear_layer(LinearLayer { x, weight: &weight, bias: bias.as_ref(), y, shape })
    })
}

/// Rows of the table `NAME.weight [rows, width]` by integer `ids`: `[.., width]`.
pub fn embedding(scope: &Scope, name: &str, ids: &Tensor, [rows, width]: [usize; 2]) -> Tensor {
    scope.at(name, |s| s.param("weight", [rows, width]).gather(0, ids))
}

/// Layer normalisation along the last axis of `width`; parameters `NAME.weight`, `NAME.bias`.
pub fn layer_norm(scope: &Scope, name: &str, x: &Tensor, width: usize, eps: f64) -> Tensor {
    scope.at(name, |s| x.layer_norm(Some(&s.param("weight", [width])), Some(&s.param("bias", [width])), eps))
}

/// Normalisation by the root mean square of the last axis of `width`; parameter `NAME.weight`, to which `offset` is added.
pub fn rms_norm(scope: &Scope, name: &str, x: &Tensor, width: usize, [eps, offset]: [f64; 2]) -> Tensor {
    scope.at(name, |s| x.rms_norm(Some(&s.param("weight", [width])), eps, offset))
}

/// `cap * tanh(x / cap)`
pub fn soft_cap(x: &Tensor, cap: f64) -> Tensor {
    (x / cap).tanh() * cap
}

/// Self-attention with equally many query and key heads, up to and without the output projection.
#[derive(Clone, Debug)]
pub struct SelfAttention<'a> {
    /// Names of the query, key and value projections.
    pub names: [&'a str; 3],
    /// Width of the hidden states, of the projections too.
    pub width: usize,
    /// Number of heads; divides the width.
    pub heads: usize,
    /// Whether a token sees only itself and tokens before it.
    pub causal: bool,
    /// Relative position bias `[heads, 2p - 1]`, see [`AttentionSpec::rel_bias`].
    pub rel_bias: Option<&'a Tensor>,
    /// What is dropped in training, see [`AttentionSpec::dropout`].
    pub dropout: f64,
}

impl SelfAttention<'_> {
    /// The heads' outputs side by side: `[.., width]`. Scores are scaled by `1 / sqrt(width / heads)`.
    pub fn apply(&self, scope: &Scope, sequence: &Sequence, x: &Tensor) -> Tensor {
        let [q, k, v] = self.names.map(|name| linear(scope, name, x, [self.width, self.width]));
        let plain = AttentionSpec::plain(self.heads, self.width as f64 / self.heads as f64);
        let spec = AttentionSpec { causal: self.causal, rel_bias: self.rel_bias, dropout: self.dropout, ..plain };
        sequence.attention(scope, &q, &k, &v, &spec)
    }
}

/// Two linear layers with an activation between: `width` to `inner` and back.
pub fn mlp(scope: &Scope, names: [&str; 2], x: &Tensor, [width, inner]: [usize; 2], act: Act) -> Tensor {
    let inside = act.apply(&linear(scope, names[0], x, [inner, width]));
    linear(scope, names[1], &inside, [width, inner])
}

/// The rounded `sqrt(1/2)` that models with this activation were trained with.
#[expect(clippy::approx_constant, reason = "the rounding is part of the definition")]
const LAPLACE_MU: f64 = 0.707107;

/// The rounded `sqrt(1/(4 pi))`.
const LAPLACE_SIGMA: f64 = 0.282095;

/// An activation as Transformers names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// An activation of the IR.
    Op(Activation),
    /// Hyperbolic tangent.
    Tanh,
    /// `x`
    Linear,
    /// Gelu clipped to -10 .. 10.
    ClippedGelu,
    /// `(1 + erf((x - mu) / (sigma sqrt 2))) / 2` with rounded mu and sigma (Ma et al. 2022).
    Laplace,
    /// `sqrt(log(1 + e^x))`
    SqrtSoftplus,
}

impl Act {
    /// The activation of this name in a Transformers configuration. Not there: `prelu` and `xielu`, which have
    /// parameters. PST-11
    pub fn from_name(name: &str) -> Option<Self> {
        use Activation::*;
        Some(match name {
            "gelu" | "gelu_python" => Act::Op(Gelu),
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" | "gelu_python_tanh" | "gelu_accurate" => Act::Op(GeluTanh),
            "gelu_10" => Act::ClippedGelu,
            "quick_gelu" => Act::Op(QuickGelu),
            "relu" => Act::Op(Relu),
            "relu2" => Act::Op(Relu2),
            "relu6" => Act::Op(Relu6),
            "silu" | "swish" => Act::Op(Silu),
            "sigmoid" => Act::Op(Sigmoid),
            "tanh" => Act::Tanh,
            "linear" => Act::Linear,
            "mish" => Act::Op(Mish),
            "hardswish" => Act::Op(Hardswish),
            "leaky_relu" => Act::Op(LeakyRelu),
            "laplace" => Act::Laplace,
            "sqrtsoftplus" => Act::SqrtSoftplus,
            _ => return None,
        })
    }

    /// The activation of every element.
    pub fn apply(self, x: &Tensor) -> Tensor {
        match self {
            Act::Op(f) => x.activation(f),
            Act::Tanh => x.tanh(),
            Act::Linear => x.clone(),
            Act::ClippedGelu => x.activation(Activation::Gelu).at_least(-10.0).at_most(10.0),
            Act::Laplace => (((x - LAPLACE_MU) / (LAPLACE_SIGMA * std::f64::consts::SQRT_2)).erf() + 1.0) * 0.5,
            // log(1 + e^x) = max(x, 0) + log(1 + e^-|x|), which cannot overflow.
            Act::SqrtSoftplus => (x.at_least(0.0) + ((-x.abs()).exp() + 1.0).log()).sqrt(),
        }
    }
}

/// One vector for each sequence from the vectors of its tokens, as sentence-transformers names the ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// The first token.
    Cls,
    /// The greatest value of each feature.
    Max,
    /// The mean.
    Mean,
    /// The sum over the square root of the number of tokens.
    MeanSqrtLen,
    /// The mean with weights 1, 2, 3, .. along the sequence.
    WeightedMean,
    /// The last token.
    LastToken,
}

impl Pooling {
    /// `[tokens, h]` to `[sequences, h]`, or `[batch, seq, h]` to `[batch, h]`.
    pub fn apply(self, sequence: &Sequence, x: &Tensor) -> Tensor {
        match self {
            Pooling::Cls => sequence.first(x),
            Pooling::Max => sequence.pool(x, lith_ir::Pool::Max),
            Pooling::Mean => sequence.pool(x, lith_ir::Pool::Mean),
            Pooling::MeanSqrtLen => sequence.pool(x, lith_ir::Pool::Sum) / sequence.lengths().at_least(1.0).sqrt(),
            Pooling::WeightedMean => sequence.weighted_mean(x),
            Pooling::LastToken => sequence.last(x),
        }
    }
}

/// The last axis cut into columns: `[.., n]` to `n` tensors `[..]`.
pub fn columns<const N: usize>(x: &Tensor) -> [Tensor; N] {
    let outer: Vec<Dim> = x.shape().split_last().map_or_else(Vec::new, |(_, outer)| outer.to_vec());
    std::array::from_fn(|i| x.slice(-1, Dim::from(i), Dim::from(i + 1)).reshape(outer.clone()))
}
