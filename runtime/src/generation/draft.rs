//! A smaller model that guesses tokens ahead for all samples at once. Must not know how guesses are checked. (GE-15)

use super::model::{Batch, LanguageModel};
use super::pages::PagePool;
use super::rules::Rules;
use super::samples::Sample;

/// Most tokens of a sequence in one call: a long prompt comes in parts.
const CHUNK: usize = 512;

/// The draft model and its own cache.
pub(super) struct Draft {
    model: Box<dyn LanguageModel>,
    pub pool: PagePool,
}

impl Draft {
    pub fn new(model: Box<dyn LanguageModel>) -> Draft {
        let pool = PagePool::new(model.pages(), model.page_tokens());
        Draft { model, pool }
    }

    /// Guesses for samples of several requests, all in the same calls. A sample that the draft cannot serve (its cache is
    /// full, or its positions end) just has no guesses.
    pub fn guess(&mut self, mut groups: Vec<(&mut [Sample], &mut Rules)>) {
        let positions = self.model.max_positions().unwrap_or(usize::MAX);
        // Group, sample and number of guesses of those still at it.
        let mut active = Vec::new();
        for (g, (samples, rules)) in groups.iter_mut().enumerate() {
            for (i, sample) in samples.iter_mut().enumerate().filter(|(_, sample)| sample.speculates()) {
                let tokens = &sample.sequence.tokens;
                let most = sample.ahead.min(rules.limit.min(positions).saturating_sub(tokens.len() + 1));
                let mut draft = sample.draft.take().unwrap_or_default();
                let same = draft.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
                self.pool.truncate(&mut draft, same.min(tokens.len().saturating_sub(1)));
                draft.tokens.clone_from(tokens);
                sample.draft = Some(draft);
                if most > 0 {
                    active.push((g, i, most));
                }
            }
        }
        while !active.is_empty() {
            self.round(&mut groups, &mut active);
        }
    }

    /// One call for all that are active.
    fn round(&mut self, groups: &mut [(&mut [Sample], &mut Rules)], active: &mut Vec<(usize, usize, usize)>) {
        let Draft { model, pool } = self;
        active.retain(|&(g, i, _)| {
            let Some(draft) = &mut groups[g].0[i].draft else { return false };
            let take = draft.pending().len().min(CHUNK);
            pool.grow(draft, take, &mut |from, to| model.copy_page(from, to)).is_ok()
        });
        let pages = |&(g, i, _): &(usize, usize, usize)| groups[g].0[i].draft.as_ref().map_or(0, |d| d.pages().len());
        let mut batch = Batch::new(active.iter().map(pages).max().unwrap_or(0));
        for &(g, i, _) in &*active {
            let Some(draft) = &groups[g].0[i].draft else { continue };
            let take = draft.pending().len().min(CHUNK);
            let outputs = usize::from(take == draft.pending().len());
            batch.push(draft.pending().iter().take(take).copied(), outputs, draft.cached(), draft.pages());
        }
        if batch.ids.is_empty() {
            active.clear();
            return;
        }
        // Without the draft everything goes on as it would without speculation.
        let Ok(mut logits) = model.forward(&batch) else {
            active.clear();
            return;
        };
        let rows: &mut [f32] = bytemuck::cast_slice_mut(logits.bytes_mut());
        let mut rows = rows.chunks_exact_mut(model.vocab_size().max(1));
        active.retain(|&(g, i, most)| {
            let (samples, rules) = &mut groups[g];
            let sample = &mut samples[i];
            let Some(draft) = &mut sample.draft else { return false };
            let take = draft.pending().len().min(CHUNK);
            draft.advance(take);
            if !draft.pending().is_empty() {
                return true;
            }
            let guess = rows.next().and_then(|row| rules.guess(row, &draft.tokens, sample.draws).ok().flatten());
            let Some((guess, probability)) = guess else { return false };
            let settings = &rules.settings;
            let sure = probability >= settings.assistant_confidence_threshold;
            let ends = settings.eos_token_id.contains(&guess.token);
            draft.tokens.push(guess.token);
            sample.guesses.push(guess);
            sure && !ends && sample.guesses.len() < most
        });
    }
}
