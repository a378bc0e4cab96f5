//! `adapter_config.json` of low-rank adapters, as PEFT has it: names, defaults, and what Lith does not do (PE-01, PE-04).
//! Knows no layer and no tensor.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::AdapterError;

/// Name of the file.
pub const CONFIG_FILE: &str = "adapter_config.json";

/// The greatest rank: beyond any layer's width, a typing error.
const MAX_RANK: usize = 1 << 16;

/// Which modules are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Modules {
    /// Those whose path is one of these, or ends in one of them.
    Names(Vec<String>),
    /// Those whose whole path a regular expression matches.
    Pattern(String),
    /// All linear layers but those of the head (`all-linear`).
    AllLinear,
}

impl Modules {
    /// Of a command line: `all-linear`, names with commas between, or, if it has other characters than names have, a
    /// regular expression.
    pub fn from_text(text: &str) -> Modules {
        let name =
            |part: &str| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | '-'));
        let parts: Vec<&str> = text.split(',').map(str::trim).collect();
        match text {
            ALL_LINEAR => Modules::AllLinear,
            _ if parts.iter().all(|part| name(part)) => Modules::Names(parts.into_iter().map(String::from).collect()),
            _ => Modules::Pattern(text.into()),
        }
    }

    fn to_json(&self) -> Value {
        match self {
            Modules::Names(names) => json!(names),
            Modules::Pattern(pattern) => json!(pattern),
            Modules::AllLinear => json!(ALL_LINEAR),
        }
    }
}

impl std::fmt::Display for Modules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Modules::Names(names) => f.write_str(&names.join(", ")),
            Modules::Pattern(pattern) => write!(f, "`{pattern}`"),
            Modules::AllLinear => f.write_str(ALL_LINEAR),
        }
    }
}

const ALL_LINEAR: &str = "all-linear";

/// Which biases learn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bias {
    /// None.
    #[default]
    None,
    /// All of the model.
    All,
    /// Those of adapted layers.
    LoraOnly,
}

impl Bias {
    /// Names in files.
    pub const NAMES: [(&'static str, Bias); 3] =
        [("none", Bias::None), ("all", Bias::All), ("lora_only", Bias::LoraOnly)];

    /// The one of this name.
    pub fn from_name(name: &str) -> Option<Bias> {
        Bias::NAMES.iter().find(|(n, _)| *n == name).map(|(_, bias)| *bias)
    }

    fn name(self) -> &'static str {
        Bias::NAMES.iter().find(|(_, bias)| *bias == self).map_or("none", |(name, _)| name)
    }
}

/// How layers are adapted: PEFT's `LoraConfig`.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// Rank.
    pub r: usize,
    /// What the sum of both factors is scaled by, times the rank.
    pub lora_alpha: f64,
    /// Share of a layer's inputs that the adapter does not see in training.
    pub lora_dropout: f64,
    /// The layers; nothing for the default of the model type.
    pub target_modules: Option<Modules>,
    /// Layers that are not adapted though they are targets.
    pub exclude_modules: Option<Modules>,
    /// Modules that are trained as they are and saved whole; nothing for the head of classifiers.
    pub modules_to_save: Option<Vec<String>>,
    /// Which biases learn.
    pub bias: Bias,
    /// Scale by the root of the rank instead of the rank (Kalajdzievski 2023).
    pub use_rslora: bool,
    /// Magnitudes of the merged rows are learnt apart (Liu et al. 2024).
    pub use_dora: bool,
    /// Whether the base model stores weights as `[in, out]`.
    pub fan_in_fan_out: bool,
    /// Other ranks, by pattern of the module's path.
    pub rank_pattern: BTreeMap<String, usize>,
    /// Other alphas, by pattern of the module's path.
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Only these layers, by number.
    pub layers_to_transform: Option<Vec<usize>>,
    /// Names of the lists of layers that the numbers count in; nothing for any.
    pub layers_pattern: Vec<String>,
    /// What the model is for: `SEQ_CLS`, `TOKEN_CLS`, `CAUSAL_LM`, ...
    pub task_type: Option<String>,
    /// The model that is adapted.
    pub base_model_name_or_path: Option<String>,
    /// What the user should know of the file.
    pub warnings: Vec<String>,
}

impl Default for LoraConfig {
    /// PE-04
    fn default() -> Self {
        LoraConfig {
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            target_modules: None,
            exclude_modules: None,
            modules_to_save: None,
            bias: Bias::None,
            use_rslora: false,
            use_dora: false,
            fan_in_fan_out: false,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            layers_to_transform: None,
            layers_pattern: Vec::new(),
            task_type: None,
            base_model_name_or_path: None,
            warnings: Vec::new(),
        }
    }
}

/// Fields that change nothing in a trained adapter: how it began, what sharded it, who wrote it.
const IGNORED: &[&str] = &[
    "arrow_config",
    "auto_mapping",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "inference_mode",
    "loftq_config",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
];

/// Fields that change what an adapter means in ways that Lith does not follow.
const UNSUPPORTED: &[&str] = &[
    "alora_invocation_tokens",
    "layer_replication",
    "lora_bias",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
];

/// Ways to begin that change the weights of the base model, so that the adapter alone says too little.
const CHANGES_BASE: &[&str] = &["pissa", "olora", "loftq", "corda", "lora_ga"];

/// Whether a field says anything.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    }
}

impl LoraConfig {
    /// Reads the text of a file; `file` is for messages.
    ///
    /// # Errors
    /// When it is no JSON object, is of another kind of adapter, or a field is of a wrong type or asks for what Lith does not
    /// do. Fields of newer versions are warned of.
    pub fn from_json(text: &str, file: &Path) -> Result<LoraConfig, AdapterError> {
        let broken = |reason: String| AdapterError::Json { file: file.into(), reason };
        let fields: Map<String, Value> = serde_json::from_str(text).map_err(|e| broken(e.to_string()))?;
        let mut read = Fields { file, fields, seen: IGNORED.iter().map(|name| name.to_string()).collect() };
        let kind = read.text("peft_type")?.unwrap_or_default();
        if kind != "LORA" {
            return Err(read.wrong("peft_type", "LORA"));
        }
        for name in UNSUPPORTED {
            read.refuse(name, "Lith does not do this", is_set)?;
        }
        let changes_base = |value: &Value| {
            let text = value.as_str().unwrap_or_default().to_lowercase();
            CHANGES_BASE.iter().any(|name| text.starts_with(name))
        };
        read.refuse(
            "init_lora_weights",
            "it changes the base model's weights; convert the adapter to plain LoRA",
            changes_base,
        )?;
        let defaults = LoraConfig::default();
        let config = LoraConfig {
            r: read.size("r")?.unwrap_or(defaults.r),
            lora_alpha: read.number("lora_alpha")?.unwrap_or(defaults.lora_alpha),
            lora_dropout: read.number("lora_dropout")?.unwrap_or(defaults.lora_dropout),
            target_modules: read.modules("target_modules")?,
            exclude_modules: read.modules("exclude_modules")?,
            modules_to_save: read.names("modules_to_save")?,
            bias: match read.text("bias")? {
                None => Bias::None,
                Some(name) => Bias::from_name(&name).ok_or_else(|| read.wrong("bias", "none, all or lora_only"))?,
            },
            use_rslora: read.flag("use_rslora")?,
            use_dora: read.flag("use_dora")?,
            fan_in_fan_out: read.flag("fan_in_fan_out")?,
            rank_pattern: read.map("rank_pattern", "whole numbers", |v| usize::try_from(v.as_u64()?).ok())?,
            alpha_pattern: read.map("alpha_pattern", "numbers", Value::as_f64)?,
            layers_to_transform: read.layers("layers_to_transform")?,
            layers_pattern: read.names("layers_pattern")?.unwrap_or_default(),
            task_type: read.text("task_type")?,
            base_model_name_or_path: read.text("base_model_name_or_path")?,
            warnings: read.unknown(),
        };
        config.check(file)?;
        Ok(config)
    }

    /// Whether ranks, alphas and dropout are numbers that make sense; `file` is for messages.
    ///
    /// # Errors
    /// Naming the field.
    pub fn check(&self, file: &Path) -> Result<(), AdapterError> {
        let wrong = |field: &str, expected: &str, found: String| {
            Err(AdapterError::Field { file: file.into(), field: field.into(), expected: expected.into(), found })
        };
        for (field, r) in std::iter::once(("r", self.r)).chain(self.rank_pattern.values().map(|r| ("rank_pattern", *r)))
        {
            if !(1..=MAX_RANK).contains(&r) {
                return wrong(field, "a rank from 1 to 65536", r.to_string());
            }
        }
        let alphas = self.alpha_pattern.values().map(|a| ("alpha_pattern", *a));
        for (field, alpha) in std::iter::once(("lora_alpha", self.lora_alpha)).chain(alphas) {
            if !alpha.is_finite() {
                return wrong(field, "a finite number", alpha.to_string());
            }
        }
        if !(0.0..1.0).contains(&self.lora_dropout) {
            return wrong("lora_dropout", "a share below 1", self.lora_dropout.to_string());
        }
        Ok(())
    }

    /// The task, by Transformers' name, that [`LoraConfig::task_type`] means.
    pub fn task(&self) -> Option<&'static str> {
        let named = self.task_type.as_deref()?;
        TASKS.iter().find(|(task_type, _)| *task_type == named).map(|(_, task)| *task)
    }

    /// PEFT's name for a task, by Transformers' name.
    pub fn task_type_of(task: &str) -> Option<&'static str> {
        TASKS.iter().find(|(_, name)| *name == task).map(|(task_type, _)| *task_type)
    }

    /// The text of the file, with all fields that PEFT needs to load it.
    pub fn to_json(&self) -> String {
        let modules = |modules: &Option<Modules>| modules.as_ref().map_or(Value::Null, Modules::to_json);
        let list = |names: &[String]| if names.is_empty() { Value::Null } else { json!(names) };
        let fields = json!({
            "alpha_pattern": self.alpha_pattern,
            "auto_mapping": null,
            "base_model_name_or_path": self.base_model_name_or_path,
            "bias": self.bias.name(),
            "exclude_modules": modules(&self.exclude_modules),
            "fan_in_fan_out": self.fan_in_fan_out,
            "inference_mode": true,
            "init_lora_weights": true,
            "layers_pattern": list(&self.layers_pattern),
            "layers_to_transform": self.layers_to_transform,
            "lora_alpha": whole_where_it_is(self.lora_alpha),
            "lora_dropout": self.lora_dropout,
            "modules_to_save": self.modules_to_save.as_deref().map_or(Value::Null, list),
            "peft_type": "LORA",
            "r": self.r,
            "rank_pattern": self.rank_pattern,
            "revision": null,
            "target_modules": modules(&self.target_modules),
            "task_type": self.task_type,
            "use_dora": self.use_dora,
            "use_rslora": self.use_rslora,
        });
        format!("{fields:#}\n")
    }
}

/// PEFT's names of tasks and Transformers'.
const TASKS: &[(&str, &str)] = &[
    ("SEQ_CLS", "text-classification"),
    ("TOKEN_CLS", "token-classification"),
    ("QUESTION_ANS", "question-answering"),
    ("CAUSAL_LM", "text-generation"),
];

/// `16` rather than `16.0`: alpha is a whole number in most files.
fn whole_where_it_is(number: f64) -> Value {
    match number.fract() == 0.0 && number.abs() < 1e15 {
        true => json!(number as i64),
        false => json!(number),
    }
}

/// The fields of a file, and which of them were asked for.
struct Fields<'a> {
    file: &'a Path,
    fields: Map<String, Value>,
    seen: Vec<String>,
}

impl Fields<'_> {
    /// A field that is there and not null.
    fn get(&mut self, name: &str) -> Option<&Value> {
        self.seen.push(name.into());
        self.fields.get(name).filter(|value| !value.is_null())
    }

    fn wrong(&self, field: &str, expected: &str) -> AdapterError {
        let found = self.fields.get(field).map_or("nothing".into(), Value::to_string);
        AdapterError::Field { file: self.file.into(), field: field.into(), expected: expected.into(), found }
    }

    /// A field read by `f`, which gives nothing for a wrong type.
    fn read<T>(
        &mut self,
        name: &str,
        expected: &str,
        f: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, AdapterError> {
        match self.get(name).map(f) {
            None => Ok(None),
            Some(Some(value)) => Ok(Some(value)),
            Some(None) => Err(self.wrong(name, expected)),
        }
    }

    fn refuse(&mut self, name: &str, problem: &str, when: impl FnOnce(&Value) -> bool) -> Result<(), AdapterError> {
        match self.get(name).cloned() {
            Some(value) if when(&value) => {
                let (field, problem) = (name.into(), format!("{value}: {problem}"));
                Err(AdapterError::Unsupported { file: self.file.into(), field, problem })
            }
            _ => Ok(()),
        }
    }

    fn text(&mut self, name: &str) -> Result<Option<String>, AdapterError> {
        self.read(name, "text", |v| v.as_str().map(String::from))
    }

    fn flag(&mut self, name: &str) -> Result<bool, AdapterError> {
        Ok(self.read(name, "true or false", Value::as_bool)?.unwrap_or(false))
    }

    fn number(&mut self, name: &str) -> Result<Option<f64>, AdapterError> {
        self.read(name, "a number", Value::as_f64)
    }

    fn size(&mut self, name: &str) -> Result<Option<usize>, AdapterError> {
        self.read(name, "a whole number", |v| usize::try_from(v.as_u64()?).ok())
    }

    /// One name or a list of them.
    fn names(&mut self, name: &str) -> Result<Option<Vec<String>>, AdapterError> {
        self.read(name, "names", |v| match v {
            Value::String(one) => Some(vec![one.clone()]),
            _ => v.as_array()?.iter().map(|item| item.as_str().map(String::from)).collect(),
        })
    }

    /// One number or a list of them.
    fn layers(&mut self, name: &str) -> Result<Option<Vec<usize>>, AdapterError> {
        let one = |v: &Value| usize::try_from(v.as_u64()?).ok();
        self.read(name, "numbers of layers", |v| match v {
            Value::Array(list) => list.iter().map(one).collect(),
            v => Some(vec![one(v)?]),
        })
    }

    fn modules(&mut self, name: &str) -> Result<Option<Modules>, AdapterError> {
        self.read(name, "names, a regular expression or all-linear", |v| match v {
            Value::String(text) if text == ALL_LINEAR => Some(Modules::AllLinear),
            Value::String(text) => Some(Modules::Pattern(text.clone())),
            _ => {
                let names = v.as_array()?.iter().map(|item| item.as_str().map(String::from));
                Some(Modules::Names(names.collect::<Option<_>>()?))
            }
        })
    }

    fn map<T>(
        &mut self,
        name: &str,
        expected: &str,
        f: impl Fn(&Value) -> Option<T>,
    ) -> Result<BTreeMap<String, T>, AdapterError> {
        let read = |v: &Value| v.as_object()?.iter().map(|(k, v)| Some((k.clone(), f(v)?))).collect();
        Ok(self.read(name, expected, read)?.unwrap_or_default())
    }

    /// A warning for each field that says something and nobody asked for.
    fn unknown(&self) -> Vec<String> {
        let unknown = self.fields.iter().filter(|(name, value)| is_set(value) && !self.seen.contains(name));
        unknown.map(|(name, value)| format!("{}: unknown field `{name}`: {value}", self.file.display())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<LoraConfig, AdapterError> {
        LoraConfig::from_json(text, Path::new("adapter_config.json"))
    }

    /// PE-01, PE-04
    #[test]
    fn fields_and_defaults() {
        let config = read(r#"{"peft_type": "LORA"}"#).unwrap();
        assert_eq!(config, LoraConfig::default());
        let config = read(
            r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": ["q_proj", "v_proj"],
                "exclude_modules": ".*\\.0\\..*", "modules_to_save": ["score"], "bias": "lora_only", "use_rslora": true,
                "rank_pattern": {"v_proj": 2}, "alpha_pattern": {"v_proj": 1.5}, "layers_to_transform": 3, "loftq_config": {},
                "layers_pattern": "layers", "task_type": "CAUSAL_LM", "base_model_name_or_path": "x", "inference_mode": true,
                "megatron_config": {"a": 1}, "quite_new": 7, "also_new": null}"#,
        )
        .unwrap();
        assert_eq!((config.r, config.lora_alpha, config.lora_dropout), (4, 32.0, 0.05));
        assert_eq!(config.target_modules, Some(Modules::Names(vec!["q_proj".into(), "v_proj".into()])));
        assert_eq!(config.exclude_modules, Some(Modules::Pattern(r".*\.0\..*".into())));
        assert_eq!((config.bias, config.use_rslora), (Bias::LoraOnly, true));
        assert_eq!((config.rank_pattern["v_proj"], config.alpha_pattern["v_proj"]), (2, 1.5));
        assert_eq!((config.layers_to_transform.clone(), config.layers_pattern.len()), (Some(vec![3]), 1));
        assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
        assert!(config.warnings[0].contains("quite_new"));
        // What is written is what was read.
        let again = read(&config.to_json()).unwrap();
        assert_eq!(again, LoraConfig { warnings: Vec::new(), ..config });
    }

    /// PE-01
    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            ("{", "not a JSON"),
            ("{}", "`peft_type`: expected LORA, found nothing"),
            (r#"{"peft_type": "IA3"}"#, "found \"IA3\""),
            (r#"{"peft_type": "LORA", "r": 0}"#, "field `r`"),
            (r#"{"peft_type": "LORA", "r": -1}"#, "field `r`"),
            (r#"{"peft_type": "LORA", "r": 4000000000}"#, "field `r`"),
            (r#"{"peft_type": "LORA", "lora_dropout": 1}"#, "field `lora_dropout`"),
            (r#"{"peft_type": "LORA", "target_modules": [1]}"#, "field `target_modules`"),
            (r#"{"peft_type": "LORA", "bias": "some"}"#, "none, all or lora_only"),
            (r#"{"peft_type": "LORA", "init_lora_weights": "pissa_niter_4"}"#, "base model"),
            (r#"{"peft_type": "LORA", "layer_replication": [[0, 4]]}"#, "`layer_replication`"),
            (r#"{"peft_type": "LORA", "rank_pattern": {"a": "b"}}"#, "`rank_pattern`"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(part) && error.starts_with("adapter_config.json"), "{text}: {error}");
        }
    }

    #[test]
    fn modules_of_a_command_line() {
        assert_eq!(Modules::from_text("all-linear"), Modules::AllLinear);
        assert_eq!(Modules::from_text("q, v_proj"), Modules::Names(vec!["q".into(), "v_proj".into()]));
        assert_eq!(Modules::from_text(r".*\.(q|v)"), Modules::Pattern(r".*\.(q|v)".into()));
    }
}
