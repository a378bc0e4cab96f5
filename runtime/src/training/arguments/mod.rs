//! `TrainingArguments`: what a run of training can be told, under Transformers' names. Must not know how training is done.

mod check;
mod error;
mod removed;
mod table;
#[cfg(test)]
mod tests;
mod value;

use serde_json::{Map, Value};

pub use check::OPTIMIZERS;
pub use error::ArgumentError;
pub use removed::names as removed_names;
pub use table::{ARGUMENTS, ArgumentSpec, Effect, TrainingArguments};
pub use value::{ArgumentKind, CountTokens, IntervalStrategy, SamplingStrategy, SaveStrategy, Steps};

/// The row of an argument.
pub fn argument_named(name: &str) -> Option<&'static ArgumentSpec> {
    ARGUMENTS.iter().find(|spec| spec.name == name)
}

impl TrainingArguments {
    /// Sets an argument by name. A name that older releases had does what it is called now; the message says so. (TA-39)
    ///
    /// # Errors
    /// A name that never was, a value of the wrong kind.
    pub fn set(&mut self, name: &str, value: &Value) -> Result<Option<String>, ArgumentError> {
        if let Some(spec) = argument_named(name) {
            // A switch before it was a choice.
            let all = Value::from("all");
            let value = match (name, value) {
                ("include_num_input_tokens_seen", Value::Bool(true)) => &all,
                ("include_num_input_tokens_seen", Value::Bool(false)) => &Value::from("no"),
                _ => value,
            };
            return match (spec.set)(self, value) {
                true => Ok(None),
                false => {
                    let problem = format!("expected {}, found {value}", spec.kind.expected());
                    Err(ArgumentError::value(name, problem))
                }
            };
        }
        let Some((given, message)) = removed::replacement(name, value) else {
            return Err(ArgumentError::Unknown { name: name.into(), hint: hint(name) });
        };
        if let Some((name, value)) = given {
            self.set(name, &value)?;
        }
        Ok(Some(message))
    }

    /// Sets an argument from the text of a command line; `no_` before the name of a switch turns it off.
    ///
    /// # Errors
    /// As [`TrainingArguments::set`].
    pub fn set_text(&mut self, name: &str, text: &str) -> Result<Option<String>, ArgumentError> {
        let name = name.replace('-', "_");
        let switch = name.strip_prefix("no_").and_then(argument_named).filter(|s| s.kind == ArgumentKind::Bool);
        if let (Some(switch), None) = (switch, argument_named(&name)) {
            return self.set(switch.name, &Value::Bool(text == "false"));
        }
        let kind = argument_named(&name).map_or(ArgumentKind::Any, |spec| spec.kind);
        match kind.parse(text) {
            Some(value) => self.set(&name, &value),
            None => Err(ArgumentError::value(&name, format!("expected {}, found {text:?}", kind.expected()))),
        }
    }

    /// Sets all arguments of an object, as [`TrainingArguments::set`] does one; the messages come in order.
    ///
    /// # Errors
    /// As [`TrainingArguments::set`].
    pub fn set_all(&mut self, values: &Map<String, Value>) -> Result<Vec<String>, ArgumentError> {
        let messages: Result<Vec<_>, _> = values.iter().map(|(name, value)| self.set(name, value)).collect();
        Ok(messages?.into_iter().flatten().collect())
    }

    /// Sets all arguments of a file's text: TOML where its name ends so, else JSON. (TA-40)
    ///
    /// # Errors
    /// Text that is neither, naming the file; and as [`TrainingArguments::set`].
    pub fn set_file(&mut self, file: &str, text: &str) -> Result<Vec<String>, ArgumentError> {
        let values: Result<Map<String, Value>, String> = if file.ends_with(".toml") {
            toml::from_str(text).map_err(|error| error.to_string())
        } else {
            serde_json::from_str(text).map_err(|error| error.to_string())
        };
        let values = values.map_err(|problem| ArgumentError::File { file: file.into(), problem })?;
        self.set_all(&values)
    }

    /// All arguments, as `training_args.json` has them; tokens are left out. (TA-40)
    pub fn to_json(&self) -> Map<String, Value> {
        let shown = ARGUMENTS.iter().filter(|spec| !spec.name.ends_with("_token"));
        shown.map(|spec| (spec.name.to_string(), (spec.get)(self))).collect()
    }

    /// Updates of warm-up in a run of `total`. (TA-08)
    pub fn warmup(&self, total: u64) -> u64 {
        self.warmup_steps.of(total)
    }

    /// Seed of the data's order. (TA-13)
    pub fn order_seed(&self) -> u64 {
        self.data_seed.unwrap_or(self.seed)
    }
}

/// What someone may have meant who wrote `name`.
fn hint(name: &str) -> String {
    let known = ARGUMENTS.iter().map(|spec| spec.name).chain(removed::names());
    let mut near: Vec<(usize, &str)> = known.map(|known| (distance(name, known), known)).collect();
    near.sort();
    let near: Vec<&str> = near.iter().filter(|(d, _)| *d <= 2 + name.len() / 5).take(3).map(|(_, n)| *n).collect();
    if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(" or ")) }
}

/// Levenshtein's distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
