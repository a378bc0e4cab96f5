//! Training: which parameters of a model change and how, its program with the steps of training, and fine-tuning from
//! files.

mod executable;
pub(crate) mod files;
mod fine_tune;
mod head;

use lith_ir::Program;
use lith_passes::train::{Optimizer, Training};
use lith_runtime::training::arguments::TrainingArguments;

use crate::error::{Error, Result};
use crate::model::ModelOptions;

pub use executable::{Learner, Lesson};
pub use fine_tune::{Job, fine_tune};

/// Lets a model be read to be trained, as a classifier of texts where no task is asked for.
pub fn to_train(from: &mut ModelOptions) {
    from.training = Some(lith_models::families::Training { smoothing: 0.0 });
    from.task.get_or_insert_with(|| "text-classification".into());
    from.fresh_head = true;
}

/// What of a program is trained by an optimizer: all parameters, those that are no biases and no weights of norms with
/// decay (TL-12).
pub fn all_of(program: &Program, optimizer: Optimizer) -> Training {
    let floats = program.params.iter().filter(|(_, ty)| ty.dtype.is_float());
    some_of(floats.map(|(name, _)| name.clone()), optimizer)
}

/// The same where only these parameters are trained.
pub fn some_of(trained: impl Iterator<Item = String>, optimizer: Optimizer) -> Training {
    let trained: std::collections::BTreeSet<String> = trained.collect();
    let decayed = trained.iter().filter(|name| decays(name)).cloned().collect();
    Training { trained, decayed, optimizer }
}

/// Whether weight decay is for a parameter of this name: not for biases and what norms multiply by (TL-12).
fn decays(name: &str) -> bool {
    let lower = name.to_lowercase();
    let mut words = lower.split(|c: char| !c.is_ascii_alphanumeric());
    let is_norm = |segment: &str| {
        segment.contains("layernorm") || segment.contains("rmsnorm") || segment.ends_with("_norm") || segment == "norm"
    };
    !(lower.contains("bias") || lower.split('.').any(is_norm) || words.any(|w| w == "norm"))
}

/// The optimizer that `optim` names.
fn optimizer(args: &TrainingArguments) -> Result<Optimizer> {
    let nesterov = args.optimizer_options().iter().any(|(name, value)| name == "nesterov" && value != "false");
    match Optimizer::from_name(&args.optim) {
        Some(Optimizer::Sgd { .. }) => Ok(Optimizer::Sgd { nesterov }),
        Some(optimizer) => Ok(optimizer),
        None => {
            let known: Vec<&str> = Optimizer::NAMES.iter().map(|(name, _)| *name).collect();
            Err(Error::input(format!("optim: {:?} is none of {}", args.optim, known.join(", "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::decays;

    /// TL-12
    #[test]
    fn biases_and_norms_do_not_decay() {
        let table = [
            ("bert.encoder.layer.0.attention.self.query.weight", true),
            ("bert.encoder.layer.0.attention.self.query.bias", false),
            ("bert.embeddings.LayerNorm.weight", false),
            ("model.layers.0.input_layernorm.weight", false),
            ("model.layers.3.self_attn.q_norm.weight", false),
            ("model.norm.weight", false),
            ("normalizer.weight", true),
            ("transformer.h.0.attn.c_attn.weight", true),
            ("bert.embeddings.word_embeddings.weight", true),
        ];
        for (name, expected) in table {
            assert_eq!(decays(name), expected, "{name}");
        }
    }
}
