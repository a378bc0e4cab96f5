//! Heads that several families share.

use lith_frontend::nn::{Act, columns, layer_norm, linear};
use lith_frontend::{Scope, Tensor};

use super::{FamilyError, Model, Outputs};

/// One class for each token: a linear layer `classifier`.
pub(super) fn token_classification(m: &Model<'_>, s: &Scope, hidden: &Tensor) -> Result<Outputs, FamilyError> {
    Ok(vec![("logits", linear(s, "classifier", hidden, [m.config.num_labels(), m.hidden()?]))])
}

/// Start and end of an answer: a linear layer `qa_outputs` to two columns.
pub(super) fn question_answering(m: &Model<'_>, s: &Scope, hidden: &Tensor) -> Result<Outputs, FamilyError> {
    if m.config.num_labels() != 2 {
        return Err(m.bad_field("num_labels", "2 for question answering", m.config.num_labels()));
    }
    let [start, end] = columns(&linear(s, "qa_outputs", hidden, [2, m.hidden()?]));
    Ok(vec![("start_logits", start), ("end_logits", end)])
}

/// One class for each sequence from `pooler_output`: a linear layer `classifier`.
pub(super) fn pooled_classification(m: &Model<'_>, s: &Scope, hidden: &Tensor) -> Result<Outputs, FamilyError> {
    let pooled = s.at(m.family.rules.base_prefix, |body| m.pooled(body, hidden))?;
    Ok(vec![("logits", linear(s, "classifier", &pooled, [m.config.num_labels(), m.hidden()?]))])
}

/// One class for each sequence from its first token: `classifier.dense`, activation, `classifier.out_proj`.
pub(super) fn dense_classification(
    m: &Model<'_>,
    s: &Scope,
    hidden: &Tensor,
    act: Act,
) -> Result<Outputs, FamilyError> {
    let width = m.hidden()?;
    let logits = s.at("classifier", |s| {
        let x = act.apply(&linear(s, "dense", &m.tokens.first(hidden), [width, width]));
        linear(s, "out_proj", &x, [m.config.num_labels(), width])
    });
    Ok(vec![("logits", logits)])
}

/// Vocabulary logits of each token: dense layer, activation, layer norm, output projection.
pub(super) struct MaskedLm {
    /// Names of the dense layer, the norm and the output projection.
    pub names: [&'static str; 3],
    /// Width between dense layer and projection.
    pub width: usize,
    pub act: Act,
    pub eps: f64,
}

impl MaskedLm {
    pub(super) fn apply(&self, m: &Model<'_>, s: &Scope, hidden: &Tensor) -> Result<Outputs, FamilyError> {
        let [dense, norm, projection] = self.names;
        let x = self.act.apply(&linear(s, dense, hidden, [self.width, m.hidden()?]));
        let x = layer_norm(s, norm, &x, self.width, self.eps);
        Ok(vec![("logits", linear(s, projection, &x, [m.config.size("vocab_size")?, self.width]))])
    }
}
