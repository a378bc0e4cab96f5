use serde_json::{Map, Value, json};

use super::*;

fn arguments(values: Value) -> Result<(TrainingArguments, Vec<String>), ArgumentError> {
    let mut arguments = TrainingArguments::default();
    let mut messages = arguments.set_all(values.as_object().unwrap())?;
    let (arguments, notes) = arguments.checked()?;
    messages.extend(notes);
    Ok((arguments, messages))
}

fn problem(values: Value) -> String {
    arguments(values).unwrap_err().to_string()
}

/// TA-01 to TA-38: names and defaults are those of `Seq2SeqTrainingArguments` of Transformers 5.23, but for those that
/// stand for something else there: no directory, deprecated names, a list of one and a list written as a text.
#[test]
fn ta_01_to_38_names_and_defaults() {
    let upstream: Map<String, Value> = serde_json::from_str(include_str!("defaults.json")).unwrap();
    for (name, default) in &upstream {
        if ["gradient_checkpointing", "gradient_checkpointing_kwargs"].contains(&name.as_str()) {
            assert!(removed::names().any(|old| old == name));
            continue;
        }
        let spec = argument_named(name).unwrap_or_else(|| panic!("no argument {name}"));
        let expected = match name.as_str() {
            "output_dir" => json!("trainer_output"),
            "report_to" => json!(["none"]),
            _ => default.clone(),
        };
        let found = spec.default();
        let equal = found == expected || found.as_f64().is_some_and(|n| Some(n) == expected.as_f64());
        assert!(equal, "{name}: {found}, upstream {expected}");
        assert!(spec.help().ends_with('.') && spec.help().len() < 120, "{name}: {}", spec.help());
    }
    let extra: Vec<_> = ARGUMENTS.iter().filter(|spec| !upstream.contains_key(spec.name)).map(|s| s.name).collect();
    assert_eq!(extra, [""; 0]);
}

/// TA-40: JSON and TOML round trips; objects may be texts that hold one.
#[test]
fn ta_40_round_trips() {
    let (given, _) = arguments(json!({
        "learning_rate": 1e-3, "num_train_epochs": 2, "warmup_steps": 0.1, "lr_scheduler_type": "polynomial",
        "lr_scheduler_kwargs": "{\"power\": 2.0}", "eval_strategy": "steps", "logging_steps": 10.0,
        "save_strategy": "no", "include_for_metrics": ["loss"], "seed": 18446744073709551615u64, "hub_token": "secret",
    }))
    .unwrap();
    assert_eq!(given.lr_scheduler_kwargs.as_ref().unwrap()["power"], json!(2.0));
    let text = serde_json::to_string(&given.to_json()).unwrap();
    assert!(!text.contains("secret"));
    assert!(text.contains("\"logging_steps\":10,"), "{text}");
    let mut read = TrainingArguments::default();
    assert_eq!(read.set_file("training_args.json", &text), Ok(vec![]));
    read.hub_token = given.hub_token.clone();
    assert_eq!(read, given);

    let mut toml = TrainingArguments::default();
    let text = "learning_rate = 1e-3\nnum_train_epochs = 2\nbf16 = true\n[lr_scheduler_kwargs]\npower = 2.0\n";
    toml.set_file("run.toml", text).unwrap();
    assert_eq!((toml.learning_rate, toml.num_train_epochs, toml.bf16), (1e-3, 2.0, true));
    assert!(toml.set_file("run.toml", "a = [").unwrap_err().to_string().starts_with("run.toml: "));
    assert!(toml.set_file("run.json", "{").unwrap_err().to_string().starts_with("run.json: "));
}

/// Texts of a command line: switches, negations, lists, numbers.
#[test]
fn texts() {
    let mut given = TrainingArguments::default();
    for (name, text) in [
        ("max-steps", "-1"),
        ("bf16", "true"),
        ("no_remove_unused_columns", "true"),
        ("save_total_limit", "2"),
        ("label_names", "labels, start"),
        ("eval-steps", "0.25"),
        ("metric_for_best_model", "none"),
        ("lr_scheduler_kwargs", r#"{"num_cycles": 2}"#),
    ] {
        assert_eq!(given.set_text(name, text), Ok(None), "{name}");
    }
    assert_eq!((given.max_steps, given.bf16, given.remove_unused_columns), (-1, true, false));
    assert_eq!(given.label_names, Some(vec!["labels".to_string(), "start".to_string()]));
    assert_eq!((given.eval_steps, given.save_total_limit), (Some(Steps(0.25)), Some(2)));
    for (name, text) in [("max_steps", "ten"), ("bf16", "maybe"), ("eval_steps", "1.5"), ("save_strategy", "now")] {
        let message = given.set_text(name, text).unwrap_err().to_string();
        assert!(message.contains(name) && message.contains("expected"), "{message}");
    }
}

/// TA-39: removed names do what they are called now, and say so; what never was is an error with a hint.
#[test]
fn ta_39_removed_names() {
    let (given, messages) = arguments(json!({
        "warmup_ratio": 0.1, "evaluation_strategy": "epoch", "adafactor": true, "group_by_length": true,
        "per_gpu_train_batch_size": 4, "gradient_checkpointing": true, "overwrite_output_dir": true,
    }))
    .unwrap();
    assert_eq!(given.warmup_steps, Steps(0.1));
    assert_eq!(given.warmup(95), 10);
    assert_eq!((given.eval_strategy, given.optim.as_str()), (IntervalStrategy::Epoch, "adafactor"));
    assert_eq!(given.train_sampling_strategy, SamplingStrategy::GroupByLength);
    assert_eq!((given.per_device_train_batch_size, given.activation_checkpointing), (4, Some(true)));
    assert_eq!(messages.len(), 7);
    assert!(messages[0].contains("warmup_ratio") && messages[0].contains("warmup_steps"));
    assert!(problem(json!({"learning_rat": 1})).contains("did you mean learning_rate"));
    assert!(!problem(json!({"zzzzzzzz": 1})).contains("did you mean"));
}

/// What follows from what is given. (TA-17, TA-19)
#[test]
fn derived() {
    let (given, _) = arguments(json!({
        "eval_strategy": "steps", "logging_steps": 20, "save_steps": 40, "load_best_model_at_end": true,
    }))
    .unwrap();
    assert_eq!(given.eval_steps, Some(Steps(20.0)));
    assert_eq!((given.metric_for_best_model.as_deref(), given.greater_is_better), (Some("loss"), Some(false)));
    let (given, _) = arguments(json!({"metric_for_best_model": "eval_f1"})).unwrap();
    assert_eq!(given.greater_is_better, Some(true));
    let (given, notes) = arguments(json!({"include_num_input_tokens_seen": true, "use_cpu": true})).unwrap();
    assert_eq!(given.include_num_input_tokens_seen, CountTokens::All);
    assert_eq!(notes, ["training argument use_cpu has no effect here"]);
    assert_eq!((Steps(0.1).of(25), Steps(7.0).of(25), Steps(0.0).of(25)), (3, 7, 0));
}

/// TI-02: contradictions are errors before training.
#[test]
fn ti_02_contradictions() {
    for (values, part) in [
        (json!({"fp16": true, "bf16": true}), "exclude"),
        (json!({"dataloader_prefetch_factor": 2}), "dataloader_num_workers"),
        (json!({"load_best_model_at_end": true}), "to be equal"),
        (json!({"load_best_model_at_end": true, "save_strategy": "no"}), "needs evaluations"),
        (
            json!({"load_best_model_at_end": true, "eval_strategy": "steps", "eval_steps": 30, "save_steps": 50}),
            "multiple",
        ),
        (
            json!({"load_best_model_at_end": true, "eval_strategy": "steps", "eval_steps": 0.1, "save_steps": 50}),
            "multiple",
        ),
        (json!({"save_strategy": "best", "eval_strategy": "epoch"}), "metric_for_best_model"),
        (json!({"save_strategy": "best", "metric_for_best_model": "f1"}), "needs evaluations"),
        (json!({"lr_scheduler_type": "reduce_lr_on_plateau"}), "eval_strategy"),
        (json!({"logging_steps": 0}), "above 0"),
        (json!({"logging_steps": 1.5}), "expected"),
        (json!({"warmup_steps": -1}), "expected"),
        (json!({"per_device_train_batch_size": 0}), "at least 1"),
        (json!({"gradient_accumulation_steps": 0}), "at least 1"),
        (json!({"learning_rate": -1.0}), "at least 0"),
        (json!({"adam_beta2": 1.0}), "below 1"),
        (json!({"num_train_epochs": 0}), "above 0"),
        (json!({"optim": "adamw"}), "adamw_torch, "),
        (json!({"optim": "adamw_torch_xla"}), "hardware"),
        (json!({"optim_args": "momentum"}), "key=value"),
        (json!({"lr_scheduler_type": "liner"}), "warmup_stable_decay"),
        (json!({"lr_scheduler_kwargs": {"power": 1}}), "no option"),
        (json!({"include_for_metrics": ["logits"]}), "inputs or loss"),
        (json!({"deepspeed": {"stage": 2}}), "not supported"),
        (json!({"save_total_limit": "two"}), "expected"),
    ] {
        let message = problem(values.clone());
        assert!(message.contains(part), "{values}: {message}");
    }
    let shares =
        json!({"load_best_model_at_end": true, "eval_strategy": "steps", "eval_steps": 0.1, "save_steps": 0.3});
    assert!(arguments(shares).is_ok());
}
