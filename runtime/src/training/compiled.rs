//! A compiled program that learns: its entry points `train_step`, `accumulate`, `apply` and `eval_step`. Knows batches and
//! the numbers of a step, nothing of data or schedules.

use bytemuck::bytes_of;
use lith_ir::DType;

use super::arguments::TrainingArguments;
use super::collate::Batch;
use super::file_form::{FileForm, FileTensor};
use super::program::{Evaluation, Role, StepError, StepScalars, TensorSpec, TrainProgram, Update};
use crate::manifest::{ArgEntry, ArgSize, Manifest, StateEntry};
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

impl Hyperparameters {
    /// Those that arguments tell the optimizer they name. (TA-10 to TA-12)
    pub fn of(args: &TrainingArguments) -> Hyperparameters {
        let option = |name: &str| {
            let found = args.optimizer_options().into_iter().find(|(n, _)| n == name);
            found.and_then(|(_, value)| value.parse::<f64>().ok())
        };
        let TrainingArguments { adam_beta1, adam_beta2, adam_epsilon, .. } = *args;
        let (beta1, beta2, epsilon) = match args.optim.as_str() {
            "sgd" => (option("momentum").unwrap_or(0.0), 0.0, adam_epsilon),
            "rmsprop" => (0.0, option("alpha").unwrap_or(0.99), adam_epsilon),
            "adagrad" => (adam_beta1, adam_beta2, option("eps").unwrap_or(1e-10)),
            _ => (adam_beta1, adam_beta2, adam_epsilon),
        };
        let TrainingArguments { weight_decay, max_grad_norm, .. } = *args;
        Hyperparameters { weight_decay, beta1, beta2, epsilon, max_grad_norm }
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
    tensors: Vec<TensorSpec>,
    /// How files have its weights.
    form: FileForm,
}

/// What a program keeps from update to update. Sums of gradients are nothing that outlives one.
fn tensors_of(manifest: &Manifest) -> Vec<TensorSpec> {
    let spec = |state: &StateEntry| {
        let role = if state.initial.is_some() { Role::Trainable } else { Role::Optimizer };
        TensorSpec { name: state.name.clone(), dtype: state.dtype, shape: state.shape.clone(), role }
    };
    manifest.states.iter().filter(|state| !state.name.ends_with("/gradient")).map(spec).collect()
}

/// The weights of a program that learns, by their names in it.
pub(super) fn weights_of(manifest: &Manifest) -> Vec<TensorSpec> {
    tensors_of(manifest).into_iter().filter(|spec| spec.role == Role::Trainable).collect()
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
        let tensors = tensors_of(program.manifest());
        Ok(CompiledTraining { program, hyperparameters, tensors, form: FileForm::default() })
    }

    /// Gives weights the form that files have them in, where it is not the program's.
    ///
    /// # Errors
    /// When that is no form of these weights.
    pub fn stored_as(self, tensors: &[FileTensor]) -> Result<CompiledTraining, StepError> {
        let (form, tensors) =
            FileForm::new(tensors, &tensors_of(self.program.manifest())).map_err(StepError::Tensor)?;
        Ok(CompiledTraining { form, tensors, ..self })
    }

    /// What a tensor that files have is.
    fn spec(&self, name: &str) -> Result<&TensorSpec, StepError> {
        let spec = self.tensors.iter().find(|spec| spec.name == name);
        spec.ok_or_else(|| StepError::Tensor(format!("the program has no tensor `{name}`")))
    }

    /// The weight or state of this name in the program.
    ///
    /// # Errors
    /// [`StepError::Tensor`] when there is none.
    pub fn state(&self, name: &str) -> Result<Tensor, StepError> {
        let wrong = |problem: String| StepError::Tensor(problem);
        let entry = self.program.manifest().states.iter().find(|state| state.name == name);
        let entry = entry.ok_or_else(|| wrong(format!("the program has no state `{name}`")))?;
        let bytes = self.program.read_state(name).map_err(|e| wrong(e.to_string()))?;
        let tensor = Tensor::from_bytes(entry.dtype, entry.shape.clone(), &bytes);
        tensor.ok_or_else(|| wrong(format!("`{name}` has {} bytes, which is not {:?}", bytes.len(), entry.shape)))
    }

    /// The program.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Zeros for an argument whose size follows from the batch; `None` where it does not.
    fn zeros_for(&self, arg: &ArgEntry, batch: &Batch) -> Option<Tensor> {
        let size = |size: &ArgSize| match size {
            ArgSize::Constant(n) => usize::try_from(*n).ok(),
            ArgSize::Symbol { symbol, offset } => {
                let length = |name: &str| batch.get(name).and_then(|t| t.shape().first().copied());
                let count = match self.program.manifest().symbols.get(*symbol)?.name.as_str() {
                    "tokens" => length("input_ids")?,
                    "sequences" => length("offsets")?.checked_sub(1)?,
                    _ => return None,
                };
                count.checked_add_signed(isize::try_from(*offset).ok()?)
            }
        };
        Tensor::zeros(arg.dtype, arg.shape.iter().map(size).collect::<Option<Vec<_>>>()?)
    }

    /// Calls an entry point with the arrays of a batch and the numbers of a step, as far as it takes them. Token types and,
    /// where nothing is learnt, labels that the batch lacks are zeros. Gives the results by name.
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
        let made = |arg: &ArgEntry| match batch.get(&arg.name) {
            None if MAY_LACK.contains(&arg.name.as_str()) => self.zeros_for(arg, batch),
            // The numbers of one output are a column.
            Some(tensor) if arg.shape.len() == 2 => match *tensor.shape() {
                [rows] => Tensor::from_bytes(tensor.dtype(), vec![rows, 1], tensor.bytes()),
                _ => None,
            },
            _ => None,
        };
        let made: Vec<(&str, Tensor)> =
            found.args.iter().filter_map(|arg| Some((arg.name.as_str(), made(arg)?))).collect();
        let mut args: Vec<(&str, View<'_>)> = Vec::with_capacity(found.args.len());
        for arg in &found.args {
            let name = arg.name.as_str();
            let view = match name {
                "items" => View { dtype: DType::F32, shape: &[], bytes: bytes_of(&at.items) },
                "dropout_key" => View { dtype: DType::U32, shape: &[2], bytes: bytes_of(&at.key) },
                _ => {
                    let given = || made.iter().find(|(n, _)| *n == name).map(|(_, t)| t).or_else(|| batch.get(name));
                    match (numbers.iter().find(|(n, _)| *n == name), given()) {
                        (Some((_, number)), _) => View { dtype: DType::F64, shape: &[], bytes: bytes_of(number) },
                        (None, Some(tensor)) => tensor.view(),
                        (None, None) => {
                            let problem = format!("the batch has no `{name}`");
                            return Err(CallError::Argument { entry: entry.into(), problem });
                        }
                    }
                }
            };
            args.push((name, view));
        }
        let results = self.program.run(entry, &args)?;
        Ok(found.results.iter().map(|r| r.name.clone()).zip(results).collect())
    }
}

/// Arguments that are zeros where a batch lacks them: types of tokens, and labels of what is only predicted.
const MAY_LACK: [&str; 4] = ["token_type_ids", "labels", "start_positions", "end_positions"];

fn failed(error: CallError) -> StepError {
    match error {
        CallError::Memory { .. } => StepError::Memory(error.to_string()),
        CallError::NoEntry { .. } | CallError::Argument { .. } => StepError::Batch(error.to_string()),
    }
}

impl From<&StepScalars> for Moment {
    fn from(at: &StepScalars) -> Moment {
        let items = 1.0 / at.inverse_items;
        Moment { learning_rate: at.learning_rate.into(), step: at.step, items, key: at.key }
    }
}

/// A scalar result.
fn scalar(results: &[(String, Tensor)], name: &str) -> f32 {
    results.iter().find(|(n, _)| n == name).and_then(|(_, t)| t.f32s().first().copied()).unwrap_or(f32::NAN)
}

impl TrainProgram for CompiledTraining {
    fn train_step(&mut self, batch: &Batch, scalars: &StepScalars) -> Result<(f32, Update), StepError> {
        let results = self.call("train_step", batch, &scalars.into()).map_err(failed)?;
        Ok((scalar(&results, "loss_sum"), Update { grad_norm: scalar(&results, "grad_norm"), skipped: false }))
    }

    // The program adds gradients of sums; what they are divided by it is told at the end.
    fn accumulate(&mut self, batch: &Batch, scalars: &StepScalars) -> Result<f32, StepError> {
        let results = self.call("accumulate", batch, &scalars.into()).map_err(failed)?;
        Ok(scalar(&results, "loss_sum"))
    }

    fn apply(&mut self, scalars: &StepScalars) -> Result<Update, StepError> {
        let results = self.call("apply", &Batch::default(), &scalars.into()).map_err(failed)?;
        Ok(Update { grad_norm: scalar(&results, "grad_norm"), skipped: false })
    }

    fn eval_step(&mut self, batch: &Batch) -> Result<Evaluation, StepError> {
        let at = Moment { learning_rate: 0.0, step: 1, items: 1.0, key: [0, 0] };
        let results = self.call("eval_step", batch, &at).map_err(failed)?;
        let labelled = ["labels", "start_positions"].iter().any(|name| batch.get(name).is_some());
        let loss_sum = labelled.then(|| scalar(&results, "loss_sum"));
        let outputs = results.into_iter().filter(|(name, _)| name != "loss_sum" && name != "items").collect();
        Ok(Evaluation { loss_sum, outputs })
    }

    fn reset(&mut self) -> Result<(), StepError> {
        self.program.reset_states().map_err(|e| StepError::Memory(e.to_string()))
    }

    fn tensors(&self) -> &[TensorSpec] {
        &self.tensors
    }

    fn read(&self, name: &str) -> Result<Tensor, StepError> {
        self.form.join(self.spec(name)?, |parameter| self.state(parameter), StepError::Tensor)
    }

    fn write(&mut self, name: &str, tensor: &Tensor) -> Result<(), StepError> {
        let spec = self.spec(name)?;
        if (spec.dtype, spec.shape.as_slice()) != (tensor.dtype(), tensor.shape()) {
            let (expected, found) = ((spec.dtype, &spec.shape), (tensor.dtype(), tensor.shape()));
            return Err(StepError::Tensor(format!("`{name}` is {expected:?}, found {found:?}")));
        }
        for (parameter, part) in self.form.split(name, tensor).map_err(StepError::Tensor)? {
            self.program.write_state(parameter, part.bytes()).map_err(|e| StepError::Tensor(e.to_string()))?;
        }
        Ok(())
    }

    fn embedding_parameters(&self) -> u64 {
        let table = |spec: &&TensorSpec| spec.role == Role::Trainable && spec.name.contains("embeddings.");
        self.tensors.iter().filter(table).filter(|spec| spec.shape.len() == 2).map(TensorSpec::elements).sum()
    }
}
