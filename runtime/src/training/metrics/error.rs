//! What can go wrong with a metric. Must not know how errors are shown.

/// An error of a metric. Every variant is wrong usage (exit code 2).
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MetricError {
    /// Predictions and references are not of one number.
    #[error("{predictions} predictions for {references} references")]
    Lengths {
        /// Number of predictions.
        predictions: usize,
        /// Number of references.
        references: usize,
    },
    /// There is nothing to measure.
    #[error("there are no predictions")]
    Empty,
    /// A value is not what the metric takes.
    #[error("{what}: expected {expected}, found {found}")]
    Value {
        /// Which value.
        what: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
}

/// That there are predictions, one for each reference.
pub(super) fn paired(predictions: usize, references: usize) -> Result<(), MetricError> {
    if predictions != references {
        return Err(MetricError::Lengths { predictions, references });
    }
    if predictions == 0 { Err(MetricError::Empty) } else { Ok(()) }
}
