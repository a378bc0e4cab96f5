//! Reading `lr_scheduler_kwargs`: every option once, those left over are errors.

use serde_json::{Map, Value};

use crate::training::arguments::ArgumentError;

pub(super) struct Options<'a> {
    schedule: &'a str,
    given: &'a Map<String, Value>,
    known: Vec<&'static str>,
}

impl<'a> Options<'a> {
    pub(super) fn new(schedule: &'a str, given: &'a Map<String, Value>) -> Self {
        Options { schedule, given, known: Vec::new() }
    }

    pub(super) fn wrong(&self, problem: String) -> ArgumentError {
        ArgumentError::value("lr_scheduler_kwargs", format!("{} of schedule {}", problem, self.schedule))
    }

    fn get(&mut self, name: &'static str) -> Option<&'a Value> {
        self.known.push(name);
        self.given.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn optional(&mut self, name: &'static str) -> Result<Option<f64>, ArgumentError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.as_f64().filter(|number| number.is_finite()) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(format!("{name} must be a number, found {value},"))),
        }
    }

    pub(super) fn number(&mut self, name: &'static str, default: f64) -> Result<f64, ArgumentError> {
        Ok(self.optional(name)?.unwrap_or(default))
    }

    pub(super) fn optional_count(&mut self, name: &'static str) -> Result<Option<u64>, ArgumentError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.as_u64() {
            Some(count) => Ok(Some(count)),
            None => Err(self.wrong(format!("{name} must be a whole number of at least 0, found {value},"))),
        }
    }

    pub(super) fn count(&mut self, name: &'static str, default: u64) -> Result<u64, ArgumentError> {
        Ok(self.optional_count(name)?.unwrap_or(default))
    }

    pub(super) fn required_count(&mut self, name: &'static str) -> Result<u64, ArgumentError> {
        match self.optional_count(name)? {
            Some(count) => Ok(count),
            None => Err(self.wrong(format!("{name} is required"))),
        }
    }

    pub(super) fn flag(&mut self, name: &'static str) -> Result<bool, ArgumentError> {
        match self.get(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => Err(self.wrong(format!("{name} must be true or false, found {value},"))),
        }
    }

    pub(super) fn choice(
        &mut self,
        name: &'static str,
        words: &'static [&'static str],
        default: &'static str,
    ) -> Result<&'static str, ArgumentError> {
        let Some(value) = self.get(name) else { return Ok(default) };
        match words.iter().find(|&&word| value.as_str() == Some(word)) {
            Some(word) => Ok(word),
            None => Err(self.wrong(format!("{name} must be one of {}, found {value},", words.join(", ")))),
        }
    }

    /// The smallest share of the base rate: `min_lr`, a rate, or `min_lr_rate`, a share; exactly one of them.
    pub(super) fn least(&mut self, base: f64) -> Result<f64, ArgumentError> {
        match (self.optional("min_lr")?, self.optional("min_lr_rate")?) {
            (Some(rate), None) if base > 0.0 => Ok(rate / base),
            (Some(_), None) => Err(self.wrong("min_lr needs a learning_rate above 0".into())),
            (None, Some(share)) => Ok(share),
            _ => Err(self.wrong("exactly one of min_lr and min_lr_rate must be given".into())),
        }
    }

    /// Refuses options that nobody asked for.
    pub(super) fn done(self) -> Result<(), ArgumentError> {
        match self.given.keys().find(|name| !self.known.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) => {
                let known = if self.known.is_empty() { "it has none".to_string() } else { self.known.join(", ") };
                let problem = format!("schedule {} has no option {name:?}; its options: {known}", self.schedule);
                Err(ArgumentError::value("lr_scheduler_kwargs", problem))
            }
        }
    }
}
