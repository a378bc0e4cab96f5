//! Tokenizers of GGUF files against those their vocabularies come from (LB-15, LB-16). The fixtures are made by
//! `tests/oracle/make_gguf.py`; the real file's ids are those of the `tokenizer.json` it was converted from.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use lith_models::gguf::Gguf;
use lith_runtime::tokenizer::{AutoTokenizer, EncodeOptions};
use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf").join(name)
}

fn files(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let gguf = Gguf::open(path).unwrap_or_else(|e| panic!("{e}"));
    gguf.tokenizer_files().unwrap_or_else(|e| panic!("{e}")).into_iter().collect()
}

/// Compares ids, and texts made of them, with a golden file.
fn compare(name: &str, files: &BTreeMap<String, Vec<u8>>) {
    let tokenizer = AutoTokenizer::from_assets(files).unwrap_or_else(|e| panic!("{name}: {e}"));
    let golden = fs::read(fixture(&format!("tokenizer-{name}.json"))).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    let cases = golden.as_array().unwrap();
    assert!(cases.len() >= 40, "{name}: {} cases", cases.len());
    let options = EncodeOptions::default();
    let mut wrong = Vec::new();
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let ids = tokenizer.encode(text, None, &options).unwrap_or_else(|e| panic!("{name}: {e}")).into_single().ids;
        let expected: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        if ids != expected {
            wrong.push(format!("{text:?}: expected {expected:?}, found {ids:?}"));
        }
    }
    let plain = EncodeOptions { add_special_tokens: false, ..options };
    for case in cases.iter().filter(|case| case["decoded"].is_string()) {
        let text = case["text"].as_str().unwrap();
        let ids = tokenizer.encode(text, None, &plain).unwrap_or_else(|e| panic!("{name}: {e}")).into_single().ids;
        let decoded = tokenizer.decode(&ids, false, None).unwrap_or_else(|e| panic!("{name}: {e}"));
        if decoded != case["decoded"] {
            wrong.push(format!("{text:?}: expected {}, decoded {decoded:?}", case["decoded"]));
        }
    }
    assert!(wrong.is_empty(), "{name}: {} of {} texts differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// LB-15: byte-level BPE, with the rules of seven families for cutting text.
#[test]
fn byte_level_tokenizers() {
    for name in ["gpt-2", "smollm", "llama-bpe", "qwen2", "falcon", "deepseek-coder", "gpt-4o"] {
        compare(name, &files(&fixture(&format!("tokenizer-{name}.gguf"))));
    }
}

/// The fixture of SmolLM's rule with another rule's name in it.
fn with_rule(name: &str) -> Result<Gguf, lith_models::gguf::GgufError> {
    let whole = fs::read(fixture("tokenizer-smollm.gguf")).unwrap();
    let string = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let (old, new) = (string("smollm"), string(name));
    let at = whole.windows(old.len()).position(|part| part == old).expect("the rule's name is in the file");
    Gguf::from_bytes([&whole[..at], &new, &whole[at + old.len()..]].concat(), Path::new("some.gguf"))
}

/// LB-15: every rule for cutting text is one that tokenizers can be built with, and loses nothing of a text.
#[test]
fn every_rule_builds() {
    let error = with_rule("no such rule").unwrap().tokenizer_files().unwrap_err().to_string();
    let names: Vec<&str> = error.split_once("known: ").expect("the error lists the rules").1.split(", ").collect();
    assert!(names.len() >= 40, "{names:?}");
    let text = "It's 12345 cafés,\n\n  中文 😀… DON'T-stop!";
    for name in names {
        let files: BTreeMap<String, Vec<u8>> =
            with_rule(name).unwrap().tokenizer_files().unwrap().into_iter().collect();
        let tokenizer = AutoTokenizer::from_assets(&files).unwrap_or_else(|e| panic!("{name}: {e}"));
        let options = EncodeOptions { add_special_tokens: false, ..EncodeOptions::default() };
        let ids = tokenizer.encode(text, None, &options).unwrap_or_else(|e| panic!("{name}: {e}")).into_single().ids;
        assert_eq!(tokenizer.decode(&ids, false, None).unwrap(), text, "{name}");
    }
}

/// LB-15: SentencePiece's BPE with bytes for what it does not know, with and without a space before the text; its
/// unigram model with a table of characters.
#[test]
fn sentence_piece_tokenizers() {
    for name in ["spm", "spm-no-prefix", "unigram"] {
        compare(name, &files(&fixture(&format!("tokenizer-{name}.gguf"))));
    }
}

/// LB-15: WordPiece.
#[test]
fn word_piece_tokenizers() {
    compare("wordpiece", &files(&fixture("tokenizer-wordpiece.gguf")));
}

/// LB-15: chat templates, special tokens and all tokens that end a turn are in the files.
#[test]
fn tokenizer_configurations() {
    let config = |name: &str, file: &str| -> Value {
        serde_json::from_slice(&files(&fixture(&format!("tokenizer-{name}.gguf")))[file]).unwrap()
    };
    let smollm = config("smollm", "tokenizer_config.json");
    assert_eq!((&smollm["chat_template"], &smollm["bos_token"]), (&"{{ messages }}".into(), &"<|begin|>".into()));
    let llama = config("llama-bpe", "tokenizer_config.json");
    let templates = llama["chat_template"].as_array().unwrap();
    assert_eq!(templates.len(), 2);
    assert_eq!((&templates[0]["name"], &templates[1]["template"]), (&"default".into(), &"{{ tools }}".into()));
    assert_eq!((&smollm["add_bos_token"], &llama["add_bos_token"]), (&false.into(), &true.into()));
    assert_eq!(config("llama-bpe", "generation_config.json")["eos_token_id"], 1);
}

/// The real tokenizer, whose vocabulary is not ours to keep.
#[test]
#[ignore = "needs LITH_TEST_MODELS"]
fn real_tokenizer() {
    let models = std::env::var_os("LITH_TEST_MODELS").expect("LITH_TEST_MODELS names the folder of real models");
    let folder = Path::new(&models).join("smollm2-gguf");
    let mut names: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| path.extension().is_some_and(|extension| extension == "gguf"));
    assert_eq!(names.len(), 1, "{}", folder.display());
    compare("smollm2", &files(&names[0]));
}
