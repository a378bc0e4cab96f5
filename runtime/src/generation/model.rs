//! What generation knows of a language model: token batches over a paged cache in, logits out. Knows no program, no
//! architecture and no tokenizer.

use crate::tensor::Tensor;

/// One call: tokens of any number of sequences, each continuing what the cache holds of it. Prefill, a chunk of it,
/// decoding and checking of guessed tokens are all this.
///
/// The cache is `LanguageModel::pages` pages of `LanguageModel::page_tokens` tokens. Position `p` of sequence `s` lies in
/// page `pages[s * table + p / page_tokens]`, at `p % page_tokens`. The call writes the positions
/// `past[s]..past[s] + new tokens of s` and reads those before; two sequences may share pages that neither writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The new tokens of all sequences, one sequence after the other.
    pub ids: Vec<i32>,
    /// Sequence `s` has the new tokens `offsets[s]..offsets[s + 1]`; starts with 0. Every sequence has at least one.
    pub offsets: Vec<i32>,
    /// For each sequence how many of its tokens the cache holds already.
    pub past: Vec<i32>,
    /// For each sequence `table` page numbers, row-major; entries past those it needs are 0.
    pub pages: Vec<i32>,
    /// Page numbers of each sequence.
    pub table: usize,
    /// Indices in `ids` of the tokens whose logits are wanted, ascending; may be empty.
    pub outputs: Vec<i32>,
}

impl Batch {
    /// An empty batch whose sequences have room for `table` page numbers.
    pub fn new(table: usize) -> Batch {
        Batch { offsets: vec![0], table, ..Batch::default() }
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.past.len()
    }

    /// Adds a sequence: its new tokens, of which the last `outputs` have logits, after `past` that the cache holds in
    /// these pages.
    pub(super) fn push(&mut self, tokens: impl Iterator<Item = u32>, outputs: usize, past: usize, pages: &[u32]) {
        // Ids are below the vocabulary's size and positions below the cache's, both of which count in i32.
        self.ids.extend(tokens.map(|id| id as i32));
        let end = self.ids.len();
        self.offsets.push(end as i32);
        self.past.push(past as i32);
        self.pages.extend(pages.iter().map(|&page| page as i32));
        self.pages.resize(self.past.len() * self.table, 0);
        self.outputs.extend((end - outputs..end).map(|row| row as i32));
    }
}

/// Why a call of a language model failed.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The machine's memory does not suffice for the call; the cache is as it was.
    #[error("out of memory: {0}")]
    Memory(String),
    /// The batch does not fit the model: a bug of the caller.
    #[error("{0}")]
    Batch(String),
    /// The model cannot give what is asked for.
    #[error("this model does not give {0}")]
    Unsupported(&'static str),
}

/// A language model with its cache. Calls come one at a time.
pub trait LanguageModel: Send {
    /// Logits of a token.
    fn vocab_size(&self) -> usize;

    /// Most tokens of a sequence, where positions are limited.
    fn max_positions(&self) -> Option<usize>;

    /// Tokens of a page.
    fn page_tokens(&self) -> usize;

    /// Pages of the cache. Memory is taken as pages are first used.
    fn pages(&self) -> usize;

    /// Runs the batch: `f32[outputs, vocab]`. Each row's bits depend on its own sequence alone: not on what else is in the
    /// batch, nor on how the sequence was cut into calls.
    ///
    /// # Errors
    /// [`ForwardError`].
    fn forward(&mut self, batch: &Batch) -> Result<Tensor, ForwardError>;

    /// Copies a page of the cache.
    ///
    /// # Panics
    /// When there is no such page.
    fn copy_page(&mut self, from: u32, to: u32);

    /// Width of the hidden states that [`LanguageModel::forward_hidden`] gives; `None` where it gives none.
    fn hidden_size(&self) -> Option<usize> {
        None
    }

    /// As [`LanguageModel::forward`], and the hidden states that the logits are made of (of the last layer, after its
    /// norm): `f32[outputs, hidden_size]`.
    ///
    /// # Errors
    /// [`ForwardError`].
    fn forward_hidden(&mut self, batch: &Batch) -> Result<(Tensor, Tensor), ForwardError> {
        let _ = batch;
        Err(ForwardError::Unsupported("hidden states"))
    }
}

/// What points to a language model is one.
macro_rules! pointers {
    ($($pointer:ty),*) => {
        $(impl<M: LanguageModel + ?Sized> LanguageModel for $pointer {
            fn vocab_size(&self) -> usize {
                (**self).vocab_size()
            }

            fn max_positions(&self) -> Option<usize> {
                (**self).max_positions()
            }

            fn page_tokens(&self) -> usize {
                (**self).page_tokens()
            }

            fn pages(&self) -> usize {
                (**self).pages()
            }

            fn forward(&mut self, batch: &Batch) -> Result<Tensor, ForwardError> {
                (**self).forward(batch)
            }

            fn copy_page(&mut self, from: u32, to: u32) {
                (**self).copy_page(from, to);
            }

            fn hidden_size(&self) -> Option<usize> {
                (**self).hidden_size()
            }

            fn forward_hidden(&mut self, batch: &Batch) -> Result<(Tensor, Tensor), ForwardError> {
                (**self).forward_hidden(batch)
            }
        })*
    };
}

pointers!(&mut M, Box<M>);
