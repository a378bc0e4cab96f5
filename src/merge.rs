//! A model as Transformers saves it, with an adapter merged into its weights. Knows files and names, no architecture.

use std::path::Path;

use lith_ir::DType;
use lith_runtime::tensor::Tensor;
use lith_runtime::training::checkpoint::save_weights;
use lith_runtime::training::file_form::FileForm;
use lith_runtime::training::program::{Role, StepError, TensorSpec};

use crate::error::{Error, Result};
use crate::model::{Model, ModelOptions};
use crate::train::files::{files, stored_as};
use crate::weights::Weights;

/// Writes a model with an adapter merged into its weights to a folder: `model.safetensors` (or shards) with floats of `dtype`,
/// `config.json`, the tokenizer's files. Gives what the user should know. (PE-06, EX-04)
///
/// # Errors
/// When no adapter is named, the model is of a kind that is not saved so, or something cannot be read or written.
pub fn merge(model: &str, from: &ModelOptions, dtype: DType, folder: &Path) -> Result<Vec<String>> {
    if from.adapter.is_none() {
        return Err(Error::input("--adapter: name the adapter that is to be merged"));
    }
    let model = Model::open(model, from)?;
    let one = matches!(&model.weights, Weights::Merged(base, _) if base.is_one_checkpoint());
    if !one || model.info.task.name() == "sentence-embedding" {
        return Err(Error::input(format!(
            "{}: GGUF files and sentence-transformers stacks are not saved as Transformers saves models; compile with --adapter",
            model.info.model_type
        )));
    }
    let wrong = |problem: String| Error::failure(format!("the form of the files: {problem}"));
    let own = |(name, ty): (&String, &lith_ir::Type)| {
        let shape = ty.static_shape()?;
        ty.dtype.is_float().then(|| TensorSpec { name: name.clone(), dtype: DType::F32, shape, role: Role::Trainable })
    };
    let own: Vec<TensorSpec> = model.program.params.iter().filter_map(own).collect();
    let (form, specs) = FileForm::new(&stored_as(&model), &own).map_err(wrong)?;
    let parameter = |name: &str| -> std::result::Result<Tensor, StepError> {
        let unread = |problem: String| StepError::Tensor(format!("`{name}`: {problem}"));
        let values = model.weights.values(name).map_err(|e| unread(e.to_string()))?;
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let spec = own.iter().find(|spec| spec.name == name).ok_or_else(|| unread("no parameter".into()))?;
        Tensor::from_bytes(DType::F32, spec.shape.clone(), &bytes)
            .ok_or_else(|| unread(format!("{} values, which is not {:?}", values.len(), spec.shape)))
    };
    let read = |name: &str| {
        let spec = specs.iter().find(|spec| spec.name == name);
        let spec = spec.ok_or_else(|| StepError::Tensor(format!("no tensor `{name}`")))?;
        form.join(spec, parameter, StepError::Tensor)
    };
    save_weights(folder, &specs, &read, &files(&model, dtype)?).map_err(|e| match e.is_usage() {
        true => Error::input(e),
        false => Error::failure(e),
    })?;
    Ok(model.warnings)
}
