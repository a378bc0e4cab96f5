//! The hub cache on disk, in the layout Python's client reads and writes (CKP-09).
//!
//! ```text
//! models--org--name/blobs/<etag>                     the bytes
//! models--org--name/refs/<revision>                  the commit a branch or tag stood for
//! models--org--name/snapshots/<commit>/<path>        a link to a blob, or a copy
//! .locks/models--org--name/<etag>.lock               held while that blob is written
//! ```

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::SourceError;

/// The folder of one repository.
#[derive(Clone, Debug)]
pub(super) struct RepoCache {
    root: PathBuf,
    name: String,
}

impl RepoCache {
    pub fn new(root: &Path, repo: &str) -> RepoCache {
        RepoCache { root: root.to_path_buf(), name: format!("models--{}", repo.replace('/', "--")) }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    fn folder(&self) -> PathBuf {
        self.root.join(&self.name)
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder().join("snapshots").join(commit)
    }

    pub fn blob(&self, etag: &str) -> PathBuf {
        self.folder().join("blobs").join(etag)
    }

    /// Where a blob is downloaded to; beside the blobs, so that it can be renamed into place.
    pub fn staging(&self, etag: &str) -> PathBuf {
        self.folder().join(".lith-incomplete").join(etag)
    }

    /// The commit that `revision` stood for when it was last asked for, or `revision` itself if it is a commit with a
    /// snapshot.
    pub fn commit_of(&self, revision: &str) -> Option<String> {
        let reference = super::read_text(&self.folder().join("refs").join(revision), 4096).ok();
        let commit = reference.map(|commit| commit.trim().to_string()).filter(|commit| is_plain(commit));
        commit.or_else(|| (is_plain(revision) && self.snapshot(revision).is_dir()).then(|| revision.to_string()))
    }

    /// Remembers what commit a revision stands for.
    pub fn set_commit(&self, revision: &str, commit: &str) -> Result<(), SourceError> {
        if revision == commit || self.commit_of(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.folder().join("refs").join(revision);
        let write = || {
            create_parent(&path)?;
            let temporary = path.with_file_name(format!(".{}.{}", commit, std::process::id()));
            fs::write(&temporary, commit)?;
            fs::rename(&temporary, &path)
        };
        write().map_err(cannot_write(&path))
    }

    /// Waits until this process alone may write a blob.
    pub fn lock(&self, etag: &str) -> Result<File, SourceError> {
        let path = self.root.join(".locks").join(&self.name).join(format!("{etag}.lock"));
        let lock = || {
            create_parent(&path)?;
            let file = File::options().create(true).truncate(false).write(true).open(&path)?;
            file.lock()?;
            Ok(file)
        };
        lock().map_err(cannot_write(&path))
    }

    /// Makes a finished download a blob.
    pub fn keep_blob(&self, etag: &str, staged: &Path) -> Result<(), SourceError> {
        let blob = self.blob(etag);
        create_parent(&blob).and_then(|()| fs::rename(staged, &blob)).map_err(cannot_write(&blob))
    }

    /// Puts a blob into a snapshot as `name`: by a relative link, or as a copy where links are off or unavailable.
    /// Whatever was there is replaced at once.
    pub fn link(&self, commit: &str, name: &str, etag: &str, symlinks: bool) -> Result<PathBuf, SourceError> {
        let (path, blob) = (self.snapshot(commit).join(name), self.blob(etag));
        let temporary = path.with_file_name(format!(".{etag}.{}", std::process::id()));
        let put = || {
            create_parent(&path)?;
            let depth = 2 + name.matches('/').count();
            let relative = Path::new(&"../".repeat(depth)).join("blobs").join(etag);
            if fs::remove_file(&temporary).is_err_and(|error| error.kind() != io::ErrorKind::NotFound)
                || !symlinks
                || symlink(&relative, &temporary).is_err()
            {
                fs::copy(&blob, &temporary)?;
            }
            fs::rename(&temporary, &path)
        };
        put().map_err(|error| {
            fs::remove_file(&temporary).ok();
            cannot_write(&path)(error)
        })?;
        Ok(path)
    }
}

/// Whether a commit or etag from outside is safe as a file name.
pub(super) fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    (1..=128).contains(&name.len()) && name.chars().all(plain)
}

pub(super) fn cannot_write(path: &Path) -> impl Fn(io::Error) -> SourceError + '_ {
    |source| SourceError::Cache { path: path.to_path_buf(), source }
}

fn create_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}
