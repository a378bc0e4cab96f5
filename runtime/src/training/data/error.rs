//! What can go wrong with data. Must not know how errors are shown.

use std::fmt;
use std::sync::Arc;

use crate::tokenizer::TokenizerError;

/// Where a row comes from: the file and the line (or row, where a file has no lines), counted from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, or what stands for it (`memory`).
    pub file: Arc<str>,
    /// What is counted: `line` or `row`.
    pub unit: &'static str,
    /// Its number.
    pub number: u64,
}

impl Place {
    /// The `index`-th row (from 0) of what was never in a file.
    pub fn memory(index: usize) -> Place {
        Place { file: "memory".into(), unit: "row", number: (index as u64).saturating_add(1) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} {}", self.file, self.unit, self.number)
    }
}

/// An error of reading or preparing data.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file cannot be read or is not what its name says.
    #[error("{file}: {problem}")]
    File {
        /// The file or pattern.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A row cannot be used. (DS-12)
    #[error("{place}: {problem}")]
    Row {
        /// The row.
        place: Place,
        /// What is wrong with it.
        problem: String,
    },
    /// A column that is needed does not exist.
    #[error("{place}: there is no column {column:?}; there are {known}")]
    Column {
        /// The first row that lacks it.
        place: Place,
        /// The column.
        column: String,
        /// The columns that exist.
        known: String,
    },
    /// None of the columns is an input of the model. (DS-03)
    #[error("none of the columns {columns} is an input of the model, which takes {accepted}")]
    NoColumns {
        /// The columns that exist.
        columns: String,
        /// What the model takes.
        accepted: String,
    },
    /// A label that the model does not have.
    #[error("{place}: column {column:?}: unknown label {label:?}; the labels are {known}")]
    Label {
        /// The row.
        place: Place,
        /// The column.
        column: String,
        /// The label.
        label: String,
        /// The labels that exist.
        known: String,
    },
    /// A text has more tokens than the model takes, and cutting it was not asked for. (DS-12)
    #[error(
        "{place}: the text has {tokens} tokens, more than the {limit} the model takes; \
         ask for truncation, or for windows where the task has them"
    )]
    TooLong {
        /// The row.
        place: Place,
        /// Its length.
        tokens: usize,
        /// The limit.
        limit: usize,
    },
    /// The tokenizer refused a row.
    #[error("{place}: {source}")]
    Tokenizer {
        /// The row.
        place: Place,
        /// Why.
        source: TokenizerError,
    },
    /// There is no row at all. (DS-12)
    #[error("{what}: there are no rows")]
    Empty {
        /// The file, split or data set.
        what: String,
    },
    /// An argument's value cannot be used.
    #[error("{name}: {problem}")]
    Argument {
        /// The argument.
        name: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The cache on disk cannot be read or written: the machine is at fault, not the data.
    #[error("cache {file}: {source}")]
    Cache {
        /// The file.
        file: String,
        /// Why.
        source: std::io::Error,
    },
}

impl DataError {
    /// Whether the data or the usage is at fault (exit code 2) and not the machine (exit code 1).
    pub fn is_usage(&self) -> bool {
        !matches!(self, DataError::Cache { .. })
    }

    pub(crate) fn file(file: impl Into<String>, problem: impl fmt::Display) -> DataError {
        DataError::File { file: file.into(), problem: problem.to_string() }
    }

    pub(crate) fn row(place: &Place, problem: impl Into<String>) -> DataError {
        DataError::Row { place: place.clone(), problem: problem.into() }
    }

    pub(crate) fn argument(name: &'static str, problem: impl Into<String>) -> DataError {
        DataError::Argument { name, problem: problem.into() }
    }
}

/// Names as a message lists them: at most twenty, quoted.
pub(crate) fn listed<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> String {
    const MOST: usize = 20;
    let mut names = names.into_iter();
    let mut shown: Vec<String> = names.by_ref().take(MOST).map(|n| format!("{:?}", n.as_ref())).collect();
    let more = names.count();
    if more > 0 {
        shown.push(format!("and {more} more"));
    }
    if shown.is_empty() { "none".into() } else { shown.join(", ") }
}
