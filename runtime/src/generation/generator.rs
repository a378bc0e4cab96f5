//! Many requests at once over one model: prompts in parts, all running sequences in one call, events as tokens come.
//! Must not know how tokens are chosen. (GE-32, GE-45, GE-46, GE-48)

use std::collections::VecDeque;

use super::draft::Draft;
use super::error::GenerationError;
use super::job::{End, Job};
use super::model::{Batch, LanguageModel};
use super::pages::PagePool;
use super::processors::Processors;
use super::request::{Event, Output, Request, RequestId};
use super::rules::Rules;
use super::search::{Feed, Rows};
use super::settings::Mode;
use super::stopping::Stopping;
use crate::tensor::Tensor;

/// How much a generator does at once. Results do not depend on it.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most prompt tokens of one call; sequences that have begun run in every call besides.
    pub prefill_tokens: usize,
    /// Most requests that run at once; the others wait.
    pub requests: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { prefill_tokens: 512, requests: 256 }
    }
}

/// Runs requests over a model and its cache, continuously: requests come at any time and share every call.
pub struct Generator<M> {
    model: M,
    pool: PagePool,
    draft: Option<Draft>,
    limits: Limits,
    waiting: VecDeque<Job>,
    running: Vec<Job>,
    submitted: u64,
}

impl<M: LanguageModel> Generator<M> {
    /// A generator over a model whose cache is empty.
    pub fn new(model: M, limits: Limits) -> Self {
        let pool = PagePool::new(model.pages(), model.page_tokens());
        Generator { model, pool, draft: None, limits, waiting: VecDeque::new(), running: Vec::new(), submitted: 0 }
    }

    /// The same with a draft model that guesses tokens for greedy search and sampling. (GE-15)
    ///
    /// # Errors
    /// [`GenerationError::Draft`] when the vocabularies differ.
    pub fn with_draft(mut self, draft: Box<dyn LanguageModel>) -> Result<Self, GenerationError> {
        let (draft_size, model) = (draft.vocab_size(), self.model.vocab_size());
        if draft_size != model {
            return Err(GenerationError::Draft { draft: draft_size, model });
        }
        self.draft = Some(Draft::new(draft));
        Ok(self)
    }

    /// The model.
    pub fn model(&self) -> &M {
        &self.model
    }

    /// The pages of the cache.
    pub fn pool(&self) -> &PagePool {
        &self.pool
    }

    /// The pages of the draft model's cache.
    pub fn draft_pool(&self) -> Option<&PagePool> {
        self.draft.as_ref().map(|draft| &draft.pool)
    }

    /// Forgets what finished requests left in the cache.
    pub fn forget(&mut self) {
        self.pool.clear_kept();
    }

    /// Whether nothing is left to do.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Takes a request; [`Generator::step`] does the work.
    ///
    /// # Errors
    /// What makes the request impossible: its options, its prompt, a cache that cannot hold the prompt.
    pub fn submit(&mut self, request: Request) -> Result<RequestId, GenerationError> {
        let Request { mut prompt, settings, text, allowed, processor, criterion, cancel, reuse_prefix } = request;
        if prompt.is_empty() {
            let empty = || {
                GenerationError::Prompt("the prompt is empty and the model has no bos_token_id to begin with".into())
            };
            prompt.push(settings.bos_token_id.ok_or_else(empty)?);
        }
        let vocab = self.model.vocab_size();
        let guide = settings.negative_prompt_ids.iter().flatten();
        if let Some(id) = prompt.iter().chain(guide).find(|id| **id as usize >= vocab) {
            return Err(GenerationError::Prompt(format!("token {id} of the prompt is not among the model's {vocab}")));
        }
        // Hidden states of a prompt are not kept, so a search that needs them reads it anew.
        let contrastive = matches!(settings.mode, Mode::Contrastive(_));
        if contrastive && self.model.hidden_size().is_none() {
            let problem = "contrastive search (penalty_alpha) needs hidden states, which this model does not give";
            return Err(GenerationError::Unsupported(problem.into()));
        }
        let limit = settings.length_limit(prompt.len(), self.model.max_positions())?;
        let processors = Processors::new(&settings, allowed, processor, prompt.len(), limit, vocab)?;
        let stopping = Stopping::new(&settings, limit, text, criterion)?;
        let (need, have) = (self.pool.pages_of(prompt.len() + 1), self.pool.pages());
        if need > have {
            let (tokens, page_tokens) = (prompt.len() + 1, self.model.page_tokens());
            return Err(GenerationError::Pages { tokens, need, have, page_tokens });
        }
        let rules = Rules::new(settings, processors, stopping, prompt.len(), limit);
        let reserved = self.reserve(&rules);
        let id = RequestId(self.submitted);
        self.submitted += 1;
        self.waiting.push_back(Job::new(id, prompt, rules, cancel, reuse_prefix && !contrastive, reserved));
        Ok(id)
    }

    /// Pages that a request may come to need: those of its prompt once, and of each of its sequences the rest.
    fn reserve(&self, rules: &Rules) -> usize {
        let s = &rules.settings;
        let (branches, ahead) = match s.mode {
            Mode::Tokens => {
                let drafted = self.draft.as_ref().map_or(0, |_| s.num_assistant_tokens);
                (s.num_return_sequences, s.prompt_lookup_num_tokens.unwrap_or(drafted))
            }
            Mode::Beams | Mode::GroupBeams => (s.num_beams, 0),
            Mode::Contrastive(_) => (s.top_k.min(self.model.vocab_size()), 0),
        };
        let shared = rules.prompt / self.model.page_tokens().max(1);
        let all = self.pool.pages_of(rules.limit.saturating_add(ahead));
        let guide = match s.guidance_scale != 1.0 {
            true => self.pool.pages_of(s.negative_prompt_ids.as_ref().map_or(1, Vec::len) + rules.limit - rules.prompt),
            false => 0,
        };
        branches.saturating_mul(all.saturating_sub(shared).saturating_add(guide)).saturating_add(shared)
    }

    /// Runs requests to their end, in order; events come as they happen. Those submitted before take part.
    pub fn generate(
        &mut self,
        requests: impl IntoIterator<Item = Request>,
        on_event: &mut dyn FnMut(&Event),
    ) -> Vec<Result<Output, GenerationError>> {
        let mut results = Vec::new();
        let mut ids = Vec::new();
        for request in requests {
            let submitted = self.submit(request);
            ids.push(submitted.as_ref().ok().copied());
            results.push(submitted.err().map(Err));
        }
        while self.step(&mut |event| {
            on_event(&event);
            if let Event::Finished { request, result } = event
                && let Some(i) = ids.iter().position(|id| *id == Some(request))
            {
                results[i] = Some(result);
            }
        }) {}
        results.into_iter().flatten().collect()
    }

    /// Makes one call of the model for all requests that can run; whether anything is left to do.
    pub fn step(&mut self, on_event: &mut dyn FnMut(Event)) -> bool {
        self.admit();
        self.end_early();
        self.speculate();
        self.share();
        self.make_room();
        let all: Vec<usize> = (0..self.running.len()).collect();
        self.call(&all, on_event);
        self.settle(on_event);
        !self.is_idle()
    }

    /// Lets waiting requests in, in order. One that may need more pages than others leave waits until it is alone, so no
    /// request fails for pages that another takes.
    fn admit(&mut self) {
        while self.running.len() < self.limits.requests.max(1) {
            let reserved: usize = self.running.iter().map(|job| job.reserved).sum();
            let fits = |job: &Job| reserved.saturating_add(job.reserved) <= self.pool.pages();
            let Some(job) = self.waiting.front() else { break };
            if !fits(job) && !self.running.is_empty() && !job.cancel.is_cancelled() {
                break;
            }
            let Some(mut job) = self.waiting.pop_front() else { break };
            job.start(&mut self.pool);
            self.running.push(job);
        }
    }

    /// Ends cancelled requests.
    fn end_early(&mut self) {
        for job in self.running.iter_mut().filter(|job| job.cancel.is_cancelled()) {
            job.end = Some(End::Cancelled);
        }
    }

    /// Guesses tokens for the samples that run.
    fn speculate(&mut self) {
        let mut groups = Vec::new();
        for job in &mut self.running {
            let Some(search) = &mut job.search else { continue };
            let s = &job.rules.settings;
            if s.prompt_lookup_num_tokens.is_some() {
                search.look_up(&job.rules);
            } else if s.num_assistant_tokens > 0 && self.draft.is_some() {
                groups.push((search.speculating(), &mut job.rules));
            }
        }
        if let Some(draft) = &mut self.draft
            && !groups.is_empty()
        {
            draft.guess(groups);
        }
    }

    /// Shares the prompt tokens of the next call among the requests that still read theirs, in order.
    fn share(&mut self) {
        let mut left = self.limits.prefill_tokens.max(1);
        for job in &mut self.running {
            let most = job.rules.settings.prefill_chunk_size.unwrap_or(usize::MAX);
            job.share = job.prompt_left().min(most).min(left);
            left -= job.share;
        }
    }

    /// Gets the pages of the next call; what finds none fails alone.
    fn make_room(&mut self) {
        let (model, pool) = (&mut self.model, &mut self.pool);
        for job in &mut self.running {
            loop {
                let grown = |feed: &mut Feed<'_>| {
                    let tokens = feed.tokens();
                    pool.grow(feed.sequence, tokens, &mut |from, to| model.copy_page(from, to))
                };
                let failed = job.feeds().iter_mut().map(grown).enumerate().find_map(|(i, r)| r.err().map(|e| (i, e)));
                let Some((i, error)) = failed else { break };
                job.fail_feed(i, error, pool);
            }
        }
    }

    /// Runs some requests in one call. Where memory does not suffice for all of them it may for parts.
    fn call(&mut self, which: &[usize], on_event: &mut dyn FnMut(Event)) {
        let mut table = 0;
        for &i in which {
            table = self.running[i].feeds().iter().map(|feed| feed.sequence.pages().len()).fold(table, usize::max);
        }
        let mut batch = Batch::new(table);
        let mut hidden = false;
        for &i in which {
            let job = &mut self.running[i];
            hidden |= job.wants_hidden();
            for feed in job.feeds() {
                let pending = feed.sequence.pending().iter().take(feed.take).copied();
                let tokens = pending.chain(feed.guesses.iter().map(|guess| guess.token));
                batch.push(tokens, feed.outputs, feed.sequence.cached(), feed.sequence.pages());
            }
        }
        if batch.ids.is_empty() {
            return;
        }
        let result = if hidden {
            self.model.forward_hidden(&batch).map(|(logits, hidden)| (logits, Some(hidden)))
        } else {
            self.model.forward(&batch).map(|logits| (logits, None))
        };
        match (result, which) {
            (Ok((logits, hidden)), _) => self.advance(which, logits, hidden.as_ref(), on_event),
            (Err(error), [one]) => self.running[*one].end = Some(End::Failed(error.into())),
            (Err(_), _) => {
                let (some, others) = which.split_at(which.len() / 2);
                self.call(some, on_event);
                self.call(others, on_event);
            }
        }
    }

    /// Hands each request its rows.
    fn advance(
        &mut self,
        which: &[usize],
        mut logits: Tensor,
        hidden: Option<&Tensor>,
        on_event: &mut dyn FnMut(Event),
    ) {
        let vocab = self.model.vocab_size();
        let width = hidden.map_or(0, |_| self.model.hidden_size().unwrap_or(0));
        let mut logits: &mut [f32] = bytemuck::cast_slice_mut(logits.bytes_mut());
        let mut hidden = hidden.map_or(&[][..], Tensor::f32s);
        for &i in which {
            let job = &mut self.running[i];
            let mut rows = 0;
            for feed in job.feeds() {
                let tokens = feed.tokens();
                rows += feed.outputs;
                feed.sequence.advance(tokens);
            }
            let (own, rest) = std::mem::take(&mut logits).split_at_mut(rows * vocab);
            let (own_hidden, rest_hidden) = hidden.split_at(rows * width);
            (logits, hidden) = (rest, rest_hidden);
            if let Err(error) = job.advance(Rows { logits: own, vocab, hidden: own_hidden }, &mut self.pool, on_event) {
                job.end = Some(End::Failed(error));
            }
        }
    }

    /// Gives out the results of requests that are over, and their pages back.
    fn settle(&mut self, on_event: &mut dyn FnMut(Event)) {
        if let Some(draft) = &mut self.draft {
            for job in &mut self.running {
                job.take_drafts().into_iter().for_each(|sequence| draft.pool.release(sequence));
            }
        }
        let (over, running): (Vec<Job>, Vec<Job>) =
            std::mem::take(&mut self.running).into_iter().partition(|job| job.end.is_some());
        self.running = running;
        for job in over {
            let request = job.id;
            let result = job.finish(&mut self.pool);
            on_event(Event::Finished { request, result });
        }
    }
}
