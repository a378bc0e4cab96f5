//! Tokenization: text to ids and back, with the interface of Transformers' `AutoTokenizer` over the `tokenizers` crate.
//!
//! A tokenizer is read from a set of files ([`Assets`]), on disk or inside a compiled artifact. Must not know models,
//! tasks or programs.

mod assets;
mod build;
mod chat;
mod config;
mod decode;
mod encode;
mod encoding;
mod error;
pub(crate) mod guard;
mod vocabulary;

use std::collections::HashSet;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use sha2::{Digest, Sha256};
use tokenizers::Tokenizer;
use tokenizers::models::ModelWrapper;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::utils::padding::PaddingDirection;
use tokenizers::utils::truncation::TruncationDirection;

pub use assets::{Assets, Directory, TOKENIZER_FILES};
pub use chat::{ChatEncoding, ChatOptions};
pub use config::{SPECIAL_TOKENS_ATTRIBUTES, Side};
pub use encode::{EncodeOptions, Padding, Text, Truncation};
pub use encoding::{BatchEncoding, Encoding, Fields};
pub use error::TokenizerError;
pub use tokenizers::AddedToken;

use chat::ChatTemplates;
use config::{ClassDefaults, TokenizerConfig};
use guard::guarded;

/// A tokenizer with the call interface of Transformers. All calls that take `&self` may run on many threads at once.
#[derive(Debug)]
pub struct AutoTokenizer {
    /// Normaliser, pre-tokeniser, model and decoder; its post-processor, truncation and padding are taken out, because
    /// they are arguments of a call.
    tokenizer: Tokenizer,
    post_processor: Option<PostProcessorWrapper>,
    /// The same tokenizer reading special tokens the other way (as text, or as tokens), made when first asked for.
    other: OnceLock<Box<Tokenizer>>,
    special: Vec<(String, AddedToken)>,
    extra: Vec<AddedToken>,
    chat: ChatTemplates,
    warned: AtomicBool,
    /// Longest row that the model is said to take, special tokens included; `None` without a limit.
    pub model_max_length: Option<usize>,
    /// Side on which rows are padded.
    pub padding_side: Side,
    /// Side on which rows are cut.
    pub truncation_side: Side,
    /// Token type of padding.
    pub pad_token_type_id: u32,
    /// The inputs the model takes: `input_ids`, `token_type_ids`, `attention_mask`.
    pub model_input_names: Vec<String>,
    /// Whether [`AutoTokenizer::decode`] cleans up spaces unless told otherwise.
    pub clean_up_tokenization_spaces: bool,
}

impl AutoTokenizer {
    /// Reads a tokenizer from its files. Never panics, whatever the files hold.
    ///
    /// # Errors
    /// [`TokenizerError`] naming the file that is missing or broken. (TK-05, TK-08)
    pub fn from_assets(assets: &(impl Assets + ?Sized)) -> Result<Self, TokenizerError> {
        let config = TokenizerConfig::read(assets)?;
        let mut tokenizer = build::build(assets, &config)?;
        let post_processor = tokenizer.get_post_processor().cloned();
        tokenizer.with_post_processor(None::<PostProcessorWrapper>);
        let truncation = tokenizer.get_truncation().cloned();
        let padding = tokenizer.get_padding().cloned();
        tokenizer.with_truncation(None).map_err(|e| TokenizerError::Failed(e.to_string()))?;
        tokenizer.with_padding(None);
        tokenizer.set_encode_special_tokens(config.split_special_tokens);

        let class = ClassDefaults::of(config.class.as_deref());
        let mut this = AutoTokenizer {
            tokenizer,
            post_processor,
            other: OnceLock::new(),
            special: config.special,
            extra: config.extra,
            chat: ChatTemplates::read(assets)?,
            warned: AtomicBool::new(false),
            model_max_length: config.model_max_length,
            // TK-16: the sections of tokenizer.json are defaults that the config and call arguments override.
            padding_side: config.padding_side.unwrap_or(match padding.as_ref().map(|p| p.direction) {
                Some(PaddingDirection::Left) => Side::Left,
                _ => Side::Right,
            }),
            truncation_side: config.truncation_side.unwrap_or(match truncation.map(|t| t.direction) {
                Some(TruncationDirection::Left) => Side::Left,
                _ => Side::Right,
            }),
            pad_token_type_id: 0,
            model_input_names: config.model_input_names.unwrap_or_else(|| {
                let names: &[&str] = match class {
                    Some(class) if !class.token_types => &["input_ids", "attention_mask"],
                    _ => &["input_ids", "token_type_ids", "attention_mask"],
                };
                names.iter().map(|n| (*n).to_string()).collect()
            }),
            clean_up_tokenization_spaces: config.clean_up,
        };

        // What the files leave open: the class's tokens, as far as the vocabulary has them.
        for (name, token) in class.into_iter().flat_map(ClassDefaults::tokens) {
            if this.special_token(name).is_none() && this.tokenizer.token_to_id(&token.content).is_some() {
                this.special.push((name.to_string(), token));
            }
        }
        if let Some(padding) = padding
            && this.special_token("pad_token").is_none()
            && this.tokenizer.token_to_id(&padding.pad_token).is_some()
        {
            this.special.push(("pad_token".into(), AddedToken::from(padding.pad_token, true)));
        }
        // Tokens that only the config knows go after the vocabulary, special ones are matched before the model sees text.
        let mut known: HashSet<&str> =
            this.tokenizer.get_added_vocabulary().get_vocab().keys().map(String::as_str).collect();
        let named = this.special.iter().map(|(_, t)| t).chain(&this.extra);
        let missing = config.added.values().chain(named).filter(|t| known.insert(&t.content)).cloned().collect();
        this.append(missing)?;
        Ok(this)
    }

    fn append(&mut self, tokens: Vec<AddedToken>) -> Result<usize, TokenizerError> {
        self.other = OnceLock::new();
        if tokens.is_empty() {
            return Ok(0);
        }
        let tokenizer = &mut self.tokenizer;
        guarded(|| tokenizer.add_tokens(tokens))
            .and_then(|r| r.map_err(|e| e.to_string()))
            .map_err(TokenizerError::Failed)
    }

    /// The tokenizer that reads special tokens in a text as asked. (SP-05)
    fn backend(&self, split_special_tokens: Option<bool>) -> &Tokenizer {
        let own = self.tokenizer.get_encode_special_tokens();
        match split_special_tokens {
            Some(split) if split != own => self.other.get_or_init(|| {
                let mut other = Box::new(self.tokenizer.clone());
                other.set_encode_special_tokens(split);
                other
            }),
            _ => &self.tokenizer,
        }
    }

    /// A hash, in hexadecimal, of all that decides what encoding gives: what was encoded before may be used again while it
    /// is the same.
    ///
    /// # Errors
    /// [`TokenizerError::Failed`] when the tokenizer cannot be written down.
    pub fn fingerprint(&self) -> Result<String, TokenizerError> {
        let failed = |e: serde_json::Error| TokenizerError::Failed(e.to_string());
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        part(&serde_json::to_vec(&self.tokenizer).map_err(failed)?);
        part(&serde_json::to_vec(&self.post_processor).map_err(failed)?);
        part(&serde_json::to_vec(&self.special).map_err(failed)?);
        part(&serde_json::to_vec(&self.extra).map_err(failed)?);
        part(&serde_json::to_vec(&self.model_input_names).map_err(failed)?);
        let sides = (self.padding_side, self.truncation_side, self.tokenizer.get_encode_special_tokens());
        part(format!("{sides:?} {:?}", self.model_max_length).as_bytes());
        for source in self.chat.sources() {
            part(source.as_bytes());
        }
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    // ---- vocabulary ----

    /// Size of the model's vocabulary, without added tokens. (SP-06)
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.get_vocab_size(false)
    }

    /// Size of the vocabulary with added tokens. (SP-06)
    pub fn len(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// Whether there is no token at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All tokens with their ids. (SP-06)
    pub fn get_vocab(&self) -> std::collections::HashMap<String, u32> {
        self.tokenizer.get_vocab(true)
    }

    /// The added tokens with their ids, by id. (SP-06)
    pub fn get_added_vocab(&self) -> Vec<(String, u32)> {
        let added = self.tokenizer.get_added_vocabulary().get_vocab();
        let mut tokens: Vec<(String, u32)> = added.iter().map(|(token, id)| (token.clone(), *id)).collect();
        tokens.sort_by_key(|(_, id)| *id);
        tokens
    }

    /// The id of exactly this token, if it exists.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// The ids of tokens; the unknown token's id where one does not exist. (TE-10)
    ///
    /// # Errors
    /// [`TokenizerError::UnknownToken`] when there is no unknown token either.
    pub fn convert_tokens_to_ids<S: AsRef<str>>(&self, tokens: &[S]) -> Result<Vec<u32>, TokenizerError> {
        let id = |token: &str| self.token_to_id(token).or_else(|| self.unk_token_id());
        tokens
            .iter()
            .map(|t| id(t.as_ref()).ok_or_else(|| TokenizerError::UnknownToken { token: t.as_ref().into() }))
            .collect()
    }

    /// The tokens of ids. (TE-10)
    ///
    /// # Errors
    /// [`TokenizerError::UnknownId`].
    pub fn convert_ids_to_tokens(&self, ids: &[u32], skip_special_tokens: bool) -> Result<Vec<String>, TokenizerError> {
        let skip = if skip_special_tokens { self.all_special_ids() } else { Vec::new() };
        ids.iter().filter(|id| !skip.contains(id)).map(|&id| self.id_to_token(id)).collect()
    }

    /// The token of one id.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownId`].
    pub fn id_to_token(&self, id: u32) -> Result<String, TokenizerError> {
        self.tokenizer.id_to_token(id).ok_or_else(|| TokenizerError::UnknownId { id, len: self.len() })
    }

    /// The tokens of a text without special ones. (TE-10)
    ///
    /// # Errors
    /// As [`AutoTokenizer::encode`].
    pub fn tokenize(&self, text: &str) -> Result<Vec<String>, TokenizerError> {
        let options = EncodeOptions { add_special_tokens: false, ..EncodeOptions::default() };
        Ok(self.encode(text, None, &options)?.into_single().tokens)
    }

    /// The prefix of pieces inside a word (`##`), for models that mark them.
    pub(crate) fn continuing_subword_prefix(&self) -> Option<&str> {
        match self.tokenizer.get_model() {
            ModelWrapper::WordPiece(model) => Some(model.continuing_subword_prefix.as_str()),
            ModelWrapper::BPE(model) => model.continuing_subword_prefix.as_deref(),
            ModelWrapper::WordLevel(_) | ModelWrapper::Unigram(_) => None,
        }
        .filter(|prefix| !prefix.is_empty())
    }

    // ---- special tokens ----

    /// The special token called `name` (`"pad_token"`, ...). (SP-01)
    pub fn special_token(&self, name: &str) -> Option<&str> {
        self.special.iter().find(|(n, _)| n == name).map(|(_, token)| token.content.as_str())
    }

    /// The id of the special token called `name`.
    pub fn special_token_id(&self, name: &str) -> Option<u32> {
        self.special_token(name).and_then(|token| self.token_to_id(token))
    }

    /// Names a special token, or takes the name back (`None`). A token that does not exist is added to the vocabulary.
    /// (SP-03, SP-08)
    ///
    /// # Errors
    /// [`TokenizerError::Failed`] when the token cannot be added.
    pub fn set_special_token(&mut self, name: &str, content: Option<&str>) -> Result<(), TokenizerError> {
        let Some(content) = content else {
            self.special.retain(|(n, _)| n != name);
            return Ok(());
        };
        let token = AddedToken::from(content, true);
        if !self.get_added_vocab().iter().any(|(known, _)| known == content) {
            self.append(vec![token.clone()])?;
        }
        match self.special.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => *old = token,
            None => self.special.push((name.to_string(), token)),
        }
        Ok(())
    }

    /// Adds tokens at the end of the vocabulary. Gives how many were added or got other matching rules; those already
    /// added stay. (SP-03)
    ///
    /// # Errors
    /// [`TokenizerError::Failed`] when a token cannot be added.
    pub fn add_tokens(&mut self, tokens: Vec<AddedToken>) -> Result<usize, TokenizerError> {
        self.append(tokens)
    }

    /// Named special tokens as (name, token). (SP-01)
    pub fn special_tokens_map(&self) -> impl Iterator<Item = (&str, &str)> {
        self.special.iter().map(|(name, token)| (name.as_str(), token.content.as_str()))
    }

    /// The distinct special tokens, named ones first. (SP-06)
    pub fn all_special_tokens(&self) -> Vec<&str> {
        let standard = SPECIAL_TOKENS_ATTRIBUTES.iter().filter_map(|name| self.special_token(name));
        let others = self.special.iter().map(|(_, t)| t).chain(&self.extra).map(|t| t.content.as_str());
        let mut tokens = Vec::new();
        for token in standard.chain(others) {
            if !tokens.contains(&token) {
                tokens.push(token);
            }
        }
        tokens
    }

    /// The ids of [`AutoTokenizer::all_special_tokens`].
    pub fn all_special_ids(&self) -> Vec<u32> {
        self.all_special_tokens().into_iter().filter_map(|token| self.token_to_id(token)).collect()
    }

    /// 1 for each id that stands for a special token. (SP-07)
    pub fn get_special_tokens_mask(&self, ids: &[u32]) -> Vec<u32> {
        let special = self.all_special_ids();
        ids.iter().map(|id| u32::from(special.contains(id))).collect()
    }

    /// The padding token.
    pub fn pad_token(&self) -> Option<&str> {
        self.special_token("pad_token")
    }

    /// The padding token's id.
    pub fn pad_token_id(&self) -> Option<u32> {
        self.special_token_id("pad_token")
    }

    /// The mask token.
    pub fn mask_token(&self) -> Option<&str> {
        self.special_token("mask_token")
    }

    /// The mask token's id.
    pub fn mask_token_id(&self) -> Option<u32> {
        self.special_token_id("mask_token")
    }

    /// The id of the token that ends a text.
    pub fn eos_token_id(&self) -> Option<u32> {
        self.special_token_id("eos_token")
    }

    /// The id of the token that stands for unknown ones.
    pub fn unk_token_id(&self) -> Option<u32> {
        self.special_token_id("unk_token")
    }

    /// The id of the token a sequence starts with in BERT-like models.
    pub fn cls_token_id(&self) -> Option<u32> {
        self.special_token_id("cls_token")
    }

    /// The fields of a call's result by default: those the model takes. (TE-01)
    pub fn default_fields(&self) -> Fields {
        let takes = |name: &str| self.model_input_names.iter().any(|n| n == name);
        Fields { token_type_ids: takes("token_type_ids"), attention_mask: takes("attention_mask"), ..Fields::default() }
    }
}
