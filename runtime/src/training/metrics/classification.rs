//! Metrics of classes, after scikit-learn. Must not know what classes mean.

use std::collections::BTreeMap;

use super::error::{MetricError, paired};
use super::regression::ranks;

/// The share of predictions that are right.
///
/// # Errors
/// When there are none, or not as many as references.
pub fn accuracy<T: PartialEq>(predictions: &[T], references: &[T]) -> Result<f64, MetricError> {
    paired(predictions.len(), references.len())?;
    let right = predictions.iter().zip(references).filter(|(p, r)| p == r).count();
    Ok(right as f64 / predictions.len() as f64)
}

/// The share of texts that are the same, character for character.
///
/// # Errors
/// As [`accuracy`].
pub fn exact_match(predictions: &[&str], references: &[&str]) -> Result<f64, MetricError> {
    accuracy(predictions, references)
}

/// How the scores of classes become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Average {
    /// Those of this class alone.
    Binary {
        /// The class that counts as found.
        positive: i64,
    },
    /// Of all classes' counts together.
    Micro,
    /// The mean over the classes that occur in predictions or references.
    Macro,
    /// The mean weighted by how often a class occurs in the references.
    Weighted,
}

/// Precision, recall and their harmonic mean; 0 where one is a division by zero.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Scores {
    /// The share of those found that are right.
    pub precision: f64,
    /// The share of those there are that were found.
    pub recall: f64,
    /// Harmonic mean of both.
    pub f1: f64,
    /// How many there are.
    pub support: usize,
}

/// How many were right, found, and there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Hits {
    pub right: usize,
    pub found: usize,
    pub there: usize,
}

/// A share, 0 of nothing.
pub(super) fn share(part: usize, of: usize) -> f64 {
    if of == 0 { 0.0 } else { part as f64 / of as f64 }
}

impl Hits {
    pub fn scores(self) -> Scores {
        Scores {
            precision: share(self.right, self.found),
            recall: share(self.right, self.there),
            f1: share(2 * self.right, self.found + self.there),
            support: self.there,
        }
    }

    pub fn sum<'a>(all: impl IntoIterator<Item = &'a Hits>) -> Hits {
        all.into_iter().fold(Hits::default(), |sum, hits| Hits {
            right: sum.right + hits.right,
            found: sum.found + hits.found,
            there: sum.there + hits.there,
        })
    }
}

fn hits(predictions: &[i64], references: &[i64]) -> BTreeMap<i64, Hits> {
    let mut classes: BTreeMap<i64, Hits> = BTreeMap::new();
    for (&prediction, &reference) in predictions.iter().zip(references) {
        classes.entry(prediction).or_default().found += 1;
        let there = classes.entry(reference).or_default();
        there.there += 1;
        there.right += usize::from(prediction == reference);
    }
    classes
}

/// Precision, recall and F1 of each class that occurs (`average=None`).
///
/// # Errors
/// As [`accuracy`].
pub fn scores_by_class(predictions: &[i64], references: &[i64]) -> Result<BTreeMap<i64, Scores>, MetricError> {
    paired(predictions.len(), references.len())?;
    Ok(hits(predictions, references).into_iter().map(|(class, hits)| (class, hits.scores())).collect())
}

/// Precision, recall and F1 of all classes in one (scikit-learn's `precision_recall_fscore_support`, `zero_division=0`).
///
/// # Errors
/// As [`accuracy`].
pub fn precision_recall_f1(predictions: &[i64], references: &[i64], average: Average) -> Result<Scores, MetricError> {
    paired(predictions.len(), references.len())?;
    let classes = hits(predictions, references);
    Ok(match average {
        Average::Binary { positive } => classes.get(&positive).copied().unwrap_or_default().scores(),
        Average::Micro => Hits::sum(classes.values()).scores(),
        Average::Macro => mean(classes.values().map(|hits| (hits.scores(), 1.0))),
        Average::Weighted => mean(classes.values().map(|hits| (hits.scores(), hits.there as f64))),
    })
}

/// The weighted mean of scores.
fn mean(scores: impl Iterator<Item = (Scores, f64)>) -> Scores {
    let (mut sum, mut weights) = (Scores::default(), 0.0);
    for (scores, weight) in scores {
        sum.precision += weight * scores.precision;
        sum.recall += weight * scores.recall;
        sum.f1 += weight * scores.f1;
        sum.support += scores.support;
        weights += weight;
    }
    if weights > 0.0 {
        sum.precision /= weights;
        sum.recall /= weights;
        sum.f1 /= weights;
    }
    sum
}

/// Matthews' correlation coefficient for any number of classes (Gorodkin 2004, `R_K`); 0 when predictions or references are
/// all of one class.
///
/// # Errors
/// As [`accuracy`].
pub fn matthews_correlation(predictions: &[i64], references: &[i64]) -> Result<f64, MetricError> {
    paired(predictions.len(), references.len())?;
    let classes = hits(predictions, references);
    let n = predictions.len() as f64;
    let sum = |of: fn(&Hits) -> f64| classes.values().map(of).sum::<f64>();
    // cov(X, Y) = right * n - sum found * there
    let covariance = sum(|h| h.right as f64) * n - sum(|h| h.found as f64 * h.there as f64);
    let of_found = n * n - sum(|h| (h.found as f64).powi(2));
    let of_there = n * n - sum(|h| (h.there as f64).powi(2));
    let norm = (of_found * of_there).sqrt();
    Ok(if norm == 0.0 { 0.0 } else { covariance / norm })
}

/// The area under the receiver operating characteristic: the probability that a positive has a higher score than a negative,
/// ties counting half (Mann and Whitney). NaN when all are of one class.
///
/// # Errors
/// As [`accuracy`]; and when a score is NaN.
pub fn roc_auc(scores: &[f64], positive: &[bool]) -> Result<f64, MetricError> {
    paired(scores.len(), positive.len())?;
    let ranks = ranks(scores)?;
    let positives = positive.iter().filter(|p| **p).count() as f64;
    let negatives = scores.len() as f64 - positives;
    let sum: f64 = ranks.iter().zip(positive).filter(|(_, positive)| **positive).map(|(rank, _)| rank).sum();
    // (R - p (p + 1) / 2) / (p n)
    Ok((sum - positives * (positives + 1.0) / 2.0) / (positives * negatives))
}

/// The share of rows whose class is among the `k` highest of `classes` scores; of equal scores the later class is the higher,
/// as in scikit-learn.
///
/// # Errors
/// When the scores are not one for each class and row, a class does not exist, or there are no rows.
pub fn top_k_accuracy(scores: &[f32], classes: usize, references: &[i64], k: usize) -> Result<f64, MetricError> {
    let rows = rows_of(scores, classes, references.len())?;
    let mut right = 0usize;
    for (row, &class) in rows.zip(references) {
        let at = usize::try_from(class).ok().filter(|at| *at < classes).ok_or_else(|| no_class(class, classes))?;
        let higher = |(i, score): (usize, &f32)| match score.total_cmp(&row[at]) {
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Equal => i > at,
            std::cmp::Ordering::Less => false,
        };
        right += usize::from(row.iter().enumerate().filter(|entry| higher(*entry)).count() < k);
    }
    Ok(right as f64 / references.len() as f64)
}

/// The rows of a matrix with one column a class.
pub(super) fn rows_of(
    scores: &[f32],
    classes: usize,
    rows: usize,
) -> Result<std::slice::ChunksExact<'_, f32>, MetricError> {
    if classes == 0 || rows.checked_mul(classes) != Some(scores.len()) {
        return Err(MetricError::Value {
            what: "scores".into(),
            expected: format!("{rows} rows of {classes}"),
            found: format!("{} values", scores.len()),
        });
    }
    if rows == 0 { Err(MetricError::Empty) } else { Ok(scores.chunks_exact(classes)) }
}

pub(super) fn no_class(class: i64, classes: usize) -> MetricError {
    MetricError::Value {
        what: "reference".into(),
        expected: format!("a class below {classes}"),
        found: class.to_string(),
    }
}
