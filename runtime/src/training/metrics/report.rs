//! The metrics that a task is judged by, from a model's outputs. Must not know the trainer.

use super::classification::{Average, accuracy, matthews_correlation, no_class, precision_recall_f1, roc_auc, rows_of};
use super::entities::entity_scores;
use super::error::MetricError;
use super::regression::{mean_absolute_error, mean_squared_error, pearson, spearman};
use crate::training::collate::IGNORE_INDEX;

/// Metrics by name, in order.
pub type Metrics = Vec<(String, f64)>;

fn named<const N: usize>(metrics: [(&str, f64); N]) -> Metrics {
    metrics.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
}

/// The first of the highest of a row.
fn argmax(row: &[f32]) -> usize {
    (1..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

/// One class a row: accuracy, precision, recall, F1 and Matthews' correlation. Precision, recall and F1 are those of class 1 of
/// two, the macro average of more. `logits` are `[rows, classes]`.
///
/// # Errors
/// When shapes do not fit or a label is not a class.
pub fn single_label(logits: &[f32], classes: usize, labels: &[i32]) -> Result<Metrics, MetricError> {
    let rows = rows_of(logits, classes, labels.len())?;
    let references: Vec<i64> = labels.iter().copied().map(i64::from).collect();
    if let Some(&wrong) = references.iter().find(|l| usize::try_from(**l).map_or(true, |l| l >= classes)) {
        return Err(no_class(wrong, classes));
    }
    let predictions: Vec<i64> = rows.map(|row| argmax(row) as i64).collect();
    let average = if classes == 2 { Average::Binary { positive: 1 } } else { Average::Macro };
    let scores = precision_recall_f1(&predictions, &references, average)?;
    Ok(named([
        ("accuracy", accuracy(&predictions, &references)?),
        ("precision", scores.precision),
        ("recall", scores.recall),
        ("f1", scores.f1),
        ("matthews_correlation", matthews_correlation(&predictions, &references)?),
    ]))
}

/// Any number of classes a row: a class is predicted where its logit is above 0. Accuracy counts rows with all classes right;
/// F1 is given as micro and macro average, the area under the ROC curve as mean over the classes that have both kinds of rows.
/// `logits` and `labels` (0 or 1) are `[rows, classes]`.
///
/// # Errors
/// When shapes do not fit.
pub fn multi_label(logits: &[f32], classes: usize, labels: &[f32]) -> Result<Metrics, MetricError> {
    let count = labels.len() / classes.max(1);
    let predicted = rows_of(logits, classes, count)?;
    let there = rows_of(labels, classes, count)?;
    let whole = predicted.zip(there).filter(|(p, t)| p.iter().zip(*t).all(|(p, t)| (*p > 0.0) == (*t > 0.5))).count();
    let hits = |class: usize| {
        let column = |values: &'_ [f32]| values.iter().skip(class).step_by(classes).copied().collect::<Vec<f32>>();
        (column(logits), column(labels))
    };
    let (mut all_predictions, mut all_references) = (Vec::new(), Vec::new());
    let (mut f1, mut areas) = (0.0, Vec::new());
    for class in 0..classes {
        let (scores, targets) = hits(class);
        let predictions: Vec<i64> = scores.iter().map(|s| i64::from(*s > 0.0)).collect();
        let references: Vec<i64> = targets.iter().map(|t| i64::from(*t > 0.5)).collect();
        f1 += precision_recall_f1(&predictions, &references, Average::Binary { positive: 1 })?.f1;
        let scores: Vec<f64> = scores.into_iter().map(f64::from).collect();
        let positive: Vec<bool> = references.iter().map(|r| *r == 1).collect();
        areas.extend(Some(roc_auc(&scores, &positive)?).filter(|area| !area.is_nan()));
        all_predictions.extend(predictions);
        all_references.extend(references);
    }
    let micro = precision_recall_f1(&all_predictions, &all_references, Average::Binary { positive: 1 })?;
    Ok(named([
        ("accuracy", whole as f64 / count as f64),
        ("f1_micro", micro.f1),
        ("f1_macro", f1 / classes as f64),
        ("roc_auc", areas.iter().sum::<f64>() / areas.len() as f64),
    ]))
}

/// Numbers: mean squared and absolute error, and the correlations of Pearson and Spearman.
///
/// # Errors
/// When there are no rows, not as many predictions as labels, or one is NaN.
pub fn regression_report(predictions: &[f32], labels: &[f32]) -> Result<Metrics, MetricError> {
    let wide = |values: &[f32]| values.iter().copied().map(f64::from).collect::<Vec<f64>>();
    let (predictions, labels) = (wide(predictions), wide(labels));
    Ok(named([
        ("mse", mean_squared_error(&predictions, &labels)?),
        ("mae", mean_absolute_error(&predictions, &labels)?),
        ("pearson", pearson(&predictions, &labels)?),
        ("spearmanr", spearman(&predictions, &labels)?),
    ]))
}

/// A tag for each token: precision, recall and F1 of entities, and the accuracy of tags. `logits` are `[tokens, tags]`, labels
/// of -100 do not count, `offsets` says where sequences begin and end, `names` is what the tags are called.
///
/// # Errors
/// When shapes do not fit, offsets do not ascend, or a label is not a tag.
pub fn token_labels(logits: &[f32], labels: &[i32], offsets: &[i32], names: &[String]) -> Result<Metrics, MetricError> {
    let rows: Vec<&[f32]> = rows_of(logits, names.len(), labels.len())?.collect();
    let (mut predictions, mut references) = (Vec::new(), Vec::new());
    for pair in offsets.windows(2) {
        let range = usize::try_from(pair[0]).ok().zip(usize::try_from(pair[1]).ok()).map(|(a, b)| a..b);
        let sequence = range.and_then(|range| Some((rows.get(range.clone())?, labels.get(range)?)));
        let (rows, labels) = sequence.ok_or_else(|| MetricError::Value {
            what: "offsets".into(),
            expected: format!("ascending numbers up to {}", labels.len()),
            found: format!("{} and {}", pair[0], pair[1]),
        })?;
        let (mut predicted, mut there) = (Vec::new(), Vec::new());
        for (row, &label) in rows.iter().zip(labels).filter(|(_, label)| **label != IGNORE_INDEX) {
            let name = usize::try_from(label).ok().and_then(|l| names.get(l));
            there.push(name.ok_or_else(|| no_class(i64::from(label), names.len()))?.as_str());
            predicted.push(names.get(argmax(row)).map_or("O", String::as_str));
        }
        predictions.push(predicted);
        references.push(there);
    }
    let scores = entity_scores(&predictions, &references, None)?;
    Ok(named([
        ("precision", scores.overall.precision),
        ("recall", scores.overall.recall),
        ("f1", scores.overall.f1),
        ("accuracy", scores.accuracy),
    ]))
}
