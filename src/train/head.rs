//! The head of a model that is to be trained: for which task, and for which classes.

use lith_runtime::pipelines::Task;
use lith_runtime::training::data::{Labels, Target};
use serde_json::json;

use crate::error::{Error, Result};
use crate::model::{ModelOptions, Opened};

/// The task that a model is trained for: the one asked for or its own; a body alone learns what most data is for.
pub(super) fn task_to_train(opened: &Opened, from: &ModelOptions) -> Result<Task> {
    match (opened.task(), &from.task) {
        (task, None) if matches!(task.name(), "feature-extraction" | "sentence-embedding") => {
            "text-classification".parse().map_err(Error::input)
        }
        (task, _) => Ok(task),
    }
}

/// Whether a model has a head for a task.
pub(super) fn has_head(opened: &Opened, task: Option<&str>) -> bool {
    opened.config().head().is_some_and(|head| head.task() == task.unwrap_or_default())
}

/// Gives the model the head that the target needs. A model that knows all labels keeps its own, in its order.
pub(super) fn head_for(target: Target, opened: &Opened, from: &mut ModelOptions) -> Result<Target> {
    let config = opened.config();
    let problem = |target: &Target| format!("problem_type={}", target.problem_type());
    let names = match &target {
        Target::Single(labels) | Target::Multi(labels) => labels.names(),
        Target::Regression(outputs) => {
            from.overrides.push(format!("num_labels={outputs}"));
            from.overrides.push(problem(&target));
            from.ignore_mismatched_sizes = true;
            return Ok(target);
        }
    };
    if let (Target::Single(_), [only]) = (&target, names) {
        return Err(Error::input(format!("all labels are {only:?}: there is nothing to tell apart")));
    }
    let known: Vec<String> = config.labels().iter().map(|(_, name)| name.to_string()).collect();
    let has_head = has_head(opened, from.task.as_deref());
    let numbered = |i: usize| format!("LABEL_{i}");
    let plain = names.iter().enumerate().all(|(i, name)| *name == numbered(i));
    if has_head && (names.iter().all(|name| known.contains(name)) || plain && names.len() == known.len()) {
        let labels = Labels::new(known).map_err(Error::input)?;
        return Ok(match target {
            Target::Multi(_) => Target::Multi(labels),
            _ => Target::Single(labels),
        });
    }
    let id2label: serde_json::Map<String, serde_json::Value> =
        names.iter().enumerate().map(|(i, name)| (i.to_string(), json!(name))).collect();
    from.overrides.push(format!("num_labels={}", names.len()));
    from.overrides.push(format!("id2label={}", serde_json::Value::Object(id2label)));
    if !matches!(from.task.as_deref(), Some("token-classification")) {
        from.overrides.push(problem(&target));
    }
    from.ignore_mismatched_sizes = true;
    Ok(target)
}
