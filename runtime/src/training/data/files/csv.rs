//! Rows from tables in text form. CSV has no types: cells are texts, empty ones nothing, and who needs a number reads one
//! from the text. So a column means the same however many rows of it have been seen. Must not know what columns mean.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use csv::{ErrorKind, ReaderBuilder, StringRecord, Trim};

use super::super::error::{DataError, Place};
use super::super::row::{Columns, Row};
use super::super::stream::RowStream;
use super::super::value::Value;
use super::ReadOptions;

/// A longer record is most likely a quote that is never closed.
const MAX_RECORD: u64 = 1 << 26;

/// A file that refuses to give more than [`MAX_RECORD`] bytes for one record.
struct Bounded {
    file: File,
    given: Arc<AtomicU64>,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given.load(Ordering::Relaxed) > MAX_RECORD {
            let problem = format!("a record is longer than {MAX_RECORD} bytes: is a quote never closed?");
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        let n = self.file.read(buffer)?;
        self.given.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// The rows of a file whose cells `delimiter` separates.
pub(super) fn open(path: &Path, delimiter: u8, options: &ReadOptions) -> Result<RowStream, DataError> {
    let name = path.display().to_string();
    let file = File::open(path).map_err(|e| DataError::file(&name, e))?;
    let file_name: Arc<str> = name.into();
    let given = Arc::new(AtomicU64::new(0));
    let mut reader = ReaderBuilder::new()
        .delimiter(delimiter)
        .quoting(options.quoting)
        .has_headers(options.column_names.is_none())
        .trim(Trim::None)
        .buffer_capacity(1 << 16)
        .from_reader(Bounded { file, given: given.clone() });
    let names: Vec<Box<str>> = match &options.column_names {
        Some(names) => names.iter().map(|n| n.as_str().into()).collect(),
        None => reader.headers().map_err(|e| broken(&file_name, &e))?.iter().map(Into::into).collect(),
    };
    if let Some(twice) = names.iter().enumerate().find(|(i, n)| names[..*i].contains(n)) {
        return Err(DataError::file(&*file_name, format!("there are two columns {:?}", twice.1)));
    }
    let columns: Columns = names.into();
    let mut record = StringRecord::new();
    Ok(RowStream::new(std::iter::from_fn(move || {
        given.store(0, Ordering::Relaxed);
        match reader.read_record(&mut record) {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => {
                // An error of reading has no place of its own; it is of the record that comes next.
                let place = Place { file: file_name.clone(), unit: "line", number: reader.position().line() };
                return Some(Err(match error.kind() {
                    ErrorKind::Io(e) => DataError::row(&place, e.to_string()),
                    _ => broken(&file_name, &error),
                }));
            }
        }
        let number = record.position().map_or(0, csv::Position::line);
        let place = Place { file: file_name.clone(), unit: "line", number };
        if record.len() != columns.len() {
            return Some(Err(DataError::row(&place, cells(record.len() as u64, columns.len() as u64))));
        }
        let cell = |cell: &str| if cell.is_empty() { Value::Null } else { cell.into() };
        Some(Ok(Row::shared(columns.clone(), record.iter().map(cell).collect(), place)))
    }))
    .until_error())
}

fn cells(found: u64, expected: u64) -> String {
    format!("{found} cells, where the table has {expected} columns")
}

fn broken(file: &Arc<str>, error: &csv::Error) -> DataError {
    let problem = match error.kind() {
        ErrorKind::UnequalLengths { expected_len, len, .. } => cells(*len, *expected_len),
        ErrorKind::Utf8 { .. } => "not UTF-8".into(),
        ErrorKind::Io(e) => e.to_string(),
        _ => error.to_string(),
    };
    match error.position() {
        Some(at) => DataError::row(&Place { file: file.clone(), unit: "line", number: at.line() }, problem),
        None => DataError::file(&**file, problem),
    }
}
