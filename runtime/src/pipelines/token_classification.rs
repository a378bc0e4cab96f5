//! Token classification: a label for each token, joined to entities if asked for. (PO-02)

use serde_json::{Map, Value, json};

use super::math::{argmax, mean, number, softmax};
use super::{Args, Input, ModelInfo, Pipeline, PipelineError};
use crate::tokenizer::{EncodeOptions, Encoding, Text, Truncation};

/// How tokens are joined to entities.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Strategy {
    /// Not at all.
    None,
    /// Neighbours with the same tag.
    Simple,
    /// As `Simple`, words having the tag of their first token.
    First,
    /// As `Simple`, words having the tag with the best mean score.
    Average,
    /// As `Simple`, words having the tag of their surest token.
    Max,
}

impl Strategy {
    fn new(args: &Args) -> Self {
        match args.text("aggregation_strategy") {
            Some("simple") => Strategy::Simple,
            Some("first") => Strategy::First,
            Some("average") => Strategy::Average,
            Some("max") => Strategy::Max,
            Some(_) => Strategy::None,
            None if args.flag("grouped_entities") == Some(true) => Strategy::Simple,
            None => Strategy::None,
        }
    }
}

/// The text an input's offsets refer to.
struct Sentence {
    chars: Vec<char>,
    /// Where each word starts, for inputs that come as words.
    word_starts: Option<Vec<usize>>,
}

impl Sentence {
    fn new(input: &Input, delimiter: &str) -> Self {
        match input {
            Input::Words(words) => {
                let mut starts = Vec::with_capacity(words.len());
                let mut chars: Vec<char> = Vec::new();
                for (i, word) in words.iter().enumerate() {
                    if i > 0 {
                        chars.extend(delimiter.chars());
                    }
                    starts.push(chars.len());
                    chars.extend(word.chars());
                }
                Sentence { chars, word_starts: Some(starts) }
            }
            Input::Text(text) => Sentence { chars: text.chars().collect(), word_starts: None },
            Input::Record(_) | Input::Messages(_) => Sentence { chars: Vec::new(), word_starts: None },
        }
    }

    /// Start and end of a token in the whole text.
    fn span(&self, row: &Encoding, token: usize) -> (usize, usize) {
        let (start, end) = row.offsets[token];
        let word = row.word_ids[token].map(|w| w as usize);
        let shift = self.word_starts.as_ref().zip(word).and_then(|(starts, w)| starts.get(w)).copied().unwrap_or(0);
        (start + shift, end + shift)
    }

    fn slice(&self, start: usize, end: usize) -> &[char] {
        let end = end.min(self.chars.len());
        self.chars.get(start.min(end)..end).unwrap_or(&[])
    }
}

/// A token with the scores of its labels.
struct Scored {
    word: String,
    scores: Vec<f32>,
    span: (usize, usize),
    index: usize,
    is_subword: bool,
}

/// A token, word or group with its label.
#[derive(Clone)]
struct Entity {
    label: String,
    score: f32,
    /// The token's place in its row; `None` for words and groups.
    index: Option<usize>,
    word: String,
    start: usize,
    end: usize,
}

impl Entity {
    fn to_json(&self, grouped: bool) -> Value {
        let mut map = Map::new();
        map.insert(if grouped { "entity_group" } else { "entity" }.into(), json!(self.label));
        map.insert("score".into(), number(self.score));
        if let Some(index) = self.index {
            map.insert("index".into(), json!(index));
        }
        map.insert("word".into(), json!(self.word));
        map.insert("start".into(), json!(self.start));
        map.insert("end".into(), json!(self.end));
        Value::Object(map)
    }
}

pub(super) fn call(pipeline: &Pipeline, inputs: &[Input], args: &Args) -> Result<Vec<Value>, PipelineError> {
    let strategy = Strategy::new(args);
    let ignore = args.list("ignore_labels").unwrap_or_else(|| vec!["O"]);
    let split = args.flag("is_split_into_words") == Some(true);
    let delimiter = args.text("delimiter").unwrap_or(" ");
    let options = options(pipeline, args, strategy)?;

    let mut texts = Vec::with_capacity(inputs.len());
    for (index, input) in inputs.iter().enumerate() {
        let wrong = |problem: &str| PipelineError::Input { index, problem: problem.into() };
        texts.push(match input {
            Input::Text(text) if !split => (Text::Raw(text), None),
            Input::Words(words) if split => (Text::Words(words), None),
            Input::Text(_) => return Err(wrong("is_split_into_words=true takes lists of words")),
            Input::Words(_) => return Err(wrong("a list of words needs is_split_into_words=true")),
            Input::Record(_) | Input::Messages(_) => {
                return Err(wrong("this task takes plain texts or lists of words"));
            }
        });
    }
    let (rows, input_of) = pipeline.encode(&texts, &options)?;
    let sequences = rows.iter().zip(&input_of).map(|(row, &index)| {
        pipeline.sequence(index, row, "read it in windows with stride and an aggregation_strategy")
    });
    let sequences = sequences.collect::<Result<Vec<_>, _>>()?;

    let sentences: Vec<Sentence> = inputs.iter().map(|input| Sentence::new(input, delimiter)).collect();
    let mut found: Vec<(usize, Vec<Entity>)> = vec![(0, Vec::new()); inputs.len()];
    pipeline.run(&sequences, args, |i, answer| {
        let index = input_of[i];
        let (width, logits) = answer.rows(&["logits"])?;
        let tokens = gather(pipeline, &sentences[index], &rows[i], logits, width, strategy);
        let entities = aggregate(pipeline, tokens, strategy);
        let entities = entities.map_err(|source| PipelineError::Tokenizer { index, source })?;
        let (windows, all) = &mut found[index];
        *windows += 1;
        all.extend(entities.into_iter().filter(|e| !ignore.contains(&e.label.as_str())));
        Ok(())
    })?;
    let grouped = strategy != Strategy::None;
    let answers = found.into_iter().map(|(windows, entities)| {
        let entities = if windows > 1 { resolve_overlaps(entities) } else { entities };
        entities.iter().map(|e| e.to_json(grouped)).collect()
    });
    Ok(answers.collect())
}

/// Texts are cut to the model's limit, or read in windows of it.
fn options(pipeline: &Pipeline, args: &Args, strategy: Strategy) -> Result<EncodeOptions, PipelineError> {
    let limit = pipeline.tokenizer.model_max_length;
    let truncation = Some(if limit.is_some() { Truncation::LongestFirst } else { Truncation::DoNotTruncate });
    let mut options = EncodeOptions { truncation, ..EncodeOptions::default() };
    if let Some(stride) = args.int("stride") {
        let room = limit.map(|l| l.saturating_sub(pipeline.tokenizer.num_special_tokens_to_add(false)));
        if let Some(room) = room.filter(|&room| stride >= room) {
            let problem = format!("must be less than the {room} tokens of text that the model takes");
            return Err(PipelineError::argument("stride", problem));
        }
        if strategy == Strategy::None {
            return Err(PipelineError::argument("stride", "needs an aggregation_strategy other than none"));
        }
        options.stride = stride;
        options.return_overflowing_tokens = true;
    }
    Ok(options)
}

/// The tokens of a row with their scores, special ones left out.
fn gather(
    pipeline: &Pipeline,
    sentence: &Sentence,
    row: &Encoding,
    logits: &[f32],
    width: usize,
    strategy: Strategy,
) -> Vec<Scored> {
    let marked = pipeline.tokenizer.continuing_subword_prefix().is_some();
    if !marked && !matches!(strategy, Strategy::None | Strategy::Simple) {
        tracing::debug!("the tokenizer does not mark word beginnings: words are told apart by spaces");
    }
    let unknown = pipeline.tokenizer.unk_token_id();
    let tokens = (0..row.len()).zip(logits.chunks_exact(width)).filter(|(t, _)| row.special_tokens_mask[*t] == 0);
    let scored = tokens.map(|(index, logits)| {
        let span = sentence.span(row, index);
        let (start, end) = span;
        let mut word = row.tokens[index].clone();
        let reference = sentence.slice(start, end);
        let mut is_subword = if marked {
            // A piece inside a word is longer than its text by the mark.
            word.chars().count() != reference.len()
        } else {
            start > 0 && !sentence.slice(start - 1, start + 1).contains(&' ')
        };
        if Some(row.ids[index]) == unknown {
            word = reference.iter().collect();
            is_subword = false;
        }
        Scored { word, scores: softmax(logits), span, index, is_subword }
    });
    scored.collect()
}

fn aggregate(
    pipeline: &Pipeline,
    tokens: Vec<Scored>,
    strategy: Strategy,
) -> Result<Vec<Entity>, crate::tokenizer::TokenizerError> {
    let info = pipeline.info();
    let text_of = |words: Vec<String>| pipeline.tokenizer.convert_tokens_to_string(words);
    if matches!(strategy, Strategy::None | Strategy::Simple) {
        let entities: Vec<Entity> = tokens
            .into_iter()
            .map(|token| {
                let best = argmax(&token.scores);
                let (start, end) = token.span;
                Entity {
                    label: info.label(best),
                    score: token.scores[best],
                    index: Some(token.index),
                    word: token.word,
                    start,
                    end,
                }
            })
            .collect();
        return if strategy == Strategy::None { Ok(entities) } else { group(entities, text_of) };
    }
    let mut words: Vec<Vec<Scored>> = Vec::new();
    for token in tokens {
        match words.last_mut() {
            Some(word) if token.is_subword => word.push(token),
            _ => words.push(vec![token]),
        }
    }
    let words = words.into_iter().map(|word| join_word(info, word, strategy, text_of));
    group(words.collect::<Result<Vec<_>, _>>()?, text_of)
}

/// A word from its tokens: one label for all of them.
fn join_word<E>(
    info: &ModelInfo,
    tokens: Vec<Scored>,
    strategy: Strategy,
    text_of: impl Fn(Vec<String>) -> Result<String, E>,
) -> Result<Entity, E> {
    let scores: Vec<f32> = match strategy {
        Strategy::Average => average(&tokens),
        Strategy::Max => {
            let peak = |token: &Scored| token.scores[argmax(&token.scores)];
            let peaks: Vec<f32> = tokens.iter().map(peak).collect();
            tokens[argmax(&peaks)].scores.clone()
        }
        Strategy::First | Strategy::None | Strategy::Simple => tokens[0].scores.clone(),
    };
    let best = argmax(&scores);
    let (start, end) = (tokens[0].span.0, tokens[tokens.len() - 1].span.1);
    let word = text_of(tokens.into_iter().map(|t| t.word).collect())?;
    Ok(Entity { label: info.label(best), score: scores[best], index: None, word, start, end })
}

/// The mean score of each label.
fn average(tokens: &[Scored]) -> Vec<f32> {
    let mut total = vec![0.0f32; tokens[0].scores.len()];
    for token in tokens {
        total.iter_mut().zip(&token.scores).for_each(|(t, s)| *t += s);
    }
    total.iter_mut().for_each(|t| *t /= tokens.len() as f32);
    total
}

/// The parts of a label: whether it begins an entity, and its tag.
fn tag(label: &str) -> (bool, &str) {
    match label.strip_prefix("B-") {
        Some(tag) => (true, tag),
        None => (false, label.strip_prefix("I-").unwrap_or(label)),
    }
}

/// Joins neighbours with the same tag, unless the second begins an entity.
fn group<E>(entities: Vec<Entity>, text_of: impl Fn(Vec<String>) -> Result<String, E>) -> Result<Vec<Entity>, E> {
    let mut groups: Vec<Vec<Entity>> = Vec::new();
    for entity in entities {
        let (begins, new) = tag(&entity.label);
        match groups.last_mut() {
            Some(members) if !begins && members.last().is_some_and(|last| tag(&last.label).1 == new) => {
                members.push(entity)
            }
            _ => groups.push(vec![entity]),
        }
    }
    let join = |members: Vec<Entity>| {
        let (first, last) = (&members[0], &members[members.len() - 1]);
        let label = first.label.split_once('-').map_or(first.label.as_str(), |(_, rest)| rest).to_string();
        let (start, end) = (first.start, last.end);
        let score = mean(&members.iter().map(|e| e.score).collect::<Vec<_>>());
        let word = text_of(members.into_iter().map(|e| e.word).collect())?;
        Ok(Entity { label, score, index: None, word, start, end })
    };
    groups.into_iter().map(join).collect()
}

/// Of entities that overlap where windows do, keeps the longest, then the surest.
fn resolve_overlaps(mut entities: Vec<Entity>) -> Vec<Entity> {
    entities.sort_by_key(|e| e.start);
    let mut kept: Vec<Entity> = Vec::new();
    for entity in entities {
        match kept.last_mut() {
            Some(last) if last.start <= entity.start && entity.start < last.end => {
                let (new, old) = (entity.end - entity.start, last.end - last.start);
                if new > old || (new == old && entity.score > last.score) {
                    *last = entity;
                }
            }
            _ => kept.push(entity),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entity(label: &str, score: f32, start: usize, end: usize) -> Entity {
        Entity { label: label.into(), score, index: None, word: label.into(), start, end }
    }

    fn labels(entities: &[Entity]) -> Vec<(&str, usize, usize)> {
        entities.iter().map(|e| (e.label.as_str(), e.start, e.end)).collect()
    }

    /// PO-02: neighbours join by tag; B- starts anew; labels without a prefix join.
    #[test]
    fn po_02_groups_by_tag() {
        let given = vec![
            entity("B-A", 0.5, 0, 1),
            entity("I-A", 0.7, 2, 3),
            entity("B-A", 0.9, 4, 5),
            entity("I-B", 0.9, 6, 7),
            entity("PLAIN", 0.9, 8, 9),
            entity("PLAIN", 0.5, 10, 11),
        ];
        let groups = group(given, |words| Ok::<_, ()>(words.join("+"))).unwrap();
        assert_eq!(labels(&groups), [("A", 0, 3), ("A", 4, 5), ("B", 6, 7), ("PLAIN", 8, 11)]);
        assert_eq!(groups[0].word, "B-A+I-A");
        assert!((groups[0].score - 0.6).abs() < 1e-6 && (groups[3].score - 0.7).abs() < 1e-6);
    }

    /// PO-02: where windows overlap the longest entity wins, then the surest.
    #[test]
    fn po_02_overlaps() {
        let given = vec![
            entity("x", 0.9, 5, 8),
            entity("long", 0.1, 0, 4),
            entity("short", 0.9, 2, 4),
            entity("sure", 0.95, 5, 8),
        ];
        assert_eq!(labels(&resolve_overlaps(given)), [("long", 0, 4), ("sure", 5, 8)]);
        assert!(resolve_overlaps(vec![]).is_empty());
    }
}
