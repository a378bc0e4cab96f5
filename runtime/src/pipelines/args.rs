//! The arguments of each task: one declarative table, from which values are checked and command-line flags are made.
//! Must not know what a task does with them.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::error::PipelineError;
use super::model::Task;
use crate::generation::{GenerationConfig, OPTIONS, OptionKind, option_named};

/// What an argument's value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArgKind {
    /// A whole number of at least 0.
    Int,
    /// `true` or `false`; on the command line the bare flag means `true`.
    Bool,
    /// A text.
    Text,
    /// One of these words, in any case.
    Choice(&'static [&'static str]),
    /// `true`, `false` or one of these words; on the command line the bare flag means `true`.
    Switch(&'static [&'static str]),
    /// Several texts; on the command line the flag is repeated.
    List,
    /// A JSON object.
    Object,
    /// A JSON list of objects.
    Objects,
    /// An option of generation, whose own table says what its value looks like ([`crate::generation::option_named`]).
    Generation,
}

/// One argument of a task.
#[derive(Debug, Clone, Copy)]
pub struct ArgSpec {
    /// Its name, as in Transformers; on the command line with dashes for underscores.
    pub name: &'static str,
    /// What its value looks like.
    pub kind: ArgKind,
    /// Whether `null` (on the command line: `none`) is a value of its own.
    pub nullable: bool,
    /// What holds without it, for help texts.
    pub default: &'static str,
    /// What it does, in one line.
    pub help: &'static str,
}

const fn arg(name: &'static str, kind: ArgKind, default: &'static str, help: &'static str) -> ArgSpec {
    ArgSpec { name, kind, nullable: false, default, help }
}

const TRUNCATIONS: &[&str] = &["longest_first", "only_first", "only_second", "do_not_truncate"];
const PADDINGS: &[&str] = &["longest", "max_length", "do_not_pad"];

const BATCH_SIZE: ArgSpec = arg(
    "batch_size",
    ArgKind::Int,
    "by tokens",
    "most sequences in one call of the model; results do not depend on it",
);
const BATCH_TOKENS: ArgSpec = arg(
    "batch_tokens",
    ArgKind::Int,
    "4096",
    "most tokens in one call of the model, but for a longer input alone; results do not depend on it",
);
const TRUNCATION: ArgSpec = arg("truncation", ArgKind::Switch(TRUNCATIONS), "false", "cut texts that are too long");
const MAX_LENGTH: ArgSpec =
    arg("max_length", ArgKind::Int, "the model's limit", "length to cut to, in tokens with special ones");
const PADDING: ArgSpec =
    arg("padding", ArgKind::Switch(PADDINGS), "false", "accepted without effect: sequences are never padded");
const TOP_K: &str = "top_k";

const TEXT_CLASSIFICATION: &[ArgSpec] = &[
    ArgSpec {
        nullable: true,
        ..arg(TOP_K, ArgKind::Int, "the best alone", "number of labels to give, best first; none gives all")
    },
    arg(
        "function_to_apply",
        ArgKind::Choice(&["default", "sigmoid", "softmax", "none"]),
        "default",
        "how logits become scores; by default softmax, sigmoid for one label or several at once, none for regression",
    ),
    arg("return_all_scores", ArgKind::Bool, "false", "older name of top_k=none"),
    TRUNCATION,
    MAX_LENGTH,
    PADDING,
    BATCH_SIZE,
    BATCH_TOKENS,
];

const TOKEN_CLASSIFICATION: &[ArgSpec] = &[
    arg(
        "aggregation_strategy",
        ArgKind::Choice(&["none", "simple", "first", "average", "max"]),
        "none",
        "how tokens are joined to entities: not at all, by tags, or by tags decided a word",
    ),
    arg("ignore_labels", ArgKind::List, "O", "labels to leave out"),
    arg(
        "stride",
        ArgKind::Int,
        "cut at the model's limit",
        "read long texts in windows that overlap by this many tokens; needs an aggregation strategy",
    ),
    arg("is_split_into_words", ArgKind::Bool, "false", "inputs are lists of words"),
    arg("delimiter", ArgKind::Text, "one space", "what stands between words when offsets are counted"),
    arg("grouped_entities", ArgKind::Bool, "false", "older name of aggregation_strategy=simple"),
    BATCH_SIZE,
    BATCH_TOKENS,
];

const FILL_MASK: &[ArgSpec] = &[
    arg(TOP_K, ArgKind::Int, "5", "number of tokens to give for each mask"),
    arg("targets", ArgKind::List, "the whole vocabulary", "give only these tokens"),
    arg("tokenizer_kwargs", ArgKind::Object, "{}", "options of the tokenizer: truncation, max_length"),
    BATCH_SIZE,
    BATCH_TOKENS,
];

const QUESTION_ANSWERING: &[ArgSpec] = &[
    arg(TOP_K, ArgKind::Int, "1", "number of answers to give"),
    arg("topk", ArgKind::Int, "1", "older name of top_k"),
    arg(
        "doc_stride",
        ArgKind::Int,
        "half of max_seq_len, at most 128",
        "tokens by which windows of a long context overlap",
    ),
    arg("max_answer_len", ArgKind::Int, "15", "longest answer, in tokens"),
    arg(
        "max_seq_len",
        ArgKind::Int,
        "the model's limit, at most 384",
        "length of a window with the question, in tokens",
    ),
    arg("max_question_len", ArgKind::Int, "no limit", "accepted without effect, as upstream: only the context is cut"),
    arg("handle_impossible_answer", ArgKind::Bool, "false", "let the empty answer take part"),
    arg("align_to_words", ArgKind::Bool, "true", "widen answers to whole words"),
    PADDING,
    BATCH_SIZE,
    BATCH_TOKENS,
];

const FEATURE_EXTRACTION: &[ArgSpec] = &[
    TRUNCATION,
    arg("tokenize_kwargs", ArgKind::Object, "{}", "options of the tokenizer: truncation, max_length"),
    BATCH_SIZE,
    BATCH_TOKENS,
];

const ZERO_SHOT_CLASSIFICATION: &[ArgSpec] = &[
    arg("candidate_labels", ArgKind::List, "required", "the labels to choose from; a single text is split at commas"),
    arg("hypothesis_template", ArgKind::Text, "This example is {}.", "sentence that a label is put into, at {}"),
    arg("multi_label", ArgKind::Bool, "false", "judge each label by itself"),
    BATCH_SIZE,
    BATCH_TOKENS,
];

const SENTENCE_EMBEDDING: &[ArgSpec] = &[
    arg(
        "similarity",
        ArgKind::Bool,
        "false",
        "give the cosine similarities to all inputs of the call in place of the vectors",
    ),
    BATCH_SIZE,
    BATCH_TOKENS,
];

const TEXT_GENERATION: &[ArgSpec] = &[
    arg("return_full_text", ArgKind::Bool, "true", "give the prompt before the new text"),
    arg("return_text", ArgKind::Bool, "true", "give texts"),
    arg("return_tensors", ArgKind::Bool, "false", "give token ids, of prompt and text, in place of texts"),
    arg("skip_special_tokens", ArgKind::Bool, "true", "leave special tokens out of the text"),
    arg("clean_up_tokenization_spaces", ArgKind::Bool, "the tokenizer's", "remove spaces before punctuation"),
    arg("prefix", ArgKind::Text, "none", "text before every prompt, not part of the answer"),
    arg("stop_sequence", ArgKind::List, "none", "older name of stop_strings"),
    ArgSpec {
        nullable: true,
        ..arg(
            "handle_long_generation",
            ArgKind::Choice(&["hole"]),
            "none",
            "hole: cut the beginning of a prompt that leaves no room for the new tokens",
        )
    },
    TRUNCATION,
    PADDING,
    arg(
        "add_special_tokens",
        ArgKind::Bool,
        "true",
        "surround a text with the model's special tokens; not a conversation",
    ),
    arg(
        "continue_final_message",
        ArgKind::Bool,
        "whether the last message is the assistant's",
        "go on with the last message in place of answering it",
    ),
    arg("tools", ArgKind::Objects, "none", "JSON schemas of functions that the model may call in a conversation"),
    arg("documents", ArgKind::Objects, "none", "documents (title, text) to answer from in a conversation"),
    arg("chat_template", ArgKind::Text, "the model's", "name of one of the model's chat templates, or a template"),
    arg("chat_template_kwargs", ArgKind::Object, "{}", "variables of the chat template, such as enable_thinking"),
    arg(
        "tokenizer_encode_kwargs",
        ArgKind::Object,
        "{}",
        "options of the tokenizer (truncation, max_length, add_special_tokens); for a conversation of its template",
    ),
    BATCH_SIZE,
];

/// What the pipeline sets where neither call nor model does. (PC-09)
const TEXT_GENERATION_DEFAULTS: &[(&str, &str)] =
    &[("max_new_tokens", "256"), ("do_sample", "true"), ("temperature", "0.7")];

static TEXT_GENERATION_ALL: LazyLock<Vec<ArgSpec>> = LazyLock::new(|| {
    let options = OPTIONS.iter().map(|option| {
        let own = TEXT_GENERATION_DEFAULTS.iter().find(|(name, _)| *name == option.name);
        let default = own.map_or(option.default, |(_, default)| default);
        ArgSpec { nullable: true, ..arg(option.name, ArgKind::Generation, default, option.help) }
    });
    TEXT_GENERATION.iter().copied().chain(options).collect()
});

impl Task {
    /// The arguments the task takes.
    pub fn args(self) -> &'static [ArgSpec] {
        match self {
            Task::TextClassification => TEXT_CLASSIFICATION,
            Task::TokenClassification => TOKEN_CLASSIFICATION,
            Task::FillMask => FILL_MASK,
            Task::QuestionAnswering => QUESTION_ANSWERING,
            Task::FeatureExtraction => FEATURE_EXTRACTION,
            Task::ZeroShotClassification => ZERO_SHOT_CLASSIFICATION,
            Task::SentenceEmbedding => SENTENCE_EMBEDDING,
            Task::TextGeneration => &TEXT_GENERATION_ALL,
        }
    }

    fn spec(self, name: &str) -> Result<&'static ArgSpec, PipelineError> {
        self.args().iter().find(|spec| spec.name == name).ok_or_else(|| PipelineError::UnknownArgument {
            task: self.to_string(),
            name: name.into(),
            known: self.args().iter().map(|spec| spec.name).collect::<Vec<_>>().join(", "),
        })
    }
}

impl ArgSpec {
    /// Whether the bare flag means `true` on the command line.
    pub fn is_flag(&self) -> bool {
        match self.kind {
            ArgKind::Bool | ArgKind::Switch(_) => true,
            ArgKind::Generation => {
                option_named(self.name).is_some_and(|o| matches!(o.kind, OptionKind::Bool | OptionKind::Switch(_)))
            }
            _ => false,
        }
    }

    /// Whether the flag may be repeated on the command line.
    pub fn is_list(&self) -> bool {
        let texts = || option_named(self.name).is_some_and(|o| o.kind == OptionKind::Texts);
        self.kind == ArgKind::List || (self.kind == ArgKind::Generation && texts())
    }

    /// The value of a JSON argument, in the one form that the task reads.
    fn accept(&self, value: Value) -> Result<Value, PipelineError> {
        let shown = value.to_string();
        let wrong = |expected: &str| PipelineError::argument(self.name, format!("expected {expected}, found {shown}"));
        let word = |words: &[&str]| {
            let given = value.as_str().map(str::to_ascii_lowercase).filter(|w| words.contains(&w.as_str()));
            given.map(Value::from).ok_or_else(|| wrong(&format!("one of {}", words.join(", "))))
        };
        if value.is_null() && self.nullable {
            return Ok(value);
        }
        match self.kind {
            ArgKind::Int if value.is_u64() => Ok(value),
            ArgKind::Int => Err(wrong("a whole number of at least 0")),
            ArgKind::Bool if value.is_boolean() => Ok(value),
            ArgKind::Bool => Err(wrong("true or false")),
            ArgKind::Text if value.is_string() => Ok(value),
            ArgKind::Text => Err(wrong("a text")),
            ArgKind::Choice(words) => word(words),
            ArgKind::Switch(_) if value.is_boolean() => Ok(Value::from(shown)),
            ArgKind::Switch(words) => word(words),
            ArgKind::List => match &value {
                Value::String(_) => Ok(value),
                Value::Array(items) if items.iter().all(Value::is_string) => Ok(value),
                _ => Err(wrong("a text or a list of texts")),
            },
            ArgKind::Object if value.is_object() => Ok(value),
            ArgKind::Object => Err(wrong("a JSON object")),
            ArgKind::Objects if value.as_array().is_some_and(|items| items.iter().all(Value::is_object)) => Ok(value),
            ArgKind::Objects => Err(wrong("a list of JSON objects")),
            ArgKind::Generation => {
                let mut config = GenerationConfig::new();
                config.set(self.name, value)?;
                Ok(config.get(self.name).cloned().unwrap_or_default())
            }
        }
    }

    /// The JSON value of a command-line text.
    fn parse(&self, text: &str) -> Result<Value, PipelineError> {
        let none = self.nullable && text.eq_ignore_ascii_case("none");
        let flag = text.parse::<bool>().map(Value::from);
        self.accept(match self.kind {
            _ if none => Value::Null,
            ArgKind::Int => text.parse::<u64>().map_or_else(|_| json!(text), Value::from),
            ArgKind::Bool | ArgKind::Switch(_) => flag.unwrap_or_else(|_| json!(text)),
            ArgKind::Text | ArgKind::Choice(_) | ArgKind::List => json!(text),
            ArgKind::Generation => {
                let mut config = GenerationConfig::new();
                config.set_text(self.name, Some(text))?;
                config.get(self.name).cloned().unwrap_or_default()
            }
            ArgKind::Object | ArgKind::Objects => {
                serde_json::from_str(text).map_err(|e| PipelineError::argument(self.name, format!("not JSON: {e}")))?
            }
        })
    }
}

/// Arguments of one call, checked against the table of their task.
#[derive(Debug, Clone, PartialEq)]
pub struct Args {
    task: Task,
    values: BTreeMap<&'static str, Value>,
}

impl Args {
    /// No arguments: every default holds.
    pub fn new(task: Task) -> Self {
        Args { task, values: BTreeMap::new() }
    }

    /// Arguments by name.
    ///
    /// # Errors
    /// [`PipelineError::UnknownArgument`] listing the known ones (PI-01), or [`PipelineError::Argument`].
    pub fn from_json(task: Task, values: &Map<String, Value>) -> Result<Self, PipelineError> {
        let mut args = Args::new(task);
        for (name, value) in values {
            args.set(name, value.clone())?;
        }
        Ok(args)
    }

    /// Sets an argument from a JSON value.
    ///
    /// # Errors
    /// As [`Args::from_json`].
    pub fn set(&mut self, name: &str, value: Value) -> Result<(), PipelineError> {
        let spec = self.task.spec(name)?;
        self.values.insert(spec.name, spec.accept(value)?);
        Ok(())
    }

    /// Sets an argument from the command line: `text` is the flag's value, `None` for a bare flag. A list grows with each
    /// call.
    ///
    /// # Errors
    /// As [`Args::from_json`].
    pub fn set_text(&mut self, name: &str, text: Option<&str>) -> Result<(), PipelineError> {
        let spec = self.task.spec(&name.replace('-', "_"))?;
        let value = match (text, spec.kind) {
            (Some(text), _) => spec.parse(text)?,
            (None, ArgKind::Bool | ArgKind::Switch(_)) => spec.accept(Value::Bool(true))?,
            (None, ArgKind::Generation) if spec.is_flag() => spec.accept(Value::Bool(true))?,
            (None, _) => return Err(PipelineError::argument(spec.name, "a value is missing")),
        };
        let value = match self.values.remove(spec.name).filter(|_| spec.is_list()) {
            Some(Value::Array(mut items)) => {
                items.push(value);
                Value::Array(items)
            }
            Some(first) => Value::Array(vec![first, value]),
            None => value,
        };
        self.values.insert(spec.name, value);
        Ok(())
    }

    /// The task whose arguments these are.
    pub fn task(&self) -> Task {
        self.task
    }

    /// These arguments, and those of `defaults` that are not given here. (PI-01)
    pub fn over(&self, defaults: &Args) -> Args {
        let mut values = defaults.values.clone();
        values.extend(self.values.iter().map(|(name, value)| (*name, value.clone())));
        Args { task: self.task, values }
    }

    /// The value given, `Some(Null)` included.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    pub(super) fn int(&self, name: &str) -> Option<usize> {
        self.get(name)?.as_u64().map(|n| usize::try_from(n).unwrap_or(usize::MAX))
    }

    /// An integer that must be at least 1.
    pub(crate) fn positive(&self, name: &str) -> Result<Option<usize>, PipelineError> {
        match self.int(name) {
            Some(0) => Err(PipelineError::argument(name, "must be at least 1")),
            n => Ok(n),
        }
    }

    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        self.get(name)?.as_bool()
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.get(name)?.as_str()
    }

    /// The objects of a list.
    pub(super) fn objects(&self, name: &str) -> Option<&[Value]> {
        self.get(name)?.as_array().map(Vec::as_slice)
    }

    /// The options of generation among the arguments.
    pub(super) fn generation(&self) -> Result<GenerationConfig, PipelineError> {
        let mut config = GenerationConfig::new();
        for spec in self.task.args().iter().filter(|spec| spec.kind == ArgKind::Generation) {
            if let Some(value) = self.get(spec.name) {
                config.set(spec.name, value.clone())?;
            }
        }
        Ok(config)
    }

    /// The texts of a list; a single text is a list of one.
    pub(super) fn list(&self, name: &str) -> Option<Vec<&str>> {
        match self.get(name)? {
            Value::String(text) => Some(vec![text]),
            Value::Array(items) => Some(items.iter().filter_map(Value::as_str).collect()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(task: Task, given: &[(&str, Option<&str>)]) -> Result<Args, PipelineError> {
        let mut args = Args::new(task);
        given.iter().try_for_each(|(name, text)| args.set_text(name, *text))?;
        Ok(args)
    }

    /// PI-01: a name the task does not have is an error that lists those it has.
    #[test]
    fn pi_01_unknown_argument() {
        let error = flags(Task::FillMask, &[("stride", Some("3"))]).unwrap_err();
        assert!(error.is_usage());
        let message = error.to_string();
        assert!(message.contains("fill-mask") && message.contains("top_k, targets"), "{message}");
    }

    /// PI-01: call arguments override those given at construction.
    #[test]
    fn pi_01_call_overrides_construction() {
        let built = flags(Task::FillMask, &[("top-k", Some("2")), ("batch-size", Some("7"))]).unwrap();
        let args = flags(Task::FillMask, &[("top-k", Some("3"))]).unwrap().over(&built);
        assert_eq!((args.int("top_k"), args.int("batch_size")), (Some(3), Some(7)));
    }

    #[test]
    fn flags_and_json_agree() {
        let given = [
            ("aggregation-strategy", Some("SIMPLE")),
            ("ignore-labels", Some("O")),
            ("ignore-labels", Some("B-PER")),
            ("ignore-labels", Some("I-PER")),
            ("is-split-into-words", None),
            ("grouped-entities", Some("false")),
            ("stride", Some("4")),
        ];
        let json = json!({
            "aggregation_strategy": "simple", "ignore_labels": ["O", "B-PER", "I-PER"],
            "is_split_into_words": true, "grouped_entities": false, "stride": 4,
        });
        let task = Task::TokenClassification;
        assert_eq!(flags(task, &given).unwrap(), Args::from_json(task, json.as_object().unwrap()).unwrap());

        let given = [("top-k", Some("none")), ("truncation", None), ("function-to-apply", Some("none"))];
        let args = flags(Task::TextClassification, &given).unwrap();
        assert_eq!(args.get("top_k"), Some(&Value::Null));
        assert_eq!(args.text("truncation"), Some("true"));
        assert_eq!(args.text("function_to_apply"), Some("none"));
    }

    #[test]
    fn wrong_values_are_refused() {
        for (task, name, value) in [
            (Task::TextClassification, "top_k", json!(-1)),
            (Task::TextClassification, "top_k", json!("many")),
            (Task::TextClassification, "function_to_apply", json!("tanh")),
            (Task::TextClassification, "truncation", json!("somewhere")),
            (Task::TokenClassification, "aggregation_strategy", json!("best")),
            (Task::TokenClassification, "ignore_labels", json!([1])),
            (Task::FillMask, "tokenizer_kwargs", json!([])),
            (Task::FillMask, "top_k", Value::Null),
            (Task::QuestionAnswering, "align_to_words", json!("yes")),
            (Task::ZeroShotClassification, "hypothesis_template", json!(3)),
        ] {
            let error = Args::new(task).set(name, value).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
        assert!(flags(Task::FillMask, &[("top-k", None)]).is_err());
    }

    /// Every argument has one name, a help text and a default to show.
    #[test]
    fn tables_are_complete() {
        for task in Task::all() {
            let specs = task.args();
            for (i, spec) in specs.iter().enumerate() {
                assert!(!spec.help.is_empty() && !spec.default.is_empty(), "{}", spec.name);
                assert!(specs[i + 1..].iter().all(|other| other.name != spec.name), "{}", spec.name);
            }
        }
    }
}
