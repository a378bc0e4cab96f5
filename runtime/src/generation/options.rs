//! The options of generation: one declarative table, from which JSON is checked and command-line flags and help are
//! made. Names are Transformers'. Must not know what an option does.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::error::GenerationError;

/// What an option's value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptionKind {
    /// A whole number of at least 0.
    Int,
    /// A number.
    Float,
    /// `true` or `false`; on the command line the bare flag means `true`.
    Bool,
    /// `true`, `false` or one of these words.
    Switch(&'static [&'static str]),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// One text or a list of texts; on the command line the flag is repeated.
    Texts,
    /// A token id or a list of them; on the command line separated by commas.
    Ids,
    /// Lists of token ids; on the command line JSON.
    IdLists,
    /// Pairs of token ids and a number: `[[[ids], bias], ...]`; on the command line JSON.
    Biases,
    /// Token ids and a number each: `{"id": bias}`; on the command line JSON.
    Bias,
    /// A whole number and a factor: `[start, factor]`; on the command line JSON.
    Decay,
    /// Anything: of no meaning to a compiled model, accepted so that configurations stay valid.
    Any,
}

/// One option.
#[derive(Debug, Clone, Copy)]
pub struct OptionSpec {
    /// Its name, as in Transformers; on the command line with dashes for underscores.
    pub name: &'static str,
    /// What its value looks like.
    pub kind: OptionKind,
    /// What holds without it, for help texts.
    pub default: &'static str,
    /// What it does, in one line.
    pub help: &'static str,
}

const fn option(name: &'static str, kind: OptionKind, default: &'static str, help: &'static str) -> OptionSpec {
    OptionSpec { name, kind, default, help }
}

use OptionKind::{Any, Bias, Biases, Bool, Choice, Decay, Float, IdLists, Ids, Int, Switch, Texts};

/// Names that upstream knows and that mean nothing here, since a compiled model has one cache and no recording of inner
/// values.
const NO_EFFECT: &str = "accepted without effect on a compiled model";
/// Names that upstream knows and that cannot be had: a value other than `null` is an error.
pub(super) const NOT_SUPPORTED: &str = "not supported";

/// All options of generation. (GE-01)
pub const OPTIONS: &[OptionSpec] = &[
    // Length.
    option("max_new_tokens", Int, "20", "most new tokens; goes before max_length"),
    option("max_length", Int, "prompt + 20", "most tokens with the prompt"),
    option("min_new_tokens", Int, "0", "no end token before this many new tokens"),
    option("min_length", Int, "0", "no end token before this many tokens with the prompt"),
    option("max_time", Float, "no limit", "seconds after which generation ends"),
    option("stop_strings", Texts, "none", "end when the text holds one of these; it stays in the text"),
    // Strategy.
    option("do_sample", Bool, "false", "draw tokens at random in place of the likeliest"),
    option("seed", Int, "a fresh one", "same seed and request, same text, whatever else runs"),
    option("num_return_sequences", Int, "1", "results for each prompt"),
    option("num_beams", Int, "1", "beams of beam search; 1 is none"),
    option("early_stopping", Switch(&["never"]), "false", "end of beam search: true, false (heuristic) or never"),
    option("length_penalty", Float, "1.0", "beam scores are divided by length to this power"),
    option("num_beam_groups", Int, "1", "groups of beams that differ from each other"),
    option("diversity_penalty", Float, "0.0", "taken off scores of tokens that other groups chose"),
    option("penalty_alpha", Float, "none", "contrastive search: weight of likeness to earlier tokens, with top_k"),
    // Distribution.
    option("temperature", Float, "1.0", "scores are divided by this; below 1 sharper, above 1 flatter"),
    option("top_k", Int, "50", "keep the k likeliest tokens; 0 keeps all"),
    option("top_p", Float, "1.0", "keep the likeliest tokens that make up this probability"),
    option("min_p", Float, "none", "keep tokens at least this probable relative to the likeliest"),
    option("top_h", Float, "none", "keep the likeliest tokens up to this share of the entropy"),
    option("typical_p", Float, "1.0", "keep the tokens nearest to the expected surprise that make up this probability"),
    option("epsilon_cutoff", Float, "0.0", "keep tokens at least this probable"),
    option("eta_cutoff", Float, "0.0", "keep tokens at least this probable, less at high entropy"),
    option("renormalize_logits", Bool, "false", "make scores log-probabilities again at the end"),
    // Scores.
    option("repetition_penalty", Float, "1.0", "above 1 makes tokens of prompt and text less likely"),
    option("encoder_repetition_penalty", Float, "1.0", "above 1 makes tokens of the prompt more likely"),
    option("frequency_penalty", Float, "0.0", "taken off a token's score for each time it was generated"),
    option("presence_penalty", Float, "0.0", "taken off the score of each token that was generated"),
    option("no_repeat_ngram_size", Int, "0", "no n tokens in a row twice"),
    option("encoder_no_repeat_ngram_size", Int, "0", "no n tokens in a row that are in the prompt"),
    option("bad_words_ids", IdLists, "none", "sequences of tokens that may not come"),
    option("sequence_bias", Biases, "none", "numbers added to the score of a token that completes a sequence"),
    option("logit_bias", Bias, "none", "numbers added to the scores of tokens"),
    option("suppress_tokens", Ids, "none", "tokens that may not come"),
    option("begin_suppress_tokens", Ids, "none", "tokens that may not come first"),
    option("forced_bos_token_id", Ids, "none", "token after a prompt of one token"),
    option("forced_eos_token_id", Ids, "none", "token at the length limit"),
    option("exponential_decay_length_penalty", Decay, "none", "[start, factor]: end token likelier from start on"),
    option("remove_invalid_values", Bool, "false", "replace NaN and infinite scores"),
    option("guidance_scale", Float, "1.0", "above 1 follows the prompt more, against negative_prompt_ids"),
    option("negative_prompt_ids", Ids, "the last token", "what guidance_scale leads away from"),
    // Special tokens.
    option("eos_token_id", Ids, "the model's", "tokens that end the text"),
    option("pad_token_id", Int, "the first end token", "token that fills rows of a batch"),
    option("bos_token_id", Int, "the model's", "first token of an empty prompt"),
    // Speculation.
    option("prompt_lookup_num_tokens", Int, "none", "guess this many tokens from the prompt; same text, faster"),
    option("max_matching_ngram_size", Int, "2", "longest match that prompt lookup looks for"),
    option("num_assistant_tokens", Int, "20", "tokens the draft model guesses at once"),
    option(
        "num_assistant_tokens_schedule",
        Choice(&["constant", "heuristic", "heuristic_transient"]),
        "constant",
        "how the number of guessed tokens follows their success",
    ),
    option("assistant_confidence_threshold", Float, "0.4", "the draft ends with a token less probable than this"),
    // Outputs.
    option("logprobs", Int, "none", "give the model's log-probability of each token, and of this many likeliest"),
    option("output_scores", Bool, "false", "give the processed scores of each step"),
    option("output_logits", Bool, "false", "give the model's logits of each step"),
    option("return_dict_in_generate", Bool, "false", "accepted: results are always complete"),
    // The machine.
    option(
        "prefill_chunk_size",
        Int,
        "512",
        "most prompt tokens in one call of the model; results do not depend on it",
    ),
    option("use_cache", Bool, "true", NO_EFFECT),
    option("cache_implementation", Any, "paged", NO_EFFECT),
    option("cache_config", Any, "none", NO_EFFECT),
    option("max_cache_len", Any, "none", NO_EFFECT),
    option("compile_config", Any, "none", NO_EFFECT),
    option("disable_compile", Any, "false", NO_EFFECT),
    option("low_memory", Any, "false", NO_EFFECT),
    option("output_attentions", Bool, "false", NOT_SUPPORTED),
    option("output_hidden_states", Bool, "false", NOT_SUPPORTED),
    option("decoder_start_token_id", Any, "none", "of encoder-decoder models; without effect"),
    option("is_assistant", Any, "false", NO_EFFECT),
    option("assistant_lookbehind", Any, "10", "of draft models with another tokenizer; without effect"),
    option("target_lookbehind", Any, "10", "of draft models with another tokenizer; without effect"),
    option("token_healing", Bool, "false", NOT_SUPPORTED),
    option("watermarking_config", Any, "none", NOT_SUPPORTED),
    option("constraints", Any, "none", NOT_SUPPORTED),
    option("force_words_ids", Any, "none", NOT_SUPPORTED),
    option("dola_layers", Any, "none", NOT_SUPPORTED),
    option("use_mtp", Bool, "false", NOT_SUPPORTED),
    option("assistant_early_exit", Any, "none", NOT_SUPPORTED),
    option("assistant_ensemble_weight", Any, "none", NOT_SUPPORTED),
    option("speculation_type", Any, "none", NOT_SUPPORTED),
];

/// The row of an option.
pub fn option_named(name: &str) -> Option<&'static OptionSpec> {
    OPTIONS.iter().find(|spec| spec.name == name)
}

fn is_id(value: &Value) -> bool {
    value.as_u64().is_some_and(|n| n <= u64::from(u32::MAX))
}

fn is_ids(value: &Value) -> bool {
    value.as_array().is_some_and(|ids| ids.iter().all(is_id))
}

impl OptionSpec {
    /// The value, when it is of the option's kind.
    fn accept(&self, value: Value) -> Result<Value, GenerationError> {
        let word = |words: &[&str]| value.as_str().is_some_and(|w| words.contains(&w));
        let pair = |v: &Value, head: fn(&Value) -> bool| {
            v.as_array().is_some_and(|p| p.len() == 2 && head(&p[0]) && p[1].is_number())
        };
        let fits = value.is_null()
            || match self.kind {
                Int => is_id(&value) || self.name == "seed" && value.is_u64(),
                Float => value.as_f64().is_some_and(f64::is_finite),
                Bool => value.is_boolean(),
                Switch(words) => value.is_boolean() || word(words),
                Choice(words) => word(words),
                Texts => value.is_string() || value.as_array().is_some_and(|texts| texts.iter().all(Value::is_string)),
                Ids => is_id(&value) || is_ids(&value),
                IdLists => value.as_array().is_some_and(|lists| lists.iter().all(is_ids)),
                Biases => value.as_array().is_some_and(|pairs| pairs.iter().all(|p| pair(p, is_ids))),
                Bias => value
                    .as_object()
                    .is_some_and(|map| map.iter().all(|(id, bias)| id.parse::<u32>().is_ok() && bias.is_number())),
                Decay => pair(&value, is_id),
                Any => true,
            };
        if !fits {
            return Err(GenerationError::option(self.name, format!("expected {}, found {value}", self.expected())));
        }
        if self.help == NOT_SUPPORTED && !matches!(value, Value::Null | Value::Bool(false)) {
            return Err(GenerationError::option(self.name, NOT_SUPPORTED));
        }
        Ok(value)
    }

    fn expected(&self) -> String {
        match self.kind {
            Int => "a whole number of at least 0".into(),
            Float => "a number".into(),
            Bool => "true or false".into(),
            Switch(words) => format!("true, false or {}", words.join(", ")),
            Choice(words) => format!("one of {}", words.join(", ")),
            Texts => "a text or a list of texts".into(),
            Ids => "a token id or a list of them".into(),
            IdLists => "a list of lists of token ids".into(),
            Biases => "a list of [token ids, number]".into(),
            Bias => "an object of token ids and numbers".into(),
            Decay => "[start, factor]".into(),
            Any => "any value".into(),
        }
    }

    /// The JSON value of a command-line text.
    fn parse(&self, text: &str) -> Result<Value, GenerationError> {
        let json = || serde_json::from_str::<Value>(text);
        let value = match self.kind {
            _ if text.eq_ignore_ascii_case("none") => Value::Null,
            Texts => json!(text),
            Ids if !text.trim_start().starts_with('[') => {
                let ids = text.split(',').map(|id| id.trim().parse::<u32>().map(Value::from));
                ids.collect::<Result<_, _>>().map_or_else(|_| json!(text), Value::Array)
            }
            // Texts that are no JSON are words, or refused as such by their kind.
            _ => json().unwrap_or_else(|_| json!(text)),
        };
        self.accept(value)
    }
}

/// Options that are given: by a call, by a caller's configuration or by the model's `generation_config.json`. What is
/// absent or `null` is left to the next one in that order ([`GenerationConfig::over`]), at last to the defaults. (GE-01)
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationConfig {
    values: BTreeMap<&'static str, Value>,
}

impl GenerationConfig {
    /// No option given.
    pub fn new() -> Self {
        GenerationConfig::default()
    }

    /// Options by name.
    ///
    /// # Errors
    /// [`GenerationError::UnknownOption`] listing the known ones (GE-04), or [`GenerationError::Option`].
    pub fn from_json(values: &Map<String, Value>) -> Result<Self, GenerationError> {
        let mut config = GenerationConfig::new();
        for (name, value) in values {
            config.set(name, value.clone())?;
        }
        Ok(config)
    }

    /// A model's `generation_config.json`: entries that are unknown, or whose value cannot be used, are left out, each
    /// with a warning; those that only say where the file comes from are left out silently.
    pub fn from_model(values: &Map<String, Value>) -> (Self, Vec<String>) {
        const ORIGIN: [&str; 3] = ["_from_model_config", "transformers_version", "_commit_hash"];
        let mut config = GenerationConfig::new();
        let mut warnings = Vec::new();
        for (name, value) in values.iter().filter(|(name, _)| !ORIGIN.contains(&name.as_str())) {
            match option_named(name) {
                // Upstream's way of saying that there is none.
                Some(spec) if spec.kind == Int && value.as_i64() == Some(-1) => {}
                Some(_) => {
                    if let Err(error) = config.set(name, value.clone()) {
                        warnings.push(format!("generation_config.json: {error}; it is left out"));
                    }
                }
                None => warnings.push(format!("generation_config.json: unknown entry {name:?} is left out")),
            }
        }
        (config, warnings)
    }

    /// Sets an option from a JSON value.
    ///
    /// # Errors
    /// As [`GenerationConfig::from_json`].
    pub fn set(&mut self, name: &str, value: Value) -> Result<(), GenerationError> {
        let spec = option_named(name).ok_or_else(|| GenerationError::UnknownOption {
            name: name.into(),
            known: OPTIONS.iter().map(|spec| spec.name).collect::<Vec<_>>().join(", "),
        })?;
        self.values.insert(spec.name, spec.accept(value)?);
        Ok(())
    }

    /// Sets an option from the command line: `text` is the flag's value, `None` for a bare flag. A list of texts grows
    /// with each call.
    ///
    /// # Errors
    /// As [`GenerationConfig::from_json`].
    pub fn set_text(&mut self, name: &str, text: Option<&str>) -> Result<(), GenerationError> {
        let name = name.replace('-', "_");
        let Some(spec) = option_named(&name) else {
            return self.set(&name, Value::Null);
        };
        let value = match (text, spec.kind) {
            (Some(text), _) => spec.parse(text)?,
            (None, Bool | Switch(_)) => Value::Bool(true),
            (None, _) => return Err(GenerationError::option(spec.name, "a value is missing")),
        };
        let value = match (self.values.remove(spec.name), spec.kind) {
            (Some(Value::Array(mut items)), Texts) => {
                items.push(value);
                Value::Array(items)
            }
            (Some(first @ Value::String(_)), Texts) => Value::Array(vec![first, value]),
            _ => value,
        };
        self.set(spec.name, value)
    }

    /// These options, and those of `base` that are not given here.
    pub fn over(&self, base: &GenerationConfig) -> GenerationConfig {
        let mut values = base.values.clone();
        values.extend(self.given().map(|(name, value)| (name, value.clone())));
        GenerationConfig { values }
    }

    /// The options given, by name.
    pub fn given(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        self.values.iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (*name, value))
    }

    /// An option's value, if given.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn int(&self, name: &str) -> Option<usize> {
        self.get(name)?.as_u64().and_then(|n| usize::try_from(n).ok())
    }

    pub(super) fn float(&self, name: &str) -> Option<f64> {
        self.get(name)?.as_f64()
    }

    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        self.get(name)?.as_bool()
    }

    /// Token ids; a single one is a list of one.
    pub(super) fn ids(&self, name: &str) -> Option<Vec<u32>> {
        self.get(name).map(ids)
    }

    /// Texts; a single one is a list of one.
    pub(super) fn texts(&self, name: &str) -> Vec<String> {
        match self.get(name) {
            Some(Value::String(text)) => vec![text.clone()],
            Some(Value::Array(texts)) => texts.iter().filter_map(Value::as_str).map(String::from).collect(),
            _ => Vec::new(),
        }
    }

    pub(super) fn id_lists(&self, name: &str) -> Option<Vec<Vec<u32>>> {
        Some(self.get(name)?.as_array()?.iter().map(ids).collect())
    }

    /// Pairs of ids and a number, of either form: `[[[ids], x], ...]` or `{"id": x}`.
    pub(super) fn biases(&self, name: &str) -> Vec<(Vec<u32>, f32)> {
        let number = |v: &Value| v.as_f64().unwrap_or(0.0) as f32;
        match self.get(name) {
            Some(Value::Array(pairs)) => pairs.iter().map(|p| (ids(&p[0]), number(&p[1]))).collect(),
            Some(Value::Object(map)) => {
                map.iter().filter_map(|(id, bias)| Some((vec![id.parse().ok()?], number(bias)))).collect()
            }
            _ => Vec::new(),
        }
    }

    pub(super) fn decay(&self, name: &str) -> Option<(usize, f64)> {
        let pair = self.get(name)?;
        Some((usize::try_from(pair[0].as_u64()?).ok()?, pair[1].as_f64()?))
    }
}

/// The ids of a value that was accepted as such; a single one is a list of one.
fn ids(value: &Value) -> Vec<u32> {
    let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
    match value {
        Value::Array(items) => items.iter().filter_map(id).collect(),
        one => id(one).into_iter().collect(),
    }
}
