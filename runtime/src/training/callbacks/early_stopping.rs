//! Stopping when evaluations no longer improve. (EC-10)

use serde_json::{Value, json};

use super::{Callback, CallbackError, Event, TrainerControl};
use crate::training::arguments::{ArgumentError, IntervalStrategy, TrainingArguments};
use crate::training::state::{TrainerState, metric_key};

/// Ends training after so many evaluations in a row that were not better than the best by more than a threshold.
#[derive(Debug, Clone, PartialEq)]
pub struct EarlyStopping {
    patience: u64,
    threshold: f64,
    bad: u64,
}

impl EarlyStopping {
    /// Transformers' defaults are 1 and 0.
    pub fn new(patience: u64, threshold: f64) -> Self {
        EarlyStopping { patience, threshold, bad: 0 }
    }
}

impl Callback for EarlyStopping {
    fn name(&self) -> &'static str {
        "EarlyStoppingCallback"
    }

    fn on(
        &mut self,
        event: &Event<'_>,
        args: &TrainingArguments,
        state: &TrainerState,
        control: &mut TrainerControl,
    ) -> Result<(), CallbackError> {
        let needs = |what: &str| Err(ArgumentError::Conflict(format!("early stopping needs {what}")).into());
        match event {
            Event::TrainBegin => {
                if args.metric_for_best_model.is_none() {
                    return needs("metric_for_best_model");
                }
                if args.eval_strategy == IntervalStrategy::No {
                    return needs("evaluations: set eval_strategy to steps or epoch");
                }
                if !args.load_best_model_at_end {
                    tracing::warn!(
                        "early stopping without load_best_model_at_end: the last weights stay, not the best"
                    );
                }
            }
            Event::Evaluate(metrics) => {
                let Some(metric) = &args.metric_for_best_model else { return Ok(()) };
                let key = metric_key(metric);
                let Some(value) = metrics.get(&key).and_then(Value::as_f64) else {
                    tracing::warn!("early stopping finds no {key} among the metrics");
                    return Ok(());
                };
                // The best so far is that before this evaluation.
                let better = state.best_metric.is_none_or(|best| {
                    let gain = if args.greater_is_better == Some(true) { value - best } else { best - value };
                    gain > 0.0 && gain > self.threshold
                });
                self.bad = if better { 0 } else { self.bad + 1 };
                control.should_training_stop |= self.bad >= self.patience;
            }
            _ => {}
        }
        Ok(())
    }

    fn state(&self) -> Option<Value> {
        Some(json!({
            "args": {"early_stopping_patience": self.patience, "early_stopping_threshold": self.threshold},
            "attributes": {"early_stopping_patience_counter": self.bad},
        }))
    }

    fn restore(&mut self, state: &Value, args: bool) -> Result<(), String> {
        let counter = state["attributes"]["early_stopping_patience_counter"].as_u64();
        self.bad = counter.ok_or("no early_stopping_patience_counter")?;
        if args {
            let given = &state["args"];
            self.patience = given["early_stopping_patience"].as_u64().ok_or("no early_stopping_patience")?;
            self.threshold = given["early_stopping_threshold"].as_f64().ok_or("no early_stopping_threshold")?;
        }
        Ok(())
    }
}
