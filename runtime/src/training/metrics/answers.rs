//! Answers out of the logits of a question answering model, window by window, as Transformers' example script finds them
//! before SQuAD's metrics. Must not know models or tokenizers.

use super::error::MetricError;

/// The logits of one window of a context.
#[derive(Debug, Clone, Copy)]
pub struct Window<'a> {
    /// Which question it is of.
    pub question: usize,
    /// Start and end of each token in the context, one after the other, in characters; -1 twice for tokens outside of it.
    pub offsets: &'a [i32],
    /// The logit of each token to be the answer's first.
    pub start_logits: &'a [f32],
    /// The logit of each token to be the answer's last.
    pub end_logits: &'a [f32],
    /// The token that stands for "no answer" (`[CLS]`).
    pub null_token: usize,
}

/// How answers are found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AnswerSettings {
    /// Starts and ends looked at in each window, the highest first.
    pub n_best_size: usize,
    /// Most tokens of an answer.
    pub max_answer_length: usize,
    /// Whether a question may have no answer.
    pub version_2_with_negative: bool,
    /// By how much "no answer" must be better than the best answer.
    pub null_score_diff_threshold: f32,
}

impl Default for AnswerSettings {
    fn default() -> Self {
        AnswerSettings {
            n_best_size: 20,
            max_answer_length: 30,
            version_2_with_negative: false,
            null_score_diff_threshold: 0.0,
        }
    }
}

/// The answer to a question.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Answer {
    /// Its text; empty for none.
    pub text: String,
    /// How much better no answer is than the best one; 0 where questions always have one.
    pub null_score_difference: f32,
}

/// The best answer to each question.
///
/// # Errors
/// When a window is of no question, or does not have one logit of each kind and one pair of offsets a token.
pub fn extract_answers(
    contexts: &[&str],
    windows: &[Window<'_>],
    settings: &AnswerSettings,
) -> Result<Vec<Answer>, MetricError> {
    let mut found = vec![Found::default(); contexts.len()];
    for (index, window) in windows.iter().enumerate() {
        let tokens = window.start_logits.len();
        if window.question >= contexts.len()
            || window.end_logits.len() != tokens
            || window.offsets.len() != 2 * tokens
            || window.null_token >= tokens
        {
            return Err(MetricError::Value {
                what: format!("window {index}"),
                expected: format!("one of {} questions, with as many logits and offsets as tokens", contexts.len()),
                found: format!(
                    "question {}, {tokens} and {} logits, {} offsets",
                    window.question,
                    window.end_logits.len(),
                    window.offsets.len()
                ),
            });
        }
        let score = window.start_logits[window.null_token] + window.end_logits[window.null_token];
        let found = &mut found[window.question];
        found.null_score = Some(found.null_score.map_or(score, |lowest| lowest.min(score)));
        let ends = highest(window.end_logits, settings.n_best_size);
        for start in highest(window.start_logits, settings.n_best_size) {
            for &end in &ends {
                let (from, to) = (window.offsets[2 * start], window.offsets[2 * end + 1]);
                let in_context = from >= 0 && to >= 0;
                if !in_context || end < start || end - start >= settings.max_answer_length {
                    continue;
                }
                let score = window.start_logits[start] + window.end_logits[end];
                if found.best.is_none_or(|(highest, ..)| score > highest) {
                    found.best = Some((score, from, to));
                }
            }
        }
    }
    Ok(contexts.iter().zip(found).map(|(context, found)| found.answer(context, settings)).collect())
}

/// What the windows of a question gave so far.
#[derive(Clone, Copy, Default)]
struct Found {
    /// Score, first character and the one behind the last of the best span.
    best: Option<(f32, i32, i32)>,
    /// The lowest score of "no answer".
    null_score: Option<f32>,
}

impl Found {
    fn answer(self, context: &str, settings: &AnswerSettings) -> Answer {
        let Some((score, from, to)) = self.best else { return Answer::default() };
        let count = |n: i32| usize::try_from(n).unwrap_or(0);
        let text: String = context.chars().skip(count(from)).take(count(to.saturating_sub(from))).collect();
        if !settings.version_2_with_negative {
            return Answer { text, null_score_difference: 0.0 };
        }
        let null_score_difference = self.null_score.unwrap_or(f32::NEG_INFINITY) - score;
        let text = if null_score_difference > settings.null_score_diff_threshold { String::new() } else { text };
        Answer { text, null_score_difference }
    }
}

/// The places of the `n` highest values, the highest first; of equal ones the later first, as a reversed sort has them.
fn highest(values: &[f32], n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]).then(b.cmp(&a)));
    order.truncate(n);
    order
}
