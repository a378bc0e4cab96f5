//! Measuring steps of training on random tokens.

use std::time::Instant;

use lith_ir::DType;
use lith_runtime::tensor::Tensor;
use lith_runtime::training::collate::Batch;
use lith_runtime::training::compiled::{CompiledTraining, Moment};
use serde::Serialize;

use super::{Random, RandomTokens, median};
use crate::error::{Error, Result};

/// Steps of training of one shape.
#[derive(Clone, Debug, Serialize)]
pub struct Steps {
    /// Batch and length, or `mixed`.
    pub shape: String,
    /// Threads used.
    pub threads: usize,
    /// Steps in a second, by the median step.
    pub steps_per_s: f64,
    /// The most memory that the process has had, in units of 10^6 bytes.
    pub peak_mb: f64,
}

/// Steps that are measured, after two that are not.
const STEPS: usize = 9;

/// Measures steps on sequences of these lengths, ids below `vocabulary`, one label of `labels` for each sequence.
///
/// # Errors
/// When the program cannot be called.
pub fn measure(
    training: &CompiledTraining,
    shape: &str,
    lengths: &[usize],
    vocabulary: usize,
    labels: usize,
) -> Result<Steps> {
    let mut random = Random::new(1);
    let mut seconds = Vec::new();
    for step in 0..STEPS + 2 {
        let batch = batch(lengths, vocabulary, labels, &mut random)?;
        let moment =
            Moment { learning_rate: 5e-5, step: step as u64 + 1, items: lengths.len() as f32, key: [1, step as u32] };
        let start = Instant::now();
        training.call("train_step", &batch, &moment).map_err(Error::failure)?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    let steps_per_s = 1.0 / median(&mut seconds[2..]);
    Ok(Steps {
        shape: shape.into(),
        threads: training.program().threads(),
        steps_per_s,
        peak_mb: peak_bytes() as f64 / 1e6,
    })
}

fn batch(lengths: &[usize], vocabulary: usize, labels: usize, random: &mut Random) -> Result<Batch> {
    let RandomTokens { ids, offsets, .. } = RandomTokens::new(lengths, vocabulary, random);
    let labels: Vec<i32> = lengths.iter().map(|_| random.below(labels as u64) as i32).collect();
    let mut batch = Batch::default();
    for (name, values) in [("input_ids", ids), ("offsets", offsets), ("labels", labels)] {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let tensor = Tensor::from_bytes(DType::I32, vec![values.len()], &bytes);
        batch.set(name, tensor.ok_or_else(|| Error::failure("a batch that does not fit memory"))?);
    }
    Ok(batch)
}

/// The most memory that this process has had resident, as the system counts it; 0 where it does not tell.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|l| l.trim().strip_suffix("kB")).and_then(|n| n.trim().parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}
