//! Builds the tokenization pipeline from files: `tokenizer.json`, or the older vocabulary files.
//! Must not know how calls are made.

use std::collections::HashMap;

use ahash::AHashMap;
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::decoders::wordpiece::WordPiece as WordPieceDecoder;
use tokenizers::models::bpe::BPE;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::bert::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Tokenizer};

use super::assets::{Assets, SENTENCEPIECE_FILES};
use super::config::{ClassDefaults, TokenizerConfig, broken};
use super::error::TokenizerError;
use super::guard::guarded;
use super::vocabulary;

const JSON: &str = "tokenizer.json";
const VOCAB_TXT: &str = "vocab.txt";
const VOCAB_JSON: &str = "vocab.json";
const MERGES: &str = "merges.txt";

/// Builds the pipeline, without the special tokens that only the config names.
pub(super) fn build(assets: &(impl Assets + ?Sized), config: &TokenizerConfig) -> Result<Tokenizer, TokenizerError> {
    let read = |file: &str| assets.read(file).map_err(|e| broken(assets, file, e.to_string()));
    if let Some(bytes) = read(JSON)? {
        return from_json(&bytes).map_err(|message| broken(assets, JSON, message));
    }
    if let Some(bytes) = read(VOCAB_TXT)? {
        return word_piece(&bytes, config).map_err(|message| broken(assets, VOCAB_TXT, message));
    }
    match (read(VOCAB_JSON)?, read(MERGES)?) {
        (Some(vocab), Some(merges)) => return byte_level_bpe(assets, &vocab, &merges, config),
        (Some(_), None) => return Err(broken(assets, VOCAB_JSON, format!("{MERGES} is missing beside it"))),
        (None, Some(_)) => return Err(broken(assets, MERGES, format!("{VOCAB_JSON} is missing beside it"))),
        (None, None) => {}
    }
    for file in SENTENCEPIECE_FILES {
        if read(file)?.is_some() {
            return Err(TokenizerError::SentencePiece { place: assets.place(), file: (*file).into() });
        }
    }
    Err(TokenizerError::Missing {
        place: assets.place(),
        expected: format!("{JSON}, or {VOCAB_TXT}, or {VOCAB_JSON} with {MERGES}"),
    })
}

/// What is looked at before the tokenizers crate sees the file.
#[derive(Deserialize)]
struct Outline<'a> {
    #[serde(borrow)]
    model: Model<'a>,
}

#[derive(Deserialize)]
struct Model<'a> {
    #[serde(borrow, default)]
    continuing_subword_prefix: Option<std::borrow::Cow<'a, str>>,
    #[serde(default)]
    merges: Option<IgnoredAny>,
}

/// A BPE model whose pieces inside a word carry a prefix.
#[derive(Deserialize)]
struct Prefixed {
    model: PrefixedModel,
}

#[derive(Deserialize)]
struct PrefixedModel {
    merges: Vec<Merge>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Joined(String),
    Pair(IgnoredAny, String),
}

/// TK-01: the file alone decides how text becomes ids.
fn from_json(bytes: &[u8]) -> Result<Tokenizer, String> {
    let outline: Outline<'_> = serde_json::from_slice(bytes).map_err(|e| format!("not a tokenizer: {e}"))?;
    // The crate cuts `prefix` bytes off the right half of each merge without looking, so look here.
    if let (Some(prefix), Some(_)) = (&outline.model.continuing_subword_prefix, &outline.model.merges)
        && !prefix.is_empty()
    {
        let prefixed: Prefixed = serde_json::from_slice(bytes).map_err(|e| format!("not a tokenizer: {e}"))?;
        for merge in &prefixed.model.merges {
            let right = match merge {
                Merge::Joined(line) => line.split_once(' ').map_or("", |(_, right)| right),
                Merge::Pair(_, right) => right,
            };
            if !right.starts_with(prefix.as_ref()) {
                return Err(format!("model.merges: {right:?} does not start with the subword prefix {prefix:?}"));
            }
        }
    }
    guarded(|| vocabulary::word_piece(bytes).map_or_else(|| Tokenizer::from_bytes(bytes), Ok))
        .and_then(|r| r.map_err(|e| e.to_string()))
        .map_err(|message| format!("not a tokenizer: {message}"))
}

/// The id of the special token `name`, from the config or the class.
fn special(
    config: &TokenizerConfig,
    class: &ClassDefaults,
    name: &str,
    id: impl Fn(&str) -> Option<u32>,
) -> Result<(String, u32), String> {
    let named = config.special.iter().find(|(n, _)| n == name).map(|(_, t)| t.clone());
    let token = named.or_else(|| class.tokens().find(|(n, _)| *n == name).map(|(_, t)| t));
    let content = token.ok_or_else(|| format!("no {name} is named"))?.content;
    let id = id(&content).ok_or_else(|| format!("{name} {content:?} is not in the vocabulary"))?;
    Ok((content, id))
}

/// BERT's tokenizer from its one-token-a-line vocabulary.
fn word_piece(bytes: &[u8], config: &TokenizerConfig) -> Result<Tokenizer, String> {
    let class = ClassDefaults::named(config.class.as_deref().unwrap_or("BertTokenizer"));
    let text = std::str::from_utf8(bytes).map_err(|e| format!("not UTF-8: {e}"))?;
    let lines = text.strip_suffix('\n').unwrap_or(text).split('\n');
    let vocab: AHashMap<String, u32> =
        lines.zip(0..).map(|(line, id)| (line.strip_suffix('\r').unwrap_or(line).to_string(), id)).collect();
    let id = |content: &str| vocab.get(content).copied();
    let unk = special(config, class, "unk_token", id)?.0;
    let (sep, cls) = (special(config, class, "sep_token", id)?, special(config, class, "cls_token", id)?);
    let model = WordPiece::builder().vocab(vocab).unk_token(unk).build().map_err(|e| e.to_string())?;

    let mut tokenizer = Tokenizer::new(model);
    let lowercase = config.do_lower_case.unwrap_or(true);
    let normalizer =
        BertNormalizer::new(true, config.tokenize_chinese_chars.unwrap_or(true), config.strip_accents, lowercase);
    tokenizer.with_normalizer(Some(normalizer)).map_err(|e| e.to_string())?;
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    tokenizer.with_decoder(Some(WordPieceDecoder::new("##".into(), true)));
    tokenizer.with_post_processor(Some(pair_template(&cls, &sep, class.roberta_pairs)?));
    Ok(tokenizer)
}

/// `[CLS] A [SEP] B [SEP]` with types 0 and 1, or RoBERTa's `<s> A </s></s> B </s>` with type 0 throughout.
fn pair_template(cls: &(String, u32), sep: &(String, u32), roberta: bool) -> Result<PostProcessorWrapper, String> {
    let (c, s) = (&cls.0, &sep.0);
    let pair =
        if roberta { format!("{c}:0 $A:0 {s}:0 {s}:0 $B:0 {s}:0") } else { format!("{c}:0 $A:0 {s}:0 $B:1 {s}:1") };
    template(&format!("{c}:0 $A:0 {s}:0"), &pair, vec![cls.clone(), sep.clone()])
}

fn template(single: &str, pair: &str, tokens: Vec<(String, u32)>) -> Result<PostProcessorWrapper, String> {
    TemplateProcessing::builder()
        .try_single(single)
        .and_then(|builder| builder.try_pair(pair))
        .map_err(|e| e.to_string())?
        .special_tokens(tokens)
        .build()
        .map(PostProcessorWrapper::Template)
        .map_err(|e| e.to_string())
}

/// GPT-2's and RoBERTa's byte-level BPE from `vocab.json` and `merges.txt`.
fn byte_level_bpe(
    assets: &(impl Assets + ?Sized),
    vocab: &[u8],
    merges: &[u8],
    config: &TokenizerConfig,
) -> Result<Tokenizer, TokenizerError> {
    let class = ClassDefaults::of(config.class.as_deref());
    let in_vocab = |message: String| broken(assets, VOCAB_JSON, message);
    let in_merges = |message: String| broken(assets, MERGES, message);
    let vocab: AHashMap<String, u32> = serde_json::from_slice::<HashMap<_, _>>(vocab)
        .map_err(|e| in_vocab(format!("not a map of tokens to ids: {e}")))?
        .into_iter()
        .collect();
    let text = std::str::from_utf8(merges).map_err(|e| in_merges(format!("not UTF-8: {e}")))?;
    let mut pairs = Vec::new();
    for (n, line) in text.lines().enumerate().filter(|(_, l)| !l.starts_with("#version") && !l.trim().is_empty()) {
        let pair = line.split_once(' ').filter(|(_, right)| !right.contains(' '));
        let (left, right) = pair.ok_or_else(|| in_merges(format!("line {}: expected two pieces", n + 1)))?;
        pairs.push((left.to_string(), right.to_string()));
    }
    let ids = vocab.clone();
    let id = |content: &str| ids.get(content).copied();
    let model = guarded(|| BPE::builder().vocab_and_merges(vocab, pairs).build())
        .and_then(|r| r.map_err(|e| e.to_string()))
        .map_err(in_merges)?;

    let mut tokenizer = Tokenizer::new(model);
    let (prefix_space, trim) = (config.add_prefix_space.unwrap_or(false), config.trim_offsets.unwrap_or(true));
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(prefix_space, trim, true)));
    tokenizer.with_decoder(Some(ByteLevelDecoder::default()));
    let post = match class {
        Some(class) => {
            let sep = special(config, class, "sep_token", id).map_err(in_vocab)?;
            let cls = special(config, class, "cls_token", id).map_err(in_vocab)?;
            let post = RobertaProcessing::new(sep, cls).trim_offsets(trim).add_prefix_space(prefix_space);
            PostProcessorWrapper::Roberta(post)
        }
        None => sentence_marks(config, id).map_err(in_vocab)?,
    };
    tokenizer.with_post_processor(Some(post));
    Ok(tokenizer)
}

/// TK-04: without a tokenizer.json, `add_bos_token` and `add_eos_token` say what surrounds a text.
fn sentence_marks(config: &TokenizerConfig, id: impl Fn(&str) -> Option<u32>) -> Result<PostProcessorWrapper, String> {
    let mark = |on: Option<bool>, name: &str| -> Result<Option<(String, u32)>, String> {
        let token: Option<&AddedToken> = config.special.iter().find(|(n, _)| n == name).map(|(_, t)| t);
        match (on, token) {
            (Some(true), Some(token)) => {
                let id =
                    id(&token.content).ok_or_else(|| format!("{name} {:?} is not in the vocabulary", token.content))?;
                Ok(Some((token.content.clone(), id)))
            }
            _ => Ok(None),
        }
    };
    let (bos, eos) = (mark(config.add_bos, "bos_token")?, mark(config.add_eos, "eos_token")?);
    let part = |letter: char, kind: u8| {
        let before = bos.as_ref().map_or(String::new(), |(b, _)| format!("{b}:{kind} "));
        let after = eos.as_ref().map_or(String::new(), |(e, _)| format!(" {e}:{kind}"));
        format!("{before}${letter}:{kind}{after}")
    };
    let (single, second) = (part('A', 0), part('B', 1));
    template(&single, &format!("{single} {second}"), bos.iter().chain(&eos).cloned().collect())
}
