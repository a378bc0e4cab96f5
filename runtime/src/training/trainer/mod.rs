//! The trainer: epochs, updates, evaluations, logs and checkpoints around a program that learns. Events, names and
//! figures are those of Transformers' Trainer. Must not know how a program computes, or where data comes from.

mod error;
mod evaluate;
mod feed;
mod outputs;
mod plan;
mod progress;
mod results;
mod run;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use error::TrainerError;
pub use evaluate::{Prediction, Predictions};
pub use feed::{ExampleStream, TrainData};
pub use results::format_metrics;
pub use run::{Resume, TrainOutput};

use super::arguments::{CountTokens, IntervalStrategy, TrainingArguments};
use super::callbacks::{Callback, Callbacks, DefaultFlow, Event, TrainerControl};
use super::checkpoint::{CheckpointFolder, Disk, ModelFiles, RealDisk, TRAINER_STATE, TRAINING_ARGS, save_model};
use super::collate::{Batch, Collator};
use super::data::Examples;
use super::program::{Role, TrainProgram};
use super::state::{Logs, TrainerState, figure, metric_key};
use crate::tensor::Tensor;

/// Computes metrics from all predictions of an evaluation; an error is a message. (EC-02)
pub type ComputeMetrics<'a> = Box<dyn FnMut(&Predictions) -> Result<Logs, String> + 'a>;

/// Makes of a batch's outputs what is kept for metrics, the likeliest classes say. (EC-04)
pub type PreprocessLogits<'a> = Box<dyn FnMut(Vec<(String, Tensor)>, &Batch) -> Vec<(String, Tensor)> + 'a>;

/// What a trainer is made of. (TI-01)
pub struct TrainerParts<'a> {
    /// The program that learns.
    pub program: &'a mut dyn TrainProgram,
    /// The arguments of the run.
    pub args: TrainingArguments,
    /// What is learnt from; needed by [`Trainer::train`] alone.
    pub train: Option<TrainData>,
    /// What is evaluated: one set without a name, or several with names. (EC-01)
    pub eval: Vec<(Option<String>, Arc<dyn Examples>)>,
    /// Makes batches.
    pub collator: Arc<dyn Collator>,
    /// Metrics beside the loss.
    pub compute_metrics: Option<ComputeMetrics<'a>>,
    /// What of the outputs is kept for them; all without it.
    pub preprocess_logits_for_metrics: Option<PreprocessLogits<'a>>,
    /// Callbacks, told after the one that follows the arguments' strategies.
    pub callbacks: Vec<Box<dyn Callback>>,
    /// How the model is saved.
    pub files: ModelFiles,
}

impl<'a> TrainerParts<'a> {
    /// The parts that there must be; all else is empty.
    pub fn new(program: &'a mut dyn TrainProgram, args: TrainingArguments, collator: Arc<dyn Collator>) -> Self {
        TrainerParts {
            program,
            args,
            train: None,
            eval: Vec::new(),
            collator,
            compute_metrics: None,
            preprocess_logits_for_metrics: None,
            callbacks: Vec::new(),
            files: ModelFiles::default(),
        }
    }
}

/// Trains, evaluates, predicts and saves.
pub struct Trainer<'a> {
    program: &'a mut dyn TrainProgram,
    args: TrainingArguments,
    train: Option<TrainData>,
    eval: Vec<(Option<String>, Arc<dyn Examples>)>,
    collator: Arc<dyn Collator>,
    compute_metrics: Option<ComputeMetrics<'a>>,
    preprocess: Option<PreprocessLogits<'a>>,
    callbacks: Callbacks,
    control: TrainerControl,
    state: TrainerState,
    files: ModelFiles,
    folder: CheckpointFolder,
    disk: Box<dyn Disk>,
    /// Checkpoints that the run that goes on has saved.
    saved: Vec<u64>,
}

impl<'a> Trainer<'a> {
    /// A trainer, after all that can be wrong before training was looked for. (TI-02)
    ///
    /// # Errors
    /// Arguments that contradict each other or the other parts.
    pub fn new(parts: TrainerParts<'a>) -> Result<Self, TrainerError> {
        Trainer::on_disk(parts, Box::new(RealDisk))
    }

    fn on_disk(parts: TrainerParts<'a>, disk: Box<dyn Disk>) -> Result<Self, TrainerError> {
        let (args, notes) = parts.args.checked()?;
        for note in notes {
            tracing::warn!("{note}");
        }
        if args.eval_strategy != IntervalStrategy::No && parts.eval.is_empty() {
            let strategy = args.eval_strategy.word();
            return Err(TrainerError::conflict(format!(
                "eval_strategy is {strategy}, but there is no evaluation data"
            )));
        }
        if let Some((name, _)) = parts.eval.iter().find(|(_, examples)| examples.is_empty()) {
            let name = name.as_deref().map_or(String::new(), |name| format!(" of {name}"));
            return Err(TrainerError::conflict(format!("the evaluation data{name} has no examples")));
        }
        if parts.eval.len() > 1 && parts.eval.iter().any(|(name, _)| name.is_none()) {
            return Err(TrainerError::conflict("several evaluation sets need a name each"));
        }
        if matches!(parts.train, Some(TrainData::Stream(_))) && args.max_steps <= 0 {
            return Err(TrainerError::conflict("streams have no length: max_steps must be above 0"));
        }
        if parts.train.is_some() && !parts.program.tensors().iter().any(|spec| spec.role == Role::Trainable) {
            return Err(TrainerError::conflict(
                "nothing of the program learns: quantized and frozen weights need adapters",
            ));
        }
        let reserved = [TRAINER_STATE, TRAINING_ARGS];
        let plain = |name: &str| !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\']);
        if let Some((name, _)) =
            parts.files.companions.iter().find(|(name, _)| !plain(name) || reserved.contains(&name.as_str()))
        {
            return Err(TrainerError::conflict(format!("{name:?} cannot be a file beside the weights")));
        }
        let mut callbacks = Callbacks::default();
        callbacks.add(Box::new(DefaultFlow));
        for callback in parts.callbacks {
            callbacks.add(callback);
        }
        let mut trainer = Trainer {
            program: parts.program,
            folder: CheckpointFolder::new(&args.output_dir),
            state: TrainerState::default(),
            control: TrainerControl::default(),
            train: parts.train,
            eval: parts.eval,
            collator: parts.collator,
            compute_metrics: parts.compute_metrics,
            preprocess: parts.preprocess_logits_for_metrics,
            callbacks,
            files: parts.files,
            disk,
            saved: Vec::new(),
            args,
        };
        trainer.tell(Event::InitEnd)?;
        Ok(trainer)
    }

    fn tell(&mut self, event: Event<'_>) -> Result<(), TrainerError> {
        Ok(self.callbacks.tell(event, &self.args, &self.state, &mut self.control)?)
    }

    /// Adds figures to the log, with the epoch, and tells callbacks. (TL-05)
    fn log(&mut self, mut logs: Logs) -> Result<(), TrainerError> {
        logs.insert("epoch".into(), figure(self.state.epoch));
        if self.args.include_num_input_tokens_seen != CountTokens::No {
            logs.insert("num_input_tokens_seen".into(), self.state.num_input_tokens_seen.into());
        }
        self.state.log(&logs);
        self.tell(Event::Log(&logs))
    }

    /// The arguments, with what follows from those given.
    pub fn args(&self) -> &TrainingArguments {
        &self.args
    }

    /// Where training is.
    pub fn state(&self) -> &TrainerState {
        &self.state
    }

    /// The checkpoints of `output_dir`.
    pub fn checkpoints(&self) -> &CheckpointFolder {
        &self.folder
    }

    /// The program.
    pub fn program(&mut self) -> &mut dyn TrainProgram {
        self.program
    }

    /// Adds a callback. (TI-10)
    pub fn add_callback(&mut self, callback: Box<dyn Callback>) {
        self.callbacks.add(callback);
    }

    /// Takes the first callback of this name out.
    pub fn pop_callback(&mut self, name: &str) -> Option<Box<dyn Callback>> {
        self.callbacks.pop(name)
    }

    /// Names of the callbacks, in order.
    pub fn callbacks(&self) -> impl Iterator<Item = &'static str> {
        self.callbacks.names()
    }

    /// Elements of all weights, and of those that learn. (TI-11)
    pub fn parameters(&self) -> (u64, u64) {
        let count = |learns: bool| {
            let weights = self.program.tensors().iter().filter(|spec| spec.role != Role::Optimizer);
            weights.filter(|spec| !learns || spec.role == Role::Trainable).map(|spec| spec.elements()).sum()
        };
        (count(false), count(true))
    }

    /// Saves weights, the model's other files and the arguments, into `output_dir` or another folder. (EX-03)
    ///
    /// # Errors
    /// When something cannot be written.
    pub fn save_model(&self, folder: Option<&Path>) -> Result<(), TrainerError> {
        let folder = folder.unwrap_or(self.folder.path());
        let args = self.args.to_json();
        save_model(&*self.disk, folder, self.program, &self.files, &args)?;
        Ok(())
    }

    fn output(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// The learning rate's metric, or that which chooses models, in the metrics of an evaluation. (EC-09)
fn metric_of(args: &TrainingArguments, metrics: &Logs) -> Result<Option<f64>, TrainerError> {
    let Some(metric) = &args.metric_for_best_model else { return Ok(None) };
    let name = metric_key(metric);
    match metrics.get(&name) {
        // What is no number was written as null.
        Some(value) => Ok(Some(value.as_f64().unwrap_or(f64::NAN))),
        None => {
            let known: Vec<&str> = metrics.keys().map(String::as_str).collect();
            Err(TrainerError::Metric { name, known: known.join(", ") })
        }
    }
}

/// A figure of so many digits after the point, for speeds and times.
fn rounded(value: f64, digits: i32) -> serde_json::Value {
    let scale = 10f64.powi(digits);
    figure((value * scale).round() / scale)
}
