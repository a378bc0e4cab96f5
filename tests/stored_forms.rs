//! Models whose checkpoints hold weights otherwise than they are trained: rows of several layers joined, interleaved by
//! heads, or transposed. What is saved is what the family's checkpoints are, and going on from it loses no bit.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use lith_models::Checkpoint;
use serde_json::{Value, json};
use support::bad::Case;
use support::read_json;
use support::training::*;

/// Joined and transposed, tied and not; joined rows one after the other, by heads, and by groups of heads.
const MODELS: [&str; 8] = [
    "gpt2",
    "gpt2-variant",
    "phi3-longrope-partial",
    "gpt-neox",
    "gpt-neox-sequential",
    "falcon-7b",
    "falcon-new",
    "falcon-new-one-norm",
];

fn decoder(name: &str) -> Case {
    let rows: Vec<Value> = texts(24).into_iter().map(|(text, _)| json!({"text": text})).collect();
    let case = case(&format!("decoders/{name}"), &rows);
    lend_tokenizer(&case);
    case
}

/// Buffers that old checkpoints hold beside the parameters: masks and frequencies, which are not learnt.
const BUFFERS: [&str; 4] = [".attn.bias", ".attention.bias", "masked_bias", "rotary_emb.inv_freq"];

/// Shape and bytes of the parameters of a checkpoint, by the names that files are written with: old ones of the bare body
/// leave its prefix out.
fn stored(folder: &Path) -> BTreeMap<String, (Vec<usize>, Vec<u8>)> {
    let checkpoint = Checkpoint::open_file(&folder.join("model.safetensors")).unwrap();
    let parameters = checkpoint.tensors().filter(|t| !BUFFERS.iter().any(|end| t.name().ends_with(end)));
    let named = |name: &str| match ["h.", "wte.", "wpe.", "ln_f."].iter().any(|start| name.starts_with(start)) {
        true => format!("transformer.{name}"),
        false => name.to_string(),
    };
    parameters.map(|t| (named(t.name()), (t.shape().to_vec(), t.bytes().to_vec()))).collect()
}

/// WLD-04, WLD-07, WLD-12, EC-11: trained by nothing, a model is saved as the tensors of its checkpoint, bit for bit.
#[test]
fn saved_as_it_was() {
    for name in MODELS {
        let case = decoder(name);
        train(&case, &["--max-steps", "1", "--learning-rate", "0", "--save-steps", "1"]);
        let before = stored(&case.model());
        for folder in ["out", "out/checkpoint-1"] {
            let after = stored(&case.root().join(folder));
            assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>(), "{name}: {folder}");
            for (tensor, value) in &before {
                assert!(*value == after[tensor], "{name}: {folder}: {tensor} differs");
            }
        }
    }
}

/// EC-20, EC-22: a run that goes on from a checkpoint is one that never stopped; and what is read back from the saved
/// files answers with the bits of the program that was trained.
#[test]
fn resumed_and_read_back() {
    for name in MODELS {
        let [whole, cut] = [(); 2].map(|()| decoder(name));
        let more = |steps: &'static str| {
            let mut args = vec!["--max-steps", steps, "--save-steps", "2", "--learning-rate", "1e-2", "--seed", "3"];
            args.extend(["--lr-scheduler-type", "constant", "--validation-split", "0.25", "--eval-strategy", "steps"]);
            args.extend(["--eval-steps", "2", "--logging-steps", "1"]);
            args
        };
        train(&whole, &more("5"));
        train(&cut, &more("2"));
        train(&cut, &[&more("5")[..], &["--resume-from-checkpoint", "true"]].concat());
        assert_eq!(updates(&whole), updates(&cut), "{name}");
        assert_eq!(updates(&whole).len(), 5, "{name}");
        for file in ["model.safetensors", "checkpoint-4/model.safetensors", "checkpoint-4/optimizer.safetensors"] {
            let bytes = |case: &Case| fs::read(case.root().join("out").join(file)).unwrap();
            assert!(bytes(&whole) == bytes(&cut), "{name}: {file} differs");
        }
        let (before, after) = (stored(&whole.model()), stored(&whole.root().join("out")));
        let changed = after.iter().filter(|(tensor, value)| before[*tensor] != **value).count();
        assert_eq!((changed, after.len()), (before.len(), before.len()), "{name}: every tensor learns");

        let mut again =
            vec!["train", "out", "--train-file", "train.jsonl", "--output-dir", "again", "--max-steps", "1"];
        again.extend(["--learning-rate", "0", "--validation-split", "0.25", "--seed", "3"]);
        let output = whole.run(&again);
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let loss = |folder: &str| read_json(&whole.root().join(folder).join("eval_results.json"))["eval_loss"].clone();
        assert!(loss("out").is_number());
        assert_eq!(loss("again"), loss("out"), "{name}");
    }
}

/// EX-02: such tensors in half the bytes.
#[test]
fn narrow() {
    let case = decoder("gpt-neox");
    train(&case, &["--max-steps", "2", "--learning-rate", "1e-2"]);
    let mut halves =
        vec!["train", "model", "--train-file", "train.jsonl", "--output-dir", "halves", "--max-steps", "2"];
    halves.extend(["--learning-rate", "1e-2", "--dtype", "bfloat16"]);
    let output = case.run(&halves);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (floats, halves) = (stored(&case.root().join("out")), stored(&case.root().join("halves")));
    assert_eq!(floats.keys().collect::<Vec<_>>(), halves.keys().collect::<Vec<_>>());
    for (name, (shape, bytes)) in &floats {
        assert_eq!((shape, bytes.len()), (&halves[name].0, 2 * halves[name].1.len()), "{name}");
    }
}
