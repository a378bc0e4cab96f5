//! Names that older releases of Transformers had and what they are called now (TA-39): accepted, with a word to the user.

use serde_json::{Value, json};

/// What becomes of an old name.
enum Now {
    /// The same under another name.
    Name(&'static str),
    /// `true` is this value of another argument; `false` is nothing.
    Set(&'static str, &'static str),
    /// Of no meaning any more.
    Nothing(&'static str),
}

use Now::{Name, Nothing, Set};

const REMOVED: &[(&str, Now)] = &[
    ("warmup_ratio", Name("warmup_steps")),
    ("evaluation_strategy", Name("eval_strategy")),
    ("evaluate_during_training", Set("eval_strategy", "steps")),
    ("gradient_checkpointing", Name("activation_checkpointing")),
    ("gradient_checkpointing_kwargs", Name("activation_checkpointing_kwargs")),
    ("group_by_length", Set("train_sampling_strategy", "group_by_length")),
    ("per_gpu_train_batch_size", Name("per_device_train_batch_size")),
    ("per_gpu_eval_batch_size", Name("per_device_eval_batch_size")),
    ("adafactor", Set("optim", "adafactor")),
    ("no_cuda", Name("use_cpu")),
    ("push_to_hub_model_id", Name("hub_model_id")),
    ("push_to_hub_token", Name("hub_token")),
    ("push_to_hub_organization", Nothing("hub_model_id names the organization too")),
    ("include_tokens_per_second", Nothing("tokens are counted with include_num_input_tokens_seen")),
    ("include_inputs_for_metrics", Set("include_for_metrics", "inputs")),
    ("logging_dir", Nothing("logs are in output_dir")),
    ("overwrite_output_dir", Nothing("checkpoints of equal names are replaced")),
    ("save_safetensors", Nothing("weights are always safetensors")),
    ("fp16_backend", Nothing("fp16 needs no backend")),
    ("half_precision_backend", Nothing("fp16 and bf16 need no backend")),
    ("fp16_opt_level", Nothing("fp16 has one level")),
    ("tpu_num_cores", Nothing("there are no TPUs here")),
    ("tpu_metrics_debug", Nothing("there are no TPUs here")),
    ("use_mps_device", Nothing("devices are chosen when compiling")),
    ("use_ipex", Nothing("models are always compiled")),
    ("jit_mode_eval", Nothing("models are always compiled")),
    ("torchdynamo", Nothing("models are always compiled")),
    ("past_index", Nothing("no model here needs it")),
    ("ray_scope", Nothing("there is no search over runs")),
    ("mp_parameters", Nothing("models are on one device")),
    ("dispatch_batches", Nothing("there is one device")),
    ("split_batches", Nothing("there is one device")),
    ("fsdp_min_num_params", Nothing("models are on one device")),
    ("fsdp_transformer_layer_cls_to_wrap", Nothing("models are on one device")),
];

/// Every name that was removed.
pub fn names() -> impl Iterator<Item = &'static str> {
    REMOVED.iter().map(|(name, _)| *name)
}

/// What an old name and its value mean now, as an argument with its value, and what to tell the user; `None` for names
/// that were never removed.
pub(super) fn replacement(name: &str, value: &Value) -> Option<(Option<(&'static str, Value)>, String)> {
    let (_, now) = REMOVED.iter().find(|(old, _)| *old == name)?;
    Some(match now {
        Name(new) => (Some((new, value.clone())), format!("training argument {name} is now called {new}")),
        Set(new, word) => {
            let given = (value == &Value::Bool(true)).then(|| (*new, json!(word)));
            (given, format!("training argument {name} is gone; use {new}={word}"))
        }
        Nothing(reason) => (None, format!("training argument {name} is gone and has no effect: {reason}")),
    })
}
