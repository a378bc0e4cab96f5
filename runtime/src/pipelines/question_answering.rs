//! Extractive question answering, as Transformers 4 did it: long contexts in windows, the best spans of all of them. (PO-06)

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use serde_json::{Value, json};

use super::input::field;
use super::math::softmax;
use super::{Args, Input, Pipeline, PipelineError};
use crate::tokenizer::{EncodeOptions, Encoding, Side, Text, TokenizerError, Truncation};

/// What stands in for the logits of tokens that cannot be in an answer.
const MASKED: f32 = -10000.0;

/// The arguments of a call.
struct Settings {
    top_k: usize,
    max_answer_len: usize,
    handle_impossible: bool,
    align_to_words: bool,
}

/// An answer in the making. Scores of equal answers add up, in float64 as upstream.
struct Candidate {
    score: f64,
    start: usize,
    end: usize,
    text: String,
}

/// What is gathered over the windows of one input.
struct Gathered {
    candidates: Vec<Candidate>,
    /// Index of each candidate by its text in lower case: answers that differ in case alone are equal.
    known: HashMap<String, usize>,
    /// The least score of "no answer" in any window.
    null_score: f64,
}

pub(super) fn call(pipeline: &Pipeline, inputs: &[Input], args: &Args) -> Result<Vec<Value>, PipelineError> {
    let top_k = args.positive("top_k")?.or(args.positive("topk")?).unwrap_or(1);
    let settings = Settings {
        top_k,
        max_answer_len: args.positive("max_answer_len")?.unwrap_or(15),
        handle_impossible: args.flag("handle_impossible_answer") == Some(true),
        align_to_words: args.flag("align_to_words") != Some(false),
    };
    let (mut sequences, mut rows, mut contexts) = (Vec::new(), Vec::new(), Vec::new());
    for (index, input) in inputs.iter().enumerate() {
        let (question, context) = texts(index, input)?;
        for row in windows(pipeline, index, question, context, args)? {
            sequences.push(pipeline.sequence(index, &row, "lower max_seq_len")?);
            rows.push((index, row));
        }
        contexts.push(context.chars().collect::<Vec<char>>());
    }

    let mut gathered: Vec<Gathered> = inputs
        .iter()
        .map(|_| Gathered { candidates: Vec::new(), known: HashMap::new(), null_score: 1_000_000.0 })
        .collect();
    pipeline.run(&sequences, args, |i, answer| {
        let split;
        let (start, end) = if answer.has("start_logits") {
            (answer.rows(&["start_logits"])?.1, answer.rows(&["end_logits"])?.1)
        } else {
            let (width, both) = answer.rows(&["logits"])?;
            if width != 2 {
                return Err(PipelineError::output("logits", format!("have {width} columns, expected start and end")));
            }
            let column = |c: usize| both.chunks_exact(2).map(|pair| pair[c]).collect::<Vec<f32>>();
            split = (column(0), column(1));
            (&split.0[..], &split.1[..])
        };
        let (index, row) = &rows[i];
        if start.len() != row.len() || end.len() != row.len() {
            return Err(PipelineError::output("start_logits", "must have one value a token"));
        }
        read_window(pipeline, row, start, end, &contexts[*index], &settings, &mut gathered[*index]);
        Ok(())
    })?;
    Ok(gathered.into_iter().map(|g| finish(g, &settings)).collect())
}

/// The question and the context of an input, neither of them empty.
fn texts(index: usize, input: &Input) -> Result<(&str, &str), PipelineError> {
    let problem = |problem: String| PipelineError::Input { index, problem };
    let Input::Record(record) = input else {
        return Err(problem("expected {\"question\": ..., \"context\": ...}".into()));
    };
    let text = |name: &str| match field(record, index, name)? {
        None => Err(problem(format!("{name:?} is missing"))),
        Some("") => Err(problem(format!("{name:?} is empty"))),
        Some(text) => Ok(text),
    };
    Ok((text("question")?, text("context")?))
}

/// Whether the question stands before the context, as it does for tokenizers that pad on the right.
fn question_first(pipeline: &Pipeline) -> bool {
    pipeline.tokenizer.padding_side == Side::Right
}

/// The question with each window of the context.
fn windows(
    pipeline: &Pipeline,
    index: usize,
    question: &str,
    context: &str,
    args: &Args,
) -> Result<Vec<Encoding>, PipelineError> {
    let limit = pipeline.tokenizer.model_max_length.unwrap_or(usize::MAX).min(384);
    let max_length = args.positive("max_seq_len")?.unwrap_or(limit);
    let stride = args.int("doc_stride").unwrap_or((max_length / 2).min(128));
    if stride > max_length {
        let problem = format!("{stride} is larger than max_seq_len {max_length}");
        return Err(PipelineError::argument("doc_stride", problem));
    }
    let failed = |source: TokenizerError| PipelineError::Tokenizer { index, source };
    let first = question_first(pipeline);
    let (text, pair) = if first { (question, context) } else { (context, question) };
    let options = EncodeOptions {
        truncation: Some(if first { Truncation::OnlySecond } else { Truncation::OnlyFirst }),
        max_length: Some(max_length),
        stride,
        return_overflowing_tokens: true,
        ..EncodeOptions::default()
    };
    Ok(pipeline.tokenizer.encode(text, Some(Text::Raw(pair)), &options).map_err(failed)?.rows)
}

/// Adds the best spans of one window.
fn read_window(
    pipeline: &Pipeline,
    row: &Encoding,
    start: &[f32],
    end: &[f32],
    context: &[char],
    settings: &Settings,
    gathered: &mut Gathered,
) {
    // Answers lie in the context; [CLS] takes part because it stands for "no answer".
    let sequence = usize::from(question_first(pipeline));
    let cls = pipeline.tokenizer.cls_token_id();
    let allowed: Vec<bool> = (0..row.len())
        .map(|t| sequence == 0 || row.sequence_ids[t] == Some(sequence) || Some(row.ids[t]) == cls)
        .collect();
    let normalise = |logits: &[f32]| {
        let masked: Vec<f32> = logits.iter().zip(&allowed).map(|(&x, &a)| if a { x } else { MASKED }).collect();
        softmax(&masked)
    };
    let (mut start, mut end) = (normalise(start), normalise(end));
    if settings.handle_impossible
        && let (Some(s), Some(e)) = (start.first(), end.first())
    {
        gathered.null_score = gathered.null_score.min(f64::from(s * e));
    }
    // The first token may not be part of an answer.
    start.first_mut().into_iter().chain(end.first_mut()).for_each(|x| *x = 0.0);

    // Some spans grow to the same words, so more of them are looked at.
    let wanted =
        if settings.align_to_words { settings.top_k.saturating_mul(2).saturating_add(10) } else { settings.top_k };
    for (score, s, e) in best_spans(&start, &end, &allowed, wanted, settings.max_answer_len) {
        let (from, to) = characters(row, s, e, sequence, settings.align_to_words);
        let text: String = context.get(from..to.min(context.len())).unwrap_or(&[]).iter().collect();
        match gathered.known.entry(text.to_lowercase()) {
            Entry::Occupied(known) => gathered.candidates[*known.get()].score += f64::from(score),
            Entry::Vacant(new) => {
                new.insert(gathered.candidates.len());
                gathered.candidates.push(Candidate { score: f64::from(score), start: from, end: to, text });
            }
        }
    }
}

/// The `wanted` likeliest spans (score, first token, last token) of at most `max_len` tokens, best first. Spans that
/// cannot be (score 0) are left out; upstream lets some of them through when it runs out of others.
fn best_spans(start: &[f32], end: &[f32], allowed: &[bool], wanted: usize, max_len: usize) -> Vec<(f32, usize, usize)> {
    let mut spans = Vec::new();
    for s in (0..start.len()).filter(|&s| allowed[s] && start[s] > 0.0) {
        for e in (s..start.len().min(s.saturating_add(max_len))).filter(|&e| allowed[e]) {
            let score = start[s] * end[e];
            if score > 0.0 {
                spans.push((score, s, e));
            }
        }
    }
    let order =
        |a: &(f32, usize, usize), b: &(f32, usize, usize)| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2)));
    if wanted < spans.len() {
        spans.select_nth_unstable_by(wanted, order);
        spans.truncate(wanted);
    }
    spans.sort_unstable_by(order);
    spans
}

/// The characters of a span of tokens, widened to whole words if asked for and if the tokens are of words.
fn characters(row: &Encoding, start: usize, end: usize, sequence: usize, align: bool) -> (usize, usize) {
    let word = |token: usize| row.token_to_word(token).and_then(|(_, word)| row.word_to_chars(word, sequence));
    match (word(start), word(end)) {
        (Some((from, _)), Some((_, to))) if align => (from, to),
        _ => (row.offsets[start].0, row.offsets[end].1),
    }
}

fn finish(gathered: Gathered, settings: &Settings) -> Value {
    let Gathered { mut candidates, null_score, .. } = gathered;
    if settings.handle_impossible {
        candidates.push(Candidate { score: null_score, start: 0, end: 0, text: String::new() });
    }
    candidates.sort_by(|a, b| b.score.total_cmp(&a.score));
    candidates.truncate(settings.top_k);
    let mut answers: Vec<Value> = candidates
        .into_iter()
        .map(|c| json!({ "score": c.score, "start": c.start, "end": c.end, "answer": c.text }))
        .collect();
    if answers.len() == 1 { answers.remove(0) } else { Value::Array(answers) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PO-06: the end is not before the start, and an answer has at most `max_len` tokens.
    #[test]
    fn po_06_spans() {
        let (start, end) = ([0.0, 0.1, 0.2, 0.7], [0.0, 0.6, 0.3, 0.1]);
        let all = [true; 4];
        let spans = |max_len, wanted| {
            best_spans(&start, &end, &all, wanted, max_len).into_iter().map(|(_, s, e)| (s, e)).collect::<Vec<_>>()
        };
        assert_eq!(spans(3, 10), [(3, 3), (1, 1), (2, 2), (1, 2), (2, 3), (1, 3)]);
        assert_eq!(spans(1, 10), [(3, 3), (1, 1), (2, 2)]);
        assert_eq!(spans(3, 2), [(3, 3), (1, 1)]);
        assert_eq!(best_spans(&start, &end, &[true, true, false, false], 10, 3).len(), 1);
    }
}
