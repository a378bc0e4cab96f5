//! DistilBERT (Sanh et al. 2019, arXiv 1910.01108): BERT's encoder without type embeddings and pooler, under names of
//! its own.

use lith_frontend::nn::{self, Act, SelfAttention, layer_norm, linear};
use lith_frontend::{Scope, Tensor};
use lith_ir::Activation;

use super::heads::{self, MaskedLm};
use super::{Family, FamilyError, Model, Outputs};
use crate::config::Head;
use crate::weights::Rules;

pub(super) const DISTILBERT: Family = Family {
    model_type: "distilbert",
    rules: Rules { base_prefix: "distilbert", renames: &[], ignorable: &[] },
    tied: &[("vocab_projector.weight", "distilbert.embeddings.word_embeddings.weight")],
    aliases: &[],
    fused: None,
    max_length: |config| config.size("max_position_embeddings"),
    body,
    pooler: None,
    heads: &[
        (Head::SequenceClassification, sequence_classification),
        (Head::TokenClassification, heads::token_classification),
        (Head::MaskedLm, masked_lm),
        (Head::QuestionAnswering, heads::question_answering),
    ],
};

/// The configuration has no field for it.
const EPS: f64 = 1e-12;

struct Dims {
    dim: usize,
    heads: usize,
    hidden_dim: usize,
    act: Act,
    /// Of attention, in training.
    dropout: f64,
}

fn body(m: &Model<'_>, s: &Scope) -> Result<Tensor, FamilyError> {
    let d = Dims {
        dim: m.hidden()?,
        heads: m.config.positive("n_heads")?,
        hidden_dim: m.config.positive("hidden_dim")?,
        act: m.act("activation")?,
        dropout: m.config.float("attention_dropout")?,
    };
    let (vocabulary, reach) = (m.config.size("vocab_size")?, m.config.size("max_position_embeddings")?);
    let embedded = s.at("embeddings", |s| {
        let words = nn::embedding(s, "word_embeddings", m.tokens.ids(), [vocabulary, d.dim]);
        let places = nn::embedding(s, "position_embeddings", &m.tokens.positions(), [reach, d.dim]);
        layer_norm(s, "LayerNorm", &(words + places), d.dim, EPS)
    });
    let layers = m.layers("n_layers")?;
    Ok((0..layers).fold(embedded, |x, i| s.at(&format!("transformer.layer.{i}"), |s| layer(m, s, &x, &d))))
}

fn layer(m: &Model<'_>, s: &Scope, x: &Tensor, d: &Dims) -> Tensor {
    let attention = s.at("attention", |s| {
        let names = ["q_lin", "k_lin", "v_lin"];
        let heads =
            SelfAttention { names, width: d.dim, heads: d.heads, causal: false, rel_bias: None, dropout: d.dropout };
        linear(s, "out_lin", &heads.apply(s, &m.tokens, x), [d.dim, d.dim])
    });
    let x = layer_norm(s, "sa_layer_norm", &(attention + x), d.dim, EPS);
    let y = nn::mlp(s, ["ffn.lin1", "ffn.lin2"], &x, [d.dim, d.hidden_dim], d.act);
    layer_norm(s, "output_layer_norm", &(y + x), d.dim, EPS)
}

fn sequence_classification(m: &Model<'_>, s: &Scope, hidden: &Tensor) -> Result<Outputs, FamilyError> {
    let dim = m.hidden()?;
    let x = linear(s, "pre_classifier", &m.tokens.first(hidden), [dim, dim]).activation(Activation::Relu);
    Ok(vec![("logits", linear(s, "classifier", &x, [m.config.num_labels(), dim]))])
}

fn masked_lm(m: &Model<'_>, s: &Scope, hidden: &Tensor) -> Result<Outputs, FamilyError> {
    let names = ["vocab_transform", "vocab_layer_norm", "vocab_projector"];
    MaskedLm { names, width: m.hidden()?, act: m.act("activation")?, eps: EPS }.apply(m, s, hidden)
}
