//! What each `model_type` means when its config says nothing: fields, their types, defaults and alternative names.
//!
//! One row per model type. Adding a family here is adding a row to [`TYPES`]; nothing else in `config` knows a model
//! by name. The defaults are those of Transformers' configuration classes.

mod decoders;

use serde_json::Value;

/// The JSON type a field must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An integer.
    Int,
    /// A number; an integer is accepted.
    Float,
    /// `true` or `false`.
    Bool,
    /// A string.
    Text,
    /// An integer or a list of integers (`eos_token_id`).
    IntOrList,
    /// A list of integers.
    IntList,
    /// A list of strings.
    TextList,
    /// A string, or an object of strings by sub-config (`dtype`).
    TextOrObject,
    /// Any object.
    Object,
}

impl Kind {
    /// The name messages use.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Int => "integer",
            Kind::Float => "number",
            Kind::Bool => "boolean",
            Kind::Text => "string",
            Kind::IntOrList => "integer or list of integers",
            Kind::IntList => "list of integers",
            Kind::TextList => "list of strings",
            Kind::TextOrObject => "string or object",
            Kind::Object => "object",
        }
    }

    /// Whether `value` is of this type. `null` is judged by the caller.
    pub fn admits(self, value: &Value) -> bool {
        let list_of = |check: fn(&Value) -> bool| value.as_array().is_some_and(|items| items.iter().all(check));
        match self {
            Kind::Int => is_int(value),
            Kind::Float => value.is_number() || special_float(value).is_some(),
            Kind::Bool => value.is_boolean(),
            Kind::Text => value.is_string(),
            Kind::IntOrList => is_int(value) || list_of(is_int),
            Kind::IntList => list_of(is_int),
            Kind::TextList => list_of(Value::is_string),
            Kind::TextOrObject => value.is_string() || value.is_object(),
            Kind::Object => value.is_object(),
        }
    }
}

fn is_int(value: &Value) -> bool {
    value.is_i64() || value.is_u64()
}

/// Reads `{"__float__": "NaN" | "Infinity" | "-Infinity"}`, how Transformers writes what JSON numbers cannot say.
pub(super) fn special_float(value: &Value) -> Option<f64> {
    let object = value.as_object().filter(|object| object.len() == 1)?;
    match object.get("__float__")?.as_str()? {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

/// A default value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Default {
    /// No value; the field may be `null`.
    Null,
    /// An integer.
    Int(i64),
    /// A number.
    Float(f64),
    /// A boolean.
    Bool(bool),
    /// A string.
    Text(&'static str),
}

impl Default {
    /// The default as JSON.
    pub fn to_json(self) -> Value {
        match self {
            Default::Null => Value::Null,
            Default::Int(value) => value.into(),
            Default::Float(value) => value.into(),
            Default::Bool(value) => value.into(),
            Default::Text(value) => value.into(),
        }
    }
}

/// One field of a configuration.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Name in `config.json`.
    pub name: &'static str,
    /// The JSON type.
    pub kind: Kind,
    /// The value of an absent key.
    pub default: Default,
    /// Whether `null` is a value of its own.
    pub nullable: bool,
}

impl Field {
    /// Whether `value` is of the field's type.
    pub fn admits(&self, value: &Value) -> bool {
        self.kind.admits(value) || value.is_null() && self.nullable
    }
}

const fn int(name: &'static str, default: i64) -> Field {
    Field { name, kind: Kind::Int, default: Default::Int(default), nullable: false }
}

const fn float(name: &'static str, default: f64) -> Field {
    Field { name, kind: Kind::Float, default: Default::Float(default), nullable: false }
}

const fn flag(name: &'static str, default: bool) -> Field {
    Field { name, kind: Kind::Bool, default: Default::Bool(default), nullable: false }
}

const fn nullable_flag(name: &'static str, default: bool) -> Field {
    Field { name, kind: Kind::Bool, default: Default::Bool(default), nullable: true }
}

const fn text(name: &'static str, default: &'static str) -> Field {
    Field { name, kind: Kind::Text, default: Default::Text(default), nullable: false }
}

const fn absent(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, default: Default::Null, nullable: true }
}

const fn nullable_float(name: &'static str, default: f64) -> Field {
    Field { name, kind: Kind::Float, default: Default::Float(default), nullable: true }
}

/// A token id: an integer that may be `null`.
const fn token(name: &'static str, default: i64) -> Field {
    Field { name, kind: Kind::Int, default: Default::Int(default), nullable: true }
}

const fn eos(default: Default) -> Field {
    Field { name: "eos_token_id", kind: Kind::IntOrList, default, nullable: true }
}

/// One model type.
#[derive(Debug)]
pub struct ModelType {
    /// The value of `model_type`.
    pub name: &'static str,
    /// What the names of its architectures start with: `Bert` in `BertForMaskedLM`.
    pub class_prefix: &'static str,
    /// Its own fields; [`COMMON`] adds those every type has.
    pub fields: &'static [Field],
    /// Fields that it shares with types of its kind; its own of the same name count.
    pub shared: &'static [Field],
    /// `(other name, field name)`: further names a field is read by, in files and in accessors.
    pub aliases: &'static [(&'static str, &'static str)],
}

impl ModelType {
    /// The row of `model_type`, if Lith has it.
    pub fn find(name: &str) -> Option<&'static ModelType> {
        TYPES.iter().find(|row| row.name == name)
    }

    /// The name a field is stored under: aliases resolved, every other name unchanged.
    pub fn stored_name<'a>(&self, name: &'a str) -> &'a str {
        self.aliases.iter().chain(COMMON_ALIASES).find(|(alias, _)| *alias == name).map_or(name, |(_, stored)| stored)
    }

    /// The field called `name` (or an alias of it), the type's own fields first.
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        let stored = self.stored_name(name);
        self.fields.iter().chain(self.shared).chain(COMMON).find(|field| field.name == stored)
    }

    /// Every field of the type, its own first.
    pub fn all_fields(&self) -> impl Iterator<Item = &'static Field> {
        self.fields.iter().chain(self.shared).chain(COMMON)
    }
}

/// Fields of every model type.
pub const COMMON: &[Field] = &[
    absent("architectures", Kind::TextList),
    absent("transformers_version", Kind::Text),
    absent("dtype", Kind::TextOrObject),
    absent("problem_type", Kind::Text),
    absent("id2label", Kind::Object),
    absent("label2id", Kind::Object),
    absent("num_labels", Kind::Int),
    absent("auto_map", Kind::Object),
    nullable_flag("output_hidden_states", false),
    nullable_flag("output_attentions", false),
    nullable_flag("return_dict", true),
    int("chunk_size_feed_forward", 0),
    flag("is_encoder_decoder", false),
    flag("tie_word_embeddings", true),
    absent("transformers_weights", Kind::Text),
];

/// Names every model type reads a common field by.
pub const COMMON_ALIASES: &[(&str, &str)] = &[("torch_dtype", "dtype")];

/// Fields of `config.json` that belong to generation, not to the model (CFG-19).
pub const GENERATION: &[&str] = &[
    "assistant_confidence_threshold",
    "assistant_lookbehind",
    "bad_words_ids",
    "begin_suppress_tokens",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "epsilon_cutoff",
    "eta_cutoff",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_scores",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict_in_generate",
    "suppress_tokens",
    "target_lookbehind",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
];

const ROBERTA: &[Field] = &roberta(50265);
const XLM_ROBERTA: &[Field] = &roberta(30522);

const fn roberta(vocab_size: i64) -> [Field; 19] {
    [
        int("vocab_size", vocab_size),
        int("hidden_size", 768),
        int("num_hidden_layers", 12),
        int("num_attention_heads", 12),
        int("intermediate_size", 3072),
        text("hidden_act", "gelu"),
        float("hidden_dropout_prob", 0.1),
        float("attention_probs_dropout_prob", 0.1),
        int("max_position_embeddings", 512),
        int("type_vocab_size", 2),
        float("initializer_range", 0.02),
        float("layer_norm_eps", 1e-12),
        token("pad_token_id", 1),
        token("bos_token_id", 0),
        eos(Default::Int(2)),
        flag("use_cache", true),
        absent("classifier_dropout", Kind::Float),
        flag("is_decoder", false),
        flag("add_cross_attention", false),
    ]
}

/// Every model type, one row each.
pub const TYPES: &[ModelType] = &[
    ModelType {
        name: "bert",
        class_prefix: "Bert",
        fields: &[
            int("vocab_size", 30522),
            int("hidden_size", 768),
            int("num_hidden_layers", 12),
            int("num_attention_heads", 12),
            int("intermediate_size", 3072),
            text("hidden_act", "gelu"),
            float("hidden_dropout_prob", 0.1),
            float("attention_probs_dropout_prob", 0.1),
            int("max_position_embeddings", 512),
            int("type_vocab_size", 2),
            float("initializer_range", 0.02),
            float("layer_norm_eps", 1e-12),
            token("pad_token_id", 0),
            absent("bos_token_id", Kind::Int),
            eos(Default::Null),
            flag("use_cache", true),
            absent("classifier_dropout", Kind::Float),
            flag("is_decoder", false),
            flag("add_cross_attention", false),
        ],
        shared: &[],
        aliases: &[],
    },
    ModelType {
        name: "distilbert",
        class_prefix: "DistilBert",
        fields: &[
            int("vocab_size", 30522),
            int("max_position_embeddings", 512),
            flag("sinusoidal_pos_embds", false),
            int("n_layers", 6),
            int("n_heads", 12),
            int("dim", 768),
            int("hidden_dim", 3072),
            float("dropout", 0.1),
            float("attention_dropout", 0.1),
            text("activation", "gelu"),
            float("initializer_range", 0.02),
            float("qa_dropout", 0.1),
            float("seq_classif_dropout", 0.2),
            token("pad_token_id", 0),
            absent("bos_token_id", Kind::Int),
            eos(Default::Null),
        ],
        shared: &[],
        aliases: &[
            ("hidden_size", "dim"),
            ("num_attention_heads", "n_heads"),
            ("num_hidden_layers", "n_layers"),
            ("intermediate_size", "hidden_dim"),
            ("hidden_act", "activation"),
        ],
    },
    ModelType { name: "roberta", class_prefix: "Roberta", fields: ROBERTA, shared: &[], aliases: &[] },
    ModelType { name: "xlm-roberta", class_prefix: "XLMRoberta", fields: XLM_ROBERTA, shared: &[], aliases: &[] },
    ModelType { name: "camembert", class_prefix: "Camembert", fields: XLM_ROBERTA, shared: &[], aliases: &[] },
    ModelType {
        name: "mpnet",
        class_prefix: "MPNet",
        fields: &[
            int("vocab_size", 30527),
            int("hidden_size", 768),
            int("num_hidden_layers", 12),
            int("num_attention_heads", 12),
            int("intermediate_size", 3072),
            text("hidden_act", "gelu"),
            float("hidden_dropout_prob", 0.1),
            float("attention_probs_dropout_prob", 0.1),
            int("max_position_embeddings", 512),
            float("initializer_range", 0.02),
            float("layer_norm_eps", 1e-12),
            int("relative_attention_num_buckets", 32),
            token("pad_token_id", 1),
            token("bos_token_id", 0),
            eos(Default::Int(2)),
        ],
        shared: &[],
        aliases: &[],
    },
    ModelType {
        name: "electra",
        class_prefix: "Electra",
        fields: &[
            int("vocab_size", 30522),
            int("embedding_size", 128),
            int("hidden_size", 256),
            int("num_hidden_layers", 12),
            int("num_attention_heads", 4),
            int("intermediate_size", 1024),
            text("hidden_act", "gelu"),
            float("hidden_dropout_prob", 0.1),
            float("attention_probs_dropout_prob", 0.1),
            int("max_position_embeddings", 512),
            int("type_vocab_size", 2),
            float("initializer_range", 0.02),
            float("layer_norm_eps", 1e-12),
            text("summary_type", "first"),
            flag("summary_use_proj", true),
            text("summary_activation", "gelu"),
            float("summary_last_dropout", 0.1),
            token("pad_token_id", 0),
            absent("bos_token_id", Kind::Int),
            eos(Default::Null),
            flag("use_cache", true),
            absent("classifier_dropout", Kind::Float),
            flag("is_decoder", false),
            flag("add_cross_attention", false),
        ],
        shared: &[],
        aliases: &[],
    },
    ModelType {
        name: "albert",
        class_prefix: "Albert",
        fields: &[
            int("vocab_size", 30000),
            int("embedding_size", 128),
            int("hidden_size", 4096),
            int("num_hidden_layers", 12),
            int("num_hidden_groups", 1),
            int("num_attention_heads", 64),
            int("intermediate_size", 16384),
            int("inner_group_num", 1),
            text("hidden_act", "gelu_new"),
            float("hidden_dropout_prob", 0.0),
            float("attention_probs_dropout_prob", 0.0),
            int("max_position_embeddings", 512),
            int("type_vocab_size", 2),
            float("initializer_range", 0.02),
            float("layer_norm_eps", 1e-12),
            float("classifier_dropout_prob", 0.1),
            token("pad_token_id", 0),
            token("bos_token_id", 2),
            eos(Default::Int(3)),
        ],
        shared: &[],
        aliases: &[],
    },
    decoders::LLAMA,
    decoders::MISTRAL,
    decoders::QWEN2,
    decoders::QWEN3,
    decoders::PHI3,
    decoders::GEMMA,
    decoders::GEMMA2,
    decoders::GEMMA3_TEXT,
    decoders::GPT2,
    decoders::GPT_NEOX,
    decoders::STARCODER2,
    decoders::FALCON,
    decoders::SMOLLM3,
    decoders::OLMO2,
    decoders::GRANITE,
    decoders::COHERE,
];
