//! Learning-rate schedules: the twelve of Transformers, as functions of the update's number. Two of them follow a metric
//! of evaluations; what they remember is here and can be saved. Must not know steps, data or programs.

mod adaptive;
mod options;
#[cfg(test)]
mod tests;

use std::f64::consts::PI;

use serde_json::{Map, Value};

use super::arguments::ArgumentError;
use adaptive::Adaptive;
use options::Options;

/// The names of the schedules, as `lr_scheduler_type` takes them. (LR-13)
pub const SCHEDULES: &[&str] = &[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
    "reduce_lr_on_plateau",
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr",
    "warmup_stable_decay",
    "greedy",
];

/// How a stage of `warmup_stable_decay` goes from one end to the other.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ramp {
    Linear,
    Cosine { cycles: f64 },
    OneMinusSqrt,
}

impl Ramp {
    const NAMES: &[&str] = &["linear", "cosine", "1-sqrt"];

    fn named(name: &str, cycles: f64) -> Ramp {
        match name {
            "cosine" => Ramp::Cosine { cycles },
            "1-sqrt" => Ramp::OneMinusSqrt,
            _ => Ramp::Linear,
        }
    }

    /// What is left after this share of the way down.
    fn fall(self, progress: f64) -> f64 {
        match self {
            Ramp::Linear => 1.0 - progress,
            Ramp::Cosine { cycles } => wave(cycles, progress),
            Ramp::OneMinusSqrt => 1.0 - progress.sqrt(),
        }
    }
}

/// `(1 + cos(2 pi cycles progress)) / 2`.
fn wave(cycles: f64, progress: f64) -> f64 {
    0.5 * (1.0 + (PI * cycles * 2.0 * progress).cos())
}

/// What follows warm-up: the factor of the base rate at progress `p` from 0 (end of warm-up) to 1 (end of training).
#[derive(Debug, Clone)]
enum Decay {
    /// 1.
    Constant,
    /// `1 - p`. (LR-01)
    Linear,
    /// Half a cosine wave or more of them, between 1 and a smallest share. (LR-02, LR-08)
    Cosine { cycles: f64, least: f64 },
    /// As before, one update ahead, from a warm-up that need not begin at 0. (LR-09)
    CosineAhead { cycles: f64, least: f64, first: Option<f64> },
    /// Falling halves of cosine waves. (LR-05)
    Restarts { cycles: f64 },
    /// `(1 - p)^power` between 1 and a last share. (LR-06)
    Polynomial { last: f64, power: f64 },
    /// `1 / sqrt((s + shift) / timescale)`. (LR-07)
    InverseSqrt { timescale: f64 },
    /// Warm-up, a plateau of `stable` updates and a decay of `decay` more. (LR-10)
    Stages { stable: f64, decay: f64, up: Ramp, down: Ramp, least: f64 },
    /// Steered by a metric of evaluations. (LR-11, LR-12)
    Adaptive(Adaptive),
}

/// A schedule of one run.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// The rate that factors are of.
    base: f64,
    warmup: f64,
    total: f64,
    decay: Decay,
}

impl Schedule {
    /// The schedule `name` with its options (`lr_scheduler_kwargs`) for a run of `total` updates, of which the first
    /// `warmup` warm up to the rate `base`.
    ///
    /// # Errors
    /// A name that does not exist (all are listed), an option that the schedule does not have or that cannot be.
    pub fn new(
        name: &str,
        options: &Map<String, Value>,
        base: f64,
        warmup: u64,
        total: u64,
    ) -> Result<Schedule, ArgumentError> {
        let mut options = Options::new(name, options);
        let decay = match name {
            "linear" => Decay::Linear,
            "constant" | "constant_with_warmup" => Decay::Constant,
            "cosine" => Decay::Cosine { cycles: options.number("num_cycles", 0.5)?, least: 0.0 },
            "cosine_with_restarts" => Decay::Restarts { cycles: options.count("num_cycles", 1)? as f64 },
            "polynomial" => {
                let last = options.number("lr_end", 1e-7)?;
                if last >= base {
                    let problem = format!("lr_end {last} must be smaller than learning_rate {base}");
                    return Err(options.wrong(problem));
                }
                Decay::Polynomial { last: last / base, power: options.number("power", 1.0)? }
            }
            "inverse_sqrt" => {
                let default = if warmup > 0 { warmup } else { 10_000 };
                let timescale = options.count("timescale", default)?;
                if timescale == 0 {
                    return Err(options.wrong("timescale must be at least 1".into()));
                }
                Decay::InverseSqrt { timescale: timescale as f64 }
            }
            "cosine_with_min_lr" => {
                Decay::Cosine { cycles: options.number("num_cycles", 0.5)?, least: options.least(base)? }
            }
            "cosine_warmup_with_min_lr" => Decay::CosineAhead {
                cycles: options.number("num_cycles", 0.5)?,
                least: options.least(base)?,
                first: options.optional("warmup_lr_rate")?,
            },
            "warmup_stable_decay" => {
                let decay = options.required_count("num_decay_steps")? as f64;
                let stable = options.optional_count("num_stable_steps")?;
                let cycles = options.number("num_cycles", 0.5)?;
                Decay::Stages {
                    stable: stable.map_or(total as f64 - warmup as f64 - decay, |steps| steps as f64),
                    decay,
                    // Half a wave up, whatever `num_cycles` says of the decay.
                    up: Ramp::named(options.choice("warmup_type", Ramp::NAMES, "linear")?, 0.5),
                    down: Ramp::named(options.choice("decay_type", Ramp::NAMES, "cosine")?, cycles),
                    least: options.number("min_lr_ratio", 0.0)?,
                }
            }
            "reduce_lr_on_plateau" => Decay::Adaptive(Adaptive::plateau(&mut options, base)?),
            "greedy" => Decay::Adaptive(Adaptive::greedy(&mut options, base)?),
            _ => {
                let problem = format!("there is no schedule {name:?}; schedules: {}", SCHEDULES.join(", "));
                return Err(ArgumentError::value("lr_scheduler_type", problem));
            }
        };
        options.done()?;
        // `constant` alone has no warm-up, and neither have schedules that are steered.
        let warmup = if name == "constant" || matches!(decay, Decay::Adaptive(_)) { 0 } else { warmup };
        Ok(Schedule { base, warmup: warmup as f64, total: total as f64, decay })
    }

    /// The rate of the update after `step` others.
    pub fn rate(&self, step: u64) -> f64 {
        match &self.decay {
            Decay::Adaptive(adaptive) => adaptive.rate(),
            _ => self.base * self.factor(step as f64),
        }
    }

    fn factor(&self, s: f64) -> f64 {
        let (warmup, total) = (self.warmup, self.total);
        if s < warmup {
            let rise = s / warmup.max(1.0);
            return match self.decay {
                Decay::CosineAhead { first: None, .. } => (s + 1.0) / warmup.max(1.0),
                Decay::CosineAhead { first: Some(first), .. } => first + (1.0 - first) * s / (warmup - 1.0).max(1.0),
                // A rise is a fall, seen from its end.
                Decay::Stages { up, least, .. } => (up.fall(1.0 - rise) * (1.0 - least) + least).max(0.0),
                _ => rise,
            };
        }
        let span = (total - warmup).max(1.0);
        let progress = (s - warmup) / span;
        match &self.decay {
            Decay::Constant | Decay::Adaptive(_) => 1.0,
            Decay::Linear => ((total - s) / span).max(0.0),
            Decay::Cosine { cycles, least } => (wave(*cycles, progress) * (1.0 - least) + least).max(0.0),
            Decay::CosineAhead { cycles, least, .. } => {
                (wave(*cycles, (s - warmup + 1.0) / span) * (1.0 - least) + least).max(0.0)
            }
            Decay::Restarts { .. } if progress >= 1.0 => 0.0,
            Decay::Restarts { cycles } => (0.5 * (1.0 + (PI * ((cycles * progress) % 1.0)).cos())).max(0.0),
            Decay::Polynomial { last, .. } if s > total => *last,
            Decay::Polynomial { last, power } => (1.0 - last) * (1.0 - progress).powf(*power) + last,
            Decay::InverseSqrt { timescale } => 1.0 / ((s + timescale - warmup) / timescale).sqrt(),
            Decay::Stages { stable, .. } if s < warmup + stable => 1.0,
            Decay::Stages { stable, decay, down, least, .. } if s < warmup + stable + decay => {
                let progress = (s - warmup - stable) / decay.max(1.0);
                (down.fall(progress) * (1.0 - least) + least).max(0.0)
            }
            Decay::Stages { least, .. } => *least,
        }
    }

    /// Whether the rate follows a metric, which [`Schedule::observe`] must be told after each evaluation. (TL-03)
    pub fn is_adaptive(&self) -> bool {
        matches!(self.decay, Decay::Adaptive(_))
    }

    /// Takes in the metric of an evaluation; of no effect on schedules that are functions of the step.
    pub fn observe(&mut self, metric: f64) {
        if let Decay::Adaptive(adaptive) = &mut self.decay {
            adaptive.observe(metric);
        }
    }

    /// What a schedule that follows a metric remembers; `None` of others.
    pub fn state(&self) -> Option<Value> {
        match &self.decay {
            Decay::Adaptive(adaptive) => Some(adaptive.state()),
            _ => None,
        }
    }

    /// Puts back what [`Schedule::state`] gave.
    ///
    /// # Errors
    /// A message when it is not the state of this schedule.
    pub fn restore(&mut self, state: &Value) -> Result<(), String> {
        match &mut self.decay {
            Decay::Adaptive(adaptive) => adaptive.restore(state),
            _ => Ok(()),
        }
    }
}
