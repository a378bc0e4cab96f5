//! BERT (Devlin et al. 2018, arXiv 1810.04805): a post-norm encoder over sums of word, position and type embeddings.
//! RoBERTa and ELECTRA are made of its parts.

use lith_frontend::nn::{self, Act, SelfAttention, layer_norm, linear};
use lith_frontend::{Scope, Tensor};

use super::heads::{self, MaskedLm};
use super::{Family, FamilyError, Model, Outputs, Pooler};
use crate::config::Head;
use crate::weights::Rules;

pub(super) const BERT: Family = Family {
    model_type: "bert",
    rules: Rules { base_prefix: "bert", renames: &[], ignorable: &[] },
    tied: &[("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight")],
    aliases: &[("cls.predictions.decoder.bias", "cls.predictions.bias")],
    fused: None,
    max_length: |config| config.size("max_position_embeddings"),
    body: |m, s| {
        let d = Dims::of(m)?;
        let x = embeddings(m, s, &m.tokens.positions(), d.hidden, d.eps)?;
        Ok(encoder(m, s, x, &d))
    },
    pooler: Some(Pooler { dense: "pooler.dense", tensors: &["*pooler.dense.*"] }),
    heads: &[
        (Head::SequenceClassification, heads::pooled_classification),
        (Head::TokenClassification, heads::token_classification),
        (Head::MaskedLm, masked_lm),
        (Head::QuestionAnswering, heads::question_answering),
    ],
};

/// Sizes of the encoder.
pub(super) struct Dims {
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    pub inner: usize,
    pub act: Act,
    pub eps: f64,
    /// Of hidden states, in training.
    pub dropout: f64,
    /// Of attention, in training.
    pub attention_dropout: f64,
    pub causal: bool,
}

impl Dims {
    pub(super) fn of(m: &Model<'_>) -> Result<Self, FamilyError> {
        // Transformers had relative positions up to version 4; cross attention is for decoders of other encoders.
        if let Some(found) = m.config.optional_text("position_embedding_type")?.filter(|kind| kind != "absolute") {
            return Err(m.bad_field("position_embedding_type", "absolute", found));
        }
        if m.config.flag("add_cross_attention")? {
            return Err(m.bad_field("add_cross_attention", "false", true));
        }
        Ok(Dims {
            hidden: m.hidden()?,
            layers: m.layers("num_hidden_layers")?,
            heads: m.config.positive("num_attention_heads")?,
            inner: m.config.positive("intermediate_size")?,
            act: m.act("hidden_act")?,
            eps: m.config.float("layer_norm_eps")?,
            dropout: m.config.float("hidden_dropout_prob")?,
            attention_dropout: m.config.float("attention_probs_dropout_prob")?,
            causal: m.config.flag("is_decoder")?,
        })
    }
}

/// The normalised sum of word, position and type embeddings.
pub(super) fn embeddings(
    m: &Model<'_>,
    s: &Scope,
    positions: &Tensor,
    width: usize,
    eps: f64,
) -> Result<Tensor, FamilyError> {
    let (vocabulary, reach, types) =
        (m.config.size("vocab_size")?, m.config.size("max_position_embeddings")?, m.config.size("type_vocab_size")?);
    let dropout = m.config.float("hidden_dropout_prob")?;
    Ok(s.at("embeddings", |s| {
        let words = nn::embedding(s, "word_embeddings", m.tokens.ids(), [vocabulary, width]);
        let kinds = match m.tokens.type_ids() {
            Some(ids) => nn::embedding(s, "token_type_embeddings", ids, [types, width]),
            None => s.at("token_type_embeddings", |s| s.param("weight", [types, width]).index(0, 0)),
        };
        let places = nn::embedding(s, "position_embeddings", positions, [reach, width]);
        layer_norm(s, "LayerNorm", &(words + kinds + places), width, eps).dropout(dropout)
    }))
}

/// The stack of encoder layers.
pub(super) fn encoder(m: &Model<'_>, s: &Scope, x: Tensor, d: &Dims) -> Tensor {
    (0..d.layers).fold(x, |x, i| s.at(&format!("encoder.layer.{i}"), |s| layer(m, s, &x, d)))
}

fn layer(m: &Model<'_>, s: &Scope, x: &Tensor, d: &Dims) -> Tensor {
    let attention = s.at("attention", |s| {
        let names = ["self.query", "self.key", "self.value"];
        let heads = SelfAttention {
            names,
            width: d.hidden,
            heads: d.heads,
            causal: d.causal,
            rel_bias: None,
            dropout: d.attention_dropout,
        };
        let y = linear(s, "output.dense", &heads.apply(s, &m.tokens, x), [d.hidden, d.hidden]).dropout(d.dropout);
        layer_norm(s, "output.LayerNorm", &(y + x), d.hidden, d.eps)
    });
    let y =
        nn::mlp(s, ["intermediate.dense", "output.dense"], &attention, [d.hidden, d.inner], d.act).dropout(d.dropout);
    layer_norm(s, "output.LayerNorm", &(y + attention), d.hidden, d.eps)
}

fn masked_lm(m: &Model<'_>, s: &Scope, hidden: &Tensor) -> Result<Outputs, FamilyError> {
    let Dims { hidden: width, act, eps, .. } = Dims::of(m)?;
    let names = ["transform.dense", "transform.LayerNorm", "decoder"];
    s.at("cls.predictions", |s| MaskedLm { names, width, act, eps }.apply(m, s, hidden))
}
