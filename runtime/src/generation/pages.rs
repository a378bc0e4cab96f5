//! The pages of the cache: who holds them, sharing, copy on write, and the prefixes that are kept for later requests.
//! Must not know what lies in a page.

use std::collections::VecDeque;

use super::error::GenerationError;

/// Prefixes that are looked through for each new request.
const MOST_KEPT: usize = 256;

/// A sequence of tokens and the pages that hold the first `cached` of them. Sequences are given back to their pool by
/// [`PagePool::release`]; one that is dropped keeps its pages from everybody.
#[derive(Debug, Default)]
pub struct Sequence {
    /// Prompt and text.
    pub tokens: Vec<u32>,
    pages: Vec<u32>,
    cached: usize,
}

impl Sequence {
    /// Tokens that the cache holds.
    pub fn cached(&self) -> usize {
        self.cached
    }

    /// The pages, in order of position.
    pub fn pages(&self) -> &[u32] {
        &self.pages
    }

    /// Tokens that are not in the cache yet.
    pub fn pending(&self) -> &[u32] {
        self.tokens.get(self.cached..).unwrap_or_default()
    }

    /// Notes that the model has written `tokens` more, for which [`PagePool::grow`] made room.
    pub(super) fn advance(&mut self, tokens: usize) {
        self.cached += tokens;
    }
}

/// Tokens of a finished sequence whose pages are kept until they are needed.
#[derive(Debug)]
struct Kept {
    tokens: Vec<u32>,
    pages: Vec<u32>,
}

/// All pages of a cache: a free list, reference counts, and kept prefixes, least recently used first.
#[derive(Debug)]
pub struct PagePool {
    page_tokens: usize,
    /// Pages given back; taken before those never used, so that memory is touched late.
    free: Vec<u32>,
    /// For each page ever used, how many sequences and kept prefixes hold it.
    references: Vec<u32>,
    pages: usize,
    kept: VecDeque<Kept>,
}

impl PagePool {
    /// A pool of `pages` free pages of `page_tokens` tokens.
    pub fn new(pages: usize, page_tokens: usize) -> PagePool {
        let pages = pages.min(u32::MAX as usize);
        PagePool {
            page_tokens: page_tokens.max(1),
            free: Vec::new(),
            references: Vec::new(),
            pages,
            kept: VecDeque::new(),
        }
    }

    /// Pages in all.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Pages that no sequence and no kept prefix holds.
    pub fn free_pages(&self) -> usize {
        self.free.len() + (self.pages - self.references.len())
    }

    /// Pages that `tokens` tokens take.
    pub fn pages_of(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.page_tokens)
    }

    /// A new sequence. With `reuse` it starts with the longest kept prefix of `tokens`, shared page by page; at least the
    /// last token is left to run, since its logits are wanted.
    pub fn start(&mut self, tokens: Vec<u32>, reuse: bool) -> Sequence {
        let most = if reuse { tokens.len().saturating_sub(1) } else { 0 };
        let common = |kept: &Kept| kept.tokens.iter().zip(&tokens[..most]).take_while(|(a, b)| a == b).count();
        let best = self.kept.iter().enumerate().map(|(i, kept)| (common(kept), i)).max().filter(|(n, _)| *n > 0);
        let Some((cached, i)) = best else {
            return Sequence { tokens, ..Sequence::default() };
        };
        let needed = self.pages_of(cached);
        let mut pages = Vec::new();
        // Used last: it goes to the end.
        if let Some(kept) = self.kept.remove(i) {
            pages.extend_from_slice(kept.pages.get(..needed).unwrap_or_default());
            self.kept.push_back(kept);
        }
        self.retain(&pages);
        Sequence { tokens, pages, cached }
    }

    /// A sequence that shares all pages of this one.
    pub fn fork(&mut self, sequence: &Sequence) -> Sequence {
        self.retain(&sequence.pages);
        Sequence { tokens: sequence.tokens.clone(), pages: sequence.pages.clone(), cached: sequence.cached }
    }

    /// Makes room for the next `tokens` tokens in pages that no one else holds; a shared page that is partly filled is
    /// copied by `copy(from, to)`. Kept prefixes make room where pages run short.
    ///
    /// # Errors
    /// [`GenerationError::Pages`]; the sequence is still to be released.
    pub fn grow(
        &mut self,
        sequence: &mut Sequence,
        tokens: usize,
        copy: &mut dyn FnMut(u32, u32),
    ) -> Result<(), GenerationError> {
        let first = sequence.cached / self.page_tokens;
        let end = self.pages_of(sequence.cached + tokens);
        for index in first..end {
            let shared = match sequence.pages.get(index) {
                Some(&page) if self.references[page as usize] == 1 => continue,
                shared => shared.copied(),
            };
            let Some(page) = self.take() else {
                return Err(GenerationError::Pages {
                    tokens: sequence.cached + tokens,
                    need: end,
                    have: index,
                    page_tokens: self.page_tokens,
                });
            };
            match shared {
                Some(old) => {
                    if index == first && !sequence.cached.is_multiple_of(self.page_tokens) {
                        copy(old, page);
                    }
                    self.give(old);
                    sequence.pages[index] = page;
                }
                None => sequence.pages.push(page),
            }
        }
        Ok(())
    }

    /// Forgets what the cache holds past `cached` tokens.
    pub fn truncate(&mut self, sequence: &mut Sequence, cached: usize) {
        sequence.cached = sequence.cached.min(cached);
        let keep = self.pages_of(sequence.cached).min(sequence.pages.len());
        for page in sequence.pages.split_off(keep) {
            self.give(page);
        }
    }

    /// Gives the pages back.
    pub fn release(&mut self, sequence: Sequence) {
        sequence.pages.into_iter().for_each(|page| self.give(page));
    }

    /// Keeps what the cache holds of a running sequence, in whole pages, for requests that begin alike.
    pub fn keep_pages_of(&mut self, sequence: &Sequence) {
        let pages = sequence.cached / self.page_tokens;
        let tokens = sequence.tokens.get(..pages * self.page_tokens).unwrap_or_default().to_vec();
        let pages = sequence.pages.get(..pages).unwrap_or_default().to_vec();
        self.retain(&pages);
        self.keep(Kept { tokens, pages });
    }

    /// Gives a finished sequence back, but keeps its pages until they are needed.
    pub fn release_kept(&mut self, mut sequence: Sequence) {
        let cached = sequence.cached.min(sequence.tokens.len());
        self.truncate(&mut sequence, cached);
        sequence.tokens.truncate(cached);
        self.keep(Kept { tokens: sequence.tokens, pages: sequence.pages });
    }

    /// Forgets all kept prefixes.
    pub fn clear_kept(&mut self) {
        while self.evict() {}
    }

    fn keep(&mut self, new: Kept) {
        let known = self.kept.iter().any(|old| old.tokens.starts_with(&new.tokens));
        if new.tokens.is_empty() || known {
            new.pages.into_iter().for_each(|page| self.give(page));
            return;
        }
        for old in std::mem::take(&mut self.kept) {
            if new.tokens.starts_with(&old.tokens) {
                old.pages.into_iter().for_each(|page| self.give(page));
            } else {
                self.kept.push_back(old);
            }
        }
        self.kept.push_back(new);
        if self.kept.len() > MOST_KEPT {
            self.evict();
        }
    }

    /// Gives up the prefix that was used longest ago; false when there is none.
    fn evict(&mut self) -> bool {
        let Some(kept) = self.kept.pop_front() else { return false };
        kept.pages.into_iter().for_each(|page| self.give(page));
        true
    }

    fn take(&mut self) -> Option<u32> {
        loop {
            if let Some(page) = self.free.pop() {
                self.references[page as usize] = 1;
                return Some(page);
            }
            if self.references.len() < self.pages {
                self.references.push(1);
                return u32::try_from(self.references.len() - 1).ok();
            }
            if !self.evict() {
                return None;
            }
        }
    }

    fn retain(&mut self, pages: &[u32]) {
        pages.iter().for_each(|&page| self.references[page as usize] += 1);
    }

    fn give(&mut self, page: u32) {
        let references = &mut self.references[page as usize];
        *references -= 1;
        if *references == 0 {
            self.free.push(page);
        }
    }
}
