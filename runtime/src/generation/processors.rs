//! What is done to scores before a token is chosen, in Transformers' order (GE-20). In place on the rows of the logits.
//! Must not know sequences, pages or how tokens are chosen.

use std::collections::HashMap;
use std::sync::Arc;

use super::error::GenerationError;
use super::row;
use super::settings::Settings;

/// The tokens that may follow these; never empty.
pub type AllowedTokens = Arc<dyn Fn(&[u32]) -> Vec<u32> + Send + Sync>;
/// Changes the scores of what may follow these tokens.
pub type UserProcessor = Arc<dyn Fn(&[u32], &mut [f32]) + Send + Sync>;

/// The scores of one sequence's next token, and the sequence so far with its prompt.
pub(super) struct Scores<'a> {
    pub row: &'a mut [f32],
    pub tokens: &'a [u32],
}

enum Processor {
    /// Numbers added to tokens, and to tokens that complete a sequence.
    Bias {
        single: Vec<(u32, f32)>,
        several: Vec<(Vec<u32>, f32)>,
    },
    /// `row[t] = row[t] < 0 ? row[t] * penalty : row[t] / penalty` for the tokens of the prompt, or of prompt and text
    /// (Keskar et al., "CTRL", 2019).
    Repetition {
        penalty: f32,
        prompt_only: bool,
    },
    /// `row[t] -= frequency * count(t) + presence * (count(t) > 0)` over the generated tokens, as OpenAI's interface has it.
    Frequency {
        frequency: f32,
        presence: f32,
    },
    /// No `size` tokens in a row that are in the sequence, or in the prompt, already.
    NoRepeat {
        size: usize,
        prompt_only: bool,
    },
    /// No end before so many tokens, counted with the prompt.
    MinLength(usize),
    /// As [`Processor::MinLength`], counted without the prompt.
    MinNewTokens(usize),
    Allowed(AllowedTokens),
    /// The token after a prompt of one.
    ForcedFirst(u32),
    /// The tokens of which one is the last at the length limit.
    ForcedLast(Vec<u32>),
    RemoveInvalid,
    /// `row[end] += |row[end]| * (factor^(new - start) - 1)` after `start` new tokens.
    LengthDecay {
        start: usize,
        factor: f64,
    },
    Suppress(Vec<u32>),
    SuppressFirst(Vec<u32>),
    User(UserProcessor),
    LogSoftmax,
}

/// The processors of a request, in order.
pub(super) struct Processors {
    list: Vec<Processor>,
    end: Vec<u32>,
    prompt: usize,
    limit: usize,
    /// One bit a token: those met already.
    seen: Vec<u64>,
}

impl Processors {
    /// The processors that these settings ask for, for a prompt of so many tokens and sequences of at most `limit`.
    ///
    /// # Errors
    /// [`GenerationError::Option`] when a token is not in the vocabulary.
    pub fn new(
        settings: &Settings,
        allowed: Option<AllowedTokens>,
        user: Option<UserProcessor>,
        prompt: usize,
        limit: usize,
        vocab: usize,
    ) -> Result<Processors, GenerationError> {
        let mut list = Vec::new();
        let mut add = |wanted: bool, processor: Processor| {
            if wanted {
                list.push(processor);
            }
        };
        let s = settings;
        let ends = !s.eos_token_id.is_empty();
        let bias = sequence_bias(&s.sequence_bias);
        add(!s.sequence_bias.is_empty(), bias);
        let single = s.logit_bias.clone();
        add(!single.is_empty(), Processor::Bias { single, several: Vec::new() });
        let penalty = 1.0 / s.encoder_repetition_penalty;
        add(penalty != 1.0, Processor::Repetition { penalty, prompt_only: true });
        let penalty = s.repetition_penalty;
        add(penalty != 1.0, Processor::Repetition { penalty, prompt_only: false });
        let (frequency, presence) = (s.frequency_penalty, s.presence_penalty);
        add(frequency != 0.0 || presence != 0.0, Processor::Frequency { frequency, presence });
        let size = s.no_repeat_ngram_size;
        add(size > 0, Processor::NoRepeat { size, prompt_only: false });
        let size = s.encoder_no_repeat_ngram_size;
        add(size > 0, Processor::NoRepeat { size, prompt_only: true });
        // An end token alone is not a bad word: it would leave no way to end.
        let bad = s.bad_words_ids.iter().filter(|word| !matches!(word[..], [id] if s.eos_token_id.contains(&id)));
        let bad: Vec<_> = bad.map(|word| (word.clone(), f32::NEG_INFINITY)).collect();
        add(!bad.is_empty(), sequence_bias(&bad));
        add(s.min_length > 0 && ends, Processor::MinLength(s.min_length));
        add(s.min_new_tokens > 0 && ends, Processor::MinNewTokens(s.min_new_tokens));
        if let Some(allowed) = allowed {
            add(true, Processor::Allowed(allowed));
        }
        if let Some(id) = s.forced_bos_token_id {
            add(true, Processor::ForcedFirst(id));
        }
        add(!s.forced_eos_token_id.is_empty(), Processor::ForcedLast(s.forced_eos_token_id.clone()));
        add(s.remove_invalid_values, Processor::RemoveInvalid);
        if let Some((start, factor)) = s.exponential_decay_length_penalty {
            add(ends, Processor::LengthDecay { start, factor });
        }
        add(!s.suppress_tokens.is_empty(), Processor::Suppress(s.suppress_tokens.clone()));
        add(!s.begin_suppress_tokens.is_empty(), Processor::SuppressFirst(s.begin_suppress_tokens.clone()));
        if let Some(user) = user {
            add(true, Processor::User(user));
        }
        add(s.renormalize_logits && !s.do_sample, Processor::LogSoftmax);
        let named = [
            ("sequence_bias", s.sequence_bias.iter().flat_map(|(ids, _)| ids.clone()).collect::<Vec<_>>()),
            ("logit_bias", s.logit_bias.iter().map(|(id, _)| *id).collect()),
            ("bad_words_ids", s.bad_words_ids.concat()),
            ("forced_bos_token_id", s.forced_bos_token_id.into_iter().collect()),
            ("forced_eos_token_id", s.forced_eos_token_id.clone()),
        ];
        for (name, ids) in named {
            if let Some(id) = ids.iter().find(|id| **id as usize >= vocab) {
                return Err(GenerationError::option(name, format!("token {id} is not among the model's {vocab}")));
            }
        }
        Ok(Processors { list, end: s.eos_token_id.clone(), prompt, limit, seen: vec![0; vocab.div_ceil(64)] })
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Runs all processors over the rows of a request: one row, or those of all its beams at once.
    ///
    /// # Errors
    /// [`GenerationError::Logits`] when the caller's constraint allows nothing.
    pub fn apply(&mut self, rows: &mut [Scores<'_>]) -> Result<(), GenerationError> {
        for processor in &self.list {
            if let Processor::Allowed(allowed) = processor {
                constrain(allowed, rows)?;
                continue;
            }
            for Scores { row, tokens } in &mut *rows {
                let prompt = &tokens[..self.prompt.min(tokens.len())];
                let generated = &tokens[prompt.len()..];
                match processor {
                    Processor::Bias { single, several } => bias(row, tokens, single, several),
                    Processor::Repetition { penalty, prompt_only } => {
                        let counted = if *prompt_only { prompt } else { tokens };
                        distinct(&mut self.seen, counted, row, |x| {
                            *x = if *x < 0.0 { *x * penalty } else { *x / penalty };
                        });
                    }
                    Processor::Frequency { frequency, presence } => {
                        for &token in generated {
                            if let Some(x) = row.get_mut(token as usize) {
                                *x -= frequency;
                            }
                        }
                        distinct(&mut self.seen, generated, row, |x| *x -= presence);
                    }
                    Processor::NoRepeat { size, prompt_only } => {
                        no_repeat(row, tokens, if *prompt_only { prompt } else { tokens }, *size);
                    }
                    Processor::MinLength(min) if tokens.len() < *min => suppress(row, &self.end),
                    Processor::MinNewTokens(min) if generated.len() < *min => suppress(row, &self.end),
                    Processor::MinLength(_) | Processor::MinNewTokens(_) | Processor::Allowed(_) => {}
                    Processor::ForcedFirst(id) if tokens.len() == 1 => force(row, &[*id]),
                    Processor::ForcedLast(ids) if tokens.len() + 1 == self.limit => force(row, ids),
                    Processor::ForcedFirst(_) | Processor::ForcedLast(_) => {}
                    Processor::RemoveInvalid => row.iter_mut().for_each(|x| {
                        *x = if x.is_nan() { 0.0 } else { x.clamp(f32::MIN, f32::MAX) };
                    }),
                    Processor::LengthDecay { start, factor } if generated.len() > *start => {
                        let steps = i32::try_from(generated.len() - start).unwrap_or(i32::MAX);
                        let growth = (factor.powi(steps) - 1.0) as f32;
                        for &id in &self.end {
                            if let Some(x) = row.get_mut(id as usize).filter(|x| x.is_finite()) {
                                *x += x.abs() * growth;
                            }
                        }
                    }
                    Processor::LengthDecay { .. } => {}
                    Processor::Suppress(ids) => suppress(row, ids),
                    // After a prompt of one token and a forced one, the first choice is the one after that.
                    Processor::SuppressFirst(ids) => {
                        let forced =
                            self.prompt <= 1 && self.list.iter().any(|p| matches!(p, Processor::ForcedFirst(_)));
                        if generated.len() == usize::from(forced) {
                            suppress(row, ids);
                        }
                    }
                    Processor::User(change) => change(tokens, row),
                    Processor::LogSoftmax => row::log_softmax(row),
                }
            }
        }
        Ok(())
    }
}

/// Of a sequence given twice the last number counts, as in a dictionary.
fn sequence_bias(biases: &[(Vec<u32>, f32)]) -> Processor {
    let last: HashMap<&[u32], usize> = biases.iter().enumerate().map(|(i, (ids, _))| (&ids[..], i)).collect();
    let (mut single, mut several) = (Vec::new(), Vec::new());
    for (_, (ids, bias)) in biases.iter().enumerate().filter(|(i, (ids, _))| last.get(&ids[..]) == Some(i)) {
        match ids[..] {
            [id] => single.push((id, *bias)),
            _ => several.push((ids.clone(), *bias)),
        }
    }
    Processor::Bias { single, several }
}

fn bias(row: &mut [f32], tokens: &[u32], single: &[(u32, f32)], several: &[(Vec<u32>, f32)]) {
    let mut add = |id: u32, bias: f32| {
        if let Some(x) = row.get_mut(id as usize) {
            *x += bias;
        }
    };
    single.iter().for_each(|&(id, bias)| add(id, bias));
    for (ids, bias) in several {
        if let Some((&last, prefix)) = ids.split_last()
            && tokens.ends_with(prefix)
        {
            add(last, *bias);
        }
    }
}

/// Changes the score of each distinct token once.
fn distinct(seen: &mut [u64], tokens: &[u32], row: &mut [f32], change: impl Fn(&mut f32)) {
    seen.fill(0);
    for &token in tokens {
        let (word, bit) = (token as usize / 64, 1u64 << (token % 64));
        if let (Some(word), Some(x)) = (seen.get_mut(word), row.get_mut(token as usize))
            && *word & bit == 0
        {
            *word |= bit;
            change(x);
        }
    }
}

fn suppress(row: &mut [f32], ids: &[u32]) {
    for &id in ids {
        if let Some(x) = row.get_mut(id as usize) {
            *x = f32::NEG_INFINITY;
        }
    }
}

fn force(row: &mut [f32], ids: &[u32]) {
    row.fill(f32::NEG_INFINITY);
    for &id in ids {
        if let Some(x) = row.get_mut(id as usize) {
            *x = 0.0;
        }
    }
}

/// Suppresses every token that has followed the last `size - 1` tokens somewhere in `text`.
fn no_repeat(row: &mut [f32], tokens: &[u32], text: &[u32], size: usize) {
    let Some(start) = (tokens.len() + 1).checked_sub(size) else { return };
    let last = &tokens[start..];
    for window in text.windows(size) {
        if let Some((&next, prefix)) = window.split_last()
            && prefix == last
        {
            suppress(row, &[next]);
        }
    }
}

/// Keeps the tokens that the constraint allows. When those of every row are suppressed already, they are forced.
fn constrain(allowed: &AllowedTokens, rows: &mut [Scores<'_>]) -> Result<(), GenerationError> {
    let mut kept = Vec::new();
    let mut possible = false;
    for Scores { row, tokens } in &mut *rows {
        let mut ids = allowed(tokens);
        ids.retain(|&id| (id as usize) < row.len());
        if ids.is_empty() {
            let problem = "the constraint (prefix_allowed_tokens_fn) allows none";
            return Err(GenerationError::Logits { tokens: tokens.len(), problem });
        }
        let scores: Vec<f32> = ids.iter().map(|&id| row[id as usize]).collect();
        possible |= scores.iter().any(|&x| x > f32::NEG_INFINITY);
        row.fill(f32::NEG_INFINITY);
        ids.iter().zip(scores).for_each(|(&id, x)| row[id as usize] = x);
        kept.push(ids);
    }
    if !possible {
        for (Scores { row, .. }, ids) in rows.iter_mut().zip(&kept) {
            force(row, ids);
        }
    }
    Ok(())
}
