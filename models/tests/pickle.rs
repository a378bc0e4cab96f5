//! PyTorch files: row CKP-17 of the surface specification.

mod common;

use std::collections::BTreeMap;

use common::{Pickle, fixture, floats, folder_with, torch_file, zip_of};
use lith_models::checkpoint::pickle::{self, PickleError};
use lith_models::{Checkpoint, CheckpointError};
use proptest::prelude::*;

fn open(bytes: &[u8]) -> Result<Checkpoint, CheckpointError> {
    let folder = folder_with(&[("pytorch_model.bin", bytes)]);
    // The mapping outlives the directory.
    Checkpoint::open_file(&folder.path().join("pytorch_model.bin"))
}

fn refused(bytes: &[u8]) -> String {
    let text = open(bytes).expect_err("must be refused").to_string();
    assert!(text.contains("pytorch_model.bin: "), "{text}");
    text
}

fn values(folder: &str, file: &str) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let checkpoint = Checkpoint::open_file(&fixture(folder).join(file)).unwrap();
    let tensors = checkpoint.tensors().filter(|tensor| !tensor.name().ends_with("position_ids"));
    tensors.map(|tensor| (tensor.name().to_string(), (tensor.shape().to_vec(), tensor.to_f32().unwrap()))).collect()
}

/// Files that PyTorch wrote hold what the same model's safetensors hold: shared storages with offsets, a transposed and
/// a strided tensor, parameters instead of tensors, and the format of before 1.6.
#[test]
fn ckp_17_files_of_pytorch() {
    let mut expected = BTreeMap::new();
    for (name, value) in values("load-gamma-beta", "model.safetensors") {
        expected.insert(
            name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias"),
            value,
        );
    }
    for folder in ["load-pytorch-bin", "load-pytorch-bin-legacy", "load-pytorch-bin-parameters"] {
        assert!(values(folder, "pytorch_model.bin") == expected, "{folder}");
    }
    let checkpoint = Checkpoint::open_file(&fixture("load-pytorch-bin").join("pytorch_model.bin")).unwrap();
    let ids = checkpoint.tensor("embeddings.position_ids").unwrap();
    assert_eq!((ids.shape(), ids.dtype().unwrap()), ([1, 64].as_slice(), lith_models::DType::I64));
}

/// Views: contiguous ones are borrowed, strided ones gathered.
#[test]
fn ckp_17_views() {
    let data = floats(0, 12);
    let bytes = torch_file(
        &Pickle::dict()
            .text("whole")
            .tensor("0", 12, 0, &[3, 4], &[4, 1])
            .text("rows")
            .tensor("0", 12, 4, &[2, 4], &[4, 1])
            .text("transposed")
            .tensor("0", 12, 0, &[4, 3], &[1, 4])
            .text("column")
            .tensor("0", 12, 1, &[3], &[4])
            .text("repeated")
            .tensor("0", 12, 2, &[2, 2], &[0, 1])
            .text("scalar")
            .tensor("0", 12, 11, &[], &[])
            .text("empty")
            .tensor("0", 12, 0, &[0, 9], &[9, 1])
            .text("one")
            .tensor("0", 12, 5, &[1, 1], &[i64::MAX, i64::MAX])
            .text("step")
            .int(7)
            .text("note")
            .op(b"N")
            .end(),
        &[("0", &data)],
    );
    let checkpoint = open(&bytes).unwrap();
    assert_eq!(checkpoint.len(), 8, "numbers and None are no tensors");
    let at = |name: &str| -> Vec<usize> {
        checkpoint.tensor(name).unwrap().to_f32().unwrap().iter().map(|value| (value * 128.0) as usize).collect()
    };
    assert_eq!(at("whole"), (0..12).collect::<Vec<_>>());
    assert_eq!(at("rows"), (4..12).collect::<Vec<_>>());
    assert_eq!(at("transposed"), [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]);
    assert_eq!(at("column"), [1, 5, 9]);
    assert_eq!(at("repeated"), [2, 3, 2, 3]);
    assert_eq!(at("scalar"), [11]);
    assert_eq!(at("one"), [5]);
    assert!(at("empty").is_empty());
    let borrowed = |name: &str| matches!(checkpoint.tensor(name).unwrap().bytes(), std::borrow::Cow::Borrowed(_));
    assert!(borrowed("rows") && borrowed("one") && !borrowed("column"));
}

/// Nothing but tensors may be asked for, whichever way it is asked.
#[test]
fn ckp_17_callables_are_refused_by_name() {
    for (module, name) in [
        ("os", "system"),
        ("builtins", "eval"),
        ("torch", "load"),
        ("torch._utils", "_rebuild_qtensor"),
        ("collections", "Counter"),
    ] {
        let by_global = Pickle::dict().text("w").global(module, name).op(b"(").text("id").op(b"tR").end();
        let by_stack = Pickle::dict().text("w").text(module).text(name).op(b"\x93)R").end();
        for pickle in [by_global, by_stack] {
            let text = refused(&torch_file(&pickle, &[]));
            assert!(text.contains(&format!("asks for `{module}.{name}`")), "{text}");
            assert!(
                matches!(pickle::parse(&pickle), Err(PickleError::Forbidden(found)) if found == format!("{module}.{name}"))
            );
        }
    }
    // The classic attack, as Python's own pickler writes it.
    let attack =
        b"\x80\x04\x95\x1d\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x02id\x94\x85\x94R\x94.";
    assert!(refused(&torch_file(attack, &[])).contains("`posix.system`"));
    // Opcodes that build objects other ways.
    for opcode in [b"i".as_slice(), b"o", b"\x81", b"\x92", b"\x82\x01", b"P0\n"] {
        let pickle = Pickle::dict().text("w").op(opcode).end();
        assert!(matches!(pickle::parse(&pickle), Err(PickleError::Broken { .. })), "{opcode:?}");
    }
}

/// Views that leave their storage, storages that are not there, sizes out of all proportion.
#[test]
fn ckp_17_hostile_views() {
    let data = floats(0, 4);
    let with = |key: &str, len: i64, offset: i64, shape: &[i64], strides: &[i64]| {
        refused(&torch_file(&Pickle::dict().text("w").tensor(key, len, offset, shape, strides).end(), &[("0", &data)]))
    };
    assert!(with("0", 4, 1, &[4], &[1]).contains("tensor `w`: its view ends at element 5 of a storage of 4"));
    assert!(with("0", 4, 0, &[2, 2], &[3, 1]).contains("ends at element 5"));
    assert!(with("0", 4, 5, &[0], &[1]).contains("ends at element 5"));
    assert!(with("0", 5, 0, &[4], &[1]).contains("truncated: its storage `0` has 4 of 5 elements"));
    assert!(with("1", 4, 0, &[4], &[1]).contains("its storage `1` is missing"));
    assert!(with("0", 4, 0, &[1 << 40], &[0]).contains("too large"), "no memory for repeated elements");
    assert!(with("0", 4, 0, &[1 << 62, 1 << 62], &[1, 1]).contains("too large"));
    assert!(with("0", 4, 0, &[2, 2], &[i64::MAX, i64::MAX]).contains("ends at element 18446744073709551615"));
    assert!(with("0", 4, 2, &[2, 2], &[i64::MAX, i64::MAX]).contains("too large"));
    assert!(with("0", 4, -1, &[4], &[1]).contains("storage offset -1"));
    assert!(with("0", 4, 0, &[-4], &[1]).contains("size -4"));
    assert!(with("0", 4, 0, &[4], &[-1]).contains("size -1"));
    assert!(with("0", 4, 0, &[4], &[1, 1]).contains("with strides"));
    assert!(with("0", 4, 0, &[1; 65], &[1; 65]).contains("65 dimensions"));
    assert!(with(&"k".repeat(256), 4, 0, &[4], &[1]).contains("no storage"));
}

/// Broken containers and pickles.
#[test]
fn ckp_17_broken_files() {
    let good = torch_file(&Pickle::dict().text("w").tensor("0", 4, 0, &[4], &[1]).end(), &[("0", &floats(0, 4))]);
    open(&good).unwrap();
    for len in 0..good.len() {
        let text = refused(&good[..len]);
        assert!(!text.is_empty());
    }
    assert!(refused(b"not a zip").contains("neither a zip file"));
    assert!(refused(&zip_of(&[("archive/other", b"x")])).contains("does not hold one data.pkl"));
    assert!(refused(&zip_of(&[("a/data.pkl", b"}."), ("a/byteorder", b"big")])).contains("big-endian"));
    assert!(refused(&zip_of(&[("a/data.pkl", b"}."), ("a/data.pkl", b"}.")])).contains("twice"));
    let mut compressed = zip_of(&[("a/data.pkl", b"}.")]);
    let at = compressed.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    compressed[at + 10] = 8;
    assert!(refused(&compressed).contains("compressed or encrypted"));

    let parse = |bytes: &[u8]| pickle::parse(bytes).unwrap_err().to_string();
    assert!(parse(b"").contains("ends in the middle"));
    assert!(parse(b"\x80\x02K\x01.").contains("expected a dictionary of tensors, found an integer"));
    assert!(parse(&Pickle::dict().text("w").op(b"}").end()).contains("a dictionary under `w`"));
    assert!(parse(&Pickle::dict().text("w").op(b"NX\x01\0\0\0wN").end()).contains("`w` twice"));
    assert!(parse(&Pickle::dict().text("w").end()).contains("a key without value"));
    assert!(parse(b"X\xff\xff\xff\xff").contains("ends in the middle"), "no memory for announced lengths");
    assert!(parse(b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff").contains("byte 0"));
    assert!(
        parse(b"0.").contains("empty stack")
            && parse(b"(0.").contains("pops a mark")
            && parse(b"t.").contains("no mark")
    );
    assert!(parse(b"h\x05.").contains("recalls slot 5") && parse(b"\x94.").contains("empty stack"));
    assert!(parse(b"\x8a\x09123456789.").contains("more than 64 bits"));
    assert!(parse(b"]R.").contains("empty stack") && parse(b"N)R.").contains("does not take"));
    // Depth and self-reference cost neither stack nor memory.
    let mut deep = b")".to_vec();
    deep.extend([0x85; 1_000_000]);
    deep.push(b'.');
    assert!(parse(&deep).contains("a list or tuple"));
    assert!(parse(b"]q\0h\0a.").contains("a list or tuple"));
}

/// The format of before 1.6, cut anywhere, is refused.
#[test]
fn ckp_17_truncated_legacy_file() {
    let good = std::fs::read(fixture("load-pytorch-bin-legacy").join("pytorch_model.bin")).unwrap();
    for len in (0..good.len()).step_by(97) {
        refused(&good[..len]);
    }
}

proptest! {
    /// Any pickle, and a good one with some bytes changed, is read or refused.
    #[test]
    fn any_pickle_is_read_or_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..64),
        changes in prop::collection::vec((0usize..300, any::<u8>()), 1..4),
    ) {
        let _ = pickle::parse(&bytes);
        let mut changed = torch_file(
            &Pickle::dict().text("w").tensor("0", 4, 0, &[2, 2], &[1, 2]).end(),
            &[("0", &floats(0, 4))],
        );
        for (at, byte) in changes {
            if let Some(place) = changed.get_mut(at) {
                *place = byte;
            }
        }
        if let Ok(checkpoint) = open(&changed) {
            for tensor in checkpoint.tensors() {
                let _ = tensor.to_f32();
            }
        }
    }
}
