//! Metrics: how good predictions are, from plain numbers and texts.
//!
//! Definitions and conventions are those of the libraries that Transformers' users compute them with; each says which. Must
//! not know models, data sets or the trainer.

mod answers;
mod classification;
mod counts;
mod entities;
mod error;
mod regression;
mod report;
mod squad;
mod transcripts;
mod translation;

#[cfg(test)]
mod tests;

pub use answers::{Answer, AnswerSettings, Window, extract_answers};
pub use classification::{
    Average, Scores, accuracy, exact_match, matthews_correlation, precision_recall_f1, roc_auc, scores_by_class,
    top_k_accuracy,
};
pub use entities::{Entity, EntityScores, Scheme, entities, entity_scores, strict_entities};
pub use error::MetricError;
pub use regression::{mean_absolute_error, mean_squared_error, pearson, perplexity, spearman};
pub use report::{Metrics, multi_label, regression_report, single_label, token_labels};
pub use squad::{SquadAnswer, squad, squad_v2};
pub use transcripts::{Rouge, character_error_rate, rouge, word_error_rate};
pub use translation::{bleu, chrf};
