//! Files of rows: which there are, what format they have, and reading them one row after the other.
//! Must not know what columns mean.

mod arrow;
mod csv;
mod json;
mod lines;
mod parquet;
mod text;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use sha2::{Digest, Sha256};

use super::dataset::Dataset;
use super::error::{DataError, listed};
use super::split::part_of;
use super::stream::RowStream;

/// What a file of rows looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// An object a line.
    JsonLines,
    /// One list of objects, one object that holds such a list, or an object a line.
    Json,
    /// A header line, then cells between commas.
    Csv,
    /// A header line, then cells between tabs.
    Tsv,
    /// One row with the column `text` for each line.
    Text,
    /// Apache Parquet.
    Parquet,
    /// Apache Arrow's IPC format, as stream or file.
    Arrow,
}

/// Every format with its names, which are the endings of files too.
const FORMATS: &[(Format, &[&str])] = &[
    (Format::JsonLines, &["jsonl", "ndjson", "jsonlines"]),
    (Format::Json, &["json"]),
    (Format::Csv, &["csv"]),
    (Format::Tsv, &["tsv"]),
    (Format::Text, &["txt", "text"]),
    (Format::Parquet, &["parquet", "pq"]),
    (Format::Arrow, &["arrow"]),
];

fn named(name: &str) -> Option<Format> {
    FORMATS.iter().find(|(_, names)| names.contains(&name)).map(|(format, _)| *format)
}

fn known() -> String {
    FORMATS.iter().flat_map(|(_, names)| *names).copied().collect::<Vec<_>>().join(", ")
}

impl FromStr for Format {
    type Err = DataError;

    fn from_str(s: &str) -> Result<Self, DataError> {
        named(s).ok_or_else(|| DataError::argument("format", format!("{s:?} is none of {}", known())))
    }
}

/// What a row of a text file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SampleBy {
    /// A line.
    #[default]
    Line,
    /// Lines up to an empty one.
    Paragraph,
    /// The whole file.
    Document,
}

/// How files are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadOptions {
    /// The format; `None` goes by each file's ending.
    pub format: Option<Format>,
    /// JSON: the field of the outermost object that holds the list of rows.
    pub field: Option<String>,
    /// CSV: what separates cells, if not comma or tab.
    pub delimiter: Option<u8>,
    /// CSV: the columns' names, for files without a header line.
    pub column_names: Option<Vec<String>>,
    /// CSV: whether cells may be quoted with `"`.
    pub quoting: bool,
    /// The columns to read; `None` reads all. In Parquet files the others are not even decoded.
    pub columns: Option<Vec<String>>,
    /// Text: what a row is.
    pub sample_by: SampleBy,
}

impl Default for ReadOptions {
    fn default() -> Self {
        ReadOptions {
            format: None,
            field: None,
            delimiter: None,
            column_names: None,
            quoting: true,
            columns: None,
            sample_by: SampleBy::Line,
        }
    }
}

#[derive(Debug, Clone)]
struct DataFile {
    path: PathBuf,
    /// Its path below the folder that was named, else its name alone.
    name: PathBuf,
    format: Format,
}

/// Files that are read one after the other, as often as needed: the rows may be more than memory holds.
#[derive(Debug, Clone)]
pub struct DataFiles {
    files: Vec<DataFile>,
    options: ReadOptions,
}

impl DataFiles {
    /// The files of paths, folders and patterns (`data/*.jsonl`, `data/**/train-*.parquet`), in that order; those of a folder
    /// or pattern by name. (DS-01)
    ///
    /// # Errors
    /// When one names no file, or a file's format is not known.
    pub fn new<S: AsRef<str>>(patterns: &[S], options: ReadOptions) -> Result<DataFiles, DataError> {
        let mut files = Vec::new();
        for pattern in patterns {
            for path in files_matching(pattern.as_ref())? {
                let format = match options.format.or_else(|| format_of(&path)) {
                    Some(format) => format,
                    None => {
                        let problem = format!("the ending tells no format; known endings: {}", known());
                        return Err(DataError::file(path.display().to_string(), problem));
                    }
                };
                let below = path.strip_prefix(pattern.as_ref()).ok().filter(|below| below.file_name().is_some());
                let name = below.map_or_else(|| path.file_name().unwrap_or_default().into(), Path::to_path_buf);
                files.push(DataFile { path, name, format });
            }
        }
        if files.is_empty() {
            return Err(DataError::argument("data files", "none are given"));
        }
        Ok(DataFiles { files, options })
    }

    /// The files.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// The files of each part (`train`, `validation`, `test`) by their names below the folder or pattern that named them: see
    /// [`part_of`]. (DS-01)
    pub fn parts(&self) -> BTreeMap<String, DataFiles> {
        let mut parts: BTreeMap<String, DataFiles> = BTreeMap::new();
        for file in &self.files {
            let empty = || DataFiles { files: Vec::new(), options: self.options.clone() };
            parts.entry(part_of(&file.name).into()).or_insert_with(empty).files.push(file.clone());
        }
        parts
    }

    /// The rows, read as they are asked for. Ends after the first error.
    pub fn stream(&self) -> RowStream {
        let options = self.options.clone();
        let files = self.files.clone().into_iter();
        let rows = files.flat_map(move |file| {
            open(&file, &options).unwrap_or_else(|error| RowStream::new(std::iter::once(Err(error))))
        });
        let columns = self.options.columns.clone();
        RowStream::new(rows.map(move |row| {
            let mut row = row?;
            if let Some(columns) = &columns {
                columns.iter().try_for_each(|column| row.column(column).map(|_| ()))?;
                row.retain(|name| columns.iter().any(|c| c == name));
            }
            Ok(row)
        }))
        .until_error()
    }

    /// All rows in memory.
    ///
    /// # Errors
    /// When a file cannot be read or a row is broken, or when there is no row. (DS-12)
    pub fn read(&self) -> Result<Dataset, DataError> {
        let dataset = Dataset::from_stream(self.stream())?;
        if dataset.is_empty() {
            return Err(DataError::Empty { what: listed(self.paths().map(|p| p.display().to_string())) });
        }
        Ok(dataset)
    }

    /// A hash of the files' bytes and of how they are read.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn fingerprint(&self) -> Result<[u8; 32], DataError> {
        let mut hash = Sha256::new();
        hash.update(format!("{:?}", self.options));
        let mut buffer = vec![0; 1 << 18];
        for DataFile { path, format, .. } in &self.files {
            let broken = |e: std::io::Error| DataError::file(path.display().to_string(), e);
            let mut file = File::open(path).map_err(broken)?;
            let mut size = 0u64;
            hash.update(format!("{format:?}"));
            loop {
                match file.read(&mut buffer).map_err(broken)? {
                    0 => break,
                    n => {
                        size += n as u64;
                        hash.update(&buffer[..n]);
                    }
                }
            }
            hash.update(size.to_le_bytes());
        }
        Ok(hash.finalize().into())
    }
}

/// The format that a file's ending stands for.
fn format_of(path: &Path) -> Option<Format> {
    path.extension().and_then(|e| e.to_str()).and_then(|e| named(&e.to_ascii_lowercase()))
}

/// The rows of one file.
fn open(file: &DataFile, options: &ReadOptions) -> Result<RowStream, DataError> {
    let path = &file.path;
    match file.format {
        Format::JsonLines => json::lines(path),
        Format::Json => json::document(path, options.field.as_deref()),
        Format::Csv => csv::open(path, options.delimiter.unwrap_or(b','), options),
        Format::Tsv => csv::open(path, options.delimiter.unwrap_or(b'\t'), options),
        Format::Text => text::open(path, options.sample_by),
        Format::Parquet => parquet::open(path, options.columns.as_deref()),
        Format::Arrow => arrow::open(path),
    }
}

/// Files that lie beside the rows of a data set that Hugging Face's library saved, and are none.
const BESIDE_ROWS: [&str; 4] = ["dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"];

/// Whether a file of a folder holds rows, as far as its name tells.
fn holds_rows(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    // That library keeps what it made of rows beside them.
    let made = name.starts_with("cache-") && name.ends_with(".arrow");
    format_of(path).is_some() && !made && !BESIDE_ROWS.contains(&name)
}

/// The files that a path, a folder or a pattern stands for, by name; hidden ones are left out. Of a folder those whose
/// ending is a known format; so a folder that Hugging Face's library saved a data set to is one of rows.
///
/// # Errors
/// When there are none.
pub fn files_matching(pattern: &str) -> Result<Vec<PathBuf>, DataError> {
    let path = Path::new(pattern);
    if path.is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    let folder = path.is_dir();
    let glob = if folder {
        format!("{}/**/*", glob::Pattern::escape(pattern.trim_end_matches('/')))
    } else {
        pattern.to_string()
    };
    let options = glob::MatchOptions { require_literal_leading_dot: true, ..Default::default() };
    let found = glob::glob_with(&glob, options).map_err(|e| DataError::file(pattern, e))?;
    let mut files = Vec::new();
    for entry in found {
        let path = entry.map_err(|e| DataError::file(e.path().display().to_string(), e.error()))?;
        if path.is_file() && (!folder || holds_rows(&path)) {
            files.push(path);
        }
    }
    if files.is_empty() {
        let problem = match folder {
            true => format!("the folder holds no file of rows ({})", known()),
            false => "there is no such file".into(),
        };
        return Err(DataError::file(pattern, problem));
    }
    files.sort();
    Ok(files)
}
