//! Examples in a file, read one by one as they are needed. Must not know how they are made.
//!
//! Little-endian throughout. A header (`LITHEXA1`), the examples one after the other, then the index: for each example the
//! offset of its first byte and its number of tokens, and the offset behind the last one; at the end the number of examples,
//! the checksum (CRC-32) of the index and the header's word again. An example is, for each feature, the length of its name, the
//! name, the kind, the number of values and the values, 4 bytes each. A file comes to its name when it is whole.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::error::DataError;
use super::example::{Example, Examples, Feature};

const MAGIC: &[u8; 8] = b"LITHEXA1";
/// Bytes of an entry of the index.
const ENTRY: u64 = 16;
/// Bytes behind the index.
const FOOTER: u64 = 8 + 8 + 4 + 8;

/// Numbers the temporary files of this process.
static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

fn failed(path: &Path, source: io::Error) -> DataError {
    DataError::Cache { file: path.display().to_string(), source }
}

fn broken(path: &Path, problem: &str) -> DataError {
    failed(path, io::Error::new(io::ErrorKind::InvalidData, problem))
}

/// Writes a file of examples.
#[derive(Debug)]
pub(super) struct CacheWriter {
    path: PathBuf,
    temporary: PathBuf,
    file: Option<BufWriter<File>>,
    /// Offset and number of tokens of each example.
    index: Vec<(u64, u64)>,
    end: u64,
    buffer: Vec<u8>,
}

impl CacheWriter {
    /// A file that will be at `path`; folders are made as needed.
    pub fn create(path: &Path) -> Result<CacheWriter, DataError> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|e| failed(folder, e))?;
        }
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let temporary = path.with_extension(format!("{}-{number}.tmp", std::process::id()));
        let file = File::create(&temporary).map_err(|e| failed(&temporary, e))?;
        let mut writer = CacheWriter {
            path: path.to_path_buf(),
            temporary,
            file: Some(BufWriter::with_capacity(1 << 18, file)),
            index: Vec::new(),
            end: 0,
            buffer: MAGIC.to_vec(),
        };
        writer.flush_buffer()?;
        Ok(writer)
    }

    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    fn flush_buffer(&mut self) -> Result<(), DataError> {
        if let Some(file) = &mut self.file {
            file.write_all(&self.buffer).map_err(|e| failed(&self.temporary, e))?;
        }
        self.end += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    pub fn push(&mut self, example: &Example) -> Result<(), DataError> {
        self.index.push((self.end, example.tokens() as u64));
        let too_long = || broken(&self.temporary, "a feature is too long to be kept");
        let count = |n: usize| u32::try_from(n).map(u32::to_le_bytes).map_err(|_| too_long());
        let mut bytes = std::mem::take(&mut self.buffer);
        for (name, feature) in example.fields() {
            bytes.extend(count(name.len())?);
            bytes.extend(name.as_bytes());
            let mut values = |kind: u8, n: usize, words: &mut dyn Iterator<Item = [u8; 4]>| {
                bytes.push(kind);
                bytes.extend(count(n)?);
                words.for_each(|word| bytes.extend(word));
                Ok::<_, DataError>(())
            };
            match feature {
                Feature::Int(x) => values(0, 1, &mut std::iter::once(x.to_le_bytes()))?,
                Feature::Float(x) => values(1, 1, &mut std::iter::once(x.to_le_bytes()))?,
                Feature::Ints(v) => values(2, v.len(), &mut v.iter().map(|x| x.to_le_bytes()))?,
                Feature::Floats(v) => values(3, v.len(), &mut v.iter().map(|x| x.to_le_bytes()))?,
            }
        }
        self.buffer = bytes;
        self.flush_buffer()
    }

    /// Gives the file its name and opens it.
    pub fn finish(mut self) -> Result<CachedExamples, DataError> {
        let mut index: Vec<u8> = Vec::with_capacity((self.index.len() + 1) * ENTRY as usize);
        for (offset, tokens) in self.index.iter().copied().chain([(self.end, 0)]) {
            index.extend(offset.to_le_bytes());
            index.extend(tokens.to_le_bytes());
        }
        let sum = crc32fast::hash(&index);
        self.buffer = index;
        self.buffer.extend((self.index.len() as u64).to_le_bytes());
        self.buffer.extend(self.end.to_le_bytes());
        self.buffer.extend(sum.to_le_bytes());
        self.buffer.extend(MAGIC);
        self.flush_buffer()?;
        if let Some(file) = self.file.take() {
            let file = file.into_inner().map_err(|e| failed(&self.temporary, e.into_error()))?;
            file.sync_all().map_err(|e| failed(&self.temporary, e))?;
        }
        fs::rename(&self.temporary, &self.path).map_err(|e| failed(&self.path, e))?;
        CachedExamples::open(&self.path)?.ok_or_else(|| broken(&self.path, "the file is gone"))
    }
}

impl Drop for CacheWriter {
    /// A file that was not finished goes away. Nothing can be done when that fails.
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.temporary);
    }
}

/// The examples of a file.
#[derive(Debug)]
pub struct CachedExamples {
    path: PathBuf,
    file: File,
    /// Offset and number of tokens of each example, and the end of the last.
    index: Vec<(u64, u64)>,
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

impl CachedExamples {
    /// The examples of the file at `path`; `None` when there is no such file.
    ///
    /// # Errors
    /// When it cannot be read or is not whole.
    pub fn open(path: &Path) -> Result<Option<CachedExamples>, DataError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(path, e)),
        };
        let size = file.metadata().map_err(|e| failed(path, e))?.len();
        let not_whole = || broken(path, "the file is broken");
        let footer_at = size.checked_sub(FOOTER).ok_or_else(not_whole)?;
        let mut footer = [0; FOOTER as usize];
        file.read_exact_at(&mut footer, footer_at).map_err(|e| failed(path, e))?;
        let count = word(&footer, 0).ok_or_else(not_whole)?;
        let index_at = word(&footer, 8).ok_or_else(not_whole)?;
        let length = count.checked_add(1).and_then(|n| n.checked_mul(ENTRY)).ok_or_else(not_whole)?;
        // The index fills the file up to the footer, so its size is bounded by the file's.
        if index_at.checked_add(length) != Some(footer_at) || !footer.ends_with(MAGIC) {
            return Err(not_whole());
        }
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| not_whole())?];
        file.read_exact_at(&mut bytes, index_at).map_err(|e| failed(path, e))?;
        if footer.get(16..20) != Some(&crc32fast::hash(&bytes).to_le_bytes()) {
            return Err(not_whole());
        }
        let entry = |entry: &[u8]| Some((word(entry, 0)?, word(entry, 8)?));
        let index: Option<Vec<(u64, u64)>> = bytes.chunks_exact(ENTRY as usize).map(entry).collect();
        let index = index.ok_or_else(not_whole)?;
        let ascending = index.windows(2).all(|pair| pair[0].0 <= pair[1].0);
        if !ascending || index.last().map(|last| last.0) != Some(index_at) {
            return Err(not_whole());
        }
        Ok(Some(CachedExamples { path: path.to_path_buf(), file, index }))
    }
}

impl Examples for CachedExamples {
    fn len(&self) -> usize {
        self.index.len().saturating_sub(1)
    }

    fn get(&self, index: usize) -> Result<Example, DataError> {
        let [(start, _), (end, _)] = self.index.get(index..).and_then(|rest| rest.first_chunk()).ok_or_else(|| {
            DataError::argument("index", format!("there is no example {index}: there are {}", self.len()))
        })?;
        let not_whole = || broken(&self.path, "the file is broken; delete it");
        let mut bytes = vec![0; usize::try_from(end - start).map_err(|_| not_whole())?];
        self.file.read_exact_at(&mut bytes, *start).map_err(|e| failed(&self.path, e))?;
        decode(&bytes).ok_or_else(not_whole)
    }

    fn tokens(&self, index: usize) -> Result<usize, DataError> {
        Ok(self.index.get(index).and_then(|(_, tokens)| usize::try_from(*tokens).ok()).unwrap_or(0))
    }
}

fn decode(bytes: &[u8]) -> Option<Example> {
    let mut rest = bytes;
    let mut take = |n: usize| {
        let (head, tail) = rest.split_at_checked(n)?;
        rest = tail;
        Some(head)
    };
    let number = |bytes: &[u8]| Some(u32::from_le_bytes(bytes.try_into().ok()?));
    let mut example = Example::new();
    while let Some(length) = take(4) {
        let name = std::str::from_utf8(take(number(length)? as usize)?).ok()?;
        let kind = *take(1)?.first()?;
        let count = number(take(4)?)? as usize;
        let values = take(count.checked_mul(4)?)?;
        let words = || values.chunks_exact(4).map(|w| [w[0], w[1], w[2], w[3]]);
        let feature = match kind {
            0 => Feature::Int(i32::from_le_bytes(words().next()?)),
            1 => Feature::Float(f32::from_le_bytes(words().next()?)),
            2 => Feature::Ints(words().map(i32::from_le_bytes).collect()),
            3 => Feature::Floats(words().map(f32::from_le_bytes).collect()),
            _ => return None,
        };
        example.set(name, feature);
    }
    rest.is_empty().then_some(example)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples() -> Vec<Example> {
        let one = |i: i32| {
            Example::new()
                .with("input_ids", Feature::Ints((0..i).collect()))
                .with("label", if i % 2 == 0 { Feature::Int(-i) } else { Feature::Float(0.1 * i as f32) })
                .with("targets", Feature::Floats(vec![f32::MIN_POSITIVE, 1.5]))
        };
        (0..20).map(one).collect()
    }

    fn write(path: &Path) -> CachedExamples {
        let mut writer = CacheWriter::create(path).unwrap();
        examples().iter().for_each(|example| writer.push(example).unwrap());
        writer.finish().unwrap()
    }

    #[test]
    fn ds_13_examples_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/a.examples");
        assert!(CachedExamples::open(&path).unwrap().is_none());
        let written = write(&path);
        let read = CachedExamples::open(&path).unwrap().unwrap();
        for cached in [written, read] {
            assert_eq!(cached.len(), 20);
            for (i, example) in examples().iter().enumerate() {
                assert_eq!(&cached.get(i).unwrap(), example);
                assert_eq!(cached.tokens(i).unwrap(), i);
            }
            assert!(cached.get(20).is_err() && cached.get(usize::MAX).is_err());
        }
        // One that was not finished leaves nothing.
        drop(CacheWriter::create(&folder.path().join("b.examples")).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    /// Any byte changed or missing: an error, or what the byte stood for; never a panic.
    #[test]
    fn ds_13_broken_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.examples");
        write(&path);
        let whole = fs::read(&path).unwrap();
        for length in (0..whole.len()).step_by(13) {
            fs::write(&path, &whole[..length]).unwrap();
            let error = CachedExamples::open(&path).unwrap_err();
            assert!(!error.is_usage(), "{length}");
        }
        // The last bytes are the index and what describes it.
        for at in (0..whole.len() - 400).step_by(17).chain(whole.len() - 400..whole.len()) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            fs::write(&path, &bytes).unwrap();
            if let Ok(Some(cached)) = CachedExamples::open(&path) {
                (0..cached.len()).for_each(|i| drop(cached.get(i)));
            }
        }
    }
}
