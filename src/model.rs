//! A model as it comes from a checkpoint: configuration, traced program, weights and the files that go with it. What
//! is compiled from it stands in `compile`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;

use lith_frontend::Layout;
use lith_ir::{DType, Program};
use lith_models::checkpoint::OpenOptions;
use lith_models::config::ProblemType;
use lith_models::families::{self, Family, Traced, sentence::Stack};
use lith_models::weights::{Fresh, resolve};
use lith_models::{Checkpoint, Config, Head, HubEnv, LoadOptions, Loaded, Source, SourceOptions};
use lith_runtime::pipelines::{ModelInfo, Task};
use lith_runtime::tokenizer::{Assets, AutoTokenizer, TOKENIZER_FILES};

use crate::error::{Error, Result};

/// How a model is found and read.
#[derive(Clone, Debug, Default)]
pub struct ModelOptions {
    /// Revision, cache, token and so on.
    pub source: SourceOptions,
    /// Task by Transformers' name; else the one of the checkpoint's architecture.
    pub task: Option<String>,
    /// Weight file variant, such as `fp16`.
    pub variant: Option<String>,
    /// Overrides of the configuration, `key=value`.
    pub overrides: Vec<String>,
    /// Tensors left over are an error.
    pub strict: bool,
    /// Draw a head that the checkpoint lacks.
    pub fresh_head: bool,
    /// Draw head tensors whose shape differs.
    pub ignore_mismatched_sizes: bool,
    /// Trace padded `[batch, seq]` instead of padding-free `[tokens]`.
    pub padded: bool,
}

/// Files besides the tokenizer's that an artifact keeps.
const CONFIG_FILES: &[&str] = &[
    "config.json",
    "generation_config.json",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
];

/// A model whose weights are found but not read.
pub struct Model {
    /// The configuration with overrides.
    pub config: Config,
    /// What the model is used for, and what pipelines know of it.
    pub info: ModelInfo,
    /// The traced program.
    pub program: Program,
    /// What the user should know: renamed, left-over or drawn tensors, hub problems.
    pub warnings: Vec<String>,
    /// Files that go into an artifact: tokenizer and configuration.
    pub assets: Vec<(String, Vec<u8>)>,
    /// The files the model came from, for cache keys.
    pub files: Vec<PathBuf>,
    parts: Vec<LoadedPart>,
}

struct LoadedPart {
    prefix: String,
    loaded: Loaded,
}

/// What the files of a model say before its program is traced: enough for a cache key.
pub struct Opened {
    source: Source,
    transformer: Source,
    config: Config,
    stack: Option<Stack>,
    task: Task,
    options: ModelOptions,
}

impl Opened {
    /// Finds a model and reads its configuration.
    ///
    /// # Errors
    /// When there is no such model, its configuration is broken, or it does not serve the task.
    pub fn new(model: &str, options: &ModelOptions) -> Result<Opened> {
        let env = HubEnv::from_env();
        let path = crate::bundled::find(model)?;
        let name = path.as_deref().map_or(Cow::Borrowed(model), |p| p.to_string_lossy());
        let source = Source::open(&name, &options.source, &env).map_err(Error::input)?;
        let stack = match wants_stack(options)? {
            true => Stack::read(&source).map_err(Error::input)?,
            false => None,
        };
        let folder = stack.as_ref().map_or("", |s| s.transformer.as_str());
        let transformer = sub_source(&name, folder, options, &env)?;
        let mut config = Config::load(&transformer).map_err(Error::input)?;
        for assignment in &options.overrides {
            if !config.set(assignment).map_err(Error::input)? {
                return Err(Error::input(format!("--set {assignment}: `{}` has no such field", config.model_type())));
            }
        }
        let task = choose_task(&config, stack.is_some(), options)?;
        let stack = stack.filter(|_| task == Task::SentenceEmbedding);
        Ok(Opened { source, transformer, config, stack, task, options: options.clone() })
    }

    /// The model's task.
    pub fn task(&self) -> Task {
        self.task
    }

    /// What to call the model in messages.
    pub fn describe(&self) -> String {
        self.source.describe()
    }

    /// A file of the model: beside the transformer's configuration or, in a sentence stack, at the top.
    fn file(&self, name: &str) -> Result<Option<PathBuf>> {
        match self.transformer.optional(name).map_err(Error::input)? {
            Some(path) => Ok(Some(path)),
            None => self.source.optional(name).map_err(Error::input),
        }
    }

    /// The files of this list that the model has, by name, with their contents; `paths` gets to know where they are.
    fn read_files<'a>(
        &self,
        names: impl IntoIterator<Item = &'a &'a str>,
        paths: &mut Vec<PathBuf>,
    ) -> Result<Vec<(String, Vec<u8>)>> {
        let mut files = Vec::new();
        for name in names {
            if let Some(path) = self.file(name)? {
                files.push((name.to_string(), std::fs::read(&path).map_err(|e| Error::io(&path, e))?));
                paths.push(path);
            }
        }
        Ok(files)
    }

    /// The model's tokenizer.
    ///
    /// # Errors
    /// When its files are absent or broken.
    pub fn tokenizer(&self) -> Result<AutoTokenizer> {
        let files = self.read_files(TOKENIZER_FILES, &mut Vec::new())?;
        AutoTokenizer::from_assets(&ModelFiles { place: self.describe(), files }).map_err(Error::input)
    }

    fn checkpoint(&self, folder: &str) -> Result<Checkpoint> {
        let open = OpenOptions { variant: self.options.variant.clone(), ..OpenOptions::default() };
        let source = match folder {
            "" => return Checkpoint::open(&self.transformer, &open).map_err(Error::input),
            folder => Source::folder_at(self.source.folder().join(folder)),
        };
        // A module's folder of a hub repository is fetched file by file: naming its weights downloads them.
        for name in ["model.safetensors", "pytorch_model.bin"] {
            self.source.optional(&format!("{folder}/{name}")).map_err(Error::input)?;
        }
        Checkpoint::open(&source, &OpenOptions::default()).map_err(Error::input)
    }

    /// Traces the model, finds its weights and reads the files that go with it.
    ///
    /// # Errors
    /// When the architecture lacks the task's head, or weights are missing, misshaped or broken.
    pub fn load(self) -> Result<Model> {
        let layout = if self.options.padded { Layout::Padded } else { Layout::Packed };
        let body = self.checkpoint("")?;
        let family = Family::find(self.config.model_type());
        let traced = match (&self.stack, head_of(self.task)?) {
            (Some(stack), _) => families::sentence::trace(&self.config, stack, layout),
            (None, Head::Base) => {
                let pooler = family.is_some_and(|f| f.has_pooler(|name| body.tensor(name).is_some()));
                families::trace(&self.config, Head::Base, &families::Options { layout, pooler })
            }
            (None, head) => families::trace(&self.config, head, &families::Options { layout, pooler: false }),
        };
        let Traced { program, parts, max_length } = traced.map_err(Error::input)?;
        let mut warnings: Vec<String> = self.config.warnings().to_vec();
        warnings.extend(self.source.warnings().iter().cloned());
        let mut files: Vec<PathBuf> = body.files().map(PathBuf::from).collect();
        let mut body = Some(body);
        let load_options = LoadOptions {
            strict: self.options.strict,
            fresh_head: self.options.fresh_head.then(|| Fresh { seed: 0, std: self.initializer_range() }),
            ignore_mismatched_sizes: self.options.ignore_mismatched_sizes,
        };
        let mut loaded_parts = Vec::new();
        for part in parts {
            let checkpoint = match part.folder.as_str() {
                "" => match body.take() {
                    Some(checkpoint) => checkpoint,
                    None => self.checkpoint("")?,
                },
                folder => self.checkpoint(folder)?,
            };
            files.extend(checkpoint.files().map(PathBuf::from));
            let loaded = resolve(checkpoint, &part.wanted, &part.rules, &load_options).map_err(Error::input)?;
            if !loaded.report().is_clean() {
                warnings.push(loaded.report().to_string());
            }
            loaded_parts.push(LoadedPart { prefix: part.prefix, loaded });
        }
        let assets = self.read_files(CONFIG_FILES.iter().chain(TOKENIZER_FILES), &mut files)?;
        files.sort();
        files.dedup();
        let info = self.info(max_length)?;
        Ok(Model { config: self.config, info, program, warnings, assets, files, parts: loaded_parts })
    }

    fn initializer_range(&self) -> f64 {
        self.config.float("initializer_range").unwrap_or(0.02)
    }

    fn info(&self, max_length: usize) -> Result<ModelInfo> {
        let config = &self.config;
        let problem_type = config.problem_type().map(|p| match p {
            ProblemType::Regression => "regression",
            ProblemType::SingleLabelClassification => "single_label_classification",
            ProblemType::MultiLabelClassification => "multi_label_classification",
        });
        Ok(ModelInfo {
            task: self.task,
            model_type: config.model_type().into(),
            id2label: config.labels().iter().map(|(i, name)| (i, name.to_string())).collect::<BTreeMap<_, _>>(),
            label2id: config.labels().iter().map(|(i, name)| (name.to_string(), i)).collect(),
            problem_type: problem_type.map(String::from),
            max_positions: Some(max_length),
            max_seq_length: self.stack.as_ref().and_then(|s| s.max_seq_length),
            do_lower_case: self.stack.as_ref().is_some_and(|s| s.do_lower_case),
            has_token_types: config.value("type_vocab_size").as_u64().is_some_and(|n| n > 1),
            vocab_size: config.size("vocab_size").map_err(Error::input)?,
            hidden_size: config.size("hidden_size").map_err(Error::input)?,
        })
    }
}

/// Files in memory, for the tokenizer.
struct ModelFiles {
    place: String,
    files: Vec<(String, Vec<u8>)>,
}

impl Assets for ModelFiles {
    fn read(&self, name: &str) -> std::io::Result<Option<Cow<'_, [u8]>>> {
        let found = self.files.iter().find(|(known, _)| known == name);
        Ok(found.map(|(_, bytes)| Cow::Borrowed(bytes.as_slice())))
    }

    fn place(&self) -> String {
        self.place.clone()
    }
}

impl Model {
    /// Finds and loads a model.
    ///
    /// # Errors
    /// As [`Opened::new`] and [`Opened::load`].
    pub fn open(model: &str, options: &ModelOptions) -> Result<Model> {
        Opened::new(model, options)?.load()
    }

    /// A parameter's elements as little-endian bytes of `dtype`; borrowed from the mapped file where it is stored so.
    ///
    /// # Errors
    /// When the program has no such parameter or its data cannot be read.
    pub fn parameter(&self, name: &str, dtype: DType) -> Result<Cow<'_, [u8]>> {
        for part in &self.parts {
            let Some(local) = name.strip_prefix(part.prefix.as_str()) else { continue };
            if let Some(bytes) = part.loaded.bytes(local, dtype) {
                return bytes.map_err(Error::input);
            }
        }
        Err(Error::failure(format!("no parameter `{name}`")))
    }
}

fn wants_stack(options: &ModelOptions) -> Result<bool> {
    match &options.task {
        Some(task) => Ok(task.parse::<Task>().map_err(Error::input)? == Task::SentenceEmbedding),
        None => Ok(true),
    }
}

fn sub_source(model: &str, folder: &str, options: &ModelOptions, env: &HubEnv) -> Result<Source> {
    let mut source = options.source.clone();
    if !folder.is_empty() {
        let outer = source.subfolder.take().map(|s| format!("{}/", s.trim_end_matches('/'))).unwrap_or_default();
        source.subfolder = Some(format!("{outer}{folder}"));
    }
    Source::open(model, &source, env).map_err(Error::input)
}

/// The head that a task runs on.
fn head_of(task: Task) -> Result<Head> {
    Head::for_task(task.name()).ok_or_else(|| Error::failure(format!("no head for task {task}")))
}

/// The task asked for, else that of a sentence stack, else that of the architecture's head.
fn choose_task(config: &Config, has_stack: bool, options: &ModelOptions) -> Result<Task> {
    match &options.task {
        Some(name) => {
            let task: Task = name.parse().map_err(Error::input)?;
            if task == Task::SentenceEmbedding && !has_stack {
                return Err(Error::input(format!(
                    "{}: no modules.json beside it says how tokens become one vector; task feature-extraction gives the tokens' vectors",
                    config.file().display()
                )));
            }
            Ok(task)
        }
        None if has_stack => Ok(Task::SentenceEmbedding),
        None => config.head().unwrap_or(Head::Base).task().parse().map_err(Error::input),
    }
}
