//! The tokenizer of a GGUF file as the files of a Transformers directory, so that whatever reads those reads this.
//!
//! Three kinds: byte-level BPE (`gpt2`), SentencePiece's BPE and unigram (`llama`, `t5`), WordPiece (`bert`). Text is
//! cut and merged exactly as by the tokenizer the vocabulary comes from. Control, unknown and user-defined tokens are
//! found in the text first; a SentencePiece tokenizer marks the start of the text and of every stretch after such a
//! token with a space, as llama.cpp does and Transformers in its `legacy` mode. What no rule of GGUF says, such as a
//! special token that swallows spaces beside it, is not there.

mod model;
mod pre;

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::{Gguf, GgufError};

/// The vocabulary's key.
pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
const KIND: &str = "tokenizer.ggml.model";
const TYPES: &str = "tokenizer.ggml.token_type";

/// What a token is: the numbers of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TokenType {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl TokenType {
    fn of(number: f64) -> TokenType {
        match number as i64 {
            2 => TokenType::Unknown,
            3 => TokenType::Control,
            4 => TokenType::UserDefined,
            5 => TokenType::Unused,
            6 => TokenType::Byte,
            // 1, and 0 for undefined.
            _ => TokenType::Normal,
        }
    }
}

/// The tokens of a file by id.
struct Vocabulary<'a> {
    gguf: &'a Gguf,
    texts: Vec<String>,
    types: Vec<TokenType>,
    ids: HashMap<String, usize>,
}

impl<'a> Vocabulary<'a> {
    fn read(gguf: &'a Gguf, kind: &str) -> Result<Vocabulary<'a>, GgufError> {
        let metadata = &gguf.metadata;
        let texts = metadata.texts(TOKENS, gguf.bytes())?.ok_or_else(|| metadata.missing(TOKENS))?;
        let types = metadata.numbers(TYPES, gguf.bytes())?;
        let types = match types {
            None => vec![TokenType::Normal; texts.len()],
            Some(types) if types.len() == texts.len() => types.into_iter().map(TokenType::of).collect(),
            Some(types) => {
                let reason = format!("expected one for each of {} tokens, found {}", texts.len(), types.len());
                return Err(GgufError::key(metadata.file(), TYPES, reason));
            }
        };
        let name = |(id, (text, &of)): (usize, (&str, &TokenType))| match text {
            "" => format!("[EMPTY_{id}]"),
            text if kind == "bert" && of != TokenType::Control => model::word_piece_text(text),
            text => text.to_string(),
        };
        let texts: Vec<String> = texts.into_iter().zip(&types).enumerate().map(name).collect();
        let mut ids = HashMap::new();
        for (id, text) in texts.iter().enumerate() {
            if let Some(first) = ids.insert(text.clone(), id) {
                let reason = format!("token {:?} is there twice, as {first} and {id}", shortened(text));
                return Err(GgufError::key(metadata.file(), TOKENS, reason));
            }
        }
        Ok(Vocabulary { gguf, texts, types, ids })
    }

    fn wrong(&self, key: &str, reason: String) -> GgufError {
        GgufError::key(self.gguf.metadata.file(), key, reason)
    }

    /// `{token: id}`.
    fn to_json(&self) -> Value {
        Value::Object(self.texts.iter().enumerate().map(|(id, text)| (text.clone(), id.into())).collect())
    }

    /// The id at `key`, checked against the vocabulary, and its text.
    fn token(&self, key: &str) -> Result<Option<(usize, &str)>, GgufError> {
        let Some(id) = self.gguf.metadata.size(key)? else { return Ok(None) };
        match self.texts.get(id) {
            Some(text) => Ok(Some((id, text))),
            None => Err(self.wrong(key, format!("expected a token below {}, found {id}", self.texts.len()))),
        }
    }

    /// Tokens that are found in a text before anything else happens to it.
    fn added(&self) -> Vec<Value> {
        let added = |(id, (text, of)): (usize, (&String, &TokenType))| {
            let special = match of {
                TokenType::Control | TokenType::Unknown => true,
                TokenType::UserDefined => false,
                TokenType::Normal | TokenType::Unused | TokenType::Byte => return None,
            };
            Some(json!({
                "id": id, "content": text, "special": special,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            }))
        };
        self.texts.iter().zip(&self.types).enumerate().filter_map(added).collect()
    }
}

/// The start of a token's text, for messages.
fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

/// Named special tokens: `(name, its key, a text that has this meaning where there is no key)`.
const SPECIAL: [(&str, &str, &str); 7] = [
    ("bos_token", "tokenizer.ggml.bos_token_id", ""),
    ("eos_token", "tokenizer.ggml.eos_token_id", ""),
    ("unk_token", "tokenizer.ggml.unknown_token_id", "[UNK]"),
    ("sep_token", "tokenizer.ggml.seperator_token_id", "[SEP]"),
    ("pad_token", "tokenizer.ggml.padding_token_id", "[PAD]"),
    ("cls_token", "tokenizer.ggml.cls_token_id", "[CLS]"),
    ("mask_token", "tokenizer.ggml.mask_token_id", "[MASK]"),
];

/// Keys of further tokens that end a turn.
const ENDS: [&str; 2] = ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

/// Control tokens that end a text or a turn wherever they are, whether the file says so or not: files name one end
/// token, models of chats have several.
const END_TEXTS: [&str; 9] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<EOT>",
];

/// The fields of a configuration about tokens: `bos_token_id`, `eos_token_id` (a list if there are several) and
/// `pad_token_id`.
pub(super) fn special_ids(gguf: &Gguf) -> Result<Map<String, Value>, GgufError> {
    let metadata = &gguf.metadata;
    let texts = metadata.texts(TOKENS, gguf.bytes())?.unwrap_or_default();
    let types = metadata.numbers(TYPES, gguf.bytes())?.unwrap_or_default();
    let mut map = Map::new();
    for (name, key) in [("bos_token_id", SPECIAL[0].1), ("pad_token_id", SPECIAL[4].1)] {
        if let Some(id) = metadata.size(key)? {
            map.insert(name.into(), id.into());
        }
    }
    let mut ends: Vec<usize> = Vec::new();
    for key in [SPECIAL[1].1].iter().chain(&ENDS) {
        ends.extend(metadata.size(key)?);
    }
    let control = |id: usize| types.get(id).is_some_and(|&of| TokenType::of(of) == TokenType::Control);
    ends.extend(
        texts.iter().enumerate().filter(|(id, text)| control(*id) && END_TEXTS.contains(text)).map(|(id, _)| id),
    );
    let mut seen = std::collections::HashSet::new();
    ends.retain(|id| seen.insert(*id));
    match ends.as_slice() {
        [] => {}
        [one] => {
            map.insert("eos_token_id".into(), (*one).into());
        }
        several => {
            map.insert("eos_token_id".into(), several.into());
        }
    }
    Ok(map)
}

/// The files.
pub(super) fn files(gguf: &Gguf) -> Result<Vec<(String, Vec<u8>)>, GgufError> {
    let metadata = &gguf.metadata;
    let kind = metadata.text(KIND)?.ok_or_else(|| metadata.missing(KIND))?;
    let vocabulary = Vocabulary::read(gguf, kind)?;
    let mut special: Vec<(&str, usize, &str)> = Vec::new();
    for (name, key, text) in SPECIAL {
        let by_key = vocabulary.token(key)?;
        let by_text = || vocabulary.ids.get_key_value(text).map(|(text, &id)| (id, text.as_str()));
        if let Some((id, text)) = by_key.or_else(|| by_text().filter(|_| kind == "bert")) {
            special.push((name, id, text));
        }
    }
    let (tokenizer, surround) = match kind {
        "gpt2" => model::byte_level(&vocabulary)?,
        "llama" => model::sentence_piece(&vocabulary, false)?,
        "t5" => model::sentence_piece(&vocabulary, true)?,
        "bert" => model::word_piece(&vocabulary)?,
        other => {
            let reason = format!("expected gpt2, llama, t5 or bert, found `{}`", shortened(other));
            return Err(GgufError::key(metadata.file(), KIND, reason));
        }
    };
    let find = |name: &str| special.iter().find(|(known, _, _)| *known == name).map(|(_, id, text)| (*id, *text));
    let add_bos = metadata.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(surround.bos);
    let add_eos = metadata.flag("tokenizer.ggml.add_eos_token")?.unwrap_or(surround.eos);
    let (before, after) = match kind {
        "bert" => (find("cls_token"), find("sep_token")),
        _ => (find("bos_token").filter(|_| add_bos), find("eos_token").filter(|_| add_eos)),
    };
    // The file of the tokenizer it was made from, where there is one, else what the metadata says of it.
    let tokenizer = match metadata.text("tokenizer.huggingface.json")? {
        Some(text) => text.as_bytes().to_vec(),
        None => {
            let mut json = tokenizer;
            json["version"] = "1.0".into();
            json["truncation"] = Value::Null;
            json["padding"] = Value::Null;
            json["added_tokens"] = vocabulary.added().into();
            json["post_processor"] = template(before, after, kind == "bert");
            json.to_string().into_bytes()
        }
    };

    let mut config = Map::new();
    let mut set = |name: &str, value: Value| {
        config.insert(name.to_string(), value);
    };
    let bert = kind == "bert";
    set("tokenizer_class", if bert { "BertTokenizer" } else { "PreTrainedTokenizerFast" }.into());
    set("clean_up_tokenization_spaces", false.into());
    if !bert {
        set("model_input_names", json!(["input_ids", "attention_mask"]));
        set("add_bos_token", before.is_some().into());
        set("add_eos_token", after.is_some().into());
    }
    for (name, _, text) in &special {
        set(name, (*text).into());
    }
    if let Some(template) = chat_template(gguf)? {
        set("chat_template", template);
    }
    let generation = special_ids(gguf)?;
    Ok(vec![
        ("tokenizer.json".into(), tokenizer),
        ("tokenizer_config.json".into(), Value::Object(config).to_string().into_bytes()),
        ("generation_config.json".into(), Value::Object(generation).to_string().into_bytes()),
    ])
}

/// The template of chats, or a list of named ones where there are several.
fn chat_template(gguf: &Gguf) -> Result<Option<Value>, GgufError> {
    const KEY: &str = "tokenizer.chat_template";
    let default = gguf.metadata.text(KEY)?;
    let mut named = Vec::new();
    for name in gguf.metadata.texts("tokenizer.chat_templates", gguf.bytes())?.unwrap_or_default() {
        if let Some(template) = gguf.metadata.text(&format!("{KEY}.{name}"))?.filter(|_| name != "default") {
            named.push(json!({"name": name, "template": template}));
        }
    }
    Ok(match (default, named.is_empty()) {
        (default, true) => default.map(Value::from),
        (default, false) => {
            named.splice(0..0, default.map(|template| json!({"name": "default", "template": template})));
            Some(named.into())
        }
    })
}

/// What surrounds a text: the `post_processor` of a `tokenizer.json`. Second texts of BERT have type 1 and no token
/// before them.
fn template(before: Option<(usize, &str)>, after: Option<(usize, &str)>, bert: bool) -> Value {
    if before.is_none() && after.is_none() {
        return Value::Null;
    }
    let token = |token: Option<(usize, &str)>, of: u8| {
        token.map(|(_, text)| json!({"SpecialToken": {"id": text, "type_id": of}}))
    };
    let text = |name: &str, of: u8| Some(json!({"Sequence": {"id": name, "type_id": of}}));
    let single: Vec<Value> = [token(before, 0), text("A", 0), token(after, 0)].into_iter().flatten().collect();
    let second = [token(before.filter(|_| !bert), 1), text("B", 1), token(after, 1)];
    let pair: Vec<Value> = single.iter().cloned().chain(second.into_iter().flatten()).collect();
    let tokens: Map<String, Value> = [before, after]
        .into_iter()
        .flatten()
        .map(|(id, text)| (text.to_string(), json!({"id": text, "ids": [id], "tokens": [text]})))
        .collect();
    json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens})
}
