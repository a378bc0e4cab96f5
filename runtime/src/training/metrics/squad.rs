//! Exact match and F1 of answers, as the evaluation scripts of SQuAD 1.1 and 2.0 compute them (Rajpurkar et al. 2016, 2018).
//! Must not know questions.

use super::counts::{counts, shared};
use super::error::{MetricError, paired};

/// A text as answers are compared: lower case, without ASCII punctuation, articles and superfluous space.
fn normalize(text: &str) -> String {
    let lower = text.to_lowercase();
    let plain: String = lower.chars().filter(|c| !c.is_ascii_punctuation()).collect();
    let mut kept = String::with_capacity(plain.len());
    let mut rest = plain.as_str();
    while !rest.is_empty() {
        // Runs of letters and digits are words; what lies between stays.
        let word = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
        let (word, after) = rest.split_at(word);
        kept.push_str(if matches!(word, "a" | "an" | "the") { " " } else { word });
        let gap = after.find(char::is_alphanumeric).unwrap_or(after.len());
        let (gap, after) = after.split_at(gap);
        kept.push_str(gap);
        rest = after;
    }
    kept.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// F1 of the words of two normalized texts; `empty` when one of them has none.
fn f1(prediction: &str, reference: &str, empty: fn(&str, &str) -> f64) -> f64 {
    let words = |text: &str| text.split_whitespace().map(str::to_string).collect::<Vec<_>>();
    let (prediction_words, reference_words) = (words(prediction), words(reference));
    let all = prediction_words.len() + reference_words.len();
    if prediction_words.is_empty() || reference_words.is_empty() {
        return empty(prediction, reference);
    }
    let same = shared(&counts(prediction_words), &counts(reference_words));
    2.0 * same as f64 / all as f64
}

/// Exact match and F1 in percent (SQuAD 1.1): for each prediction the best of its references, then the mean.
///
/// # Errors
/// When there are no predictions, not as many as references, or a question has no reference.
pub fn squad(predictions: &[&str], references: &[Vec<&str>]) -> Result<(f64, f64), MetricError> {
    paired(predictions.len(), references.len())?;
    let (mut exact, mut overlap) = (0.0, 0.0);
    for (index, (prediction, references)) in predictions.iter().zip(references).enumerate() {
        if references.is_empty() {
            let (expected, found) = ("at least one answer".into(), "none".into());
            return Err(MetricError::Value { what: format!("references of question {index}"), expected, found });
        }
        let prediction = normalize(prediction);
        let (mut best_exact, mut best_f1) = (0.0f64, 0.0f64);
        for reference in references {
            let reference = normalize(reference);
            best_exact = best_exact.max(f64::from(u8::from(prediction == reference)));
            best_f1 = best_f1.max(f1(&prediction, &reference, |_, _| 0.0));
        }
        exact += best_exact;
        overlap += best_f1;
    }
    let n = predictions.len() as f64;
    Ok((100.0 * exact / n, 100.0 * overlap / n))
}

/// A predicted answer of a question that may have none.
#[derive(Debug, Clone, PartialEq)]
pub struct SquadAnswer<'a> {
    /// The answer; empty for none.
    pub text: &'a str,
    /// How probable it is that there is no answer.
    pub no_answer_probability: f64,
}

/// SQuAD 2.0's metrics by name, in percent: `exact`, `f1`, `total`, the same of questions with an answer (`HasAns_...`) and
/// without (`NoAns_...`) where there are such, and the thresholds of `no_answer_probability` at which both would be best
/// (`best_exact`, `best_exact_thresh`, `best_f1`, `best_f1_thresh`). An answer whose probability is above
/// `no_answer_threshold` (1 in the script) counts as none.
///
/// # Errors
/// When there are no predictions, or not as many as references.
pub fn squad_v2(
    predictions: &[SquadAnswer<'_>],
    references: &[Vec<&str>],
    no_answer_threshold: f64,
) -> Result<Vec<(String, f64)>, MetricError> {
    paired(predictions.len(), references.len())?;
    let same = |a: &str, b: &str| f64::from(u8::from(a == b));
    let mut rows = Vec::with_capacity(predictions.len());
    for (prediction, references) in predictions.iter().zip(references) {
        let mut answers: Vec<String> = references.iter().map(|r| normalize(r)).filter(|r| !r.is_empty()).collect();
        let has_answer = !references.is_empty();
        if answers.is_empty() {
            answers.push(String::new());
        }
        let text = normalize(prediction.text);
        let best = |of: &dyn Fn(&str) -> f64| answers.iter().map(|a| of(a)).fold(0.0, f64::max);
        let raw = [best(&|a| same(&text, a)), best(&|a| f1(&text, a, same))];
        rows.push((has_answer, raw, prediction));
    }
    let none = |has_answer: bool| f64::from(u8::from(!has_answer));
    let score = |row: &(bool, [f64; 2], &SquadAnswer<'_>), metric: usize| {
        if row.2.no_answer_probability > no_answer_threshold { none(row.0) } else { row.1[metric] }
    };
    let mut all = Vec::new();
    for (prefix, wanted) in [("", None), ("HasAns_", Some(true)), ("NoAns_", Some(false))] {
        let chosen: Vec<_> = rows.iter().filter(|row| wanted.is_none_or(|w| row.0 == w)).collect();
        if chosen.is_empty() {
            continue;
        }
        for (metric, name) in ["exact", "f1"].into_iter().enumerate() {
            let sum: f64 = chosen.iter().map(|row| score(row, metric)).sum();
            all.push((format!("{prefix}{name}"), 100.0 * sum / chosen.len() as f64));
        }
        all.push((format!("{prefix}total"), chosen.len() as f64));
    }
    // From "nothing is answered" on, questions are answered in order of their probability to have no answer.
    let mut order: Vec<usize> = (0..rows.len()).collect();
    let probability = |i: &usize| rows[*i].2.no_answer_probability;
    order.sort_by(|a, b| probability(a).total_cmp(&probability(b)));
    for (metric, name) in ["exact", "f1"].into_iter().enumerate() {
        let mut current: f64 = rows.iter().map(|row| none(row.0)).sum();
        let (mut best, mut threshold) = (current, 0.0);
        for i in &order {
            let (has_answer, raw, prediction) = &rows[*i];
            current += match (has_answer, prediction.text.is_empty()) {
                (true, _) => raw[metric],
                (false, true) => 0.0,
                (false, false) => -1.0,
            };
            if current > best {
                (best, threshold) = (current, prediction.no_answer_probability);
            }
        }
        all.push((format!("best_{name}"), 100.0 * best / rows.len() as f64));
        all.push((format!("best_{name}_thresh"), threshold));
    }
    Ok(all)
}
