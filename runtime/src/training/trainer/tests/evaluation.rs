//! Evaluation, prediction and what follows from metrics.

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::tempdir;

use super::mock::*;
use crate::training::callbacks::EarlyStopping;
use crate::training::data::Examples;
use crate::training::state::{Logs, figure};
use crate::training::trainer::{Predictions, Resume, Trainer, TrainerError};

fn mean_error(predictions: &Predictions) -> Result<Logs, String> {
    let logits = predictions.output("logits").ok_or("no logits")?.f32s();
    let labels = predictions.label("labels").ok_or("no labels")?.f32s();
    let sum: f32 = logits.iter().zip(labels).map(|(a, b)| (a - b).abs()).sum();
    Ok(Logs::from_iter([("mae".to_string(), figure(f64::from(sum) / labels.len() as f64))]))
}

/// EC-01 to EC-04, TA-31: names, the loss as a mean over examples, all predictions in order, several sets.
#[test]
fn ec_01_names_and_values() {
    let folder = tempdir().unwrap();
    let mut program = Linear::new();
    let values = json!({"per_device_eval_batch_size": 4, "include_for_metrics": ["loss"]});
    let mut given = parts(&mut program, folder.path(), values, 40);
    given.compute_metrics = Some(Box::new(mean_error));
    let mut trainer = made(given);
    let metrics = trainer.evaluate().unwrap();
    let keys: Vec<&str> = metrics.keys().map(String::as_str).collect();
    #[rustfmt::skip]
    assert_eq!(keys, [
        "eval_loss", "eval_mae", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "epoch",
    ]);
    let labels: Vec<f32> = examples(50)[40..]
        .iter()
        .map(|example| match example.get("labels") {
            Some(crate::training::data::Feature::Float(label)) => *label,
            _ => f32::NAN,
        })
        .collect();
    // Weights are zero: errors are the labels.
    let mae = labels.iter().map(|y| y.abs()).sum::<f32>() / 10.0;
    let loss = labels.iter().map(|y| y * y).sum::<f32>() / 10.0;
    assert!((metrics["eval_mae"].as_f64().unwrap() - f64::from(mae)).abs() < 1e-6);
    assert!((metrics["eval_loss"].as_f64().unwrap() - f64::from(loss)).abs() < 1e-6);
    assert_eq!(trainer.state().log_history.len(), 1);

    let set: Arc<dyn Examples> = Arc::new(examples(50)[40..].to_vec());
    let prediction = trainer.predict(&set, "test").unwrap();
    assert_eq!(prediction.predictions.label("labels").unwrap().f32s(), labels);
    assert_eq!(prediction.predictions.output("logits").unwrap().shape(), [10]);
    assert_eq!(prediction.predictions.losses.len(), 3);
    assert!(prediction.metrics.contains_key("test_loss") && prediction.metrics.contains_key("test_mae"));
    drop(trainer);

    let mut given = parts(&mut program, folder.path(), json!({}), 40);
    given.eval = vec![(Some("a".into()), set.clone()), (Some("b".into()), set)];
    given.compute_metrics = Some(Box::new(mean_error));
    given.preprocess_logits_for_metrics = Some(Box::new(|outputs, _| {
        let zeros = |t: &crate::tensor::Tensor| f32s(t.shape(), &vec![0.0; t.f32s().len()]);
        outputs.into_iter().map(|(name, tensor)| (name, zeros(&tensor))).collect()
    }));
    let metrics = made(given).evaluate().unwrap();
    assert!(["eval_a_loss", "eval_b_loss", "eval_a_mae", "eval_b_mae"].iter().all(|key| metrics.contains_key(*key)));
    assert!(
        ["eval_a_mae", "eval_b_mae"].iter().all(|key| (metrics[*key].as_f64().unwrap() - f64::from(mae)).abs() < 1e-6)
    );
}

/// A trainer whose evaluations give these values of `score`, one after the other.
fn scored<'a>(program: &'a mut Linear, folder: &std::path::Path, values: Value, scores: &[f64]) -> Trainer<'a> {
    let mut given = parts(program, folder, values, 16);
    let mut scores = VecDeque::from(scores.to_vec());
    given.compute_metrics = Some(Box::new(move |_| {
        let score = scores.pop_front().ok_or("no more scores")?;
        Ok(Logs::from_iter([("score".to_string(), figure(score))]))
    }));
    made(given)
}

fn weights_of(folder: &std::path::Path, step: u64) -> Vec<f32> {
    let bytes = std::fs::read(folder.join(format!("checkpoint-{step}/model.safetensors"))).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |name: &str| -> Vec<f32> {
        let data = file.tensor(name).unwrap().data();
        data.chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    };
    [tensor("w"), tensor("b")].concat()
}

/// EC-09, EC-14, EC-15, TA-18, TA-19: the best checkpoint is known, kept and loaded at the end; equals are no improvement.
#[test]
fn ec_15_best_model() {
    let values = |extra: Value| {
        let mut values = json!({
            "per_device_train_batch_size": 4, "num_train_epochs": 5, "eval_strategy": "epoch", "save_strategy": "epoch",
            "load_best_model_at_end": true, "metric_for_best_model": "score",
        });
        values.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        values
    };
    let scores = [0.2, 0.9, 0.9, 0.5, 0.1];
    for (limit, kept) in [(None, vec![4, 8, 12, 16, 20]), (Some(2), vec![8, 20]), (Some(1), vec![8])] {
        let folder = tempdir().unwrap();
        let mut program = Linear::new();
        let mut trainer = scored(&mut program, folder.path(), values(json!({"save_total_limit": limit})), &scores);
        trainer.train(&Resume::No).unwrap();
        let state = trainer.state().clone();
        assert_eq!((state.best_metric, state.best_global_step), (Some(0.9), Some(8)));
        assert!(state.best_model_checkpoint.unwrap().ends_with("checkpoint-8"));
        assert_eq!(trainer.checkpoints().steps().unwrap(), kept, "{limit:?}");
        drop(trainer);
        assert_eq!(program.weights(), weights_of(folder.path(), 8));
    }

    // Only improvements are saved. (EC-16)
    let folder = tempdir().unwrap();
    let mut program = Linear::new();
    let extra = json!({"save_strategy": "best", "greater_is_better": false});
    let mut trainer = scored(&mut program, folder.path(), values(extra), &[0.5, 0.6, 0.4, 0.4, 0.3]);
    trainer.train(&Resume::No).unwrap();
    assert_eq!(trainer.checkpoints().steps().unwrap(), [4, 12, 20]);
    drop(trainer);

    // A metric that is not computed is an error that names those there are.
    let mut trainer = scored(&mut program, folder.path(), values(json!({"metric_for_best_model": "f1"})), &scores);
    let error = trainer.train(&Resume::No).unwrap_err();
    assert!(matches!(error, TrainerError::Metric { .. }) && error.is_usage());
    assert!(error.to_string().contains("eval_score") && error.to_string().contains("eval_f1"), "{error}");
}

/// EC-10: patience and threshold; the counter goes through checkpoints.
#[test]
fn ec_10_early_stopping() {
    let values = json!({
        "per_device_train_batch_size": 4, "num_train_epochs": 8, "eval_strategy": "epoch", "save_strategy": "epoch",
        "metric_for_best_model": "score",
    });
    let run = |patience, threshold, scores: &[f64], resume: &Resume, folder: &std::path::Path| {
        let mut program = Linear::new();
        let mut trainer = scored(&mut program, folder, values.clone(), scores);
        trainer.add_callback(Box::new(EarlyStopping::new(patience, threshold)));
        trainer.train(resume).unwrap().global_step / 4
    };
    let folder = tempdir().unwrap();
    let scores = [0.1, 0.2, 0.2, 0.3, 0.25, 0.26, 0.4, 0.5];
    assert_eq!(run(1, 0.0, &scores, &Resume::No, folder.path()), 3);
    assert_eq!(run(2, 0.0, &scores, &Resume::No, folder.path()), 6);
    assert_eq!(run(2, 0.15, &scores, &Resume::No, folder.path()), 3);
    assert_eq!(run(3, 0.0, &scores, &Resume::No, folder.path()), 8);
    // Once more with a patience of two, interrupted after the first bad one of two.
    let checkpoint = folder.path().join("checkpoint-20");
    assert_eq!(run(2, 0.0, &scores[5..], &Resume::From(checkpoint), folder.path()), 6);
}

/// LR-11: the rate follows the metric of evaluations.
#[test]
fn lr_11_plateau_in_training() {
    let folder = tempdir().unwrap();
    let mut program = Linear::new();
    let values = json!({
        "per_device_train_batch_size": 16, "num_train_epochs": 4, "eval_strategy": "epoch", "save_strategy": "no",
        "lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"patience": 0, "factor": 0.5},
        "metric_for_best_model": "score", "logging_strategy": "epoch",
    });
    let mut trainer = scored(&mut program, folder.path(), values, &[1.0, 1.0, 0.5, 0.5]);
    trainer.train(&Resume::No).unwrap();
    let rates: Vec<f64> =
        trainer.state().log_history.iter().filter_map(|line| line.get("learning_rate")?.as_f64()).collect();
    assert_eq!(rates, [0.05, 0.05, 0.025, 0.025]);
}
