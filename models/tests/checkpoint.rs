//! Finding and reading checkpoints: rows CKP-01 to CKP-07, CKP-20 and CKP-23 of the surface specification.

mod common;

use std::path::Path;

use common::{fixture, folder_with, raw_safetensors, safetensors_of};
use lith_models::checkpoint::safetensors::{Header, parse_header};
use lith_models::checkpoint::{Element, Format, OpenOptions};
use lith_models::{Checkpoint, CheckpointError, DType, Source};
use proptest::prelude::*;

fn open(folder: &Path, options: &OpenOptions) -> Result<Checkpoint, CheckpointError> {
    Checkpoint::open(&Source::folder_at(folder), options)
}

fn refused<T: std::fmt::Debug>(result: Result<T, CheckpointError>) -> String {
    result.expect_err("must be refused").to_string()
}

fn header(bytes: &[u8]) -> Result<Header, CheckpointError> {
    parse_header(bytes, Path::new("m.safetensors"))
}

/// The one tensor of a checkpoint tells which file was read.
fn which(folder: &Path, options: &OpenOptions) -> String {
    open(folder, options).unwrap().tensors().next().unwrap().name().to_string()
}

fn index(entries: &[(&str, &str)]) -> Vec<u8> {
    let entries: Vec<String> = entries.iter().map(|(tensor, file)| format!("\"{tensor}\": \"{file}\"")).collect();
    format!("{{\"weight_map\": {{{}}}}}", entries.join(", ")).into_bytes()
}

/// CKP-01, CKP-03
#[test]
fn ckp_01_order_of_candidates() {
    let file = |name: &'static str| safetensors_of(&[(name, &[1])]);
    let pickle = common::torch_file(
        &common::Pickle::dict().text("pickle").tensor("0", 1, 0, &[1], &[1]).end(),
        &[("0", &[0; 4])],
    );
    let folder = folder_with(&[
        ("explicit.safetensors", &file("explicit")),
        ("model.safetensors", &file("single")),
        ("model.safetensors.index.json", &index(&[("shard", "s.safetensors")])),
        ("s.safetensors", &file("shard")),
        ("pytorch_model.bin", &pickle),
    ]);
    let path = folder.path();
    let named = OpenOptions { weights: Some("explicit.safetensors".into()), ..Default::default() };
    assert_eq!(which(path, &named), "explicit");
    assert_eq!(which(path, &OpenOptions::default()), "single");
    assert_eq!(which(path, &OpenOptions { format: Format::Pickle, ..Default::default() }), "pickle");
    std::fs::remove_file(path.join("model.safetensors")).unwrap();
    assert_eq!(which(path, &OpenOptions::default()), "shard");
    std::fs::remove_file(path.join("model.safetensors.index.json")).unwrap();
    assert_eq!(which(path, &OpenOptions::default()), "pickle");
    let text = refused(open(path, &OpenOptions { format: Format::Safetensors, ..Default::default() }));
    assert!(
        text.contains("model.safetensors, model.safetensors.index.json") && !text.contains("pytorch_model"),
        "{text}"
    );

    let outside = OpenOptions { weights: Some("../explicit.safetensors".into()), ..Default::default() };
    assert!(refused(open(path, &outside)).contains("leads out of"));
    let pickled = OpenOptions { weights: Some("pytorch_model.bin".into()), ..Default::default() };
    assert!(refused(open(path, &pickled)).contains("no safetensors file"));
}

/// CKP-02
#[test]
fn ckp_02_variants() {
    let file = |name: &'static str| safetensors_of(&[(name, &[1])]);
    let folder = folder_with(&[("model.safetensors", &file("plain")), ("model.fp16.safetensors", &file("half"))]);
    let fp16 = OpenOptions { variant: Some("fp16".into()), ..Default::default() };
    assert_eq!(which(folder.path(), &fp16), "half");
    let text = refused(open(folder.path(), &OpenOptions { variant: Some("bf16".into()), ..Default::default() }));
    assert!(text.contains("variant `bf16`") && text.contains("model.safetensors is there"), "{text}");
    for shard in ["model.fp16-00001-of-00001.safetensors", "model-00001-of-00001.fp16.safetensors"] {
        let index = index(&[("a", shard)]);
        let folder = folder_with(&[("model.safetensors.index.fp16.json", &index), (shard, &file("a"))]);
        assert_eq!(which(folder.path(), &fp16), "a");
    }
}

/// CKP-04, CKP-05, CKP-06
#[test]
fn ckp_05_shards() {
    let source = fixture("load-sharded");
    let checkpoint = open(&source, &OpenOptions::default()).unwrap();
    assert_eq!(checkpoint.files().count(), 2);
    assert_eq!(checkpoint.tensor("embeddings.word_embeddings.weight").unwrap().shape(), [160, 16]);

    let (a, b) = (safetensors_of(&[("x", &[2])]), safetensors_of(&[("y", &[3])]));
    let map = index(&[("x", "a.safetensors"), ("y", "b.safetensors"), ("z", "c.safetensors")]);
    let folder = folder_with(&[("model.safetensors.index.json", &map), ("a.safetensors", &a)]);
    let text = refused(open(folder.path(), &OpenOptions::default()));
    assert!(text.ends_with("missing shards: b.safetensors, c.safetensors"), "all of them: {text}");

    let shards = |map: &[u8], a: &[u8], b: &[u8]| {
        let files = [("model.safetensors.index.json", map), ("a.safetensors", a), ("b.safetensors", b)];
        refused(open(folder_with(&files).path(), &OpenOptions::default()))
    };
    let map = index(&[("x", "a.safetensors"), ("y", "b.safetensors")]);
    let text = shards(&map, &a, &safetensors_of(&[("q", &[1])]));
    assert!(text.contains("tensor `y`") && text.contains("b.safetensors, but it is absent"), "{text}");
    let text = shards(&map, &a, &safetensors_of(&[("x", &[2]), ("y", &[3])]));
    assert!(text.contains("b.safetensors: tensor `x`: also in") && text.contains("a.safetensors"), "{text}");
    let swapped = index(&[("y", "a.safetensors"), ("x", "b.safetensors")]);
    assert!(shards(&swapped, &a, &b).contains("but it is in"));
    let twice = br#"{"weight_map": {"x": "a.safetensors", "x": "b.safetensors"}}"#;
    assert!(shards(twice, &a, &b).contains("tensor `x`: named twice in the index"));
    assert!(shards(&index(&[("x", "../a.safetensors")]), &a, &b).contains("outside the model's directory"));
    for broken in ["", "[]", "{}", r#"{"weight_map": []}"#, r#"{"weight_map": {"x": 1}}"#] {
        let text = shards(broken.as_bytes(), &a, &b);
        assert!(text.contains("model.safetensors.index.json: not an index"), "{text}");
    }
}

/// CKP-07
#[test]
fn ckp_07_nothing_found_lists_what_was_looked_for() {
    let folder = folder_with(&[("tf_model.h5", b"x"), ("model.onnx", b"x"), ("config.json", b"{}")]);
    let text = refused(open(folder.path(), &OpenOptions::default()));
    let expected = "looked for model.safetensors, model.safetensors.index.json, pytorch_model.bin, pytorch_model.bin.index.json; \
                    other formats, which are not read here, are there: model.onnx, tf_model.h5";
    assert!(text.contains(expected), "{text}");
}

/// CKP-20: a weights file given directly.
#[test]
fn ckp_20_single_file() {
    let folder = folder_with(&[
        ("w.safetensors", &safetensors_of(&[("t", &[2, 2])])),
        ("config.json", b"{\"model_type\":\"bert\"}"),
    ]);
    let path = folder.path().join("w.safetensors");
    let source = Source::open(path.to_str().unwrap(), &Default::default(), &common_env()).unwrap();
    assert_eq!(Checkpoint::open(&source, &OpenOptions::default()).unwrap().len(), 1);
    assert_eq!(lith_models::Config::load(&source).unwrap().model_type(), "bert");
    let config = folder.path().join("config.json");
    let source = Source::open(config.to_str().unwrap(), &Default::default(), &common_env()).unwrap();
    assert_eq!(source.config_file().unwrap(), Some(config));
}

fn common_env() -> lith_models::HubEnv {
    lith_models::HubEnv::from_vars(|name| (name == "HF_HUB_OFFLINE").then(|| "1".into()))
}

/// CKP-08: a folder inside the model's.
#[test]
fn ckp_08_subfolder() {
    let folder = folder_with(&[("text_encoder/model.safetensors", &safetensors_of(&[("t", &[1])]))]);
    let options = |name: &str| lith_models::SourceOptions { subfolder: Some(name.into()), ..Default::default() };
    let open = |name: &str| Source::open(folder.path().to_str().unwrap(), &options(name), &common_env());
    let source = open("text_encoder").unwrap();
    assert_eq!(Checkpoint::open(&source, &OpenOptions::default()).unwrap().len(), 1);
    assert_eq!(source.names(), ["model.safetensors"]);
    assert!(open("../x").unwrap_err().to_string().contains("leads out of"));
}

/// CKP-23: scalars, empty tensors, every dtype; bytes are borrowed from the mapping.
#[test]
fn ckp_23_what_a_file_may_hold() {
    let text = r#"{"__metadata__": {"format": "pt"}, "s": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
        "e": {"dtype": "I64", "shape": [3, 0], "data_offsets": [4, 4]}, "u": {"dtype": "U16", "shape": [1], "data_offsets": [4, 6]},
        "f": {"dtype": "F4", "shape": [4], "data_offsets": [6, 8]}, "b": {"dtype": "BOOL", "shape": [2], "data_offsets": [8, 10]}}"#;
    let bytes = raw_safetensors(text, 10);
    let read = header(&bytes).unwrap();
    let names: Vec<_> = read.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["s", "e", "u", "f", "b"]);
    assert_eq!(read.metadata, [("format".to_string(), "pt".to_string())]);
    let folder = folder_with(&[("m.safetensors", &bytes)]);
    let checkpoint = Checkpoint::open_file(&folder.path().join("m.safetensors")).unwrap();
    let scalar = checkpoint.tensor("s").unwrap();
    assert!(scalar.shape().is_empty() && matches!(scalar.bytes(), std::borrow::Cow::Borrowed([7, 7, 7, 7])));
    assert_eq!(checkpoint.tensor("e").unwrap().bytes().len(), 0);
    assert_eq!(checkpoint.tensor("b").unwrap().dtype().unwrap(), DType::Bool);
    let text = refused(checkpoint.tensor("u").unwrap().dtype());
    assert!(text.contains("m.safetensors: tensor `u`: type U16 is not supported by Lith"), "{text}");
    assert!(refused(checkpoint.tensor("b").unwrap().to_f32()).contains("tensor `b`: bool cannot be read as f32"));
    for (name, bits) in
        [("F8_E4M3", 8), ("F8_E5M2", 8), ("F8_E8M0", 8), ("U64", 64), ("C64", 64), ("F64", 64), ("BF16", 16)]
    {
        assert_eq!(Element::from_safetensors(name).unwrap().bits(), bits, "{name}");
    }
}

/// CKP-06 and the bad input of safetensors files: each is refused with the file's name, and the tensor's where there is one.
#[test]
fn ckp_06_broken_safetensors() {
    let one = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"t": {{"dtype": "{dtype}", "shape": {shape}, "data_offsets": {offsets}}}}}"#)
    };
    let two = |a: &str, b: &str| {
        format!(
            r#"{{"a": {{"dtype": "U8", "shape": [4], "data_offsets": {a}}}, "b": {{"dtype": "U8", "shape": [4], "data_offsets": {b}}}}}"#
        )
    };
    let tensor = |text: String, data: usize, expected: &str| {
        let found = refused(header(&raw_safetensors(&text, data)));
        assert!(found.starts_with("m.safetensors: tensor `") && found.contains(expected), "{text}: {found}");
    };
    tensor(one("F32", "[2]", "[0, 8]"), 7, "truncated file: the tensor ends at byte 8 of 7");
    tensor(one("F32", "[2]", "[0, 4]"), 8, "do not hold the 8 bytes");
    tensor(one("F32", "[2]", "[8, 0]"), 8, "do not hold");
    tensor(one("F99", "[2]", "[0, 8]"), 8, "unknown dtype `F99`");
    tensor(one("F32", "[4611686018427387904, 16]", "[0, 0]"), 0, "too large");
    tensor(one("F32", "[18446744073709551615]", "[0, 0]"), 0, "too large");
    tensor(one("F32", "[-1]", "[0, 0]"), 0, "`shape` holds -1");
    tensor(one("F32", "[1.5]", "[0, 0]"), 0, "`shape` holds 1.5");
    tensor(one("F32", "[1]", "[0]"), 4, "no pair");
    tensor(one("F32", "[1]", "[0, 18446744073709551615]"), 4, "do not hold");
    tensor(one("F4", "[3]", "[0, 2]"), 2, "too large");
    tensor(two("[0, 4]", "[2, 6]"), 8, "tensor `b`: overlaps");
    tensor(two("[0, 4]", "[0, 4]"), 4, "overlaps");
    tensor(two("[0, 4]", "[5, 9]"), 9, "leaves a gap");
    tensor(r#"{"t": {"shape": []}}"#.into(), 0, "no `dtype`");
    tensor(r#"{"t": {"dtype": "U8"}}"#.into(), 0, "no `shape`");
    tensor(r#"{"t": 1, "t": 2}"#.into(), 0, "named twice");

    let file = |bytes: &[u8], expected: &str| {
        let found = refused(header(bytes));
        assert!(found.starts_with("m.safetensors: ") && found.contains(expected), "{found}");
    };
    file(b"", "truncated");
    file(b"1234567", "truncated");
    file(&u64::MAX.to_le_bytes(), "no safetensors file");
    file(&100u64.to_le_bytes(), "past the end of the file");
    file(&raw_safetensors("{}", 3), "3 bytes after the last tensor");
    file(&raw_safetensors("{\"a\": ", 0), "broken safetensors header");
    file(&raw_safetensors("[]", 0), "broken safetensors header");
    file(&raw_safetensors(&"[".repeat(100_000), 0), "broken safetensors header");
    file(&raw_safetensors("{\"__metadata__\": {\"a\": 1}}", 0), "no string");
    let mut latin = raw_safetensors("{\"a\": 1}", 0);
    latin[10] = 0xff;
    file(&latin, "broken safetensors header");

    let folder = folder_with(&[("model.safetensors", b"")]);
    assert!(refused(open(folder.path(), &OpenOptions::default())).contains("model.safetensors: truncated"));
}

proptest! {
    /// What is accepted, the reference crate accepts too and reads the same; and nothing panics.
    #[test]
    fn agrees_with_the_reference(
        shapes in prop::collection::vec(prop::collection::vec(0usize..4, 0..4), 0..5),
        cut in prop::option::of(0usize..200),
        flips in prop::collection::vec((0usize..400, any::<u8>()), 0..3),
    ) {
        let names: Vec<String> = (0..shapes.len()).map(|index| format!("t.{index}")).collect();
        let tensors: Vec<(&str, &[usize])> = names.iter().map(String::as_str).zip(shapes.iter().map(Vec::as_slice)).collect();
        let mut bytes = safetensors_of(&tensors);
        let untouched = cut.is_none() && flips.is_empty();
        if let Some(cut) = cut {
            bytes.truncate(bytes.len().saturating_sub(cut));
        }
        for (at, byte) in flips {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        match (header(&bytes), safetensors::SafeTensors::deserialize(&bytes)) {
            (Ok(ours), Ok(theirs)) => {
                prop_assert_eq!(ours.tensors.len(), theirs.len());
                for tensor in ours.tensors {
                    let view = theirs.tensor(&tensor.name).unwrap();
                    prop_assert_eq!(view.shape(), &tensor.shape);
                    prop_assert_eq!(view.data(), &bytes[tensor.range]);
                }
            }
            (Ok(_), Err(error)) => prop_assert!(false, "only the reference refuses: {}", error),
            (Err(error), _) => prop_assert!(!untouched, "a good file is refused: {}", error),
        }
    }

    /// Any bytes are read or refused.
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = header(&bytes);
    }
}
