//! `trainer_state.json`: where a run is and what it logged, in the form that Transformers writes and reads (EC-13). Must
//! not know how training is done.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

use super::arguments::TrainingArguments;

/// Named figures: a line of the log, the metrics of an evaluation.
pub type Logs = Map<String, Value>;

/// A figure as JSON; what is no number becomes null.
pub fn figure(value: f64) -> Value {
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

/// Where a run is. Fields and their order are Transformers'.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainerState {
    /// The update after which the best metric was found.
    pub best_global_step: Option<u64>,
    /// The best value of the metric that chooses models.
    pub best_metric: Option<f64>,
    /// The checkpoint of that update.
    pub best_model_checkpoint: Option<String>,
    /// Epochs done, with the share of the one that runs.
    pub epoch: f64,
    /// Updates between evaluations.
    #[serde(serialize_with = "count")]
    pub eval_steps: f64,
    /// Updates done.
    pub global_step: u64,
    /// Whether this run is one of a search.
    pub is_hyper_param_search: bool,
    /// Whether this is the first process of its machine.
    pub is_local_process_zero: bool,
    /// Whether this is the first process of all.
    pub is_world_process_zero: bool,
    /// All that was logged, each with its `step`.
    pub log_history: Vec<Logs>,
    /// Updates between logs.
    #[serde(serialize_with = "count")]
    pub logging_steps: f64,
    /// Updates of the whole run.
    pub max_steps: u64,
    /// Input tokens that training has seen, where they are counted.
    pub num_input_tokens_seen: u64,
    /// Epochs of the whole run, the last perhaps not to its end.
    pub num_train_epochs: u64,
    /// Updates between checkpoints.
    #[serde(serialize_with = "count")]
    pub save_steps: f64,
    /// What callbacks, and the loop itself, remember: `{name: {args, attributes}}`.
    pub stateful_callbacks: Map<String, Value>,
    /// Floating-point operations so far: 6 for each token and parameter outside embeddings.
    pub total_flos: f64,
    /// Examples of a batch.
    pub train_batch_size: Option<u64>,
    /// Name of the run in a search.
    pub trial_name: Option<String>,
    /// Its parameters.
    pub trial_params: Option<Map<String, Value>>,
}

impl Default for TrainerState {
    fn default() -> Self {
        TrainerState {
            best_global_step: None,
            best_metric: None,
            best_model_checkpoint: None,
            epoch: 0.0,
            eval_steps: 500.0,
            global_step: 0,
            is_hyper_param_search: false,
            is_local_process_zero: true,
            is_world_process_zero: true,
            log_history: Vec::new(),
            logging_steps: 500.0,
            max_steps: 0,
            num_input_tokens_seen: 0,
            num_train_epochs: 0,
            save_steps: 500.0,
            stateful_callbacks: Map::new(),
            total_flos: 0.0,
            train_batch_size: None,
            trial_name: None,
            trial_params: None,
        }
    }
}

impl TrainerState {
    /// The state of a run of `max_steps` updates that has not begun.
    pub fn new(args: &TrainingArguments, max_steps: u64, epochs: u64, batch_size: usize) -> Self {
        TrainerState {
            eval_steps: args.eval_steps.map_or(500.0, |steps| steps.of(max_steps) as f64),
            logging_steps: args.logging_steps.of(max_steps) as f64,
            save_steps: args.save_steps.of(max_steps) as f64,
            max_steps,
            num_train_epochs: epochs,
            train_batch_size: Some(batch_size as u64),
            ..TrainerState::default()
        }
    }

    /// The text of `trainer_state.json`: keys in alphabetical order, two blanks of indentation.
    pub fn to_text(&self) -> String {
        // A struct of numbers, texts and maps with text keys is always JSON.
        let value = serde_json::to_value(self).unwrap_or_default();
        pretty(&value, 2)
    }

    /// Reads the text of `trainer_state.json`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_text(text: &str) -> Result<Self, String> {
        let mut value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let map = value.as_object_mut().filter(|map| map.contains_key("global_step"));
        // Null is the default of every field that may be null.
        map.ok_or("it is no object with a global_step")?.retain(|_, value| !value.is_null());
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    /// Adds a line to the log, with the step.
    pub(super) fn log(&mut self, logs: &Logs) {
        let mut line = logs.clone();
        line.insert("step".into(), self.global_step.into());
        self.log_history.push(line);
    }
}

/// The name under which evaluations report a metric: with `eval_` before it where that is not there. (EC-01)
pub(super) fn metric_key(metric: &str) -> String {
    if metric.starts_with("eval_") { metric.to_string() } else { format!("eval_{metric}") }
}

/// Counts that others write as floats are whole numbers here.
fn count<S: serde::Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if value.fract() == 0.0 { serializer.serialize_i64(*value as i64) } else { serializer.serialize_f64(*value) }
}

/// JSON with sorted keys and an indentation, ending in a new line.
pub(super) fn pretty(value: &Value, indent: usize) -> String {
    let mut out = Vec::new();
    let blanks = vec![b' '; indent];
    let formatter = serde_json::ser::PrettyFormatter::with_indent(&blanks);
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    // Writing to memory cannot fail, and a value is always JSON.
    let written = sorted(value).serialize(&mut serializer);
    debug_assert!(written.is_ok());
    out.push(b'\n');
    String::from_utf8(out).unwrap_or_default()
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let map: BTreeMap<&String, Value> = map.iter().map(|(key, value)| (key, sorted(value))).collect();
            Value::Object(map.into_iter().map(|(key, value)| (key.clone(), value)).collect())
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// EC-13: the keys, their order and form; what was written is read back; a file of Transformers is read.
    #[test]
    fn ec_13_trainer_state() {
        let mut state = TrainerState::new(&TrainingArguments::default(), 12, 3, 8);
        state.global_step = 4;
        state.epoch = 4.0 / 3.0;
        state.log(json!({"loss": 0.1 + 0.2, "epoch": 1.5}).as_object().unwrap());
        let text = state.to_text();
        let keys: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("  \"")?.split('"').next()).collect();
        assert_eq!(
            keys,
            [
                "best_global_step",
                "best_metric",
                "best_model_checkpoint",
                "epoch",
                "eval_steps",
                "global_step",
                "is_hyper_param_search",
                "is_local_process_zero",
                "is_world_process_zero",
                "log_history",
                "logging_steps",
                "max_steps",
                "num_input_tokens_seen",
                "num_train_epochs",
                "save_steps",
                "stateful_callbacks",
                "total_flos",
                "train_batch_size",
                "trial_name",
                "trial_params",
            ]
        );
        assert!(
            text.contains("    {\n      \"epoch\": 1.5,\n      \"loss\": 0.30000000000000004,\n      \"step\": 4\n")
        );
        assert!(text.contains("\n  \"eval_steps\": 500,\n"), "{text}");
        assert_eq!(TrainerState::from_text(&text), Ok(state));

        let upstream = r#"{"best_global_step": null, "best_metric": 0.5, "best_model_checkpoint": "out/checkpoint-2",
            "epoch": 1.0, "eval_steps": 500, "global_step": 2, "is_hyper_param_search": false,
            "is_local_process_zero": true, "is_world_process_zero": true, "log_history": [{"loss": 1, "step": 2}],
            "logging_steps": 1, "max_steps": 6, "num_input_tokens_seen": 0, "num_train_epochs": 3, "save_steps": 500,
            "stateful_callbacks": {"TrainerControl": {"args": {"should_save": true}, "attributes": {}}},
            "total_flos": 25321.5, "train_batch_size": 8, "trial_name": null, "trial_params": null}"#;
        let read = TrainerState::from_text(upstream).unwrap();
        assert_eq!((read.global_step, read.max_steps, read.best_metric), (2, 6, Some(0.5)));
        assert!(TrainerState::from_text("{\"global_step\": \"two\"}").is_err());
        assert!(TrainerState::from_text("[]").is_err());
    }
}
