//! The model of the tests: it keeps token ids in its pages and makes logits and hidden states of those it finds there.

use std::collections::HashMap;

use lith_ir::DType;

use super::super::{Batch, ForwardError, LanguageModel};
use crate::tensor::Tensor;

pub const VOCAB: usize = 24;
pub const WIDTH: usize = 4;

pub struct Table {
    pub page_tokens: usize,
    pub pages: usize,
    pub store: Vec<i32>,
    /// Tokens before the last that logits depend on; `None` for all.
    pub memory: Option<usize>,
    /// Another function for another number.
    pub salt: u64,
    /// How much of another function is added to the logits.
    pub noise: f32,
    /// Calls with more tokens than this fail.
    pub most_tokens: usize,
    /// Token counts of the calls.
    pub calls: Vec<usize>,
}

fn mix(x: u64) -> u32 {
    let mut x = x as u32;
    x ^= x >> 15;
    x = x.wrapping_mul(2_246_822_519);
    x ^= x >> 13;
    x = x.wrapping_mul(3_266_489_917);
    x ^ (x >> 16)
}

impl Table {
    pub fn new(pages: usize, page_tokens: usize) -> Table {
        let store = vec![-1; pages * page_tokens];
        Table {
            page_tokens,
            pages,
            store,
            memory: None,
            salt: 0,
            noise: 0.0,
            most_tokens: usize::MAX,
            calls: Vec::new(),
        }
    }

    fn fold(&self, tokens: &[u32]) -> u64 {
        let skip = self.memory.map_or(0, |memory| tokens.len().saturating_sub(memory));
        tokens[skip..].iter().fold(1 + self.salt, |h, &t| (h * 31 + u64::from(t) + 7) % 65_521)
    }

    /// The logits after these tokens.
    pub fn logits(&self, tokens: &[u32]) -> Vec<f32> {
        let h = self.fold(tokens);
        let value = |x: u64| (mix(x) >> 8) as f32 / 2_097_152.0 - 4.0;
        let logit = |v: u64| match self.noise {
            0.0 => value(h * 2_654_435_761 + v * 40_503),
            noise => value(h * 2_654_435_761 + v * 40_503) + noise * value(h * 3_141_592_653 + v),
        };
        (0..VOCAB as u64).map(|v| logit(v) + if v == 0 { 1.0 } else { 0.0 }).collect()
    }

    fn hidden(&self, tokens: &[u32]) -> Vec<f32> {
        let h = self.fold(tokens);
        let value = |j: u64| (f64::from(mix(h * 40_503 + j * 2_654_435_761 + 99) & 0xff) - 127.5) / 64.0;
        (0..WIDTH as u64).map(|j| value(j) as f32).collect()
    }

    /// Writes and reads the cache; the tokens up to each output.
    fn contexts(&mut self, batch: &Batch) -> Result<Vec<Vec<u32>>, ForwardError> {
        self.calls.push(batch.ids.len());
        if batch.ids.len() > self.most_tokens {
            return Err(ForwardError::Memory(format!("{} tokens", batch.ids.len())));
        }
        let sequences = batch.sequences();
        assert_eq!((batch.offsets.len(), batch.pages.len()), (sequences + 1, sequences * batch.table));
        assert_eq!(batch.offsets.last().copied(), Some(batch.ids.len() as i32));
        assert!(batch.outputs.is_sorted_by(|a, b| a < b));
        let span = |s: usize| (batch.offsets[s] as usize..batch.offsets[s + 1] as usize, batch.past[s] as usize);
        let place = |s: usize, position: usize| {
            let page = batch.pages[s * batch.table + position / self.page_tokens] as usize;
            page * self.page_tokens + position % self.page_tokens
        };
        let mut written = HashMap::new();
        for s in 0..sequences {
            let (new, past) = span(s);
            assert!(!new.is_empty(), "sequence {s} has no token");
            for (i, row) in new.enumerate() {
                let slot = place(s, past + i);
                self.store[slot] = batch.ids[row];
                let owner = written.insert(slot / self.page_tokens, s);
                assert!(owner.is_none_or(|owner| owner == s), "two sequences write a page");
            }
        }
        let mut contexts = Vec::new();
        for s in 0..sequences {
            let (new, past) = span(s);
            let all: Vec<u32> = (0..past + new.len())
                .map(|position| {
                    let slot = place(s, position);
                    let owner = written.get(&(slot / self.page_tokens));
                    assert!(owner.is_none_or(|owner| *owner == s), "a page is read that another sequence writes");
                    u32::try_from(self.store[slot]).expect("a position is read that was never written")
                })
                .collect();
            let outputs = batch.outputs.iter().map(|row| *row as usize).filter(|row| new.contains(row));
            contexts.extend(outputs.map(|row| all[..past + row - new.start + 1].to_vec()));
        }
        assert_eq!(contexts.len(), batch.outputs.len());
        Ok(contexts)
    }
}

fn tensor(rows: &[Vec<f32>], width: usize) -> Tensor {
    Tensor::from_bytes(DType::F32, vec![rows.len(), width], bytemuck::cast_slice(&rows.concat())).unwrap()
}

impl LanguageModel for Table {
    fn vocab_size(&self) -> usize {
        VOCAB
    }

    fn max_positions(&self) -> Option<usize> {
        Some(1000)
    }

    fn page_tokens(&self) -> usize {
        self.page_tokens
    }

    fn pages(&self) -> usize {
        self.pages
    }

    fn forward(&mut self, batch: &Batch) -> Result<Tensor, ForwardError> {
        let contexts = self.contexts(batch)?;
        let rows: Vec<Vec<f32>> = contexts.iter().map(|tokens| self.logits(tokens)).collect();
        Ok(tensor(&rows, VOCAB))
    }

    fn copy_page(&mut self, from: u32, to: u32) {
        let n = self.page_tokens;
        self.store.copy_within(from as usize * n..(from as usize + 1) * n, to as usize * n);
    }

    fn hidden_size(&self) -> Option<usize> {
        Some(WIDTH)
    }

    fn forward_hidden(&mut self, batch: &Batch) -> Result<(Tensor, Tensor), ForwardError> {
        let contexts = self.contexts(batch)?;
        let logits: Vec<Vec<f32>> = contexts.iter().map(|tokens| self.logits(tokens)).collect();
        let hidden: Vec<Vec<f32>> = contexts.iter().map(|tokens| self.hidden(tokens)).collect();
        Ok((tensor(&logits, VOCAB), tensor(&hidden, WIDTH)))
    }
}
