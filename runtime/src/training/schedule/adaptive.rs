//! Schedules that follow a metric: `reduce_lr_on_plateau` as PyTorch has it, and GreedyLR (arXiv 2512.14527), which also
//! raises the rate while the metric improves. Both count evaluations in a row that were better or not.

use serde_json::{Value, json};

use super::options::Options;
use crate::training::arguments::ArgumentError;

/// What never changes in a run.
#[derive(Debug, Clone)]
struct Settings {
    base: f64,
    /// Whether larger metrics are better.
    max: bool,
    factor: f64,
    patience: u64,
    threshold: f64,
    /// Whether the threshold is a share of the best metric.
    relative: bool,
    cooldown: u64,
    least: f64,
    /// Changes of the rate below this are left out.
    eps: f64,
    /// `None` of `reduce_lr_on_plateau`.
    greedy: Option<Greedy>,
}

#[derive(Debug, Clone)]
struct Greedy {
    warmup: u64,
    most: f64,
    /// Evaluations that are averaged, if any.
    window: Option<usize>,
    /// Reductions at the least rate after which all begins anew.
    reset: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Adaptive {
    settings: Settings,
    rate: f64,
    /// `None` before the first evaluation.
    best: Option<f64>,
    bad: u64,
    good: u64,
    cooling: u64,
    warming: u64,
    until_reset: u64,
    recent: Vec<f64>,
}

const MODES: &[&str] = &["min", "max"];
const THRESHOLDS: &[&str] = &["rel", "abs"];

impl Adaptive {
    /// LR-11
    pub(super) fn plateau(options: &mut Options<'_>, base: f64) -> Result<Self, ArgumentError> {
        let settings = Settings {
            base,
            max: options.choice("mode", MODES, "min")? == "max",
            factor: options.number("factor", 0.1)?,
            patience: options.count("patience", 10)?,
            threshold: options.number("threshold", 1e-4)?,
            relative: options.choice("threshold_mode", THRESHOLDS, "rel")? == "rel",
            cooldown: options.count("cooldown", 0)?,
            least: options.number("min_lr", 0.0)?,
            eps: options.number("eps", 1e-8)?,
            greedy: None,
        };
        Adaptive::new(settings, options)
    }

    /// LR-12
    pub(super) fn greedy(options: &mut Options<'_>, base: f64) -> Result<Self, ArgumentError> {
        let smooth = options.flag("smooth")?;
        let window = options.count("window_size", 50)?.max(1);
        let window = usize::try_from(window).unwrap_or(usize::MAX);
        let settings = Settings {
            base,
            max: options.choice("mode", MODES, "min")? == "max",
            factor: options.number("factor", 0.95)?,
            patience: options.count("patience", 10)?,
            threshold: options.number("threshold", 1e-6)?,
            relative: options.choice("threshold_mode", THRESHOLDS, "abs")? == "rel",
            cooldown: options.count("cooldown", 0)?,
            least: options.number("min_lr", 1e-3)?,
            eps: options.number("eps", 1e-8)?,
            greedy: Some(Greedy {
                warmup: options.count("warmup", 0)?,
                most: options.number("max_lr", 1.0)?,
                window: smooth.then_some(window),
                reset: options.count("reset_start", 500)?,
            }),
        };
        Adaptive::new(settings, options)
    }

    fn new(settings: Settings, options: &mut Options<'_>) -> Result<Self, ArgumentError> {
        options.flag("verbose")?;
        if !(settings.factor > 0.0 && settings.factor < 1.0) {
            return Err(options.wrong(format!("factor must be between 0 and 1, found {},", settings.factor)));
        }
        Ok(Adaptive {
            rate: settings.base,
            best: None,
            bad: 0,
            good: 0,
            cooling: 0,
            warming: 0,
            until_reset: settings.greedy.as_ref().map_or(0, |greedy| greedy.reset),
            recent: Vec::new(),
            settings,
        })
    }

    pub(super) fn rate(&self) -> f64 {
        self.rate
    }

    fn better(&self, metric: f64) -> bool {
        let Some(best) = self.best else { return !metric.is_nan() };
        let Settings { max, threshold, relative, .. } = self.settings;
        match (max, relative) {
            (false, true) => metric < best * (1.0 - threshold),
            (false, false) => metric < best - threshold,
            (true, true) => metric > best * (1.0 + threshold),
            (true, false) => metric > best + threshold,
        }
    }

    pub(super) fn observe(&mut self, metric: f64) {
        let metric = self.smoothed(metric);
        match self.settings.greedy.clone() {
            None => {
                self.count(metric);
                // A cool-down hides bad evaluations, not improvements.
                if self.cooling > 0 {
                    self.cooling -= 1;
                    self.bad = 0;
                }
                if self.bad > self.settings.patience {
                    self.lower();
                }
            }
            Some(greedy) => {
                if self.cooling > 0 || self.warming > 0 {
                    let counter = if self.cooling > 0 { &mut self.cooling } else { &mut self.warming };
                    *counter -= 1;
                    (self.bad, self.good) = (0, 0);
                    return;
                }
                self.count(metric);
                if self.good > self.settings.patience {
                    let raised = (self.rate / self.settings.factor).min(greedy.most);
                    if raised - self.rate > self.settings.eps {
                        self.rate = raised;
                    }
                    self.until_reset = greedy.reset;
                    self.warming = greedy.warmup;
                    self.good = 0;
                } else if self.bad > self.settings.patience {
                    self.lower();
                    if self.rate <= self.settings.least {
                        self.until_reset = self.until_reset.saturating_sub(1);
                        if self.until_reset == 0 {
                            self.begin_anew(&greedy);
                        }
                    }
                }
            }
        }
    }

    fn count(&mut self, metric: f64) {
        if self.better(metric) {
            self.best = Some(metric);
            self.bad = 0;
            self.good += 1;
        } else {
            self.bad += 1;
            self.good = 0;
        }
    }

    fn lower(&mut self) {
        let lowered = (self.rate * self.settings.factor).max(self.settings.least);
        if self.rate - lowered > self.settings.eps {
            self.rate = lowered;
        }
        self.cooling = self.settings.cooldown;
        self.bad = 0;
    }

    fn begin_anew(&mut self, greedy: &Greedy) {
        self.rate = self.settings.base;
        self.best = None;
        (self.bad, self.good, self.warming) = (0, 0, 0);
        // The reduction that led here still cools down.
        self.until_reset = greedy.reset;
        self.recent.clear();
    }

    fn smoothed(&mut self, metric: f64) -> f64 {
        let Some(window) = self.settings.greedy.as_ref().and_then(|greedy| greedy.window) else { return metric };
        self.recent.push(metric);
        if self.recent.len() > window {
            self.recent.remove(0);
        }
        self.recent.iter().sum::<f64>() / self.recent.len() as f64
    }

    pub(super) fn state(&self) -> Value {
        json!({
            "rate": self.rate, "best": self.best, "num_bad_epochs": self.bad, "num_good_epochs": self.good,
            "cooldown_counter": self.cooling, "warmup_counter": self.warming, "reset_start": self.until_reset,
            "recent": self.recent,
        })
    }

    pub(super) fn restore(&mut self, state: &Value) -> Result<(), String> {
        let number = |name: &str| {
            let value = state.get(name).and_then(Value::as_f64);
            value.ok_or_else(|| format!("the schedule's state has no number {name:?}"))
        };
        let count = |name: &str| {
            let value = state.get(name).and_then(Value::as_u64);
            value.ok_or_else(|| format!("the schedule's state has no count {name:?}"))
        };
        self.rate = number("rate")?;
        self.best = state.get("best").and_then(Value::as_f64);
        self.bad = count("num_bad_epochs")?;
        self.good = count("num_good_epochs")?;
        self.cooling = count("cooldown_counter")?;
        self.warming = count("warmup_counter")?;
        self.until_reset = count("reset_start")?;
        let recent = state.get("recent").and_then(Value::as_array).ok_or("the schedule's state has no `recent`")?;
        self.recent = recent.iter().filter_map(Value::as_f64).collect();
        Ok(())
    }
}
