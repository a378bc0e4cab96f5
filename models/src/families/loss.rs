//! What training makes small: the loss of each head, as Transformers has it (TL-07). Sums over what is counted, with the
//! count beside them, so that whoever adds up batches can take the mean over all of them (TL-06).

use lith_frontend::Tensor;
use lith_ir::{Compare, DType, Pool};

use super::{FamilyError, Model, Outputs};
use crate::config::{Head, ProblemType};

/// The label of what is not counted.
pub const IGNORED: i64 = -100;

/// A sum of losses and how many it is of, both `f32` scalars.
pub(super) struct Loss {
    pub sum: Tensor,
    pub items: Tensor,
}

/// The loss of a head's outputs. Adds the arguments that tell what is right: `labels`, one for each sequence or token, `i32`
/// for one of several classes, else `f32` numbers, a row for each sequence; of question answering `start_positions` and
/// `end_positions i32[sequences]`, tokens of the sequence.
pub(super) fn loss(m: &Model<'_>, head: Head, outputs: &Outputs, smoothing: f64) -> Result<Loss, FamilyError> {
    let output = |name: &str| {
        let found = outputs.iter().find(|(n, _)| *n == name).map(|(_, tensor)| tensor.clone());
        found.unwrap_or_else(|| m.tokens.ids().trace().misfit("loss", format!("no output `{name}`")))
    };
    let kind = m.config.problem_type().unwrap_or(match m.config.num_labels() {
        1 => ProblemType::Regression,
        _ => ProblemType::SingleLabelClassification,
    });
    Ok(match head {
        Head::Base => return Err(m.bad_field("architectures", "a model with a head to train", head)),
        Head::SequenceClassification if kind == ProblemType::SingleLabelClassification => {
            of_classes(m, &output("logits"), &labels(m, &output("logits")), smoothing)
        }
        Head::SequenceClassification => of_numbers(m, &output("logits"), kind),
        Head::TokenClassification | Head::MaskedLm => {
            of_classes(m, &output("logits"), &labels(m, &output("logits")), smoothing)
        }
        Head::CausalLm => {
            let labels = labels(m, &output("logits"));
            // What a token is to predict stands at the next one; the last of a sequence has none.
            let place = m.tokens.ids().trace().iota(labels.shape(), 0, DType::I32);
            let next = labels.gather(0, &(place + 1.0));
            let last = (m.tokens.positions() + 1.0).compare(Compare::Eq, &m.tokens.reaches());
            let none = labels.trace().constant(lith_ir::Literal::int(DType::I32, IGNORED));
            of_classes(m, &output("logits"), &last.select(&none, &next), smoothing)
        }
        Head::QuestionAnswering => {
            let [start, end] = ["start", "end"].map(|side| {
                let positions = sequence_argument(m, &format!("{side}_positions"), DType::I32);
                of_positions(m, &output(&format!("{side}_logits")), &positions)
            });
            Loss { sum: (start.sum + end.sum) * 0.5, items: (start.items + end.items) * 0.5 }
        }
    })
}

/// `labels`, one for each row of the logits.
fn labels(m: &Model<'_>, logits: &Tensor) -> Tensor {
    let rows: Vec<_> = logits.shape().iter().take(logits.shape().len().saturating_sub(1)).cloned().collect();
    m.tokens.ids().trace().argument("labels", DType::I32, rows)
}

/// An argument with a value for each sequence.
fn sequence_argument(m: &Model<'_>, name: &str, dtype: DType) -> Tensor {
    let count: Vec<_> = m.tokens.lengths().shape().iter().take(1).cloned().collect();
    m.tokens.ids().trace().argument(name, dtype, count)
}

/// Cross entropy, for labels that are not [`IGNORED`].
fn of_classes(m: &Model<'_>, logits: &Tensor, labels: &Tensor, smoothing: f64) -> Loss {
    let all = |tensor: &Tensor| tensor.sum(&(0..tensor.shape().len() as isize).collect::<Vec<_>>(), false);
    let counted = labels.compare_to(Compare::Ne, IGNORED as f64).cast(m.tokens.ids().trace().dtype());
    Loss { sum: all(&logits.cross_entropy(labels, IGNORED, smoothing)), items: all(&counted) }
}

/// Mean squared error, or binary cross entropy of each label, of the row of numbers of each sequence.
fn of_numbers(m: &Model<'_>, logits: &Tensor, kind: ProblemType) -> Loss {
    let trace = m.tokens.ids().trace();
    let labels = trace.argument("labels", DType::F32, logits.shape().to_vec());
    let each = match kind {
        ProblemType::Regression => {
            let away = logits - &labels;
            &away * &away
        }
        // -y log s(x) - (1 - y) log(1 - s(x)) = max(x, 0) - x y + log(1 + e^-|x|)
        _ => logits.at_least(0.0) - logits * &labels + ((-logits.abs()).exp() + 1.0).log(),
    };
    let rows = logits.shape().first().cloned().unwrap_or_default();
    Loss { sum: each.mean(&[1], false).sum(&[0], false), items: trace.size(rows, DType::F32) }
}

/// Cross entropy over the tokens of each sequence, for positions within it.
fn of_positions(m: &Model<'_>, logits: &Tensor, positions: &Tensor) -> Loss {
    let tokens: Vec<_> = logits.shape().iter().cloned().chain([lith_ir::Dim::constant(1)]).collect();
    let column = logits.reshape(tokens);
    let rows = positions.shape().to_vec();
    let greatest = m.tokens.pool(&column, Pool::Max);
    let shifted = &column - m.tokens.spread(&greatest);
    let total = m.tokens.pool(&shifted.exp(), Pool::Sum).log().reshape(rows.clone());
    let length = m.tokens.lengths().reshape(rows.clone()).cast(DType::I32);
    let inside = positions.compare_to(Compare::Ge, 0.0).cast(DType::I32)
        * positions.compare(Compare::Lt, &length).cast(DType::I32);
    let at = m.tokens.at_positions(&shifted, positions).reshape(rows);
    let inside = inside.cast(DType::F32);
    let each = (total - at) * &inside;
    Loss { sum: each.sum(&[0], false), items: inside.sum(&[0], false) }
}
