//! `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`: what a tokenizer is called, which tokens are
//! special and how calls are set by default. Must not know how text is split.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::assets::Assets;
use super::error::TokenizerError;

/// A side of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Side {
    /// The beginning.
    Left,
    /// The end.
    #[default]
    Right,
}

impl std::str::FromStr for Side {
    type Err = TokenizerError;

    fn from_str(s: &str) -> Result<Self, TokenizerError> {
        match s {
            "left" => Ok(Side::Left),
            "right" => Ok(Side::Right),
            _ => Err(TokenizerError::Option { option: "side", value: s.into(), allowed: "left, right" }),
        }
    }
}

/// The attribute names of the special tokens every tokenizer may have, in Transformers' order.
pub const SPECIAL_TOKENS_ATTRIBUTES: &[&str] =
    &["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Lengths above this are the "no limit" marker that Transformers writes (1e30).
const NO_LIMIT: f64 = 1e18;

/// What the JSON files beside the vocabulary say.
#[derive(Debug, Clone, Default)]
pub(super) struct TokenizerConfig {
    /// The class without a `Fast` suffix.
    pub class: Option<String>,
    /// Named special tokens: the standard attributes first, then model-specific ones.
    pub special: Vec<(String, AddedToken)>,
    /// Further special tokens without a name.
    pub extra: Vec<AddedToken>,
    /// Tokens beyond the vocabulary's own, by id.
    pub added: BTreeMap<u32, AddedToken>,
    pub model_max_length: Option<usize>,
    pub padding_side: Option<Side>,
    pub truncation_side: Option<Side>,
    pub clean_up: bool,
    pub model_input_names: Option<Vec<String>>,
    pub split_special_tokens: bool,
    pub add_prefix_space: Option<bool>,
    pub trim_offsets: Option<bool>,
    pub do_lower_case: Option<bool>,
    pub strip_accents: Option<bool>,
    pub tokenize_chinese_chars: Option<bool>,
    pub add_bos: Option<bool>,
    pub add_eos: Option<bool>,
}

/// Reads one JSON object; an absent file is an empty object.
pub(super) fn object(assets: &(impl Assets + ?Sized), file: &str) -> Result<Map<String, Value>, TokenizerError> {
    let broken = |message: String| broken(assets, file, message);
    let Some(bytes) = assets.read(file).map_err(|e| broken(e.to_string()))? else {
        return Ok(Map::new());
    };
    match serde_json::from_slice(&bytes).map_err(|e| broken(format!("not valid JSON: {e}")))? {
        Value::Object(map) => Ok(map),
        _ => Err(broken("expected a JSON object".into())),
    }
}

/// An error about one file of `assets`.
pub(super) fn broken(assets: &(impl Assets + ?Sized), file: &str, message: String) -> TokenizerError {
    TokenizerError::Broken { place: assets.place(), file: file.into(), message }
}

/// A special token as the files write it: a string, or an object with its matching rules.
fn token(value: &Value) -> Option<AddedToken> {
    let flag = |key: &str| value.get(key).and_then(Value::as_bool).unwrap_or(false);
    match value {
        Value::String(content) => Some(AddedToken::from(content.as_str(), true)),
        Value::Object(fields) => Some(
            AddedToken::from(fields.get("content")?.as_str()?, true)
                .lstrip(flag("lstrip"))
                .rstrip(flag("rstrip"))
                .single_word(flag("single_word"))
                .normalized(flag("normalized")),
        ),
        _ => None,
    }
}

impl TokenizerConfig {
    /// Reads the files that exist. `tokenizer_config.json` goes before `special_tokens_map.json`.
    pub fn read(assets: &(impl Assets + ?Sized)) -> Result<Self, TokenizerError> {
        const CONFIG: &str = "tokenizer_config.json";
        const MAP: &str = "special_tokens_map.json";
        const ADDED: &str = "added_tokens.json";
        let config = object(assets, CONFIG)?;
        let map = object(assets, MAP)?;

        let text = |key: &str| config.get(key).and_then(Value::as_str);
        let flag = |key: &str| config.get(key).and_then(Value::as_bool);
        let side = |key: &str| {
            text(key).map(|s| s.parse::<Side>().map_err(|e| broken(assets, CONFIG, format!("{key}: {e}")))).transpose()
        };
        let mut this = TokenizerConfig {
            class: text("tokenizer_class").map(|c| c.strip_suffix("Fast").unwrap_or(c).to_string()),
            model_max_length: config
                .get("model_max_length")
                .or_else(|| config.get("max_len"))
                .and_then(Value::as_f64)
                .filter(|n| (1.0..NO_LIMIT).contains(n))
                .map(|n| n as usize),
            padding_side: side("padding_side")?,
            truncation_side: side("truncation_side")?,
            clean_up: flag("clean_up_tokenization_spaces").unwrap_or(false),
            model_input_names: config
                .get("model_input_names")
                .and_then(Value::as_array)
                .map(|names| names.iter().filter_map(|n| n.as_str().map(str::to_string)).collect()),
            split_special_tokens: flag("split_special_tokens").unwrap_or(false),
            add_prefix_space: flag("add_prefix_space"),
            trim_offsets: flag("trim_offsets"),
            do_lower_case: flag("do_lower_case"),
            strip_accents: flag("strip_accents"),
            tokenize_chinese_chars: flag("tokenize_chinese_chars"),
            add_bos: flag("add_bos_token"),
            add_eos: flag("add_eos_token"),
            ..TokenizerConfig::default()
        };

        this.read_special(&config, |key| {
            broken(assets, CONFIG, format!("{key} is neither a string nor a token object"))
        })?;
        this.read_special(&map, |key| broken(assets, MAP, format!("{key} is neither a string nor a token object")))?;

        if let Some(decoder) = config.get("added_tokens_decoder").and_then(Value::as_object) {
            for (id, value) in decoder {
                let entry = id.parse::<u32>().ok().zip(token(value));
                let (id, mut added) = entry
                    .ok_or_else(|| broken(assets, CONFIG, format!("added_tokens_decoder: entry {id:?} is no token")))?;
                added.special = value.get("special").and_then(Value::as_bool).unwrap_or(false);
                added.normalized = value.get("normalized").and_then(Value::as_bool).unwrap_or(!added.special);
                this.added.insert(id, added);
            }
        } else {
            for (content, id) in &object(assets, ADDED)? {
                let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
                let id =
                    id.ok_or_else(|| broken(assets, ADDED, format!("the id of {content:?} is not a whole number")))?;
                let special = this.special.iter().map(|(_, t)| t).chain(&this.extra).any(|t| &t.content == content);
                this.added.insert(id, AddedToken::from(content.as_str(), special));
            }
        }
        Ok(this)
    }

    /// Takes the special tokens of one file; what an earlier file named stays, but a bare string gains the matching rules
    /// that a later file gives the same token.
    fn read_special(
        &mut self,
        map: &Map<String, Value>,
        wrong: impl Fn(&str) -> TokenizerError,
    ) -> Result<(), TokenizerError> {
        let mut names: Vec<&str> = SPECIAL_TOKENS_ATTRIBUTES.to_vec();
        // Model-specific named tokens (`image_token`, ...): any further key that ends in `_token` and holds a token. The
        // flags `add_bos_token` and `add_eos_token` are no tokens.
        let specific = |(k, v): &(&String, &Value)| {
            !SPECIAL_TOKENS_ATTRIBUTES.contains(&k.as_str()) && k.ends_with("_token") && token(v).is_some()
        };
        names.extend(map.iter().filter(specific).map(|(k, _)| k.as_str()));
        let extra = map.get("extra_special_tokens").or_else(|| map.get("additional_special_tokens"));
        let named_extra = extra.and_then(Value::as_object);
        let entries = names
            .iter()
            .filter_map(|&name| map.get(name).map(|v| (name, v)))
            .chain(named_extra.into_iter().flatten().map(|(k, v)| (k.as_str(), v)));
        for (name, value) in entries.filter(|(_, v)| !v.is_null()) {
            let new = token(value).ok_or_else(|| wrong(name))?;
            match self.special.iter_mut().find(|(n, _)| n == name) {
                None => self.special.push((name.to_string(), new)),
                Some((_, old)) if old.content == new.content && value.is_object() => *old = new,
                Some(_) => {}
            }
        }
        for value in extra.and_then(Value::as_array).into_iter().flatten() {
            let new = token(value).ok_or_else(|| wrong("extra_special_tokens"))?;
            if !self.extra.iter().any(|t| t.content == new.content) {
                self.extra.push(new);
            }
        }
        Ok(())
    }
}

/// What a tokenizer class implies where the files are silent.
pub(super) struct ClassDefaults {
    names: &'static [&'static str],
    /// Content of the named special tokens, in the order of [`SPECIAL_TOKENS_ATTRIBUTES`]; empty for none.
    pub special: [&'static str; 7],
    /// Whether the mask token swallows the space before it.
    pub mask_lstrip: bool,
    /// Whether the model takes token type ids.
    pub token_types: bool,
    /// How two sequences are joined when no tokenizer.json says it.
    pub roberta_pairs: bool,
}

const BERT_SPECIAL: [&str; 7] = ["", "", "[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"];
const ROBERTA_SPECIAL: [&str; 7] = ["<s>", "</s>", "<unk>", "</s>", "<pad>", "<s>", "<mask>"];

/// One row per kind of tokenizer class.
const CLASSES: &[ClassDefaults] = &[
    ClassDefaults {
        names: &["BertTokenizer", "ElectraTokenizer", "ConvBertTokenizer", "MobileBertTokenizer", "LayoutLMTokenizer"],
        special: BERT_SPECIAL,
        mask_lstrip: false,
        token_types: true,
        roberta_pairs: false,
    },
    ClassDefaults {
        names: &["DistilBertTokenizer"],
        special: BERT_SPECIAL,
        mask_lstrip: false,
        token_types: false,
        roberta_pairs: false,
    },
    ClassDefaults {
        names: &["MPNetTokenizer"],
        special: ["<s>", "</s>", "[UNK]", "</s>", "<pad>", "<s>", "<mask>"],
        mask_lstrip: true,
        token_types: false,
        roberta_pairs: true,
    },
    ClassDefaults {
        names: &[
            "RobertaTokenizer",
            "LongformerTokenizer",
            "BartTokenizer",
            "XLMRobertaTokenizer",
            "CamembertTokenizer",
        ],
        special: ROBERTA_SPECIAL,
        mask_lstrip: true,
        token_types: false,
        roberta_pairs: true,
    },
    ClassDefaults {
        names: &["AlbertTokenizer"],
        special: ["[CLS]", "[SEP]", "<unk>", "[SEP]", "<pad>", "[CLS]", "[MASK]"],
        mask_lstrip: true,
        token_types: true,
        roberta_pairs: false,
    },
];

impl ClassDefaults {
    /// The row of `class` (named without its `Fast` suffix), if it is one that implies anything.
    pub fn of(class: Option<&str>) -> Option<&'static ClassDefaults> {
        CLASSES.iter().find(|row| class.is_some_and(|c| row.names.contains(&c)))
    }

    /// The row of the first class that is built from `vocab.txt` / `vocab.json`.
    pub fn named(class: &str) -> &'static ClassDefaults {
        ClassDefaults::of(Some(class)).unwrap_or(&CLASSES[0])
    }

    /// The special tokens as (attribute, token).
    pub fn tokens(&self) -> impl Iterator<Item = (&'static str, AddedToken)> + '_ {
        SPECIAL_TOKENS_ATTRIBUTES.iter().zip(self.special).filter(|(_, content)| !content.is_empty()).map(
            |(&name, content)| (name, AddedToken::from(content, true).lstrip(self.mask_lstrip && name == "mask_token")),
        )
    }
}
