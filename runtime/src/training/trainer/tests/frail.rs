//! A disk that fills up, and one that the process dies on.

use std::cell::Cell;
use std::io::{self, Write};
use std::path::Path;
use std::rc::Rc;

use crate::training::checkpoint::{Disk, DiskFile, RealDisk};

/// What happens when the operations are used up.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum End {
    /// This operation and all that follow fail, but for removing: the disk is full.
    Full,
    /// The process is gone, in the middle of the operation.
    Killed,
}

/// A disk on which so many operations succeed.
#[derive(Clone)]
pub(super) struct Frail {
    pub(super) left: Rc<Cell<u64>>,
    pub(super) end: End,
}

impl Frail {
    /// A disk that nothing happens to; it differs from the real one in not waiting for the hardware.
    pub(super) fn endless() -> Frail {
        Frail { left: Rc::new(Cell::new(u64::MAX)), end: End::Full }
    }

    fn use_one(&self) -> io::Result<()> {
        match self.left.get() {
            0 if self.end == End::Killed => std::panic::resume_unwind(Box::new("killed")),
            0 => Err(io::Error::from(io::ErrorKind::StorageFull)),
            left => {
                self.left.set(left - 1);
                Ok(())
            }
        }
    }
}

struct FrailFile<'a> {
    disk: &'a Frail,
    file: Box<dyn DiskFile + 'a>,
}

impl Write for FrailFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let 0 = self.disk.left.get() {
            // Half of what was to be written is there.
            self.file.write_all(&bytes[..bytes.len() / 2])?;
            self.file.flush()?;
        }
        self.disk.use_one()?;
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl DiskFile for FrailFile<'_> {
    fn finish(&mut self) -> io::Result<()> {
        self.disk.use_one()?;
        self.file.flush()
    }
}

impl Disk for Frail {
    fn make_folder(&self, path: &Path) -> io::Result<()> {
        self.use_one()?;
        RealDisk.make_folder(path)
    }

    fn create<'a>(&'a self, path: &Path) -> io::Result<Box<dyn DiskFile + 'a>> {
        self.use_one()?;
        Ok(Box::new(FrailFile { disk: self, file: RealDisk.create(path)? }))
    }

    fn sync_folder(&self, _: &Path) -> io::Result<()> {
        self.use_one()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.use_one()?;
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if !path.exists() || self.end == End::Full {
            return RealDisk.remove(path);
        }
        if let (0, Ok(mut entries)) = (self.left.get(), std::fs::read_dir(path)) {
            // Some of a folder is gone.
            entries.try_for_each(|entry| std::fs::remove_file(entry?.path()))?;
        }
        self.use_one()?;
        RealDisk.remove(path)
    }
}
