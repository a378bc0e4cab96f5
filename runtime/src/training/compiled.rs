//! A compiled program that learns: its entry points `train_step`, `accumulate`, `apply` and `eval_step`. Knows batches and
//! the numbers of a step, nothing of data or schedules.

use bytemuck::bytes_of;
use lith_ir::DType;

use super::collate::Batch;
use crate::program::{CallError, Program};
use crate::tensor::{Tensor, View};

/// What an optimizer is told at every step, but for what changes from step to step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hyperparameters {
    /// How much parameters decay (those that do).
    pub weight_decay: f64,
    /// The factor that the first moment keeps; momentum of optimizers with one factor.
    pub beta1: f64,
    /// The factor that the second moment keeps.
    pub beta2: f64,
    /// Added to what divides.
    pub epsilon: f64,
    /// The greatest norm of the gradient; 0 for any.
    pub max_grad_norm: f64,
}

/// Transformers' defaults (TA-10, TA-11, TA-12).
impl Default for Hyperparameters {
    fn default() -> Self {
        Hyperparameters { weight_decay: 0.0, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, max_grad_norm: 1.0 }
    }
}

/// What changes from step to step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moment {
    /// The learning rate.
    pub learning_rate: f64,
    /// Number of the update, from 1.
    pub step: u64,
    /// What the sum of losses of all batches of the update is divided by.
    pub items: f32,
    /// What is dropped is a function of this key.
    pub key: [u32; 2],
}

/// A compiled program that learns.
pub struct CompiledTraining {
    program: Program,
    hyperparameters: Hyperparameters,
}

impl CompiledTraining {
    /// A program with the entry points of training.
    ///
    /// # Errors
    /// When it has none.
    pub fn new(program: Program, hyperparameters: Hyperparameters) -> Result<CompiledTraining, CallError> {
        for wanted in ["train_step", "accumulate", "apply", "eval_step"] {
            if program.manifest().entries.iter().all(|entry| entry.name != wanted) {
                let known = program.manifest().entries.iter().map(|entry| entry.name.clone()).collect();
                return Err(CallError::NoEntry { name: wanted.into(), known });
            }
        }
        Ok(CompiledTraining { program, hyperparameters })
    }

    /// The program.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Calls an entry point with the arrays of a batch and the numbers of a step, as far as it takes them. Token types that
    /// the batch lacks are zeros. Gives the results by name.
    ///
    /// # Errors
    /// When the batch lacks an argument, or has one of another shape, or memory is short.
    pub fn call(&self, entry: &str, batch: &Batch, at: &Moment) -> Result<Vec<(String, Tensor)>, CallError> {
        let found = self.program.manifest().entries.iter().find(|e| e.name == entry);
        let Some(found) = found else {
            return Err(CallError::NoEntry { name: entry.into(), known: Vec::new() });
        };
        let Hyperparameters { weight_decay, beta1, beta2, epsilon, max_grad_norm } = self.hyperparameters;
        let numbers = [
            ("learning_rate", at.learning_rate),
            ("weight_decay", weight_decay),
            ("beta1", beta1),
            ("beta2", beta2),
            ("epsilon", epsilon),
            ("max_grad_norm", max_grad_norm),
            ("step", at.step as f64),
        ];
        let types = batch.get("input_ids").and_then(|ids| Tensor::zeros(DType::I32, ids.shape().to_vec()));
        let mut args: Vec<(&str, View<'_>)> = Vec::with_capacity(found.args.len());
        for arg in &found.args {
            let name = arg.name.as_str();
            let view = match name {
                "items" => View { dtype: DType::F32, shape: &[], bytes: bytes_of(&at.items) },
                "dropout_key" => View { dtype: DType::U32, shape: &[2], bytes: bytes_of(&at.key) },
                _ => match (numbers.iter().find(|(n, _)| *n == name), batch.get(name), &types) {
                    (Some((_, number)), _, _) => View { dtype: DType::F64, shape: &[], bytes: bytes_of(number) },
                    (_, Some(tensor), _) => tensor.view(),
                    (_, None, Some(zeros)) if name == "token_type_ids" => zeros.view(),
                    _ => {
                        let problem = format!("the batch has no `{name}`");
                        return Err(CallError::Argument { entry: entry.into(), problem });
                    }
                },
            };
            args.push((name, view));
        }
        let results = self.program.run(entry, &args)?;
        Ok(found.results.iter().map(|r| r.name.clone()).zip(results).collect())
    }
}
