//! RoBERTa (Liu et al. 2019, arXiv 1907.11692): BERT with positions counted from the padding id and heads of its own.
//! XLM-RoBERTa (Conneau et al. 2019, arXiv 1911.02116) and CamemBERT (Martin et al. 2019, arXiv 1911.03894) are the
//! same architecture.

use lith_frontend::nn::Act;
use lith_frontend::{Scope, Tensor};
use lith_ir::{Activation, DType};

use super::bert::{Dims, embeddings, encoder};
use super::heads::{self, MaskedLm};
use super::{Family, FamilyError, Model, Outputs, Pooler};
use crate::config::Head;
use crate::weights::Rules;

pub(super) const ROBERTA: Family = family("roberta");
pub(super) const XLM_ROBERTA: Family = family("xlm-roberta");
pub(super) const CAMEMBERT: Family = family("camembert");

const fn family(model_type: &'static str) -> Family {
    Family {
        model_type,
        rules: Rules { base_prefix: "roberta", renames: &[], ignorable: &[] },
        tied: &[("lm_head.decoder.weight", "roberta.embeddings.word_embeddings.weight")],
        aliases: &[("lm_head.decoder.bias", "lm_head.bias")],
        fused: None,
        // Positions count from the one after the padding id.
        max_length: |config| {
            let (reach, pad) = (config.size("max_position_embeddings")?, config.size("pad_token_id")?);
            Ok(reach.saturating_sub(pad + 1))
        },
        body: |m, s| {
            let d = Dims::of(m)?;
            let pad = m.config.size("pad_token_id")?;
            let x = embeddings(m, s, &positions(m, pad), d.hidden, d.eps)?;
            Ok(encoder(m, s, x, &d))
        },
        pooler: Some(Pooler { dense: "pooler.dense", tensors: &["*pooler.dense.*"] }),
        heads: &[
            (Head::SequenceClassification, |m, s, x| heads::dense_classification(m, s, x, Act::Tanh)),
            (Head::TokenClassification, heads::token_classification),
            (Head::MaskedLm, |m, s, x| masked_lm(m, s, x, m.config.float("layer_norm_eps")?)),
            (Head::QuestionAnswering, heads::question_answering),
        ],
    }
}

/// `pad + 1, pad + 2, ..` over the tokens that are not padding, which itself has position `pad`.
pub(super) fn positions(m: &Model<'_>, pad: usize) -> Tensor {
    let token = m.tokens.is_not(pad as i64);
    m.tokens.running_count(&token) * token.cast(DType::I32) + pad as f64
}

pub(super) fn masked_lm(m: &Model<'_>, s: &Scope, hidden: &Tensor, eps: f64) -> Result<Outputs, FamilyError> {
    let (width, act) = (m.hidden()?, Act::Op(Activation::Gelu));
    let head = MaskedLm { names: ["dense", "layer_norm", "decoder"], width, act, eps };
    s.at("lm_head", |s| head.apply(m, s, hidden))
}
