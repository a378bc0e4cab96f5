//! A compiled program as the model of a pipeline: token batches in, named arrays out. Knows the entry point `forward` and
//! the names of token inputs, no architecture.

use std::borrow::Cow;
use std::io;
use std::path::Path;

use crate::artifact::format::FormatError;
use crate::artifact::{Artifact, ArtifactError};
use crate::pipelines::{Args, ModelInfo, Output, Pipeline, PipelineError, RunError, Task, TokenBatch, TokenModel};
use crate::program::Program;
use crate::tensor::View;
use crate::tokenizer::{Assets, AutoTokenizer, TokenizerError};

/// Name of the entry point that pipelines call.
pub const ENTRY: &str = "forward";

/// Why an artifact cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The artifact itself.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// Its tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Its task.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
}

/// What an artifact says of its model.
///
/// # Errors
/// When it does not say it in the pipelines' form.
pub fn model_info(artifact: &Artifact) -> Result<ModelInfo, ArtifactError> {
    serde_json::from_value(artifact.manifest().model.clone()).map_err(|e| ArtifactError::Format {
        path: artifact.path().into(),
        source: FormatError::Malformed { what: "the model's description", problem: e.to_string() },
    })
}

/// A program with what pipelines know of it.
pub struct CompiledModel {
    program: Program,
    info: ModelInfo,
}

impl CompiledModel {
    /// A model of a program.
    ///
    /// # Errors
    /// When the manifest does not say what the model is.
    pub fn new(program: Program) -> Result<CompiledModel, ArtifactError> {
        let info = model_info(program.artifact())?;
        Ok(CompiledModel { program, info })
    }

    /// The program.
    pub fn program(&self) -> &Program {
        &self.program
    }
}

impl TokenModel for CompiledModel {
    fn forward(&self, batch: &TokenBatch) -> Result<Vec<Output>, RunError> {
        let vocab = self.info.vocab_size;
        if let Some(id) = batch.input_ids.iter().find(|&&id| usize::try_from(id).map_or(true, |id| id >= vocab)) {
            return Err(RunError::new(format!("token id {id}, the model knows {vocab} tokens")));
        }
        let (tokens, bounds) = ([batch.input_ids.len()], [batch.offsets.len()]);
        let mut args =
            vec![("input_ids", View::i32(&tokens, &batch.input_ids)), ("offsets", View::i32(&bounds, &batch.offsets))];
        let entry = self.program.manifest().entry(ENTRY);
        if entry.is_some_and(|e| e.args.iter().any(|a| a.name == "token_type_ids")) {
            args.push(("token_type_ids", View::i32(&tokens, &batch.token_type_ids)));
        }
        let results = self.program.run(ENTRY, &args).map_err(RunError::new)?;
        let names = entry.map(|e| e.results.as_slice()).unwrap_or_default();
        let output = |(entry, tensor): (&crate::manifest::ResultEntry, crate::tensor::Tensor)| Output {
            name: entry.name.clone(),
            shape: tensor.shape().to_vec(),
            data: tensor.f32s().to_vec(),
        };
        Ok(names.iter().zip(results).map(output).collect())
    }

    fn info(&self) -> &ModelInfo {
        &self.info
    }
}

/// The files an artifact carries, for the tokenizer.
impl Assets for Artifact {
    fn read(&self, name: &str) -> io::Result<Option<Cow<'_, [u8]>>> {
        Ok(self.asset(name).map(Cow::Borrowed))
    }

    fn place(&self) -> String {
        self.path().display().to_string()
    }
}

/// Opens an artifact or executable as a pipeline for `task`, or for the one it was compiled for.
///
/// # Errors
/// When the artifact is broken, carries no tokenizer, or was compiled for another task.
pub fn open_pipeline(path: &Path, threads: usize, task: Option<Task>) -> Result<Pipeline, OpenError> {
    pipeline(Artifact::open(path)?, threads, task)
}

/// [`open_pipeline`] of an artifact that is open already.
///
/// # Errors
/// As [`open_pipeline`].
pub fn pipeline(artifact: Artifact, threads: usize, task: Option<Task>) -> Result<Pipeline, OpenError> {
    let tokenizer = AutoTokenizer::from_assets(&artifact)?;
    let model = CompiledModel::new(Program::new(artifact, threads)?)?;
    let task = task.unwrap_or(model.info().task);
    Ok(Pipeline::new(task, Box::new(model), tokenizer, Args::new(task))?)
}
