//! The folder of compiled artifacts, keyed by content: what the model's files hold, how they are compiled, by which
//! version, for which processor.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use lith_passes::saturate::{Block, Memo, Store};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// A cache folder.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

/// Known hashes of files, by path, size and time of change, so that gigabytes of weights are read once.
type Hashes = BTreeMap<String, String>;

impl Cache {
    /// The cache in this folder, made when it is not there.
    ///
    /// # Errors
    /// When the folder cannot be made or written.
    pub fn at(folder: PathBuf) -> Result<Cache> {
        fs::create_dir_all(&folder).map_err(|e| unwritable(&folder, e))?;
        let probe = tempfile::Builder::new().prefix(".probe").tempfile_in(&folder);
        probe.map_err(|e| unwritable(&folder, e))?;
        Ok(Cache { folder })
    }

    /// The user's cache.
    ///
    /// # Errors
    /// When no variable names a place for it, or it cannot be written.
    pub fn open() -> Result<Cache> {
        let folder = crate::env::cache_folder()
            .ok_or_else(|| Error::input(format!("no cache folder: set {} or HOME", crate::env::CACHE)))?;
        Cache::at(folder)
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Path of the artifact made of these files with these settings; it need not exist yet.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn artifact(&self, files: &[PathBuf], settings: &[&str]) -> Result<PathBuf> {
        let memo_path = self.folder.join("hashes.json");
        let mut memo: Hashes =
            fs::read(&memo_path).ok().and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default();
        let mut hash = hash_of(settings);
        let mut learned = false;
        for file in files {
            let stamp = stamp(file).map_err(|e| Error::io(file, e))?;
            let content = match memo.get(&stamp) {
                Some(known) => known.clone(),
                None => {
                    let found = hash_file(file).map_err(|e| Error::io(file, e))?;
                    memo.insert(stamp, found.clone());
                    learned = true;
                    found
                }
            };
            hash.update(file.file_name().unwrap_or_default().as_encoded_bytes());
            hash.update([0]);
            hash.update(content.as_bytes());
        }
        if learned {
            // A memo that cannot be kept costs time, nothing else.
            let _ = serde_json::to_vec(&memo).map(|b| write_atomic(&memo_path, &b));
        }
        Ok(self.folder.join(format!("{}.lith", &hex(&hash.finalize())[..32])))
    }
}

/// A hash that has taken in the version, and which build of it, since two builds of one version may generate different
/// code; and these settings.
fn hash_of(settings: &[&str]) -> Sha256 {
    let mut hash = Sha256::new();
    let build = std::env::current_exe().and_then(|exe| stamp(&exe)).unwrap_or_default();
    for setting in [env!("CARGO_PKG_VERSION"), &build].iter().chain(settings) {
        hash.update((setting.len() as u64).to_le_bytes());
        hash.update(setting.as_bytes());
    }
    hash
}

/// What equality saturation made of graphs, in the folder `blocks` of a cache: one file each, named by the hash of what it
/// was made of, of a line with the hash of the rest and the rest, JSON. A file that is not whole counts as none.
#[derive(Clone, Debug)]
pub struct Blocks {
    folder: PathBuf,
}

impl Blocks {
    /// Those of a cache; the folder is made when it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn of(cache: &Cache) -> Result<Blocks> {
        let folder = cache.folder.join("blocks");
        fs::create_dir_all(&folder).map_err(|e| unwritable(&folder, e))?;
        Ok(Blocks { folder })
    }

    /// Those of the user's cache; none when there is no place for it.
    pub fn of_user() -> Memo {
        let blocks = Cache::open().and_then(|cache| Blocks::of(&cache)).ok();
        Memo(blocks.map(|blocks| Arc::new(blocks) as Arc<dyn Store>))
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{}.json", &hex(&hash_of(&[key]).finalize())[..32]))
    }
}

impl Store for Blocks {
    fn get(&self, key: &str) -> Option<Block> {
        let text = fs::read_to_string(self.path(key)).ok()?;
        let (hash, json) = text.split_once('\n')?;
        let whole = hash == hex(&Sha256::digest(json.as_bytes()));
        serde_json::from_str(json).ok().filter(|_| whole)
    }

    fn put(&self, key: &str, block: &Block) {
        let Ok(json) = serde_json::to_string(block) else { return };
        let text = format!("{}\n{json}", hex(&Sha256::digest(json.as_bytes())));
        // What cannot be kept costs time, nothing else.
        let _ = write_atomic(&self.path(key), text.as_bytes());
    }
}

fn unwritable(folder: &Path, e: io::Error) -> Error {
    let problem = format!("cache folder {}: {e}; name another with {}", folder.display(), crate::env::CACHE);
    Error::input(problem)
}

fn stamp(file: &Path) -> io::Result<String> {
    let path = fs::canonicalize(file)?;
    let meta = fs::metadata(&path)?;
    let changed = meta.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    Ok(format!("{}|{}|{changed}", path.display(), meta.len()))
}

fn hash_file(file: &Path) -> io::Result<String> {
    let (mut hash, mut file) = (Sha256::new(), File::open(file)?);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Writes a file under a temporary name beside it, then renames it, so that no reader sees a part of it.
///
/// # Errors
/// When it cannot be written; the temporary file is then gone.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".lith").tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path).map(|_| ()).map_err(|e| e.error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_follows_content_and_settings() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().join("cache")).unwrap();
        let file = folder.path().join("model.safetensors");
        fs::write(&file, b"one").unwrap();
        let files = [file.clone()];
        let first = cache.artifact(&files, &["native"]).unwrap();
        assert_eq!(first, cache.artifact(&files, &["native"]).unwrap());
        assert_ne!(first, cache.artifact(&files, &["x86-64-v2"]).unwrap());
        fs::write(&file, b"three").unwrap();
        assert_ne!(first, cache.artifact(&files, &["native"]).unwrap());
        fs::write(&file, b"one").unwrap();
        assert_eq!(first, cache.artifact(&files, &["native"]).unwrap());
    }

    #[test]
    fn blocks_come_back_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let blocks = Blocks::of(&Cache::at(folder.path().into()).unwrap()).unwrap();
        let block: Block = serde_json::from_value(serde_json::json!({
            "found": "program \"\"\n",
            "report": {
                "graph": "layer", "runs": 0, "cost_before_us": 2.5, "cost_after_us": 0.1, "kernels_before": 0,
                "kernels_after": 0, "refused": false, "nodes": 9, "classes": 7, "iterations": 1, "stopped": "saturated"
            },
            "rewrites": []
        }))
        .unwrap();
        assert_eq!(blocks.get("key"), None);
        blocks.put("key", &block);
        assert_eq!((blocks.get("key"), blocks.get("other")), (Some(block.clone()), None));
        let whole = fs::read(blocks.path("key")).unwrap();
        for cut in 0..whole.len() {
            fs::write(blocks.path("key"), &whole[..cut]).unwrap();
            assert_eq!(blocks.get("key"), None, "cut to {cut}");
        }
        blocks.put("key", &block);
        assert_eq!(blocks.get("key"), Some(block));
    }

    #[test]
    fn a_file_in_the_way_of_the_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("taken");
        fs::write(&file, b"").unwrap();
        let error = Cache::at(file.clone()).unwrap_err();
        assert_eq!(error.blame(), crate::error::Blame::Input);
        assert!(error.to_string().contains("taken"));
    }
}
