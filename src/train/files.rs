//! The files of a trained model: the form of its weights, and what is beside them.

use std::collections::BTreeMap;

use lith_ir::DType;
use lith_models::adapters;
use lith_models::weights::Piece;
use lith_runtime::training::checkpoint::{ModelFiles, parse_size};
use lith_runtime::training::file_form::{FileTensor, Part};
use serde_json::json;

use crate::error::{Error, Result};
use crate::model::Model;

/// What the trained model, saved in this type, consists of beside its weights: the configuration with its new head, the
/// tokenizer.
pub(crate) fn files(model: &Model, dtype: DType) -> Result<ModelFiles> {
    let mut config = model.config.clone();
    let architecture = config.architecture(crate::model::head_of(model.info.task)?);
    config.set(&format!("architectures={}", json!([architecture]))).map_err(Error::input)?;
    let name = match dtype {
        DType::F16 => "float16",
        DType::Bf16 => "bfloat16",
        _ => "float32",
    };
    config.set(&format!("dtype={name}")).map_err(Error::input)?;
    let mut companions = vec![("config.json".to_string(), config.to_json().into_bytes())];
    let kept = |name: &str| name != "config.json" && !name.contains('/') && !SENTENCE_FILES.contains(&name);
    companions.extend(model.assets.iter().filter(|(name, _)| kept(name)).cloned());
    let mut stem = ModelFiles::default().stem;
    if let Some(adapted) = &model.adapted {
        stem = adapters::WEIGHTS_STEM.into();
        companions.push((adapters::CONFIG_FILE.into(), adapted.config.to_json().into_bytes()));
    }
    let max_shard_size = parse_size("50GB").unwrap_or(u64::MAX);
    Ok(ModelFiles { companions, max_shard_size, stem, dtype: Some(dtype) })
}

/// The tensors that files have otherwise than the program: as rows of others or transposed in checkpoints of the family, by
/// other names in adapters.
pub(crate) fn stored_as(model: &Model) -> Vec<FileTensor> {
    let mut tensors: BTreeMap<&str, FileTensor> = BTreeMap::new();
    let rows_of = |name: &str| model.program.params.get(name).and_then(|ty| ty.static_shape()?.first().copied());
    let mut add = |name, transposed, parameter: &str, rows| {
        let tensor = || FileTensor { name: String::from(name), transposed, parts: Vec::new() };
        tensors.entry(name).or_insert_with(tensor).parts.push(Part { parameter: parameter.into(), rows });
    };
    match &model.adapted {
        None => {
            let otherwise = |(name, piece): &(&String, &Piece)| piece.transposed || piece.of != **name;
            for (name, piece) in model.pieces.iter().filter(otherwise) {
                add(&piece.of, piece.transposed, name, piece.rows.runs());
            }
        }
        Some(adapted) => {
            for (name, stored) in &adapted.trained {
                let transposed = model.pieces.get(name).is_some_and(|piece| piece.transposed);
                add(stored, transposed, name, vec![[0, rows_of(name).unwrap_or(0)]]);
            }
        }
    }
    tensors.into_values().collect()
}

/// What makes a checkpoint a sentence-transformers stack, which a model with another head is not.
const SENTENCE_FILES: [&str; 3] = ["modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"];
