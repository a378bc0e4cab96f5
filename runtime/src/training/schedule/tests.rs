use serde_json::{Map, Value, json};

use super::{SCHEDULES, Schedule};
use crate::training::arguments::ArgumentError;

const BASE: f64 = 2e-3;

fn schedule(name: &str, options: &Value, warmup: u64, total: u64) -> Result<Schedule, ArgumentError> {
    let options: Map<String, Value> = options.as_object().cloned().unwrap_or_default();
    Schedule::new(name, &options, BASE, warmup, total)
}

/// LR-01 to LR-10: rates after 0, 10, 20, 60, 99, 100 and 102 updates of 100 with 20 of warm-up, by Transformers 5.23.
#[test]
fn lr_01_to_10_rates() {
    let steps = [0u64, 10, 20, 60, 99, 100, 102];
    #[rustfmt::skip]
    let rows: &[(&str, Value, [f64; 7])] = &[
        ("linear", json!({}), [0.0, 1e-3, 2e-3, 1e-3, 2.5e-5, 0.0, 0.0]),
        ("cosine", json!({}), [0.0, 1e-3, 2e-3, 1e-3, 7.70963759277099e-07, 0.0, 3.082666266871925e-06]),
        ("cosine", json!({"num_cycles": 1.5}), [0.0, 1e-3, 2e-3, 1e-3, 6.931543045073596e-06, 0.0, 2.7630079602323222e-05]),
        ("cosine_with_restarts", json!({"num_cycles": 3}), [0.0, 1e-3, 2e-3, 1e-3, 6.931543045073596e-06, 0.0, 0.0]),
        ("polynomial", json!({}), [0.0, 1e-3, 2e-3, 0.00100005, 2.50987499999999e-05, 1e-7, 1e-7]),
        ("polynomial", json!({"lr_end": 1e-4, "power": 2.0}), [0.0, 1e-3, 2e-3, 0.000575, 0.000100296875, 1e-4, 1e-4]),
        ("constant", json!({}), [2e-3; 7]),
        ("constant_with_warmup", json!({}), [0.0, 1e-3, 2e-3, 2e-3, 2e-3, 2e-3, 2e-3]),
        ("inverse_sqrt", json!({}), [0.0, 1e-3, 2e-3, 0.0011547005383792518, 0.0008989331499509894, 0.0008944271909999159, 0.0008856148855400954]),
        ("inverse_sqrt", json!({"timescale": 50}), [0.0, 1e-3, 2e-3, 0.00149071198499986, 0.0012451456127293807, 0.0012403473458920844, 0.0012309149097933275]),
        ("cosine_with_min_lr", json!({"min_lr": 1e-4}), [0.0, 1e-3, 2e-3, 0.00105, 0.00010073241557131325, 1e-4, 0.00010292853295352833]),
        ("cosine_with_min_lr", json!({"min_lr_rate": 0.1}), [0.0, 1e-3, 2e-3, 0.0011, 0.00020069386738334942, 2e-4, 0.00020277439964018474]),
        ("cosine_warmup_with_min_lr", json!({"min_lr_rate": 0.1}), [1e-4, 0.0011, 0.001999306132616651, 0.0010646661658168387, 2e-4, 0.00020069386738334942, 0.00020623838874056635]),
        ("cosine_warmup_with_min_lr", json!({"min_lr": 1e-4, "warmup_lr_rate": 0.2}), [4e-4, 0.0012421052631578946, 0.0019992675844286868, 0.001012703175028885, 1e-4, 0.00010073241557131325, 0.00010658496589282003]),
        ("warmup_stable_decay", json!({"num_decay_steps": 30}), [0.0, 1e-3, 2e-3, 2e-3, 5.47810463172671e-06, 0.0, 0.0]),
        ("warmup_stable_decay", json!({"num_decay_steps": 30, "num_stable_steps": 20, "warmup_type": "cosine", "decay_type": "linear", "min_lr_ratio": 0.1}), [2e-4, 0.0011, 2e-3, 8e-4, 2e-4, 2e-4, 2e-4]),
        ("warmup_stable_decay", json!({"num_decay_steps": 40, "warmup_type": "1-sqrt", "decay_type": "1-sqrt", "min_lr_ratio": 0.05}), [1e-4, 0.0006564971157455595, 2e-3, 2e-3, 0.00012390032247750764, 1e-4, 1e-4]),
    ];
    for (name, options, rates) in rows {
        let schedule = schedule(name, options, 20, 100).unwrap();
        for (&step, &rate) in steps.iter().zip(rates) {
            let found = schedule.rate(step);
            assert!((found - rate).abs() <= 1e-15, "{name} {options} after {step}: {found}, not {rate}");
        }
    }
    assert_eq!(schedule("linear", &json!({}), 0, 10).unwrap().rate(0), BASE);
    let rate = schedule("inverse_sqrt", &json!({}), 0, 10).unwrap().rate(5);
    assert!((rate - 0.001999500187421909).abs() < 1e-15, "{rate}");
}

/// LR-11, LR-12: rates after each of these metrics, by Transformers 5.23; interrupted and restored at every point.
#[test]
fn lr_11_12_follow_metrics() {
    let rising = [1.0, 2.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0];
    let plateaus = [1.0, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8];
    let valley = [1.0, 0.9, 0.8, 0.7, 0.6, 0.7, 0.7, 0.7, 0.7, 0.7, 0.5, 0.4, 0.7, 0.7, 0.7, 0.7];
    #[rustfmt::skip]
    let rows: &[(&str, Value, &[f64], &[f64])] = &[
        ("reduce_lr_on_plateau", json!({"patience": 1, "factor": 0.5, "cooldown": 2}), &plateaus,
         &[2e-3, 2e-3, 2e-3, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 5e-4, 5e-4, 5e-4, 5e-4]),
        ("reduce_lr_on_plateau", json!({"patience": 0, "factor": 0.5, "mode": "max", "threshold": 0.1, "threshold_mode": "abs", "min_lr": 4e-4}), &rising,
         &[2e-3, 2e-3, 2e-3, 1e-3, 5e-4, 4e-4, 4e-4, 4e-4]),
        ("greedy", json!({"patience": 1, "factor": 0.5, "min_lr": 1e-3, "max_lr": 3e-3, "cooldown": 1, "warmup": 1, "reset_start": 2}), &valley,
         &[2e-3, 3e-3, 3e-3, 3e-3, 3e-3, 3e-3, 3e-3, 1.5e-3, 1.5e-3, 1.5e-3, 1.5e-3, 3e-3, 3e-3, 3e-3, 1.5e-3, 1.5e-3]),
        ("greedy", json!({"patience": 0, "factor": 0.5, "min_lr": 1e-4, "smooth": true, "window_size": 3}), &valley,
         &[4e-3, 8e-3, 16e-3, 32e-3, 64e-3, 128e-3, 64e-3, 32e-3, 16e-3, 8e-3, 16e-3, 32e-3, 16e-3, 8e-3, 4e-3, 2e-3]),
    ];
    for (name, options, metrics, rates) in rows {
        let mut running = schedule(name, options, 0, 100).unwrap();
        assert!(running.is_adaptive());
        for (i, (&metric, &rate)) in metrics.iter().zip(*rates).enumerate() {
            let mut restored = schedule(name, options, 0, 100).unwrap();
            let text = running.state().unwrap().to_string();
            restored.restore(&serde_json::from_str(&text).unwrap()).unwrap();
            restored.observe(metric);
            running = restored;
            assert!((running.rate(i as u64) - rate).abs() < 1e-12, "{name} {options} {i}: {}", running.rate(0));
        }
        assert!(running.restore(&json!({"rate": 1.0})).is_err());
    }
}

/// LR-13: an unknown name lists all; options that are not the schedule's, or cannot be, are errors.
#[test]
fn lr_13_errors() {
    let message = schedule("liner", &json!({}), 0, 10).unwrap_err().to_string();
    assert!(SCHEDULES.iter().all(|name| message.contains(name)), "{message}");
    assert!(SCHEDULES.iter().all(|name| {
        let options = match *name {
            "cosine_with_min_lr" | "cosine_warmup_with_min_lr" => json!({"min_lr": 1e-5}),
            "warmup_stable_decay" => json!({"num_decay_steps": 2}),
            _ => json!({}),
        };
        schedule(name, &options, 2, 10).is_ok()
    }));
    for (name, options, part) in [
        ("linear", json!({"power": 2}), "no option"),
        ("polynomial", json!({"lr_end": 1.0}), "smaller than learning_rate"),
        ("polynomial", json!({"power": "two"}), "power must be a number"),
        ("inverse_sqrt", json!({"timescale": 0}), "at least 1"),
        ("cosine_with_min_lr", json!({}), "exactly one"),
        ("cosine_with_min_lr", json!({"min_lr": 1e-5, "min_lr_rate": 0.1}), "exactly one"),
        ("warmup_stable_decay", json!({}), "required"),
        ("warmup_stable_decay", json!({"num_decay_steps": 3, "decay_type": "step"}), "one of"),
        ("greedy", json!({"factor": 1.0}), "between 0 and 1"),
    ] {
        let message = schedule(name, &options, 0, 10).unwrap_err().to_string();
        assert!(message.contains(part) && message.contains("lr_scheduler"), "{message}");
    }
}
