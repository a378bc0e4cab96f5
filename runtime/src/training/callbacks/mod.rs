//! Callbacks: what is told of each event of training, in Transformers' order (TL-01), and may ask for more. Must not know
//! how training is done.

mod early_stopping;
mod flow;
mod log;
mod progress;
mod stop;
mod tensorboard;

use std::path::Path;

use serde_json::{Value, json};

use super::arguments::{ArgumentError, TrainingArguments};
use super::state::{Logs, TrainerState};

pub use early_stopping::EarlyStopping;
pub(super) use flow::DefaultFlow;
pub use log::JsonlLog;
pub use progress::{Progress, ProgressCallback};
pub use stop::StopWhen;
pub use tensorboard::TensorBoard;

/// What happens. The names are Transformers', with `on_` before them.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The trainer is made.
    InitEnd,
    /// Training begins; the state is that of the checkpoint where there is one.
    TrainBegin,
    /// An epoch begins, or goes on after a resumption.
    EpochBegin,
    /// An update begins.
    StepBegin,
    /// A batch of an update is done, and it was not the last.
    SubstepEnd,
    /// Gradients of all batches but perhaps the last are there; the optimizer is next.
    PreOptimizerStep,
    /// Weights are changed.
    OptimizerStep,
    /// An update is done and counted.
    StepEnd,
    /// An epoch is done, or left.
    EpochEnd,
    /// Figures are logged.
    Log(&'a Logs),
    /// A batch of an evaluation or a prediction is done.
    PredictionStep {
        /// Batches done.
        done: u64,
        /// All of them.
        of: u64,
    },
    /// An evaluation is done.
    Evaluate(&'a Logs),
    /// A prediction is done.
    Predict(&'a Logs),
    /// A checkpoint is saved here.
    Save(&'a Path),
    /// Training is done.
    TrainEnd,
}

impl Event<'_> {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Event::InitEnd => "init_end",
            Event::TrainBegin => "train_begin",
            Event::EpochBegin => "epoch_begin",
            Event::StepBegin => "step_begin",
            Event::SubstepEnd => "substep_end",
            Event::PreOptimizerStep => "pre_optimizer_step",
            Event::OptimizerStep => "optimizer_step",
            Event::StepEnd => "step_end",
            Event::EpochEnd => "epoch_end",
            Event::Log(_) => "log",
            Event::PredictionStep { .. } => "prediction_step",
            Event::Evaluate(_) => "evaluate",
            Event::Predict(_) => "predict",
            Event::Save(_) => "save",
            Event::TrainEnd => "train_end",
        }
    }
}

/// What callbacks ask for. (TI-10)
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TrainerControl {
    /// End training after this update.
    pub should_training_stop: bool,
    /// End the epoch after this update.
    pub should_epoch_stop: bool,
    /// Save a checkpoint after this update.
    pub should_save: bool,
    /// Evaluate after this update.
    pub should_evaluate: bool,
    /// Log after this update.
    pub should_log: bool,
}

impl TrainerControl {
    /// Its entry among the stateful callbacks of `trainer_state.json`.
    pub(super) fn state(self) -> Value {
        json!({
            "args": {
                "should_training_stop": self.should_training_stop,
                "should_epoch_stop": self.should_epoch_stop,
                "should_save": self.should_save,
                "should_evaluate": self.should_evaluate,
                "should_log": self.should_log,
            },
            "attributes": {},
        })
    }

    /// Takes back what an event answers. An event that begins something also clears what was asked about the last.
    fn settle(&mut self, event: &Event<'_>) {
        match event {
            Event::TrainBegin => self.should_training_stop = false,
            Event::EpochBegin => self.should_epoch_stop = false,
            Event::StepBegin => {
                (self.should_log, self.should_evaluate, self.should_save) = (false, false, false);
            }
            Event::Log(_) => self.should_log = false,
            Event::Evaluate(_) => self.should_evaluate = false,
            Event::Save(_) => self.should_save = false,
            _ => {}
        }
    }
}

/// Why a callback ends training.
#[derive(Debug, thiserror::Error)]
pub enum CallbackError {
    /// It does not fit the arguments of the run.
    #[error(transparent)]
    Argument(#[from] ArgumentError),
    /// It failed.
    #[error(transparent)]
    Other(#[from] Box<dyn std::error::Error + Send + Sync>),
}

/// Something that is told of events.
pub trait Callback {
    /// Its name: by it callbacks are removed, and find what they remember in a checkpoint.
    fn name(&self) -> &'static str;

    /// Is told of an event, and may ask for something. Callbacks are told in the order in which they were added.
    ///
    /// # Errors
    /// Whatever is to end training.
    fn on(
        &mut self,
        event: &Event<'_>,
        args: &TrainingArguments,
        state: &TrainerState,
        control: &mut TrainerControl,
    ) -> Result<(), CallbackError>;

    /// What it remembers, for checkpoints: `{args, attributes}`, how it was made and what has become of it.
    fn state(&self) -> Option<Value> {
        None
    }

    /// Takes back what [`Callback::state`] gave: `attributes`, and `args` where
    /// `restore_callback_states_from_checkpoint` says so.
    ///
    /// # Errors
    /// What is wrong with it.
    fn restore(&mut self, state: &Value, args: bool) -> Result<(), String> {
        let _ = (state, args);
        Ok(())
    }
}

/// All callbacks of a trainer, in order.
#[derive(Default)]
pub(super) struct Callbacks(Vec<Box<dyn Callback>>);

impl Callbacks {
    pub(super) fn add(&mut self, callback: Box<dyn Callback>) {
        self.0.push(callback);
    }

    pub(super) fn pop(&mut self, name: &str) -> Option<Box<dyn Callback>> {
        let at = self.0.iter().position(|callback| callback.name() == name)?;
        Some(self.0.remove(at))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|callback| callback.name())
    }

    pub(super) fn tell(
        &mut self,
        event: Event<'_>,
        args: &TrainingArguments,
        state: &TrainerState,
        control: &mut TrainerControl,
    ) -> Result<(), CallbackError> {
        control.settle(&event);
        self.0.iter_mut().try_for_each(|callback| callback.on(&event, args, state, control))
    }

    /// What callbacks remember, by name; several of one name make a list.
    pub(super) fn states(&self) -> serde_json::Map<String, Value> {
        let mut states = serde_json::Map::new();
        for (name, state) in self.0.iter().filter_map(|callback| Some((callback.name(), callback.state()?))) {
            match states.get_mut(name) {
                None => drop(states.insert(name.into(), state)),
                Some(Value::Array(list)) => list.push(state),
                Some(first) => *first = json!([first.take(), state]),
            }
        }
        states
    }

    /// Gives callbacks back what they remembered; those that a checkpoint does not know begin as they are.
    pub(super) fn restore(&mut self, states: &serde_json::Map<String, Value>, args: bool) -> Result<(), String> {
        let mut seen: Vec<&'static str> = Vec::new();
        for callback in &mut self.0 {
            let name = callback.name();
            let nth = seen.iter().filter(|other| **other == name).count();
            seen.push(name);
            let state = match states.get(name) {
                Some(Value::Array(list)) => list.get(nth),
                Some(state) if nth == 0 => Some(state),
                _ => None,
            };
            if let Some(state) = state {
                callback.restore(state, args).map_err(|problem| format!("callback {name}: {problem}"))?;
            }
        }
        Ok(())
    }
}
