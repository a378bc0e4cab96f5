//! Metrics of numbers. Must not know what they measure.

use super::error::{MetricError, paired};

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len() as f64;
    values.sum::<f64>() / n
}

/// The mean of the squares of the differences.
///
/// # Errors
/// When there are no predictions, or not as many as references.
pub fn mean_squared_error(predictions: &[f64], references: &[f64]) -> Result<f64, MetricError> {
    paired(predictions.len(), references.len())?;
    Ok(mean(predictions.iter().zip(references).map(|(p, r)| (p - r) * (p - r))))
}

/// The mean of the differences without sign.
///
/// # Errors
/// As [`mean_squared_error`].
pub fn mean_absolute_error(predictions: &[f64], references: &[f64]) -> Result<f64, MetricError> {
    paired(predictions.len(), references.len())?;
    Ok(mean(predictions.iter().zip(references).map(|(p, r)| (p - r).abs())))
}

/// Pearson's correlation: covariance over the product of the standard deviations. NaN when all predictions or all references
/// are equal, as in SciPy.
///
/// # Errors
/// As [`mean_squared_error`].
pub fn pearson(predictions: &[f64], references: &[f64]) -> Result<f64, MetricError> {
    paired(predictions.len(), references.len())?;
    let (x, y) = (mean(predictions.iter().copied()), mean(references.iter().copied()));
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for (p, r) in predictions.iter().zip(references) {
        xx += (p - x) * (p - x);
        yy += (r - y) * (r - y);
        xy += (p - x) * (r - y);
    }
    Ok((xy / (xx.sqrt() * yy.sqrt())).clamp(-1.0, 1.0))
}

/// Spearman's correlation: Pearson's of the ranks.
///
/// # Errors
/// As [`mean_squared_error`]; and when a value is NaN.
pub fn spearman(predictions: &[f64], references: &[f64]) -> Result<f64, MetricError> {
    paired(predictions.len(), references.len())?;
    pearson(&ranks(predictions)?, &ranks(references)?)
}

/// Ranks from 1; equal values share the mean of theirs.
pub(super) fn ranks(values: &[f64]) -> Result<Vec<f64>, MetricError> {
    if let Some(at) = values.iter().position(|v| v.is_nan()) {
        let what = format!("value {at}");
        return Err(MetricError::Value { what, expected: "a number".into(), found: "NaN".into() });
    }
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    // Zeros of either sign are equal, and stand beside each other.
    for run in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let before = run.first().map_or(0, |first| order.partition_point(|&i| values[i] < values[*first]));
        let rank = before as f64 + (run.len() as f64 + 1.0) / 2.0;
        run.iter().for_each(|&i| ranks[i] = rank);
    }
    Ok(ranks)
}

/// `exp(loss)` of a mean negative log likelihood a token, in nats.
pub fn perplexity(loss: f64) -> f64 {
    loss.exp()
}
