//! Fine-tuning from files: rows become examples of the model's task, a compiled program learns from them, and what comes
//! out is a folder as Transformers writes it. What `lith train` and a training executable share. Knows tasks by what their
//! rows look like; must not know how a program computes.

mod questions;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::arguments::TrainingArguments;
use super::callbacks::{Callback, StopWhen};
use super::card::ModelCard;
use super::checkpoint::ModelFiles;
use super::collate::{
    CollateError, Collator, DataCollatorForLanguageModeling, DataCollatorForTokenClassification,
    DataCollatorWithPadding, Layout, Masking,
};
use super::data::{
    ChatTuning, DataError, DataFiles, Dataset, Encoder, Examples, Labels, LanguageModeling, Overlong, Preprocessor,
    QuestionAnswering, ReadOptions, Rows, Size, Target, TextClassification, TokenClassification, TrainTestSplit,
    prepare,
};
use super::metrics::{self, MetricError, Metrics};
use super::program::TrainProgram;
use super::state::Logs;
use super::trainer::{Predictions, Resume, TrainData, TrainOutput, Trainer, TrainerError, TrainerParts};
use crate::pipelines::{ModelInfo, Task};
use crate::tokenizer::AutoTokenizer;
use questions::Questions;

/// Why fine-tuning ended.
#[derive(Debug, thiserror::Error)]
pub enum FineTuneError {
    /// Rows or files are wrong.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Examples do not make a batch.
    #[error(transparent)]
    Collate(#[from] CollateError),
    /// Arguments are wrong, or training failed.
    #[error(transparent)]
    Trainer(#[from] TrainerError),
    /// There is no training for the task.
    #[error("there is no training for the task {task}; there is for {known}")]
    Task {
        /// The task.
        task: Task,
        /// Those that there is training for.
        known: String,
    },
    /// Training was ended from outside.
    #[error("stopped after update {step} of {max_steps}; {}", saved.as_ref().map_or(
        "nothing is saved, since save_strategy is no".into(),
        |path| format!("--resume-from-checkpoint goes on from {}", path.display())
    ))]
    Stopped {
        /// The last update.
        step: u64,
        /// Updates that there would have been.
        max_steps: u64,
        /// Its checkpoint.
        saved: Option<PathBuf>,
    },
}

impl FineTuneError {
    /// Whether arguments or data are to blame rather than the machine.
    pub fn is_usage(&self) -> bool {
        match self {
            FineTuneError::Data(_) | FineTuneError::Collate(_) | FineTuneError::Task { .. } => true,
            FineTuneError::Trainer(error) => error.is_usage(),
            FineTuneError::Stopped { .. } => false,
        }
    }
}

/// Where rows are and which columns count.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DataArguments {
    /// Files, folders or patterns of the rows to learn from.
    pub train_files: Vec<String>,
    /// The same of rows to evaluate on.
    pub validation_files: Vec<String>,
    /// The share of the training rows, or their number, that is kept for evaluation where there are no files for it.
    pub validation_split: Option<f64>,
    /// The column of the text; `text`, or `sentence`, whichever is there.
    pub text_column: Option<String>,
    /// The column of the second text of pairs.
    pub pair_column: Option<String>,
    /// The column of the target; `label` or `labels`, whichever is there.
    pub label_column: Option<String>,
    /// Most tokens of an example, of question answering of a window.
    pub max_seq_length: Option<usize>,
    /// Question answering: tokens that a window repeats of the one before.
    pub doc_stride: Option<usize>,
    /// Whether longer texts are cut; else they are an error.
    pub truncate: bool,
    /// Language models: texts are joined and cut to blocks of so many tokens.
    pub block_size: Option<usize>,
    /// Masked language models: the share of tokens to predict.
    pub mlm_probability: Option<f64>,
    /// At most so many rows to learn from.
    pub max_train_samples: Option<usize>,
    /// At most so many rows to evaluate on.
    pub max_eval_samples: Option<usize>,
    /// Where prepared examples are kept.
    pub cache: Option<PathBuf>,
}

/// Rows to learn from and to evaluate on.
#[derive(Clone, Debug)]
pub struct Data {
    train: Dataset,
    validation: Option<Dataset>,
}

impl Data {
    /// Reads the files.
    ///
    /// # Errors
    /// When they cannot be read, or a split is impossible.
    pub fn read(args: &DataArguments, seed: u64) -> Result<Data, DataError> {
        let mut train = rows_of(&args.train_files)?;
        let mut validation = match &args.validation_files[..] {
            [] => None,
            files => Some(rows_of(files)?),
        };
        if let (None, Some(size)) = (&validation, args.validation_split) {
            let size = if size < 1.0 { Size::Share(size) } else { Size::Rows(size as usize) };
            let options =
                TrainTestSplit { test_size: size, train_size: None, shuffle: true, seed, stratify_by_column: None };
            let (rest, held) = train.train_test_split(&options)?;
            (train, validation) = (rest, Some(held));
        }
        if let Some(most) = args.max_train_samples {
            train = train.take(most);
        }
        if let (Some(rows), Some(most)) = (&validation, args.max_eval_samples) {
            validation = Some(rows.take(most));
        }
        Ok(Data { train, validation })
    }

    /// Rows to learn from.
    pub fn train_rows(&self) -> usize {
        self.train.len()
    }

    /// Whether there are rows to evaluate on.
    pub fn has_validation(&self) -> bool {
        self.validation.is_some()
    }

    /// What the labels of classification are: those of the rows to learn from, and of what was split off them. A label
    /// that only files of their own for evaluation have cannot be learned; it is refused where they are prepared.
    /// Nothing for other tasks.
    ///
    /// # Errors
    /// When the column is missing, or a row lacks a label.
    pub fn target(&self, task: Task, args: &DataArguments) -> Result<Option<Target>, DataError> {
        let all = match &self.validation {
            Some(split) if args.validation_files.is_empty() => {
                Dataset::concatenate(&[self.train.clone(), split.clone()])
            }
            _ => self.train.clone(),
        };
        let column = || column(&self.train, args.label_column.as_deref(), &["label", "labels"]);
        Ok(match task.name() {
            "text-classification" => Some(Target::infer(&all, &column()?)?),
            "token-classification" => {
                let column = tags_column(&self.train, args)?;
                Some(Target::Single(Labels::of_column(&all, &column)?))
            }
            _ => None,
        })
    }
}

/// The tasks that there is training for.
pub const TASKS: [&str; 5] =
    ["text-classification", "token-classification", "question-answering", "fill-mask", "text-generation"];

/// Refuses a task that there is no training for.
///
/// # Errors
/// [`FineTuneError::Task`].
pub fn check_task(task: Task) -> Result<(), FineTuneError> {
    match TASKS.contains(&task.name()) {
        true => Ok(()),
        false => Err(no_training(task)),
    }
}

/// What a model whose head is settled is to learn of a target; nothing where its task has no classes. (TL-07)
///
/// # Errors
/// When two of the model's labels have one name.
pub fn target_of(info: &ModelInfo) -> Result<Option<Target>, DataError> {
    let labels = || Labels::new(info.id2label.values().cloned().collect());
    Ok(match info.task.name() {
        "text-classification" => Some(match info.problem_type.as_deref() {
            Some("multi_label_classification") => Target::Multi(labels()?),
            Some("regression") => Target::Regression(info.id2label.len()),
            None if info.id2label.len() == 1 => Target::Regression(1),
            _ => Target::Single(labels()?),
        }),
        "token-classification" => Some(Target::Single(labels()?)),
        _ => None,
    })
}

fn rows_of(files: &[String]) -> Result<Dataset, DataError> {
    let rows = DataFiles::new(files, ReadOptions::default())?.read()?;
    if rows.is_empty() {
        return Err(DataError::Empty { what: files.join(", ") });
    }
    Ok(rows)
}

/// The column asked for, else the first of the usual ones that is there; the first, to be missed, where none is.
fn column(rows: &Dataset, asked: Option<&str>, usual: &[&str]) -> Result<String, DataError> {
    if let Some(asked) = asked {
        return Ok(asked.into());
    }
    let there = rows.columns();
    let found = usual.iter().find(|name| there.iter().any(|column| column == **name)).or(usual.first());
    Ok(found.map(|name| name.to_string()).unwrap_or_default())
}

fn tags_column(rows: &Dataset, args: &DataArguments) -> Result<String, DataError> {
    column(rows, args.label_column.as_deref(), &["ner_tags", "tags", "labels", "label"])
}

/// All that fine-tuning needs.
pub struct FineTuning<'a> {
    /// The program that learns.
    pub program: &'a mut dyn TrainProgram,
    /// What the program is.
    pub info: &'a ModelInfo,
    /// Its tokenizer.
    pub tokenizer: Arc<AutoTokenizer>,
    /// The rows.
    pub data: Data,
    /// What of them counts.
    pub data_args: DataArguments,
    /// How training goes.
    pub args: TrainingArguments,
    /// What the targets mean, where there are classes.
    pub target: Option<Target>,
    /// What the saved model consists of beside its weights.
    pub files: ModelFiles,
    /// What the model card says of it.
    pub card: ModelCard,
    /// Where a page with curves goes.
    pub report: Option<PathBuf>,
    /// Told what happens.
    pub callbacks: Vec<Box<dyn Callback>>,
    /// Raised from outside to end training after the update that is being done, with a checkpoint. (TL-19)
    pub stop: Arc<AtomicBool>,
}

/// What fine-tuning came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Of training.
    pub train: TrainOutput,
    /// Of the evaluation at the end, if there were rows for it.
    pub eval: Option<Logs>,
}

impl FineTuning<'_> {
    /// Prepares, trains, evaluates and saves the model with its card and results in `output_dir`.
    ///
    /// # Errors
    /// [`FineTuneError`]; checkpoints saved until then stay.
    pub fn run(self) -> Result<Outcome, FineTuneError> {
        let FineTuning { program, info, tokenizer, data, data_args, args, target, files, card, report, .. } = self;
        let (mut callbacks, stop) = (self.callbacks, self.stop);
        callbacks.push(Box::new(StopWhen::new(stop.clone())));
        let task = info.task;
        let preprocessor = preprocessor(task, info, &tokenizer, &data, &data_args, target.as_ref())?;
        let collator = collator(task, &tokenizer, &data_args, args.seed)?;
        let block = data_args.block_size.filter(|_| is_language_model(task));
        let cache = data_args.cache.as_deref();
        let examples = |rows: &Dataset| -> Result<Arc<dyn Examples>, DataError> {
            prepare(Rows::Memory(rows), preprocessor.clone(), block, cache).map(Arc::from)
        };
        let train = examples(&data.train)?;
        let eval = data.validation.as_ref().map(examples).transpose()?;
        let questions = match (&data.validation, task.name()) {
            (Some(rows), "question-answering") => Some(Questions::new(rows, &windows(info, &tokenizer, &data_args))?),
            _ => None,
        };
        let resume = Resume::from_argument(args.resume_from_checkpoint.as_deref());
        let title = card.name.clone();
        let mut parts = TrainerParts::new(program, args, collator);
        parts.train = Some(TrainData::Examples(train));
        parts.eval = eval.clone().map(|examples| (None, examples)).into_iter().collect();
        // Of language models the loss says it all; what they predict would be a vocabulary for each token.
        if !is_language_model(task) {
            parts.compute_metrics = Some(Box::new(move |predictions| {
                let found = match &questions {
                    Some(questions) => questions.metrics(predictions),
                    None => metrics_of(task, target.as_ref(), predictions),
                };
                let found = found.map_err(|e| e.to_string())?;
                Ok(found.into_iter().map(|(name, value)| (name, serde_json::Value::from(value))).collect())
            }));
        }
        parts.callbacks = callbacks;
        parts.files = files;
        let mut trainer = Trainer::new(parts)?;
        let train = trainer.train(&resume)?;
        if stop.load(Ordering::Relaxed) && train.global_step < trainer.state().max_steps {
            let checkpoint = trainer.checkpoints().checkpoint(train.global_step);
            let saved = checkpoint.is_dir().then_some(checkpoint);
            return Err(FineTuneError::Stopped {
                step: train.global_step,
                max_steps: trainer.state().max_steps,
                saved,
            });
        }
        trainer.save_model(None)?;
        trainer.save_metrics("train", &train.metrics, true)?;
        let eval = match eval {
            None => None,
            Some(_) => {
                let logs = trainer.evaluate()?;
                trainer.save_metrics("eval", &logs, true)?;
                Some(logs)
            }
        };
        trainer.save_state()?;
        trainer.create_model_card(&card)?;
        if let Some(path) = report {
            trainer.write_report(&path, &title, &[])?;
        }
        Ok(Outcome { train, eval })
    }
}

fn is_language_model(task: Task) -> bool {
    matches!(task.name(), "fill-mask" | "text-generation")
}

/// What makes examples of rows.
fn preprocessor(
    task: Task,
    info: &ModelInfo,
    tokenizer: &Arc<AutoTokenizer>,
    data: &Data,
    args: &DataArguments,
    target: Option<&Target>,
) -> Result<Arc<dyn Preprocessor>, FineTuneError> {
    let overlong = if args.truncate { Overlong::Truncate } else { Overlong::Refuse };
    let encoder = Encoder::new(tokenizer.clone(), info.max_positions);
    let encoder = encoder.max_length(args.max_seq_length).overlong(overlong);
    let text = || column(&data.train, args.text_column.as_deref(), &["text", "sentence"]);
    Ok(match task.name() {
        "text-classification" => {
            let label = column(&data.train, args.label_column.as_deref(), &["label", "labels"])?;
            let label = target.map(|target| (label, target.clone()));
            Arc::new(TextClassification { encoder, text: text()?, pair: args.pair_column.clone(), label })
        }
        "token-classification" => {
            let labels = match target {
                Some(Target::Single(labels)) => Some(labels.clone()),
                _ => None,
            };
            let tags =
                labels.map(|labels| Ok::<_, DataError>((tags_column(&data.train, args)?, labels))).transpose()?;
            let tokens = column(&data.train, args.text_column.as_deref(), &["tokens", "words"])?;
            Arc::new(TokenClassification { encoder, tokens, tags, label_all_tokens: false })
        }
        "text-generation" if data.train.columns().iter().any(|c| c == "messages" || c == "prompt") => {
            Arc::new(ChatTuning::new(encoder))
        }
        "fill-mask" | "text-generation" => Arc::new(LanguageModeling {
            text: text()?,
            joined: args.block_size.is_some(),
            add_eos: task.name() == "text-generation" && tokenizer.eos_token_id().is_some(),
            special_tokens_mask: task.name() == "fill-mask",
            ..LanguageModeling::new(encoder)
        }),
        "question-answering" => Arc::new(windows(info, tokenizer, args)),
        _ => return Err(no_training(task)),
    })
}

/// Question answering with the windows asked for.
fn windows(info: &ModelInfo, tokenizer: &Arc<AutoTokenizer>, args: &DataArguments) -> QuestionAnswering {
    let mut task = QuestionAnswering::new(tokenizer.clone(), info.max_positions);
    if let Some(most) = args.max_seq_length.filter(|most| *most < task.max_seq_length) {
        (task.max_seq_length, task.doc_stride) = (most, task.doc_stride.min(most / 2));
    }
    task.doc_stride = args.doc_stride.unwrap_or(task.doc_stride);
    task
}

fn no_training(task: Task) -> FineTuneError {
    FineTuneError::Task { task, known: TASKS.join(", ") }
}

/// What makes batches of examples.
fn collator(
    task: Task,
    tokenizer: &AutoTokenizer,
    args: &DataArguments,
    seed: u64,
) -> Result<Arc<dyn Collator>, FineTuneError> {
    let layout = Layout::PaddingFree;
    Ok(match task.name() {
        "text-classification" | "question-answering" => Arc::new(DataCollatorWithPadding { layout }),
        "token-classification" => Arc::new(DataCollatorForTokenClassification { layout, ..Default::default() }),
        "text-generation" => Arc::new(DataCollatorForLanguageModeling::causal(tokenizer, layout)),
        "fill-mask" => {
            let mlm_probability = args.mlm_probability.unwrap_or(Masking::default().mlm_probability);
            let masking = Masking { mlm_probability, seed, ..Masking::default() };
            Arc::new(DataCollatorForLanguageModeling::masked(tokenizer, layout, masking)?)
        }
        _ => return Err(no_training(task)),
    })
}

/// The metrics of a task's predictions, as users of Transformers compute them.
fn metrics_of(task: Task, target: Option<&Target>, predictions: &Predictions) -> Result<Metrics, MetricError> {
    let (Some(logits), Some(labels)) = (predictions.output("logits"), predictions.label("labels")) else {
        return Ok(Metrics::new());
    };
    let (values, classes) = (logits.f32s(), logits.shape().last().copied().unwrap_or(0));
    let ids: &[i32] = labels.elements().unwrap_or_default();
    match (task.name(), target) {
        ("text-classification", Some(Target::Single(_))) => metrics::single_label(values, classes, ids),
        ("text-classification", Some(Target::Multi(_))) => metrics::multi_label(values, classes, labels.f32s()),
        ("text-classification", Some(Target::Regression(_))) => metrics::regression_report(values, labels.f32s()),
        ("token-classification", Some(Target::Single(names))) => {
            let offsets: Vec<i32> = predictions.offsets.iter().map(|&o| i32::try_from(o).unwrap_or(i32::MAX)).collect();
            metrics::token_labels(values, ids, &offsets, names.names())
        }
        _ => Ok(Metrics::new()),
    }
}

/// The name of the folder that a model is saved in, for its card.
pub fn name_of(folder: &Path) -> String {
    folder.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned())
}
