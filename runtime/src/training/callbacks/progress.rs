//! Progress of a run as a few numbers, for whoever draws them. Must not know terminals.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Callback, CallbackError, Event, TrainerControl};
use crate::training::arguments::TrainingArguments;
use crate::training::state::TrainerState;

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Updates done.
    pub step: u64,
    /// Updates of the whole run.
    pub max_steps: u64,
    /// Epochs done, with the share of the one that runs.
    pub epoch: f64,
    /// Loss as it was last logged.
    pub loss: Option<f64>,
    /// Learning rate as it was last logged.
    pub learning_rate: Option<f64>,
    /// Since training began or was resumed.
    pub elapsed: Duration,
    /// What is left at the speed so far; `None` before the first update.
    pub remaining: Option<Duration>,
    /// Batches of the evaluation that runs: done, and all.
    pub evaluation: Option<(u64, u64)>,
}

/// Calls a function whenever progress has changed.
pub struct ProgressCallback<F> {
    show: F,
    start: Option<(Instant, u64)>,
    loss: Option<f64>,
    learning_rate: Option<f64>,
}

impl<F: FnMut(&Progress)> ProgressCallback<F> {
    /// Progress is told to this function.
    pub fn new(show: F) -> Self {
        ProgressCallback { show, start: None, loss: None, learning_rate: None }
    }

    fn tell(&mut self, state: &TrainerState, evaluation: Option<(u64, u64)>) {
        let (elapsed, first) = self.start.map_or((Duration::ZERO, 0), |(start, first)| (start.elapsed(), first));
        let done = state.global_step.saturating_sub(first);
        let left = state.max_steps.saturating_sub(state.global_step);
        let remaining = (done > 0).then(|| elapsed.as_secs_f64() / done as f64 * left as f64);
        (self.show)(&Progress {
            step: state.global_step,
            max_steps: state.max_steps,
            epoch: state.epoch,
            loss: self.loss,
            learning_rate: self.learning_rate,
            elapsed,
            remaining: remaining.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
            evaluation,
        });
    }
}

impl<F: FnMut(&Progress)> Callback for ProgressCallback<F> {
    fn name(&self) -> &'static str {
        "ProgressCallback"
    }

    fn on(
        &mut self,
        event: &Event<'_>,
        args: &TrainingArguments,
        state: &TrainerState,
        _: &mut TrainerControl,
    ) -> Result<(), CallbackError> {
        if args.disable_tqdm == Some(true) {
            return Ok(());
        }
        match event {
            Event::TrainBegin => {
                self.start = Some((Instant::now(), state.global_step));
                self.tell(state, None);
            }
            Event::Log(logs) => {
                self.loss = logs.get("loss").and_then(Value::as_f64).or(self.loss);
                self.learning_rate = logs.get("learning_rate").and_then(Value::as_f64).or(self.learning_rate);
            }
            Event::StepEnd | Event::Evaluate(_) | Event::Predict(_) | Event::TrainEnd => self.tell(state, None),
            Event::PredictionStep { done, of } => self.tell(state, Some((*done, *of))),
            _ => {}
        }
        Ok(())
    }
}
