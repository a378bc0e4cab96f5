//! Texts joined and cut to blocks of one length, so that no place of a batch is wasted. (DS-05) Must not know tokenizers.

use std::sync::Arc;

use super::error::DataError;
use super::example::{Example, Feature};

/// Joins examples and cuts them to blocks, as they come; what is left at the end and does not fill a block is dropped.
///
/// All lists of an example are joined alike (`input_ids`, `labels`, masks); they must have one entry a token. Other features
/// are dropped: a block is of many examples. Where one text ends and the next begins is not seen, as in Transformers.
#[derive(Debug)]
pub struct Packing {
    block_size: usize,
    waiting: Vec<(Arc<str>, Vec<i32>)>,
    taken: usize,
}

impl Packing {
    /// Blocks of `block_size` tokens.
    ///
    /// # Errors
    /// When `block_size` is 0.
    pub fn new(block_size: usize) -> Result<Packing, DataError> {
        if block_size == 0 {
            return Err(DataError::argument("block_size", "must be at least 1"));
        }
        Ok(Packing { block_size, waiting: Vec::new(), taken: 0 })
    }

    /// Transformers' default for a model that takes `limit` tokens: that many, but no more than 1024.
    pub fn default_block_size(limit: Option<usize>) -> usize {
        limit.map_or(1024, |limit| limit.min(1024))
    }

    /// Adds an example; gives the blocks that are full now.
    ///
    /// # Errors
    /// When the lists of an example differ in length, or its features from those of the examples before.
    pub fn push(&mut self, example: &Example) -> Result<Vec<Example>, DataError> {
        let lists: Vec<(&str, &[i32])> = example
            .fields()
            .filter_map(|(name, feature)| match feature {
                Feature::Ints(values) => Some((name, &values[..])),
                _ => None,
            })
            .collect();
        let tokens = example.tokens();
        if let Some((name, values)) = lists.iter().find(|(_, values)| values.len() != tokens) {
            let problem = format!("{name:?} has {} entries for {tokens} tokens and cannot be joined", values.len());
            return Err(DataError::argument("packing", problem));
        }
        if self.waiting.is_empty() {
            self.waiting = lists.iter().map(|(name, _)| ((*name).into(), Vec::new())).collect();
        }
        let same =
            self.waiting.len() == lists.len() && self.waiting.iter().zip(&lists).all(|((a, _), (b, _))| **a == **b);
        if !same {
            return Err(DataError::argument("packing", "examples have different features"));
        }
        for ((_, waiting), (_, values)) in self.waiting.iter_mut().zip(&lists) {
            waiting.extend_from_slice(values);
        }
        let length = self.waiting.first().map_or(0, |(_, values)| values.len());
        let mut blocks = Vec::new();
        while length - self.taken >= self.block_size {
            let range = self.taken..self.taken + self.block_size;
            let cut = |(name, values): &(Arc<str>, Vec<i32>)| {
                (name.clone(), Feature::Ints(values.get(range.clone()).unwrap_or_default().to_vec()))
            };
            blocks.push(self.waiting.iter().map(cut).fold(Example::new(), |e, (name, feature)| e.with(name, feature)));
            self.taken += self.block_size;
        }
        // What was given out is let go now and then, not with every block.
        if self.taken > length / 2 {
            for (_, values) in &mut self.waiting {
                values.drain(..self.taken);
            }
            self.taken = 0;
        }
        Ok(blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(ids: &[i32]) -> Example {
        let labels = ids.iter().map(|id| id + 100).collect();
        Example::new().with("input_ids", Feature::Ints(ids.to_vec())).with("labels", Feature::Ints(labels))
    }

    /// DS-05: all tokens in order in blocks of one length, the rest dropped.
    #[test]
    fn ds_05_blocks() {
        for block in [1, 2, 3, 7, 10, 11] {
            let mut packing = Packing::new(block).unwrap();
            let parts: [&[i32]; 5] = [&[0, 1], &[], &[2, 3, 4, 5, 6], &[7], &[8, 9]];
            let blocks: Vec<Example> = parts.iter().flat_map(|ids| packing.push(&example(ids)).unwrap()).collect();
            assert_eq!(blocks.len(), 10 / block);
            for (i, example) in blocks.iter().enumerate() {
                let expected: Vec<i32> = (0..block as i32).map(|t| (i * block) as i32 + t).collect();
                assert_eq!(example.ints("input_ids"), Some(&expected[..]), "{block}");
                assert_eq!(example.ints("labels").map(|l| l[0]), Some(expected[0] + 100));
            }
        }
        let mut packing = Packing::new(4).unwrap();
        packing.push(&example(&[1])).unwrap();
        assert!(packing.push(&Example::new().with("input_ids", Feature::Ints(vec![1]))).is_err());
        let uneven = example(&[1]).with("labels", Feature::Ints(vec![]));
        assert!(packing.push(&uneven).is_err());
        assert!(Packing::new(0).is_err());
        assert_eq!(Packing::default_block_size(Some(512)), 512);
        assert_eq!(Packing::default_block_size(Some(8192)), 1024);
        assert_eq!(Packing::default_block_size(None), 1024);
    }
}
