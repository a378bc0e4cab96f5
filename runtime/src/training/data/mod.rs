//! Data sets: rows read from files, chosen, ordered and made into the features a model learns from.
//!
//! Must not know programs, batches or metrics.
