//! MPNet (Song et al. 2020, arXiv 2004.09297): a post-norm encoder with learned positions and, shared by all layers, a
//! bias of attention scores by relative position, in buckets as T5 has them (Raffel et al. 2019, arXiv 1910.10683).

use lith_frontend::nn::{self, Act, SelfAttention, layer_norm, linear};
use lith_frontend::{Scope, Tensor};
use lith_ir::Literal;

use super::heads;
use super::roberta::{masked_lm, positions};
use super::{Family, FamilyError, Model, Pooler};
use crate::config::Head;
use crate::weights::Rules;

pub(super) const MPNET: Family = Family {
    model_type: "mpnet",
    rules: Rules { base_prefix: "mpnet", renames: &[], ignorable: &[] },
    tied: &[("lm_head.decoder.weight", "mpnet.embeddings.word_embeddings.weight")],
    aliases: &[("lm_head.decoder.bias", "lm_head.bias")],
    fused: None,
    max_length: |config| Ok(config.size("max_position_embeddings")?.saturating_sub(PADDING + 1)),
    body,
    pooler: Some(Pooler { dense: "pooler.dense", tensors: &["*pooler.dense.*"] }),
    heads: &[
        (Head::SequenceClassification, |m, s, x| heads::dense_classification(m, s, x, Act::Tanh)),
        (Head::TokenClassification, heads::token_classification),
        (Head::MaskedLm, |m, s, x| masked_lm(m, s, x, m.config.float("layer_norm_eps")?)),
        (Head::QuestionAnswering, heads::question_answering),
    ],
};

/// The padding id that positions count from; the configuration's is not asked.
const PADDING: usize = 1;

/// Buckets that relative positions fall into; the configuration's field only sizes the table.
const BUCKETS: usize = 32;

/// From this distance on all positions of a side share a bucket.
const FAR: usize = 128;

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
    let (vocabulary, reach) = (m.config.size("vocab_size")?, m.config.size("max_position_embeddings")?);
    let table_rows = m.config.size("relative_attention_num_buckets")?;
    if table_rows < BUCKETS {
        return Err(m.bad_field("relative_attention_num_buckets", &format!("at least {BUCKETS}"), table_rows));
    }
    let embedded = s.at("embeddings", |s| {
        let words = nn::embedding(s, "word_embeddings", m.tokens.ids(), [vocabulary, d.hidden]);
        let places = nn::embedding(s, "position_embeddings", &positions(m, PADDING), [reach, d.hidden]);
        layer_norm(s, "LayerNorm", &(words + places), d.hidden, d.eps)
    });
    let layers = m.layers("num_hidden_layers")?;
    Ok(s.at("encoder", |s| {
        let bias = s.at("relative_attention_bias", |s| {
            let buckets: Vec<i32> = (1 - FAR as i32..FAR as i32).map(bucket).collect();
            let buckets = s.trace().constant(Literal::i32s(&buckets));
            s.param("weight", [table_rows, d.heads]).gather(0, &buckets).transpose(&[1, 0])
        });
        (0..layers).fold(embedded, |x, i| s.at(&format!("layer.{i}"), |s| layer(m, s, &x, &bias, &d)))
    }))
}

fn layer(m: &Model<'_>, s: &Scope, x: &Tensor, bias: &Tensor, d: &Dims) -> Tensor {
    let attention = s.at("attention", |s| {
        let names = ["attn.q", "attn.k", "attn.v"];
        let heads = SelfAttention {
            names,
            width: d.hidden,
            heads: d.heads,
            causal: false,
            rel_bias: Some(bias),
            dropout: d.dropout,
        };
        let y = linear(s, "attn.o", &heads.apply(s, &m.tokens, x), [d.hidden, d.hidden]);
        layer_norm(s, "LayerNorm", &(y + x), d.hidden, d.eps)
    });
    let y = nn::mlp(s, ["intermediate.dense", "output.dense"], &attention, [d.hidden, d.inner], d.act);
    layer_norm(s, "output.LayerNorm", &(y + attention), d.hidden, d.eps)
}

/// The bucket of a key at this distance after the query: one half of the buckets for each side, in each the nearest
/// distances by themselves and the farther ones in logarithmic steps. In `f32`, as the table was trained.
fn bucket(distance: i32) -> i32 {
    let side = BUCKETS as i32 / 2;
    let alone = side / 2;
    let away = distance.abs();
    let step = if away < alone {
        away
    } else {
        let scale = (FAR as f64 / f64::from(alone)).ln() as f32;
        let steps = (away as f32 / alone as f32).ln() / scale * (side - alone) as f32;
        (alone + steps as i32).min(side - 1)
    };
    if distance > 0 { side + step } else { step }
}

#[cfg(test)]
mod tests {
    use super::bucket;

    /// The first distance of each bucket of one side.
    #[test]
    fn buckets() {
        let starts = [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91];
        for (b, start) in starts.into_iter().enumerate().skip(1) {
            assert_eq!(bucket(-start), b as i32);
            assert_eq!(bucket(1 - start), b as i32 - 1);
            assert_eq!(bucket(start), b as i32 + 16);
        }
        assert_eq!([bucket(-127), bucket(0), bucket(127)], [15, 0, 31]);
    }
}
