//! The folder of a run's checkpoints: which there are, which goes, and what interrupted processes left in it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::disk::Disk;
use super::error::CheckpointError;

const PREFIX: &str = "checkpoint-";

/// What a hidden folder beside the checkpoints is.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Hidden {
    /// A checkpoint that is being written.
    Partial,
    /// A complete one that another of the same number takes the place of.
    Replaced,
    /// One that is being removed.
    Removed,
}

impl Hidden {
    const ALL: [Hidden; 3] = [Hidden::Partial, Hidden::Replaced, Hidden::Removed];

    fn ending(self) -> &'static str {
        match self {
            Hidden::Partial => ".partial",
            Hidden::Replaced => ".replaced",
            Hidden::Removed => ".removed",
        }
    }
}

/// Where a run keeps its checkpoints: `output_dir`.
#[derive(Debug, Clone)]
pub struct CheckpointFolder {
    path: PathBuf,
}

impl CheckpointFolder {
    /// The folder; it need not exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        CheckpointFolder { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the checkpoint after `step` updates is, or would be.
    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.path.join(format!("{PREFIX}{step}"))
    }

    pub(super) fn hidden(&self, step: u64, what: Hidden) -> PathBuf {
        self.path.join(format!(".{PREFIX}{step}{}", what.ending()))
    }

    /// Numbers of the checkpoints there are, ascending; none when there is no such folder.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn steps(&self) -> io::Result<Vec<u64>> {
        let mut steps = self.named(|name| name.strip_prefix(PREFIX)?.parse().ok())?;
        steps.retain(|&step| self.checkpoint(step).is_dir());
        steps.sort_unstable();
        Ok(steps)
    }

    /// What `number` reads from the names in the folder.
    fn named(&self, number: impl Fn(&str) -> Option<u64>) -> io::Result<Vec<u64>> {
        let entries = match std::fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut numbers = Vec::new();
        for entry in entries {
            numbers.extend(entry?.file_name().to_str().and_then(&number));
        }
        Ok(numbers)
    }

    /// The checkpoint after most updates. (EC-20)
    ///
    /// # Errors
    /// When the folder cannot be read, or holds none.
    pub fn last(&self) -> Result<PathBuf, CheckpointError> {
        let steps = self.steps().map_err(|error| CheckpointError::unusable(&self.path, error.to_string()))?;
        let none = || CheckpointError::None { folder: self.path.clone() };
        steps.last().map(|&step| self.checkpoint(step)).ok_or_else(none)
    }

    /// Puts right what a process that was interrupted while writing, replacing or removing left behind.
    pub(in crate::training) fn recover(&self, disk: &dyn Disk) -> Result<(), CheckpointError> {
        let recovered = || -> io::Result<()> {
            for what in Hidden::ALL {
                let named = |name: &str| {
                    name.strip_prefix('.')?.strip_prefix(PREFIX)?.strip_suffix(what.ending())?.parse().ok()
                };
                for step in self.named(named)? {
                    let (hidden, checkpoint) = (self.hidden(step, what), self.checkpoint(step));
                    if what == Hidden::Replaced && !checkpoint.exists() {
                        disk.rename(&hidden, &checkpoint)?;
                    } else {
                        disk.remove(&hidden)?;
                    }
                }
            }
            Ok(())
        };
        recovered().map_err(|error| CheckpointError::write(&self.path, error))
    }

    /// Removes the oldest checkpoints until `limit` are left, but never the newest nor the best; none and 0 keep all.
    /// (EC-14)
    pub(in crate::training) fn rotate(
        &self,
        disk: &dyn Disk,
        limit: Option<i64>,
        best: Option<u64>,
    ) -> Result<(), CheckpointError> {
        let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()).filter(|&limit| limit > 0) else {
            return Ok(());
        };
        let rotated = || -> io::Result<()> {
            let steps = self.by_age()?;
            let kept = |step: u64| steps.last() == Some(&step) || best == Some(step);
            let limit = limit.max(steps.iter().filter(|&&step| kept(step)).count());
            let spare = steps.len().saturating_sub(limit);
            steps.iter().filter(|&&step| !kept(step)).take(spare).try_for_each(|&step| self.remove(disk, step))
        };
        rotated().map_err(|error| CheckpointError::write(&self.path, error))
    }

    /// Removes all checkpoints but this one.
    pub(in crate::training) fn keep_only(&self, disk: &dyn Disk, step: u64) -> Result<(), CheckpointError> {
        let steps = self.steps().map_err(|error| CheckpointError::write(&self.path, error))?;
        let others: Vec<u64> = steps.into_iter().filter(|&other| other != step).collect();
        self.forget(disk, &others)
    }

    /// Removes those of these checkpoints that there are.
    pub(in crate::training) fn forget(&self, disk: &dyn Disk, steps: &[u64]) -> Result<(), CheckpointError> {
        let forgotten = || {
            let there = self.steps()?.into_iter().filter(|step| steps.contains(step));
            there.into_iter().try_for_each(|step| self.remove(disk, step))
        };
        forgotten().map_err(|error: io::Error| CheckpointError::write(&self.path, error))
    }

    /// Removes a checkpoint: renamed first, since half of one must not look like one.
    fn remove(&self, disk: &dyn Disk, step: u64) -> io::Result<()> {
        let removed = self.hidden(step, Hidden::Removed);
        disk.remove(&removed)?;
        disk.rename(&self.checkpoint(step), &removed)?;
        disk.remove(&removed)
    }

    /// The checkpoints, oldest first: by the time they were changed, or by number where times are too close to tell.
    fn by_age(&self) -> io::Result<Vec<u64>> {
        let mut aged = Vec::new();
        for step in self.steps()? {
            let time = std::fs::metadata(self.checkpoint(step))?.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            aged.push((time, step));
        }
        let times = || aged.iter().map(|(time, _)| *time);
        if let (Some(first), Some(last)) = (times().min(), times().max())
            && last.duration_since(first).is_ok_and(|spread| spread.as_secs_f64() >= 1.0)
        {
            aged.sort();
        }
        Ok(aged.into_iter().map(|(_, step)| step).collect())
    }
}
