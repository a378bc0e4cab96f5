//! The kinds of tokenizers: normalizer, pre-tokenizer, model and decoder of a `tokenizer.json` from a vocabulary.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::pre::Pre;
use super::{TOKENS, TokenType, Vocabulary, shortened};
use crate::gguf::GgufError;

/// What surrounds a text unless the file says otherwise.
pub(super) struct Surround {
    pub bos: bool,
    pub eos: bool,
}

const MERGES: &str = "tokenizer.ggml.merges";
const PRE: &str = "tokenizer.ggml.pre";
const SCORES: &str = "tokenizer.ggml.scores";

/// SentencePiece's mark of a space.
const SPACE: char = '\u{2581}';

/// Longest piece of a SentencePiece vocabulary, in bytes; the library's own limit is 16 characters by default. All ways
/// to cut a piece in two are looked at, so the work grows with its square.
const MAX_PIECE: usize = 1024;

/// Byte-level BPE.
pub(super) fn byte_level(vocabulary: &Vocabulary<'_>) -> Result<(Value, Surround), GgufError> {
    let metadata = &vocabulary.gguf.metadata;
    let name = metadata.text(PRE)?.unwrap_or("default");
    let pre = Pre::find(name).ok_or_else(|| {
        let reason = format!("unknown pre-tokenizer `{}`; known: {}", shortened(name), Pre::names());
        vocabulary.wrong(PRE, reason)
    })?;
    let lines = metadata.texts(MERGES, vocabulary.gguf.bytes())?.ok_or_else(|| metadata.missing(MERGES))?;
    let mut merges = Vec::new();
    for (number, line) in lines.into_iter().enumerate() {
        // A piece may begin with a space, but not hold one elsewhere.
        let cut = line.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at);
        let wrong = |what: &str| vocabulary.wrong(MERGES, format!("merge {number}, {:?}: {what}", shortened(line)));
        let (left, right) = cut.map(|at| line.split_at(at)).ok_or_else(|| wrong("expected two pieces"))?;
        let right = right.get(1..).unwrap_or_default();
        let known = |piece: &str| vocabulary.ids.contains_key(piece);
        if !known(left) || !known(right) || !known(&format!("{left}{right}")) {
            return Err(wrong("its pieces, or what they make, are not in the vocabulary"));
        }
        merges.push(json!([left, right]));
    }
    let json = json!({
        "normalizer": pre.normalizer(),
        "pre_tokenizer": pre.pre_tokenizer(),
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": pre.ignore_merges, "vocab": vocabulary.to_json(), "merges": merges,
        },
    });
    Ok((json, Surround { bos: pre.add_bos, eos: false }))
}

/// SentencePiece: its BPE, or its unigram model.
///
/// Its BPE merges, among all neighbours that together are a piece, those whose piece has the highest score. As a list of
/// merges: every way to cut a piece in two pieces, highest score first. Cuts of one piece have one score; among them,
/// pieces of lower ids come first, as where Transformers makes this list.
pub(super) fn sentence_piece(vocabulary: &Vocabulary<'_>, unigram: bool) -> Result<(Value, Surround), GgufError> {
    let metadata = &vocabulary.gguf.metadata;
    let scores = metadata.numbers(SCORES, vocabulary.gguf.bytes())?.ok_or_else(|| metadata.missing(SCORES))?;
    if scores.len() != vocabulary.texts.len() || !scores.iter().all(|score| score.is_finite()) {
        let reason = format!("expected {} finite numbers, found {}", vocabulary.texts.len(), scores.len());
        return Err(vocabulary.wrong(SCORES, reason));
    }
    let unknown = match vocabulary.token("tokenizer.ggml.unknown_token_id")? {
        Some((id, _)) => Some(id),
        None => vocabulary.types.iter().position(|of| *of == TokenType::Unknown),
    };
    let bytes = vocabulary.types.contains(&TokenType::Byte);
    let flag = |key: &str, default: bool| Ok::<bool, GgufError>(metadata.flag(key)?.unwrap_or(default));
    let prefix = flag("tokenizer.ggml.add_space_prefix", true)?;

    let mut normalizers = Vec::new();
    if let Some(map) =
        metadata.raw("tokenizer.ggml.precompiled_charsmap", vocabulary.gguf.bytes())?.filter(|m| !m.is_empty())
    {
        normalizers.push(json!({"type": "Precompiled", "precompiled_charsmap": base64(map)}));
    }
    if flag("tokenizer.ggml.remove_extra_whitespaces", unigram)? {
        // Spaces only: other blanks, which a table of characters may turn into spaces, stay where it does not.
        normalizers.push(json!({"type": "Replace", "pattern": {"Regex": r"\A +| +\z"}, "content": ""}));
        normalizers.push(json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}));
    }
    if prefix {
        normalizers.push(json!({"type": "Prepend", "prepend": SPACE}));
    }
    normalizers.push(json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE}));

    let mut decoders = vec![json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "})];
    if bytes {
        decoders.push(json!({"type": "ByteFallback"}));
    }
    decoders.push(json!({"type": "Fuse"}));
    if prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }

    let model = if unigram {
        let unknown = unknown.ok_or_else(|| metadata.missing("tokenizer.ggml.unknown_token_id"))?;
        let pieces: Vec<Value> =
            vocabulary.texts.iter().zip(&scores).map(|(text, score)| json!([text, score])).collect();
        json!({"type": "Unigram", "unk_id": unknown, "vocab": pieces, "byte_fallback": bytes})
    } else {
        json!({
            "type": "BPE", "dropout": null, "unk_token": unknown.and_then(|id| vocabulary.texts.get(id)),
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": bytes,
            "ignore_merges": false, "vocab": vocabulary.to_json(), "merges": merges(vocabulary, &scores)?,
        })
    };
    let json = json!({
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": null,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": model,
    });
    Ok((json, Surround { bos: !unigram, eos: unigram }))
}

/// The merges that a vocabulary with scores stands for.
fn merges(vocabulary: &Vocabulary<'_>, scores: &[f64]) -> Result<Vec<Value>, GgufError> {
    let pieces = || {
        let all = vocabulary.texts.iter().zip(&vocabulary.types).enumerate();
        all.filter(|(_, (_, of))| matches!(of, TokenType::Normal | TokenType::UserDefined))
            .map(|(id, (text, _))| (text.as_str(), id))
    };
    let ids: HashMap<&str, usize> = pieces().collect();
    let mut merges = Vec::new();
    for (text, id) in pieces() {
        if text.len() > MAX_PIECE {
            let reason = format!("token {id} has {} bytes, expected {MAX_PIECE} at most", text.len());
            return Err(vocabulary.wrong(TOKENS, reason));
        }
        let score = scores.get(id).copied().unwrap_or(0.0);
        let cuts = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
        merges.extend(cuts.filter_map(|(left, right)| Some((score, *ids.get(left)?, *ids.get(right)?, left, right))));
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
    Ok(merges.into_iter().map(|(.., left, right)| json!([left, right])).collect())
}

/// WordPiece, with BERT's cleaning of text.
pub(super) fn word_piece(vocabulary: &Vocabulary<'_>) -> Result<(Value, Surround), GgufError> {
    let flag = |key: &str| vocabulary.gguf.metadata.flag(&format!("tokenizer.ggml.normalizer.{key}"));
    let unknown = match vocabulary.token("tokenizer.ggml.unknown_token_id")? {
        Some((_, text)) => text,
        None => "[UNK]",
    };
    let json = json!({
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": flag("strip_accents")?, "lowercase": flag("lowercase")?.unwrap_or(true),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": CONTINUED, "cleanup": true},
        "model": {
            "type": "WordPiece", "unk_token": unknown, "continuing_subword_prefix": CONTINUED,
            "max_input_chars_per_word": 100, "vocab": vocabulary.to_json(),
        },
    });
    Ok((json, Surround { bos: true, eos: true }))
}

/// The mark of a piece that continues a word.
const CONTINUED: &str = "##";

/// A WordPiece token's own text: GGUF marks the pieces that begin a word, WordPiece those that do not.
pub(super) fn word_piece_text(text: &str) -> String {
    match text.strip_prefix(SPACE) {
        Some(start) => start.to_string(),
        None => format!("{CONTINUED}{text}"),
    }
}

/// Base64 with padding (RFC 4648), in which a `tokenizer.json` keeps SentencePiece's table of characters.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let word = three.iter().fold(0u32, |word, &byte| word << 8 | u32::from(byte)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = (word >> (18 - 6 * place) & 63) as usize;
            text.push(if place <= three.len() { char::from(DIGITS[digit]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    /// The examples of RFC 4648, section 10.
    #[test]
    fn base64() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(super::base64(bytes.as_bytes()), text);
        }
    }
}
