//! ELECTRA (Clark et al. 2020, arXiv 2003.10555): BERT's encoder on embeddings of a width of their own, and heads with
//! gelu.

use lith_frontend::nn::{Act, linear};
use lith_frontend::{Scope, Tensor};
use lith_ir::Activation;

use super::bert::{Dims, embeddings, encoder};
use super::heads::{self, MaskedLm};
use super::{Family, FamilyError, Model, Outputs};
use crate::config::Head;
use crate::weights::Rules;

pub(super) const ELECTRA: Family = Family {
    model_type: "electra",
    rules: Rules { base_prefix: "electra", renames: &[], ignorable: &[] },
    tied: &[("generator_lm_head.weight", "electra.embeddings.word_embeddings.weight")],
    aliases: &[],
    fused: None,
    max_length: |config| config.size("max_position_embeddings"),
    body,
    pooler: None,
    heads: &[
        (Head::SequenceClassification, |m, s, x| heads::dense_classification(m, s, x, GELU)),
        (Head::TokenClassification, heads::token_classification),
        (Head::MaskedLm, masked_lm),
        (Head::QuestionAnswering, heads::question_answering),
    ],
};

/// The heads' activation, whatever the configuration's `hidden_act`.
const GELU: Act = Act::Op(Activation::Gelu);

fn body(m: &Model<'_>, s: &Scope) -> Result<Tensor, FamilyError> {
    let (d, width) = (Dims::of(m)?, m.config.positive("embedding_size")?);
    let x = embeddings(m, s, &m.tokens.positions(), width, d.eps)?;
    let x = if width == d.hidden { x } else { linear(s, "embeddings_project", &x, [d.hidden, width]) };
    Ok(encoder(m, s, x, &d))
}

fn masked_lm(m: &Model<'_>, s: &Scope, hidden: &Tensor) -> Result<Outputs, FamilyError> {
    let names = ["generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head"];
    let (width, eps) = (m.config.positive("embedding_size")?, m.config.float("layer_norm_eps")?);
    MaskedLm { names, width, act: GELU, eps }.apply(m, s, hidden)
}
