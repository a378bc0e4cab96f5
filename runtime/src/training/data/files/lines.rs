//! Lines of a text file, counted and of bounded length. Must not know what lines mean.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use super::super::error::{DataError, Place};

/// A longer line is not what the file is said to be.
const MAX_BYTES: u64 = 1 << 26;

/// The lines of a file with their numbers, without line ends and without a byte order mark.
#[derive(Debug)]
pub(super) struct Lines {
    reader: BufReader<File>,
    file: Arc<str>,
    number: u64,
}

impl Lines {
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Path) -> Result<Lines, DataError> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|e| DataError::file(&name, e))?;
        Ok(Lines { reader: BufReader::with_capacity(1 << 16, file), file: name.into(), number: 0 })
    }

    fn next_line(&mut self) -> Result<Option<(Place, String)>, DataError> {
        let mut bytes = Vec::new();
        let read = self.reader.by_ref().take(MAX_BYTES + 1).read_until(b'\n', &mut bytes);
        if read.map_err(|e| DataError::file(&*self.file, e))? == 0 {
            return Ok(None);
        }
        self.number += 1;
        let place = Place { file: self.file.clone(), unit: "line", number: self.number };
        if bytes.len() as u64 > MAX_BYTES {
            return Err(DataError::row(&place, format!("the line is longer than {MAX_BYTES} bytes")));
        }
        if bytes.ends_with(b"\n") {
            bytes.pop();
            if bytes.ends_with(b"\r") {
                bytes.pop();
            }
        }
        if self.number == 1 && bytes.starts_with(b"\xef\xbb\xbf") {
            bytes.drain(..3);
        }
        match String::from_utf8(bytes) {
            Ok(line) => Ok(Some((place, line))),
            Err(e) => Err(DataError::row(&place, format!("not UTF-8 from byte {} on", e.utf8_error().valid_up_to()))),
        }
    }
}

impl Iterator for Lines {
    type Item = Result<(Place, String), DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_line().transpose()
    }
}
