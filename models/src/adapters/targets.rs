//! Which layers of a model are adapted, and how much: PEFT's matching of names (PE-04). Knows paths of modules, nothing of
//! what stands there.

use std::path::Path;

use regex::Regex;

use super::{AdapterError, CONFIG_FILE, LoraConfig, Modules};

/// PEFT's default targets by model type.
const DEFAULTS: &[(&[&str], &[&str])] = &[
    (
        &["llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "opt", "gptj", "bart"],
        &["q_proj", "v_proj"],
    ),
    (&["gpt2"], &["c_attn"]),
    (&["bert", "roberta", "xlm-roberta", "electra", "layoutlm"], &["query", "value"]),
    (&["t5", "mt5"], &["q", "v"]),
    (&["bloom", "falcon", "gpt_neox", "chatglm"], &["query_key_value"]),
    (&["deberta-v2"], &["query_proj", "value_proj"]),
    (&["phi"], &["q_proj", "v_proj", "fc1", "fc2"]),
    (&["mpt"], &["Wqkv"]),
];

/// The targets of a model type where none are named (PE-04).
pub fn default_targets(model_type: &str) -> Option<Vec<String>> {
    let found = DEFAULTS.iter().find(|(types, _)| types.contains(&model_type));
    found.map(|(_, names)| names.iter().map(|name| name.to_string()).collect())
}

/// Whether the path of a module is this one, or ends in it.
pub(super) fn ends_in(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Modules by name or by compiled expression.
#[derive(Clone, Debug)]
enum Matcher {
    Names(Vec<String>),
    Pattern(Regex),
    All,
}

impl Matcher {
    fn new(modules: &Modules, field: &str) -> Result<Matcher, AdapterError> {
        Ok(match modules {
            Modules::Names(names) => Matcher::Names(names.clone()),
            Modules::Pattern(pattern) => Matcher::Pattern(expression(&format!("^(?:{pattern})$"), field, pattern)?),
            Modules::AllLinear => Matcher::All,
        })
    }

    fn matches(&self, path: &str) -> bool {
        match self {
            Matcher::Names(names) => names.iter().any(|name| ends_in(path, name)),
            Matcher::Pattern(pattern) => pattern.is_match(path),
            Matcher::All => true,
        }
    }
}

/// Compiles an expression; `field` and `pattern` are for the message.
fn expression(text: &str, field: &str, pattern: &str) -> Result<Regex, AdapterError> {
    Regex::new(text).map_err(|_| AdapterError::Field {
        file: Path::new(CONFIG_FILE).into(),
        field: field.into(),
        expected: "a regular expression (without looking around or back)".into(),
        found: pattern.into(),
    })
}

/// Rank and scale of adapters by module.
#[derive(Clone, Debug)]
pub struct Ranks {
    ranks: Vec<(Regex, usize)>,
    alphas: Vec<(Regex, f64)>,
    default: (usize, f64),
    root: bool,
}

impl Ranks {
    /// Those of a configuration.
    ///
    /// # Errors
    /// When a pattern is no regular expression.
    pub fn new(config: &LoraConfig) -> Result<Ranks, AdapterError> {
        let at_the_end = |pattern: &str, field| expression(&format!(r"^(?:.*\.)?(?:{pattern})$"), field, pattern);
        let ranks = config.rank_pattern.iter().map(|(pattern, r)| Ok((at_the_end(pattern, "rank_pattern")?, *r)));
        let alphas = config.alpha_pattern.iter().map(|(pattern, a)| Ok((at_the_end(pattern, "alpha_pattern")?, *a)));
        Ok(Ranks {
            ranks: ranks.collect::<Result<_, AdapterError>>()?,
            alphas: alphas.collect::<Result<_, AdapterError>>()?,
            default: (config.r, config.lora_alpha),
            root: config.use_rslora,
        })
    }

    /// Rank of a module's adapter, and what the product of its factors is multiplied by: `alpha / r`, or with rank-stabilised
    /// scaling `alpha / sqrt(r)` (PE-03).
    pub fn of(&self, module: &str) -> (usize, f64) {
        let rank = self.ranks.iter().find(|(pattern, _)| pattern.is_match(module)).map_or(self.default.0, |(_, r)| *r);
        let alpha =
            self.alphas.iter().find(|(pattern, _)| pattern.is_match(module)).map_or(self.default.1, |(_, a)| *a);
        let by = if self.root { (rank as f64).sqrt() } else { rank as f64 };
        (rank, alpha / by)
    }
}

/// The layers that a configuration means.
#[derive(Clone, Debug)]
pub struct Targets {
    modules: Matcher,
    excluded: Option<Matcher>,
    layers: Option<Vec<usize>>,
    lists: Vec<String>,
}

impl Targets {
    /// Those of a configuration that names some.
    ///
    /// # Errors
    /// When a pattern is no regular expression.
    pub fn new(config: &LoraConfig) -> Result<Targets, AdapterError> {
        let named = config.target_modules.as_ref();
        let modules = named.map_or(Ok(Matcher::Names(Vec::new())), |m| Matcher::new(m, "target_modules"))?;
        let excluded = config.exclude_modules.as_ref().map(|m| Matcher::new(m, "exclude_modules")).transpose()?;
        let layers = config.layers_to_transform.clone().filter(|layers| !layers.is_empty());
        Ok(Targets { modules, excluded, layers, lists: config.layers_pattern.clone() })
    }

    /// Whether all linear layers are meant, which leaves out the head.
    pub fn are_all_linear(&self) -> bool {
        matches!(self.modules, Matcher::All)
    }

    /// Whether the module of this path is meant.
    pub fn include(&self, path: &str) -> bool {
        let excluded = || self.excluded.as_ref().is_some_and(|excluded| excluded.matches(path));
        let layer = || match (&self.layers, &self.modules) {
            (Some(layers), Matcher::Names(names)) if !names.iter().any(|name| name == path) => {
                self.number(path).is_some_and(|number| layers.contains(&number))
            }
            _ => true,
        };
        self.modules.matches(path) && !excluded() && layer()
    }

    /// The number of the layer that a module stands in: the last one that follows a list's name.
    fn number(&self, path: &str) -> Option<usize> {
        let segments: Vec<&str> = path.split('.').collect();
        segments.windows(3).rev().find_map(|three| match three {
            [list, number, _] if self.lists.is_empty() || self.lists.iter().any(|l| l == list) => number.parse().ok(),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(modules: Modules) -> LoraConfig {
        LoraConfig { target_modules: Some(modules), ..LoraConfig::default() }
    }

    /// PE-01: names match at the ends of paths, whole words; expressions match whole paths.
    #[test]
    fn names_and_expressions() {
        let (query, key) = ("bert.encoder.layer.1.attention.self.query", "bert.encoder.layer.10.attention.self.key");
        let names = targets(Modules::Names(vec!["query".into(), "self.key".into()]));
        let found = Targets::new(&names).unwrap();
        assert!(found.include(query) && found.include(key) && found.include("query"));
        assert!(!found.include("bert.encoder.layer.1.attention.self.subquery") && !found.include("self.key.x"));
        let pattern = Targets::new(&targets(Modules::Pattern(r".*\.(query|value)".into()))).unwrap();
        assert!(pattern.include(query) && !pattern.include(key) && !pattern.include("query"));
        let some = LoraConfig { layers_to_transform: Some(vec![1]), ..names.clone() };
        let some = Targets::new(&some).unwrap();
        assert!(some.include(query) && !some.include(key));
        let other =
            LoraConfig { layers_to_transform: Some(vec![1]), layers_pattern: vec!["h".into()], ..names.clone() };
        assert!(!Targets::new(&other).unwrap().include(query));
        let without = LoraConfig { exclude_modules: Some(Modules::Names(vec!["key".into()])), ..names };
        let without = Targets::new(&without).unwrap();
        assert!(without.include(query) && !without.include(key));
        let error = Targets::new(&targets(Modules::Pattern("(".into()))).unwrap_err().to_string();
        assert!(error.contains("target_modules"), "{error}");
    }

    /// PE-03
    #[test]
    fn scales() {
        let config = LoraConfig {
            r: 4,
            lora_alpha: 8.0,
            rank_pattern: [("v".to_string(), 16)].into(),
            alpha_pattern: [("layer.1.v".to_string(), 4.0)].into(),
            ..LoraConfig::default()
        };
        let ranks = Ranks::new(&config).unwrap();
        assert_eq!(ranks.of("layer.0.q"), (4, 2.0));
        assert_eq!(ranks.of("layer.0.v"), (16, 0.5));
        assert_eq!(ranks.of("layer.1.v"), (16, 0.25));
        assert_eq!(ranks.of("layer.1.kv"), (4, 2.0));
        let root = Ranks::new(&LoraConfig { use_rslora: true, ..config }).unwrap();
        assert_eq!((root.of("q"), root.of("v")), ((4, 4.0), (16, 2.0)));
    }
}
