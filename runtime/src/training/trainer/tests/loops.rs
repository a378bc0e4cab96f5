//! The loop: events, counts, accumulation, logs, errors.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tempfile::tempdir;

use super::mock::*;
use crate::training::callbacks::{EarlyStopping, JsonlLog, ProgressCallback, StopWhen, TensorBoard};
use crate::training::data::Example;
use crate::training::trainer::{ExampleStream, Resume, TrainData, Trainer, TrainerError};

fn steps(trainer: &Trainer<'_>, key: &str) -> Vec<(u64, f64)> {
    let history = &trainer.state().log_history;
    history.iter().filter_map(|line| Some((line["step"].as_u64()?, line.get(key)?.as_f64()?))).collect()
}

/// TL-01: the order of events, with windows of two batches of which the last is short.
#[test]
fn tl_01_order_of_events() {
    let folder = tempdir().unwrap();
    let mut program = Linear::new();
    let notes = Notes::default();
    let values = json!({
        "num_train_epochs": 1, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 4,
        "gradient_accumulation_steps": 2, "logging_steps": 1, "eval_strategy": "epoch", "save_strategy": "epoch",
        "eval_on_start": true,
    });
    let mut parts = parts(&mut program, folder.path(), values, 12);
    parts.callbacks.push(Box::new(notes.clone()));
    made(parts).train(&Resume::No).unwrap();
    #[rustfmt::skip]
    let expected = [
        "init_end", "train_begin",
        "prediction_step", "log 0", "evaluate",
        "epoch_begin",
        "step_begin", "substep_end", "pre_optimizer_step", "optimizer_step", "step_end 1", "log 1",
        "step_begin", "pre_optimizer_step", "optimizer_step", "step_end 2", "log 2",
        "epoch_end", "prediction_step", "log 2", "evaluate", "save 2",
        "log 2", "train_end",
    ];
    assert_eq!(*notes.0.borrow(), expected);
    let calls: Vec<_> = program.calls.iter().map(|(what, _, n)| (*what, *n)).collect();
    assert_eq!(calls, [("accumulate", 4), ("accumulate", 4), ("apply", 0), ("train_step", 4)]);
}

/// TL-06: four accumulated batches of 8 learn as one of 32 does, also where the last window is short.
#[test]
fn tl_06_accumulation_is_exact() {
    for n in [64, 72, 50] {
        let run = |batch: usize, window: usize| {
            let folder = tempdir().unwrap();
            let mut program = Linear::new();
            let values = json!({
                "per_device_train_batch_size": batch, "gradient_accumulation_steps": window, "logging_steps": 1,
                "save_strategy": "no", "train_sampling_strategy": "sequential", "num_train_epochs": 2,
            });
            let mut trainer = trainer(&mut program, folder.path(), values, n);
            let output = trainer.train(&Resume::No).unwrap();
            let losses = steps(&trainer, "loss");
            drop(trainer);
            (program.weights(), losses, output.training_loss)
        };
        let (whole, parts) = (run(32, 1), run(8, 4));
        assert_eq!(whole.1.len(), parts.1.len());
        assert!(whole.0.iter().zip(&parts.0).all(|(a, b)| (a - b).abs() < 1e-6), "{n}: {:?} {:?}", whole.0, parts.0);
        assert!(whole.1.iter().zip(&parts.1).all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() < 1e-6));
        assert!((whole.2 - parts.2).abs() < 1e-6);
    }
}

/// TL-02 to TL-05, TL-15, TA-02, TA-03, TA-16: counts, rates, means and keys of the log; the model learns.
#[test]
fn tl_05_logs() {
    let folder = tempdir().unwrap();
    let mut program = Linear::new();
    let values = json!({
        "num_train_epochs": 2.5, "per_device_train_batch_size": 4, "logging_steps": 4, "logging_first_step": true,
        "warmup_steps": 0.1, "learning_rate": 0.5, "save_strategy": "no", "include_num_input_tokens_seen": "all",
    });
    let mut trainer = trainer(&mut program, folder.path(), values, 39);
    let output = trainer.train(&Resume::No).unwrap();
    assert_eq!((output.global_step, trainer.state().max_steps, trainer.state().num_train_epochs), (25, 25, 3));
    assert_eq!(trainer.state().epoch, 2.5);
    let history = trainer.state().log_history.clone();
    let keys: Vec<&str> = history[0].keys().map(String::as_str).collect();
    assert_eq!(keys, ["loss", "grad_norm", "learning_rate", "epoch", "num_input_tokens_seen", "step"]);
    let rates = steps(&trainer, "learning_rate");
    assert_eq!(rates.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [1, 4, 8, 12, 16, 20, 24]);
    for (step, rate) in rates {
        // The rate of the update just done: warm-up of 3, then linear to 25.
        let s = (step - 1) as f64;
        let expected = 0.5 * if s < 3.0 { s / 3.0 } else { (25.0 - s) / 22.0 };
        assert!((rate - expected).abs() < 1e-12, "{step}: {rate}");
    }
    let last = &history[history.len() - 1];
    let keys: Vec<&str> = last.keys().map(String::as_str).collect();
    #[rustfmt::skip]
    assert_eq!(keys, [
        "train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos", "train_loss", "epoch",
        "num_input_tokens_seen", "step",
    ]);
    // The mean of all updates is that of the logged means, each with its updates, and of the one after the last log.
    let losses = steps(&trainer, "loss");
    assert!(losses[0].1 > 5.0 * losses[losses.len() - 1].1, "{losses:?}");
    let weighted = losses[0].1 + losses.windows(2).map(|pair| pair[1].1 * (pair[1].0 - pair[0].0) as f64).sum::<f64>();
    let rest = output.training_loss * 25.0 - weighted;
    assert!(rest > 0.0 && rest < losses[0].1, "{rest}");
    drop(trainer);
    assert_eq!(program.calls.iter().map(|call| call.1.step).collect::<Vec<_>>(), (1..=25).collect::<Vec<_>>());
    assert!(program.calls.iter().any(|call| call.2 == 3), "the last batch of an epoch has three examples");
}

/// TL-20, TA-13: equal seeds give equal bits; data_seed changes the order alone, seed the dropout too.
#[test]
fn tl_20_seeds() {
    let run = |seed: u64, data_seed: Option<u64>, dropout: f64| {
        let folder = tempdir().unwrap();
        let mut program = Linear::dropping(dropout);
        let values = json!({"seed": seed, "data_seed": data_seed, "save_strategy": "no", "num_train_epochs": 2});
        trainer(&mut program, folder.path(), values, 40).train(&Resume::No).unwrap();
        let keys: Vec<_> = program.calls.iter().map(|call| call.1.key).collect();
        (program.all(), keys)
    };
    let first = run(1, None, 0.2);
    assert_eq!(first, run(1, None, 0.2));
    assert_ne!(first.0, run(2, None, 0.2).0);
    assert_eq!(run(1, Some(5), 0.0).0, run(2, Some(5), 0.0).0);
    assert_ne!(run(1, Some(5), 0.0).0, run(1, Some(6), 0.0).0);
    let mut keys = first.1.clone();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), first.1.len(), "each batch has a key of its own");
}

/// TL-14: a loss that is no number stops training, with step, epoch, batch and examples; the last checkpoint stays as it was.
#[test]
fn tl_14_no_number_stops() {
    for window in [1, 2] {
        let folder = tempdir().unwrap();
        let mut program = Linear { breaks_at: Some(8), ..Linear::new() };
        let values = json!({
            "per_device_train_batch_size": 4, "save_steps": 3, "max_steps": 20, "gradient_accumulation_steps": window,
            "train_sampling_strategy": "sequential",
        });
        let mut trainer = trainer(&mut program, folder.path(), values, 20 * window);
        let error = trainer.train(&Resume::No).unwrap_err();
        assert!(!error.is_usage());
        let message = error.to_string();
        for part in ["loss of update 8 is NaN", "epoch 1", "learning_rate"] {
            assert!(message.contains(part), "{message}");
        }
        if window == 1 {
            assert!(message.contains("batch 3 of it, examples 8, 9, 10, 11)"), "{message}");
        }
        assert_eq!(trainer.checkpoints().steps().unwrap(), [3, 6]);
    }
}

/// TL-03, TL-10, TA-29: updates left out under a loss scale move neither the schedule nor the bias correction.
#[test]
fn tl_03_skipped_updates() {
    let folder = tempdir().unwrap();
    let mut program = Linear { skips: vec![2, 3], ..Linear::new() };
    let values = json!({"fp16": true, "max_steps": 6, "logging_steps": 1, "save_strategy": "no"});
    let mut trainer = trainer(&mut program, folder.path(), values, 16);
    trainer.train(&Resume::No).unwrap();
    let rates: Vec<f64> = steps(&trainer, "learning_rate").into_iter().map(|(_, rate)| rate / 0.05 * 6.0).collect();
    assert_eq!(rates.iter().map(|rate| rate.round()).collect::<Vec<_>>(), [6.0, 5.0, 5.0, 5.0, 4.0, 3.0]);
    drop(trainer);
    assert_eq!(program.calls.iter().map(|call| call.1.step).collect::<Vec<_>>(), [1, 2, 2, 2, 3, 4]);
}

/// TA-26, TL-18: without being asked an error with sizes and what to change; asked, a smaller batch that learns as if the
/// run had begun with it. Evaluation is told from training.
#[test]
fn ta_26_memory() {
    let folder = tempdir().unwrap();
    let run = |program: &mut Linear, batch: usize, find: bool, eval: usize| {
        let values = json!({
            "per_device_train_batch_size": batch, "per_device_eval_batch_size": eval, "auto_find_batch_size": find,
            "eval_strategy": "epoch", "save_steps": 1,
        });
        let mut trainer = trainer(program, folder.path(), values, 48);
        let result = trainer.train(&Resume::No).map(|output| (output.global_step, trainer.state().train_batch_size));
        (result, trainer.checkpoints().steps().unwrap())
    };
    let mut program = Linear { memory: 10, ..Linear::new() };
    let message = run(&mut program, 16, false, 4).0.unwrap_err().to_string();
    for part in ["16 examples", "per_device_train_batch_size", "64 bytes", "auto_find_batch_size"] {
        assert!(message.contains(part), "{message}");
    }
    let message = run(&mut program, 8, true, 32).0.unwrap_err().to_string();
    assert!(message.contains("per_device_eval_batch_size"), "{message}");

    let mut found = Linear { memory: 10, ..Linear::new() };
    let (result, saved) = run(&mut found, 16, true, 4);
    // 16, 14, 12, 10
    assert_eq!(result.unwrap(), (15, Some(10)));
    assert_eq!(saved, (1..=15).collect::<Vec<_>>());
    let mut given = Linear::new();
    run(&mut given, 10, false, 4).0.unwrap();
    assert_eq!(found.all(), given.all());

    let mut none = Linear { memory: 0, ..Linear::new() };
    assert!(matches!(run(&mut none, 16, true, 4).0, Err(TrainerError::Memory { examples: 1, .. })));
}

/// TI-02: what does not fit together is an error before training.
#[test]
fn ti_02_parts_that_do_not_fit() {
    let folder = tempdir().unwrap();
    let refused = |values: Value, change: fn(&mut crate::training::trainer::TrainerParts<'_>)| {
        let mut program = Linear::new();
        let mut parts = parts(&mut program, folder.path(), values, 8);
        change(&mut parts);
        let error = match Trainer::new(parts) {
            Ok(mut trainer) => trainer.train(&Resume::No).unwrap_err(),
            Err(error) => error,
        };
        assert!(error.is_usage(), "{error}");
        error.to_string()
    };
    let rows = [
        (refused(json!({"eval_strategy": "steps"}), |p| p.eval.clear()), "no evaluation data"),
        (refused(json!({}), |p| p.eval[0].1 = Arc::new(Vec::new())), "no examples"),
        (refused(json!({}), |p| p.eval.push(p.eval[0].clone())), "a name each"),
        (refused(json!({}), |p| p.train = None), "no training data"),
        (refused(json!({}), |p| p.train = Some(TrainData::Examples(Arc::new(Vec::new())))), "no training examples"),
        (refused(json!({}), |p| p.train = Some(TrainData::Stream(Box::new(|_, _| panic!())))), "max_steps"),
        (refused(json!({"fp16": true, "bf16": true}), |_| ()), "exclude"),
        (refused(json!({}), |p| p.files.companions.push(("../evil".into(), vec![]))), "beside the weights"),
        (refused(json!({}), |p| p.callbacks.push(Box::new(EarlyStopping::new(1, 0.0)))), "metric_for_best_model"),
        (
            refused(json!({"metric_for_best_model": "loss"}), |p| {
                p.callbacks.push(Box::new(EarlyStopping::new(1, 0.0)))
            }),
            "needs evaluations",
        ),
    ];
    for (message, part) in rows {
        assert!(message.contains(part), "{message}");
    }
}

/// TI-10: callbacks end epochs and training, ask for logs, evaluations and checkpoints, and can be taken out.
#[test]
fn ti_10_control() {
    let folder = tempdir().unwrap();
    let mut program = Linear::new();
    let values = json!({"per_device_train_batch_size": 4, "num_train_epochs": 3, "save_strategy": "no"});
    let mut trainer = trainer(&mut program, folder.path(), values, 16);
    let notes = Notes::default();
    trainer.add_callback(Box::new(Ask("step_end", 2, |control| control.should_epoch_stop = true)));
    trainer.add_callback(Box::new(Ask("step_end", 3, |control| {
        (control.should_log, control.should_evaluate, control.should_save) = (true, true, true);
    })));
    trainer.add_callback(Box::new(Ask("epoch_end", 6, |control| control.should_training_stop = true)));
    trainer.add_callback(Box::new(notes.clone()));
    assert_eq!(trainer.callbacks().collect::<Vec<_>>(), ["DefaultFlowCallback", "Ask", "Ask", "Ask", "Notes"]);
    let output = trainer.train(&Resume::No).unwrap();
    // Two updates of the first epoch, four of the second, none of the third.
    assert_eq!((output.global_step, trainer.state().epoch), (6, 2.0));
    let logs: Vec<String> =
        notes.0.borrow().iter().filter(|n| n.starts_with("log") || n.starts_with("save")).cloned().collect();
    assert_eq!(logs, ["log 3", "log 3", "save 3", "log 6"]);
    assert_eq!(trainer.checkpoints().steps().unwrap(), [3]);
    assert!(trainer.pop_callback("Notes").is_some() && trainer.pop_callback("Notes").is_none());
}

/// TL-19: a flag from outside ends training after the update that runs, with a checkpoint that goes on to the same end.
#[test]
fn tl_19_stopped_from_outside() {
    let values = json!({"per_device_train_batch_size": 4, "num_train_epochs": 3, "eval_strategy": "epoch"});
    let run = |stops_at: Option<u64>, resume: &Resume, folder: &std::path::Path| {
        let mut program = Linear::dropping(0.2);
        let mut given = parts(&mut program, folder, values.clone(), 16);
        let flag = Arc::new(AtomicBool::new(false));
        given.callbacks.push(Box::new(StopWhen::new(flag.clone())));
        given.callbacks.push(Box::new(ProgressCallback::new(move |p| {
            flag.store(Some(p.step + 1) == stops_at, Ordering::Relaxed);
        })));
        let mut trainer = made(given);
        let steps = trainer.train(resume).unwrap().global_step;
        let saved = trainer.checkpoints().steps().unwrap();
        drop(trainer);
        (steps, saved, program.all())
    };
    let folder = tempdir().unwrap();
    let whole = run(None, &Resume::No, folder.path());
    for stop in [1, 4, 7] {
        let folder = tempdir().unwrap();
        let stopped = run(Some(stop), &Resume::No, folder.path());
        assert_eq!((stopped.0, &stopped.1[..]), (stop, &[stop][..]));
        assert_eq!(run(None, &Resume::Last, folder.path()).2, whole.2);
    }
}

fn stream(all: Vec<Example>) -> TrainData {
    TrainData::Stream(Box::new(move |_, skip| {
        let rest: Vec<_> = all.iter().skip(skip as usize).cloned().map(Ok).collect();
        Ok(Box::new(rest.into_iter()) as ExampleStream)
    }))
}

/// DS-06: a stream learns as examples in their own order do, epoch after epoch, and is resumed where it was.
#[test]
fn ds_06_streams() {
    let folder = tempdir().unwrap();
    let values = |save: u64| {
        json!({
            "per_device_train_batch_size": 4, "max_steps": 11, "train_sampling_strategy": "sequential",
            "save_steps": save, "gradient_accumulation_steps": 2,
        })
    };
    let mut ordered = Linear::dropping(0.1);
    trainer(&mut ordered, folder.path(), values(100), 22).train(&Resume::No).unwrap();
    let run = |resume: &Resume| {
        let mut program = Linear::dropping(0.1);
        let mut parts = parts(&mut program, folder.path(), values(1), 22);
        parts.train = Some(stream(examples(22)));
        made(parts).train(resume).unwrap();
        program.all()
    };
    assert_eq!(run(&Resume::No), ordered.all());
    for step in [1, 3, 4, 7, 11] {
        let checkpoint = folder.path().join(format!("checkpoint-{step}"));
        assert_eq!(run(&Resume::From(checkpoint)), ordered.all(), "{step}");
    }
    let mut program = Linear::new();
    let mut parts = parts(&mut program, folder.path(), values(100), 22);
    parts.train = Some(stream(Vec::new()));
    let error = made(parts).train(&Resume::No).unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("gives nothing in epoch 0"), "{error}");
}

/// TI-08: event files that TensorBoard reads: records whose checksums hold, one for each figure of the log.
#[test]
fn ti_08_event_files() {
    let folder = tempdir().unwrap();
    let mut program = Linear::new();
    let mut given =
        parts(&mut program, folder.path(), json!({"max_steps": 3, "logging_steps": 1, "save_steps": 2}), 16);
    given.callbacks.push(Box::new(TensorBoard::new(folder.path().join("runs"))));
    let mut trainer = made(given);
    trainer.train(&Resume::No).unwrap();
    let file = std::fs::read_dir(folder.path().join("runs")).unwrap().next().unwrap().unwrap();
    assert!(file.file_name().to_string_lossy().starts_with("events.out.tfevents."));
    let bytes = std::fs::read(file.path()).unwrap();
    let mut rest = &bytes[..];
    let mut records = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<8>() {
        let (record, end) = after[4..].split_at(u64::from_le_bytes(*length) as usize);
        records.push(record.to_vec());
        rest = &end[4..];
    }
    // The version, and loss, norm, rate and epoch of three updates, and the six figures of the end.
    let figures: usize = trainer.state().log_history.iter().map(|line| line.len() - 1).sum();
    assert_eq!((records.len(), figures), (4 + 1, 3 * 4 + 6));
    assert!(records[0].ends_with(b"brain.Event:2"));
    assert!(records[1].windows(10).any(|w| w == b"train/loss"));
    let tags: usize = records[1..].iter().map(|r| r.windows(6).filter(|w| w == b"train/").count()).sum();
    assert_eq!(tags, figures);
}

/// TI-08: the log as lines of JSON; progress with what is left.
#[test]
fn ti_08_log_file_and_progress() {
    let folder = tempdir().unwrap();
    let log = folder.path().join("logs/train.jsonl");
    let mut program = Linear::new();
    let values = json!({"max_steps": 5, "logging_steps": 2, "eval_strategy": "steps", "save_steps": 2});
    let seen = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let mut parts = parts(&mut program, folder.path(), values, 16);
    let sink = seen.clone();
    parts.callbacks.push(Box::new(JsonlLog::new(&log)));
    parts.callbacks.push(Box::new(ProgressCallback::new(move |p| sink.borrow_mut().push(*p))));
    let mut trainer = made(parts);
    trainer.train(&Resume::No).unwrap();
    let lines = || -> Vec<Value> {
        std::fs::read_to_string(&log).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let history: Vec<Value> = trainer.state().log_history.iter().cloned().map(Value::Object).collect();
    assert_eq!(lines(), history);
    trainer.train(&Resume::From(folder.path().join("checkpoint-4"))).unwrap();
    let history: Vec<Value> = trainer.state().log_history.iter().cloned().map(Value::Object).collect();
    assert_eq!(lines(), history, "a resumed run goes on with the checkpoint's log");
    let seen = seen.borrow();
    assert!(seen.iter().any(|p| p.evaluation == Some((1, 1))));
    let last = seen.iter().rfind(|p| p.step == 5).unwrap();
    assert_eq!((last.max_steps, last.remaining.map(|r| r.as_secs())), (5, Some(0)));
    assert!(last.loss.is_some() && last.learning_rate.is_some());
}
