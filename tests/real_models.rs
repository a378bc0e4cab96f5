//! Real models, through the real command, against figures from Transformers. Ignored unless asked for: they need a folder
//! of models, named in `LITH_TEST_MODELS`.

mod support;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use sha2::{Digest, Sha256};
use support::*;
use tempfile::TempDir;

/// Compiles to an executable with the real command.
fn executable(model: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("answer");
    let output = Command::new(env!("CARGO_BIN_EXE_lith"))
        .args(["compile", model, "-o"])
        .arg(&path)
        .env("LITH_CACHE", folder.path().join("cache"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (folder, path)
}

/// What an executable prints for arguments and standard input, a JSON value a line.
fn answers(executable: &Path, args: &[&str], stdin: &str) -> Vec<Value> {
    let mut child = Command::new(executable)
        .arg("--json")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn minilm() -> PathBuf {
    real_models().join("minilm")
}

/// TE-01, PP-01, PF-02: sixteen texts, one by one and all at once, on one and two threads.
#[test]
#[ignore = "needs LITH_TEST_MODELS"]
fn minilm_embeddings() {
    let golden = read_json(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/minilm.json"));
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 16);
    let texts: Vec<&str> = cases.iter().map(|c| c["text"].as_str().unwrap()).collect();
    let (_folder, embed) = executable(&minilm().to_string_lossy());
    let single: Vec<Value> = texts.iter().flat_map(|t| answers(&embed, &["--threads", "1", "--", t], "")).collect();
    assert_eq!(single.len(), 16);
    for threads in ["1", "2"] {
        let mut args = vec!["--threads", threads, "--"];
        args.extend(&texts);
        assert_eq!(answers(&embed, &args, ""), single, "{threads} threads, all at once");
        for (text, alone) in texts.iter().zip(&single) {
            assert_eq!(
                answers(&embed, &["--threads", threads, "--", text], ""),
                std::slice::from_ref(alone),
                "{threads} threads: {text}"
            );
        }
    }
    let mut worst: f64 = 0.0;
    for (case, found) in cases.iter().zip(&single) {
        let (found, expected) = (flat(found), flat(&case["embedding"]));
        assert_eq!(found.len(), expected.len());
        let gap = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        worst = worst.max(gap);
    }
    println!("largest absolute difference {worst:e}");
    assert!(worst <= 2e-6, "{worst:e}");
}

/// Compiling twice gives the same bytes, and ordinary tools read the machine code.
#[test]
#[ignore = "needs LITH_TEST_MODELS"]
fn minilm_artifact_is_reproducible_and_disassembles() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = ["a.lith", "b.lith"].map(|n| folder.path().join(n));
    compile_to(&minilm(), None, &first);
    compile_to(&minilm(), None, &second);
    assert!(fs::read(&first).unwrap() == fs::read(&second).unwrap(), "the bytes differ");
    let output = Command::new("objdump").arg("-d").arg(&first).output().expect("objdump (binutils) is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let listing = String::from_utf8_lossy(&output.stdout);
    assert!(listing.contains("Disassembly of section .text") && listing.contains("ret"), "{}", &listing[..200]);
}

/// The artifact agrees with the reference interpreter on the weights it carries.
#[test]
#[ignore = "needs LITH_TEST_MODELS"]
fn minilm_verifies() {
    let compiled = Compiled::new(&minilm(), None);
    let output =
        Command::new(env!("CARGO_BIN_EXE_lith")).arg("verify").arg(&compiled.path).arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 3);
}

/// `inspect` shows six calls of one layer.
#[test]
#[ignore = "needs LITH_TEST_MODELS"]
fn minilm_inspect() {
    let lith = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_lith")).arg("inspect").arg(minilm()).args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let summary: Value = serde_json::from_str(&lith(&["--format", "json"])).unwrap();
    let calls = summary["entries"][0]["calls"].as_object().unwrap();
    assert_eq!(calls.len(), 1, "{calls:?}");
    let paths = calls.values().next().unwrap().as_array().unwrap();
    assert_eq!(paths.len(), 6);
    assert!(paths[5].as_str().unwrap().contains("layer.5"), "{paths:?}");
    // Six layers of 4 h^2 + 2 h f weights, and attention: the count of the benchmark beside the peers, for 1 x 128.
    assert_eq!(summary["flops"], 6 * 128 * (2 * (4 * 384 * 384 + 2 * 384 * 1536) + 4 * 128 * 384i64));
    let memory = lith(&["--memory"]);
    assert!(memory.contains("peak for 1x128"), "{memory}");
}

/// The bundled model on the sentences it has never seen, through its executable.
#[test]
#[ignore = "needs LITH_TEST_MODELS"]
fn reviews_accuracy() {
    let mut sentences = Vec::new();
    let mut folders = vec![real_models().join("reviews")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.ends_with("movieReviewSnippets_GroundTruth.txt") => sentences.push(path),
                false => {}
            }
        }
    }
    let text = fs::read_to_string(sentences.first().expect("the movie sentences")).unwrap();
    let mut labels = Vec::new();
    let mut inputs = String::new();
    for line in text.trim_start_matches('\u{feff}').lines().filter(|l| !l.trim().is_empty()) {
        let fields: Vec<&str> = line.splitn(3, '\t').collect();
        let score: f64 = fields[1].trim().parse().unwrap();
        let hash = Sha256::digest(format!("movie:{}", fields[0].trim()).as_bytes());
        let held_out = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]) % 10 == 0;
        if held_out && score != 0.0 {
            labels.push(if score > 0.0 { "POSITIVE" } else { "NEGATIVE" });
            inputs.push_str(fields[2].trim());
            inputs.push('\n');
        }
    }
    assert!(labels.len() > 1000, "{} held-out sentences", labels.len());
    let (_folder, classify) = executable("reviews");
    let found = answers(&classify, &[], &inputs);
    assert_eq!(found.len(), labels.len());
    let right = found.iter().zip(&labels).filter(|(f, l)| f[0]["label"] == **l).count();
    let accuracy = right as f64 / labels.len() as f64;
    println!("{right} of {}: accuracy {accuracy:.4}", labels.len());
    assert!(accuracy >= 0.75, "{accuracy}");
}
