//! Rows from Apache Arrow's IPC format, streams and files, as data sets are kept by Hugging Face's library. Must not know what
//! columns mean.
//!
//! Our own reader of the part of the format that such files use (little-endian, no compression, no unions or views): every
//! offset is checked where it is used, and nothing is allocated before the file is known to be that long. Format: "Arrow
//! Columnar Format" 1.5 and its `Message.fbs` and `Schema.fbs`.

mod array;
mod flatbuffer;
mod schema;

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use super::super::error::{DataError, Place};
use super::super::row::{Columns, Row};
use super::super::stream::RowStream;
use array::{Array, Buffers};
use flatbuffer::Table;
use schema::Field;

/// The first bytes of a file, as opposed to a stream; the stream follows at byte 8.
const MAGIC: &[u8] = b"ARROW1\0\0";

/// What goes wrong while reading a file, without its name.
type Result<T> = std::result::Result<T, String>;

fn broken() -> String {
    "the Arrow file is broken".into()
}

/// The rows of a file or stream.
pub(super) fn open(path: &Path) -> std::result::Result<RowStream, DataError> {
    let name: Arc<str> = path.display().to_string().into();
    let failed = |problem: String| DataError::file(&*name, problem);
    let file = File::open(path).map_err(|e| failed(e.to_string()))?;
    let left = file.metadata().map_err(|e| failed(e.to_string()))?.len();
    let mut messages = Messages { reader: BufReader::with_capacity(1 << 16, file), left };
    let schema = messages.schema().map_err(failed)?;
    let columns: Columns = schema.iter().map(|field| field.name.clone()).collect();
    let mut batches = Batches { messages, schema, dictionaries: HashMap::new() };
    let mut batch: Option<(Vec<Array>, u64)> = None;
    let (mut at, mut number) = (0, 0);
    Ok(RowStream::new(std::iter::from_fn(move || {
        loop {
            if let Some((arrays, length)) = &batch {
                if at < *length {
                    let place = Place { file: name.clone(), unit: "row", number: number + 1 };
                    let values = arrays.iter().map(|array| array.value(at)).collect::<Result<_>>();
                    (at, number) = (at + 1, number + 1);
                    let row = values.map_err(|problem| DataError::row(&place, problem));
                    return Some(row.map(|values| Row::shared(columns.clone(), values, place)));
                }
                batch = None;
            }
            match batches.next() {
                Ok(Some(next)) => (batch, at) = (Some(next), 0),
                Ok(None) => return None,
                Err(problem) => return Some(Err(DataError::file(&*name, problem))),
            }
        }
    }))
    .until_error())
}

/// The messages of a stream: a table each, and the bytes that it describes.
struct Messages {
    reader: BufReader<File>,
    /// Bytes of the file that were not read yet.
    left: u64,
}

/// A message's kind and content.
enum Message {
    Schema(Vec<Field>),
    Dictionary { id: i64, batch: Buffers },
    Batch(Buffers),
}

impl Messages {
    fn bytes(&mut self, n: u64) -> Result<Vec<u8>> {
        if n > self.left {
            return Err("the Arrow file is cut off".into());
        }
        let mut bytes = vec![0; usize::try_from(n).map_err(|_| broken())?];
        self.reader.read_exact(&mut bytes).map_err(|e| e.to_string())?;
        self.left -= n;
        Ok(bytes)
    }

    fn word(&mut self) -> Result<u32> {
        let bytes = self.bytes(4)?;
        bytes.try_into().map(u32::from_le_bytes).map_err(|_| broken())
    }

    /// The first message, which must be the schema.
    fn schema(&mut self) -> Result<Vec<Field>> {
        let not_arrow = "not an Arrow file";
        if self.left >= MAGIC.len() as u64 {
            let start = std::io::BufRead::fill_buf(&mut self.reader).map_err(|e| e.to_string())?;
            if start.starts_with(MAGIC) {
                self.bytes(MAGIC.len() as u64)?;
            }
        }
        match self.next() {
            Ok(Some(Message::Schema(fields))) => Ok(fields),
            Ok(_) => Err(not_arrow.into()),
            Err(problem) => Err(format!("{not_arrow}: {problem}")),
        }
    }

    /// The next message; `None` at the end of the stream.
    fn next(&mut self) -> Result<Option<Message>> {
        if self.left == 0 {
            return Ok(None);
        }
        let mut size = self.word()?;
        if size == u32::MAX {
            size = self.word()?;
        }
        if size == 0 {
            return Ok(None);
        }
        let metadata: Arc<[u8]> = self.bytes(u64::from(size))?.into();
        let message = Table::root(&metadata).ok_or_else(broken)?;
        let body = self.bytes(u64::try_from(message.i64(3, 0).ok_or_else(broken)?).map_err(|_| broken())?)?;
        let header = message.table(2).ok_or_else(broken)?;
        Ok(Some(match message.u8(1, 0).ok_or_else(broken)? {
            1 => {
                if header.i16(0, 0) != Some(0) {
                    return Err("big-endian Arrow files are not read".into());
                }
                Message::Schema(schema::fields(&header, 1)?)
            }
            2 => {
                if header.u8(2, 0) != Some(0) {
                    return Err("dictionaries that grow are not read".into());
                }
                let id = header.i64(0, 0).ok_or_else(broken)?;
                let batch = header.table(1).ok_or_else(broken)?;
                Message::Dictionary { id, batch: Buffers::new(&batch, body)? }
            }
            3 => Message::Batch(Buffers::new(&header, body)?),
            _ => return Err("tensors are no rows".into()),
        }))
    }
}

/// The batches of rows of a stream.
struct Batches {
    messages: Messages,
    schema: Vec<Field>,
    dictionaries: HashMap<i64, Arc<Array>>,
}

impl Batches {
    /// The columns of the next batch and its number of rows.
    fn next(&mut self) -> Result<Option<(Vec<Array>, u64)>> {
        loop {
            match self.messages.next()? {
                None => return Ok(None),
                Some(Message::Schema(_)) => return Err(broken()),
                Some(Message::Dictionary { id, mut batch }) => {
                    let field = self.schema.iter().find_map(|field| field.with_dictionary(id)).ok_or_else(broken)?;
                    let values = Array::read(&field.values(), &mut batch, &self.dictionaries)?;
                    self.dictionaries.insert(id, Arc::new(values));
                }
                Some(Message::Batch(mut batch)) => {
                    let read = |field| Array::read(field, &mut batch, &self.dictionaries);
                    let arrays: Vec<Array> = self.schema.iter().map(read).collect::<Result<_>>()?;
                    let length = batch.length;
                    if arrays.iter().any(|array| array.length() != length) {
                        return Err(broken());
                    }
                    // Columns that hold nothing say nothing of how many rows there can be.
                    if length > 0 && !arrays.iter().any(Array::is_bounded) {
                        return Err("the Arrow file has no column with values".into());
                    }
                    return Ok(Some((arrays, length)));
                }
            }
        }
    }
}
