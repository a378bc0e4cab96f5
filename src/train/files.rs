//! The files of a trained model beside its weights.

use lith_ir::DType;
use lith_models::adapters;
use lith_runtime::training::checkpoint::{ModelFiles, parse_size};
use serde_json::json;

use crate::error::{Error, Result};
use crate::model::Model;

/// What the trained model, saved in this type, consists of beside its weights: the configuration with its new head, the
/// tokenizer.
pub(super) fn files(model: &Model, dtype: DType) -> Result<ModelFiles> {
    if let (Some(name), None) = (model.converted.first(), &model.adapted) {
        return Err(Error::input(format!(
            "{}: checkpoints hold `{name}` as rows of another tensor or transposed, which training does not save: train adapters (--lora)",
            model.info.model_type
        )));
    }
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

/// What makes a checkpoint a sentence-transformers stack, which a model with another head is not.
const SENTENCE_FILES: [&str; 3] = ["modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"];
