//! Measuring a language model: prefill of a prompt, then decoding token by token with greedy sampling in the loop.

use std::time::Instant;

use lith_ir::{Op, Program};
use lith_runtime::generation::{Batch, LanguageModel, likeliest};
use lith_runtime::manifest::Manifest;
use serde::Serialize;

use super::{Random, median};
use crate::error::{Error, Result};

/// Bytes that each thread reads to measure the memory roof: more than this machine's share of caches should hold.
const ROOF_BYTES: usize = 256 << 20;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// Tokens of each prompt.
    pub prefill: usize,
    /// Tokens decoded after it.
    pub decode: usize,
    /// Sequences.
    pub batch: usize,
}

/// Bytes that one decoding step reads, besides the cache.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// Weights of linear layers, and other parameters that every step reads.
    pub weights: u64,
    /// Of the cache, for each token of each sequence.
    pub cache_per_token: u64,
}

impl Traffic {
    /// Of a program: all weights but tables that single rows are looked up in, and a page's share of a token.
    pub fn of(program: &Program, manifest: &Manifest) -> Traffic {
        let looked_up = |name: &str| {
            let mut users = program.graphs().flat_map(|(_, graph)| {
                let found = graph
                    .petgraph()
                    .node_indices()
                    .find(|&n| matches!(&graph.node(n).op, Op::Param { name: known, .. } if known == name));
                found.into_iter().flat_map(|n| graph.users(n.into())).map(|(user, _)| &graph.node(user).op)
            });
            users.all(|op| matches!(op, Op::Gather { axis: 0 }))
        };
        let weights = manifest.params.iter().filter(|p| !looked_up(&p.name)).map(|p| p.bytes).sum();
        let cache = manifest.cache.as_ref().map_or(0, |c| c.page_bytes as u64 / c.page_tokens.max(1) as u64);
        Traffic { weights, cache_per_token: cache }
    }
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct LanguageMeasurement {
    /// Tokens of each prompt.
    pub prefill: usize,
    /// Tokens decoded after it.
    pub decode: usize,
    /// Sequences.
    pub batch: usize,
    /// Threads used.
    pub threads: usize,
    /// Prompt tokens of all sequences in a second, median of the rounds.
    pub prefill_tokens_per_s: f64,
    /// Decoded tokens of all sequences in a second, sampling included, median of the rounds.
    pub decode_tokens_per_s: f64,
    /// Bytes read for each decoded token: weights, shared by the batch, and the sequence's cache at the middle of the
    /// decoding.
    pub bytes_per_token: f64,
    /// Bytes a second that this many threads read from memory, in this run.
    pub memory_bytes_per_s: f64,
    /// Share of it that decoding reaches.
    pub memory_roof_share: f64,
}

/// Measures `rounds` rounds of each model in turn; the median of each figure counts.
///
/// # Errors
/// When a model cannot be called, or its cache is too small for the job.
pub fn measure_language(
    models: &mut [(&mut dyn LanguageModel, Traffic)],
    job: Job,
    threads: usize,
    rounds: usize,
) -> Result<Vec<LanguageMeasurement>> {
    let memory = lith_runtime::kernels::read_bandwidth(threads, ROOF_BYTES);
    let mut seconds = vec![(Vec::new(), Vec::new()); models.len()];
    // A round before those that count touches all memory.
    for round in 0..=rounds.max(1) {
        for ((model, _), (prefills, decodes)) in models.iter_mut().zip(&mut seconds) {
            let [prefill, decode] = run(*model, job)?;
            if round > 0 {
                prefills.push(prefill);
                decodes.push(decode);
            }
        }
    }
    let context = (job.prefill + job.decode / 2) as f64;
    let found = models.iter().zip(&mut seconds).map(|((_, traffic), (prefills, decodes))| {
        let decode_tokens_per_s = (job.batch * job.decode) as f64 / median(decodes);
        let bytes_per_token = traffic.weights as f64 / job.batch as f64 + traffic.cache_per_token as f64 * context;
        LanguageMeasurement {
            prefill: job.prefill,
            decode: job.decode,
            batch: job.batch,
            threads,
            prefill_tokens_per_s: (job.batch * job.prefill) as f64 / median(prefills),
            decode_tokens_per_s,
            bytes_per_token,
            memory_bytes_per_s: memory,
            memory_roof_share: decode_tokens_per_s * bytes_per_token / memory,
        }
    });
    Ok(found.collect())
}

/// Seconds of the prefill and of the decoding.
fn run(model: &mut dyn LanguageModel, job: Job) -> Result<[f64; 2]> {
    let page = model.page_tokens();
    let table = (job.prefill + job.decode).div_ceil(page);
    if table * job.batch > model.pages() {
        return Err(Error::input(format!(
            "{} sequences of {} tokens need {} pages of {page} tokens, the cache has {}",
            job.batch,
            job.prefill + job.decode,
            table * job.batch,
            model.pages()
        )));
    }
    let int = |n: usize| i32::try_from(n).map_err(|_| Error::input(format!("{n} tokens are too many")));
    let mut random = Random::new(1);
    let mut batch = Batch::new(table);
    batch.pages = (0..table * job.batch).map(int).collect::<Result<_>>()?;
    batch.past = vec![0; job.batch];
    for sequence in 1..=job.batch {
        batch.offsets.push(int(sequence * job.prefill)?);
        batch.outputs.push(int(sequence * job.prefill - 1)?);
        batch.ids.extend((0..job.prefill).map(|_| random.below(model.vocab_size() as u64) as i32));
    }
    let start = Instant::now();
    let mut next = sample(model, &batch)?;
    let prefill = start.elapsed().as_secs_f64();

    batch.offsets = (0..=job.batch).map(int).collect::<Result<_>>()?;
    batch.outputs = (0..job.batch).map(int).collect::<Result<_>>()?;
    let start = Instant::now();
    for step in 0..job.decode {
        batch.past.fill(int(job.prefill + step)?);
        batch.ids = next;
        next = sample(model, &batch)?;
    }
    Ok([prefill, start.elapsed().as_secs_f64()])
}

/// The likeliest token of each output.
fn sample(model: &mut dyn LanguageModel, batch: &Batch) -> Result<Vec<i32>> {
    let logits = model.forward(batch).map_err(Error::input)?;
    Ok(logits.f32s().chunks_exact(model.vocab_size()).map(|row| likeliest(row).unwrap_or(0) as i32).collect())
}
