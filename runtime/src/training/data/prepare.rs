//! Rows to examples on all cores, kept on disk so that the same data under the same settings are prepared once. (DS-13)
//!
//! Rows are taken in chunks; the examples of a chunk are in the order of its rows. So the result, and every byte of the file,
//! is the same for any number of threads. Must not know tasks.

use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::cache::{CacheWriter, CachedExamples};
use super::dataset::Dataset;
use super::error::DataError;
use super::example::{Example, Examples, Preprocessor};
use super::files::DataFiles;
use super::packing::Packing;
use super::row::Row;
use super::stream::RowStream;

/// Rows prepared together: enough to keep every core busy, few enough to be no matter of memory.
const CHUNK: usize = 512;

/// Rows that can be read again and told from others.
#[derive(Debug, Clone, Copy)]
pub enum Rows<'a> {
    /// Rows in memory.
    Memory(&'a Dataset),
    /// Rows in files, read as they are needed.
    Files(&'a DataFiles),
}

impl Rows<'_> {
    fn stream(&self) -> RowStream {
        match self {
            Rows::Memory(dataset) => dataset.stream(),
            Rows::Files(files) => files.stream(),
        }
    }

    fn fingerprint(&self) -> Result<[u8; 32], DataError> {
        match self {
            Rows::Memory(dataset) => Ok(dataset.fingerprint()),
            Rows::Files(files) => files.fingerprint(),
        }
    }
}

/// The examples of rows, one after the other. With packing, blocks of them.
pub struct ExampleStream {
    rows: std::iter::Enumerate<RowStream>,
    preprocessor: Arc<dyn Preprocessor>,
    packing: Option<Packing>,
    ready: std::vec::IntoIter<Example>,
    failed: Option<DataError>,
    ended: bool,
}

impl std::fmt::Debug for ExampleStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExampleStream").field("packing", &self.packing).finish_non_exhaustive()
    }
}

impl ExampleStream {
    /// The examples that `preprocessor` makes of `rows`, joined to blocks of `block_size` tokens if given. Ends after the
    /// first error, by order of rows.
    ///
    /// # Errors
    /// When `block_size` is 0.
    pub fn new(
        rows: RowStream,
        preprocessor: Arc<dyn Preprocessor>,
        block_size: Option<usize>,
    ) -> Result<ExampleStream, DataError> {
        let packing = block_size.map(Packing::new).transpose()?;
        let (rows, ready) = (rows.enumerate(), Vec::new().into_iter());
        Ok(ExampleStream { rows, preprocessor, packing, ready, failed: None, ended: false })
    }

    /// Prepares the next chunk. What was prepared before an error is given out first.
    fn fill(&mut self) {
        let mut chunk: Vec<(usize, Row)> = Vec::with_capacity(CHUNK);
        while chunk.len() < CHUNK && !self.ended {
            match self.rows.next() {
                Some((index, Ok(row))) => chunk.push((index, row)),
                Some((_, Err(error))) => {
                    self.failed = Some(error);
                    self.ended = true;
                }
                None => self.ended = true,
            }
        }
        let one = |(index, row): &(usize, Row)| self.preprocessor.examples(row, *index);
        let prepared: Vec<Result<Vec<Example>, DataError>> = match tokenizers::parallelism::get_parallelism() {
            true => chunk.par_iter().map(one).collect(),
            false => chunk.iter().map(one).collect(),
        };
        let mut examples = Vec::with_capacity(prepared.len());
        for result in prepared {
            let packed = result.and_then(|made| match &mut self.packing {
                None => {
                    examples.extend(made);
                    Ok(())
                }
                Some(packing) => made.iter().try_for_each(|e| packing.push(e).map(|blocks| examples.extend(blocks))),
            });
            if let Err(error) = packed {
                // An earlier row than one that could not be read.
                self.failed = Some(error);
                self.ended = true;
                break;
            }
        }
        self.ready = examples.into_iter();
    }
}

impl Iterator for ExampleStream {
    type Item = Result<Example, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(example) = self.ready.next() {
                return Some(Ok(example));
            }
            if let Some(error) = self.failed.take() {
                return Some(Err(error));
            }
            if self.ended {
                return None;
            }
            self.fill();
        }
    }
}

/// All examples of `rows`: in memory or, with a folder for the cache, in a file of it that is read as it is needed. A file of
/// the same rows and settings is used again. With `block_size`, texts are joined and cut to blocks.
///
/// # Errors
/// [`DataError`] naming the row; when there is no example at all; and when the cache cannot be read or written.
pub fn prepare(
    rows: Rows<'_>,
    preprocessor: Arc<dyn Preprocessor>,
    block_size: Option<usize>,
    cache: Option<&Path>,
) -> Result<Box<dyn Examples>, DataError> {
    let empty = |what: &str| DataError::Empty { what: what.into() };
    let stream = |preprocessor| ExampleStream::new(rows.stream(), preprocessor, block_size);
    let nothing = if block_size.is_some() { "joined texts shorter than a block" } else { "training data" };
    let Some(folder) = cache else {
        let examples = stream(preprocessor)?.collect::<Result<Vec<_>, _>>()?;
        return if examples.is_empty() { Err(empty(nothing)) } else { Ok(Box::new(examples)) };
    };
    let mut hash = Sha256::new();
    hash.update(rows.fingerprint()?);
    hash.update(format!("{} {block_size:?}", preprocessor.settings()?));
    let name: String = hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let path = folder.join(format!("{name}.examples"));
    match CachedExamples::open(&path) {
        Ok(Some(examples)) => return Ok(Box::new(examples)),
        Ok(None) => {}
        Err(error) => tracing::warn!("{error}: preparing the data again"),
    }
    let mut writer = CacheWriter::create(&path)?;
    for example in stream(preprocessor)? {
        writer.push(&example?)?;
    }
    if writer.is_empty() {
        return Err(empty(nothing));
    }
    writer.finish().map(|examples| Box::new(examples) as Box<dyn Examples>)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;

    use super::*;
    use crate::training::data::{Feature, ReadOptions, Value};

    /// Row n becomes n % 3 examples of n tokens; rows that are no number are refused.
    #[derive(Default)]
    struct Counting {
        calls: AtomicUsize,
        settings: &'static str,
    }

    impl Preprocessor for Counting {
        fn examples(&self, row: &Row, index: usize) -> Result<Vec<Example>, DataError> {
            self.calls.fetch_add(1, Ordering::Relaxed);
            let value = row.column("n")?;
            let n = value.as_int().ok_or_else(|| row.wrong("n", "a number", value))?;
            let ids = vec![index as i32; n as usize];
            Ok((0..n % 3).map(|_| Example::new().with("input_ids", Feature::Ints(ids.clone()))).collect())
        }

        fn settings(&self) -> Result<String, DataError> {
            Ok(self.settings.into())
        }
    }

    fn rows(n: usize) -> Dataset {
        Dataset::from_json((0..n).map(|i| json!({ "n": i % 50 }))).unwrap()
    }

    fn all(examples: &dyn Examples) -> Vec<Example> {
        (0..examples.len()).map(|i| examples.get(i).unwrap()).collect()
    }

    /// DS-13: the same bytes for any number of threads; what is there is not prepared again.
    #[test]
    fn ds_13_prepared_once_and_alike() {
        let data = rows(2000);
        let expected = all(&*prepare(Rows::Memory(&data), Arc::new(Counting::default()), None, None).unwrap());
        let mut files = Vec::new();
        for threads in [1, 3] {
            let folder = tempfile::tempdir().unwrap();
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let task = Arc::new(Counting::default());
            let run = |task| prepare(Rows::Memory(&data), task, None, Some(folder.path()));
            let examples = pool.install(|| run(task.clone())).unwrap();
            assert_eq!(all(&*examples), expected);
            assert_eq!(task.calls.load(Ordering::Relaxed), 2000);
            assert_eq!(all(&*run(task.clone()).unwrap()), expected);
            assert_eq!(task.calls.load(Ordering::Relaxed), 2000);
            let entries: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path()).collect();
            assert_eq!(entries.len(), 1);
            files.push((entries[0].file_name().unwrap().to_owned(), fs::read(&entries[0]).unwrap()));
            // A broken file is made again; other settings and other rows have files of their own.
            fs::write(&entries[0], b"LITHEXA1").unwrap();
            assert_eq!(all(&*run(task.clone()).unwrap()), expected);
            assert_eq!(task.calls.load(Ordering::Relaxed), 4000);
            assert_eq!(fs::read(&entries[0]).unwrap(), files[0].1);
            run(Arc::new(Counting { settings: "other", ..Counting::default() })).unwrap();
            prepare(Rows::Memory(&rows(5)), task, None, Some(folder.path())).unwrap();
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
        }
        assert_eq!(files[0], files[1]);
    }

    /// DS-05, DS-06: blocks of a stream, which is never whole in memory.
    #[test]
    fn ds_05_blocks_of_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        fs::write(&path, "n\n4\n1\n3\n7\n").unwrap();
        let files = DataFiles::new(&[path.to_str().unwrap()], ReadOptions::default()).unwrap();
        let task = || Arc::new(Counting::default());
        let blocks = all(&*prepare(Rows::Files(&files), task(), Some(4), Some(folder.path())).unwrap());
        let ids: Vec<&[i32]> = blocks.iter().map(|b| b.ints("input_ids").unwrap()).collect();
        assert_eq!(ids, [[0, 0, 0, 0], [1, 3, 3, 3], [3, 3, 3, 3]]);
        let short = prepare(Rows::Files(&files), task(), Some(100), None);
        assert!(matches!(short.err(), Some(DataError::Empty { .. })));
        let streamed = ExampleStream::new(files.stream(), task(), Some(4)).unwrap();
        assert_eq!(streamed.collect::<Result<Vec<_>, _>>().unwrap(), blocks);
        assert!(ExampleStream::new(files.stream(), task(), Some(0)).is_err());
    }

    /// DS-12: the first bad row by order is the one that is named; a failure leaves no file.
    #[test]
    fn ds_12_first_error() {
        let data = rows(1500).map(|mut row| {
            if [700, 1200].contains(&row.place().number) {
                row.set("n", Value::from("x"));
            }
            Ok(row)
        });
        let data = data.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let failed = prepare(Rows::Memory(&data), Arc::new(Counting::default()), None, Some(folder.path()));
        let message = failed.err().map(|e| e.to_string());
        assert_eq!(message.as_deref(), Some(r#"memory, row 700: column "n": expected a number, found a text"#));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let nothing = prepare(Rows::Memory(&rows(1)), Arc::new(Counting::default()), None, None);
        assert!(matches!(nothing.err(), Some(DataError::Empty { .. })));
        // What came before a row that cannot be read is given out first.
        let path = folder.path().join("a.jsonl");
        fs::write(&path, "{\"n\": 1}\n{\"n\": 4}\n{\n{\"n\": 1}\n").unwrap();
        let files = DataFiles::new(&[path.to_str().unwrap()], ReadOptions::default()).unwrap();
        let stream = ExampleStream::new(files.stream(), Arc::new(Counting::default()), None).unwrap();
        let given: Vec<Result<Example, DataError>> = stream.collect();
        assert_eq!(given.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false]);
        assert!(given[2].as_ref().unwrap_err().to_string().contains("a.jsonl, line 3: not JSON"));
    }
}
