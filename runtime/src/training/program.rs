//! What training knows of a compiled program: batches of named tensors in, losses out, and its parameters and states by
//! name. Knows no artifact, no architecture and no optimizer.

use lith_ir::DType;

use super::collate::{Batch, IGNORE_INDEX};
use crate::tensor::Tensor;

/// The numbers that a step is a function of, beside batch and states.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepScalars {
    /// Learning rate of the update.
    pub learning_rate: f32,
    /// Number of the update among those that changed the weights, from 1: optimizers correct their bias by it.
    pub step: u64,
    /// One over the items of the whole window of batches that make up the update.
    pub inverse_items: f32,
    /// Key of the generator behind dropout: different for each batch of a run.
    pub key: [u32; 2],
}

/// What an update gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// Global L2 norm of the gradients, before they are clipped.
    pub grad_norm: f32,
    /// Whether the update was left out because gradients overflowed under a loss scale (f16); weights are as before.
    pub skipped: bool,
}

/// What a call without learning gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Sum of the losses of the batch's items; `None` where the batch has no labels.
    pub loss_sum: Option<f32>,
    /// Outputs of the model by name (`logits`), rows as in the batch.
    pub outputs: Vec<(String, Tensor)>,
}

/// What a tensor of a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A weight that is learnt.
    Trainable,
    /// A weight that stays as it is.
    Frozen,
    /// State of the optimizer, the loss scale and all else that the next step depends on.
    Optimizer,
}

/// A tensor that a program keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name: of a weight that in the model's checkpoint, of a state one that begins with its weight's.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Shape.
    pub shape: Vec<usize>,
    /// What it is for.
    pub role: Role,
}

impl TensorSpec {
    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|&d| d as u64).product()
    }
}

/// Why a call of a program failed. The program's weights and states are as before the call, sums of gradients are gone.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// The machine's memory does not suffice.
    #[error("out of memory: {0}")]
    Memory(String),
    /// The batch does not fit the program.
    #[error("{0}")]
    Batch(String),
    /// There is no tensor of that name, or it is of another type or shape.
    #[error("{0}")]
    Tensor(String),
}

/// A program that learns. Calls come one at a time; each is a pure function of its arguments and the program's states,
/// bit for bit, on any number of threads.
pub trait TrainProgram {
    /// Forward, backward, clipping and optimizer at once: the sum of the losses of the batch's items, and the update.
    ///
    /// # Errors
    /// [`StepError`].
    fn train_step(&mut self, batch: &Batch, scalars: &StepScalars) -> Result<(f32, Update), StepError>;

    /// Forward and backward: adds the batch's gradients, times `inverse_items`, to those kept. Gives the sum of the
    /// losses of the batch's items.
    ///
    /// # Errors
    /// [`StepError`].
    fn accumulate(&mut self, batch: &Batch, scalars: &StepScalars) -> Result<f32, StepError>;

    /// Clipping and optimizer on the gradients kept, which are zero afterwards.
    ///
    /// # Errors
    /// [`StepError`].
    fn apply(&mut self, scalars: &StepScalars) -> Result<Update, StepError>;

    /// Forward alone, without dropout.
    ///
    /// # Errors
    /// [`StepError`].
    fn eval_step(&mut self, batch: &Batch) -> Result<Evaluation, StepError>;

    /// Weights and states as they were when the program was opened; no gradients are kept.
    ///
    /// # Errors
    /// [`StepError`].
    fn reset(&mut self) -> Result<(), StepError>;

    /// All that a checkpoint must hold, each once, always in the same order.
    fn tensors(&self) -> &[TensorSpec];

    /// The tensor of that name.
    ///
    /// # Errors
    /// [`StepError::Tensor`] for a name that [`TrainProgram::tensors`] does not list.
    fn read(&self, name: &str) -> Result<Tensor, StepError>;

    /// Puts a tensor in the place of the one of that name, which is not frozen.
    ///
    /// # Errors
    /// [`StepError::Tensor`] for a name that is not listed, a frozen one, and another type or shape.
    fn write(&mut self, name: &str, tensor: &Tensor) -> Result<(), StepError>;

    /// What the sum of a batch's losses is divided by: the number of labels that count, or the sum of their weights.
    ///
    /// By default that of `labels`: whole numbers but those that are ignored (of causal language models the first of each
    /// sequence must be), of numbers the rows, since the loss of a row is a mean; without `labels` the sequences. (TL-06)
    fn items(&self, batch: &Batch) -> f64 {
        match batch.get("labels") {
            Some(labels) if labels.dtype() == DType::I32 => {
                batch.i32s("labels").iter().filter(|&&label| label != IGNORE_INDEX).count() as f64
            }
            Some(labels) => labels.shape().first().copied().unwrap_or(1) as f64,
            None => sequences(batch) as f64,
        }
    }

    /// Elements of the embedding tables: they take no part in the count of floating-point operations.
    fn embedding_parameters(&self) -> u64 {
        0
    }
}

/// Sequences of a batch: by its offsets where it has them, else by the first axis of its first array.
pub(super) fn sequences(batch: &Batch) -> usize {
    match batch.get("offsets") {
        Some(offsets) => offsets.shape().iter().product::<usize>().saturating_sub(1),
        None => batch.iter().next().and_then(|(_, tensor)| tensor.shape().first().copied()).unwrap_or(0),
    }
}
