//! Metrics of translations, after sacrebleu (Post 2018). Must not know languages.

use std::collections::HashMap;

use super::counts::{ngrams, shared};
use super::error::{MetricError, paired};

/// Words as mteval-v13a splits them: punctuation apart, but not within numbers.
fn tokenize_13a(text: &str) -> Vec<String> {
    let mut text = text.trim_end().replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    if text.contains('&') {
        text = text.replace("&quot;", "\"").replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">");
    }
    let mut chars: Vec<char> = Vec::with_capacity(text.len() + 2);
    for c in format!(" {text} ").chars() {
        let apart = c == ' ' || (c.is_ascii_punctuation() && !matches!(c, '\'' | ',' | '-' | '.'));
        if apart { chars.extend([' ', c, ' ']) } else { chars.push(c) }
    }
    let (digit, stop) = (|c: char| c.is_ascii_digit(), |c: char| matches!(c, '.' | ','));
    // A stop goes apart unless a digit stands before it; then unless one stands behind it; then a dash behind a digit.
    let chars = pairs(&chars, |a, b| (!digit(a) && stop(b)).then_some([a, ' ', b, ' ']));
    let chars = pairs(&chars, |a, b| (stop(a) && !digit(b)).then_some([' ', a, ' ', b]));
    let chars = pairs(&chars, |a, b| (digit(a) && b == '-').then_some([a, ' ', b, ' ']));
    chars.iter().collect::<String>().split_whitespace().map(str::to_string).collect()
}

/// Replaces pairs of neighbours from the left, none of them overlapping.
fn pairs(chars: &[char], replace: impl Fn(char, char) -> Option<[char; 4]>) -> Vec<char> {
    let mut result = Vec::with_capacity(chars.len());
    let mut rest = chars;
    while let [a, after @ ..] = rest {
        match after.split_first().and_then(|(b, behind)| Some((replace(*a, *b)?, behind))) {
            Some((replaced, behind)) => {
                result.extend(replaced);
                rest = behind;
            }
            None => {
                result.push(*a);
                rest = after;
            }
        }
    }
    result
}

/// BLEU of a whole corpus in percent (Papineni et al. 2002): words as mteval-v13a splits them, n-grams up to 4, several
/// references a text, exponential smoothing of orders without a match.
///
/// # Errors
/// When there are no predictions, not as many as references, or a text has no reference.
pub fn bleu(predictions: &[&str], references: &[Vec<&str>]) -> Result<f64, MetricError> {
    const ORDER: usize = 4;
    check(predictions, references)?;
    let (mut correct, mut total) = ([0usize; ORDER], [0usize; ORDER]);
    let (mut length, mut reference_length) = (0usize, 0usize);
    for (prediction, references) in predictions.iter().zip(references) {
        let words = tokenize_13a(prediction);
        let references: Vec<Vec<String>> = references.iter().map(|r| tokenize_13a(r)).collect();
        length += words.len();
        // The nearest length counts, of two equally near the shorter.
        let nearest = references.iter().map(Vec::len).min_by_key(|n| (n.abs_diff(words.len()), *n));
        reference_length += nearest.unwrap_or(0);
        for n in 1..=ORDER {
            let found = ngrams(&words, n);
            let mut most: HashMap<&[String], usize> = HashMap::new();
            for reference in &references {
                for (ngram, count) in ngrams(reference, n) {
                    let known = most.entry(ngram).or_insert(0);
                    *known = (*known).max(count);
                }
            }
            correct[n - 1] += shared(&found, &most);
            total[n - 1] += found.values().sum::<usize>();
        }
    }
    if correct.iter().all(|c| *c == 0) {
        return Ok(0.0);
    }
    let mut logs = 0.0;
    let mut smoothing = 1.0;
    for (correct, total) in correct.into_iter().zip(total) {
        if total == 0 {
            // No text is long enough for n-grams of this order: the product has a factor of 0.
            return Ok(0.0);
        }
        let precision = if correct == 0 {
            smoothing *= 2.0;
            1.0 / (smoothing * total as f64)
        } else {
            correct as f64 / total as f64
        };
        logs += precision.ln();
    }
    let brevity = match length < reference_length {
        true => (1.0 - reference_length as f64 / length as f64).exp(),
        false => 1.0,
    };
    Ok(100.0 * brevity * (logs / ORDER as f64).exp())
}

fn check(predictions: &[&str], references: &[Vec<&str>]) -> Result<(), MetricError> {
    paired(predictions.len(), references.len())?;
    match references.iter().position(Vec::is_empty) {
        Some(index) => {
            let (expected, found) = ("at least one text".into(), "none".into());
            Err(MetricError::Value { what: format!("references of text {index}"), expected, found })
        }
        None => Ok(()),
    }
}

/// N-grams of a prediction and of a reference, and how many they share.
type Matches = [usize; 3];

/// F with recall counting `beta` = 2 times as much as precision, of the means over the orders that both texts have.
fn f_score(orders: &[Matches]) -> f64 {
    const FACTOR: f64 = 4.0;
    let (mut precision, mut recall, mut present) = (0.0, 0.0, 0.0);
    for [found, there, same] in orders.iter().filter(|[found, there, _]| *found > 0 && *there > 0) {
        precision += *same as f64 / *found as f64;
        recall += *same as f64 / *there as f64;
        present += 1.0;
    }
    if precision + recall == 0.0 {
        return 0.0;
    }
    let (precision, recall) = (precision / present, recall / present);
    100.0 * (1.0 + FACTOR) * precision * recall / (FACTOR * precision + recall)
}

/// chrF of a whole corpus in percent (Popović 2015): n-grams of up to 6 characters without space and, for chrF++ (2017),
/// `word_order` 2, of words; of several references the best.
///
/// # Errors
/// As [`bleu`].
pub fn chrf(predictions: &[&str], references: &[Vec<&str>], word_order: usize) -> Result<f64, MetricError> {
    check(predictions, references)?;
    let mut corpus: Vec<Matches> = vec![[0; 3]; 6 + word_order];
    for (prediction, references) in predictions.iter().zip(references) {
        let mut best: Option<(f64, Vec<Matches>)> = None;
        for reference in references {
            let matches = chrf_matches(prediction, reference, word_order);
            let score = f_score(&matches);
            if best.as_ref().is_none_or(|(highest, _)| score > *highest) {
                best = Some((score, matches));
            }
        }
        for (sum, matches) in corpus.iter_mut().zip(best.into_iter().flat_map(|(_, matches)| matches)) {
            sum.iter_mut().zip(matches).for_each(|(sum, n)| *sum += n);
        }
    }
    Ok(f_score(&corpus))
}

fn chrf_matches(prediction: &str, reference: &str, word_order: usize) -> Vec<Matches> {
    fn matches<T: std::hash::Hash + Eq>(a: &[T], b: &[T], n: usize) -> Matches {
        let (a, b) = (ngrams(a, n), ngrams(b, n));
        // N-grams that the reference is too short to have do not count against the prediction.
        let found = if b.is_empty() { 0 } else { a.values().sum() };
        [found, b.values().sum(), shared(&a, &b)]
    }
    let chars = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<Vec<char>>();
    let (p, r) = (chars(prediction), chars(reference));
    let mut orders: Vec<Matches> = (1..=6).map(|n| matches(&p, &r, n)).collect();
    let (p, r) = (chrf_words(prediction), chrf_words(reference));
    orders.extend((1..=word_order).map(|n| matches(&p, &r, n)));
    orders
}

/// Words with one punctuation mark at the end, or else at the beginning, apart.
fn chrf_words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    for word in text.split_whitespace() {
        let mut chars = word.chars();
        let (first, last) = (chars.next(), chars.next_back());
        let mark = |c: Option<char>| c.filter(char::is_ascii_punctuation).map(char::len_utf8);
        let split = match (mark(first), mark(last), last) {
            (_, Some(n), _) => word.split_at_checked(word.len() - n),
            (Some(n), None, Some(_)) => word.split_at_checked(n),
            _ => None,
        };
        match split {
            Some((a, b)) => words.extend([a, b]),
            None => words.push(word),
        }
    }
    words
}
