//! Files as bytes, mapped. The only unsafe code of this crate.
#![allow(unsafe_code)] // `mmap` cannot promise that nobody changes the file; see the block below.

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

use crate::source::SourceError;

/// The bytes of a file, mapped read-only.
#[derive(Debug)]
pub struct MappedFile(Option<Mmap>);

impl MappedFile {
    /// Maps a file. Costs no memory of its own: pages are read on first use and stay in the page cache.
    pub fn open(path: &Path) -> Result<MappedFile, SourceError> {
        let io = |source| SourceError::Io { path: path.to_path_buf(), source };
        let file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() {
            return Err(SourceError::NotAFile { path: path.to_path_buf() });
        }
        if metadata.len() == 0 {
            return Ok(MappedFile(None));
        }
        // SAFETY: the mapping is private and read-only, and lives as long as the bytes lent from it. What Rust cannot
        // check is that no other process writes to the file meanwhile: checkpoints in the hub cache are written
        // under a temporary name and renamed, never changed in place, and a user who truncates a model while it is
        // being read gets a bus error from the system, as with every program that maps files. All values of the
        // element types are valid for any bytes, so changed contents give wrong numbers, not undefined types.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(MappedFile(Some(map)))
    }
}

impl Deref for MappedFile {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}
