//! Checkpoints: what is in them, resuming, and what is refused.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::tempdir;

use super::mock::*;
use crate::training::callbacks::EarlyStopping;
use crate::training::state::TrainerState;
use crate::training::trainer::{Resume, Trainer};

/// A log without what clocks decide.
fn timeless(state: &TrainerState) -> Vec<Value> {
    let timed = |key: &str| key.ends_with("_runtime") || key.ends_with("_per_second");
    let line = |line: &serde_json::Map<String, Value>| line.clone().into_iter().filter(|(k, _)| !timed(k)).collect();
    state.log_history.iter().map(|l| Value::Object(line(l))).collect()
}

/// EC-20, EC-21, EC-22: a run resumed after any update, in the middle of an epoch or a logging interval or at the end of
/// either, ends with the bits of the uninterrupted one: weights, moments, log, metrics, best checkpoint.
#[test]
fn ec_22_resumed_runs_are_exact() {
    let settings = [
        json!({"gradient_accumulation_steps": 1}),
        json!({"gradient_accumulation_steps": 3, "train_sampling_strategy": "group_by_length"}),
        json!({"dataloader_drop_last": true, "lr_scheduler_type": "cosine_with_restarts"}),
        json!({"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"patience": 0}}),
        json!({"lr_scheduler_type": "greedy", "lr_scheduler_kwargs": {"patience": 0, "smooth": true, "min_lr": 1e-5}}),
        json!({"num_train_epochs": 2.5, "logging_strategy": "epoch", "eval_strategy": "epoch"}),
        json!({"max_steps": 13, "fp16": true, "logging_steps": 5}),
    ];
    for setting in settings {
        let folder = tempdir().unwrap();
        let mut values = json!({
            "per_device_train_batch_size": 4, "logging_steps": 3, "save_steps": 1, "eval_strategy": "steps",
            "eval_steps": 4, "metric_for_best_model": "loss", "num_train_epochs": 3,
        });
        values.as_object_mut().unwrap().extend(setting.as_object().unwrap().clone());
        let run = |resume: &Resume| {
            let mut program = Linear { skips: vec![3], ..Linear::dropping(0.2) };
            if resume != &Resume::No || values.get("fp16").is_none() {
                program.skips.clear();
            }
            let mut given = parts(&mut program, folder.path(), values.clone(), 23);
            given.callbacks.push(Box::new(EarlyStopping::new(50, 0.0)));
            let mut trainer = made(given);
            let output = trainer.train(resume).unwrap();
            let mut state = trainer.state().clone();
            let log = timeless(&state);
            state.log_history.clear();
            drop(trainer);
            (program.all(), state, log, output.training_loss, output.global_step)
        };
        let whole = run(&Resume::No);
        assert!(whole.4 > 5, "{setting}");
        // The third update was left out in the run with a loss scale; resumed runs begin after it.
        let first = if values.get("fp16").is_some() { 3 } else { 1 };
        for step in first..=whole.4 {
            let checkpoint = folder.path().join(format!("checkpoint-{step}"));
            let resumed = run(&Resume::From(checkpoint));
            assert_eq!(resumed, whole, "{setting} after {step}");
        }
        assert_eq!(run(&Resume::Last), whole);
    }
}

/// EC-11, EC-13, EX-03: the files of a checkpoint; the weights can be read by others; `save_only_model` leaves out what
/// only resuming needs.
#[test]
fn ec_11_files_of_a_checkpoint() {
    let folder = tempdir().unwrap();
    let mut program = Linear::new();
    let mut given = parts(&mut program, folder.path(), json!({"max_steps": 2, "save_steps": 1}), 16);
    given.files.companions =
        vec![("config.json".into(), b"{}\n".to_vec()), ("tokenizer.json".into(), b"{\"model\": 1}".to_vec())];
    let mut trainer = Trainer::new(given).unwrap();
    trainer.train(&Resume::No).unwrap();
    trainer.save_model(None).unwrap();
    drop(trainer);
    let names = |path: &Path| {
        let mut names: Vec<String> =
            fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    };
    let checkpoint = folder.path().join("checkpoint-2");
    #[rustfmt::skip]
    assert_eq!(names(&checkpoint), [
        "config.json", "model.safetensors", "optimizer.safetensors", "tokenizer.json", "trainer_state.json",
        "training_args.json",
    ]);
    #[rustfmt::skip]
    assert_eq!(names(folder.path()), [
        "checkpoint-1", "checkpoint-2", "config.json", "model.safetensors", "tokenizer.json", "training_args.json",
    ]);
    assert_eq!(fs::read(checkpoint.join("tokenizer.json")).unwrap(), b"{\"model\": 1}");
    for path in [&checkpoint, folder.path()] {
        let bytes = fs::read(path.join("model.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut tensors: Vec<&str> = file.names();
        tensors.sort_unstable();
        assert_eq!(tensors, ["b", "scale", "w"]);
        assert_eq!(file.tensor("w").unwrap().data(), bytemuck::cast_slice::<f32, u8>(&program.weights()[..WIDTH]));
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
    }
    let args: Value =
        serde_json::from_str(&fs::read_to_string(checkpoint.join("training_args.json")).unwrap()).unwrap();
    assert_eq!((&args["max_steps"], &args["learning_rate"]), (&json!(2), &json!(0.05)));

    let only = tempdir().unwrap();
    let values = json!({"max_steps": 1, "save_only_model": true});
    trainer_at(&mut program, only.path(), values.clone()).train(&Resume::No).unwrap();
    assert_eq!(
        names(&only.path().join("checkpoint-1")),
        ["model.safetensors", "trainer_state.json", "training_args.json"]
    );
    let error = trainer_at(&mut program, only.path(), values).train(&Resume::Last).unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("save_only_model"), "{error}");
}

fn trainer_at<'a>(program: &'a mut Linear, folder: &Path, values: Value) -> Trainer<'a> {
    trainer(program, folder, values, 16)
}

/// EX-01: shards of at most so many bytes with an index; those of an earlier save go; checkpoints of shards resume.
#[test]
fn ex_01_shards() {
    let folder = tempdir().unwrap();
    let mut program = Linear::new();
    let save = |program: &mut Linear, size: u64, resume: &Resume| {
        let mut given = parts(program, folder.path(), json!({"max_steps": 4, "save_steps": 2}), 16);
        given.files.max_shard_size = size;
        let mut trainer = made(given);
        trainer.train(resume).unwrap();
        trainer.save_model(None).unwrap();
    };
    save(&mut program, 12, &Resume::No);
    let index = |path: &Path| -> Value {
        serde_json::from_str(&fs::read_to_string(path.join("model.safetensors.index.json")).unwrap()).unwrap()
    };
    let expected = json!({
        "metadata": {"total_parameters": 5, "total_size": 20},
        "weight_map": {
            "b": "model-00002-of-00002.safetensors",
            "scale": "model-00002-of-00002.safetensors",
            "w": "model-00001-of-00002.safetensors",
        },
    });
    assert_eq!(index(folder.path()), expected);
    assert_eq!(index(&folder.path().join("checkpoint-2")), expected);
    let whole = program.all();
    let mut resumed = Linear::new();
    save(&mut resumed, 4, &Resume::From(folder.path().join("checkpoint-2")));
    assert_eq!(resumed.all(), whole);
    assert_eq!(index(folder.path())["weight_map"]["scale"], "model-00003-of-00003.safetensors");
    assert!(!folder.path().join("model-00001-of-00002.safetensors").exists());
    save(&mut resumed, 20, &Resume::From(folder.path().join("checkpoint-4")));
    assert!(folder.path().join("model.safetensors").exists());
    assert!(!folder.path().join("model.safetensors.index.json").exists());
    assert!(!folder.path().join("model-00003-of-00003.safetensors").exists());
}

/// EC-14: the oldest go; the newest stays.
#[test]
fn ec_14_rotation() {
    for (limit, kept) in
        [(json!(2), vec![4, 5]), (json!(1), vec![5]), (json!(0), vec![1, 2, 3, 4, 5]), (json!(-1), vec![1, 2, 3, 4, 5])]
    {
        let folder = tempdir().unwrap();
        let mut program = Linear::new();
        let values = json!({"max_steps": 5, "save_steps": 1, "save_total_limit": limit});
        let mut trainer = trainer_at(&mut program, folder.path(), values);
        trainer.train(&Resume::No).unwrap();
        assert_eq!(trainer.checkpoints().steps().unwrap(), kept);
    }
}

/// Copies a checkpoint so that it can be broken.
fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// EC-20 and bad input: there is none, it is broken in any file, of another model or optimizer, mixed of two updates, or of
/// another trainer: refused as bad input with the file and what is wrong, and the program is as it was.
#[test]
fn ec_20_refused_checkpoints() {
    let folder = tempdir().unwrap();
    let values = json!({"max_steps": 2, "save_steps": 1});
    let mut program = Linear::new();
    let resume = |program: &mut Linear, resume: &Resume| {
        let before = program.all();
        let error = trainer_at(program, folder.path(), values.clone()).train(resume).unwrap_err();
        assert!(error.is_usage(), "{error}");
        assert_eq!(program.all(), before, "{error}");
        error.to_string()
    };
    assert!(resume(&mut program, &Resume::Last).contains("no checkpoint"));
    assert!(resume(&mut program, &Resume::From(folder.path().join("nowhere"))).contains("no such folder"));
    trainer_at(&mut program, folder.path(), values.clone()).train(&Resume::No).unwrap();
    let mut program = Linear::new();
    let good = folder.path().join("checkpoint-2");
    let other = folder.path().join("checkpoint-1");
    let broken = folder.path().join("broken");
    type Breakage<'a> = Box<dyn Fn(&Path) + 'a>;
    let cut = |name: &'static str, bytes: u64| -> Breakage<'static> {
        Box::new(move |path| {
            let file = fs::OpenOptions::new().write(true).open(path.join(name)).unwrap();
            file.set_len(bytes).unwrap();
        })
    };
    let write = |name: &'static str, text: &'static str| -> Breakage<'static> {
        Box::new(move |path| fs::write(path.join(name), text).unwrap())
    };
    let size = |name: &str| fs::metadata(good.join(name)).unwrap().len();
    let swap = |name: &'static str| -> Breakage<'_> {
        let other = other.clone();
        Box::new(move |path| {
            fs::copy(other.join(name), path.join(name)).unwrap();
        })
    };
    let remove =
        |name: &'static str| -> Breakage<'static> { Box::new(move |path| fs::remove_file(path.join(name)).unwrap()) };
    let rows: Vec<(Breakage<'_>, &str)> = vec![
        (cut("model.safetensors", size("model.safetensors") - 1), "cut off"),
        (cut("optimizer.safetensors", size("optimizer.safetensors") - 30), "cut off"),
        (cut("model.safetensors", 20), "header"),
        (cut("model.safetensors", 3), "model.safetensors"),
        (cut("trainer_state.json", 100), "trainer_state.json"),
        (write("trainer_state.json", "{}"), "global_step"),
        (write("trainer_state.json", "{\"global_step\": 2}"), "not of Lith"),
        (write("optimizer.safetensors", "\u{8}\0\0\0\0\0\0\0{\"a\":1}\n"), "w.exp_avg"),
        (remove("trainer_state.json"), "trainer_state.json"),
        (remove("optimizer.safetensors"), "save_only_model"),
        (remove("model.safetensors"), "model.safetensors"),
        (swap("model.safetensors"), "of update 1"),
        (swap("optimizer.safetensors"), "of update 1"),
        (swap("trainer_state.json"), "of update 2"),
        (
            Box::new(|path| {
                fs::remove_file(path.join("optimizer.safetensors")).unwrap();
                fs::write(path.join("optimizer.pt"), b"PK").unwrap();
            }),
            "PyTorch",
        ),
    ];
    for (breakage, part) in rows {
        copy(&good, &broken);
        breakage(&broken);
        let message = resume(&mut program, &Resume::From(broken.clone()));
        assert!(message.contains(part) && message.contains("broken"), "{part}: {message}");
    }
    // Another model: another shape, one tensor less, another frozen weight.
    let message = resume(&mut Linear::wider(), &Resume::From(good.clone()));
    assert!(message.contains("tensor w: expected F32 [4], found F32 [3]"), "{message}");
    let message = resume(&mut Linear::without_bias(), &Resume::From(good.clone()));
    assert!(message.contains("tensor b of model.safetensors is none of this program's"), "{message}");
    let message = resume(&mut Linear::scaled(2.0), &Resume::From(good.clone()));
    assert!(message.contains("frozen tensor scale"), "{message}");
    // And the good one still is.
    assert_eq!(program.all(), Linear::new().all());
    trainer_at(&mut program, folder.path(), values.clone()).train(&Resume::From(good)).unwrap();
}

/// TA-24: the argument says where to begin; `ignore_data_skip` begins the epoch anew.
#[test]
fn ta_24_resume_arguments() {
    assert_eq!(Resume::from_argument(None), Resume::No);
    assert_eq!(Resume::from_argument(Some("false")), Resume::No);
    assert_eq!(Resume::from_argument(Some("True")), Resume::Last);
    assert_eq!(Resume::from_argument(Some("out/checkpoint-3")), Resume::From("out/checkpoint-3".into()));
    let folder = tempdir().unwrap();
    let values = |ignore: bool| json!({"per_device_train_batch_size": 4, "save_steps": 2, "max_steps": 6, "ignore_data_skip": ignore});
    let mut program = Linear::new();
    trainer_at(&mut program, folder.path(), values(false)).train(&Resume::No).unwrap();
    let checkpoint = Resume::From(folder.path().join("checkpoint-2"));
    let mut epochs = Vec::new();
    for ignore in [false, true] {
        let mut program = Linear::new();
        let mut trainer = trainer_at(&mut program, folder.path(), values(ignore));
        trainer.train(&checkpoint).unwrap();
        epochs.push(trainer.state().epoch);
    }
    // Four batches an epoch: six updates in a row, or two, and four of the same epoch again.
    assert_eq!(epochs, [1.5, 1.0]);
}
