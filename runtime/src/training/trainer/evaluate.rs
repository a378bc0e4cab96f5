//! Evaluation and prediction: the program's outputs and loss over a set of examples, and the metrics of them.

use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;

use super::feed::{Fed, Feed};
use super::outputs::Gathered;
use super::{Trainer, TrainerError, rounded};
use crate::tensor::Tensor;
use crate::training::callbacks::Event;
use crate::training::collate::Batch;
use crate::training::data::Examples;
use crate::training::program::{StepError, sequences};
use crate::training::state::{Logs, figure};

/// All that a model says of a set of examples, in their order. (EC-02)
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Predictions {
    /// Outputs by name: `logits`, or `start_logits` and `end_logits`. Rows are sequences or, of models of tokens, the
    /// tokens of all sequences one after the other.
    pub outputs: Vec<(String, Tensor)>,
    /// Labels by name, rows as in the outputs.
    pub labels: Vec<(String, Tensor)>,
    /// Sequence `s` has the tokens `offsets[s]..offsets[s + 1]`; empty where batches have no offsets.
    pub offsets: Vec<usize>,
    /// Loss of each batch, where `include_for_metrics` asks for it.
    pub losses: Vec<f32>,
    /// Token ids, rows as tokens, where `include_for_metrics` asks for them.
    pub inputs: Option<Tensor>,
}

impl Predictions {
    /// The output of a name.
    pub fn output(&self, name: &str) -> Option<&Tensor> {
        self.outputs.iter().find(|(n, _)| n == name).map(|(_, tensor)| tensor)
    }

    /// The labels of a name.
    pub fn label(&self, name: &str) -> Option<&Tensor> {
        self.labels.iter().find(|(n, _)| n == name).map(|(_, tensor)| tensor)
    }
}

/// What a prediction gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// What the model says.
    pub predictions: Predictions,
    /// `test_loss`, where there are labels, metrics and speeds.
    pub metrics: Logs,
}

/// Labels as they are called where `label_names` says nothing.
const LABELS: [&str; 3] = ["labels", "start_positions", "end_positions"];

impl Trainer<'_> {
    /// Evaluates all sets and gives `eval_loss`, `eval_<metric>` and speeds; of several sets `eval_<set>_...`. (EC-01)
    ///
    /// # Errors
    /// [`TrainerError`].
    pub fn evaluate(&mut self) -> Result<Logs, TrainerError> {
        if self.eval.is_empty() {
            return Err(TrainerError::conflict("there is no evaluation data"));
        }
        let mut all = Logs::new();
        for (name, examples) in self.eval.clone() {
            let prefix = name.map_or("eval".to_string(), |name| format!("eval_{name}"));
            let keep = self.compute_metrics.is_some() && !self.args.prediction_loss_only;
            let (_, metrics) = self.predict_set(&examples, &prefix, keep)?;
            self.log(metrics.clone())?;
            self.tell(Event::Evaluate(&metrics))?;
            all.extend(metrics);
        }
        all.insert("epoch".into(), figure(self.state.epoch));
        Ok(all)
    }

    /// What the model says of examples, with metrics named `<prefix>_...` (upstream's prefix is `test`). (EC-01)
    ///
    /// # Errors
    /// [`TrainerError`].
    pub fn predict(&mut self, examples: &Arc<dyn Examples>, prefix: &str) -> Result<Prediction, TrainerError> {
        let keep = !self.args.prediction_loss_only;
        let (predictions, metrics) = self.predict_set(examples, prefix, keep)?;
        self.tell(Event::Predict(&metrics))?;
        Ok(Prediction { predictions, metrics })
    }

    /// Runs the program over a set; outputs are kept where `keep` says so.
    fn predict_set(
        &mut self,
        examples: &Arc<dyn Examples>,
        prefix: &str,
        keep: bool,
    ) -> Result<(Predictions, Logs), TrainerError> {
        let began = Instant::now();
        let (count, size) = (examples.len(), self.args.per_device_eval_batch_size);
        let collator = self.collator.clone();
        let mut feed = Feed::ordered(examples.clone(), (0..count).collect(), count, collator, size, 0, 0);
        let mut kept = Kept::default();
        let (mut loss, mut samples) = (0.0, 0.0);
        let steps = count.div_ceil(size) as u64;
        for step in 1.. {
            let Some(fed) = feed.next()? else { break };
            let evaluation = self.program.eval_step(&fed.batch).map_err(|error| failed(&fed, prefix, error))?;
            let items = self.program.items(&fed.batch);
            let mean = evaluation.loss_sum.filter(|_| items > 0.0).map(|sum| f64::from(sum) / items);
            // The mean over examples, each with the loss of its batch; no numbers are left out where others are. (EC-03)
            if let Some(mean) = mean.filter(|mean| mean.is_finite() || !self.args.logging_nan_inf_filter) {
                loss += mean * fed.numbers.len() as f64;
                samples += fed.numbers.len() as f64;
            } else if mean.is_some() {
                kept.not_finite = true;
            }
            if keep {
                let outputs = match &mut self.preprocess {
                    Some(preprocess) => preprocess(evaluation.outputs, &fed.batch),
                    None => evaluation.outputs,
                };
                kept.add(outputs, &fed.batch, mean, &self.args.include_for_metrics, self.args.label_names.as_deref());
            }
            self.tell(Event::PredictionStep { done: step, of: steps })?;
        }
        let not_finite = kept.not_finite;
        let predictions = kept.finish()?;
        let mut metrics = Logs::new();
        if samples > 0.0 {
            metrics.insert(format!("{prefix}_loss"), figure(loss / samples));
        } else if not_finite {
            metrics.insert(format!("{prefix}_loss"), Value::Null);
        }
        if let Some(compute) = self.compute_metrics.as_mut().filter(|_| keep && !predictions.labels.is_empty()) {
            for (name, value) in compute(&predictions).map_err(TrainerError::Metrics)? {
                let named = if name.starts_with(&format!("{prefix}_")) { name } else { format!("{prefix}_{name}") };
                metrics.insert(named, value);
            }
        }
        let seconds = began.elapsed().as_secs_f64().max(1e-9);
        metrics.insert(format!("{prefix}_runtime"), rounded(seconds, 4));
        metrics.insert(format!("{prefix}_samples_per_second"), rounded(count as f64 / seconds, 3));
        metrics.insert(format!("{prefix}_steps_per_second"), rounded(steps as f64 / seconds, 3));
        Ok((predictions, metrics))
    }
}

fn failed(fed: &Fed, prefix: &str, error: StepError) -> TrainerError {
    match error {
        StepError::Memory(problem) => fed.out_of_memory(problem, "per_device_eval_batch_size", ""),
        source => {
            TrainerError::Program { place: format!("{prefix}, examples {}", super::feed::listed(&fed.numbers)), source }
        }
    }
}

/// What is kept of batches for metrics.
#[derive(Default)]
struct Kept {
    outputs: Gathered,
    labels: Gathered,
    inputs: Gathered,
    offsets: Vec<usize>,
    losses: Vec<f32>,
    not_finite: bool,
}

impl Kept {
    fn add(
        &mut self,
        outputs: Vec<(String, Tensor)>,
        batch: &Batch,
        loss: Option<f64>,
        include: &[String],
        label_names: Option<&[String]>,
    ) {
        for (name, tensor) in outputs {
            self.outputs.push(&name, tensor);
        }
        let is_label = |name: &str| match label_names {
            Some(names) => names.iter().any(|label| label == name),
            None => LABELS.contains(&name),
        };
        for (name, tensor) in batch.iter().filter(|(name, _)| is_label(name)) {
            self.labels.push(name, tensor.clone());
        }
        let included = |what: &str| include.iter().any(|word| word == what);
        if included("loss") {
            self.losses.extend(loss.map(|loss| loss as f32));
        }
        if let Some(ids) = batch.get("input_ids").filter(|_| included("inputs")) {
            self.inputs.push("input_ids", ids.clone());
        }
        let offsets = batch.i32s("offsets");
        if offsets.len() == sequences(batch) + 1 && !offsets.is_empty() {
            if self.offsets.is_empty() {
                self.offsets.push(0);
            }
            for pair in offsets.windows(2) {
                let tokens = usize::try_from(i64::from(pair[1]) - i64::from(pair[0])).unwrap_or(0);
                self.offsets.push(self.offsets.last().copied().unwrap_or(0) + tokens);
            }
        }
    }

    fn finish(self) -> Result<Predictions, TrainerError> {
        Ok(Predictions {
            outputs: self.outputs.joined()?,
            labels: self.labels.joined()?,
            offsets: self.offsets,
            losses: self.losses,
            inputs: self.inputs.joined()?.pop().map(|(_, tensor)| tensor),
        })
    }
}
