//! Bad input through the real command: exit code 2, a message that names the thing, no panic, nothing half-written.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use support::bad::{Case, expect_refusal};
use support::*;

/// CFG-02
#[test]
fn missing_config() {
    let case = Case::new("bert-sequence-classification");
    fs::remove_file(case.file("config.json")).unwrap();
    case.compile_refused(&["model", "config.json"]);
}

/// CFG-02
#[test]
fn config_that_is_not_json() {
    let case = Case::new("bert-sequence-classification");
    fs::write(case.file("config.json"), "{\"model_type\": \"bert\",").unwrap();
    case.compile_refused(&["config.json"]);
}

/// CFG-03
#[test]
fn unknown_model_type() {
    let case = Case::new("bert-sequence-classification");
    case.replace("config.json", "\"bert\"", "\"brontosaurus\"");
    case.compile_refused(&["config.json", "brontosaurus"]);
}

/// CFG-23
#[test]
fn config_field_of_a_wrong_type() {
    let case = Case::new("bert-sequence-classification");
    case.replace("config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": \"two\"");
    case.compile_refused(&["config.json", "num_hidden_layers"]);
}

/// INS-02
#[test]
fn unsupported_task() {
    let case = Case::new("bert-sequence-classification");
    case.refused(&["compile", "model", "--task", "text-to-audio", "-o", "out"], &["text-to-audio", "known tasks"]);
    case.refused(
        &["compile", "model", "--task", "question-answering", "-o", "out"],
        &["num_labels", "question answering"],
    );
}

/// CKP-06
#[test]
fn truncated_safetensors() {
    let case = Case::new("bert-sequence-classification");
    case.edit("model.safetensors", |bytes| bytes.truncate(bytes.len() - 100));
    case.compile_refused(&["model.safetensors"]);
}

/// CKP-06
#[test]
fn header_length_past_the_end() {
    let case = Case::new("bert-sequence-classification");
    case.edit("model.safetensors", |bytes| bytes[..8].copy_from_slice(&(1u64 << 40).to_le_bytes()));
    case.compile_refused(&["model.safetensors"]);
}

/// CKP-05
#[test]
fn shard_missing_from_disk() {
    let case = Case::new("load-sharded");
    let shard = fs::read_dir(case.model()).unwrap().map(|e| e.unwrap().path());
    let shard = shard.filter(|p| p.extension().is_some_and(|e| e == "safetensors")).max().unwrap();
    fs::remove_file(&shard).unwrap();
    case.compile_refused(&[&shard.file_name().unwrap().to_string_lossy()]);
}

/// CKP-06: the index names a tensor that its shard lacks.
#[test]
fn index_naming_an_absent_tensor() {
    let case = Case::new("load-sharded");
    let name = "model.safetensors.index.json";
    let mut index = read_json(&case.file(name));
    let map = index["weight_map"].as_object_mut().unwrap();
    let shard = map.values().next().unwrap().clone();
    map.insert("bert.no.such.tensor".into(), shard);
    fs::write(case.file(name), index.to_string()).unwrap();
    case.compile_refused(&["bert.no.such.tensor"]);
}

/// WLD-08: all missing tensors are named, those of alike layers together.
#[test]
fn tensors_missing() {
    let case = Case::new("bert-sequence-classification");
    rename_tensor(&case, "attention.self.query.weight", "attention.self.qeury.weight");
    case.compile_refused(&["missing", "bert.encoder.layer.{0..1}.attention.self.query.weight"]);
}

/// Renames tensors in the header; both names have one length, so offsets stay.
fn rename_tensor(case: &Case, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    case.edit("model.safetensors", |bytes| {
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header = String::from_utf8(bytes[8..8 + length].to_vec()).unwrap();
        assert!(header.contains(from));
        bytes[8..8 + length].copy_from_slice(header.replace(from, to).as_bytes());
    });
}

/// WLD-09
#[test]
fn tensor_misshaped() {
    let case = Case::new("bert-sequence-classification");
    case.replace("config.json", "\"intermediate_size\":", "\"ignored\": 1, \"intermediate_size\": 48, \"was\":");
    case.compile_refused(&["intermediate.dense.weight", "48"]);
}

/// CKP-06: one name twice in the header.
#[test]
fn tensor_duplicated() {
    let case = Case::new("bert-sequence-classification");
    rename_tensor(&case, "layer.0.attention.self.query.bias", "layer.0.attention.self.value.bias");
    case.compile_refused(&["model.safetensors", "layer.0.attention.self.value.bias"]);
}

/// CKP-17: a pickle that asks for a callable is refused by that callable's name, and nothing is executed.
#[test]
fn pickle_with_a_callable() {
    let fixture = fs::read_dir(fixtures()).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
    let fixture =
        fixture.filter(|n| n.starts_with("refuse-pytorch-bin")).min().expect("a hostile pickle among the fixtures");
    let case = Case::new(&fixture);
    let output = case.run(&["compile", "model", "-o", "out"]);
    expect_refusal(&output, &["pytorch_model.bin"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("system") || stderr.contains("eval") || stderr.contains("exec"),
        "names the callable: {stderr}"
    );
}

/// TK-08
#[test]
fn tokenizer_broken_or_absent() {
    let case = Case::new("bert-sequence-classification");
    fs::write(case.file("tokenizer.json"), "{\"version\": \"1.0\", \"model\": 7}").unwrap();
    case.refused(&["run", "model", "text"], &["tokenizer.json"]);
    fs::remove_file(case.file("tokenizer.json")).unwrap();
    case.refused(&["run", "model", "text"], &["tokenizer.json"]);
}

/// No input, in every way it can be given. An empty text is an input (TE-07), no text is none.
#[test]
fn empty_input() {
    let case = Case::new("bert-sequence-classification");
    case.refused(&["run", "model"], &["no input"]);
    fs::write(case.root().join("texts"), "").unwrap();
    case.refused(&["run", "model", "--file", "texts"], &["no input"]);
    case.refused(&["run", "model", "--file", "no-such-file"], &["no-such-file"]);
    fs::write(case.root().join("texts"), "one\n\nthree").unwrap();
    let output = case.run(&["run", "model", "--json", "--file", "texts"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 3);
}

/// PP-06
#[test]
fn a_hundred_thousand_words() {
    let case = Case::new("bert-sequence-classification");
    let text = "good ".repeat(100_000);
    let mut child = case
        .command(&["run", "model", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    expect_refusal(&child.wait_with_output().unwrap(), &["tokens", "truncation"]);
    fs::write(case.root().join("long"), text).unwrap();
    let output = case.run(&["run", "model", "--json", "--truncation", "--file", "long"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn invalid_utf_8() {
    let case = Case::new("bert-sequence-classification");
    let mut child = case
        .command(&["run", "model"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"good\nbad \xff\xfe\n").unwrap();
    expect_refusal(&child.wait_with_output().unwrap(), &["standard input", "line 2", "UTF-8"]);
}

#[test]
fn unknown_arguments() {
    let case = Case::new("bert-sequence-classification");
    case.refused(
        &["run", "model", "text", "--aggregation-strategy", "simple"],
        &["aggregation_strategy", "text-classification"],
    );
    case.refused(&["run", "model", "text", "--top-k", "many"], &["top_k", "many"]);
    case.refused(&["compile", "model", "--target", "pdp-11", "-o", "out"], &["pdp-11"]);
    case.refused(&["compile", "model", "--dtype", "int3", "-o", "out"], &["int3"]);
    case.refused(&["compile", "model", "--set", "no_such_field=1", "-o", "out"], &["no_such_field"]);
}

#[test]
fn no_such_model() {
    let case = Case::new("bert-sequence-classification");
    case.refused(&["compile", "./nowhere", "-o", "out"], &["nowhere"]);
    case.refused(&["run", "some-org/some-model", "text"], &["some-org/some-model"]);
}

/// Where a section of an artifact lies, by its bytes: sections are found through the header, as the loader does.
fn section(path: &Path, name: &str) -> std::ops::Range<usize> {
    let artifact = lith_runtime::artifact::Artifact::open(path).unwrap();
    let s = artifact.header().section(name).unwrap_or_else(|| panic!("no section {name}"));
    s.offset as usize..(s.offset + s.size) as usize
}

#[test]
fn artifact_truncated() {
    let case = Case::new("bert-sequence-classification");
    let good = fs::read(case.artifact()).unwrap();
    let path = case.root().join("bad.lith");
    for length in [0, 1, 63, 64, 200, good.len() / 4, good.len() / 2, good.len() - 1] {
        fs::write(&path, &good[..length]).unwrap();
        let output = case.run(&["run", "bad.lith", "text"]);
        assert_eq!(output.status.code(), Some(2), "{length}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn artifact_with_one_byte_flipped() {
    use lith_runtime::artifact::format::section as names;
    let case = Case::new("bert-sequence-classification");
    let artifact = case.artifact();
    let good = fs::read(&artifact).unwrap();
    let path = case.root().join("bad.lith");
    for name in [names::TEXT, names::MANIFEST, names::ASSETS, names::CONSTS] {
        let range = section(&artifact, name);
        if range.is_empty() {
            continue;
        }
        let mut bad = good.clone();
        bad[range.start + range.len() / 2] ^= 0x20;
        fs::write(&path, bad).unwrap();
        expect_refusal(&case.run(&["run", "bad.lith", "text"]), &["bad.lith", name]);
    }
    // The header, wherever in the file it lies, and the plan, which only `inspect` reads.
    let header = lith_runtime::artifact::Artifact::open(&artifact).unwrap().header().encode();
    let at = good.windows(header.len()).position(|w| w == header).expect("the header is in the file");
    for byte in [0, 9, 13, 17, 30, header.len() - 2] {
        let mut bad = good.clone();
        bad[at + byte] ^= 0x04;
        fs::write(&path, bad).unwrap();
        expect_refusal(&case.run(&["run", "bad.lith", "text"]), &["bad.lith"]);
    }
    let mut bad = good.clone();
    bad[section(&artifact, names::PLAN).start + 3] ^= 1;
    fs::write(&path, bad).unwrap();
    expect_refusal(&case.run(&["inspect", "bad.lith", "--kernels"]), &["bad.lith", names::PLAN]);
}

/// Rewrites the header of an artifact in place; both forms have one length.
fn with_header(artifact: &Path, change: impl Fn(&mut lith_runtime::artifact::format::Header)) -> Vec<u8> {
    let mut bytes = fs::read(artifact).unwrap();
    let mut header = lith_runtime::artifact::Artifact::open(artifact).unwrap().header().clone();
    let old = header.encode();
    change(&mut header);
    let new = header.encode();
    assert_eq!(old.len(), new.len());
    let at = bytes.windows(old.len()).position(|w| w == old).unwrap();
    bytes[at..at + new.len()].copy_from_slice(&new);
    bytes
}

#[test]
fn artifact_of_another_version_or_cpu() {
    let case = Case::new("bert-sequence-classification");
    let artifact = case.artifact();
    let path = case.root().join("bad.lith");
    fs::write(&path, with_header(&artifact, |h| h.arch = "s390xy".into())).unwrap();
    expect_refusal(&case.run(&["run", "bad.lith", "text"]), &["bad.lith", "s390xy"]);
    let features = lith_runtime::artifact::Artifact::open(&artifact).unwrap().header().features.clone();
    let longest = features.iter().max_by_key(|f| f.len()).expect("native code needs some feature");
    let unknown = "z".repeat(longest.len());
    let bytes =
        with_header(&artifact, |h| h.features.iter_mut().filter(|f| *f == longest).for_each(|f| *f = unknown.clone()));
    fs::write(&path, bytes).unwrap();
    expect_refusal(&case.run(&["run", "bad.lith", "text"]), &["bad.lith", &unknown, "--target"]);
    // The format version stands behind the magic number.
    let mut bytes = fs::read(&artifact).unwrap();
    let header = lith_runtime::artifact::Artifact::open(&artifact).unwrap().header().encode();
    let at = bytes.windows(header.len()).position(|w| w == header).unwrap();
    bytes[at + 8] = 99;
    fs::write(&path, bytes).unwrap();
    expect_refusal(&case.run(&["run", "bad.lith", "text"]), &["bad.lith", "version 99"]);
}

/// A full disk leaves nothing behind, neither of an artifact nor of an executable.
#[test]
#[cfg(target_os = "linux")]
fn disk_full() {
    let case = Case::new("bert-sequence-classification");
    // A limit on the size of files has the effect of a full disk on the writer.
    let lith = env!("CARGO_BIN_EXE_lith");
    let before = case.files();
    for (args, name) in [("--emit artifact -o out.lith", "out.lith"), ("-o answer", "answer")] {
        let script = format!("trap '' XFSZ; ulimit -f 64; exec {lith} compile model {args}");
        let output = Command::new("bash")
            .args(["-c", &script])
            .current_dir(case.root())
            .env("LITH_CACHE", case.root().join("cache"))
            .output()
            .unwrap();
        expect_refusal(&output, &[name, "too large"]);
        assert_eq!(before, case.files(), "{args}");
    }
}

#[test]
fn cache_folder_unwritable() {
    let case = Case::new("bert-sequence-classification");
    fs::write(case.root().join("cache"), "a file where the folder should be").unwrap();
    case.refused(&["run", "model", "text"], &["cache", "LITH_CACHE"]);
}

/// A hub on the loopback interface that gives every request this answer and closes; its address.
fn hub(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().take(64).flatten() {
            let lines = BufReader::new(&stream).lines();
            let _ = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).count();
            let _ = (&stream).write_all(answer.as_bytes());
        }
    });
    address
}

/// CKP-12: what a hub refuses or breaks is told apart, ends with exit code 2 and leaves no file. The downloads
/// themselves, dropped and damaged ones among them, are tested in `models/tests/hub.rs`.
#[test]
fn hub_answers() {
    let case = Case::new("bert-sequence-classification");
    let answers = [
        ("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n", "HF_TOKEN"),
        ("HTTP/1.1 403 Forbidden\r\nx-error-code: GatedRepo\r\ncontent-length: 0\r\n\r\n", "restricted"),
        ("HTTP/1.1 404 Not Found\r\nx-error-code: RepoNotFound\r\ncontent-length: 0\r\n\r\n", "org/name"),
        ("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n", "500"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 4000\r\n\r\n{\"sha\": \"0123", "org/name"),
    ];
    for (answer, message) in answers {
        let mut command = case.command(&["compile", "org/name", "-o", "out"]);
        command.env("HF_ENDPOINT", hub(answer)).env_remove("HF_HUB_OFFLINE").env("NO_PROXY", "127.0.0.1");
        let output = command.output().unwrap();
        expect_refusal(&output, &[message]);
        assert!(!case.root().join("out").exists());
    }
}

/// Texts from a pipe that stays open are answered as they come; one that cannot be answered ends the answers, which those
/// before it have, and is told by its number in the whole.
#[test]
fn texts_that_come_one_by_one() {
    let case = Case::new("bert-sequence-classification");
    let artifact = case.artifact();
    let mut child = case
        .command(&["run", &artifact.to_string_lossy(), "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
    for text in ["good", "bad"] {
        writeln!(input, "{text}").unwrap();
        assert!(answers.next().unwrap().unwrap().contains("label"));
    }
    writeln!(input, "fine\n{}\nlast", "good ".repeat(10_000)).unwrap();
    drop(input);
    assert!(answers.next().unwrap().unwrap().contains("label"));
    assert!(answers.next().is_none());
    expect_refusal(&child.wait_with_output().unwrap(), &["input 3", "tokens", "truncation"]);
}
