//! The model card: what a trained model is, how it was trained and what it reached, as the README.md of its folder. Must
//! not know programs or files.

use serde_json::Value;

use super::arguments::{SaveStrategy, TrainingArguments};
use super::state::{Logs, TrainerState};

/// What a card says beside what the run knows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelCard {
    /// The model's name.
    pub name: String,
    /// The model that was trained further: a name of the hub or a folder.
    pub base_model: Option<String>,
    /// What it was trained on.
    pub dataset: Option<String>,
    /// The hub's name of the task, `text-classification` say.
    pub task: Option<String>,
    /// The license's identifier.
    pub license: Option<String>,
    /// Languages by code.
    pub language: Vec<String>,
    /// Further tags.
    pub tags: Vec<String>,
}

impl ModelCard {
    /// The card of a run: metadata as the hub reads them, the last evaluation, the arguments, and all evaluations.
    pub(super) fn text(&self, args: &TrainingArguments, state: &TrainerState) -> String {
        let evaluations: Vec<&Logs> = state.log_history.iter().filter(|line| line.contains_key("eval_loss")).collect();
        let mut text = self.metadata(evaluations.last().copied());
        let name = if self.name.is_empty() { "Model" } else { &self.name };
        text.push_str(&format!("\n# {name}\n\n"));
        let from =
            self.base_model.as_ref().map_or("Trained from scratch".into(), |base| format!("`{base}`, trained further"));
        let on = self.dataset.as_ref().map_or(String::new(), |dataset| format!(" on {dataset}"));
        text.push_str(&format!("{from}{on}, by Lith {}.\n", env!("CARGO_PKG_VERSION")));
        if let Some(last) = evaluations.last() {
            text.push_str("\nThe last evaluation:\n\n");
            for (name, value) in figures(last) {
                text.push_str(&format!("- {name}: {value}\n"));
            }
        }
        text.push_str("\n## Training\n\n");
        for (name, value) in hyperparameters(args, state) {
            text.push_str(&format!("- {name}: {value}\n"));
        }
        if !evaluations.is_empty() {
            text.push_str("\n## Evaluations\n\n");
            text.push_str(&table(state, &evaluations));
        }
        text
    }

    /// The head in YAML. Texts are written as JSON, which YAML reads.
    fn metadata(&self, last: Option<&Logs>) -> String {
        let quoted = |text: &str| Value::from(text).to_string();
        let mut head = String::from("---\nlibrary_name: transformers\n");
        if let Some(license) = &self.license {
            head.push_str(&format!("license: {}\n", quoted(license)));
        }
        if !self.language.is_empty() {
            head.push_str(&format!("language: {}\n", Value::from(self.language.clone())));
        }
        if let Some(base) = &self.base_model {
            head.push_str(&format!("base_model: {}\n", quoted(base)));
        }
        if let Some(task) = &self.task {
            head.push_str(&format!("pipeline_tag: {}\n", quoted(task)));
        }
        let tags: Vec<String> =
            ["lith", "generated_from_trainer"].map(String::from).into_iter().chain(self.tags.clone()).collect();
        head.push_str(&format!("tags: {}\n", Value::from(tags)));
        if let (Some(last), Some(task), Some(dataset)) = (last, &self.task, &self.dataset) {
            head.push_str(&format!("model-index:\n- name: {}\n  results:\n", quoted(&self.name)));
            head.push_str(&format!("  - task: {{\"type\": {}}}\n", quoted(task)));
            head.push_str(&format!("    dataset: {{\"name\": {0}, \"type\": {0}}}\n    metrics:\n", quoted(dataset)));
            for (name, value) in figures(last) {
                head.push_str(&format!("    - {{\"type\": {0}, \"name\": {0}, \"value\": {value}}}\n", quoted(&name)));
            }
        }
        head.push_str("---\n");
        head
    }
}

/// The figures of an evaluation that say how good a model is, with four digits.
fn figures(line: &Logs) -> impl Iterator<Item = (String, String)> + '_ {
    let timed = |name: &str| name.ends_with("_runtime") || name.ends_with("_per_second");
    line.iter().filter(move |(name, _)| !timed(name)).filter_map(|(name, value)| {
        let name = name.strip_prefix("eval_")?;
        Some((name.to_string(), four_digits(value.as_f64()?)))
    })
}

fn four_digits(value: f64) -> String {
    format!("{:?}", (value * 1e4).round() / 1e4)
}

fn hyperparameters(args: &TrainingArguments, state: &TrainerState) -> Vec<(&'static str, String)> {
    let batch = state.train_batch_size.unwrap_or(args.per_device_train_batch_size as u64);
    let mut rows = vec![
        ("learning_rate", format!("{:?}", args.learning_rate)),
        ("lr_scheduler_type", args.lr_scheduler_type.clone()),
        ("warmup_steps", args.warmup(state.max_steps).to_string()),
        ("train_batch_size", batch.to_string()),
        ("eval_batch_size", args.per_device_eval_batch_size.to_string()),
        ("gradient_accumulation_steps", args.gradient_accumulation_steps.to_string()),
        (
            "optimizer",
            format!(
                "{} (betas {:?} and {:?}, epsilon {:?}, weight decay {:?})",
                args.optim, args.adam_beta1, args.adam_beta2, args.adam_epsilon, args.weight_decay
            ),
        ),
        ("max_grad_norm", format!("{:?}", args.max_grad_norm)),
        ("steps", state.global_step.to_string()),
        ("epochs", four_digits(state.epoch)),
        ("seed", args.seed.to_string()),
    ];
    if args.label_smoothing_factor > 0.0 {
        rows.push(("label_smoothing_factor", format!("{:?}", args.label_smoothing_factor)));
    }
    if args.bf16 || args.fp16 {
        rows.push(("mixed_precision", if args.bf16 { "bf16" } else { "fp16" }.into()));
    }
    if let Some(best) = state.best_global_step.filter(|_| args.save_strategy != SaveStrategy::No) {
        rows.push(("best_step", best.to_string()));
    }
    rows
}

/// All evaluations, each with the training loss last logged before it.
fn table(state: &TrainerState, evaluations: &[&Logs]) -> String {
    let mut names: Vec<String> = Vec::new();
    for (name, _) in evaluations.iter().flat_map(|line| figures(line)) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let mut text = String::from("| Step | Epoch | Training loss |");
    names.iter().for_each(|name| text.push_str(&format!(" {} |", name.replace('|', "\\|"))));
    text.push_str("\n|---|---|---|");
    names.iter().for_each(|_| text.push_str("---|"));
    text.push('\n');
    let mut loss = None;
    let mut rows: Vec<(u64, String)> = Vec::new();
    for line in &state.log_history {
        loss = line.get("loss").and_then(Value::as_f64).or(loss);
        if !line.contains_key("eval_loss") {
            continue;
        }
        let number = |name: &str| line.get(name).and_then(Value::as_f64).map_or("-".to_string(), four_digits);
        let step = line.get("step").and_then(Value::as_u64).unwrap_or(0);
        let loss = loss.map_or("-".to_string(), four_digits);
        let mut row = format!("| {step} | {} | {loss} |", number("epoch"));
        names.iter().for_each(|name| row.push_str(&format!(" {} |", number(&format!("eval_{name}")))));
        // Of several evaluations after one update the last counts.
        rows.retain(|(other, _)| *other != step);
        rows.push((step, row));
    }
    rows.iter().for_each(|(_, row)| {
        text.push_str(row);
        text.push('\n');
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// EX-03: metadata, figures and tables; texts cannot break out of the head.
    #[test]
    fn ex_03_model_card() {
        let mut state = TrainerState::new(&TrainingArguments::default(), 20, 2, 16);
        let lines = json!([
            {"loss": 0.7, "epoch": 1.0, "step": 10},
            {"eval_loss": 0.61234, "eval_accuracy": 0.8, "eval_runtime": 1.5, "epoch": 1.0, "step": 10},
            {"loss": 0.5, "epoch": 2.0, "step": 20},
            {"eval_loss": 0.5, "eval_accuracy": 0.875, "eval_runtime": 1.5, "epoch": 2.0, "step": 20},
            {"train_loss": 0.6, "epoch": 2.0, "step": 20},
            {"eval_loss": 0.5, "eval_accuracy": 0.875, "eval_runtime": 1.5, "epoch": 2.0, "step": 20},
        ]);
        state.log_history = lines.as_array().unwrap().iter().map(|line| line.as_object().unwrap().clone()).collect();
        (state.global_step, state.epoch) = (20, 2.0);
        let card = ModelCard {
            name: "reviews".into(),
            base_model: Some("some/model".into()),
            dataset: Some("re\"views: 1\n---".into()),
            task: Some("text-classification".into()),
            language: vec!["en".into()],
            ..ModelCard::default()
        };
        let text = card.text(&TrainingArguments::default(), &state);
        let head: Vec<&str> = text.split("\n---\n").next().unwrap().lines().collect();
        #[rustfmt::skip]
        assert_eq!(head, [
            "---",
            "library_name: transformers",
            "language: [\"en\"]",
            "base_model: \"some/model\"",
            "pipeline_tag: \"text-classification\"",
            "tags: [\"lith\",\"generated_from_trainer\"]",
            "model-index:",
            "- name: \"reviews\"",
            "  results:",
            "  - task: {\"type\": \"text-classification\"}",
            "    dataset: {\"name\": \"re\\\"views: 1\\n---\", \"type\": \"re\\\"views: 1\\n---\"}",
            "    metrics:",
            "    - {\"type\": \"loss\", \"name\": \"loss\", \"value\": 0.5}",
            "    - {\"type\": \"accuracy\", \"name\": \"accuracy\", \"value\": 0.875}",
        ]);
        for part in [
            "\n# reviews\n",
            "- accuracy: 0.875\n",
            "- train_batch_size: 16\n",
            "| Step | Epoch | Training loss | loss | accuracy |\n|---|---|---|---|---|\n",
            "| 10 | 1.0 | 0.7 | 0.6123 | 0.8 |\n| 20 | 2.0 | 0.5 | 0.5 | 0.875 |\n",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert_eq!(text.matches("| 20 |").count(), 1);
        let bare = ModelCard::default().text(&TrainingArguments::default(), &TrainerState::default());
        assert!(bare.contains("Trained from scratch") && !bare.contains("Evaluations"));
    }
}
