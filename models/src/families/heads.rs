//! Heads that several families share.

use lith_frontend::nn::{Act, columns, layer_norm, linear};
use lith_frontend::{Scope, Tensor};

use super::{FamilyError, Model, Outputs};

/// The share that is dropped before a classifier, in training.
fn classifier_dropout(m: &Model<'_>) -> Result<f64, FamilyError> {
    let own = m.config.value("classifier_dropout").as_f64();
    let own = own.or_else(|| m.config.value("classifier_dropout_prob").as_f64());
    Ok(own.or_else(|| m.config.value("hidden_dropout_prob").as_f64()).unwrap_or(0.0))
}

/// One class for each token: a linear layer `classifier`.
pub(super) fn token_classification(m: &Model<'_>, s: &Scope, hidden: &Tensor) -> Result<Outputs, FamilyError> {
    let hidden = hidden.dropout(classifier_dropout(m)?);
    Ok(vec![("logits", linear(s, "classifier", &hidden, [m.config.num_labels(), m.hidden()?]))])
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
    let pooled = s.at(m.family.rules.base_prefix, |body| m.pooled(body, hidden))?.dropout(classifier_dropout(m)?);
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
    let dropout = classifier_dropout(m)?;
    let logits = s.at("classifier", |s| {
        let first = m.tokens.first(hidden).dropout(dropout);
        let x = act.apply(&linear(s, "dense", &first, [width, width])).dropout(dropout);
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
