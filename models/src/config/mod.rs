//! Model configurations: `config.json` with the defaults, aliases and checks of its model type (spec rows CFG-*).
//!
//! A [`Config`] is the file's own fields plus a row of [`table::TYPES`], which says what absent fields mean. It knows
//! nothing of tensors, layers or devices.

mod error;
mod labels;
pub mod table;
mod task;

pub use error::ConfigError;
pub use labels::{Labels, ProblemType};
pub use task::Head;

use std::path::{Path, PathBuf};

use lith_ir::DType;
use serde_json::{Map, Value};

use crate::source::Source;
use table::{Kind, ModelType};

/// Largest `config.json` that is read, in bytes. Real ones have a few kilobytes; the largest known, with 22,000
/// labels, about one megabyte.
pub const MAX_CONFIG_BYTES: u64 = 64 << 20;

/// The file's name.
pub const CONFIG_NAME: &str = "config.json";

/// A model's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    file: PathBuf,
    model_type: &'static ModelType,
    fields: Map<String, Value>,
    generation: Map<String, Value>,
    labels: Labels,
    problem_type: Option<ProblemType>,
    warnings: Vec<String>,
}

/// Two configs are equal when every field has an equal value, wherever they were read from.
impl PartialEq for Config {
    fn eq(&self, other: &Self) -> bool {
        let generation = self.generation == other.generation;
        generation && self.diff() == other.diff() && self.labels == other.labels
    }
}

/// Reads a configuration from text. `file` is named in messages only.
///
/// Nesting is bounded by the JSON reader (128 levels).
pub fn parse_str(text: &str, file: &Path) -> Result<Config, ConfigError> {
    let value: Value = serde_json::from_str(text)
        .map_err(|error| ConfigError::Json { file: file.to_path_buf(), reason: error.to_string() })?;
    match value {
        Value::Object(map) => Config::from_map(map, file),
        other => Err(ConfigError::Json {
            file: file.to_path_buf(),
            reason: format!("expected an object, found {}", found(&other)),
        }),
    }
}

impl Config {
    /// Reads `config.json` of a model (CFG-01, CFG-02).
    pub fn load(source: &Source) -> Result<Config, ConfigError> {
        let Some(path) = source.config_file()? else {
            if source.offline().is_some() {
                source.required(CONFIG_NAME)?;
            }
            let adapter = source.exists("adapter_config.json")?;
            return Err(ConfigError::Missing { place: source.describe(), adapter });
        };
        Config::read(&path)
    }

    /// Reads a configuration file.
    pub fn read(path: &Path) -> Result<Config, ConfigError> {
        parse_str(&crate::source::read_text(path, MAX_CONFIG_BYTES)?, path)
    }

    /// A configuration with nothing but the defaults of `model_type`.
    pub fn of_type(model_type: &str) -> Result<Config, ConfigError> {
        let mut map = Map::new();
        map.insert("model_type".into(), model_type.into());
        Config::from_map(map, Path::new(CONFIG_NAME))
    }

    /// Builds and checks a configuration from its JSON object.
    pub fn from_map(mut map: Map<String, Value>, file: &Path) -> Result<Config, ConfigError> {
        let file = file.to_path_buf();
        let has_code = map.get("auto_map").is_some_and(|value| !value.is_null());
        let name = match map.remove("model_type") {
            None | Some(Value::Null) if has_code => {
                return Err(ConfigError::RemoteCode { file, what: "its config".into() });
            }
            None | Some(Value::Null) => return Err(ConfigError::NoModelType { file, known: known_types() }),
            Some(Value::String(name)) => name,
            Some(other) => return Err(wrong_type(&file, "model_type", "string", &other)),
        };
        let Some(model_type) = ModelType::find(&name) else {
            return Err(match has_code {
                true => ConfigError::RemoteCode { file, what: format!("model_type `{name}`") },
                false => ConfigError::UnknownModelType { file, model_type: name, known: known_types() },
            });
        };

        let mut fields = Map::new();
        let mut generation = Map::new();
        let mut warnings = Vec::new();
        for (key, value) in map {
            let known = model_type.field(&key);
            if known.is_none() && table::GENERATION.contains(&key.as_str()) {
                generation.insert(key, value);
                continue;
            }
            if let Some(field) = known.filter(|field| !field.admits(&value)) {
                return Err(wrong_type(&file, &key, field.kind.name(), &value));
            }
            let stored = model_type.stored_name(&key);
            // Given under both names, the field's own name wins.
            if stored == key || !fields.contains_key(stored) {
                fields.insert(stored.to_string(), value);
            }
        }

        let labels = Labels::from_fields(&mut fields, &file, &mut warnings)?;
        let problem_type = ProblemType::from_fields(&fields, &labels, &file)?;
        let config = Config { file, model_type, fields, generation, labels, problem_type, warnings };
        config.check_code()?;
        config.dtype()?;
        Ok(config.with_token_warnings())
    }

    /// Refuses a repository whose own Python code is not the architecture Lith has (CFG-06). Code beside an
    /// architecture that Lith implements is not needed.
    fn check_code(&self) -> Result<(), ConfigError> {
        let has_code = self.fields.get("auto_map").is_some_and(|value| !value.is_null());
        let foreign = |name: &&str| has_code && !name.starts_with(self.model_type.class_prefix);
        if let Some(name) = self.architectures().into_iter().find(foreign) {
            return Err(ConfigError::RemoteCode { file: self.file.clone(), what: format!("architecture `{name}`") });
        }
        Ok(())
    }

    /// Warns of token ids outside the vocabulary (CFG-25).
    fn with_token_warnings(mut self) -> Config {
        if let Ok(vocab) = self.size("vocab_size") {
            for name in ["pad_token_id", "bos_token_id", "eos_token_id"] {
                let outside = |id: &Value| id.as_u64().is_none_or(|id| id >= vocab as u64);
                let ids = match self.value(name) {
                    Value::Array(ids) => ids,
                    Value::Null => continue,
                    id => vec![id],
                };
                if let Some(id) = ids.iter().find(|id| outside(id)) {
                    self.warnings
                        .push(format!("{}: {name} {id} is outside the vocabulary of {vocab}", self.file.display()));
                }
            }
        }
        self
    }

    /// Where the configuration came from, for messages.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The model type, `bert` for instance.
    pub fn model_type(&self) -> &'static str {
        self.model_type.name
    }

    /// What was odd but no error, one sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The architecture class names, such as `BertForMaskedLM`; empty when the file names none.
    pub fn architectures(&self) -> Vec<&str> {
        let list = self.fields.get("architectures").and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// The head of the first architecture that Lith knows (TR-02). `None` when the file names no architecture or
    /// none that is known.
    pub fn head(&self) -> Option<Head> {
        let prefix = self.model_type.class_prefix;
        self.architectures().into_iter().find_map(|name| Head::from_suffix(name.strip_prefix(prefix)?))
    }

    /// The name of the architecture with a head, `BertForMaskedLM` for instance.
    pub fn architecture(&self, head: Head) -> String {
        format!("{}{}", self.model_type.class_prefix, head.suffix())
    }

    /// `id2label` and `label2id` (CFG-14).
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// The number of labels: the length of `id2label`.
    pub fn num_labels(&self) -> usize {
        self.labels.len()
    }

    /// What a sequence classification head predicts, if the file says so (CFG-15).
    pub fn problem_type(&self) -> Option<ProblemType> {
        self.problem_type
    }

    /// Fields of the file that are parameters of generation (CFG-19). The model does not see them.
    pub fn generation(&self) -> &Map<String, Value> {
        &self.generation
    }

    /// The value of a field: as given, else the type's default, else null.
    pub fn value(&self, name: &str) -> Value {
        match self.fields.get(self.model_type.stored_name(name)) {
            Some(value) => value.clone(),
            None => self.model_type.field(name).map_or(Value::Null, |field| field.default.to_json()),
        }
    }

    fn expect<T>(&self, name: &str, expected: &str, read: impl Fn(&Value) -> Option<T>) -> Result<T, ConfigError> {
        let value = self.value(name);
        read(&value).ok_or_else(|| wrong_type(&self.file, name, expected, &value))
    }

    /// A size: an integer from 0 to 2^31 - 1, so that the product of two never overflows 64 bits.
    pub fn size(&self, name: &str) -> Result<usize, ConfigError> {
        self.expect(name, "integer from 0 to 2147483647", |value| {
            value.as_u64().filter(|n| *n < 1 << 31).map(|n| n as usize)
        })
    }

    /// A size that is at least 1.
    pub fn positive(&self, name: &str) -> Result<usize, ConfigError> {
        let size = self.size(name)?;
        if size == 0 { Err(wrong_type(&self.file, name, "positive integer", &0.into())) } else { Ok(size) }
    }

    /// A size that may be null.
    pub fn optional_size(&self, name: &str) -> Result<Option<usize>, ConfigError> {
        if self.value(name).is_null() { Ok(None) } else { self.size(name).map(Some) }
    }

    /// An integer.
    pub fn int(&self, name: &str) -> Result<i64, ConfigError> {
        self.expect(name, Kind::Int.name(), Value::as_i64)
    }

    /// A number.
    pub fn float(&self, name: &str) -> Result<f64, ConfigError> {
        self.expect(name, Kind::Float.name(), |value| value.as_f64().or_else(|| table::special_float(value)))
    }

    /// A number that may be null.
    pub fn optional_float(&self, name: &str) -> Result<Option<f64>, ConfigError> {
        if self.value(name).is_null() { Ok(None) } else { self.float(name).map(Some) }
    }

    /// A boolean.
    pub fn flag(&self, name: &str) -> Result<bool, ConfigError> {
        self.expect(name, Kind::Bool.name(), Value::as_bool)
    }

    /// A string.
    pub fn text(&self, name: &str) -> Result<String, ConfigError> {
        self.expect(name, Kind::Text.name(), |value| value.as_str().map(str::to_string))
    }

    /// A string that may be null.
    pub fn optional_text(&self, name: &str) -> Result<Option<String>, ConfigError> {
        if self.value(name).is_null() { Ok(None) } else { self.text(name).map(Some) }
    }

    /// The dtype of the weights, from `dtype` or `torch_dtype`, `float16` or `torch.float16` (CFG-17). `None` when
    /// the file says nothing, or `auto`.
    pub fn dtype(&self) -> Result<Option<DType>, ConfigError> {
        let value = self.value("dtype");
        let name = match &value {
            // By sub-config: the entry of the whole model has the empty name.
            Value::Object(map) => map.get("").and_then(Value::as_str),
            other => other.as_str(),
        };
        let Some(name) = name else { return Ok(None) };
        match name.strip_prefix("torch.").unwrap_or(name) {
            "auto" => Ok(None),
            "float32" | "float" => Ok(Some(DType::F32)),
            "float16" | "half" => Ok(Some(DType::F16)),
            "bfloat16" => Ok(Some(DType::Bf16)),
            "float64" | "double" => Ok(Some(DType::F64)),
            _ => Err(wrong_type(&self.file, "dtype", "float32, float16, bfloat16 or float64", &value)),
        }
    }

    /// Overrides one field from `key=value` (CFG-11). The value is read as JSON, and as a plain string where it is
    /// none. Returns `false`, with nothing changed, when the model type has no such field.
    pub fn set(&mut self, assignment: &str) -> Result<bool, ConfigError> {
        let bad = || ConfigError::Override { assignment: assignment.to_string() };
        let (key, text) = assignment.split_once('=').ok_or_else(bad)?;
        let key = key.trim();
        if key.is_empty() {
            return Err(bad());
        }
        let Some(field) = self.model_type.field(key) else { return Ok(false) };
        let value = match field.kind {
            Kind::Text => Value::String(text.to_string()),
            _ => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_string())),
        };
        let mut map = self.to_map();
        match field.name {
            // A new number of labels makes new labels; the same number keeps their names.
            "num_labels" if value.as_u64() != Some(self.num_labels() as u64) => {
                map.remove("id2label");
                map.remove("label2id");
            }
            "id2label" => {
                map.remove("label2id");
            }
            _ => {}
        }
        map.insert(field.name.to_string(), value);
        *self = Config::from_map(map, &self.file)?;
        Ok(true)
    }

    /// Every given field, `model_type` and labels included: what [`Config::from_map`] takes.
    fn to_map(&self) -> Map<String, Value> {
        let mut map = self.fields.clone();
        map.extend(self.generation.clone());
        map.insert("model_type".into(), self.model_type().into());
        self.labels.write_to(&mut map);
        map
    }

    /// The fields that differ from the type's defaults, and `model_type`; unknown fields as they came. Generation
    /// fields are left out: they belong into `generation_config.json` (CFG-19).
    fn diff(&self) -> Map<String, Value> {
        let mut map = self.to_map();
        map.retain(|key, value| {
            let default = self.model_type.field(key).map(|field| field.default.to_json());
            let same = default.is_some_and(|default| match (default.as_f64(), value.as_f64()) {
                (Some(default), Some(value)) => default == value,
                _ => default == *value,
            });
            !same && !self.generation.contains_key(key)
        });
        map
    }

    /// The text of `config.json`: keys sorted, indented by 2, only what differs from the type's defaults, and
    /// `model_type` (CFG-24). Reading it gives an equal config.
    pub fn to_json(&self) -> String {
        let sorted = sorted(Value::Object(self.diff()));
        // Serialising a `Value` cannot fail: its keys are strings and its numbers finite.
        format!("{sorted:#}\n")
    }
}

/// The same value with the keys of its objects in order, at every level. JSON from outside is at most 128 levels deep.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(entries.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        plain => plain,
    }
}

fn known_types() -> String {
    table::TYPES.iter().map(|row| row.name).collect::<Vec<_>>().join(", ")
}

/// How messages show a value: its type and a short form of it.
fn found(value: &Value) -> String {
    let kind = match value {
        Value::Null => return "null".into(),
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => return "a list".into(),
        Value::Object(_) => return "an object".into(),
    };
    let shown: String = value.to_string().chars().take(40).collect();
    format!("{kind} {shown}")
}

fn wrong_type(file: &Path, field: &str, expected: &str, value: &Value) -> ConfigError {
    ConfigError::Field {
        file: file.to_path_buf(),
        field: field.to_string(),
        expected: expected.to_string(),
        found: found(value),
    }
}
