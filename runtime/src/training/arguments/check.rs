//! What arguments must be, alone and beside each other (TI-02), and what follows from those given.

use serde_json::{Map, Value};

use super::error::ArgumentError;
use super::table::{ARGUMENTS, Effect, TrainingArguments};
use super::value::{IntervalStrategy, SaveStrategy, Steps};
use crate::training::schedule::{SCHEDULES, Schedule};

/// The optimizers there are, by Transformers' names. (OP-01 to OP-07)
pub const OPTIMIZERS: &[&str] = &[
    "adamw_torch",
    "adamw_torch_fused",
    "adamw_torch_8bit",
    "adamw_bnb_8bit",
    "adamw_8bit",
    "paged_adamw_32bit",
    "paged_adamw_8bit",
    "adafactor",
    "sgd",
    "adagrad",
    "rmsprop",
    "rmsprop_bnb",
    "rmsprop_bnb_32bit",
    "lion_32bit",
    "paged_lion_32bit",
];

impl TrainingArguments {
    /// The arguments with what follows from them: `eval_steps` from `logging_steps`, `metric_for_best_model` and
    /// `greater_is_better`. Messages tell of arguments without effect.
    ///
    /// # Errors
    /// Values that cannot be, and those that contradict each other. (TI-02)
    pub fn checked(mut self) -> Result<(Self, Vec<String>), ArgumentError> {
        let mut notes = Vec::new();
        let defaults = TrainingArguments::default();
        for spec in ARGUMENTS {
            if (spec.get)(&self) == (spec.get)(&defaults) {
                continue;
            }
            match spec.effect {
                Effect::Full => {}
                Effect::None => notes.push(format!("training argument {} has no effect here", spec.name)),
                Effect::Unsupported => {
                    return Err(ArgumentError::value(spec.name, "is not supported; leave it at its default"));
                }
            }
        }
        self.ranges()?;
        self.derive();
        self.conflicts()?;
        // A schedule is made once more when the number of updates is known; its name and options are checked now.
        let none = Map::new();
        let options = self.lr_scheduler_kwargs.as_ref().unwrap_or(&none);
        Schedule::new(&self.lr_scheduler_type, options, self.learning_rate, 0, 1)?;
        Ok((self, notes))
    }

    fn ranges(&self) -> Result<(), ArgumentError> {
        let wrong = |name: &str, problem: &str| Err(ArgumentError::value(name, problem));
        let at_least_one = [
            ("per_device_train_batch_size", self.per_device_train_batch_size),
            ("per_device_eval_batch_size", self.per_device_eval_batch_size),
            ("gradient_accumulation_steps", self.gradient_accumulation_steps),
        ];
        if let Some((name, _)) = at_least_one.iter().find(|(_, value)| *value == 0) {
            return wrong(name, "must be at least 1");
        }
        let not_negative = [
            ("learning_rate", self.learning_rate),
            ("weight_decay", self.weight_decay),
            ("adam_epsilon", self.adam_epsilon),
            ("max_grad_norm", self.max_grad_norm),
            ("eval_delay", self.eval_delay),
            ("num_train_epochs", self.num_train_epochs),
        ];
        if let Some((name, value)) = not_negative.iter().find(|(_, value)| *value < 0.0) {
            return wrong(name, &format!("must be at least 0, found {value}"));
        }
        for (name, beta) in [("adam_beta1", self.adam_beta1), ("adam_beta2", self.adam_beta2)] {
            if !(0.0..1.0).contains(&beta) {
                return wrong(name, &format!("must be at least 0 and below 1, found {beta}"));
            }
        }
        if !(0.0..1.0).contains(&self.label_smoothing_factor) {
            return wrong("label_smoothing_factor", "must be at least 0 and below 1");
        }
        if self.max_steps <= 0 && self.num_train_epochs == 0.0 {
            return wrong("num_train_epochs", "must be above 0 where max_steps is not given");
        }
        if !OPTIMIZERS.contains(&self.optim.as_str()) {
            let hardware = self.optim.ends_with("_xla") || self.optim.contains("npu");
            let problem = match hardware {
                true => "needs hardware that is not supported",
                false => "is no optimizer known here",
            };
            return wrong("optim", &format!("{:?} {problem}; optimizers: {}", self.optim, OPTIMIZERS.join(", ")));
        }
        if let Some(pair) = self.optim_args.iter().flat_map(|args| args.split(',')).find(|pair| !pair.contains('=')) {
            return wrong("optim_args", &format!("expected key=value, found {pair:?}"));
        }
        if !SCHEDULES.contains(&self.lr_scheduler_type.as_str()) {
            let problem = format!("there is no {:?}; schedules: {}", self.lr_scheduler_type, SCHEDULES.join(", "));
            return wrong("lr_scheduler_type", &problem);
        }
        if self.logging_strategy == IntervalStrategy::Steps && self.logging_steps.0 == 0.0 {
            return wrong("logging_steps", "must be above 0 where logging_strategy is steps");
        }
        const FOR_METRICS: [&str; 2] = ["inputs", "loss"];
        if let Some(word) = self.include_for_metrics.iter().find(|word| !FOR_METRICS.contains(&word.as_str())) {
            return wrong("include_for_metrics", &format!("expected inputs or loss, found {word:?}"));
        }
        Ok(())
    }

    fn derive(&mut self) {
        let evaluates = self.eval_strategy == IntervalStrategy::Steps;
        if evaluates && self.eval_steps.is_none_or(|steps| steps.0 == 0.0) {
            self.eval_steps = Some(self.logging_steps);
        }
        let steered = ["reduce_lr_on_plateau", "greedy"].contains(&self.lr_scheduler_type.as_str());
        if (self.load_best_model_at_end || steered) && self.metric_for_best_model.is_none() {
            self.metric_for_best_model = Some("loss".into());
        }
        if let (None, Some(metric)) = (self.greater_is_better, &self.metric_for_best_model) {
            self.greater_is_better = Some(!metric.ends_with("loss"));
        }
    }

    fn conflicts(&self) -> Result<(), ArgumentError> {
        let conflict = |text: String| Err(ArgumentError::Conflict(text));
        if self.fp16 && self.bf16 || self.fp16_full_eval && self.bf16_full_eval {
            return conflict("fp16 and bf16 exclude each other: choose one".into());
        }
        if self.dataloader_prefetch_factor.is_some() && self.dataloader_num_workers == 0 {
            return conflict("dataloader_prefetch_factor needs dataloader_num_workers above 0".into());
        }
        let evaluates = self.eval_strategy != IntervalStrategy::No;
        if ["reduce_lr_on_plateau", "greedy"].contains(&self.lr_scheduler_type.as_str()) && !evaluates {
            return conflict(format!(
                "lr_scheduler_type {} follows a metric: set eval_strategy to steps or epoch",
                self.lr_scheduler_type
            ));
        }
        if self.save_strategy == SaveStrategy::Best && self.metric_for_best_model.is_none() {
            return conflict("save_strategy best needs metric_for_best_model".into());
        }
        if self.save_strategy == SaveStrategy::Best && !evaluates {
            return conflict("save_strategy best needs evaluations: set eval_strategy to steps or epoch".into());
        }
        if self.load_best_model_at_end && self.save_strategy != SaveStrategy::Best {
            if self.eval_strategy.word() != self.save_strategy.word() {
                return conflict(format!(
                    "load_best_model_at_end needs eval_strategy ({}) and save_strategy ({}) to be equal",
                    self.eval_strategy.word(),
                    self.save_strategy.word()
                ));
            }
            if !evaluates {
                return conflict(
                    "load_best_model_at_end needs evaluations: set eval_strategy and save_strategy".into(),
                );
            }
            let (save, eval) = (self.save_steps, self.eval_steps.unwrap_or(self.logging_steps));
            if self.eval_strategy == IntervalStrategy::Steps && !multiple(save, eval) {
                return conflict(format!(
                    "load_best_model_at_end needs save_steps ({}) to be a multiple of eval_steps ({})",
                    save.0, eval.0
                ));
            }
        }
        Ok(())
    }

    /// The options of the optimizer.
    pub fn optimizer_options(&self) -> Vec<(String, String)> {
        let pairs = self.optim_args.iter().flat_map(|args| args.split(',')).filter_map(|pair| pair.split_once('='));
        pairs.map(|(key, value)| (key.trim().to_string(), value.trim().to_string())).collect()
    }

    /// The options of the schedule.
    pub fn schedule_options(&self) -> Map<String, Value> {
        self.lr_scheduler_kwargs.clone().unwrap_or_default()
    }
}

/// Whether each save falls on an evaluation. A share of all updates and a number of them are never known to.
fn multiple(save: Steps, eval: Steps) -> bool {
    // Shares are compared as whole millionths, which floats are not precise enough for.
    let scale = match (save.0 < 1.0, eval.0 < 1.0) {
        (false, false) => 1.0,
        (true, true) => 1e6,
        _ => return false,
    };
    let (save, eval) = ((save.0 * scale).round() as u64, (eval.0 * scale).round() as u64);
    eval > 0 && save % eval == 0
}
