//! Calls of `AutoTokenizer` against what Transformers' tokenizers give (`tests/fixtures/tokenizers`, made by
//! `tests/oracle/make_tokenizers.py`). Rows TK-01..03, SP-01..08, TE-01..08, TE-10, PT-01..06, TD-01, TD-02, TD-05.

use std::path::{Path, PathBuf};

use lith_runtime::tokenizer::{
    AddedToken, AutoTokenizer, BatchEncoding, Directory, EncodeOptions, Encoding, Fields, Text, TokenizerError,
};
use serde_json::{Map, Value, json};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

fn read(name: &str) -> Value {
    let path = fixtures().join("tokenizers").join(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&bytes).unwrap()
}

/// The flag or word of an option that takes both (`true`, `"longest"`).
fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}

/// One text, or the words of one.
enum Owned {
    Text(String),
    Words(Vec<String>),
}

impl Owned {
    fn new(value: &Value) -> Self {
        match value {
            Value::String(text) => Owned::Text(text.clone()),
            words => Owned::Words(serde_json::from_value(words.clone()).unwrap()),
        }
    }

    fn text(&self) -> Text<'_> {
        match self {
            Owned::Text(text) => Text::Raw(text),
            Owned::Words(words) => Text::Words(words),
        }
    }
}

/// The texts of an argument, and whether it was a single one.
fn texts(value: &Value, split: bool) -> (Vec<Owned>, bool) {
    let single = match value {
        Value::String(_) => true,
        Value::Array(items) => split && items.iter().all(Value::is_string),
        other => panic!("{other}"),
    };
    let items = if single { vec![value] } else { value.as_array().unwrap().iter().collect() };
    (items.into_iter().map(Owned::new).collect(), single)
}

fn options(args: &Map<String, Value>) -> Result<EncodeOptions, TokenizerError> {
    let flag = |key: &str| args.get(key).and_then(Value::as_bool);
    let number = |key: &str| args.get(key).and_then(Value::as_u64).map(|n| n as usize);
    let mut options = EncodeOptions {
        add_special_tokens: flag("add_special_tokens").unwrap_or(true),
        max_length: number("max_length"),
        stride: number("stride").unwrap_or(0),
        pad_to_multiple_of: number("pad_to_multiple_of"),
        return_overflowing_tokens: flag("return_overflowing_tokens").unwrap_or(false),
        split_special_tokens: flag("split_special_tokens"),
        ..EncodeOptions::default()
    };
    if let Some(padding) = args.get("padding") {
        options.padding = word(padding).parse()?;
    }
    if let Some(truncation) = args.get("truncation") {
        options.truncation = Some(word(truncation).parse()?);
    }
    if let Some(side) = args.get("padding_side") {
        options.padding_side = Some(word(side).parse()?);
    }
    Ok(options)
}

fn fields(tokenizer: &AutoTokenizer, args: &Map<String, Value>) -> Fields {
    let own = tokenizer.default_fields();
    let flag = |key: &str, default: bool| args.get(key).and_then(Value::as_bool).unwrap_or(default);
    Fields {
        token_type_ids: flag("return_token_type_ids", own.token_type_ids),
        attention_mask: flag("return_attention_mask", own.attention_mask),
        special_tokens_mask: flag("return_special_tokens_mask", false),
        offset_mapping: flag("return_offsets_mapping", false),
        length: flag("return_length", false),
        overflow_to_sample_mapping: flag("return_overflowing_tokens", false),
    }
}

fn call(tokenizer: &AutoTokenizer, args: &Map<String, Value>) -> Result<(BatchEncoding, bool), TokenizerError> {
    let split = args.get("is_split_into_words").and_then(Value::as_bool).unwrap_or(false);
    let (first, single) = texts(&args["text"], split);
    let second = args.get("text_pair").map(|pair| texts(pair, split).0);
    // Upstream reads an empty second text of a single call as none.
    let second = second.filter(|pair| !single || !matches!(&pair[..], [Owned::Text(text)] if text.is_empty()));
    let inputs: Vec<_> =
        first.iter().enumerate().map(|(i, text)| (text.text(), second.as_ref().map(|pair| pair[i].text()))).collect();
    Ok((tokenizer.encode_batch(&inputs, &options(args)?)?, single))
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Rows that hold only ids, as callers of `pad` have them.
fn pad(tokenizer: &AutoTokenizer, args: &Map<String, Value>) -> Result<Value, TokenizerError> {
    let inputs = &args["encoded_inputs"];
    let column = |key: &str| -> Option<Vec<Vec<u32>>> {
        match inputs {
            Value::Array(rows) => rows.iter().map(|row| row.get(key).map(ids)).collect(),
            columns => columns.get(key).map(|rows| rows.as_array().unwrap().iter().map(ids).collect()),
        }
    };
    let mut batch = BatchEncoding::default();
    batch.rows.extend(column("input_ids").unwrap().into_iter().map(Encoding::from_ids));
    for (row, mask) in batch.rows.iter_mut().zip(column("special_tokens_mask").into_iter().flatten()) {
        row.special_tokens_mask = mask;
    }
    let mut all = args.clone();
    all.entry("padding").or_insert(json!(true));
    tokenizer.pad(&mut batch, &options(&all)?)?;
    let shown = Fields {
        attention_mask: true,
        special_tokens_mask: column("special_tokens_mask").is_some(),
        ..Fields::default()
    };
    Ok(batch.to_json(shown, false))
}

/// The maps between characters, tokens and words (TE-04).
fn maps(tokenizer: &AutoTokenizer, args: &Map<String, Value>) -> Result<Value, TokenizerError> {
    let row = call(tokenizer, args)?.0.into_single();
    let chars = |key: &str| args.get(key).map(|text| text.as_str().unwrap().chars().count());
    let lengths: Vec<usize> = [chars("text"), chars("text_pair")].into_iter().flatten().collect();
    let words = row.word_ids.iter().flatten().max().map_or(0, |w| w + 1);
    let pair = lengths.len() > 1;
    let tokens_of: Vec<Vec<Option<usize>>> =
        lengths.iter().enumerate().map(|(s, &n)| (0..n).map(|c| row.char_to_token(c, s)).collect()).collect();
    let chars_of: Vec<_> = (0..row.len()).map(|t| row.token_to_chars(t).map(|(_, chars)| chars)).collect();
    let word_of: Vec<_> = (0..row.len()).map(|t| row.token_to_word(t).map(|(_, word)| word)).collect();
    let tokens_of_word = (!pair).then(|| (0..words).map(|w| row.word_to_tokens(w, 0)).collect::<Vec<_>>());
    let word_of_char = (!pair).then(|| (0..lengths[0]).map(|c| row.char_to_word(c, 0)).collect::<Vec<_>>());
    Ok(json!({
        "char_to_token": tokens_of,
        "token_to_chars": chars_of,
        "token_to_word": word_of,
        "word_to_tokens": tokens_of_word,
        "char_to_word": word_of_char,
    }))
}

fn method(tokenizer: &AutoTokenizer, name: &str, args: &Map<String, Value>) -> Result<Value, TokenizerError> {
    let flag = |key: &str| args.get(key).and_then(Value::as_bool);
    let skip = flag("skip_special_tokens").unwrap_or(false);
    let clean = flag("clean_up_tokenization_spaces");
    Ok(match name {
        "pad" => pad(tokenizer, args)?,
        "where" => maps(tokenizer, args)?,
        "decode" => json!(tokenizer.decode(&ids(&args["token_ids"]), skip, clean)?),
        "batch_decode" => {
            let sequences: Vec<Vec<u32>> = serde_json::from_value(args["sequences"].clone()).unwrap();
            json!(tokenizer.batch_decode(&sequences, skip, clean)?)
        }
        "encode" => json!(call(tokenizer, args)?.0.into_single().ids),
        "tokenize" => json!(tokenizer.tokenize(args["text"].as_str().unwrap())?),
        "convert_tokens_to_ids" => {
            let tokens: Vec<String> = serde_json::from_value(args["tokens"].clone()).unwrap();
            json!(tokenizer.convert_tokens_to_ids(&tokens)?)
        }
        "convert_ids_to_tokens" => json!(tokenizer.convert_ids_to_tokens(&ids(&args["ids"]), skip)?),
        "num_special_tokens_to_add" => json!(tokenizer.num_special_tokens_to_add(flag("pair").unwrap())),
        "get_special_tokens_mask" => json!(tokenizer.get_special_tokens_mask(&ids(&args["token_ids_0"]))),
        "all_special_ids" => json!(tokenizer.all_special_ids()),
        "all_special_tokens" => json!(tokenizer.all_special_tokens()),
        "vocab_size" => json!(tokenizer.vocab_size()),
        "__len__" => json!(tokenizer.len()),
        "model_max_length" => json!(tokenizer.model_max_length),
        "model_input_names" => json!(tokenizer.model_input_names),
        "get_added_vocab" => tokenizer.get_added_vocab().into_iter().map(|(t, id)| (t, json!(id))).collect(),
        other => match other.strip_suffix("_id") {
            Some(token) => json!(tokenizer.special_token_id(token)),
            None => panic!("method {other} is not covered"),
        },
    })
}

/// Attributes set and tokens added before a call; gives the number of tokens added.
fn set_up(tokenizer: &mut AutoTokenizer, setup: &Map<String, Value>) -> Result<Option<usize>, TokenizerError> {
    let mut added = None;
    for (key, value) in setup {
        match key.as_str() {
            "padding_side" => tokenizer.padding_side = word(value).parse()?,
            "truncation_side" => tokenizer.truncation_side = word(value).parse()?,
            "pad_token" => tokenizer.set_special_token("pad_token", value.as_str())?,
            "add_tokens" => {
                let tokens = value.as_array().unwrap().iter().map(|token| match token {
                    Value::String(content) => AddedToken::from(content.as_str(), false),
                    token => {
                        let flag = |key: &str| token.get(key).and_then(Value::as_bool).unwrap_or(false);
                        AddedToken::from(token["content"].as_str().unwrap(), flag("special"))
                            .lstrip(flag("lstrip"))
                            .rstrip(flag("rstrip"))
                            .normalized(flag("normalized"))
                            .single_word(flag("single_word"))
                    }
                });
                added = Some(tokenizer.add_tokens(tokens.collect())?);
            }
            "add_special_tokens" => {
                let tokens = value["extra_special_tokens"].as_array().unwrap().iter();
                added =
                    Some(tokenizer.add_tokens(tokens.map(|t| AddedToken::from(t.as_str().unwrap(), true)).collect())?);
            }
            other => panic!("setup {other} is not covered"),
        }
    }
    Ok(added)
}

/// Cases that upstream answers and we refuse: a `max_length` below the number of special tokens wraps around there, and
/// nothing is cut.
const STRICTER: &[&str] = &["no room for specials"];

/// Runs one case and says how it differs, if it does.
fn check(directory: &Path, case: &Value) -> Result<(), String> {
    let assets = Directory(directory.to_path_buf());
    let mut tokenizer = AutoTokenizer::from_assets(&assets).map_err(|e| e.to_string())?;
    let none = Map::new();
    let args = case["args"].as_object().unwrap();
    let setup = case.get("setup").and_then(Value::as_object).unwrap_or(&none);
    let name = case["method"].as_str().unwrap();
    let same = |what: &str, ours: Value, theirs: &Value| {
        if ours == *theirs { Ok(()) } else { Err(format!("{what}\n  ours   {ours}\n  theirs {theirs}")) }
    };
    let run = |tokenizer: &AutoTokenizer| -> Result<(Value, Option<BatchEncoding>), TokenizerError> {
        if name == "call" {
            let (batch, single) = call(tokenizer, args)?;
            Ok((batch.to_json(fields(tokenizer, args), single), Some(batch)))
        } else {
            Ok((method(tokenizer, name, args)?, None))
        }
    };
    let added = set_up(&mut tokenizer, setup).map_err(|e| e.to_string())?;
    if case.get("error").is_some() || STRICTER.contains(&case["name"].as_str().unwrap()) {
        return match run(&tokenizer) {
            Ok((ours, _)) => Err(format!("accepted what upstream refuses: {ours}")),
            Err(_) => Ok(()),
        };
    }
    if let Some(theirs) = case.get("added") {
        same("number added", json!(added), theirs)?;
    }
    let (result, batch) = run(&tokenizer).map_err(|e| e.to_string())?;
    same("result", result, &case["result"])?;
    if let Some(BatchEncoding { rows, .. }) = batch {
        same("tokens", rows.iter().map(|r| json!(r.tokens)).collect(), &case["tokens"])?;
        same("word_ids", rows.iter().map(|r| json!(r.word_ids)).collect(), &case["word_ids"])?;
        same("sequence_ids", rows.iter().map(|r| json!(r.sequence_ids)).collect(), &case["sequence_ids"])?;
    }
    Ok(())
}

fn run_book(name: &str, directory: &Path) {
    let book = read(&format!("{name}.json"));
    let cases = book["cases"].as_array().unwrap();
    assert!(cases.len() > 20, "{name}: {} cases", cases.len());
    let failures: Vec<String> = cases
        .iter()
        .filter_map(|case| check(directory, case).err().map(|e| format!("{}: {e}", case["name"])))
        .collect();
    let n = failures.len();
    assert!(failures.is_empty(), "{name}: {n} of {} cases differ\n{}", cases.len(), failures.join("\n"));
}

#[test]
fn bert_word_piece() {
    run_book("bert", &fixtures().join("bert-base"));
}

#[test]
fn roberta_byte_level_bpe() {
    run_book("roberta", &fixtures().join("roberta-base"));
}

#[test]
fn xlm_roberta_unigram() {
    run_book("xlm-roberta", &fixtures().join("xlm-roberta-base"));
}

#[test]
fn albert_unigram() {
    run_book("albert", &fixtures().join("albert-base"));
}

#[test]
fn mpnet_word_piece() {
    run_book("mpnet", &fixtures().join("mpnet-base"));
}

#[test]
#[ignore = "needs LITH_TEST_MODELS"]
fn minilm_word_piece() {
    let models = std::env::var_os("LITH_TEST_MODELS").expect("LITH_TEST_MODELS is set");
    run_book("minilm", &PathBuf::from(models).join("minilm"));
}

/// PT-03: every small pair of lengths.
#[test]
fn pt_03_longest_first() {
    let book = read("longest-first.json");
    let tokenizer = AutoTokenizer::from_assets(&Directory(fixtures().join("bert-base"))).unwrap();
    let rows: Vec<[usize; 5]> = serde_json::from_value(book["rows"].clone()).unwrap();
    assert!(rows.len() > 500);
    for [n1, n2, room, m1, m2] in rows {
        let options = EncodeOptions { add_special_tokens: false, max_length: Some(room), ..EncodeOptions::default() };
        let (a, b) = ("a ".repeat(n1), "b ".repeat(n2));
        let row = tokenizer.encode(&*a, Some(Text::Raw(&b)), &options).unwrap().into_single();
        let count = |s: usize| row.sequence_ids.iter().filter(|&&id| id == Some(s)).count();
        assert_eq!((count(0), count(1)), (m1, m2), "{n1} and {n2} in {room}");
    }
}
