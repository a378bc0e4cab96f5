//! Language models in tests: sequences in a paged cache, fed by hand.

use std::path::Path;

use lith_runtime::generation::{Batch, LanguageModel, likeliest};
use lith_runtime::model::{CacheSize, CompiledLanguageModel};
use lith_runtime::program::Program;

/// A sequence in the cache: its pages, and how many of its tokens they hold.
#[derive(Clone)]
pub struct Cached {
    pages: Vec<i32>,
    past: usize,
}

/// Loads an artifact with room for so many tokens.
pub fn load(path: &Path, threads: usize, tokens: usize) -> CompiledLanguageModel {
    CompiledLanguageModel::new(Program::open(path, threads).unwrap(), CacheSize::Tokens(tokens)).unwrap()
}

/// Adds tokens to each sequence; the logits of the last `wanted` of them, sequence by sequence.
pub fn feed(
    model: &mut CompiledLanguageModel,
    sequences: &mut [(&mut Cached, &[i32])],
    wanted: usize,
) -> Vec<Vec<f32>> {
    let table = sequences.iter().map(|(s, _)| s.pages.len()).max().unwrap();
    let mut batch = Batch::new(table);
    for (sequence, tokens) in sequences.iter_mut() {
        batch.ids.extend(*tokens);
        let end = batch.ids.len() as i32;
        batch.offsets.push(end);
        batch.outputs.extend(end - wanted.min(tokens.len()) as i32..end);
        batch.past.push(sequence.past as i32);
        batch.pages.extend(sequence.pages.iter().copied().chain(std::iter::repeat(0)).take(table));
        sequence.past += tokens.len();
    }
    let logits = model.forward(&batch).unwrap_or_else(|e| panic!("{e}"));
    logits.f32s().chunks_exact(model.vocab_size()).map(<[f32]>::to_vec).collect()
}

/// New sequences of up to `tokens` tokens, whose pages lie between each other's, from the last one on.
pub fn fresh(model: &CompiledLanguageModel, count: usize, tokens: usize) -> Vec<Cached> {
    let each = tokens.div_ceil(model.page_tokens());
    assert!(each * count <= model.pages());
    let last = (each * count) as i32 - 1;
    (0..count).map(|i| Cached { pages: (0..each).map(|p| last - (p * count + i) as i32).collect(), past: 0 }).collect()
}

/// The logits of a prompt's last token.
pub fn prompt_logits(model: &mut CompiledLanguageModel, prompt: &[i32]) -> Vec<f32> {
    let mut state = fresh(model, 1, prompt.len()).remove(0);
    feed(model, &mut [(&mut state, prompt)], 1).remove(0)
}

/// The likeliest tokens after a prompt, one by one, up to `most` or an `end`.
pub fn greedy(model: &mut CompiledLanguageModel, prompt: &[i32], most: usize, end: i32) -> Vec<i32> {
    let mut state = fresh(model, 1, prompt.len() + most).remove(0);
    let (mut found, mut next) = (Vec::new(), prompt.to_vec());
    while found.len() < most && found.last() != Some(&end) {
        let logits = feed(model, &mut [(&mut state, &next)], 1);
        next = vec![likeliest(&logits[0]).unwrap() as i32];
        found.extend(&next);
    }
    found
}

/// e to the mean negative log-probability of every token after the first of each window of `window` tokens.
pub fn perplexity(model: &mut CompiledLanguageModel, ids: &[i32], window: usize) -> f64 {
    let (mut sum, mut count) = (0.0f64, 0usize);
    for window in ids.chunks(window).filter(|w| w.len() > 1) {
        let mut state = fresh(model, 1, window.len()).remove(0);
        let mut at = 0;
        for part in window.chunks(128) {
            for row in feed(model, &mut [(&mut state, part)], part.len()) {
                at += 1;
                let Some(&next) = window.get(at) else { break };
                let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let total: f64 = row.iter().map(|&x| f64::from(x - most).exp()).sum();
                sum += total.ln() - f64::from(row[next as usize] - most);
                count += 1;
            }
        }
    }
    (sum / count as f64).exp()
}
