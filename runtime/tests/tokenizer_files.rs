//! Reading tokenizers: older vocabulary files, broken and hostile files, and what calls cost.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lith_runtime::tokenizer::{
    Assets, AutoTokenizer, Directory, EncodeOptions, Padding, Side, TOKENIZER_FILES, Text, TokenizerError, Truncation,
};
use serde_json::{Value, json};

type Files = BTreeMap<String, Vec<u8>>;

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

/// The tokenizer files of a fixture, in memory.
fn files(name: &str) -> Files {
    let directory = Directory(directory(name));
    let file = |name: &&str| Some((name.to_string(), directory.read(name).unwrap()?.into_owned()));
    TOKENIZER_FILES.iter().filter_map(file).collect()
}

fn json_of(files: &Files, name: &str) -> Value {
    serde_json::from_slice(&files[name]).unwrap()
}

fn put(files: &mut Files, name: &str, value: &Value) {
    files.insert(name.into(), serde_json::to_vec(value).unwrap());
}

fn load(files: &Files) -> Result<AutoTokenizer, TokenizerError> {
    AutoTokenizer::from_assets(files)
}

fn message(files: &Files) -> String {
    load(files).expect_err("the files are wrong").to_string()
}

const TEXTS: &[&str] =
    &["A good book.", "Müller in Köln: naïve café?", "", "  rain   and\tsnow \n", "中文 😀 ok", "can't we've [MASK] x"];

fn same_ids(a: &AutoTokenizer, b: &AutoTokenizer) {
    for text in TEXTS {
        for pair in [None, Some(Text::Raw("a second one"))] {
            let rows = [a, b].map(|t| t.encode(*text, pair, &EncodeOptions::default()).unwrap());
            assert_eq!(rows[0], rows[1], "{text:?}");
        }
    }
}

/// TK-05: a vocabulary of word pieces gives what the tokenizer.json made from it gives.
#[test]
fn tk_05_vocab_txt() {
    let mut old = files("bert-base");
    let new = load(&old).unwrap();
    let json = json_of(&old, "tokenizer.json");
    let mut vocab: Vec<(&String, u64)> =
        json["model"]["vocab"].as_object().unwrap().iter().map(|(t, id)| (t, id.as_u64().unwrap())).collect();
    vocab.sort_by_key(|(_, id)| *id);
    let lines: Vec<&str> = vocab.iter().map(|(token, _)| token.as_str()).collect();
    old.remove("tokenizer.json");
    for ending in ["\n", "\r\n"] {
        old.insert("vocab.txt".into(), (lines.join(ending) + ending).into_bytes());
        same_ids(&load(&old).unwrap(), &new);
    }
    // The class alone names the special tokens.
    put(&mut old, "tokenizer_config.json", &json!({ "tokenizer_class": "BertTokenizerFast" }));
    let bare = load(&old).unwrap();
    same_ids(&bare, &new);
    assert_eq!(bare.model_max_length, None);
    put(&mut old, "tokenizer_config.json", &json!({ "do_lower_case": false, "model_max_length": 1e30 }));
    let cased = load(&old).unwrap();
    assert_ne!(cased.tokenize("A good Book").unwrap(), new.tokenize("A good Book").unwrap());
    assert_eq!(cased.model_max_length, None);
}

/// TK-05: byte-level pieces from vocab.json and merges.txt.
#[test]
fn tk_05_vocab_json_and_merges() {
    let mut old = files("roberta-base");
    let new = load(&old).unwrap();
    let json = json_of(&old, "tokenizer.json");
    let merges = json["model"]["merges"].as_array().unwrap().iter().map(|merge| match merge {
        Value::String(line) => line.clone(),
        pair => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
    });
    let merges = format!("#version: 0.2\n{}\n", merges.collect::<Vec<_>>().join("\n"));
    old.remove("tokenizer.json");
    put(&mut old, "vocab.json", &json["model"]["vocab"]);
    assert!(message(&old).contains("merges.txt"));
    old.insert("merges.txt".into(), merges.into_bytes());
    let mut config = json_of(&old, "tokenizer_config.json");
    config["tokenizer_class"] = json!("RobertaTokenizer");
    put(&mut old, "tokenizer_config.json", &config);
    let built = load(&old).unwrap();
    for text in ["A good book.", "Müller in Köln: naïve café?", "中文 😀 ok"] {
        let row = |t: &AutoTokenizer| t.encode(text, None, &EncodeOptions::default()).unwrap().into_single();
        assert_eq!(row(&built), row(&new), "{text:?}");
    }
    // TK-04: another class has its flags say what surrounds a text.
    config["tokenizer_class"] = json!("GPT2Tokenizer");
    config["add_eos_token"] = json!(true);
    put(&mut old, "tokenizer_config.json", &config);
    let gpt = load(&old).unwrap();
    let row = gpt.encode("A", Some("b".into()), &EncodeOptions::default()).unwrap().into_single();
    assert_eq!(row.tokens, ["A", "</s>", "b", "</s>"]);
    assert_eq!(row.type_ids, [0, 0, 1, 1]);
    assert_eq!(gpt.num_special_tokens_to_add(true), 2);
    old.insert("merges.txt".into(), b"one-piece\n".to_vec());
    assert!(message(&old).contains("merges.txt: line 1"));
}

/// TK-08, and bad input: what is missing or broken is named.
#[test]
fn tk_08_files_are_named() {
    let good = files("bert-base");
    let mut none = Files::new();
    assert!(message(&none).contains("tokenizer.json, or vocab.txt, or vocab.json with merges.txt"));
    none.insert("unrelated.json".into(), b"{}".to_vec());
    assert!(matches!(load(&none), Err(TokenizerError::Missing { .. })));
    none.insert("sentencepiece.bpe.model".into(), vec![0; 8]);
    let text = message(&none);
    assert!(text.contains("tokenizer.json is missing") && text.contains("sentencepiece.bpe.model"), "{text}");
    let absent = AutoTokenizer::from_assets(&Directory(directory("no-such-model"))).unwrap_err().to_string();
    assert!(absent.contains("no-such-model"), "{absent}");

    let whole = &good["tokenizer.json"];
    for (file, bytes, found) in [
        ("tokenizer.json", &b""[..], "tokenizer.json: not a tokenizer"),
        ("tokenizer.json", b"{}", "missing field `model`"),
        ("tokenizer.json", b"not json", "tokenizer.json: not a tokenizer"),
        ("tokenizer.json", br#"{"model": {"type": "Nothing", "vocab": {}}}"#, "tokenizer.json: not a tokenizer"),
        ("tokenizer.json", &whole[..whole.len() / 2], "tokenizer.json: not a tokenizer"),
        ("tokenizer_config.json", b"[]", "tokenizer_config.json: expected a JSON object"),
        ("tokenizer_config.json", b"{", "tokenizer_config.json: not valid JSON"),
        ("tokenizer_config.json", br#"{"pad_token": 3}"#, "tokenizer_config.json: pad_token"),
        ("tokenizer_config.json", br#"{"padding_side": "top"}"#, "tokenizer_config.json: padding_side"),
        ("tokenizer_config.json", br#"{"added_tokens_decoder": {"x": {}}}"#, "added_tokens_decoder"),
        ("special_tokens_map.json", b"\xff", "special_tokens_map.json: not valid JSON"),
        ("added_tokens.json", br#"{"<x>": -1}"#, "added_tokens.json"),
    ] {
        let mut files = good.clone();
        files.insert(file.into(), bytes.to_vec());
        let text = message(&files);
        assert!(text.contains(found), "{file}: {text}");
    }
}

/// TK-02, TK-03: the config goes before the map, the map fills what the config leaves open.
#[test]
fn tk_03_special_tokens_of_both_files() {
    let mut files = files("bert-base");
    put(
        &mut files,
        "tokenizer_config.json",
        &json!({ "mask_token": "[MASK]", "pad_token": "[SEP]", "extra_special_tokens": ["<e>"] }),
    );
    put(
        &mut files,
        "special_tokens_map.json",
        &json!({ "pad_token": "[PAD]", "cls_token": { "content": "[CLS]", "lstrip": true }, "image_token": "<image>" }),
    );
    put(&mut files, "added_tokens.json", &json!({ "<more>": 999 }));
    let tokenizer = load(&files).unwrap();
    assert_eq!(tokenizer.pad_token(), Some("[SEP]"));
    assert_eq!(tokenizer.special_token("cls_token"), Some("[CLS]"));
    assert_eq!(tokenizer.all_special_tokens(), ["[SEP]", "[CLS]", "[MASK]", "<image>", "<e>"]);
    for token in ["<image>", "<e>", "<more>"] {
        let id = tokenizer.token_to_id(token).unwrap_or_else(|| panic!("{token} is not in the vocabulary"));
        assert!(id as usize >= tokenizer.vocab_size());
        let text = format!("a{token}b");
        assert!(tokenizer.tokenize(&text).unwrap().contains(&token.to_string()));
    }
}

/// TK-16: the sections of tokenizer.json are defaults; calls without options neither cut nor pad.
#[test]
fn tk_16_sections_are_defaults() {
    let mut files = files("bert-base");
    let mut json = json_of(&files, "tokenizer.json");
    json["truncation"] = json!({ "direction": "Left", "max_length": 4, "strategy": "LongestFirst", "stride": 0 });
    json["padding"] = json!({
        "strategy": { "Fixed": 4000000000u32 }, "direction": "Left", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "[PAD]",
    });
    put(&mut files, "tokenizer.json", &json);
    put(&mut files, "tokenizer_config.json", &json!({}));
    let tokenizer = load(&files).unwrap();
    assert_eq!((tokenizer.padding_side, tokenizer.truncation_side), (Side::Left, Side::Left));
    assert_eq!(tokenizer.pad_token(), Some("[PAD]"));
    let row = tokenizer.encode("a b c d e f", None, &EncodeOptions::default()).unwrap().into_single();
    assert_eq!(row.len(), 8);
}

/// Bits flipped, bytes cut out and values swapped in a tokenizer.json: an error or a tokenizer, never a panic.
#[test]
fn hostile_files_do_not_panic() {
    let values =
        ["null", "-1", "1e400", "18446744073709551615", "\"\"", "[]", "{}", "true", "\"\\u0000\"", "4294967295"];
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut random = move |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % n.max(1) as u64) as usize
    };
    let mut loaded = 0;
    for name in ["bert-base", "roberta-base", "xlm-roberta-base", "albert-base"] {
        let good = files(name);
        // Most of the file is vocabulary; the interesting parts are the rest, so half of the changes go there.
        let text = &good["tokenizer.json"];
        let model =
            text.windows(9).position(|w| w == b"\"model\":{").or(text.windows(8).position(|w| w == b"\"model\":"));
        let head = model.expect("a model section") + 200;
        for round in 0..100 {
            let mut bytes = text.clone();
            for _ in 0..=random(3) {
                let limit = if round % 2 == 0 { head.min(bytes.len()) } else { bytes.len() };
                let at = random(limit);
                match random(4) {
                    0 => bytes[at] ^= 1 << random(8),
                    1 => bytes.truncate(at.max(1)),
                    2 => drop(bytes.drain(at..(at + 1 + random(8)).min(bytes.len()))),
                    _ => {
                        // The value after the next colon.
                        let from = bytes[at..].iter().position(|&b| b == b':').map_or(at, |p| at + p + 1);
                        let to = bytes[from..].iter().position(|b| b",}]".contains(b)).map_or(from, |p| from + p);
                        bytes.splice(from..to, values[random(values.len())].bytes());
                    }
                }
            }
            let mut files = good.clone();
            files.insert("tokenizer.json".into(), bytes);
            if let Ok(tokenizer) = load(&files) {
                loaded += 1;
                let options = EncodeOptions {
                    max_length: Some(6),
                    stride: 1,
                    return_overflowing_tokens: true,
                    truncation: Some(Truncation::LongestFirst),
                    ..EncodeOptions::default()
                };
                if let Ok(batch) = tokenizer.encode("Müller's book, 中文 😀 [MASK]", None, &options) {
                    for row in &batch.rows {
                        let _ = tokenizer.decode(&row.ids, true, Some(true));
                    }
                }
            }
        }
    }
    assert!(
        loaded > 20,
        "only {loaded} changed files were still tokenizers: the changes are too wild to test anything"
    );
}

/// A merge whose right half lacks the subword prefix is refused before the tokenizers crate cuts it.
#[test]
fn merges_without_their_prefix() {
    let json = |right: &str| {
        json!({ "version": "1.0", "model": {
            "type": "BPE", "continuing_subword_prefix": "##", "merges": [format!("a {right}")],
            "vocab": { "a": 0, "##b": 1, "ab": 2, "é": 3 },
        }})
    };
    let mut files = Files::new();
    put(&mut files, "tokenizer.json", &json("##b"));
    assert_eq!(load(&files).unwrap().tokenize("ab").unwrap(), ["ab"]);
    put(&mut files, "tokenizer.json", &json("é"));
    assert!(message(&files).contains("subword prefix"));
}

/// TE-07, PT-01: calls of any size either work in time that grows with the text alone, or are refused.
#[test]
fn te_07_long_texts_take_linear_time() {
    for name in ["bert-base", "roberta-base", "xlm-roberta-base"] {
        let tokenizer = load(&files(name)).unwrap();
        let encode = |text: &str, options: &EncodeOptions| {
            let start = Instant::now();
            let rows = tokenizer.encode(text, None, options).unwrap().rows;
            (rows, start.elapsed())
        };
        let words = "a good book ".repeat(10_000);
        for text in [&words, &"x".repeat(200_000), &" ".repeat(200_000), &"é".repeat(100_000)] {
            let (rows, whole) = encode(text, &EncodeOptions::default());
            let (_, part) = encode(&text[..text.len() / 10], &EncodeOptions::default());
            assert!(!rows[0].is_empty());
            // Ten times the text in less than fifty times the time: quadratic work would take a hundred.
            let bound = part.max(Duration::from_millis(10)) * 50;
            assert!(whole < bound, "{name}: {whole:?} for the whole text, {part:?} for a tenth");
        }
        let cut = EncodeOptions {
            max_length: Some(16),
            stride: 4,
            return_overflowing_tokens: true,
            ..EncodeOptions::default()
        };
        let (rows, _) = encode(&words, &cut);
        assert!(rows.len() > 1_000 && rows.iter().all(|row| row.len() <= 16));
        let huge =
            EncodeOptions { padding: Padding::MaxLength, max_length: Some(usize::MAX), ..EncodeOptions::default() };
        assert!(matches!(tokenizer.encode("a", None, &huge), Err(TokenizerError::PadTooLong { .. })));
    }
}

/// TE-11: a batch large enough to be spread over threads gives the rows of one by one.
#[test]
fn te_11_parallel_batches_keep_order() {
    let tokenizer = load(&files("bert-base")).unwrap();
    let texts: Vec<String> =
        (0..500).map(|i| format!("{} rain and snow {i}", TEXTS[i % TEXTS.len()]).repeat(3)).collect();
    let inputs: Vec<_> = texts.iter().map(|t| (Text::Raw(t), None)).collect();
    let options = EncodeOptions::default();
    let batch = tokenizer.encode_batch(&inputs, &options).unwrap();
    assert_eq!(batch.overflow_to_sample_mapping, (0..500).collect::<Vec<_>>());
    for (text, row) in texts.iter().zip(batch.rows) {
        assert_eq!(tokenizer.encode(text.as_str(), None, &options).unwrap().into_single(), row);
    }
}

/// TD-01: an id that is no token is an error.
#[test]
fn td_01_unknown_id() {
    let tokenizer = load(&files("bert-base")).unwrap();
    let id = tokenizer.len() as u32;
    assert!(matches!(tokenizer.decode(&[5, id], false, None), Err(TokenizerError::UnknownId { .. })));
    assert!(tokenizer.convert_ids_to_tokens(&[u32::MAX], false).is_err());
}
