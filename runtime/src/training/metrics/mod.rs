//! Metrics: how good predictions are, from plain numbers and texts.
//!
//! Must not know models, data sets or the trainer.
