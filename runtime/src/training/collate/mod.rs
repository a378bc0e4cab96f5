//! Collators: rows of features to one batch, padding-free as programs take it or padded where that is asked for.
//!
//! Must not know files, programs or where rows come from.
