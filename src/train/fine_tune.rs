//! From a model and files of rows to a fine-tuned model: what labels there are decides the head, the program is compiled,
//! and the runtime trains.

use std::path::Path;
use std::sync::Arc;

use lith_models::adapters::{self, LoraConfig};
use lith_models::families::Training;
use lith_passes::train::Optimizer;
use lith_runtime::command::train::TrainCommand;
use lith_runtime::pipelines::Task;
use lith_runtime::program::Program;
use lith_runtime::training::arguments::TrainingArguments;
use lith_runtime::training::callbacks::Callback;
use lith_runtime::training::card::ModelCard;
use lith_runtime::training::checkpoint::{ModelFiles, parse_size};
use lith_runtime::training::compiled::{CompiledTraining, Hyperparameters};
use lith_runtime::training::data::{Labels, Target};
use lith_runtime::training::fine_tune::{Data, FineTuning, Outcome, name_of};
use serde_json::json;

use crate::compile::{CompileOptions, cached};
use crate::error::{Error, Result};
use crate::model::{Model, ModelOptions, Opened};

/// What is to be done.
pub struct Job {
    /// The model: a directory, hub id or bundled model.
    pub model: String,
    /// How it is found and read.
    pub from: ModelOptions,
    /// How it is compiled.
    pub compile: CompileOptions,
    /// Rows, arguments and so on.
    pub command: TrainCommand,
}

/// Trains a model further. `say` is told what is being done, `warn` what the user should know, callbacks what happens.
///
/// # Errors
/// When the model or the rows cannot be read, arguments are wrong, or training fails.
pub fn fine_tune(
    job: Job,
    say: &dyn Fn(&str),
    warn: &dyn Fn(&str),
    callbacks: Vec<Box<dyn Callback>>,
) -> Result<Outcome> {
    let Job { model, mut from, mut compile, command } = job;
    let TrainCommand { data: data_args, args, report, threads, .. } = command;
    say("reading the data");
    let data = Data::read(&data_args, args.seed).map_err(Error::input)?;
    say("reading the model");
    let opened = Opened::new(&model, &from)?;
    let task = match (opened.task(), &from.task) {
        // A body alone learns what most data is for.
        (task, None) if matches!(task.name(), "feature-extraction" | "sentence-embedding") => {
            "text-classification".parse::<Task>().map_err(Error::input)?
        }
        (task, _) => task,
    };
    from.task = Some(task.name().into());
    from.fresh_head = true;
    from.training = Some(Training { smoothing: args.label_smoothing_factor });
    if let Some(lora) = &mut from.lora {
        lora.seed = args.seed;
        lora.config.task_type = LoraConfig::task_type_of(task.name()).map(String::from);
        lora.config.base_model_name_or_path = Some(model.clone());
    }
    let target = data.target(task, &data_args).map_err(Error::input)?;
    let target = target.map(|target| head_for(target, &opened, &mut from)).transpose()?;
    compile.optimizer = optimizer(&args)?;
    let model_name = model;
    let opened = Opened::new(&model_name, &from)?;
    let tokenizer = Arc::new(opened.tokenizer()?);
    let model = opened.load()?;
    let files = files(&model)?;
    let info = model.info.clone();
    let names = model.adapted.as_ref().map(|adapted| adapted.trained.clone()).unwrap_or_default();
    let (path, warnings) = cached(model, &from, &compile, say)?;
    warnings.iter().for_each(|warning| warn(warning));
    let program = Program::open(&path, threads).map_err(Error::failure)?;
    let mut program = CompiledTraining::new(program, hyperparameters(&args, compile.optimizer))
        .map_err(Error::failure)?
        .named(&names);
    say("preparing the data");
    let card = ModelCard {
        name: name_of(Path::new(&args.output_dir)),
        base_model: Some(model_name),
        dataset: Some(data_args.train_files.join(", ")),
        task: Some(task.name().into()),
        ..ModelCard::default()
    };
    let (program, info) = (&mut program, &info);
    let tuning = FineTuning { program, info, tokenizer, data, data_args, args, target, files, card, report, callbacks };
    tuning.run().map_err(|e| if e.is_usage() { Error::input(e) } else { Error::failure(e) })
}

/// Gives the model the head that the target needs. A model that knows all labels keeps its own, in its order.
fn head_for(target: Target, opened: &Opened, from: &mut ModelOptions) -> Result<Target> {
    let config = opened.config();
    let problem = |target: &Target| format!("problem_type={}", target.problem_type());
    let names = match &target {
        Target::Single(labels) | Target::Multi(labels) => labels.names(),
        Target::Regression(outputs) => {
            from.overrides.push(format!("num_labels={outputs}"));
            from.overrides.push(problem(&target));
            from.ignore_mismatched_sizes = true;
            return Ok(target);
        }
    };
    if let (Target::Single(_), [only]) = (&target, names) {
        return Err(Error::input(format!("all labels are {only:?}: there is nothing to tell apart")));
    }
    let known: Vec<String> = config.labels().iter().map(|(_, name)| name.to_string()).collect();
    let has_head = config.head().is_some_and(|head| head.task() == from.task.as_deref().unwrap_or_default());
    let numbered = |i: usize| format!("LABEL_{i}");
    let plain = names.iter().enumerate().all(|(i, name)| *name == numbered(i));
    if has_head && (names.iter().all(|name| known.contains(name)) || plain && names.len() == known.len()) {
        let labels = Labels::new(known).map_err(Error::input)?;
        return Ok(match target {
            Target::Multi(_) => Target::Multi(labels),
            _ => Target::Single(labels),
        });
    }
    let id2label: serde_json::Map<String, serde_json::Value> =
        names.iter().enumerate().map(|(i, name)| (i.to_string(), json!(name))).collect();
    from.overrides.push(format!("num_labels={}", names.len()));
    from.overrides.push(format!("id2label={}", serde_json::Value::Object(id2label)));
    if !matches!(from.task.as_deref(), Some("token-classification")) {
        from.overrides.push(problem(&target));
    }
    from.ignore_mismatched_sizes = true;
    Ok(target)
}

/// The optimizer that `optim` names.
fn optimizer(args: &TrainingArguments) -> Result<Optimizer> {
    let nesterov = args.optimizer_options().iter().any(|(name, value)| name == "nesterov" && value != "false");
    match Optimizer::from_name(&args.optim) {
        Some(Optimizer::Sgd { .. }) => Ok(Optimizer::Sgd { nesterov }),
        Some(optimizer) => Ok(optimizer),
        None => {
            let known: Vec<&str> = Optimizer::NAMES.iter().map(|(name, _)| *name).collect();
            Err(Error::input(format!("optim: {:?} is none of {}", args.optim, known.join(", "))))
        }
    }
}

/// What the optimizer is told at every step.
fn hyperparameters(args: &TrainingArguments, optimizer: Optimizer) -> Hyperparameters {
    let option = |name: &str| {
        let found = args.optimizer_options().into_iter().find(|(n, _)| n == name);
        found.and_then(|(_, value)| value.parse::<f64>().ok())
    };
    let adam = (args.adam_beta1, args.adam_beta2, args.adam_epsilon);
    let (beta1, beta2, epsilon) = match optimizer {
        Optimizer::Sgd { .. } => (option("momentum").unwrap_or(0.0), 0.0, args.adam_epsilon),
        Optimizer::RmsProp => (0.0, option("alpha").unwrap_or(0.99), args.adam_epsilon),
        Optimizer::Adagrad => (args.adam_beta1, args.adam_beta2, option("eps").unwrap_or(1e-10)),
        Optimizer::AdamW | Optimizer::Adam | Optimizer::Adafactor | Optimizer::Lion => adam,
    };
    Hyperparameters { weight_decay: args.weight_decay, beta1, beta2, epsilon, max_grad_norm: args.max_grad_norm }
}

/// What the trained model consists of beside its weights: the configuration with its new head, the tokenizer.
fn files(model: &Model) -> Result<ModelFiles> {
    let mut config = model.config.clone();
    let architecture = config.architecture(crate::model::head_of(model.info.task)?);
    config.set(&format!("architectures={}", json!([architecture]))).map_err(Error::input)?;
    let mut companions = vec![("config.json".to_string(), config.to_json().into_bytes())];
    let kept = |name: &str| name != "config.json" && !name.contains('/') && !SENTENCE_FILES.contains(&name);
    companions.extend(model.assets.iter().filter(|(name, _)| kept(name)).cloned());
    let mut stem = ModelFiles::default().stem;
    if let Some(adapted) = &model.adapted {
        stem = adapters::WEIGHTS_STEM.into();
        companions.push((adapters::CONFIG_FILE.into(), adapted.config.to_json().into_bytes()));
    }
    let max_shard_size = parse_size("50GB").unwrap_or(u64::MAX);
    Ok(ModelFiles { companions, max_shard_size, stem })
}

/// What makes a checkpoint a sentence-transformers stack, which a model with another head is not.
const SENTENCE_FILES: [&str; 3] = ["modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"];
