//! What the loop itself must remember so that a resumed run goes on as if it had never stopped (EC-22). It lies among the
//! stateful callbacks of `trainer_state.json`, where Transformers' trainer passes it by.

use serde_json::{Map, Value, json};

use super::plan::Plan;
use crate::training::arguments::TrainingArguments;
use crate::training::state::figure;

/// Its name there.
pub(super) const NAME: &str = "LithTrainer";

/// What the loop remembers.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Progress {
    /// The epoch that the next update belongs to.
    pub(super) epoch: u64,
    /// Examples of it that are done.
    pub(super) examples: u64,
    /// Whether the epoch has begun and callbacks were not yet told of its end.
    pub(super) open: bool,
    /// Updates that were left out since gradients overflowed.
    pub(super) skipped: u64,
    /// Sum of the losses of all updates that are logged.
    pub(super) logged_loss: f64,
    /// Sum of those that are not yet.
    pub(super) open_loss: f64,
    /// Updates done at the last log.
    pub(super) logged_step: u64,
    /// Norm of the gradients and learning rate of the last update.
    pub(super) last: Option<(f64, f64)>,
}

impl Progress {
    /// Its entry, with what the run was made of.
    pub(super) fn state(&self, args: &TrainingArguments, plan: &Plan, schedule: Option<Value>) -> Value {
        json!({
            "args": made_of(args, plan),
            "attributes": {
                "epoch": self.epoch,
                "examples": self.examples,
                "open": self.open,
                "skipped_steps": self.skipped,
                "logged_loss": figure(self.logged_loss),
                "open_loss": figure(self.open_loss),
                "logged_step": self.logged_step,
                "last": self.last.map(|(norm, rate)| [figure(norm), figure(rate)]),
                "schedule": schedule,
            },
        })
    }

    /// Reads what [`Progress::state`] gave, with the schedule's state.
    pub(super) fn restore(entry: &Value) -> Result<(Progress, Value), String> {
        let attributes = &entry["attributes"];
        let count = |name: &str| attributes[name].as_u64().ok_or_else(|| format!("{NAME} has no count {name:?}"));
        let number = |name: &str| attributes[name].as_f64().ok_or_else(|| format!("{NAME} has no number {name:?}"));
        let progress = Progress {
            epoch: count("epoch")?,
            examples: count("examples")?,
            open: attributes["open"].as_bool().ok_or_else(|| format!("{NAME} has no switch \"open\""))?,
            skipped: count("skipped_steps")?,
            logged_loss: number("logged_loss")?,
            open_loss: number("open_loss")?,
            logged_step: count("logged_step")?,
            last: attributes["last"][0].as_f64().zip(attributes["last"][1].as_f64()),
        };
        Ok((progress, attributes["schedule"].clone()))
    }

    /// What is other than when the checkpoint was made, as messages. (EC-23)
    pub(super) fn differences(entry: &Value, args: &TrainingArguments, plan: &Plan) -> Vec<String> {
        let now = made_of(args, plan);
        let then = entry["args"].as_object().cloned().unwrap_or_default();
        let changed = now.iter().filter(|(name, value)| then.get(*name) != Some(value));
        changed
            .map(|(name, value)| {
                let old = then.get(name).cloned().unwrap_or_default();
                format!("the checkpoint was made with {name} {old}, this run has {value}: results will differ")
            })
            .collect()
    }
}

/// All that makes two runs the same.
fn made_of(args: &TrainingArguments, plan: &Plan) -> Map<String, Value> {
    let made = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "seed": args.seed,
        "data_seed": args.order_seed(),
        "examples": plan.examples,
        "max_steps": plan.max_steps,
        "train_batch_size": plan.batch_size,
        "gradient_accumulation_steps": plan.window,
        "learning_rate": args.learning_rate,
        "lr_scheduler_type": args.lr_scheduler_type,
        "optim": args.optim,
    });
    match made {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
