//! Rows from Apache Parquet, with Snappy, Zstandard, LZ4 or gzip inside. Must not know what columns mean.
//!
//! The crate trusts what a file says of itself in places, so its calls go through the guard that turns panics into errors.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row as Record};
use parquet::schema::types::Type;

use super::super::error::{DataError, Place, listed};
use super::super::row::{ColumnCache, Row};
use super::super::stream::RowStream;
use super::super::value::Value;
use crate::tokenizer::guard::guarded;

/// The rows of a file; only `columns` are decoded, if given.
pub(super) fn open(path: &Path, columns: Option<&[String]>) -> Result<RowStream, DataError> {
    let name: Arc<str> = path.display().to_string().into();
    let broken = |problem: String| DataError::file(&*name, format!("not a readable Parquet file: {problem}"));
    let file = File::open(path).map_err(|e| DataError::file(&*name, e))?;
    let opened = guarded(|| {
        let reader = SerializedFileReader::new(file)?;
        let schema = reader.metadata().file_metadata().schema().clone();
        Ok::<_, parquet::errors::ParquetError>((reader, schema))
    });
    let (reader, schema) = opened.and_then(|r| r.map_err(|e| e.to_string())).map_err(&broken)?;
    let chosen = match columns {
        Some(columns) => Some(projection(&schema, columns, &name)?),
        None => None,
    };
    let rows = guarded(|| RowIter::from_file_into(Box::new(reader)).project(chosen));
    let mut rows = rows.and_then(|r| r.map_err(|e| e.to_string())).map_err(broken)?;
    let mut cache = ColumnCache::default();
    let mut number = 0;
    Ok(RowStream::new(std::iter::from_fn(move || {
        number += 1;
        let place = Place { file: name.clone(), unit: "row", number };
        let record = guarded(|| rows.next().transpose()).and_then(|r| r.map_err(|e| e.to_string()));
        match record {
            Ok(None) => None,
            Ok(Some(record)) => Some(row(record, place, &mut cache)),
            Err(problem) => Some(Err(DataError::row(&place, format!("the Parquet file is broken: {problem}")))),
        }
    }))
    .until_error())
}

/// The schema with only these columns.
fn projection(schema: &Type, columns: &[String], file: &str) -> Result<Type, DataError> {
    let known = schema.get_fields();
    let mut fields = Vec::new();
    for field in known {
        if columns.iter().any(|c| c == field.name()) {
            fields.push(field.clone());
        }
    }
    if let Some(missing) = columns.iter().find(|c| !known.iter().any(|f| f.name() == *c)) {
        let names = listed(known.iter().map(|f| f.name()));
        return Err(DataError::file(file, format!("there is no column {missing:?}; there are {names}")));
    }
    Type::group_type_builder(schema.name()).with_fields(fields).build().map_err(|e| DataError::file(file, e))
}

fn row(record: Record, place: Place, cache: &mut ColumnCache) -> Result<Row, DataError> {
    let mut names = Vec::new();
    let mut values = Vec::new();
    for (name, field) in record.into_columns() {
        let value = value(field).map_err(|p| DataError::row(&place, format!("column {name:?}: {p}")))?;
        names.push(name.into());
        values.push(value);
    }
    Ok(Row::shared(cache.share(names), values, place))
}

/// A field as a value. Days, and milliseconds or microseconds of times, are numbers; a map is a list of structs with `key`
/// and `value`.
fn value(field: Field) -> Result<Value, String> {
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(b) => b.into(),
        Field::Byte(i) => i64::from(i).into(),
        Field::Short(i) => i64::from(i).into(),
        Field::Int(i) | Field::Date(i) | Field::TimeMillis(i) => i64::from(i).into(),
        Field::Long(i) | Field::TimeMicros(i) | Field::TimestampMillis(i) | Field::TimestampMicros(i) => i.into(),
        Field::UByte(i) => i64::from(i).into(),
        Field::UShort(i) => i64::from(i).into(),
        Field::UInt(i) => i64::from(i).into(),
        Field::ULong(i) => i64::try_from(i).map_or(Value::Float(i as f64), Value::Int),
        Field::Float16(f) => f64::from(f32::from(f)).into(),
        Field::Float(f) => f64::from(f).into(),
        Field::Double(f) => f.into(),
        Field::Str(text) => text.into(),
        Field::Bytes(bytes) => {
            let text = bytes.as_utf8().map_err(|_| "binary data cannot be read; choose other columns".to_string())?;
            text.into()
        }
        Field::Group(fields) => Value::Struct(
            fields.into_columns().into_iter().map(|(n, f)| Ok((n.into(), value(f)?))).collect::<Result<_, String>>()?,
        ),
        Field::ListInternal(list) => {
            Value::List(list.elements().iter().cloned().map(value).collect::<Result<_, String>>()?)
        }
        Field::MapInternal(map) => {
            let entry = |(k, v): &(Field, Field)| {
                Ok(Value::Struct([("key".into(), value(k.clone())?), ("value".into(), value(v.clone())?)].into()))
            };
            Value::List(map.entries().iter().map(entry).collect::<Result<_, String>>()?)
        }
        decimal => {
            // The one kind left is a decimal number, which has no other way out of the crate than its text.
            let text = decimal.to_string();
            let number = text.parse::<f64>().map_err(|_| format!("values such as {text} cannot be read"))?;
            number.into()
        }
    })
}
