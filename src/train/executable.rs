//! The half of an executable that learns: its program, and beside it what compilation settles of training. The half that
//! answers is compiled as ever, of the same head.

use std::path::{Path, PathBuf};

use lith_models::families::Training;
use lith_passes::train::Optimizer;
use lith_runtime::pipelines::Task;
use lith_runtime::training::arguments::TrainingArguments;
use lith_runtime::training::data::{Labels, Target};
use lith_runtime::training::executable::{RECIPE, Recipe};
use lith_runtime::training::fine_tune::{Data, DataArguments, check_task};
use tempfile::TempDir;

use super::files::{files, stored_as};
use super::head::{has_head, head_for, task_to_train};
use super::optimizer;
use crate::compile::{CompileOptions, prepare};
use crate::error::{Error, Result};
use crate::model::{Model, ModelOptions, Opened};

/// What is settled of training when a model is compiled.
#[derive(Clone, Debug, Default)]
pub struct Lesson {
    /// Names of the classes, where neither the model nor rows tell them.
    pub labels: Vec<String>,
    /// Rows of which only the labels count; none where no files are named.
    pub data: DataArguments,
    /// The optimizer, its form, and the smoothing of labels; nothing else counts.
    pub args: TrainingArguments,
}

impl Lesson {
    /// Lets a model be opened with the head that is to be trained; gives what trains it.
    ///
    /// # Errors
    /// When the model or the rows cannot be read, or labels are given to a model that has none.
    pub fn settle(&self, model: &str, from: &mut ModelOptions) -> Result<(Training, Optimizer)> {
        let opened = Opened::new(model, from)?;
        let task = task_to_train(&opened, from)?;
        from.task = Some(task.name().into());
        from.fresh_head = true;
        from.fresh_seed = self.args.seed;
        if let Some(target) = self.target(&opened, task)? {
            head_for(target, &opened, from)?;
        }
        Ok((Training { smoothing: self.args.label_smoothing_factor }, optimizer(&self.args)?))
    }

    /// Refuses what an executable could not train: other tasks, and a head that nobody knows the classes of.
    fn check(&self, model: &str, from: &ModelOptions) -> Result<()> {
        let opened = Opened::new(model, from)?;
        let task = task_to_train(&opened, from)?;
        check_task(task).map_err(Error::input)?;
        let told = |given: &String| given.starts_with("num_labels=") || given.starts_with("id2label=");
        let is_told = self.tells_labels() || from.overrides.iter().any(told);
        if has_classes(task) && !is_told && !has_head(&opened, Some(task.name())) {
            return Err(Error::input(format!(
                "{}: it has no head for {task}, so its labels must be told: --labels, --train-file or --set num_labels=N",
                opened.describe()
            )));
        }
        Ok(())
    }

    fn tells_labels(&self) -> bool {
        !(self.labels.is_empty() && self.data.train_files.is_empty())
    }

    fn target(&self, opened: &Opened, task: Task) -> Result<Option<Target>> {
        if !has_classes(task) && self.tells_labels() {
            return Err(Error::input(format!("labels are for classification; the model is trained for {task}")));
        }
        if !self.labels.is_empty() {
            use lith_models::config::ProblemType::MultiLabelClassification;
            let labels = Labels::new(self.labels.clone()).map_err(Error::input)?;
            return Ok(Some(match opened.config().problem_type() {
                Some(MultiLabelClassification) => Target::Multi(labels),
                _ => Target::Single(labels),
            }));
        }
        if self.data.train_files.is_empty() {
            return Ok(None);
        }
        let data = Data::read(&self.data, self.args.seed).map_err(Error::input)?;
        data.target(task, &self.data).map_err(Error::input)
    }
}

fn has_classes(task: Task) -> bool {
    matches!(task.name(), "text-classification" | "token-classification")
}

/// The artifact that learns.
pub struct Learner {
    artifact: PathBuf,
    _folder: TempDir,
}

impl Learner {
    /// Compiles it, to lie beside `output` until it is part of an executable. `from` is then what the half that answers is
    /// to be opened with.
    ///
    /// # Errors
    /// As [`Lesson::settle`]; when there is no training for the task, or nothing tells the classes; when compilation fails
    /// or the artifact cannot be written.
    pub fn new(
        model: &str,
        from: &mut ModelOptions,
        options: &CompileOptions,
        lesson: &Lesson,
        output: &Path,
    ) -> Result<Learner> {
        lesson.check(model, from)?;
        let (training, optimizer) = lesson.settle(model, from)?;
        let mut opened = Model::open(model, &ModelOptions { training: Some(training), ..from.clone() })?;
        let companions = files(&opened, lith_ir::DType::F32)?.companions;
        let own = &lesson.args.optim;
        let same = |name: &&str| name != own && Optimizer::from_name(name) == Optimizer::from_name(own);
        let mut optimizers = vec![own.clone()];
        optimizers.extend(Optimizer::NAMES.iter().map(|(name, _)| *name).filter(same).map(String::from));
        let recipe = Recipe {
            base_model: model.into(),
            optimizers,
            nesterov: optimizer == Optimizer::Sgd { nesterov: true },
            label_smoothing_factor: lesson.args.label_smoothing_factor,
            companions: companions.iter().map(|(name, _)| name.clone()).collect(),
            stored: stored_as(&opened),
        };
        opened.assets = companions;
        opened.assets.push((RECIPE.into(), serde_json::to_vec(&recipe).map_err(Error::failure)?));
        // What is trained is stored as it is, whatever the half that answers does with it.
        let plain = CompileOptions::new("float32", options.target.name())?;
        let options =
            CompileOptions { optimizer, storage: plain.storage, quantization: plain.quantization, ..options.clone() };
        let folder = output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = tempfile::Builder::new().prefix(".lith").tempdir_in(folder);
        let folder = folder.map_err(|e| Error::input(format!("{}: {e}", output.display())))?;
        let artifact = folder.path().join("training.lith");
        prepare(opened, &options, None)?.write_artifact(&artifact).map_err(|e| e.on_the_way_to(output))?;
        Ok(Learner { artifact, _folder: folder })
    }

    /// The file.
    pub fn artifact(&self) -> &Path {
        &self.artifact
    }
}
