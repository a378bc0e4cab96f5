//! A program that learns `y = w x + b`, with the data and the parts around it.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use lith_ir::DType;
use serde_json::Value;

use super::frail::Frail;
use crate::tensor::Tensor;
use crate::training::arguments::TrainingArguments;
use crate::training::callbacks::{Callback, CallbackError, Event, TrainerControl};
use crate::training::collate::{Batch, CollateError, Collator, Sample};
use crate::training::data::{Draws, Example, Feature};
use crate::training::program::{Evaluation, Role, StepError, StepScalars, TensorSpec, TrainProgram, Update};
use crate::training::state::TrainerState;
use crate::training::trainer::{TrainData, Trainer, TrainerParts};

pub(super) const WIDTH: usize = 3;

pub(super) fn f32s(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_bytes(DType::F32, shape.to_vec(), bytemuck::cast_slice(values)).unwrap()
}

/// Linear regression with Adam. Weights are `w`, `b` and a frozen `scale` of the inputs; for each weight that learns there
/// are two moments. Losses are squared errors, one for each example.
#[derive(Clone)]
pub(super) struct Linear {
    pub(super) specs: Vec<TensorSpec>,
    pub(super) values: Vec<Tensor>,
    pub(super) gradient: [f32; WIDTH + 1],
    /// Share of inputs that are left out in training.
    pub(super) dropout: f64,
    /// More examples than this do not fit into memory.
    pub(super) memory: usize,
    /// From this update on the loss is no number.
    pub(super) breaks_at: Option<u64>,
    /// Updates that are left out, as under a loss scale.
    pub(super) skips: Vec<u64>,
    /// All calls: what, scalars, examples.
    pub(super) calls: Vec<(&'static str, StepScalars, usize)>,
}

impl Linear {
    pub(super) fn new() -> Self {
        let spec = |name: &str, shape: &[usize], role| TensorSpec {
            name: name.into(),
            dtype: DType::F32,
            shape: shape.to_vec(),
            role,
        };
        let specs = vec![
            spec("w", &[WIDTH], Role::Trainable),
            spec("b", &[1], Role::Trainable),
            spec("scale", &[1], Role::Frozen),
            spec("w.exp_avg", &[WIDTH], Role::Optimizer),
            spec("b.exp_avg", &[1], Role::Optimizer),
            spec("w.exp_avg_sq", &[WIDTH], Role::Optimizer),
            spec("b.exp_avg_sq", &[1], Role::Optimizer),
        ];
        let mut program = Linear {
            values: Vec::new(),
            specs,
            gradient: [0.0; WIDTH + 1],
            dropout: 0.0,
            memory: usize::MAX,
            breaks_at: None,
            skips: Vec::new(),
            calls: Vec::new(),
        };
        program.reset().unwrap();
        program
    }

    pub(super) fn dropping(share: f64) -> Self {
        Linear { dropout: share, ..Linear::new() }
    }

    /// Another model of the same kind with one more weight.
    pub(super) fn wider() -> Self {
        let mut program = Linear::new();
        program.specs[0].shape = vec![WIDTH + 1];
        program.values[0] = f32s(&[WIDTH + 1], &[0.0; WIDTH + 1]);
        program
    }

    /// Another model of the same kind with one weight less.
    pub(super) fn without_bias() -> Self {
        let mut program = Linear::new();
        program.specs.remove(1);
        program.values.remove(1);
        program
    }

    /// Another model of the same kind whose frozen weight differs.
    pub(super) fn scaled(scale: f32) -> Self {
        let mut program = Linear::new();
        program.values[2] = f32s(&[1], &[scale]);
        program
    }

    pub(super) fn all(&self) -> Vec<u8> {
        self.values.iter().flat_map(|tensor| tensor.bytes().to_vec()).collect()
    }

    pub(super) fn weights(&self) -> Vec<f32> {
        [self.values[0].f32s(), self.values[1].f32s()].concat()
    }

    /// Loss of the batch; adds its gradients where a key says which inputs are left out.
    fn pass(&mut self, batch: &Batch, learn: Option<&StepScalars>) -> Result<(f32, Vec<f32>), StepError> {
        let (x, y) = (batch.f32s("x").to_vec(), batch.f32s("labels").to_vec());
        if y.is_empty() || x.len() != y.len() * WIDTH {
            return Err(StepError::Batch(format!("{} inputs for {} labels", x.len(), y.len())));
        }
        if y.len() > self.memory {
            self.gradient = [0.0; WIDTH + 1];
            return Err(StepError::Memory(format!("{} bytes", y.len() * 4)));
        }
        let weights = self.weights();
        let scale = self.values[2].f32s()[0];
        let draws = learn.map(|s| Draws::new(u64::from(s.key[0]) << 32 | u64::from(s.key[1]), 0));
        let mut loss = 0.0;
        let mut logits = Vec::new();
        for (row, (x, y)) in x.chunks(WIDTH).zip(&y).enumerate() {
            let place = |i: usize| (row * WIDTH + i) as u64;
            let kept = |i: usize| draws.is_none_or(|draws| draws.uniform(place(i)) >= self.dropout);
            let x: Vec<f32> = (0..WIDTH).map(|i| if kept(i) { x[i] * scale } else { 0.0 }).collect();
            let logit: f32 = x.iter().zip(&weights).map(|(x, w)| x * w).sum::<f32>() + weights[WIDTH];
            let error = logit - y;
            loss += error * error;
            logits.push(logit);
            if let Some(scalars) = learn {
                for (i, gradient) in self.gradient.iter_mut().enumerate() {
                    *gradient += 2.0 * error * x.get(i).unwrap_or(&1.0) * scalars.inverse_items;
                }
            }
        }
        let broken = learn.is_some_and(|scalars| self.breaks_at.is_some_and(|at| scalars.step >= at));
        Ok((if broken { f32::NAN } else { loss }, logits))
    }

    fn adam(&mut self, scalars: &StepScalars) -> Update {
        let gradient = std::mem::take(&mut self.gradient);
        let grad_norm = gradient.iter().map(|g| g * g).sum::<f32>().sqrt();
        if self.skips.contains(&(self.calls.iter().filter(|(what, ..)| *what != "accumulate").count() as u64)) {
            return Update { grad_norm: f32::INFINITY, skipped: true };
        }
        let clip = (1.0 / (grad_norm + 1e-6)).min(1.0);
        for (i, gradient) in gradient.iter().enumerate() {
            let (which, at) = if i < WIDTH { (0, i) } else { (1, 0) };
            let mut value = |tensor: usize| {
                let values: &mut [f32] = bytemuck::cast_slice_mut(self.values[tensor].bytes_mut());
                std::mem::take(&mut values[at])
            };
            let (w, m, v) = (value(which), value(3 + which), value(5 + which));
            let g = gradient * clip;
            let (m, v) = (0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g);
            let correct = |beta: f32| 1.0 - beta.powi(scalars.step as i32);
            let w = w - scalars.learning_rate * (m / correct(0.9)) / ((v / correct(0.999)).sqrt() + 1e-8);
            for (tensor, value) in [(which, w), (3 + which, m), (5 + which, v)] {
                let values: &mut [f32] = bytemuck::cast_slice_mut(self.values[tensor].bytes_mut());
                values[at] = value;
            }
        }
        Update { grad_norm, skipped: false }
    }

    fn place(&self, name: &str) -> Result<usize, StepError> {
        let at = self.specs.iter().position(|spec| spec.name == name);
        at.ok_or_else(|| StepError::Tensor(format!("no tensor {name}")))
    }
}

impl TrainProgram for Linear {
    fn train_step(&mut self, batch: &Batch, scalars: &StepScalars) -> Result<(f32, Update), StepError> {
        let (loss, logits) = self.pass(batch, Some(scalars))?;
        self.calls.push(("train_step", *scalars, logits.len()));
        Ok((loss, self.adam(scalars)))
    }

    fn accumulate(&mut self, batch: &Batch, scalars: &StepScalars) -> Result<f32, StepError> {
        let (loss, logits) = self.pass(batch, Some(scalars))?;
        self.calls.push(("accumulate", *scalars, logits.len()));
        Ok(loss)
    }

    fn apply(&mut self, scalars: &StepScalars) -> Result<Update, StepError> {
        self.calls.push(("apply", *scalars, 0));
        Ok(self.adam(scalars))
    }

    fn eval_step(&mut self, batch: &Batch) -> Result<Evaluation, StepError> {
        let (loss, logits) = self.pass(batch, None)?;
        Ok(Evaluation { loss_sum: Some(loss), outputs: vec![("logits".into(), f32s(&[logits.len()], &logits))] })
    }

    fn reset(&mut self) -> Result<(), StepError> {
        self.values = self.specs.iter().map(|spec| Tensor::zeros(spec.dtype, spec.shape.clone()).unwrap()).collect();
        self.values[2] = f32s(&[1], &[0.5]);
        self.gradient = [0.0; WIDTH + 1];
        Ok(())
    }

    fn tensors(&self) -> &[TensorSpec] {
        &self.specs
    }

    fn read(&self, name: &str) -> Result<Tensor, StepError> {
        Ok(self.values[self.place(name)?].clone())
    }

    fn write(&mut self, name: &str, tensor: &Tensor) -> Result<(), StepError> {
        let at = self.place(name)?;
        let spec = &self.specs[at];
        if spec.role == Role::Frozen || tensor.shape() != spec.shape || tensor.dtype() != spec.dtype {
            return Err(StepError::Tensor(format!("{name} does not take {:?}", tensor.shape())));
        }
        self.values[at] = tensor.clone();
        Ok(())
    }
}

/// Stacks `x` and `labels`; counts draws of samples.
pub(super) struct Stack;

impl Collator for Stack {
    fn collate(&self, samples: &[Sample<'_>]) -> Result<Batch, CollateError> {
        let mut x = Vec::new();
        let mut labels = Vec::new();
        for (at, sample) in samples.iter().enumerate() {
            match (sample.example.get("x"), sample.example.get("labels")) {
                (Some(Feature::Floats(values)), Some(Feature::Float(label))) => {
                    x.extend_from_slice(values);
                    labels.push(*label);
                }
                _ => return Err(CollateError::Missing { sample: at, name: "x".into(), known: String::new() }),
            }
        }
        let mut batch = Batch::default();
        batch.set("x", f32s(&[labels.len(), WIDTH], &x));
        batch.set("labels", f32s(&[labels.len()], &labels));
        Ok(batch)
    }
}

/// `n` examples of a line with noise.
pub(super) fn examples(n: usize) -> Vec<Example> {
    let draws = Draws::new(11, 0);
    let value = |i: usize, j: usize| draws.uniform((i * 8 + j) as u64) as f32 * 2.0 - 1.0;
    (0..n)
        .map(|i| {
            let x: Vec<f32> = (0..WIDTH).map(|j| value(i, j)).collect();
            let y = 3.0 * x[0] - x[1] + 0.5 + 0.1 * value(i, 7);
            Example::new().with("x", Feature::Floats(x)).with("labels", Feature::Float(y))
        })
        .collect()
}

/// Arguments with a folder, from JSON.
pub(super) fn arguments(folder: &Path, values: Value) -> TrainingArguments {
    let mut args = TrainingArguments {
        output_dir: folder.to_string_lossy().into_owned(),
        learning_rate: 0.05,
        ..TrainingArguments::default()
    };
    args.set_all(values.as_object().unwrap()).unwrap();
    args
}

/// The parts of a trainer over `n` examples, and a quarter of that to evaluate.
pub(super) fn parts<'a>(program: &'a mut Linear, folder: &Path, values: Value, n: usize) -> TrainerParts<'a> {
    let mut parts = TrainerParts::new(program, arguments(folder, values), Arc::new(Stack));
    let all = examples(n + n / 4);
    parts.train = Some(TrainData::Examples(Arc::new(all[..n].to_vec())));
    parts.eval = vec![(None, Arc::new(all[n..].to_vec()))];
    parts
}

/// A trainer that does not wait for the hardware to write.
pub(super) fn made(parts: TrainerParts<'_>) -> Trainer<'_> {
    Trainer::on_disk(parts, Box::new(Frail::endless())).unwrap()
}

/// What [`parts`] make.
pub(super) fn trainer<'a>(program: &'a mut Linear, folder: &Path, values: Value, n: usize) -> Trainer<'a> {
    made(parts(program, folder, values, n))
}

/// Notes the names of events.
#[derive(Clone, Default)]
pub(super) struct Notes(pub(super) Rc<RefCell<Vec<String>>>);

impl Callback for Notes {
    fn name(&self) -> &'static str {
        "Notes"
    }

    fn on(
        &mut self,
        event: &Event<'_>,
        _: &TrainingArguments,
        state: &TrainerState,
        _: &mut TrainerControl,
    ) -> Result<(), CallbackError> {
        let name = match event {
            Event::Log(_) | Event::Save(_) | Event::StepEnd => format!("{} {}", event.name(), state.global_step),
            _ => event.name().to_string(),
        };
        self.0.borrow_mut().push(name);
        Ok(())
    }
}

/// Asks for something at an event after an update.
pub(super) struct Ask(pub(super) &'static str, pub(super) u64, pub(super) fn(&mut TrainerControl));

impl Callback for Ask {
    fn name(&self) -> &'static str {
        "Ask"
    }

    fn on(
        &mut self,
        event: &Event<'_>,
        _: &TrainingArguments,
        state: &TrainerState,
        control: &mut TrainerControl,
    ) -> Result<(), CallbackError> {
        if event.name() == self.0 && state.global_step == self.1 {
            (self.2)(control);
        }
        Ok(())
    }
}
