//! Memory maps of artifact files. The one place that maps a file; knows nothing of its content.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;

use memmap2::{Mmap, MmapMut, MmapOptions};

/// A read-only map of a part of a file.
#[derive(Debug)]
pub struct FileMap(Option<Mmap>);

impl FileMap {
    /// Maps `size` bytes from `offset`.
    pub fn new(file: &File, offset: u64, size: u64) -> io::Result<FileMap> {
        let size = usize::try_from(size).map_err(io::Error::other)?;
        if size == 0 {
            return Ok(FileMap(None));
        }
        // SAFETY: the map is private to this process and read only. That nobody changes the file while it is mapped is
        // the documented duty of the caller of `Artifact::open`, as for every mapped weight file.
        let map = unsafe { MmapOptions::new().offset(offset).len(size).map(file)? };
        Ok(FileMap(Some(map)))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }

    /// Gives back the memory that the map holds; what is read again comes from the file again.
    pub fn release(&self) {
        #[cfg(unix)]
        if let Some(map) = &self.0 {
            // SAFETY: the map is of a file and read only, so its pages have the same content after as before.
            let _ = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
        }
    }
}

/// An executable map of machine code.
#[derive(Debug)]
pub struct CodeMap(Option<Mmap>);

impl CodeMap {
    /// Maps the code `bytes`, which lie at `offset` of the file, executable; where the file system forbids that, a copy.
    pub fn new(file: &File, offset: u64, bytes: &[u8]) -> io::Result<CodeMap> {
        if bytes.is_empty() {
            return Ok(CodeMap(None));
        }
        // SAFETY: as for `FileMap::new`; the content was checked against its checksum.
        let direct = unsafe { MmapOptions::new().offset(offset).len(bytes.len()).map_exec(file) };
        if let Ok(map) = direct {
            return Ok(CodeMap(Some(map)));
        }
        let mut copy = MmapMut::map_anon(bytes.len())?;
        copy.copy_from_slice(bytes);
        copy.make_exec().map(|map| CodeMap(Some(map)))
    }

    /// The code.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}
