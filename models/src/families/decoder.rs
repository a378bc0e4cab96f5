//! The decoder that most language models are: an embedding, layers of causal attention and a feed-forward block with
//! residuals, a norm. A family says in a [`Decoder`] what is its own.

use lith_frontend::nn::{self, Act, Angles, Rope, linear_no_bias, projection};
use lith_frontend::sequence::AttentionSpec;
use lith_frontend::{Scope, Tensor};

use super::rope::rope;
use super::{FamilyError, Model, Outputs};

/// How vectors are normalised.
#[derive(Clone, Copy)]
pub(super) enum Norm {
    /// By root mean square, with what is added to the weight.
    Rms { eps: f64, offset: f64 },
    /// With mean and bias.
    Layer { eps: f64 },
    /// With mean, without bias.
    LayerNoBias { eps: f64 },
}

impl Norm {
    pub(super) fn apply(self, s: &Scope, name: &str, x: &Tensor, width: usize) -> Tensor {
        match self {
            Norm::Rms { eps, offset } => nn::rms_norm(s, name, x, width, [eps, offset]),
            Norm::Layer { eps } => nn::layer_norm(s, name, x, width, eps),
            Norm::LayerNoBias { eps } => s.at(name, |s| x.layer_norm(Some(&s.param("weight", [width])), None, eps)),
        }
    }
}

/// Norms of queries and keys before they are turned.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum QkNorm {
    None,
    /// Of each head, all with one weight.
    OfHead,
    /// Of all heads together.
    OfAll,
    /// Of each head, with a weight for each.
    OfEachHead,
}

/// How attention and feed-forward block stand to the residual stream.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Block {
    /// A norm before each.
    Pre,
    /// A norm before and one after each.
    Sandwich,
    /// A norm after each.
    Post,
    /// One norm, both beside each other.
    Parallel,
}

/// The feed-forward block.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Mlp {
    /// `down(act(gate(x)) * up(x))`
    Gated,
    /// `c_proj(act(c_fc(x)))`
    Plain,
}

/// What differs from layer to layer.
#[derive(Clone, Copy)]
pub(super) struct Layer {
    /// See [`AttentionSpec::window`].
    pub window: usize,
    /// Which of [`Decoder::ropes`]; none for layers without positions.
    pub rope: Option<usize>,
}

pub(super) struct Decoder {
    pub vocabulary: usize,
    pub width: usize,
    pub inner: usize,
    pub heads: usize,
    pub kv_heads: usize,
    /// Width of a head.
    pub head: usize,
    pub norm: Norm,
    pub qk_norm: QkNorm,
    pub block: Block,
    pub mlp: Mlp,
    pub act: Act,
    /// Whether query, key and value projections have biases, the projection after attention, and the feed-forward block.
    pub biases: [bool; 3],
    /// What scores are multiplied by.
    pub scale: f64,
    /// See [`AttentionSpec::softcap`].
    pub softcap: f64,
    /// See [`AttentionSpec::dropout`].
    pub dropout: f64,
    /// What embeddings are multiplied by.
    pub embedding_scale: f64,
    /// What is multiplied to all that is added to the residual stream.
    pub residual_scale: f64,
    pub ropes: Vec<Rope>,
    pub layers: Vec<Layer>,
}

impl Decoder {
    /// Llama's, with the sizes and activation that the usual fields tell.
    pub(super) fn llama(m: &Model<'_>) -> Result<Self, FamilyError> {
        let head = head_width(m)?;
        let rope = rope(m, head)?;
        Ok(Decoder { ropes: vec![rope], ..Decoder::without_rope(m)? })
    }

    /// [`Decoder::llama`] whose layers do not know positions; a family adds its [`Decoder::ropes`], the first of which
    /// every layer has.
    pub(super) fn without_rope(m: &Model<'_>) -> Result<Self, FamilyError> {
        let (heads, head) = (m.config.positive("num_attention_heads")?, head_width(m)?);
        let kv_heads = match m.config.optional_size("num_key_value_heads")? {
            None => heads,
            Some(_) => m.config.positive("num_key_value_heads")?,
        };
        let bias = m.config.value("attention_bias").as_bool().unwrap_or(false);
        let eps = m.config.optional_float("rms_norm_eps")?.unwrap_or(1e-6);
        Ok(Decoder {
            vocabulary: m.config.positive("vocab_size")?,
            width: m.hidden()?,
            inner: m.config.positive("intermediate_size")?,
            heads,
            kv_heads,
            head,
            norm: Norm::Rms { eps, offset: 0.0 },
            qk_norm: QkNorm::None,
            block: Block::Pre,
            mlp: Mlp::Gated,
            act: m.act(if m.config.value("hidden_activation").is_string() {
                "hidden_activation"
            } else {
                "hidden_act"
            })?,
            biases: [bias, bias, false],
            scale: 1.0 / (head as f64).sqrt(),
            softcap: 0.0,
            dropout: m.config.optional_float("attention_dropout")?.unwrap_or(0.0),
            embedding_scale: 1.0,
            residual_scale: 1.0,
            ropes: Vec::new(),
            layers: vec![Layer { window: 0, rope: Some(0) }; m.layers("num_hidden_layers")?],
        })
    }

    /// Gives the layers that `near` tells a window.
    pub(super) fn set_windows(&mut self, window: usize, near: impl Fn(usize) -> bool) {
        for (i, layer) in self.layers.iter_mut().enumerate() {
            layer.window = if near(i) { window } else { 0 };
        }
    }

    /// Hidden states of the tokens whose results are wanted.
    pub(super) fn body(&self, m: &Model<'_>, s: &Scope) -> Result<Tensor, FamilyError> {
        let mut x = nn::embedding(s, "embed_tokens", m.tokens.ids(), [self.vocabulary, self.width]);
        if self.embedding_scale != 1.0 {
            x = s.at("embed_tokens", |_| x * self.embedding_scale);
        }
        let angles: Vec<Angles> =
            s.at("rotary_emb", |_| self.ropes.iter().map(|rope| rope.angles(&m.tokens)).collect());
        for (i, layer) in self.layers.iter().enumerate() {
            let angles = layer.rope.and_then(|rope| angles.get(rope));
            x = s.at(&format!("layers.{i}"), |s| self.layer(m, s, &x, layer, angles));
        }
        Ok(self.norm.apply(s, "norm", &m.tokens.output_rows(&x), self.width))
    }

    fn layer(&self, m: &Model<'_>, s: &Scope, x: &Tensor, layer: &Layer, angles: Option<&Angles>) -> Tensor {
        let norm = |name: &str, x: &Tensor| self.norm.apply(s, name, x, self.width);
        let attend = |x: &Tensor| s.at("self_attn", |s| self.attention(m, s, x, layer, angles));
        let feed = |x: &Tensor| s.at("mlp", |s| self.feed_forward(s, x));
        let add = |x: &Tensor, y: Tensor| if self.residual_scale == 1.0 { x + y } else { x + y * self.residual_scale };
        match self.block {
            Block::Pre => {
                let x = add(x, attend(&norm("input_layernorm", x)));
                add(&x, feed(&norm("post_attention_layernorm", &x)))
            }
            Block::Sandwich => {
                let x = add(x, norm("post_attention_layernorm", &attend(&norm("input_layernorm", x))));
                let y = feed(&norm("pre_feedforward_layernorm", &x));
                add(&x, norm("post_feedforward_layernorm", &y))
            }
            Block::Post => {
                let x = add(x, norm("post_attention_layernorm", &attend(x)));
                add(&x, norm("post_feedforward_layernorm", &feed(&x)))
            }
            Block::Parallel => {
                let y = norm("input_layernorm", x);
                x + attend(&y) + feed(&y)
            }
        }
    }

    fn attention(&self, m: &Model<'_>, s: &Scope, x: &Tensor, layer: &Layer, angles: Option<&Angles>) -> Tensor {
        let project = |name: &str, norm: &str, heads: usize| {
            let y = projection(s, name, x, [heads * self.head, self.width], self.biases[0]);
            let y = if norm.is_empty() { y } else { self.normed(s, norm, &y, heads) };
            (y, heads)
        };
        let turned = |(y, heads): (Tensor, usize)| angles.map_or_else(|| y.clone(), |angles| angles.turn(&y, heads));
        let q = turned(project("q_proj", "q_norm", self.heads));
        let k = turned(project("k_proj", "k_norm", self.kv_heads));
        let (v, _) = project("v_proj", "", self.kv_heads);
        let spec = AttentionSpec {
            kv_heads: self.kv_heads,
            scale: self.scale,
            causal: true,
            window: layer.window,
            softcap: self.softcap,
            dropout: self.dropout,
            ..AttentionSpec::plain(self.heads, self.head as f64)
        };
        let y = m.tokens.attention(s, &q, &k, &v, &spec);
        projection(s, "o_proj", &y, [self.width, self.heads * self.head], self.biases[1])
    }

    /// Queries or keys after their norm.
    fn normed(&self, s: &Scope, name: &str, x: &Tensor, heads: usize) -> Tensor {
        let flat = x.shape().to_vec();
        let Some((_, outer)) = x.shape().split_last() else { return x.clone() };
        let split = || x.reshape(outer.iter().cloned().chain([heads, self.head].map(Into::into)));
        match (self.qk_norm, self.norm) {
            (QkNorm::None, _) => x.clone(),
            (QkNorm::OfAll, norm) => norm.apply(s, name, x, heads * self.head),
            (QkNorm::OfHead, norm) => norm.apply(s, name, &split(), self.head).reshape(flat),
            (QkNorm::OfEachHead, Norm::Rms { eps, .. } | Norm::Layer { eps } | Norm::LayerNoBias { eps }) => s
                .at(name, |s| {
                    (split().layer_norm(None, None, eps) * s.param("weight", [heads, self.head])).reshape(flat)
                }),
        }
    }

    fn feed_forward(&self, s: &Scope, x: &Tensor) -> Tensor {
        let (into, back) = ([self.inner, self.width], [self.width, self.inner]);
        let layer = |name: &str, x: &Tensor, shape| projection(s, name, x, shape, self.biases[2]);
        match self.mlp {
            Mlp::Gated => {
                let y = self.act.apply(&layer("gate_proj", x, into)) * layer("up_proj", x, into);
                layer("down_proj", &y, back)
            }
            Mlp::Plain => layer("c_proj", &self.act.apply(&layer("c_fc", x, into)), back),
        }
    }
}

/// Most heads, and features of a head: tables of this size are made while tracing. Published models have at most 512.
const MAX_HEAD: usize = 1 << 16;

/// The width of a head: `head_dim`, or what the heads share.
pub(super) fn head_width(m: &Model<'_>) -> Result<usize, FamilyError> {
    let (width, heads) = (m.hidden()?, m.config.positive("num_attention_heads")?);
    let (field, head) = match m.config.optional_size("head_dim")? {
        Some(_) => ("head_dim", m.config.positive("head_dim")?),
        None if width % heads == 0 => ("num_attention_heads", width / heads),
        None => {
            return Err(m.bad_field("num_attention_heads", &format!("a divisor of hidden_size {width}"), heads));
        }
    };
    if heads.max(head) > MAX_HEAD {
        let expected = format!("at most {MAX_HEAD} heads of at most {MAX_HEAD} features");
        return Err(m.bad_field(field, &expected, format!("{heads} of {head}")));
    }
    Ok(head)
}

/// Vocabulary logits.
pub(super) struct LmHead {
    /// Name of the output projection and, within the whole model, of the embedding whose table it shares where the two are
    /// tied.
    pub names: [&'static str; 2],
    pub bias: bool,
    /// What logits are multiplied by.
    pub scale: f64,
    /// See [`nn::soft_cap`]; 0 for not at all.
    pub softcap: f64,
}

impl LmHead {
    pub(super) const LLAMA: LmHead =
        LmHead { names: ["lm_head", "model.embed_tokens"], bias: false, scale: 1.0, softcap: 0.0 };

    pub(super) fn apply(&self, m: &Model<'_>, s: &Scope, hidden: &Tensor) -> Result<Outputs, FamilyError> {
        let [name, embedding] = self.names;
        let shape = [m.config.positive("vocab_size")?, m.hidden()?];
        let weights = if m.config.flag("tie_word_embeddings")? { embedding } else { name };
        let mut logits = s.shared(name, weights, |s| linear_no_bias(s, "", hidden, shape));
        if self.bias {
            logits = s.at(name, |s| logits + s.param("bias", [shape[0]]));
        }
        if self.scale != 1.0 {
            logits = logits * self.scale;
        }
        if self.softcap != 0.0 {
            logits = nn::soft_cap(&logits, self.softcap);
        }
        Ok(vec![("logits", logits)])
    }
}

/// [`LmHead::LLAMA`].
pub(super) fn causal_lm(m: &Model<'_>, s: &Scope, hidden: &Tensor) -> Result<Outputs, FamilyError> {
    LmHead::LLAMA.apply(m, s, hidden)
}
