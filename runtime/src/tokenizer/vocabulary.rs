//! WordPiece vocabularies of `tokenizer.json`, read in one go: the tokenizers crate copies a model through two trees of
//! JSON values before it builds it, which was half the time from a program's start to its first answer. Must not know what
//! else the file says: the crate reads that, from the file with a vocabulary of the added tokens alone in place of its own.

use ahash::AHashMap;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokenizers::Tokenizer;
use tokenizers::models::wordpiece::WordPiece;

#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow)]
    model: &'a RawValue,
    #[serde(default)]
    added_tokens: Vec<Added>,
}

#[derive(Deserialize)]
struct Added {
    content: String,
}

#[derive(Deserialize)]
struct Model {
    r#type: String,
    unk_token: String,
    continuing_subword_prefix: String,
    max_input_chars_per_word: usize,
    vocab: std::collections::HashMap<String, u32, ahash::RandomState>,
}

/// The tokenizer of a file whose model is WordPiece and knows all added tokens, so that no id depends on the size of the
/// vocabulary. `None` for any other file, good or bad: that is for the tokenizers crate to judge.
pub(super) fn word_piece(bytes: &[u8]) -> Option<Tokenizer> {
    let text = std::str::from_utf8(bytes).ok()?;
    let file: File<'_> = serde_json::from_str(text).ok()?;
    if !file.model.get().get(..200).unwrap_or(file.model.get()).contains("WordPiece") {
        return None;
    }
    let model: Model = serde_json::from_str(file.model.get()).ok().filter(|m: &Model| m.r#type == "WordPiece")?;
    let known: AHashMap<&str, u32> = file
        .added_tokens
        .iter()
        .map(|t| Some((t.content.as_str(), *model.vocab.get(&t.content)?)))
        .collect::<Option<_>>()?;
    let few = serde_json::json!({
        "type": "WordPiece",
        "unk_token": model.unk_token,
        "continuing_subword_prefix": model.continuing_subword_prefix,
        "max_input_chars_per_word": model.max_input_chars_per_word,
        "vocab": known.into_iter().collect::<std::collections::HashMap<_, _>>(),
    });
    // The model is a part of the text, so its place is where it starts and ends there.
    let start = (file.model.get().as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
    let (before, after) = (text.get(..start)?, text.get(start + file.model.get().len()..)?);
    let mut tokenizer = Tokenizer::from_bytes(format!("{before}{few}{after}")).ok()?;
    let model = WordPiece::builder()
        .vocab(AHashMap::from(model.vocab))
        .unk_token(model.unk_token)
        .continuing_subword_prefix(model.continuing_subword_prefix)
        .max_input_chars_per_word(model.max_input_chars_per_word)
        .build()
        .ok()?;
    tokenizer.with_model(model);
    Some(tokenizer)
}

#[cfg(test)]
mod tests {
    use tokenizers::AddedToken;
    use tokenizers::models::bpe::BPE;
    use tokenizers::normalizers::bert::BertNormalizer;
    use tokenizers::pre_tokenizers::bert::BertPreTokenizer;

    use super::*;

    /// A tokenizer of these words with these added tokens.
    fn file(words: &[&str], added: &[&str]) -> String {
        let vocab: AHashMap<String, u32> = words.iter().zip(0..).map(|(w, i)| ((*w).to_string(), i)).collect();
        let model = WordPiece::builder().vocab(vocab).unk_token("[UNK]".into()).max_input_chars_per_word(9).build();
        let mut tokenizer = Tokenizer::new(model.unwrap());
        tokenizer.with_normalizer(Some(BertNormalizer::default())).unwrap();
        tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
        let added: Vec<AddedToken> = added.iter().map(|t| AddedToken::from(*t, true)).collect();
        tokenizer.add_special_tokens(added).unwrap();
        tokenizer.to_string(true).unwrap()
    }

    const WORDS: [&str; 7] = ["[UNK]", "[SEP]", "un", "##believ", "##able", "\"quoted\"", "é"];

    #[test]
    fn the_same_tokenizer_as_the_crate_reads() {
        let text = file(&WORDS, &["[SEP]", "[UNK]"]);
        let expected = Tokenizer::from_bytes(&text).unwrap();
        let found = word_piece(text.as_bytes()).unwrap();
        assert_eq!(found.to_string(true).unwrap(), expected.to_string(true).unwrap());
        for input in ["unbelievable [SEP] un é", "unbelievableun", "[UNK][SEP]", ""] {
            let ids = |t: &Tokenizer| t.encode(input, true).unwrap().get_ids().to_vec();
            assert_eq!(ids(&found), ids(&expected), "{input}");
        }
    }

    #[test]
    fn other_files_are_left_to_the_crate() {
        assert!(word_piece(file(&WORDS, &["[NEW]"]).as_bytes()).is_none(), "an id behind the vocabulary");
        assert!(word_piece(Tokenizer::new(BPE::default()).to_string(false).unwrap().as_bytes()).is_none());
        for bad in [&b"{}"[..], b"", b"{\"model\": {\"type\": \"WordPiece\"}}", b"\xFF"] {
            assert!(word_piece(bad).is_none());
        }
    }
}
