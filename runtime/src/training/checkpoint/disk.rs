//! The few operations that checkpoints need of a file system, so that tests can let each of them fail.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// A file that is being written.
pub(in crate::training) trait DiskFile: Write {
    /// Everything written is on the disk, not only on its way.
    fn finish(&mut self) -> io::Result<()>;
}

/// A file system.
pub(in crate::training) trait Disk {
    /// Makes a folder, and those above it.
    fn make_folder(&self, path: &Path) -> io::Result<()>;
    /// Makes an empty file, in the place of one that is there.
    fn create<'a>(&'a self, path: &Path) -> io::Result<Box<dyn DiskFile + 'a>>;
    /// The names in a folder are on the disk.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
    /// Renames a file over another, or a folder that takes no other's place.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a folder with all that is in it, or a file; nothing there is fine.
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// The file system of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::training) struct RealDisk;

impl DiskFile for BufWriter<File> {
    fn finish(&mut self) -> io::Result<()> {
        self.flush()?;
        self.get_ref().sync_all()
    }
}

impl Disk for RealDisk {
    fn make_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn create<'a>(&'a self, path: &Path) -> io::Result<Box<dyn DiskFile + 'a>> {
        Ok(Box::new(BufWriter::with_capacity(1 << 20, File::create(path)?)))
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        // Folders can be opened and synchronised on Unix only; elsewhere renames are as safe as the system makes them.
        if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}
