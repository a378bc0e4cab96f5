//! Rows of one column, `text`, from plain text. Must not know languages.

use std::path::Path;

use super::super::error::DataError;
use super::super::row::{ColumnCache, Row};
use super::super::stream::RowStream;
use super::SampleBy;
use super::lines::Lines;

/// A row is cut off and refused beyond this: it would be a whole corpus in one text.
const MAX_TEXT: usize = 1 << 30;

/// The rows of a text file. Empty lines are rows too; paragraphs are what stands between empty lines.
pub(super) fn open(path: &Path, sample_by: SampleBy) -> Result<RowStream, DataError> {
    let mut lines = Lines::open(path)?;
    let mut cache = ColumnCache::default();
    let columns = cache.share(vec!["text".into()]);
    let rows = std::iter::from_fn(move || {
        let mut row: Option<(_, String)> = None;
        for line in &mut lines {
            let (place, line) = match line {
                Ok(line) => line,
                Err(error) => return Some(Err(error)),
            };
            if sample_by == SampleBy::Line {
                row = Some((place, line));
                break;
            }
            if sample_by == SampleBy::Paragraph && line.trim().is_empty() {
                if row.is_some() {
                    break;
                }
                continue;
            }
            match &mut row {
                Some((place, text)) if text.len() + line.len() >= MAX_TEXT => {
                    return Some(Err(DataError::row(place, format!("a text of more than {MAX_TEXT} bytes"))));
                }
                Some((_, text)) => {
                    text.push('\n');
                    text.push_str(&line);
                }
                None => row = Some((place, line)),
            }
        }
        row.map(|(place, text)| Ok(Row::shared(columns.clone(), vec![text.into()], place)))
    });
    Ok(RowStream::new(rows).until_error())
}
