//! Bad input for language models through the real command: exit code 2 and a message that names the thing.

mod support;

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};
use support::bad::Case;
use support::fixtures;

/// Words of the fixture's vocabulary.
const WORDS: usize = 93;

/// A tokenizer of words `w0`, `w1`, ...
fn write_tokenizer(folder: &Path, words: usize) {
    let vocab: Map<String, Value> = (0..words).map(|i| (format!("w{i}"), i.into())).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w0"},
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

/// A decoder with a tokenizer.
fn decoder() -> Case {
    let case = Case::new("decoders/llama");
    write_tokenizer(&case.model(), WORDS);
    let output = case.run(&["run", "model", "--max-new-tokens", "2", "w5 w6"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    case
}

/// GE-02: the model has 256 positions.
#[test]
fn prompt_longer_than_the_context() {
    let case = decoder();
    fs::write(case.root().join("long"), "w7 ".repeat(256)).unwrap();
    let message = ["256 tokens", "no room for a new token"];
    case.refused(&["run", "model", "--file", "long"], &message);
    case.refused(&["run", "model", "--max-length", "2", "w1 w2 w3"], &["3 tokens", "max_length is 2"]);
}

/// GE-03, GE-04: values that cannot be, alone or beside another's.
#[test]
fn options_that_cannot_be() {
    let case = decoder();
    let cases: [(&[&str], &[&str]); 16] = [
        (&["--temperature", "0", "--do-sample"], &["temperature", "greater than 0", "do_sample"]),
        (&["--temperature", "-1"], &["temperature", "-1"]),
        (&["--top-k", "-1"], &["top_k", "-1"]),
        (&["--top-k", "many"], &["top_k", "many"]),
        (&["--top-p", "1.5"], &["top_p", "1.5"]),
        (&["--max-new-tokens", "0"], &["max_new_tokens", "at least 1"]),
        (&["--num-beams", "2", "--num-return-sequences", "3"], &["num_return_sequences", "2 beams"]),
        (&["--do-sample=false", "--num-return-sequences", "2"], &["num_return_sequences", "do_sample"]),
        (&["--num-beams", "3", "--num-beam-groups", "2", "--do-sample=false"], &["num_beam_groups", "3 beams"]),
        (&["--penalty-alpha", "2", "--top-k", "4", "--do-sample=false"], &["penalty_alpha", "from 0 to 1"]),
        (&["--return-text", "--return-tensors"], &["return_text", "return_tensors"]),
        (&["--num-beams", "2", "--logprobs", "1"], &["logprobs", "beam"]),
        (&["--cache-tokens", "9", "--cache-memory", "9"], &["--cache-tokens", "--cache-memory"]),
        (&["--threads", "-1"], &["--threads", "-1"]),
        (&["--threads", "100000"], &["--threads", "100000"]),
        (&["--aggregation-strategy", "simple"], &["aggregation_strategy", "text-generation"]),
    ];
    for (options, message) in cases {
        let args = [&["run", "model"], options, &["--", "w1 w2"]].concat();
        case.refused(&args, message);
    }
}

/// GE-15: a draft model with another vocabulary, without a tokenizer, of another kind, or none at all.
#[test]
fn draft_that_does_not_fit() {
    let case = decoder();
    let compile = |model: &str, out: &str| {
        let output = case.run(&["compile", model, "--emit", "artifact", "-o", out]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    case.copy("decoders/llama", "other");
    write_tokenizer(&case.root().join("other"), WORDS - 3);
    case.copy("bert-sequence-classification", "reader");
    compile("other", "other.lith");
    compile("reader", "reader.lith");
    let draft = |path: &str, message: &[&str]| case.refused(&["run", "model", "--draft", path, "w1 w2"], message);
    draft("other.lith", &["other.lith", "90 tokens", "93"]);
    draft("reader.lith", &["reader.lith", "vocabulary"]);
    draft("nowhere.lith", &["nowhere.lith"]);
    draft("model/config.json", &["config.json"]);
}

/// LB-01: what is no GGUF file, or the beginning of one, or one whose parts do not fit each other.
#[test]
fn broken_gguf() {
    let case = decoder();
    let good = fs::read(fixtures().join("gguf/llama.gguf")).unwrap();
    let path = case.root().join("bad.gguf");
    let refused = |bytes: &[u8], message: &[&str]| {
        fs::write(&path, bytes).unwrap();
        case.refused(&["compile", "bad.gguf", "-o", "out"], message);
    };
    for length in [0, 3, 4, 16, 100, good.len() / 2, good.len() - 1] {
        refused(&good[..length], &["bad.gguf"]);
    }
    let edited = |at: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        bad
    };
    refused(&edited(0, b"FUGG"), &["bad.gguf", "GGUF"]);
    refused(&edited(4, &77u32.to_le_bytes()), &["bad.gguf", "version 77"]);
    refused(&edited(8, &u64::MAX.to_le_bytes()), &["bad.gguf", "tensors"]);
    refused(&edited(16, &u64::MAX.to_le_bytes()), &["bad.gguf"]);
    let at = |name: &[u8]| good.windows(name.len()).position(|w| w == name).unwrap();
    refused(&edited(at(b"llama.block_count"), b"llama.block_kount"), &["bad.gguf", "llama.block_count"]);
    refused(&edited(at(b"blk.1.attn_q.weight"), b"blk.1.attn_k.weight"), &["bad.gguf", "blk.1.attn_k.weight"]);
}
