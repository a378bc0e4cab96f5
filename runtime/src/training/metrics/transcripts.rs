//! Metrics of summaries and transcripts: overlap of words, common subsequences, edit distances. Must not know languages.

use std::hash::Hash;

use super::classification::share;
use super::counts::{counts, ngrams, shared};
use super::error::{MetricError, paired};

/// The least number of insertions, deletions and substitutions that make one sequence the other (Levenshtein 1966).
fn edit_distance<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substitution = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substitution.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

fn error_rate<T: PartialEq>(
    predictions: &[&str],
    references: &[&str],
    units: impl Fn(&str) -> Vec<T>,
) -> Result<f64, MetricError> {
    paired(predictions.len(), references.len())?;
    let (mut edits, mut length) = (0, 0);
    for (prediction, reference) in predictions.iter().zip(references) {
        let reference = units(reference);
        edits += edit_distance(&units(prediction), &reference);
        length += reference.len();
    }
    if length == 0 {
        let (expected, found) = ("some text".into(), "none".into());
        return Err(MetricError::Value { what: "references".into(), expected, found });
    }
    Ok(edits as f64 / length as f64)
}

/// The edits of words over the words of the references, of all texts together.
///
/// # Errors
/// When there are no predictions, not as many as references, or the references have no words.
pub fn word_error_rate(predictions: &[&str], references: &[&str]) -> Result<f64, MetricError> {
    error_rate(predictions, references, |text| text.split_whitespace().map(str::to_string).collect::<Vec<_>>())
}

/// The edits of characters over the characters of the references, of all texts together; space around texts does not count.
///
/// # Errors
/// As [`word_error_rate`].
pub fn character_error_rate(predictions: &[&str], references: &[&str]) -> Result<f64, MetricError> {
    error_rate(predictions, references, |text| text.trim().chars().collect::<Vec<_>>())
}

/// The means over texts of ROUGE's F-measures (Lin 2004), without stemming, between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rouge {
    /// Of single words.
    pub rouge1: f64,
    /// Of pairs of words.
    pub rouge2: f64,
    /// Of the longest common subsequence of words.
    pub rouge_l: f64,
    /// The same sentence by sentence (lines), each of the reference with all of the prediction.
    pub rouge_lsum: f64,
}

/// Words as ROUGE counts them: runs of ASCII letters and digits in lower case.
fn words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let word = |c: char| c.is_ascii_alphanumeric();
    lower.split(|c| !word(c)).filter(|w| !w.is_empty()).map(str::to_string).collect()
}

/// 2 P R / (P + R) with P = hits / a and R = hits / b.
fn f_measure(hits: usize, a: usize, b: usize) -> f64 {
    if a == 0 || b == 0 { 0.0 } else { share(2 * hits, a + b) }
}

/// ROUGE-1, -2, -L and -Lsum of predictions.
///
/// # Errors
/// When there are no predictions, or not as many as references.
pub fn rouge(predictions: &[&str], references: &[&str]) -> Result<Rouge, MetricError> {
    paired(predictions.len(), references.len())?;
    let mut sum = Rouge::default();
    for (prediction, reference) in predictions.iter().zip(references) {
        let (p, r) = (words(prediction), words(reference));
        let overlap = |n: usize| {
            let (a, b) = (ngrams(&p, n), ngrams(&r, n));
            f_measure(shared(&a, &b), a.values().sum(), b.values().sum())
        };
        sum.rouge1 += overlap(1);
        sum.rouge2 += overlap(2);
        sum.rouge_l += f_measure(common(&r, &p).len(), p.len(), r.len());
        sum.rouge_lsum += by_sentences(prediction, reference);
    }
    let n = predictions.len() as f64;
    Ok(Rouge {
        rouge1: sum.rouge1 / n,
        rouge2: sum.rouge2 / n,
        rouge_l: sum.rouge_l / n,
        rouge_lsum: sum.rouge_lsum / n,
    })
}

/// The places in `a` of one of the longest common subsequences of `a` and `b`, found from the end.
fn common<T: PartialEq>(a: &[T], b: &[T]) -> Vec<usize> {
    let width = b.len() + 1;
    let mut table = vec![0u32; (a.len() + 1) * width];
    for (i, x) in a.iter().enumerate() {
        for (j, y) in b.iter().enumerate() {
            table[(i + 1) * width + j + 1] = match x == y {
                true => table[i * width + j] + 1,
                false => table[i * width + j + 1].max(table[(i + 1) * width + j]),
            };
        }
    }
    let (mut i, mut j) = (a.len(), b.len());
    let mut places = Vec::new();
    while i > 0 && j > 0 {
        if a[i - 1] == b[j - 1] {
            places.push(i - 1);
            (i, j) = (i - 1, j - 1);
        } else if table[i * width + j - 1] > table[(i - 1) * width + j] {
            j -= 1;
        } else {
            i -= 1;
        }
    }
    places.reverse();
    places
}

/// ROUGE-Lsum: for each sentence of the reference the union of its common subsequences with the sentences of the prediction; a
/// word counts no more often than both texts have it.
fn by_sentences(prediction: &str, reference: &str) -> f64 {
    let sentences = |text: &str| text.split('\n').filter(|s| !s.is_empty()).map(words).collect::<Vec<_>>();
    let (p, r) = (sentences(prediction), sentences(reference));
    let mut left = [counts(p.iter().flatten()), counts(r.iter().flatten())];
    let mut hits = 0;
    for sentence in &r {
        let places: std::collections::BTreeSet<usize> = p.iter().flat_map(|s| common(sentence, s)).collect();
        for place in places {
            let mut take = || use_up(&mut left, &sentence[place]);
            hits += usize::from(take());
        }
    }
    f_measure(hits, p.iter().map(Vec::len).sum(), r.iter().map(Vec::len).sum())
}

/// Takes one of `item` from both counts, if both have one.
fn use_up<T: Hash + Eq>(left: &mut [std::collections::HashMap<&T, usize>; 2], item: &T) -> bool {
    let both = left.iter().all(|counts| counts.get(item).is_some_and(|n| *n > 0));
    if both {
        left.iter_mut().filter_map(|counts| counts.get_mut(item)).for_each(|n| *n -= 1);
    }
    both
}
