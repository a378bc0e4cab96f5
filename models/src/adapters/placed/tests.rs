use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};

use super::*;
use crate::config::Head;
use crate::weights::Rules;

/// Writes an adapter's folder and opens it.
fn adapter(config: &str, tensors: &[(&str, &[usize], &[f32])]) -> Result<Adapter, AdapterError> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(CONFIG_FILE), config).unwrap();
    write(&folder.path().join(WEIGHTS[0]), tensors);
    // The file is mapped: it may go.
    Adapter::open(&Source::folder_at(folder.path()))
}

fn write(path: &Path, tensors: &[(&str, &[usize], &[f32])]) {
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(.., values)| values.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        (format!("{PREFIX}{name}"), TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// A model with two plain layers, a joined one stored as `[in, out]`, a table and a head.
fn parts() -> Vec<Part> {
    let joined = |i: usize| Piece { of: "m.joined.weight".into(), rows: Rows::part(&[1, 1], i), transposed: true };
    let wanted = vec![
        Wanted::body("m.q.weight", [2, 3]),
        Wanted::body("m.v.weight", [2, 3]),
        Wanted { piece: Some(joined(0)), ..Wanted::body("m.first.weight", [1, 3]) },
        Wanted { piece: Some(joined(1)), ..Wanted::body("m.second.weight", [1, 3]) },
        Wanted::body("m.table.weight", [4, 2]),
        Wanted::head("head.weight", [1, 2]),
        Wanted::head("head.bias", [1]),
    ];
    let rules = Rules { base_prefix: "m", ..Rules::default() };
    vec![Part { folder: String::new(), prefix: String::new(), wanted, rules }]
}

const PLAIN: &str = r#"{"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["q", "joined"]}"#;
const A: &[f32] = &[1.0, 2.0, 3.0];
const B: &[f32] = &[0.5, -1.0];

/// PE-02, PE-03, PE-06: weights are those of `W + scale B A`, in joined layers with their rows of B; names may lack the body's.
#[test]
fn merged_weights() {
    let tensors: &[(&str, &[usize], &[f32])] = &[
        ("m.q.lora_A.weight", &[1, 3], A),
        ("m.q.lora_B.weight", &[2, 1], B),
        ("joined.lora_A.weight", &[1, 3], A),
        ("joined.lora_B.weight", &[2, 1], B),
        ("m.table.lora_embedding_A", &[1, 4], &[1.0, 0.0, -1.0, 2.0]),
        ("m.table.lora_embedding_B", &[2, 1], &[3.0, 4.0]),
        ("head.weight", &[1, 2], &[7.0, 8.0]),
        ("head.modules_to_save.bias", &[1], &[9.0]),
    ];
    let placed = adapter(PLAIN, tensors).unwrap().place(&parts(), Head::MaskedLm).unwrap();
    let ones = |n: usize| vec![1.0; n];
    assert_eq!(placed.merged("m.q.weight", ones(6)).unwrap(), [2.0, 3.0, 4.0, -1.0, -3.0, -5.0]);
    assert_eq!(placed.merged("m.first.weight", ones(3)).unwrap(), [2.0, 3.0, 4.0]);
    assert_eq!(placed.merged("m.second.weight", ones(3)).unwrap(), [-1.0, -3.0, -5.0]);
    assert_eq!(placed.merged("m.v.weight", ones(6)).unwrap(), ones(6));
    assert_eq!(
        placed.merged("m.table.weight", ones(8)).unwrap(),
        [7.0, 9.0, 1.0, 1.0, -5.0, -7.0, 13.0, 17.0],
        "table rows get scale * (B A)^T"
    );
    assert_eq!(placed.replaced("head.weight").unwrap().unwrap(), [7.0, 8.0]);
    assert_eq!(placed.replaced("head.bias").unwrap().unwrap(), [9.0]);
    assert!(placed.replaced("m.q.weight").is_none() && !placed.changes("m.v.weight"));
    assert!(placed.replaces("head.bias") && !placed.replaces("m.q.weight") && placed.changes("m.q.weight"));
}

/// PE-03: with magnitudes, each row of the sum is brought to its own length.
#[test]
fn magnitudes() {
    let dora = PLAIN.replace("\"r\": 1", "\"r\": 1, \"use_dora\": true");
    let tensors: &[(&str, &[usize], &[f32])] = &[
        ("m.q.lora_A.weight", &[1, 3], &[2.0, 0.0, 0.0]),
        ("m.q.lora_B.weight", &[2, 1], &[0.5, 1.0]),
        ("m.q.lora_magnitude_vector", &[2], &[10.0, 2.5]),
    ];
    let placed = adapter(&dora, tensors).unwrap().place(&parts(), Head::MaskedLm).unwrap();
    let found = placed.merged("m.q.weight", vec![1.0, 4.0, 0.0, 0.0, 3.0, 0.0]).unwrap();
    // The sums are (3, 4, 0) and (4, 3, 0), both of length 5.
    for (found, expected) in found.iter().zip([6.0, 8.0, 0.0, 2.0, 1.5, 0.0]) {
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    }
    let error = adapter(&dora, &tensors[..2]).unwrap().place(&parts(), Head::MaskedLm).unwrap_err().to_string();
    assert!(error.contains("lora_magnitude_vector"), "{error}");
    let error = adapter(PLAIN, tensors).unwrap().place(&parts(), Head::MaskedLm).unwrap_err().to_string();
    assert!(error.contains("no place for base_model.model.m.q.lora_magnitude_vector"), "{error}");
}

/// PE-09, PE-12, B-22: nothing is dropped in silence.
#[test]
fn every_tensor_has_its_place() {
    let a: (&str, &[usize], &[f32]) = ("m.q.lora_A.weight", &[1, 3], A);
    let b: (&str, &[usize], &[f32]) = ("m.q.lora_B.weight", &[2, 1], B);
    type Tensors<'a> = &'a [(&'a str, &'a [usize], &'a [f32])];
    let cases: [(Tensors<'_>, &[&str]); 8] = [
        (&[], &["q, joined", "m.q"]),
        (&[("m.k.lora_A.weight", &[1, 3], A), ("m.k.lora_B.weight", &[2, 1], B)], &["are none", "m.q"]),
        (&[a, b, ("m.k.lora_A.weight", &[1, 3], A)], &["no place for base_model.model.m.k.lora_A.weight"]),
        (&[a, b, ("other.weight", &[1], &[1.0])], &["no place for base_model.model.other.weight"]),
        (&[a, b, ("m.q.lora_C.weight", &[1], &[1.0])], &["lora_C"]),
        (&[a], &["no `base_model.model.m.q.lora_B.weight`"]),
        (&[b], &["no `base_model.model.m.q.lora_A.weight`"]),
        (
            &[a, ("m.q.lora_B.weight", &[1, 2], B)],
            &["lora_B", "expected [2, 1], found [1, 2]", "made for another model"],
        ),
    ];
    for (tensors, parts_of_message) in cases {
        let error = adapter(PLAIN, tensors).unwrap().place(&parts(), Head::MaskedLm).unwrap_err().to_string();
        for part in parts_of_message {
            assert!(error.contains(part), "{error}: no {part}");
        }
    }
    let ranks =
        adapter(&PLAIN.replace("\"r\": 1", "\"r\": 2"), &[a, b]).unwrap().place(&parts(), Head::MaskedLm).unwrap_err();
    assert!(ranks.to_string().contains("expected [2, 3], found [1, 3]"), "{ranks}");
    let broken = adapter(PLAIN, &[a, ("m.q.lora_B.weight", &[2, 1], &[f32::NAN, 0.0])]).unwrap();
    let error =
        broken.place(&parts(), Head::MaskedLm).unwrap().merged("m.q.weight", vec![1.0; 6]).unwrap_err().to_string();
    assert!(error.contains("not finite"), "{error}");
}

/// An adapter of a table that is the output layer too would change both.
#[test]
fn tied_tables_are_refused() {
    let mut tied = parts();
    tied[0].wanted[4].tied_to.push("lm_head.weight".into());
    let tensors: &[(&str, &[usize], &[f32])] = &[
        ("m.table.lora_embedding_A", &[1, 4], &[1.0, 0.0, -1.0, 2.0]),
        ("m.table.lora_embedding_B", &[2, 1], &[3.0, 4.0]),
    ];
    let error = adapter(PLAIN, tensors).unwrap().place(&tied, Head::MaskedLm).unwrap_err().to_string();
    assert!(error.contains("`table`") || error.contains("`m.table`"), "{error}");
}

/// PE-01: what is not there is named.
#[test]
fn missing_files() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Adapter::open(&Source::folder_at(folder.path())).unwrap_err().to_string();
    assert!(open().contains(CONFIG_FILE));
    std::fs::write(folder.path().join(CONFIG_FILE), PLAIN).unwrap();
    assert!(open().contains(WEIGHTS[0]));
}
