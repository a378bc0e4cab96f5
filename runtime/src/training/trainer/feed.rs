//! Which examples make which batch: the order of an epoch as a function of seed and epoch, so that any place of it is
//! found at once (EC-21), and the batches from there on.

use std::sync::Arc;

use super::TrainerError;
use crate::training::arguments::SamplingStrategy;
use crate::training::collate::{Batch, Collator, Sample};
use crate::training::data::{DataError, Example, Examples, permutation};

/// The examples of a stream's epoch, from one of them on.
pub type ExampleStream = Box<dyn Iterator<Item = Result<Example, DataError>>>;

/// What is learnt from.
pub enum TrainData {
    /// Examples that can be read in any order.
    Examples(Arc<dyn Examples>),
    /// More than memory holds: called with an epoch and a number of its examples to leave out, gives the rest. The same
    /// epoch must give the same examples each time. (DS-06)
    Stream(Box<dyn FnMut(u64, u64) -> Result<ExampleStream, DataError>>),
}

impl TrainData {
    /// Number of examples, where it is known.
    pub fn len(&self) -> Option<usize> {
        match self {
            TrainData::Examples(examples) => Some(examples.len()),
            TrainData::Stream(_) => None,
        }
    }

    /// Whether there is certainly none.
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }
}

/// Orders of `0..examples.len()`: a function of the seed and the epoch. (TI-06)
pub(super) fn order(
    examples: &dyn Examples,
    strategy: SamplingStrategy,
    seed: u64,
    epoch: u64,
    group: usize,
) -> Result<Vec<usize>, DataError> {
    let n = examples.len();
    Ok(match strategy {
        SamplingStrategy::Sequential => (0..n).collect(),
        SamplingStrategy::Random | SamplingStrategy::BatchRebalance => permutation(n, seed, epoch),
        SamplingStrategy::GroupByLength => {
            let lengths = (0..n).map(|at| examples.tokens(at)).collect::<Result<Vec<_>, _>>()?;
            grouped(permutation(n, seed, epoch), &lengths, group)
        }
    })
}

/// Examples of like length together: the order is cut into pieces of up to 50 groups, each sorted by falling length, and
/// the longest of all comes first, so that memory is short at once or never.
fn grouped(mut order: Vec<usize>, lengths: &[usize], group: usize) -> Vec<usize> {
    let groups = (order.len() / group.saturating_mul(4).max(1)).clamp(1, 50);
    let piece = group.saturating_mul(groups).max(1);
    for piece in order.chunks_mut(piece) {
        piece.sort_by_key(|&at| std::cmp::Reverse(lengths[at]));
    }
    let longest = (0..order.len()).step_by(piece).max_by_key(|&at| (lengths[order[at]], std::cmp::Reverse(at)));
    if let Some(longest) = longest {
        order.swap(0, longest);
    }
    order
}

/// A batch, and the numbers of its examples in the data.
#[derive(Debug)]
pub(super) struct Fed {
    pub(super) batch: Batch,
    pub(super) numbers: Vec<u64>,
}

impl Fed {
    /// Tokens of the batch, padding included.
    pub(super) fn tokens(&self) -> u64 {
        self.batch.get("input_ids").map_or(0, |ids| ids.shape().iter().product::<usize>() as u64)
    }

    /// Tokens of the batch without padding.
    pub(super) fn attended(&self) -> u64 {
        match self.batch.get("attention_mask") {
            Some(_) => self.batch.i32s("attention_mask").iter().filter(|&&mask| mask != 0).count() as u64,
            None => self.tokens(),
        }
    }

    /// The error of a batch that memory does not suffice for. (TL-18)
    pub(super) fn out_of_memory(&self, problem: String, argument: &'static str, more: &'static str) -> TrainerError {
        let ends = self.batch.i32s("offsets").windows(2).map(|pair| pair[1].saturating_sub(pair[0]));
        let padded = self.batch.get("input_ids").and_then(|ids| ids.shape().get(1).copied()).unwrap_or(0);
        let longest = ends.max().map_or(padded, |longest| usize::try_from(longest).unwrap_or(0));
        TrainerError::Memory {
            examples: self.numbers.len(),
            tokens: usize::try_from(self.tokens()).unwrap_or(usize::MAX),
            longest,
            problem,
            argument,
            more,
        }
    }
}

/// The batches of an epoch from one example on.
pub(super) struct Feed {
    source: Source,
    collator: Arc<dyn Collator>,
    batch_size: usize,
    /// Examples given so far, with those left out.
    pub(super) done: u64,
    epoch: u64,
}

enum Source {
    Examples { examples: Arc<dyn Examples>, order: Vec<usize>, end: usize },
    Stream(ExampleStream),
}

impl Feed {
    /// The batches of an ordered epoch, of which `end` examples are used.
    pub(super) fn ordered(
        examples: Arc<dyn Examples>,
        order: Vec<usize>,
        end: usize,
        collator: Arc<dyn Collator>,
        batch_size: usize,
        epoch: u64,
        done: u64,
    ) -> Feed {
        let end = end.min(order.len());
        Feed { source: Source::Examples { examples, order, end }, collator, batch_size, done, epoch }
    }

    /// The batches of a stream that begins after `done` examples.
    pub(super) fn streamed(
        stream: ExampleStream,
        collator: Arc<dyn Collator>,
        batch_size: usize,
        epoch: u64,
        done: u64,
    ) -> Feed {
        Feed { source: Source::Stream(stream), collator, batch_size, done, epoch }
    }

    /// The next batch; `None` at the end of the epoch.
    pub(super) fn next(&mut self) -> Result<Option<Fed>, TrainerError> {
        let mut taken: Vec<Example> = Vec::new();
        let mut numbers: Vec<u64> = Vec::new();
        let per_epoch = match &mut self.source {
            Source::Examples { examples, order, end } => {
                let from = usize::try_from(self.done).unwrap_or(usize::MAX).min(*end);
                for &at in order.iter().take(*end).skip(from).take(self.batch_size) {
                    taken.push(examples.get(at)?);
                    numbers.push(at as u64);
                }
                examples.len() as u64
            }
            Source::Stream(stream) => {
                for (at, example) in stream.by_ref().take(self.batch_size).enumerate() {
                    taken.push(example?);
                    numbers.push(self.done + at as u64);
                }
                // Epochs of streams have no known length; visits are told apart by a large one.
                1 << 40
            }
        };
        if taken.is_empty() {
            return Ok(None);
        }
        let first = self.epoch.wrapping_mul(per_epoch);
        let samples: Vec<Sample<'_>> = taken
            .iter()
            .zip(&numbers)
            .map(|(example, &number)| Sample { example, draw: first.wrapping_add(number) })
            .collect();
        let batch = self.collator.collate(&samples).map_err(|source| TrainerError::Collate {
            place: format!("epoch {}, examples {}", self.epoch, listed(&numbers)),
            source,
        })?;
        self.done += taken.len() as u64;
        Ok(Some(Fed { batch, numbers }))
    }
}

/// Numbers as a message lists them.
pub(super) fn listed(numbers: &[u64]) -> String {
    const MOST: usize = 16;
    let mut text: Vec<String> = numbers.iter().take(MOST).map(u64::to_string).collect();
    if numbers.len() > MOST {
        text.push(format!("and {} more", numbers.len() - MOST));
    }
    text.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::data::Feature;

    fn examples(lengths: &[usize]) -> Vec<Example> {
        lengths.iter().map(|&n| Example::new().with("input_ids", Feature::Ints(vec![1; n]))).collect()
    }

    /// TI-06: each strategy gives each example once; random ones differ by seed and epoch and by nothing else; of groups
    /// the longest comes first and neighbours are alike.
    #[test]
    fn ti_06_orders() {
        let lengths: Vec<usize> = (0..400).map(|i| 1 + (i * 37) % 101).collect();
        let data = examples(&lengths);
        let of = |strategy, seed, epoch| order(&data, strategy, seed, epoch, 4).unwrap();
        for strategy in [SamplingStrategy::Random, SamplingStrategy::Sequential, SamplingStrategy::GroupByLength] {
            let mut sorted = of(strategy, 1, 0);
            sorted.sort_unstable();
            assert_eq!(sorted, (0..400).collect::<Vec<_>>());
            assert_eq!(of(strategy, 1, 0), of(strategy, 1, 0));
            let fixed = strategy == SamplingStrategy::Sequential;
            assert_eq!(of(strategy, 1, 0) == of(strategy, 2, 0), fixed);
            assert_eq!(of(strategy, 1, 0) == of(strategy, 1, 1), fixed);
        }
        let groups = of(SamplingStrategy::GroupByLength, 1, 0);
        assert_eq!(Some(&lengths[groups[0]]), lengths.iter().max());
        let spread = |order: &[usize]| -> usize {
            let spread = |batch: &[usize]| {
                let lengths = || batch.iter().map(|&at| lengths[at]);
                lengths().max().unwrap() - lengths().min().unwrap()
            };
            order.chunks(4).map(spread).sum()
        };
        assert!(spread(&groups) * 10 < spread(&of(SamplingStrategy::Random, 1, 0)));
        assert_eq!(order(&examples(&[]), SamplingStrategy::GroupByLength, 1, 0, 4).unwrap(), [0usize; 0]);
        assert_eq!(order(&examples(&[3]), SamplingStrategy::GroupByLength, 1, 0, 4).unwrap(), [0]);
    }
}
