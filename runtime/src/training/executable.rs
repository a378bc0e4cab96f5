//! Executables that learn and answer: one file with two programs of the same weights. The one that learns has them as they
//! are trained, the one that answers as compilation packed them; values that were learnt are packed the same way. Knows
//! artifacts and parameters by name, nothing of tasks or data.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::arguments::TrainingArguments;
use super::checkpoint::{CheckpointError, ModelFiles, SavedWeights};
use super::compiled::{CompiledTraining, weights_of};
use super::file_form::{FileForm, FileTensor};
use super::program::{StepError, TensorSpec};
use crate::artifact::format::FormatError;
use crate::artifact::{Artifact, ArtifactError};
use crate::states::Arena;
use crate::tensor::Tensor;
use crate::weights::{Repacking, WeightData, WeightError};

/// Name of the asset with the [`Recipe`].
pub const RECIPE: &str = "training.json";

/// Why an executable cannot take or give weights.
#[derive(Debug, thiserror::Error)]
pub enum ExecutableError {
    /// Its artifacts.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// A weight that is not what the program says.
    #[error(transparent)]
    Weight(#[from] WeightError),
    /// The folder of a saved model.
    #[error(transparent)]
    Saved(#[from] CheckpointError),
    /// The program does not give a weight.
    #[error(transparent)]
    Program(#[from] StepError),
    /// It cannot be written.
    #[error("{} cannot be written: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Memory cannot be had.
    #[error("{bytes} bytes of memory for the weights cannot be had")]
    Memory {
        /// Bytes needed.
        bytes: u64,
    },
    /// An argument contradicts what was compiled.
    #[error("{argument}: {asked}, but the executable was compiled with {compiled}; compile another, or leave it out")]
    Fixed {
        /// The argument.
        argument: &'static str,
        /// What was asked for.
        asked: String,
        /// What it was compiled with.
        compiled: String,
    },
}

impl ExecutableError {
    /// Whether what was given is at fault (exit code 2) and not the machine (exit code 1).
    pub fn is_usage(&self) -> bool {
        match self {
            ExecutableError::Artifact(_) | ExecutableError::Fixed { .. } | ExecutableError::Write { .. } => true,
            ExecutableError::Saved(error) => error.is_usage(),
            ExecutableError::Weight(_) | ExecutableError::Program(_) | ExecutableError::Memory { .. } => false,
        }
    }
}

/// What compilation settled of training; an asset of the artifact that learns.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// The model that is trained further, for the card.
    pub base_model: String,
    /// The names of the optimizer that was compiled, the one to be called it by first. (TA-09)
    pub optimizers: Vec<String>,
    /// Whether its momentum looks ahead.
    pub nesterov: bool,
    /// How much of a target is spread over all classes. (TA-21)
    pub label_smoothing_factor: f64,
    /// The assets that are saved with the weights. (EC-11)
    pub companions: Vec<String>,
    /// The tensors that files have otherwise than the program.
    pub stored: Vec<FileTensor>,
}

impl Recipe {
    /// That of an artifact that learns.
    ///
    /// # Errors
    /// When it has none, or a broken one.
    pub fn of(artifact: &Artifact) -> Result<Recipe, ArtifactError> {
        let found = artifact.asset(RECIPE).ok_or_else(|| "there is none".to_string());
        let read = found.and_then(|bytes| serde_json::from_slice(bytes).map_err(|e| e.to_string()));
        read.map_err(|problem| ArtifactError::Format {
            path: artifact.path().into(),
            source: FormatError::Malformed { what: "the recipe of training", problem },
        })
    }

    /// The arguments of training where none is given.
    pub fn arguments(&self) -> TrainingArguments {
        let label_smoothing_factor = self.label_smoothing_factor;
        let mut args = TrainingArguments { label_smoothing_factor, ..TrainingArguments::default() };
        if let Some(name) = self.optimizers.first() {
            args.optim.clone_from(name);
        }
        args
    }

    /// Refuses arguments that contradict what was compiled.
    ///
    /// # Errors
    /// [`ExecutableError::Fixed`].
    pub fn check(&self, args: &TrainingArguments) -> Result<(), ExecutableError> {
        let fixed = |argument, asked, compiled| Err(ExecutableError::Fixed { argument, asked, compiled });
        if !self.optimizers.contains(&args.optim) {
            return fixed("optim", args.optim.clone(), self.optimizers.join(" or "));
        }
        let options = args.optimizer_options();
        if let Some((_, asked)) = options.iter().find(|(name, _)| name == "nesterov")
            && (asked != "false") != self.nesterov
        {
            return fixed("optim_args", format!("nesterov={asked}"), format!("nesterov={}", self.nesterov));
        }
        if args.label_smoothing_factor != self.label_smoothing_factor {
            let [asked, compiled] = [args.label_smoothing_factor, self.label_smoothing_factor].map(|f| f.to_string());
            return fixed("label_smoothing_factor", asked, compiled);
        }
        Ok(())
    }

    /// What a saved model consists of beside its weights.
    pub fn files(&self, artifact: &Artifact) -> ModelFiles {
        let file = |name: &String| Some((name.clone(), artifact.asset(name)?.to_vec()));
        ModelFiles { companions: self.companions.iter().filter_map(file).collect(), ..ModelFiles::default() }
    }
}

/// The parameters that the program which answers needs and the one which learns does not: their values could not be packed
/// anew.
///
/// # Errors
/// When the graph of the former is damaged.
pub fn not_learnt(answers: &Artifact, training: &Artifact) -> Result<Vec<String>, ArtifactError> {
    let repacking = Repacking::new(answers)?;
    let learnt: BTreeMap<String, TensorSpec> = by_name(weights_of(training.manifest()));
    let params = answers.manifest().params.iter().filter(|entry| entry.dtype.is_float());
    let needed = params.flat_map(|entry| repacking.sources(entry).into_iter().map(String::from).collect::<Vec<_>>());
    Ok(needed.filter(|name| !learnt.contains_key(name)).collect())
}

fn by_name(specs: Vec<TensorSpec>) -> BTreeMap<String, TensorSpec> {
    specs.into_iter().map(|spec| (spec.name.clone(), spec)).collect()
}

/// Lets the program that answers have the weights of a folder that the executable, or Transformers, saved.
///
/// # Errors
/// When there are none, or they are of another model.
pub fn take_saved(answers: &mut Artifact, training: &Artifact, folder: &Path) -> Result<(), ExecutableError> {
    let own = weights_of(training.manifest());
    let stored = Recipe::of(training)?.stored;
    let (form, specs) = FileForm::new(&stored, &own).map_err(StepError::Tensor)?;
    let mut saved = SavedWeights::open(folder, specs.clone())?;
    let (own, specs) = (by_name(own), by_name(specs));
    let size = answers.weights().len();
    let mut new = Arena::new(size).ok_or(ExecutableError::Memory { bytes: size as u64 })?;
    new.0[..size].copy_from_slice(answers.weights());
    let mut value = |name: &str| -> Result<Option<Tensor>, ExecutableError> {
        let Some(spec) = own.get(name).and_then(|_| specs.get(form.home(name))) else { return Ok(None) };
        let whole = saved.read(spec)?;
        Ok(Some(form.part(name, &whole).map_err(StepError::Tensor)?.into_owned()))
    };
    packed(answers, &mut value, &mut |offset, bytes| {
        let place = usize::try_from(offset).ok().and_then(|at| new.0.get_mut(at..at.checked_add(bytes.len())?));
        place.ok_or(ExecutableError::Memory { bytes: offset })?.copy_from_slice(bytes);
        Ok(())
    })?;
    answers.replace_weights(new);
    Ok(())
}

/// Writes a copy of an executable that has the weights of `program`, which is that of its artifact that learns: under a
/// hidden name, synchronised and then renamed, so that it is whole or not there.
///
/// # Errors
/// When it cannot be written; nothing is then left of it.
pub fn save_executable(own: &Path, program: &CompiledTraining, new: &Path) -> Result<(), ExecutableError> {
    let name = new.file_name().unwrap_or_default().to_string_lossy();
    let partial = new.with_file_name(format!(".{name}.partial"));
    let failed = |source| ExecutableError::Write { path: new.into(), source };
    let written = || -> Result<(), ExecutableError> {
        // Rights go with the copy.
        fs::copy(own, &partial).map_err(failed)?;
        let mut file = OpenOptions::new().write(true).open(&partial).map_err(failed)?;
        let artifacts = [Some(Artifact::open(own)?), Artifact::open_training(own)?];
        let learnt = by_name(weights_of(program.program().manifest()));
        for artifact in artifacts.iter().flatten() {
            let mut value = |name: &str| learnt.get(name).map(|_| program.state(name).map_err(Into::into)).transpose();
            let base = artifact.weights_offset();
            packed(artifact, &mut value, &mut |offset, bytes| {
                let at = base.saturating_add(offset);
                let done = file.seek(SeekFrom::Start(at)).and_then(|_| file.write_all(bytes));
                done.map_err(failed)
            })?;
        }
        file.sync_all().map_err(failed)?;
        fs::rename(&partial, new).map_err(failed)
    };
    written().inspect_err(|_| drop(fs::remove_file(&partial)))
}

/// Where the bytes of a weights section go: an offset in it, and the bytes.
type Store<'a> = dyn FnMut(u64, &[u8]) -> Result<(), ExecutableError> + 'a;

/// Packs an artifact's weights from new values.
fn packed(
    artifact: &Artifact,
    value: &mut dyn FnMut(&str) -> Result<Option<Tensor>, ExecutableError>,
    store: &mut Store<'_>,
) -> Result<(), ExecutableError> {
    let repacking = Repacking::new(artifact)?;
    let mut data = |name: &str| -> Result<Option<WeightData<'static>>, ExecutableError> {
        let elements =
            |tensor: Tensor| WeightData::Elements { dtype: tensor.dtype(), bytes: tensor.bytes().to_vec().into() };
        Ok(value(name)?.map(elements))
    };
    for entry in &artifact.manifest().params {
        if let Some(bytes) = repacking.bytes(entry, &mut data)? {
            store(entry.offset, &bytes)?;
        }
    }
    Ok(())
}
