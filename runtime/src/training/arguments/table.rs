//! The table of training arguments: one row each with name, type, default, effect and what it does. The struct, the
//! command line, JSON and TOML are all made from it. Names and defaults are those of Transformers 5.23. Must not know
//! what training does with them.

use serde_json::{Map, Value};

use super::value::{ArgumentKind, ArgumentValue, CountTokens, IntervalStrategy, SamplingStrategy, SaveStrategy, Steps};

/// What an argument is good for here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It does what it says.
    Full,
    /// Accepted, since nothing here is to be steered by it.
    None,
    /// A value other than the default is an error.
    Unsupported,
}

/// One argument.
#[derive(Clone, Copy)]
pub struct ArgumentSpec {
    /// Its name, as in Transformers; on the command line with dashes for underscores.
    pub name: &'static str,
    /// What its value looks like.
    pub kind: ArgumentKind,
    /// What it is good for.
    pub effect: Effect,
    help: &'static [&'static str],
    pub(super) get: fn(&TrainingArguments) -> Value,
    pub(super) set: fn(&mut TrainingArguments, &Value) -> bool,
}

impl ArgumentSpec {
    /// What it does.
    pub fn help(&self) -> String {
        self.help.concat().trim().to_string()
    }

    /// Its default.
    pub fn default(&self) -> Value {
        (self.get)(&TrainingArguments::default())
    }
}

macro_rules! arguments {
    ($($(#[doc = $doc:literal])+ $name:ident: $type:ty = $default:expr, $effect:ident;)+) => {
        /// The arguments of training, by Transformers' names and with its defaults. Rows of the same names in
        /// [`ARGUMENTS`] say more of each. Values are checked where training begins.
        #[derive(Debug, Clone, PartialEq)]
        pub struct TrainingArguments {
            $($(#[doc = $doc])+ pub $name: $type,)+
        }

        impl Default for TrainingArguments {
            fn default() -> Self {
                TrainingArguments { $($name: $default,)+ }
            }
        }

        /// All arguments of training. (TA-01 to TA-38)
        pub const ARGUMENTS: &[ArgumentSpec] = &[$(ArgumentSpec {
            name: stringify!($name),
            kind: <$type as ArgumentValue>::KIND,
            effect: Effect::$effect,
            help: &[$($doc),+],
            get: |arguments| arguments.$name.write(),
            set: |arguments, value| <$type>::read(value).map(|value| arguments.$name = value).is_some(),
        },)+];
    };
}

arguments! {
    /// Directory of checkpoints, the trained model and reports; made where it is not.
    output_dir: String = "trainer_output".into(), Full;
    /// Passes over the data; may be a fraction.
    num_train_epochs: f64 = 3.0, Full;
    /// Updates in all; above 0 goes before num_train_epochs. Needed for streams.
    max_steps: i64 = -1, Full;
    /// Examples of a batch in training.
    per_device_train_batch_size: usize = 8, Full;
    /// Examples of a batch in evaluation and prediction.
    per_device_eval_batch_size: usize = 8, Full;
    /// Highest learning rate; the schedule takes shares of it.
    learning_rate: f64 = 5e-5, Full;
    /// Batches of an update; their losses count as if they were one batch.
    gradient_accumulation_steps: usize = 1, Full;
    /// How the learning rate goes on.
    lr_scheduler_type: String = "linear".into(), Full;
    /// Options of the schedule.
    lr_scheduler_kwargs: Option<Map<String, Value>> = None, Full;
    /// Updates in which the learning rate rises; below 1 a share of all.
    warmup_steps: Steps = Steps(0.0), Full;
    /// The optimizer.
    optim: String = "adamw_torch_fused".into(), Full;
    /// Options of the optimizer: key=value, separated by commas.
    optim_args: Option<String> = None, Full;
    /// Modules that low-rank optimizers work on.
    optim_target_modules: Option<Vec<String>> = None, Unsupported;
    /// Weight decay, not of biases and norms.
    weight_decay: f64 = 0.0, Full;
    /// Adam's decay of the first moment.
    adam_beta1: f64 = 0.9, Full;
    /// Adam's decay of the second moment.
    adam_beta2: f64 = 0.999, Full;
    /// Adam's addend in the denominator.
    adam_epsilon: f64 = 1e-8, Full;
    /// Global norm that gradients are clipped to; 0 leaves them as they are.
    max_grad_norm: f64 = 1.0, Full;
    /// Seed of all that is random.
    seed: u64 = 42, Full;
    /// Seed of the data's order alone; without it that of all.
    data_seed: Option<u64> = None, Full;
    /// Runs are always reproducible bit for bit.
    full_determinism: bool = false, None;
    /// Compute in bfloat16, with weights and optimizer in f32.
    bf16: bool = false, Full;
    /// Compute in float16 with a dynamic loss scale.
    fp16: bool = false, Full;
    /// Evaluate in bfloat16.
    bf16_full_eval: bool = false, Full;
    /// Evaluate in float16.
    fp16_full_eval: bool = false, Full;
    /// Shortened products on NVIDIA hardware.
    tf32: Option<bool> = None, None;
    /// Compute activations again in the backward pass in place of keeping them: same loss, less memory.
    activation_checkpointing: Option<bool> = None, Full;
    /// Options of it: memory, how much of them may be kept.
    activation_checkpointing_kwargs: Option<Map<String, Value>> = None, Full;
    /// When losses are logged.
    logging_strategy: IntervalStrategy = IntervalStrategy::Steps, Full;
    /// Updates between logs; below 1 a share of all.
    logging_steps: Steps = Steps(500.0), Full;
    /// Log the first update too.
    logging_first_step: bool = false, Full;
    /// Leave losses out of the mean where a loss scale overflowed; any other loss that is no number ends training.
    logging_nan_inf_filter: bool = true, Full;
    /// When evaluation runs.
    eval_strategy: IntervalStrategy = IntervalStrategy::No, Full;
    /// Updates between evaluations; without it logging_steps; below 1 a share of all.
    eval_steps: Option<Steps> = None, Full;
    /// Updates or epochs before the first evaluation.
    eval_delay: f64 = 0.0, Full;
    /// Evaluate before the first update.
    eval_on_start: bool = false, Full;
    /// When checkpoints are saved.
    save_strategy: SaveStrategy = SaveStrategy::Steps, Full;
    /// Updates between checkpoints; below 1 a share of all.
    save_steps: Steps = Steps(500.0), Full;
    /// Checkpoints that are kept, beside the best; without it all.
    save_total_limit: Option<i64> = None, Full;
    /// Save weights without what resuming needs.
    save_only_model: bool = false, Full;
    /// End with the weights of the best evaluation.
    load_best_model_at_end: bool = false, Full;
    /// The metric that says which is best.
    metric_for_best_model: Option<String> = None, Full;
    /// Whether more of it is better; without it true unless its name ends in loss.
    greater_is_better: Option<bool> = None, Full;
    /// Services that are told of progress; logs are in trainer_state.json and the JSONL log.
    report_to: Vec<String> = vec!["none".into()], None;
    /// A name for the run, in reports.
    run_name: Option<String> = None, Full;
    /// A project of services that are told of progress.
    project: String = "huggingface".into(), None;
    /// Share of the target that is spread over all classes.
    label_smoothing_factor: f64 = 0.0, Full;
    /// Leave out columns that the model does not take.
    remove_unused_columns: bool = true, Full;
    /// Columns that are labels.
    label_names: Option<Vec<String>> = None, Full;
    /// Leave out the last batch when it is not full.
    dataloader_drop_last: bool = false, Full;
    /// Processes that read data; reading runs on all threads here.
    dataloader_num_workers: usize = 0, None;
    /// Memory that devices reach faster.
    dataloader_pin_memory: bool = true, None;
    /// Keep the processes between epochs.
    dataloader_persistent_workers: bool = false, None;
    /// Batches that are read ahead in each process.
    dataloader_prefetch_factor: Option<usize> = None, None;
    /// How processes are started.
    dataloader_multiprocessing_context: Option<String> = None, None;
    /// Batches come in order, whichever process is first.
    dataloader_in_order: bool = true, None;
    /// The order of examples.
    train_sampling_strategy: SamplingStrategy = SamplingStrategy::Random, Full;
    /// Column with lengths, for group_by_length.
    length_column_name: String = "length".into(), Full;
    /// Checkpoint to go on from.
    resume_from_checkpoint: Option<String> = None, Full;
    /// Begin the epoch of the checkpoint anew when resuming.
    ignore_data_skip: bool = false, Full;
    /// Callbacks take settings from the checkpoint, not from how they were made.
    restore_callback_states_from_checkpoint: bool = false, Full;
    /// Take smaller batches when memory does not suffice.
    auto_find_batch_size: bool = false, Full;
    /// Noise on embeddings in training.
    neftune_noise_alpha: Option<f64> = None, Unsupported;
    /// Count labels over all devices.
    average_tokens_across_devices: bool = true, None;
    /// Count input tokens in logs.
    include_num_input_tokens_seen: CountTokens = CountTokens::No, Full;
    /// Evaluate losses alone.
    prediction_loss_only: bool = false, Full;
    /// Batches after which predictions leave the device's memory.
    eval_accumulation_steps: Option<usize> = None, None;
    /// Metrics are computed batch by batch.
    batch_eval_metrics: bool = false, Unsupported;
    /// What metrics are given beside predictions and labels: inputs, loss.
    include_for_metrics: Vec<String> = Vec::new(), Full;
    /// Join the batches of an evaluation; they always are.
    eval_do_concat_batches: bool = true, None;
    /// Gather objects of any kind from devices.
    eval_use_gather_object: bool = false, None;
    /// Models are always compiled.
    torch_compile: bool = false, None;
    /// A compiler.
    torch_compile_backend: Option<String> = None, None;
    /// A compiler's mode.
    torch_compile_mode: Option<String> = None, None;
    /// Kernels are always fused.
    use_liger_kernel: bool = false, None;
    /// Which kernels are.
    liger_kernel_config: Option<Map<String, Value>> = None, None;
    /// Keep keys and values in training.
    use_cache: bool = false, None;
    /// Updates after which device memory is given back.
    torch_empty_cache_steps: Option<usize> = None, None;
    /// Train on the CPU.
    use_cpu: bool = false, None;
    /// Show no progress.
    disable_tqdm: Option<bool> = None, Full;
    /// How much is told.
    log_level: String = "passive".into(), None;
    /// How much is told by other processes.
    log_level_replica: String = "warning".into(), None;
    /// Tell it on each machine.
    log_on_each_node: bool = true, None;
    /// Upload the model to the hub.
    push_to_hub: bool = false, Unsupported;
    /// Its name there.
    hub_model_id: Option<String> = None, None;
    /// When it is uploaded.
    hub_strategy: String = "every_save".into(), None;
    /// Who uploads it.
    hub_token: Option<String> = None, None;
    /// Who may see it.
    hub_private_repo: Option<bool> = None, None;
    /// Upload though the last upload is not done.
    hub_always_push: bool = false, None;
    /// Its branch there.
    hub_revision: Option<String> = None, None;
    /// Options of data on several devices.
    accelerator_config: Option<Value> = None, None;
    /// How the model is spread over devices.
    parallelism_config: Option<Value> = None, Unsupported;
    /// Look for weights without gradients.
    ddp_find_unused_parameters: Option<bool> = None, None;
    /// Sizes of messages between devices.
    ddp_bucket_cap_mb: Option<usize> = None, None;
    /// Spread running statistics over devices.
    ddp_broadcast_buffers: Option<bool> = None, None;
    /// The graph is the same in each step; it always is.
    ddp_static_graph: Option<bool> = None, None;
    /// What carries messages between devices.
    ddp_backend: Option<String> = None, None;
    /// Seconds that devices wait for each other.
    ddp_timeout: i64 = 1800, None;
    /// Spread weights over devices.
    fsdp: Option<Value> = None, Unsupported;
    /// Options of it.
    fsdp_config: Option<Value> = None, None;
    /// Spread states over devices.
    deepspeed: Option<Value> = None, Unsupported;
    /// What is to be examined.
    debug: Value = Value::String(String::new()), None;
    /// Report no memory.
    skip_memory_metrics: bool = true, None;
    /// Save when a signal ends the process.
    enable_jit_checkpoint: bool = false, Unsupported;
    /// Save on each machine.
    save_on_each_node: bool = false, None;
    /// A service that is told of progress.
    trackio_space_id: Option<String> = None, None;
    /// A service that is told of progress.
    trackio_bucket_id: Option<String> = None, None;
    /// A service that is told of progress.
    trackio_static_space_id: Option<Value> = None, None;
    /// For scripts: whether to train.
    do_train: bool = false, None;
    /// For scripts: whether to evaluate.
    do_eval: bool = false, None;
    /// For scripts: whether to predict.
    do_predict: bool = false, None;
    /// Number of this process.
    local_rank: i64 = -1, None;
    /// Sort examples by length, loosely.
    sortish_sampler: bool = false, Unsupported;
    /// Generate texts in evaluation.
    predict_with_generate: bool = false, Unsupported;
    /// Most tokens of such texts.
    generation_max_length: Option<usize> = None, None;
    /// Beams of such texts.
    generation_num_beams: Option<usize> = None, None;
    /// Options of such texts.
    generation_config: Option<Value> = None, None;
}
