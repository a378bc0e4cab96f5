//! Rows from JSON: an object a line, or one list of objects. Must not know what fields mean.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::super::error::{DataError, Place, listed};
use super::super::row::{ColumnCache, Row};
use super::super::stream::RowStream;
use super::super::value::Value;
use super::lines::Lines;

/// A larger document has to come as JSON lines, which need not be in memory at once.
const MAX_DOCUMENT: u64 = 1 << 31;

/// The rows of a file with an object on each line; empty lines are left out.
pub(super) fn lines(path: &Path) -> Result<RowStream, DataError> {
    let mut columns = ColumnCache::default();
    let rows = Lines::open(path)?.filter_map(move |line| {
        let (place, line) = match line {
            Ok(line) => line,
            Err(error) => return Some(Err(error)),
        };
        if line.trim().is_empty() {
            return None;
        }
        let parsed = serde_json::from_str(&line).map_err(|e| not_json(&place, &e));
        Some(parsed.and_then(|json| row(json, place, &mut columns)))
    });
    Ok(RowStream::new(rows).until_error())
}

/// What serde_json says of one line, whose own number is 1 to it.
fn not_json(place: &Place, error: &serde_json::Error) -> DataError {
    let message = error.to_string();
    let what = message.rsplit_once(" at line ").map_or(&*message, |(what, _)| what);
    DataError::row(place, format!("not JSON: {what} at column {}", error.column()))
}

/// The rows of a file that holds a list of objects, an object with such a list under `field`, or an object a line.
pub(super) fn document(path: &Path, field: Option<&str>) -> Result<RowStream, DataError> {
    let name = path.display().to_string();
    let broken = |problem: String| DataError::file(&name, problem);
    if field.is_none() && begins_with_object(path).map_err(|e| broken(e.to_string()))? {
        // Several objects one after the other, or one alone: a line that ends inside an object tells them apart.
        let first = Lines::open(path)?.find(|line| line.as_ref().map_or(true, |(_, l)| !l.trim().is_empty()));
        if let Some(Ok((_, line))) = first
            && serde_json::from_str::<serde::de::IgnoredAny>(&line).is_ok()
        {
            return lines(path);
        }
    }
    let file = File::open(path).map_err(|e| broken(e.to_string()))?;
    let size = file.metadata().map_err(|e| broken(e.to_string()))?.len();
    if size > MAX_DOCUMENT {
        return Err(broken(format!(
            "{size} bytes are too many for one JSON document ({MAX_DOCUMENT} at most); use JSON lines"
        )));
    }
    if size == 0 {
        return Ok(RowStream::new(std::iter::empty()));
    }
    let mut bytes = Vec::new();
    BufReader::new(file).take(MAX_DOCUMENT).read_to_end(&mut bytes).map_err(|e| broken(e.to_string()))?;
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let mut json: Json = serde_json::from_slice(text).map_err(|e| broken(format!("not JSON: {e}")))?;
    if let Some(field) = field {
        json = match json {
            Json::Object(mut fields) => fields
                .swap_remove(field)
                .ok_or_else(|| broken(format!("there is no field {field:?}; there are {}", listed(fields.keys()))))?,
            other => {
                return Err(broken(format!("expected an object with the field {field:?}, found {}", kind(&other))));
            }
        };
    }
    let rows = match json {
        Json::Array(rows) => rows,
        object @ Json::Object(_) => vec![object],
        other => return Err(broken(format!("expected a list of objects, found {}", kind(&other)))),
    };
    let file: Arc<str> = name.into();
    let mut columns = ColumnCache::default();
    let rows = rows
        .into_iter()
        .zip(1..)
        .map(move |(json, number)| row(json, Place { file: file.clone(), unit: "row", number }, &mut columns));
    Ok(RowStream::new(rows).until_error())
}

/// Whether the first byte that is not space opens an object.
fn begins_with_object(path: &Path) -> std::io::Result<bool> {
    for byte in BufReader::new(File::open(path)?).bytes() {
        match byte? {
            b' ' | b'\t' | b'\r' | b'\n' | 0xef | 0xbb | 0xbf => {}
            byte => return Ok(byte == b'{'),
        }
    }
    Ok(false)
}

fn kind(json: &Json) -> &'static str {
    Value::from(json.clone()).kind()
}

fn row(json: Json, place: Place, columns: &mut ColumnCache) -> Result<Row, DataError> {
    let fields: Map<String, Json> = match json {
        Json::Object(fields) => fields,
        other => return Err(DataError::row(&place, format!("expected an object, found {}", kind(&other)))),
    };
    let (names, values) = fields.into_iter().map(|(name, value)| (name.into(), Value::from(value))).unzip();
    Ok(Row::shared(columns.share(names), values, place))
}
