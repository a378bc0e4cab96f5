//! Measuring a program on random inputs: whole calls, from ids to output.

pub mod calibrate;
pub mod language;
pub mod program;
pub mod train;

use std::time::{Duration, Instant};

use lith_ir::plan::PAGE_TOKENS;
use lith_runtime::program::Program;
use lith_runtime::tensor::View;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::inspect::flops::Flops;

/// Batch and length of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Sequences.
    pub batch: usize,
    /// Tokens of each.
    pub length: usize,
}

impl Shape {
    /// The length of each sequence.
    pub fn lengths(self) -> Vec<usize> {
        vec![self.length; self.batch]
    }
}

impl std::str::FromStr for Shape {
    type Err = String;
    fn from_str(s: &str) -> std::result::Result<Self, String> {
        let parsed = s.split_once('x').and_then(|(b, l)| Some((b.parse().ok()?, l.parse().ok()?)));
        match parsed {
            Some((batch @ 1..=65536, length @ 1..=1_048_576)) => Ok(Shape { batch, length }),
            _ => Err(format!("`{s}` is no shape; expected BATCHxLENGTH, as 8x128")),
        }
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.batch, self.length)
    }
}

/// Lengths of sequences as real ones differ: 64 drawn evenly from 5 to 200 tokens, 7006 in all, in the order they were
/// drawn (NumPy's `default_rng(7).integers(5, 201, 64)`, so that others can be measured on the same).
pub const MIXED: [usize; 64] = [
    190, 127, 139, 180, 118, 157, 168, 49, 15, 63, 60, 176, 183, 6, 102, 165, 30, 161, 28, 96, 165, 64, 71, 59, 146,
    54, 199, 92, 98, 103, 119, 113, 104, 200, 163, 160, 142, 126, 71, 198, 96, 47, 170, 36, 173, 125, 27, 13, 92, 11,
    32, 105, 195, 96, 163, 184, 166, 128, 91, 105, 57, 102, 79, 53,
];

/// What was measured for one shape.
#[derive(Clone, Debug, Serialize)]
pub struct Measurement {
    /// Batch and length, or `mixed`.
    pub shape: String,
    /// Sequences of a call.
    pub sequences: usize,
    /// Tokens of a call.
    pub tokens: usize,
    /// Threads used.
    pub threads: usize,
    /// Median of the calls in milliseconds.
    pub median_ms: f64,
    /// Tokens in a second.
    pub tokens_per_s: f64,
    /// Matrix-product and attention operations in a second, in units of 10^9.
    pub gflops_per_s: f64,
}

/// A small generator of random ids (xorshift64*, Vigna 2016); measurements need no better one.
pub struct Random(u64);

impl Random {
    /// A generator of this seed.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `bound` (at least 1).
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound.max(1)
    }
}

/// Random token sequences of these lengths, one after the other, as the entry point `forward` takes them: of a language
/// model as new sequences in a cache of [`RandomTokens::pages`] pages, with the logits of each one's last token.
pub struct RandomTokens {
    ids: Vec<i32>,
    types: Vec<i32>,
    offsets: Vec<i32>,
    past: Vec<i32>,
    /// Page numbers that each sequence has room for.
    table: usize,
    pages: Vec<i32>,
    outputs: Vec<i32>,
}

impl RandomTokens {
    /// Ids below `vocab`.
    pub fn new(lengths: &[usize], vocab: usize, random: &mut Random) -> RandomTokens {
        let tokens: usize = lengths.iter().sum();
        let mut offsets = vec![0i32];
        offsets.extend(lengths.iter().scan(0i32, |end, &l| {
            *end = end.saturating_add(i32::try_from(l).unwrap_or(i32::MAX));
            Some(*end)
        }));
        let ids = (0..tokens).map(|_| random.below(vocab as u64) as i32).collect();
        let table = lengths.iter().max().map_or(0, |longest| longest.div_ceil(PAGE_TOKENS));
        // From the last page on: a page table in order would hide one that is not read.
        let pages = (0..(table * lengths.len()) as i32).rev().collect();
        let outputs = offsets[1..].iter().map(|end| end - 1).collect();
        RandomTokens { ids, types: vec![0; tokens], past: vec![0; lengths.len()], offsets, table, pages, outputs }
    }

    /// Pages of the cache that the sequences need.
    pub fn pages(&self) -> usize {
        self.pages.len()
    }

    /// Calls `run` with the arguments of an entry point by name.
    ///
    /// # Errors
    /// When the entry point takes something that is no token input.
    pub fn with_args<T>(
        &self,
        program: &Program,
        entry: &str,
        run: impl FnOnce(&[(&str, View<'_>)]) -> Result<T>,
    ) -> Result<T> {
        let (tokens, bounds) = ([self.ids.len()], [self.offsets.len()]);
        let (sequences, tables) = ([self.past.len()], [self.past.len(), self.table]);
        let manifest = program.manifest();
        let found = manifest.entry(entry).ok_or_else(|| Error::input(format!("no entry point `{entry}`")))?;
        let mut args = Vec::new();
        for arg in &found.args {
            args.push((
                arg.name.as_str(),
                match arg.name.as_str() {
                    "input_ids" => View::i32(&tokens, &self.ids),
                    "token_type_ids" => View::i32(&tokens, &self.types),
                    "offsets" => View::i32(&bounds, &self.offsets),
                    "past" => View::i32(&sequences, &self.past),
                    "pages" => View::i32(&tables, &self.pages),
                    "outputs" => View::i32(&sequences, &self.outputs),
                    other => return Err(Error::input(format!("`{entry}` takes `{other}`, which is no token input"))),
                },
            ));
        }
        run(&args)
    }
}

/// Measures calls of `forward` on random ids in sequences of these lengths, of each program in turn: after three calls
/// of each to warm up, at least five and at most two hundred calls, about three seconds for each program; the median
/// counts.
///
/// # Errors
/// When a program cannot be called.
pub fn measure(
    programs: &[(&Program, Flops)],
    shape: &str,
    lengths: &[usize],
    vocab: usize,
) -> Result<Vec<Measurement>> {
    const BUDGET: Duration = Duration::from_secs(3);
    let input = RandomTokens::new(lengths, vocab, &mut Random::new(0));
    let call = |program: &Program| {
        input.with_args(program, "forward", |args| {
            let start = Instant::now();
            program.run("forward", args).map_err(Error::input)?;
            Ok(start.elapsed().as_secs_f64())
        })
    };
    for (program, _) in programs {
        (0..3).try_for_each(|_| call(program).map(drop))?;
    }
    let mut times = vec![Vec::new(); programs.len()];
    let start = Instant::now();
    let mut calls = 0;
    while calls < 5 || (start.elapsed() < BUDGET * programs.len() as u32 && calls < 200) {
        for ((program, _), times) in programs.iter().zip(&mut times) {
            times.push(call(program)?);
        }
        calls += 1;
    }
    let tokens: usize = lengths.iter().sum();
    let found = programs.iter().zip(times).map(|((program, flops), mut times)| {
        let median = median(&mut times);
        let operations: i64 = lengths.iter().map(|&length| flops.at(1, length as i64).unwrap_or(0)).sum();
        Measurement {
            shape: shape.into(),
            sequences: lengths.len(),
            tokens,
            threads: program.threads(),
            median_ms: median * 1e3,
            tokens_per_s: tokens as f64 / median,
            gflops_per_s: operations as f64 / median / 1e9,
        }
    });
    Ok(found.collect())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixed_lengths() {
        assert_eq!(MIXED.iter().sum::<usize>(), 7006);
        assert_eq!((MIXED.iter().min(), MIXED.iter().max()), (Some(&6), Some(&200)));
    }

    #[test]
    fn shapes_parse() {
        assert_eq!("8x128".parse(), Ok(Shape { batch: 8, length: 128 }));
        for bad in ["", "8", "x", "0x4", "8x0", "8x-1", "8xx2", "99999999x1"] {
            assert!(bad.parse::<Shape>().is_err(), "{bad}");
        }
    }
}
