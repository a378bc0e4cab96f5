//! Writing checkpoints and trained models.

use std::path::{Path, PathBuf};

use lith_ir::DType;
use serde_json::{Map, Value, json};

use super::disk::Disk;
use super::error::CheckpointError;
use super::folder::{CheckpointFolder, Hidden};
use super::weights::ReadTensor;
use super::{OPTIMIZER, RealDisk, TRAINER_STATE, TRAINING_ARGS, weights};
use crate::training::program::{Role, TensorSpec, TrainProgram};
use crate::training::state::{TrainerState, pretty};

/// How a model lies on disk, beside its tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelFiles {
    /// Weights are in `STEM.safetensors`: `model`, or `adapter_model` of adapters.
    pub stem: String,
    /// Largest file of weights in bytes; larger models are cut into shards. (EX-01)
    pub max_shard_size: u64,
    /// Type of the floats of a saved model; checkpoints keep those that learning goes on from. (EX-02)
    pub dtype: Option<DType>,
    /// Files that make the weights a model, by name: `config.json`, the tokenizer's, a chat template. (EC-11)
    pub companions: Vec<(String, Vec<u8>)>,
}

impl Default for ModelFiles {
    fn default() -> Self {
        ModelFiles { stem: "model".into(), max_shard_size: 50_000_000_000, dtype: None, companions: Vec::new() }
    }
}

/// Writes a text whole: under another name, synchronised, renamed.
pub(in crate::training) fn write_text(disk: &dyn Disk, path: &Path, text: &str) -> Result<(), CheckpointError> {
    write_bytes(disk, path, text.as_bytes())
}

fn write_bytes(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = path.with_file_name(format!(".{name}.partial"));
    let written = disk.create(&partial).and_then(|mut file| {
        file.write_all(bytes)?;
        file.finish()
    });
    written.and_then(|()| disk.rename(&partial, path)).map_err(|error| CheckpointError::write(path, error))
}

/// A model as it is written.
struct Written<'a> {
    specs: Vec<&'a TensorSpec>,
    read: &'a ReadTensor<'a>,
    files: &'a ModelFiles,
    /// The arguments it was trained with.
    args: Option<&'a Map<String, Value>>,
    /// The update that it is a checkpoint of.
    step: Option<u64>,
}

/// Writes weights, companions and arguments of a model into a folder that nobody reads yet; gives the names of the files
/// with weights.
fn write_model(disk: &dyn Disk, folder: &Path, model: &Written<'_>) -> Result<Vec<String>, CheckpointError> {
    let &Written { ref specs, read, files, args, step } = model;
    let mut metadata = json!({"format": "pt"});
    if let Some(step) = step {
        metadata["global_step"] = step.to_string().into();
    }
    let dtype = files.dtype.filter(|_| step.is_none());
    let form = weights::Form { dtype, metadata };
    let written = weights::write_sharded(disk, folder, &files.stem, read, specs, files.max_shard_size, &form)?;
    for (name, bytes) in &files.companions {
        write_bytes(disk, &folder.join(name), bytes)?;
    }
    if let Some(args) = args {
        write_text(disk, &folder.join(TRAINING_ARGS), &pretty(&Value::Object(args.clone()), 2))?;
    }
    Ok(written)
}

/// The weights of a program that learns.
fn weights_of(program: &dyn TrainProgram) -> Vec<&TensorSpec> {
    program.tensors().iter().filter(|spec| spec.role != Role::Optimizer).collect()
}

/// Saves a checkpoint, whole or not at all, and gives its place. (EC-11, EC-17)
///
/// `resumable` adds what resuming needs to the weights.
#[allow(clippy::too_many_arguments, reason = "all that a checkpoint is made of")]
pub(in crate::training) fn save_checkpoint(
    disk: &dyn Disk,
    folder: &CheckpointFolder,
    program: &dyn TrainProgram,
    files: &ModelFiles,
    args: &Map<String, Value>,
    state: &TrainerState,
    resumable: bool,
) -> Result<PathBuf, CheckpointError> {
    let step = state.global_step;
    let (partial, replaced) = (folder.hidden(step, Hidden::Partial), folder.hidden(step, Hidden::Replaced));
    let checkpoint = folder.checkpoint(step);
    let written = || -> Result<(), CheckpointError> {
        let io = |path: &Path| {
            let path = path.to_path_buf();
            move |error| CheckpointError::write(&path, error)
        };
        disk.remove(&partial).and_then(|()| disk.make_folder(&partial)).map_err(io(&partial))?;
        let read = |name: &str| program.read(name);
        let specs = weights_of(program);
        write_model(disk, &partial, &Written { specs, read: &read, files, args: Some(args), step: Some(step) })?;
        if resumable {
            let specs: Vec<&TensorSpec> =
                program.tensors().iter().filter(|spec| spec.role == Role::Optimizer).collect();
            let metadata = json!({"format": "lith", "global_step": step.to_string()});
            let form = weights::Form { dtype: None, metadata };
            weights::write_file(disk, &partial.join(OPTIMIZER), &read, &specs, &form)?;
        }
        write_text(disk, &partial.join(TRAINER_STATE), &state.to_text())?;
        disk.sync_folder(&partial).map_err(io(&partial))?;
        if checkpoint.exists() {
            disk.remove(&replaced).and_then(|()| disk.rename(&checkpoint, &replaced)).map_err(io(&checkpoint))?;
        }
        disk.rename(&partial, &checkpoint).and_then(|()| disk.sync_folder(folder.path())).map_err(io(&checkpoint))?;
        disk.remove(&replaced).map_err(io(&replaced))
    };
    written().map_err(|error| {
        // What was written is of no use and may be what fills the disk; that it cannot be removed changes nothing.
        let _ = disk.remove(&partial);
        if replaced.exists() && !checkpoint.exists() {
            let _ = disk.rename(&replaced, &checkpoint);
        }
        match error {
            CheckpointError::Write { path, source, .. } => {
                CheckpointError::Write { path, source, kept: folder.last().ok() }
            }
            other => other,
        }
    })?;
    Ok(checkpoint)
}

/// Saves the model alone: weights, companions and arguments, each file whole or not at all. Shards of an earlier save
/// that are none of this are removed. (EX-01, EX-03)
pub(in crate::training) fn save_model(
    disk: &dyn Disk,
    folder: &Path,
    program: &dyn TrainProgram,
    files: &ModelFiles,
    args: &Map<String, Value>,
) -> Result<(), CheckpointError> {
    let read = |name: &str| program.read(name);
    save(disk, folder, &Written { specs: weights_of(program), read: &read, files, args: Some(args), step: None })
}

/// Saves a model that is not trained: weights and companions, each file whole or not at all, in a folder that is made if there
/// is none. `read` gives the tensors by the names that `specs` has. (EX-01, EX-03)
///
/// # Errors
/// When they cannot be read or written, or are not what `specs` says.
pub fn save_weights(
    folder: &Path,
    specs: &[TensorSpec],
    read: &ReadTensor<'_>,
    files: &ModelFiles,
) -> Result<(), CheckpointError> {
    save(&RealDisk, folder, &Written { specs: specs.iter().collect(), read, files, args: None, step: None })
}

fn save(disk: &dyn Disk, folder: &Path, model: &Written<'_>) -> Result<(), CheckpointError> {
    let Written { files, args, .. } = model;
    let partial = folder.join(".model.partial");
    let written = || -> Result<(), CheckpointError> {
        let made = disk.remove(&partial).and_then(|()| disk.make_folder(&partial));
        made.map_err(|error| CheckpointError::write(&partial, error))?;
        let weights = write_model(disk, &partial, model)?;
        let others = files.companions.iter().map(|(name, _)| name.as_str()).chain(args.map(|_| TRAINING_ARGS));
        for name in weights.iter().map(String::as_str).chain(others) {
            let to = folder.join(name);
            disk.rename(&partial.join(name), &to).map_err(|error| CheckpointError::write(&to, error))?;
        }
        let stale = || -> std::io::Result<()> {
            for entry in std::fs::read_dir(folder)? {
                let name = entry?.file_name().to_string_lossy().into_owned();
                if is_weights(&name, &files.stem) && !weights.contains(&name) {
                    disk.remove(&folder.join(name))?;
                }
            }
            disk.remove(&partial)?;
            disk.sync_folder(folder)
        };
        stale().map_err(|error| CheckpointError::write(folder, error))
    };
    written().inspect_err(|_| drop(disk.remove(&partial)))
}

/// Whether a file of this name holds weights, or says where they are.
fn is_weights(name: &str, stem: &str) -> bool {
    let Some(rest) = name.strip_prefix(stem) else { return false };
    let shard = || {
        let (at, of) = rest.strip_prefix('-')?.strip_suffix(".safetensors")?.split_once("-of-")?;
        Some(at.len() == 5 && of.len() == 5 && [at, of].iter().all(|n| n.bytes().all(|b| b.is_ascii_digit())))
    };
    rest == ".safetensors" || rest == ".safetensors.index.json" || shard() == Some(true)
}
