//! A run of training: the loop over epochs and updates.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Map, Value};

use super::feed::{Fed, Feed, TrainData, listed, order};
use super::plan::Plan;
use super::progress::{self, Progress};
use super::{Trainer, TrainerError, metric_of, rounded};
use crate::training::arguments::{CountTokens, SaveStrategy};
use crate::training::callbacks::Event;
use crate::training::checkpoint::{CheckpointError, check, load_weights, save_checkpoint};
use crate::training::data::Draws;
use crate::training::program::{Role, StepError, StepScalars, Update};
use crate::training::schedule::Schedule;
use crate::training::state::{Logs, TrainerState, figure};

/// Where a run begins. (TA-24, EC-20)
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Resume {
    /// At the program's own weights.
    #[default]
    No,
    /// At the last checkpoint of `output_dir`.
    Last,
    /// At this checkpoint.
    From(PathBuf),
}

impl Resume {
    /// What `resume_from_checkpoint` says: a path, `true` for the last one, `false` or nothing for none.
    pub fn from_argument(argument: Option<&str>) -> Resume {
        match argument {
            None | Some("false" | "False") => Resume::No,
            Some("true" | "True" | "last") => Resume::Last,
            Some(path) => Resume::From(path.into()),
        }
    }
}

/// What training gives. (TL-15)
#[derive(Debug, Clone, PartialEq)]
pub struct TrainOutput {
    /// Updates done.
    pub global_step: u64,
    /// Mean loss of all updates.
    pub training_loss: f64,
    /// `train_loss`, `train_runtime`, speeds, `total_flos` and `epoch`.
    pub metrics: Logs,
}

/// What a run has beside the trainer.
struct Run {
    plan: Plan,
    schedule: Schedule,
    progress: Progress,
}

impl Run {
    /// Updates that changed the weights, which the schedule goes by. (TL-03)
    fn updates(&self, state: &TrainerState) -> u64 {
        state.global_step.saturating_sub(self.progress.skipped)
    }
}

impl Trainer<'_> {
    /// Trains, from the beginning or a checkpoint.
    ///
    /// # Errors
    /// [`TrainerError`]. Checkpoints saved until then stay.
    pub fn train(&mut self, resume: &Resume) -> Result<TrainOutput, TrainerError> {
        let Some(train) = &self.train else { return Err(TrainerError::conflict("there is no training data")) };
        let length = train.len();
        self.folder.recover(&*self.disk)?;
        let start = match resume {
            Resume::No => None,
            Resume::Last => Some(self.folder.last()?),
            Resume::From(path) => Some(path.clone()),
        };
        let callbacks = self.callbacks.states();
        let mut batch_size = self.args.per_device_train_batch_size;
        self.saved.clear();
        loop {
            let plan = Plan::new(&self.args, length, batch_size)?;
            let ended = self.run(plan, start.as_deref());
            let smaller = batch_size * 9 / 10;
            match ended {
                Err(error @ TrainerError::Memory { argument: TRAIN_BATCH, .. }) if self.args.auto_find_batch_size => {
                    if smaller == 0 {
                        return Err(error);
                    }
                    tracing::warn!("{error}: training begins again with batches of {smaller} in place of {batch_size}");
                    self.folder.forget(&*self.disk, &std::mem::take(&mut self.saved))?;
                    // All is as if the run had begun with the smaller batch.
                    self.program.reset().map_err(|source| TrainerError::Program { place: "reset".into(), source })?;
                    self.callbacks.restore(&callbacks, true).map_err(TrainerError::conflict)?;
                    batch_size = smaller;
                }
                other => return other,
            }
        }
    }

    fn run(&mut self, plan: Plan, start: Option<&Path>) -> Result<TrainOutput, TrainerError> {
        let args = &self.args;
        let options = args.schedule_options();
        let warmup = args.warmup(plan.max_steps);
        let schedule = Schedule::new(&args.lr_scheduler_type, &options, args.learning_rate, warmup, plan.max_steps)?;
        let epochs = if plan.examples.is_some() { plan.epochs } else { 0 };
        self.state = TrainerState::new(args, plan.max_steps, epochs, plan.batch_size);
        let mut run = Run { plan, schedule, progress: Progress::default() };
        if let Some(path) = start {
            self.take_over(path, &mut run)?;
        }
        let began = Instant::now();
        let first_step = self.state.global_step;
        self.tell(Event::TrainBegin)?;
        if self.args.eval_on_start && self.state.global_step == 0 {
            self.evaluate()?;
        }
        // A checkpoint may be of the last update, with the end of its epoch still to come.
        while run.progress.open
            || self.state.global_step < plan.max_steps
                && run.progress.epoch < plan.epochs
                && !self.control.should_training_stop
        {
            self.epoch(&mut run)?;
        }
        self.finish(&mut run, began, first_step)
    }

    /// Puts program, state, callbacks and loop where a checkpoint left them.
    fn take_over(&mut self, path: &Path, run: &mut Run) -> Result<(), TrainerError> {
        let fresh = self.state.clone();
        // All is checked before anything is changed.
        let checkpoint = check(path, &self.files.stem, self.program)?;
        let unusable = |problem: String| CheckpointError::Unusable { path: checkpoint.path.clone(), problem };
        let entry = checkpoint.state.stateful_callbacks.get(progress::NAME);
        let entry = entry.ok_or_else(|| unusable("its trainer_state.json is not of Lith".into()))?.clone();
        let (progress, schedule) = Progress::restore(&entry).map_err(unusable)?;
        run.schedule.restore(&schedule).map_err(unusable)?;
        let settings = self.args.restore_callback_states_from_checkpoint;
        self.callbacks.restore(&checkpoint.state.stateful_callbacks, settings).map_err(unusable)?;
        self.state = checkpoint.state.clone();
        checkpoint.apply(self.program)?;
        for difference in Progress::differences(&entry, &self.args, &run.plan) {
            tracing::warn!("{difference}");
        }
        run.progress = progress;
        if self.args.ignore_data_skip {
            run.progress.examples = 0;
        }
        let best = self.state.best_model_checkpoint.take();
        self.state.best_model_checkpoint = best.filter(|best| {
            let exists = Path::new(best).is_dir();
            if !exists {
                tracing::warn!("the best checkpoint {best} does not exist any more");
            }
            exists
        });
        // Strategies and lengths are those of this run.
        let intervals = [
            ("logging_steps", self.state.logging_steps, fresh.logging_steps),
            ("eval_steps", self.state.eval_steps, fresh.eval_steps),
            ("save_steps", self.state.save_steps, fresh.save_steps),
        ];
        for (name, then, now) in intervals.iter().filter(|(_, then, now)| then != now) {
            tracing::warn!("the checkpoint was made with {name} {then}, this run has {now}");
        }
        self.state.logging_steps = fresh.logging_steps;
        self.state.eval_steps = fresh.eval_steps;
        self.state.save_steps = fresh.save_steps;
        self.state.max_steps = fresh.max_steps;
        self.state.num_train_epochs = fresh.num_train_epochs;
        self.state.train_batch_size = fresh.train_batch_size;
        Ok(())
    }

    /// The batches of the epoch that is next, from where it was left.
    fn feed(&mut self, run: &Run) -> Result<Feed, TrainerError> {
        let (epoch, done, size) = (run.progress.epoch, run.progress.examples, run.plan.batch_size);
        let collator = self.collator.clone();
        match &mut self.train {
            Some(TrainData::Examples(examples)) => {
                let group = size.saturating_mul(self.args.gradient_accumulation_steps);
                let strategy = self.args.train_sampling_strategy;
                let order = order(&**examples, strategy, self.args.order_seed(), epoch, group)?;
                let end = run.plan.examples.map_or(usize::MAX, |end| usize::try_from(end).unwrap_or(usize::MAX));
                Ok(Feed::ordered(examples.clone(), order, end, collator, size, epoch, done))
            }
            Some(TrainData::Stream(open)) => Ok(Feed::streamed(open(epoch, done)?, collator, size, epoch, done)),
            None => Err(TrainerError::conflict("there is no training data")),
        }
    }

    /// An epoch, or what is left of it.
    fn epoch(&mut self, run: &mut Run) -> Result<(), TrainerError> {
        let plan = run.plan;
        run.progress.open = true;
        self.tell(Event::EpochBegin)?;
        let mut feed = self.feed(run)?;
        let mut ended = false;
        loop {
            // Windows never reach over the end of an epoch: the last may be short.
            let mut window = Vec::new();
            if self.state.global_step < plan.max_steps {
                while (window.len() as u64) < plan.window {
                    match feed.next()? {
                        Some(fed) => window.push(fed),
                        None => break,
                    }
                }
            }
            if window.is_empty() {
                ended = true;
                break;
            }
            run.progress.examples = feed.done;
            self.update(run, &window)?;
            self.log_evaluate_save(run)?;
            if self.control.should_epoch_stop || self.control.should_training_stop {
                break;
            }
        }
        if feed.done == 0 && self.state.global_step < plan.max_steps {
            let epoch = run.progress.epoch;
            return Err(TrainerError::conflict(format!("the stream of training data gives nothing in epoch {epoch}")));
        }
        // An epoch that is left for good is not gone on with; one at whose midst training stops may be.
        if plan.examples.map_or(ended, |all| feed.done >= all) || self.control.should_epoch_stop {
            (run.progress.epoch, run.progress.examples) = (run.progress.epoch + 1, 0);
        }
        run.progress.open = false;
        self.tell(Event::EpochEnd)?;
        self.log_evaluate_save(run)
    }

    /// One update from the batches of a window. (TL-01, TL-06)
    fn update(&mut self, run: &mut Run, window: &[Fed]) -> Result<(), TrainerError> {
        let plan = run.plan;
        let items: f64 = window.iter().map(|fed| self.program.items(&fed.batch)).sum();
        let updates = run.updates(&self.state);
        let rate = run.schedule.rate(updates);
        let mut scalars = StepScalars {
            learning_rate: rate as f32,
            step: updates + 1,
            inverse_items: if items > 0.0 { (1.0 / items) as f32 } else { 0.0 },
            key: [0; 2],
        };
        // The generator's key is a function of seed, update and batch alone; epochs' orders have the streams from 0 up.
        let keys = Draws::new(self.args.seed, !self.state.global_step);
        self.tell(Event::StepBegin)?;
        let mut loss = 0.0;
        let mut update = Update { grad_norm: 0.0, skipped: false };
        for (at, fed) in window.iter().enumerate() {
            let bits = keys.bits(at as u64);
            scalars.key = [bits as u32, (bits >> 32) as u32];
            let last = at + 1 == window.len();
            let sum = if window.len() == 1 {
                self.tell(Event::PreOptimizerStep)?;
                let (sum, done) =
                    self.program.train_step(&fed.batch, &scalars).map_err(|e| self.failed(run, fed, e))?;
                update = done;
                sum
            } else {
                self.program.accumulate(&fed.batch, &scalars).map_err(|e| self.failed(run, fed, e))?
            };
            if !sum.is_finite() && !self.scales_losses() {
                return Err(self.not_finite(run, "loss", sum, fed));
            }
            loss += f64::from(sum);
            self.count(fed);
            if !last {
                self.tell(Event::SubstepEnd)?;
            } else if window.len() > 1 {
                self.tell(Event::PreOptimizerStep)?;
                update = self.program.apply(&scalars).map_err(|e| self.failed(run, fed, e))?;
            }
            if last && !update.skipped {
                let what = [("loss", sum), ("norm of the gradients", update.grad_norm)];
                if let Some((what, value)) = what.iter().find(|(_, value)| !value.is_finite()) {
                    return Err(self.not_finite(run, what, *value, fed));
                }
            }
        }
        self.tell(Event::OptimizerStep)?;
        let mean = if items > 0.0 { loss / items } else { 0.0 };
        // Under a loss scale a step may be left out; its loss then counts as the mean of the others. (TA-29)
        let open = (self.state.global_step - run.progress.logged_step) as f64;
        run.progress.open_loss += if mean.is_finite() { mean } else { run.progress.open_loss / (1.0 + open) };
        run.progress.skipped += u64::from(update.skipped);
        run.progress.last = Some((f64::from(update.grad_norm), rate));
        self.state.global_step += 1;
        let batches = run.progress.examples.div_ceil(plan.batch_size as u64);
        self.state.epoch = run.progress.epoch as f64 + batches as f64 / plan.batches as f64;
        self.tell(Event::StepEnd)
    }

    /// Whether overflows are part of training, since losses are scaled.
    fn scales_losses(&self) -> bool {
        self.args.fp16
    }

    fn count(&mut self, fed: &Fed) {
        let tokens = fed.tokens();
        self.state.num_input_tokens_seen += match self.args.include_num_input_tokens_seen {
            CountTokens::NonPadding => fed.attended(),
            CountTokens::All | CountTokens::No => tokens,
        };
        let weights = self.program.tensors().iter().filter(|spec| spec.role != Role::Optimizer);
        let elements: u64 = weights.map(|spec| spec.elements()).sum();
        let counted = elements.saturating_sub(self.program.embedding_parameters());
        self.state.total_flos += 6.0 * tokens as f64 * counted as f64;
    }

    fn batch_number(&self, run: &Run) -> u64 {
        run.progress.examples.div_ceil(run.plan.batch_size as u64)
    }

    fn not_finite(&self, run: &Run, what: &'static str, value: f32, fed: &Fed) -> TrainerError {
        TrainerError::NotFinite {
            what,
            value,
            step: self.state.global_step + 1,
            epoch: run.progress.epoch,
            batch: self.batch_number(run),
            examples: listed(&fed.numbers),
        }
    }

    fn failed(&self, run: &Run, fed: &Fed, error: StepError) -> TrainerError {
        match error {
            StepError::Memory(problem) => fed.out_of_memory(problem, TRAIN_BATCH, TRAIN_HINT),
            source => TrainerError::Program {
                place: format!(
                    "update {}, epoch {}, examples {}",
                    self.state.global_step + 1,
                    run.progress.epoch,
                    listed(&fed.numbers)
                ),
                source,
            },
        }
    }

    /// What callbacks asked for after an update or an epoch.
    fn log_evaluate_save(&mut self, run: &mut Run) -> Result<(), TrainerError> {
        let open = self.state.global_step - run.progress.logged_step;
        if self.control.should_log && open > 0 {
            let mut logs = Logs::new();
            logs.insert("loss".into(), figure(run.progress.open_loss / open as f64));
            if let Some((norm, rate)) = run.progress.last {
                logs.insert("grad_norm".into(), figure(norm));
                logs.insert("learning_rate".into(), figure(rate));
            }
            run.progress.logged_loss += run.progress.open_loss;
            run.progress.open_loss = 0.0;
            run.progress.logged_step = self.state.global_step;
            self.log(logs)?;
        }
        if self.control.should_evaluate {
            let metrics = self.evaluate()?;
            if run.schedule.is_adaptive() {
                run.schedule.observe(metric_of(&self.args, &metrics)?.unwrap_or(f64::NAN));
            }
            let best = self.judge(&metrics)?;
            if self.args.save_strategy == SaveStrategy::Best {
                self.control.should_save = best;
            }
        }
        if self.control.should_save {
            let checkpoint = self.save(run)?;
            self.tell(Event::Save(&checkpoint))?;
        }
        Ok(())
    }

    /// Whether the metrics are better than all before. (EC-09)
    fn judge(&mut self, metrics: &Logs) -> Result<bool, TrainerError> {
        let Some(value) = metric_of(&self.args, metrics)? else { return Ok(false) };
        let more = self.args.greater_is_better == Some(true);
        let best = self.state.best_metric;
        let better = !value.is_nan() && best.is_none_or(|best| if more { value > best } else { value < best });
        if better {
            self.state.best_metric = Some(value);
            self.state.best_global_step =
                (self.args.save_strategy != SaveStrategy::No).then_some(self.state.global_step);
        }
        Ok(better)
    }

    fn save(&mut self, run: &Run) -> Result<PathBuf, TrainerError> {
        let step = self.state.global_step;
        if let Some(best) = self.state.best_global_step {
            let checkpoint = self.folder.checkpoint(best);
            if best == step || checkpoint.is_dir() {
                self.state.best_model_checkpoint = Some(checkpoint.to_string_lossy().into_owned());
            }
        }
        let mut remembered: Map<String, Value> = self.callbacks.states();
        remembered.insert("TrainerControl".into(), self.control.state());
        let entry = run.progress.state(&self.args, &run.plan, run.schedule.state());
        remembered.insert(progress::NAME.into(), entry);
        self.state.stateful_callbacks = remembered;
        let resumable = !self.args.save_only_model;
        let (disk, args) = (&*self.disk, self.args.to_json());
        let saved = save_checkpoint(disk, &self.folder, self.program, &self.files, &args, &self.state, resumable)?;
        let best = self.state.best_model_checkpoint.as_ref().and(self.state.best_global_step);
        self.folder.rotate(disk, self.args.save_total_limit, best)?;
        self.saved.push(step);
        Ok(saved)
    }

    /// Figures of the whole run, the best weights where they are wanted. (TL-15, EC-15)
    fn finish(&mut self, run: &mut Run, began: Instant, first_step: u64) -> Result<TrainOutput, TrainerError> {
        let seconds = began.elapsed().as_secs_f64().max(1e-9);
        let steps = self.state.global_step;
        let here = (steps - first_step) as f64;
        let loss = (run.progress.logged_loss + run.progress.open_loss) / (steps as f64).max(1.0);
        let samples = run.plan.samples * here / (self.state.max_steps as f64).max(1.0);
        let mut metrics = Logs::new();
        metrics.insert("train_runtime".into(), rounded(seconds, 4));
        metrics.insert("train_samples_per_second".into(), rounded(samples / seconds, 3));
        metrics.insert("train_steps_per_second".into(), rounded(here / seconds, 3));
        metrics.insert("total_flos".into(), figure(self.state.total_flos));
        metrics.insert("train_loss".into(), figure(loss));
        self.log(metrics.clone())?;
        metrics.insert("epoch".into(), figure(self.state.epoch));

        if self.args.load_best_model_at_end {
            match &self.state.best_model_checkpoint {
                Some(best) if Path::new(best).is_dir() => {
                    load_weights(Path::new(best), &self.files.stem, self.program)?
                }
                Some(best) => tracing::warn!("the best checkpoint {best} does not exist: the last weights stay"),
                None => tracing::warn!("no checkpoint is the best: the last weights stay"),
            }
        }
        // With a limit of one the best alone stays.
        if let (Some(1), Some(best), Some(_)) =
            (self.args.save_total_limit, self.state.best_global_step, &self.state.best_model_checkpoint)
        {
            self.folder.keep_only(&*self.disk, best)?;
        }
        self.tell(Event::TrainEnd)?;
        Ok(TrainOutput { global_step: steps, training_loss: loss, metrics })
    }
}

/// The argument that says how large batches of training are.
const TRAIN_BATCH: &str = "per_device_train_batch_size";
const TRAIN_HINT: &str =
    ", use gradient_accumulation_steps or activation_checkpointing, or let auto_find_batch_size find a size";
