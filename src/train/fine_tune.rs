//! From a model and files of rows to a fine-tuned model: what labels there are decides the head, the program is compiled,
//! and the runtime trains.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use lith_models::adapters::LoraConfig;
use lith_models::families::Training;
use lith_runtime::command::train::TrainCommand;
use lith_runtime::program::Program;
use lith_runtime::training::arguments::TrainingArguments;
use lith_runtime::training::callbacks::Callback;
use lith_runtime::training::card::ModelCard;
use lith_runtime::training::checkpoint::parse_size;
use lith_runtime::training::compiled::{CompiledTraining, Hyperparameters};
use lith_runtime::training::fine_tune::{Data, FineTuning, Outcome, check_task, name_of};

use super::files::{files, stored_as};
use super::head::{head_for, task_to_train};
use super::optimizer;
use crate::compile::{CompileOptions, cached};
use crate::error::{Error, Result};
use crate::model::{ModelOptions, Opened};

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
    /// Raised from outside to end training early, with a checkpoint.
    pub stop: Arc<AtomicBool>,
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
    let Job { model, mut from, mut compile, command, stop } = job;
    let TrainCommand { data: data_args, args, report, threads, .. } = command;
    say("reading the data");
    let data = Data::read(&data_args, args.seed).map_err(Error::input)?;
    say("reading the model");
    let opened = Opened::new(&model, &from)?;
    let task = task_to_train(&opened, &from)?;
    check_task(task).map_err(Error::input)?;
    from.task = Some(task.name().into());
    from.fresh_head = true;
    from.fresh_seed = args.seed;
    from.training = Some(Training { smoothing: args.label_smoothing_factor });
    if let Some(lora) = &mut from.lora {
        lora.seed = args.seed;
        lora.config.task_type = LoraConfig::task_type_of(task.name()).map(String::from);
        lora.config.base_model_name_or_path = Some(model.clone());
    }
    if task.name() == "question-answering" && opened.config().num_labels() != 2 {
        // Logits of an answer's start and end.
        from.overrides.push("num_labels=2".into());
        from.ignore_mismatched_sizes = true;
    }
    let target = data.target(task, &data_args).map_err(Error::input)?;
    let target = target.map(|target| head_for(target, &opened, &mut from)).transpose()?;
    compile.optimizer = optimizer(&args)?;
    compile.activation_memory = activation_memory(&args)?;
    let model_name = model;
    let opened = Opened::new(&model_name, &from)?;
    let tokenizer = Arc::new(opened.tokenizer()?);
    let model = opened.load()?;
    let files = files(&model, compile.storage)?;
    let info = model.info.clone();
    let stored = stored_as(&model);
    let (path, warnings) = cached(model, &from, &compile, say)?;
    warnings.iter().for_each(|warning| warn(warning));
    let program = Program::open(&path, threads).map_err(Error::failure)?;
    let program = CompiledTraining::new(program, Hyperparameters::of(&args)).map_err(Error::failure)?;
    let mut program = program.stored_as(&stored).map_err(Error::failure)?;
    say("preparing the data");
    let card = ModelCard {
        name: name_of(Path::new(&args.output_dir)),
        base_model: Some(model_name),
        dataset: Some(data_args.train_files.join(", ")),
        task: Some(task.name().into()),
        ..ModelCard::default()
    };
    let (program, info) = (&mut program, &info);
    let tuning =
        FineTuning { program, info, tokenizer, data, data_args, args, target, files, card, report, callbacks, stop };
    tuning.run().map_err(|e| if e.is_usage() { Error::input(e) } else { Error::failure(e) })
}

/// How many bytes activations may take: any number without `activation_checkpointing`; with it none but what its options
/// leave (`memory`, in bytes or as `500MB`). `use_reentrant` is torch's and says nothing here. (TA-15)
fn activation_memory(args: &TrainingArguments) -> Result<Option<u64>> {
    if args.activation_checkpointing != Some(true) {
        return Ok(None);
    }
    let mut budget = 0;
    for (name, value) in args.activation_checkpointing_kwargs.iter().flatten() {
        let size = || value.as_u64().or_else(|| parse_size(value.as_str()?));
        match (name.as_str(), size()) {
            ("use_reentrant", _) => {}
            ("memory", Some(bytes)) => budget = bytes,
            _ => {
                return Err(Error::input(format!(
                    "activation_checkpointing_kwargs: {name}={value}: there is memory, a size such as 500MB"
                )));
            }
        }
    }
    Ok(Some(budget))
}
