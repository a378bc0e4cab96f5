//! ALBERT (Lan et al. 2019, arXiv 1909.11942): narrow embeddings projected to the hidden width, and layers that share
//! their weights: consecutive layers run one group, a group is one or more inner layers.

use lith_frontend::nn::{self, Act, SelfAttention, layer_norm, linear};
use lith_frontend::{Scope, Tensor};

use super::bert::embeddings;
use super::heads::{self, MaskedLm};
use super::{Family, FamilyError, MAX_LAYERS, Model, Outputs, Pooler};
use crate::config::Head;
use crate::weights::Rules;

pub(super) const ALBERT: Family = Family {
    model_type: "albert",
    rules: Rules { base_prefix: "albert", renames: &[], ignorable: &[] },
    tied: &[("predictions.decoder.weight", "albert.embeddings.word_embeddings.weight")],
    aliases: &[("predictions.decoder.bias", "predictions.bias")],
    fused: None,
    max_length: |config| config.size("max_position_embeddings"),
    body,
    pooler: Some(Pooler { dense: "pooler", tensors: &["*pooler.weight", "*pooler.bias"] }),
    heads: &[
        (Head::SequenceClassification, heads::pooled_classification),
        (Head::TokenClassification, heads::token_classification),
        (Head::MaskedLm, masked_lm),
        (Head::QuestionAnswering, heads::question_answering),
    ],
};

struct Dims {
    hidden: usize,
    heads: usize,
    inner: usize,
    act: Act,
    eps: f64,
    /// Of attention, in training.
    dropout: f64,
}

fn body(m: &Model<'_>, s: &Scope) -> Result<Tensor, FamilyError> {
    let d = Dims {
        hidden: m.hidden()?,
        heads: m.config.positive("num_attention_heads")?,
        inner: m.config.positive("intermediate_size")?,
        act: m.act("hidden_act")?,
        eps: m.config.float("layer_norm_eps")?,
        dropout: m.config.float("attention_probs_dropout_prob")?,
    };
    let (layers, groups) = (m.layers("num_hidden_layers")?, m.config.positive("num_hidden_groups")?);
    let inner = m.layers("inner_group_num")?;
    if layers * inner > MAX_LAYERS {
        return Err(m.bad_field("inner_group_num", &format!("at most {MAX_LAYERS} layers in all"), inner));
    }
    let width = m.config.positive("embedding_size")?;
    let x = embeddings(m, s, &m.tokens.positions(), width, d.eps)?;
    Ok(s.at("encoder", |s| {
        let x = linear(s, "embedding_hidden_mapping_in", &x, [d.hidden, width]);
        (0..layers * inner).fold(x, |x, i| {
            // In floating point, as Transformers assigns layers to groups.
            let group = ((i / inner) as f64 / (layers as f64 / groups as f64)) as usize;
            let weights = format!("albert_layer_groups.{group}.albert_layers.{}", i % inner);
            s.shared(&format!("layer.{i}"), &weights, |s| layer(m, s, &x, &d))
        })
    }))
}

fn layer(m: &Model<'_>, s: &Scope, x: &Tensor, d: &Dims) -> Tensor {
    let attention = s.at("attention", |s| {
        let names = ["query", "key", "value"];
        let heads =
            SelfAttention { names, width: d.hidden, heads: d.heads, causal: false, rel_bias: None, dropout: d.dropout };
        let y = linear(s, "dense", &heads.apply(s, &m.tokens, x), [d.hidden, d.hidden]);
        layer_norm(s, "LayerNorm", &(y + x), d.hidden, d.eps)
    });
    let y = nn::mlp(s, ["ffn", "ffn_output"], &attention, [d.hidden, d.inner], d.act);
    layer_norm(s, "full_layer_layer_norm", &(y + attention), d.hidden, d.eps)
}

fn masked_lm(m: &Model<'_>, s: &Scope, hidden: &Tensor) -> Result<Outputs, FamilyError> {
    let (width, act) = (m.config.positive("embedding_size")?, m.act("hidden_act")?);
    let names = ["dense", "LayerNorm", "decoder"];
    let head = MaskedLm { names, width, act, eps: m.config.float("layer_norm_eps")? };
    s.at("predictions", |s| head.apply(m, s, hidden))
}
