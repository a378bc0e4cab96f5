//! Loading: rows WLD-*, INS-03 and PST-01/02 of the surface specification.

mod common;

use common::{fixture, folder_with, raw_safetensors, safetensors_of};
use lith_models::weights::{Fresh, resolve};
use lith_models::{Checkpoint, DType, LoadError, LoadOptions, Loaded, Rules, Source, Wanted};
use proptest::prelude::*;

const BERT: Rules = Rules { base_prefix: "bert", renames: &[], ignorable: &[] };

/// The shapes of a small model under `bert.`.
const BODY: &[(&str, &[usize])] = &[
    ("bert.embeddings.word_embeddings.weight", &[10, 4]),
    ("bert.embeddings.LayerNorm.weight", &[4]),
    ("bert.embeddings.LayerNorm.bias", &[4]),
    ("bert.encoder.layer.0.output.dense.weight", &[4, 4]),
    ("bert.encoder.layer.1.output.dense.weight", &[4, 4]),
];
const HEAD: &[(&str, &[usize])] = &[("classifier.weight", &[2, 4]), ("classifier.bias", &[2])];

fn wanted() -> Vec<Wanted> {
    let body = BODY.iter().map(|(name, shape)| Wanted::body(*name, *shape));
    body.chain(HEAD.iter().map(|(name, shape)| Wanted::head(*name, *shape))).collect()
}

fn checkpoint(bytes: &[u8]) -> Checkpoint {
    let folder = folder_with(&[("model.safetensors", bytes)]);
    Checkpoint::open_file(&folder.path().join("model.safetensors")).unwrap()
}

fn load(bytes: &[u8], options: &LoadOptions) -> Result<Loaded, LoadError> {
    resolve(checkpoint(bytes), &wanted(), &BERT, options)
}

fn both() -> Vec<(&'static str, &'static [usize])> {
    [BODY, HEAD].concat()
}

/// The stored names of all wanted parameters.
fn origins(loaded: &Loaded) -> Vec<String> {
    wanted().iter().map(|wanted| loaded.stored(&wanted.name).unwrap().name().to_string()).collect()
}

/// WLD-03: a complete file; a headless body without prefix; a bare model from a headed file.
#[test]
fn wld_03_prefix_both_ways() {
    let loaded = load(&safetensors_of(&both()), &LoadOptions::default()).unwrap();
    assert!(loaded.report().is_clean() && loaded.report().converted.is_empty());
    assert_eq!(origins(&loaded), both().iter().map(|(name, _)| *name).collect::<Vec<_>>());

    let bare: Vec<_> =
        both().into_iter().map(|(name, shape)| (name.strip_prefix("bert.").unwrap_or(name), shape)).collect();
    let loaded = load(&safetensors_of(&bare), &LoadOptions::default()).unwrap();
    assert_eq!(origins(&loaded), bare.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    assert_eq!(loaded.report().converted.len(), BODY.len());

    let base: Vec<Wanted> = BODY.iter().map(|(name, shape)| Wanted::body(&name["bert.".len()..], *shape)).collect();
    let loaded = resolve(checkpoint(&safetensors_of(&both())), &base, &BERT, &LoadOptions::default()).unwrap();
    assert_eq!(loaded.stored("embeddings.LayerNorm.bias").unwrap().name(), "bert.embeddings.LayerNorm.bias");
    assert_eq!(loaded.report().unexpected, ["classifier.bias", "classifier.weight"]);
}

/// WLD-04
#[test]
fn wld_04_gamma_and_beta() {
    let old: Vec<(String, &[usize])> = both()
        .into_iter()
        .map(|(name, shape)| {
            (name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"), shape)
        })
        .collect();
    let old: Vec<(&str, &[usize])> = old.iter().map(|(name, shape)| (name.as_str(), *shape)).collect();
    let loaded = load(&safetensors_of(&old), &LoadOptions { strict: true, ..Default::default() }).unwrap();
    assert_eq!(loaded.stored("bert.embeddings.LayerNorm.weight").unwrap().name(), "bert.embeddings.LayerNorm.gamma");
    assert_eq!(loaded.stored("bert.embeddings.LayerNorm.bias").unwrap().name(), "bert.embeddings.LayerNorm.beta");
}

/// WLD-08, WLD-09: everything that is wrong is in one error, with both shapes.
#[test]
fn wld_08_errors_list_everything() {
    let bytes = raw_safetensors(
        r#"{"bert.embeddings.word_embeddings.weight": {"dtype": "F32", "shape": [11, 4], "data_offsets": [0, 176]},
            "bert.embeddings.LayerNorm.weight": {"dtype": "I64", "shape": [4], "data_offsets": [176, 208]},
            "bert.embeddings.LayerNorm.bias": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [208, 212]},
            "classifier.weight": {"dtype": "F32", "shape": [3, 4], "data_offsets": [212, 260]},
            "cls.extra.0.x": {"dtype": "U8", "shape": [1], "data_offsets": [260, 261]},
            "cls.extra.1.x": {"dtype": "U8", "shape": [1], "data_offsets": [261, 262]}}"#,
        262,
    );
    let error = load(&bytes, &LoadOptions { strict: true, ..Default::default() }).unwrap_err();
    assert_eq!(error.missing.len(), 2);
    assert_eq!(error.missing_head, ["classifier.bias"]);
    assert_eq!(error.mismatched.len(), 2);
    assert_eq!(error.wrong_type.len(), 2);
    assert_eq!(error.unexpected.len(), 2);
    let text = error.to_string();
    for part in [
        "model.safetensors: the weights do not fit the model",
        "bert.encoder.layer.{0..1}.output.dense.weight",
        "bert.embeddings.word_embeddings.weight: expected [10, 4], found [11, 4]",
        "classifier.weight: expected [2, 4], found [3, 4]",
        "bert.embeddings.LayerNorm.weight: found i64",
        "bert.embeddings.LayerNorm.bias: found F8_E4M3",
        "classifier.bias",
        "cls.extra.{0..1}.x",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
}

/// WLD-08, INS-03, INS-04: a head is fresh only on request, and then reproducible; a body never is.
#[test]
fn wld_08_fresh_head_only_on_request() {
    let headless = safetensors_of(BODY);
    let error = load(&headless, &LoadOptions::default()).unwrap_err();
    assert_eq!(error.missing_head, ["classifier.weight", "classifier.bias"]);
    assert!(error.to_string().contains("only on request"));

    let options = LoadOptions { fresh_head: Some(Fresh { seed: 1, std: 0.02 }), ..Default::default() };
    let loaded = load(&headless, &options).unwrap();
    assert_eq!(loaded.report().missing, ["classifier.weight", "classifier.bias"]);
    assert!(!loaded.report().is_clean() && loaded.report().to_string().contains("fresh, untrained"));
    let weight = loaded.to_f32("classifier.weight").unwrap().unwrap();
    assert!(weight.len() == 8 && weight.iter().all(|w| *w != 0.0 && w.abs() < 0.2));
    assert_eq!(loaded.to_f32("classifier.bias").unwrap().unwrap(), [0.0; 2]);
    assert_eq!(weight, load(&headless, &options).unwrap().to_f32("classifier.weight").unwrap().unwrap());
    assert_eq!(loaded.dtype("classifier.weight"), Some(DType::F32));
    assert_eq!(loaded.bytes("classifier.weight", DType::F16).unwrap().unwrap().len(), 16);
    assert!(loaded.to_f32("nonsense").is_none());

    let error = load(&safetensors_of(HEAD), &options).unwrap_err();
    assert_eq!(error.missing.len(), BODY.len());
}

/// Of no tensors at all a whole model is drawn, on request: another one for each seed.
#[test]
fn a_model_from_scratch_is_drawn_whole() {
    let draw = |seed| {
        let options =
            LoadOptions { fresh_head: Some(Fresh { seed, std: 0.02 }), fresh_body: true, ..Default::default() };
        resolve(Checkpoint::empty("nowhere".into()), &wanted(), &BERT, &options).unwrap()
    };
    let (one, other) = (draw(1), draw(2));
    for parameter in wanted() {
        let [a, b] = [&one, &other].map(|loaded| loaded.to_f32(&parameter.name).unwrap().unwrap());
        let drawn = parameter.shape.len() > 1;
        assert_eq!(a != b, drawn, "{}", parameter.name);
        assert_eq!(a.len(), parameter.shape.iter().product::<usize>());
    }
}

/// WLD-09
#[test]
fn wld_09_ignore_mismatched_sizes_redraws_the_head() {
    let other = safetensors_of(&[BODY, &[("classifier.weight", &[5, 4]), ("classifier.bias", &[5])]].concat());
    let fresh_head = Some(Fresh { seed: 1, std: 0.02 });
    assert_eq!(load(&other, &LoadOptions { fresh_head, ..Default::default() }).unwrap_err().mismatched.len(), 2);
    let loaded =
        load(&other, &LoadOptions { fresh_head, ignore_mismatched_sizes: true, strict: true, fresh_body: false })
            .unwrap();
    assert_eq!(loaded.report().mismatched.len(), 2);
    assert_eq!(loaded.to_f32("classifier.bias").unwrap().unwrap(), [0.0; 2]);
    assert!(loaded.report().to_string().contains("classifier.weight: expected [2, 4], found [5, 4]"));
}

/// WLD-10, WLD-11
#[test]
fn wld_10_left_over() {
    let more: &[(&str, &[usize])] = &[
        ("bert.embeddings.position_ids", &[1, 4]),
        ("cls.buffer", &[1]),
        ("bert.pooler.0.weight", &[1]),
        ("bert.pooler.1.weight", &[1]),
    ];
    let bytes = safetensors_of(&[&both(), more].concat());
    let rules = Rules { ignorable: &["cls.*"], ..BERT };
    let loaded = resolve(checkpoint(&bytes), &wanted(), &rules, &LoadOptions::default()).unwrap();
    assert_eq!(loaded.report().unexpected, ["bert.pooler.0.weight", "bert.pooler.1.weight"]);
    assert_eq!(loaded.report().ignored, ["bert.embeddings.position_ids", "cls.buffer"]);
    assert!(loaded.report().to_string().contains("bert.pooler.{0..1}.weight"));
    let strict = LoadOptions { strict: true, ..Default::default() };
    let error = resolve(checkpoint(&bytes), &wanted(), &rules, &strict).unwrap_err();
    assert_eq!(error.unexpected.len(), 2);
}

/// WLD-12, PST-01, PST-02: tied weights absent, equal, and different.
#[test]
fn wld_12_tied_weights() {
    let word = "bert.embeddings.word_embeddings.weight";
    let wanted = || vec![Wanted::body(word, [10, 4]), Wanted::head("cls.decoder.weight", [10, 4]).tied(word)];
    let load = |bytes: &[u8]| {
        resolve(checkpoint(bytes), &wanted(), &BERT, &LoadOptions { strict: true, ..Default::default() }).unwrap()
    };

    let loaded = load(&safetensors_of(&[(word, &[10, 4])]));
    assert_eq!(loaded.stored("cls.decoder.weight").unwrap().name(), word);
    assert!(loaded.report().is_clean());
    // The body's prefix may be absent there too.
    let loaded = load(&safetensors_of(&[("embeddings.word_embeddings.weight", &[10, 4])]));
    assert_eq!(loaded.stored("cls.decoder.weight").unwrap().name(), "embeddings.word_embeddings.weight");

    let two = |other: u8| {
        let header = format!(
            r#"{{"{word}": {{"dtype": "F32", "shape": [10, 4], "data_offsets": [0, 160]}},
                "cls.decoder.weight": {{"dtype": "F32", "shape": [10, 4], "data_offsets": [160, 320]}}}}"#
        );
        let mut bytes = raw_safetensors(&header, 320);
        *bytes.last_mut().unwrap() = other;
        bytes
    };
    let loaded = load(&two(7));
    assert_eq!(loaded.stored("cls.decoder.weight").unwrap().name(), word, "equal copies are one");
    assert!(loaded.report().is_clean());
    let loaded = load(&two(8));
    assert_eq!(loaded.stored("cls.decoder.weight").unwrap().name(), "cls.decoder.weight");
    assert_eq!(loaded.report().untied.len(), 1);
    assert!(loaded.report().to_string().contains("not tied"));

    // Only the target is there: it serves as the source.
    let wanted = [Wanted::head("cls.bias", [2]).tied("cls.decoder.bias")];
    let bytes = safetensors_of(&[("cls.decoder.bias", &[2])]);
    let loaded =
        resolve(checkpoint(&bytes), &wanted, &BERT, &LoadOptions { strict: true, ..Default::default() }).unwrap();
    assert_eq!(loaded.stored("cls.bias").unwrap().name(), "cls.decoder.bias");
}

/// WLD-15: a file in 16 bits, and one in 64, give exact `f32`.
#[test]
fn wld_15_stored_types() {
    for (folder, dtype) in [("load-f16", DType::F16), ("load-bf16", DType::Bf16), ("load-f64", DType::F64)] {
        let checkpoint = Checkpoint::open(&Source::folder_at(fixture(folder)), &Default::default()).unwrap();
        // The only tensor of load-f64 that is stored in 64 bits.
        let name = "encoder.layer.1.intermediate.dense.weight";
        let stored = checkpoint.tensor(name).unwrap();
        assert_eq!(stored.dtype().unwrap(), dtype, "{folder}");
        let loaded = resolve(checkpoint, &[Wanted::body(name, [28, 16])], &BERT, &LoadOptions::default()).unwrap();
        let values = loaded.to_f32(name).unwrap().unwrap();
        let again = loaded.bytes(name, DType::F32).unwrap().unwrap();
        assert!(
            again.as_chunks::<4>().0.iter().zip(&values).all(|(bytes, value)| f32::from_le_bytes(*bytes) == *value)
        );
        assert!(values.iter().any(|value| *value != 0.0) && values.iter().all(|value| value.is_finite()));
        assert!(matches!(loaded.bytes(name, dtype).unwrap().unwrap(), std::borrow::Cow::Borrowed(_)));
    }
}

/// What checkpoints of Google's BERT look like: two heads, tied tensors stored twice, old norms, a position buffer.
#[test]
fn a_pretraining_checkpoint_as_masked_lm() {
    let checkpoint =
        Checkpoint::open(&Source::folder_at(fixture("load-pretraining-as-masked-lm")), &Default::default()).unwrap();
    let word = "bert.embeddings.word_embeddings.weight";
    let mut wanted: Vec<Wanted> = Vec::new();
    for tensor in checkpoint.tensors() {
        let name =
            tensor.name().replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias");
        match name.as_str() {
            "cls.predictions.decoder.weight" => wanted.push(Wanted::head(name, tensor.shape()).tied(word)),
            "cls.predictions.bias" => {
                wanted.push(Wanted::head(name, tensor.shape()).tied("cls.predictions.decoder.bias"))
            }
            "cls.predictions.decoder.bias" | "bert.embeddings.position_ids" => {}
            _ if name.starts_with("bert.pooler") || name.starts_with("cls.seq") => {}
            _ => wanted.push(Wanted { head: name.starts_with("cls."), ..Wanted::body(name, tensor.shape()) }),
        }
    }
    let loaded = resolve(checkpoint, &wanted, &BERT, &LoadOptions::default()).unwrap();
    let report = loaded.report();
    assert_eq!(
        report.unexpected,
        [
            "bert.pooler.dense.bias",
            "bert.pooler.dense.weight",
            "cls.seq_relationship.bias",
            "cls.seq_relationship.weight"
        ]
    );
    assert_eq!(loaded.stored("cls.predictions.decoder.weight").unwrap().name(), word);
    assert!(report.untied.is_empty() && report.tied.len() == 2 && report.ignored == ["bert.embeddings.position_ids"]);
}

proptest! {
    /// WLD-18: loading is deterministic, and every wanted parameter is either loaded or named in the error.
    #[test]
    fn every_parameter_is_loaded_or_named(present in prop::collection::vec(any::<bool>(), BODY.len() + HEAD.len())) {
        let some: Vec<_> = both().into_iter().zip(&present).filter(|(_, there)| **there).map(|(tensor, _)| tensor).collect();
        let bytes = safetensors_of(&some);
        match load(&bytes, &LoadOptions::default()) {
            Ok(loaded) => {
                prop_assert!(present.iter().all(|there| *there));
                let again = load(&bytes, &LoadOptions::default()).unwrap();
                for wanted in wanted() {
                    prop_assert_eq!(loaded.to_f32(&wanted.name).unwrap().unwrap(), again.to_f32(&wanted.name).unwrap().unwrap());
                }
            }
            Err(error) => {
                let named = error.missing.len() + error.missing_head.len();
                prop_assert_eq!(named, present.iter().filter(|there| !**there).count());
            }
        }
    }
}
