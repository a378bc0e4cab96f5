//! A model as it comes from a checkpoint: configuration, traced program, weights and the files that go with it. What
//! is compiled from it stands in `compile`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lith_frontend::{CacheType, Layout};
use lith_ir::Program;
use lith_models::adapters::{Adapted, Adapter, LoraConfig, Placed, is_adapter};
use lith_models::checkpoint::OpenOptions;
use lith_models::config::ProblemType;
use lith_models::families::{self, Family, Part, Traced, sentence::Stack};
use lith_models::gguf::{self, Gguf};
use lith_models::source::read_text;
use lith_models::weights::{Fresh, Piece, resolve};
use lith_models::{Checkpoint, Config, Head, HubEnv, LoadOptions, Source, SourceOptions};
use lith_runtime::pipelines::{ModelInfo, Task};
use lith_runtime::tokenizer::{Assets, AutoTokenizer, TOKENIZER_FILES};

use crate::error::{Error, Result};
use crate::weights::{FreshAdapters, GgufWeights, LoadedPart, Weights};

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
    /// Draw all weights: only the configuration and the tokenizer are read.
    pub from_scratch: bool,
    /// Seed of what is drawn.
    pub fresh_seed: u64,
    /// Draw head tensors whose shape differs.
    pub ignore_mismatched_sizes: bool,
    /// Trace padded `[batch, seq]` instead of padding-free `[tokens]`.
    pub padded: bool,
    /// The key/value cache of a language model.
    pub cache: CacheType,
    /// Trace what training makes small instead of what answers.
    pub training: Option<families::Training>,
    /// A folder or hub id of an adapter that is merged into the weights.
    pub adapter: Option<String>,
    /// Adapters to be trained beside the weights.
    pub lora: Option<Lora>,
}

/// Adapters to be trained.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    /// Which, and how.
    pub config: LoraConfig,
    /// Seed of their first values.
    pub seed: u64,
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
    /// The values of its parameters.
    pub weights: Weights,
    /// Whether it was traced to be trained.
    pub training: bool,
    /// What of it learns, where adapters do.
    pub adapted: Option<Adapted>,
    /// Parameters that checkpoints hold otherwise, with how.
    pub pieces: BTreeMap<String, Piece>,
}

/// What the files of a model say before its program is traced: enough for a cache key.
pub struct Opened {
    origin: Origin,
    config: Config,
    task: Task,
    options: ModelOptions,
    /// The adapter, and the file that told its labels.
    adapter: Option<(Adapter, Option<PathBuf>)>,
}

/// The files of a model.
enum Origin {
    /// A directory or repository as Transformers writes them.
    Files {
        source: Source,
        /// Where the transformer of a sentence stack is; else the same place.
        transformer: Source,
        stack: Option<Stack>,
    },
    /// A GGUF file, which has everything.
    Gguf(Gguf),
}

impl Opened {
    /// Finds a model and reads its configuration.
    ///
    /// # Errors
    /// When there is no such model, its configuration is broken, or it does not serve the task.
    pub fn new(model: &str, options: &ModelOptions) -> Result<Opened> {
        let mut options = options.clone();
        let path = crate::bundled::find(model)?;
        let name = path.as_deref().map_or(Cow::Borrowed(model), |p| p.to_string_lossy());
        let env = HubEnv::from_env();
        let single = Path::new(&*name);
        let (origin, mut config) = if single.is_file() && gguf::is_gguf(&name) {
            open_gguf(single)?
        } else {
            let source = Source::open(&name, &options.source, &env).map_err(Error::input)?;
            match gguf::find(&source).map_err(Error::input)? {
                Some(file) => open_gguf(&file)?,
                None => open_files(source, &name, &options, &env)?,
            }
        };
        let adapter = match options.adapter.as_deref() {
            None => None,
            Some(name) => {
                let source = adapter_source(name, &options, &env)?;
                let adapter = Adapter::open(&source).map_err(Error::input)?;
                // What trained the adapter may have left the labels that it tells apart.
                let labels = set_labels(&mut config, &source)?;
                options.task = options.task.or_else(|| adapter.config().task().map(String::from));
                Some((adapter, labels))
            }
        };
        for assignment in &options.overrides {
            if !config.set(assignment).map_err(Error::input)? {
                return Err(Error::input(format!("--set {assignment}: `{}` has no such field", config.model_type())));
            }
        }
        let has_stack = matches!(origin, Origin::Files { stack: Some(_), .. });
        let task = choose_task(&config, has_stack, &options)?;
        Ok(Opened { origin, config, task, options, adapter })
    }

    /// The model's task.
    pub fn task(&self) -> Task {
        self.task
    }

    /// Its configuration, with overrides.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What to call the model in messages.
    pub fn describe(&self) -> String {
        match &self.origin {
            Origin::Files { source, .. } => source.describe(),
            Origin::Gguf(gguf) => gguf.path().display().to_string(),
        }
    }

    /// The sentence-transformers stack, where the task is its.
    fn stack(&self) -> Option<&Stack> {
        match &self.origin {
            Origin::Files { stack, .. } => stack.as_ref().filter(|_| self.task == Task::SentenceEmbedding),
            Origin::Gguf(_) => None,
        }
    }

    /// The files of this list that the model has, by name, with their contents; `paths` gets to know where they are. A
    /// file of a sentence stack is beside the transformer's configuration or at the top.
    fn read_files<'a>(
        &self,
        names: impl IntoIterator<Item = &'a &'a str>,
        paths: &mut Vec<PathBuf>,
    ) -> Result<Vec<(String, Vec<u8>)>> {
        let (source, transformer) = match &self.origin {
            Origin::Files { source, transformer, .. } => (source, transformer),
            Origin::Gguf(gguf) => {
                let config = serde_json::to_vec(&gguf.config().map_err(Error::input)?).map_err(Error::failure)?;
                let mut files = gguf.tokenizer_files().map_err(Error::input)?;
                files.push(("config.json".into(), config));
                let wanted: Vec<&str> = names.into_iter().copied().collect();
                files.retain(|(name, _)| wanted.contains(&name.as_str()));
                return Ok(files);
            }
        };
        let mut files = Vec::new();
        for name in names {
            let found = match transformer.optional(name).map_err(Error::input)? {
                Some(path) => Some(path),
                None => source.optional(name).map_err(Error::input)?,
            };
            if let Some(path) = found {
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

    /// Traces the model, finds its weights and reads the files that go with it.
    ///
    /// # Errors
    /// When the architecture lacks the task's head, or weights are missing, misshaped or broken.
    pub fn load(self) -> Result<Model> {
        let mut files = Vec::new();
        let assets = self.read_files(CONFIG_FILES.iter().chain(TOKENIZER_FILES), &mut files)?;
        let mut warnings: Vec<String> = self.config.warnings().to_vec();
        let head = head_of(self.task)?;
        let layout = match (head, self.options.padded) {
            (_, true) => Layout::Padded,
            _ if self.options.training.is_some() => Layout::Packed,
            (Head::CausalLm, false) => Layout::Paged(self.options.cache),
            (_, false) => Layout::Packed,
        };
        let body = match &self.origin {
            Origin::Files { transformer, .. } => Some(checkpoint(transformer, transformer, &self.options, "")?),
            Origin::Gguf(_) => None,
        };
        let family = Family::find(self.config.model_type());
        let traced = match (self.stack(), head) {
            (Some(stack), _) => families::sentence::trace(&self.config, stack, layout),
            (None, head) => {
                let stored = |name: &str| body.as_ref().is_none_or(|b| b.tensor(name).is_some());
                let pooler = head == Head::Base && family.is_some_and(|f| f.has_pooler(stored));
                let lora = self.options.lora.as_ref().map(|lora| &lora.config);
                let options = families::Options { layout, pooler, training: self.options.training, lora };
                families::trace(&self.config, head, &options)
            }
        };
        let Traced { program, mut parts, max_length, adapted } = traced.map_err(Error::input)?;
        let info = self.info(max_length)?;
        let Opened { origin, config, options, adapter, .. } = self;
        let wanted = parts.iter().flat_map(|part| &part.wanted);
        let pieces: BTreeMap<String, Piece> =
            wanted.filter_map(|parameter| Some((parameter.name.clone(), parameter.piece.clone()?))).collect();
        let placed = match adapter {
            Some((adapter, labels)) => {
                files.extend(labels);
                Some(place(adapter, &mut parts, head)?)
            }
            None => None,
        };
        let mut weights = match (origin, body) {
            (Origin::Gguf(_), _) if options.from_scratch => {
                return Err(Error::input("a GGUF file is not trained from scratch: it is its weights"));
            }
            (Origin::Gguf(gguf), _) => {
                let wanted = parts.into_iter().flat_map(|part| part.wanted).collect::<Vec<_>>();
                let weights = GgufWeights::resolve(gguf, &wanted, options.strict)?;
                files.extend(weights.files());
                warnings.extend(weights.warning());
                Weights::Gguf(weights)
            }
            (Origin::Files { source, transformer, .. }, body) => {
                warnings.extend(source.warnings().iter().cloned());
                let fresh = Fresh { seed: options.fresh_seed, std: initializer_range(&config) };
                let load_options = LoadOptions {
                    strict: options.strict,
                    fresh_head: options.fresh_head.then_some(fresh),
                    fresh_body: options.from_scratch,
                    ignore_mismatched_sizes: options.ignore_mismatched_sizes,
                };
                let mut body = body;
                let mut loaded_parts = Vec::new();
                for part in parts {
                    let checkpoint = match (part.folder.as_str(), body.take()) {
                        ("", Some(checkpoint)) => checkpoint,
                        (folder, kept) => {
                            body = kept;
                            checkpoint(&source, &transformer, &options, folder)?
                        }
                    };
                    files.extend(checkpoint.files().map(PathBuf::from));
                    let loaded = resolve(checkpoint, &part.wanted, &part.rules, &load_options).map_err(Error::input)?;
                    if !options.from_scratch && !loaded.report().is_clean() {
                        warnings.push(loaded.report().to_string());
                    }
                    loaded_parts.push(LoadedPart { prefix: part.prefix, loaded });
                }
                Weights::Checkpoints(loaded_parts)
            }
        };
        if let Some(placed) = placed {
            files.extend(placed.adapter().files().map(PathBuf::from));
            warnings.extend(placed.adapter().config().warnings.iter().cloned());
            if matches!(weights, Weights::Gguf(_)) {
                warnings.push("weights that the adapter changes are no longer stored as the file has them".into());
            }
            weights = Weights::Merged(Box::new(weights), Box::new(placed));
        }
        if let Some(lora) = &options.lora {
            let factors = program.params.iter().filter(|(name, _)| is_adapter(name));
            let shapes = factors.filter_map(|(name, ty)| Some((name.clone(), ty.static_shape()?))).collect();
            let fresh = Fresh { seed: lora.seed, std: initializer_range(&config) };
            weights = Weights::Adapted(Box::new(weights), FreshAdapters { fresh, shapes, pieces: pieces.clone() });
        }
        files.sort();
        files.dedup();
        let training = options.training.is_some();
        Ok(Model { config, info, program, warnings, assets, files, weights, training, adapted, pieces })
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
            max_seq_length: self.stack().and_then(|s| s.max_seq_length),
            do_lower_case: self.stack().is_some_and(|s| s.do_lower_case),
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
}

/// The folder or repository of an adapter.
fn adapter_source(name: &str, options: &ModelOptions, env: &HubEnv) -> Result<Source> {
    // Revision and folder are the model's.
    let source = SourceOptions { revision: None, subfolder: None, ..options.source.clone() };
    Source::open(name, &source, env).map_err(Error::input)
}

/// Gives a model the labels of the configuration beside an adapter, if there is one, and tells where it is.
fn set_labels(config: &mut Config, adapter: &Source) -> Result<Option<PathBuf>> {
    let Some(file) = adapter.config_file().map_err(Error::input)? else { return Ok(None) };
    let text = read_text(&file, 1 << 24).map_err(Error::input)?;
    let wrong = |e: serde_json::Error| Error::input(format!("{}: {e}", file.display()));
    let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).map_err(wrong)?;
    let told = ["id2label", "problem_type"].iter().filter_map(|name| Some((name, fields.get(*name)?)));
    let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), String::from);
    for (name, value) in told.filter(|(_, value)| !value.is_null()) {
        config.set(&format!("{name}={}", text(value))).map_err(Error::input)?;
    }
    Ok(Some(file))
}

/// Finds the place of an adapter's tensors in a model; what it replaces is not wanted of the model's files any more.
fn place(adapter: Adapter, parts: &mut [Part], head: Head) -> Result<Placed> {
    let placed = adapter.place(parts, head).map_err(Error::input)?;
    for part in parts {
        let prefix = part.prefix.clone();
        part.wanted.retain(|wanted| !placed.replaces(&format!("{prefix}{}", wanted.name)));
    }
    Ok(placed)
}

/// The spread of freshly drawn heads.
fn initializer_range(config: &Config) -> f64 {
    config.float("initializer_range").unwrap_or(0.02)
}

/// The checkpoint in a folder of a model: of the transformer, or of another module of a sentence stack.
fn checkpoint(source: &Source, transformer: &Source, options: &ModelOptions, folder: &str) -> Result<Checkpoint> {
    if options.from_scratch {
        return Ok(Checkpoint::empty(transformer.folder().join(folder).display().to_string()));
    }
    let open = OpenOptions { variant: options.variant.clone(), ..OpenOptions::default() };
    let source = match folder {
        "" => return Checkpoint::open(transformer, &open).map_err(Error::input),
        folder => {
            // A module's folder of a hub repository is fetched file by file: naming its weights downloads them.
            for name in ["model.safetensors", "pytorch_model.bin"] {
                source.optional(&format!("{folder}/{name}")).map_err(Error::input)?;
            }
            Source::folder_at(source.folder().join(folder))
        }
    };
    Checkpoint::open(&source, &OpenOptions::default()).map_err(Error::input)
}

fn open_gguf(file: &Path) -> Result<(Origin, Config)> {
    let gguf = Gguf::open(file).map_err(Error::input)?;
    let fields = gguf.config().map_err(Error::input)?;
    let config = Config::from_map(fields, file).map_err(Error::input)?;
    Ok((Origin::Gguf(gguf), config))
}

fn open_files(source: Source, name: &str, options: &ModelOptions, env: &HubEnv) -> Result<(Origin, Config)> {
    let stack = match wants_stack(options)? {
        true => Stack::read(&source).map_err(Error::input)?,
        false => None,
    };
    let folder = stack.as_ref().map_or("", |s| s.transformer.as_str());
    let transformer = sub_source(name, folder, options, env)?;
    let config = Config::load(&transformer).map_err(Error::input)?;
    Ok((Origin::Files { source, transformer, stack }, config))
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
pub(crate) fn head_of(task: Task) -> Result<Head> {
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
