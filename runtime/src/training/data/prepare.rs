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
