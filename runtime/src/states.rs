//! The states of a program: memory that lives from call to call. Knows the manifest; calls and paged caches are others'.

use memmap2::MmapMut;

use crate::artifact::{Artifact, ArtifactError};

/// Memory for intermediate values and states, aligned to pages, zeros at first.
#[derive(Debug)]
pub(crate) struct Arena(pub MmapMut);

/// From so many bytes on an arena asks for large pages: matrices go through more small ones than a core knows addresses of.
const LARGE_PAGES: usize = 4 << 20;

impl Arena {
    /// At least this many bytes; `None` when the system has not so many.
    pub fn new(bytes: usize) -> Option<Arena> {
        let map = MmapMut::map_anon(bytes.max(64)).ok()?;
        #[cfg(target_os = "linux")]
        if bytes >= LARGE_PAGES {
            // Only speed depends on it.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Some(Arena(map))
    }
}

/// Why a state cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// There is none of this name outside the paged cache.
    #[error("the program has no state `{name}`")]
    Unknown {
        /// The name asked for.
        name: String,
    },
    /// The bytes are not as many as the state has.
    #[error("state `{name}` has {expected} bytes, found {found}")]
    Size {
        /// The state.
        name: String,
        /// Its bytes.
        expected: u64,
        /// Those given.
        found: u64,
    },
}

/// The states that are not in pages, by index in the manifest.
pub(crate) struct States(Vec<Option<Arena>>);

impl States {
    /// Each with what it begins with.
    ///
    /// # Errors
    /// When memory cannot be had, or the artifact is broken.
    pub fn new(artifact: &Artifact) -> Result<States, ArtifactError> {
        let failed = |name: &str, kind, problem: String| ArtifactError::Io {
            path: artifact.path().into(),
            source: std::io::Error::new(kind, format!("state `{name}` {problem}")),
        };
        let mut states = Vec::new();
        for state in &artifact.manifest().states {
            if state.page_offset.is_some() {
                states.push(None);
                continue;
            }
            let size = usize::try_from(state.bytes).ok();
            let no_memory =
                || failed(&state.name, std::io::ErrorKind::OutOfMemory, format!("of {} bytes", state.bytes));
            let (mut arena, size) = size.and_then(|n| Some((Arena::new(n)?, n))).ok_or_else(no_memory)?;
            if let Some(offset) = state.initial {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let bytes = start.checked_add(size).and_then(|end| artifact.weights().get(start..end));
                let outside =
                    || failed(&state.name, std::io::ErrorKind::InvalidData, "begins outside the weights".into());
                arena.0[..size].copy_from_slice(bytes.ok_or_else(outside)?);
            }
            states.push(Some(arena));
        }
        if artifact.manifest().states.iter().any(|state| state.initial.is_some()) {
            artifact.release();
        }
        Ok(States(states))
    }

    /// Where each state lies; null for those in pages.
    pub fn addresses(&mut self) -> Vec<*mut u8> {
        let null = std::ptr::null_mut();
        self.0.iter_mut().map(|s| s.as_mut().map_or(null, |s| s.0.as_mut_ptr())).collect()
    }

    /// The bytes of a state.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn bytes(&mut self, artifact: &Artifact, name: &str) -> Result<&mut [u8], StateError> {
        let entry = artifact.manifest().states.iter().position(|s| s.name == name);
        let found = entry.and_then(|i| Some((self.0.get_mut(i)?.as_mut()?, artifact.manifest().states[i].bytes)));
        let (arena, size) = found.ok_or_else(|| StateError::Unknown { name: name.into() })?;
        Ok(&mut arena.0[..size as usize])
    }
}
