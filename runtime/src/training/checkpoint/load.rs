//! Reading checkpoints. All of one is checked before anything of the program is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::error::CheckpointError;
use super::save::ModelFiles;
use super::weights::WeightFile;
use super::{OPTIMIZER, TRAINER_STATE};
use crate::tensor::Tensor;
use crate::training::program::{Role, TensorSpec, TrainProgram};
use crate::training::state::TrainerState;

/// Longest JSON file that is read, in bytes.
const MAX_TEXT: u64 = 1 << 28;

/// A checkpoint that is complete and of this program.
pub(in crate::training) struct Checked {
    pub(in crate::training) path: PathBuf,
    pub(in crate::training) state: TrainerState,
    weights: Tensors,
    states: Tensors,
}

impl Checked {
    /// Puts the program where the checkpoint left it.
    pub(in crate::training) fn apply(mut self, program: &mut dyn TrainProgram) -> Result<(), CheckpointError> {
        // Gradients that an update left behind which came to no end must not reach the next.
        program.reset()?;
        self.weights.write(program)?;
        self.states.write(program)
    }
}

fn read_text(path: &Path) -> Result<String, CheckpointError> {
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MAX_TEXT).read_to_string(&mut text));
    read.map_err(|error| CheckpointError::unusable(path, error.to_string()))?;
    Ok(text)
}

/// Looks through a checkpoint that is to be resumed, without changing the program. (EC-20)
///
/// # Errors
/// [`CheckpointError::Unusable`] when it is no complete checkpoint of this program.
pub(in crate::training) fn check(
    path: &Path,
    stem: &str,
    program: &dyn TrainProgram,
) -> Result<Checked, CheckpointError> {
    if !path.is_dir() {
        return Err(CheckpointError::unusable(path, "there is no such folder"));
    }
    let optimizer = path.join(OPTIMIZER);
    if !optimizer.exists() {
        let problem = match path.join("optimizer.pt").exists() {
            true => {
                "it was saved by PyTorch's Trainer, whose optimizer state cannot be taken over; start a run from its weights"
            }
            false if path.join(TRAINER_STATE).exists() => {
                "it has no optimizer.safetensors: it was saved with save_only_model and cannot be resumed"
            }
            false => "it is no checkpoint: it has neither trainer_state.json nor optimizer.safetensors",
        };
        return Err(CheckpointError::unusable(path, problem));
    }
    let file = path.join(TRAINER_STATE);
    let state =
        TrainerState::from_text(&read_text(&file)?).map_err(|problem| CheckpointError::unusable(&file, problem))?;

    let specs = |optimizer: bool| -> Vec<TensorSpec> {
        let chosen = program.tensors().iter().filter(|spec| (spec.role == Role::Optimizer) == optimizer);
        chosen.cloned().collect()
    };
    let mut weights = Tensors::open(path, stem, specs(false))?;
    let mut states =
        Tensors::new(BTreeMap::from([(OPTIMIZER.to_string(), WeightFile::open(&optimizer)?)]), specs(true));
    weights.check(path, Some(state.global_step))?;
    states.check(path, Some(state.global_step))?;
    weights.compare_frozen(path, program)?;
    Ok(Checked { path: path.into(), state, weights, states })
}

/// Gives a program the weights of a checkpoint or a saved model.
///
/// # Errors
/// As [`check`].
pub(in crate::training) fn load_weights(
    path: &Path,
    stem: &str,
    program: &mut dyn TrainProgram,
) -> Result<(), CheckpointError> {
    let specs = program.tensors().iter().filter(|spec| spec.role != Role::Optimizer).cloned().collect();
    let mut weights = Tensors::open(path, stem, specs)?;
    weights.check(path, None)?;
    weights.write(program)
}

/// The weights of a saved model, for who reads them without a program.
pub struct SavedWeights(Tensors);

impl SavedWeights {
    /// Opens a folder that is to hold weights of these names, types and shapes, and no others.
    ///
    /// # Errors
    /// [`CheckpointError::Unusable`] when it does not.
    pub fn open(folder: &Path, specs: Vec<TensorSpec>) -> Result<SavedWeights, CheckpointError> {
        if !folder.is_dir() {
            return Err(CheckpointError::unusable(folder, "there is no such folder"));
        }
        let mut weights = Tensors::open(folder, &ModelFiles::default().stem, specs)?;
        weights.check(folder, None)?;
        Ok(SavedWeights(weights))
    }

    /// One of them.
    ///
    /// # Errors
    /// [`CheckpointError::Unusable`] when it cannot be read.
    pub fn read(&mut self, spec: &TensorSpec) -> Result<Tensor, CheckpointError> {
        self.0.file(Path::new(""), spec)?.read(spec)
    }
}

/// Tensors that a program expects, and the files that should hold them.
struct Tensors {
    files: BTreeMap<String, WeightFile>,
    specs: Vec<TensorSpec>,
    /// File of each tensor, where an index says so.
    index: BTreeMap<String, String>,
}

impl Tensors {
    fn new(files: BTreeMap<String, WeightFile>, specs: Vec<TensorSpec>) -> Self {
        let index = files.iter().flat_map(|(file, weights)| weights.names().map(|n| (n.to_string(), file.clone())));
        let index = index.collect();
        Tensors { files, specs, index }
    }

    fn open(folder: &Path, stem: &str, specs: Vec<TensorSpec>) -> Result<Self, CheckpointError> {
        let index = folder.join(format!("{stem}.safetensors.index.json"));
        let names: BTreeSet<String> = if index.exists() {
            let broken = |problem: &str| CheckpointError::unusable(&index, problem);
            let value: Value = serde_json::from_str(&read_text(&index)?).map_err(|e| broken(&e.to_string()))?;
            let map = value["weight_map"].as_object().ok_or_else(|| broken("it has no weight_map"))?;
            let name = |value: &Value| {
                let name = value.as_str().filter(|name| !name.contains(['/', '\\']));
                name.map(str::to_string).ok_or_else(|| broken(&format!("{value} is no name of a file")))
            };
            map.values().map(name).collect::<Result<_, _>>()?
        } else {
            BTreeSet::from([format!("{stem}.safetensors")])
        };
        let mut files = BTreeMap::new();
        for name in names {
            let file = WeightFile::open(&folder.join(&name))?;
            files.insert(name, file);
        }
        Ok(Tensors::new(files, specs))
    }

    fn file(&mut self, folder: &Path, spec: &TensorSpec) -> Result<&mut WeightFile, CheckpointError> {
        let missing = || CheckpointError::unusable(folder, format!("tensor {}: it is in no file", spec.name));
        self.index.get(&spec.name).and_then(|file| self.files.get_mut(file)).ok_or_else(missing)
    }

    /// Each tensor is there as it should be, there is no other, and all files are of the same update.
    fn check(&mut self, folder: &Path, step: Option<u64>) -> Result<(), CheckpointError> {
        for spec in self.specs.clone() {
            self.file(folder, &spec)?.check(&spec)?;
        }
        let known: BTreeSet<&str> = self.specs.iter().map(|spec| spec.name.as_str()).collect();
        if let Some((name, file)) = self.index.iter().find(|(name, _)| !known.contains(name.as_str())) {
            let problem =
                format!("tensor {name} of {file} is none of this program's: it is of another model or optimizer");
            return Err(CheckpointError::unusable(folder, problem));
        }
        let Some(step) = step else { return Ok(()) };
        for (name, file) in &self.files {
            let found = file.metadata("global_step");
            if found != Some(step.to_string().as_str()) {
                let found = found.unwrap_or("none");
                let problem = format!("{name} is of update {found}, {TRAINER_STATE} of update {step}");
                return Err(CheckpointError::unusable(folder, problem));
            }
        }
        Ok(())
    }

    /// Weights that do not learn are those of the program, or it is another model's checkpoint.
    fn compare_frozen(&mut self, folder: &Path, program: &dyn TrainProgram) -> Result<(), CheckpointError> {
        for spec in self.specs.clone().iter().filter(|spec| spec.role == Role::Frozen) {
            if self.file(folder, spec)?.read(spec)?.bytes() != program.read(&spec.name)?.bytes() {
                let problem = format!("frozen tensor {} has other values than the program's", spec.name);
                return Err(CheckpointError::unusable(folder, problem));
            }
        }
        Ok(())
    }

    fn write(&mut self, program: &mut dyn TrainProgram) -> Result<(), CheckpointError> {
        for spec in self.specs.clone().iter().filter(|spec| spec.role != Role::Frozen) {
            let tensor = self.file(Path::new(""), spec)?.read(spec)?;
            program.write(&spec.name, &tensor)?;
        }
        Ok(())
    }
}
