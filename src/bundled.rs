//! Models that come with Lith, so that the first command answers without a download.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cache::{Cache, write_atomic};
use crate::error::{Error, Result};

macro_rules! bundle {
    ($name:literal: $($file:literal),* $(,)?) => {
        ($name, &[$(($file, include_bytes!(concat!("../models/bundled/", $name, "/", $file)) as &[u8])),*])
    };
}

/// Name and files of each model.
type Bundle = (&'static str, &'static [(&'static str, &'static [u8])]);

const BUNDLES: &[Bundle] = &[
    bundle!("reviews": "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md", "LICENSE"),
];

/// The folder of the bundled model of this name, unpacked into the cache when it is not there; `None` for any other name
/// and where a file or directory of the name exists.
///
/// # Errors
/// When the cache cannot be written.
pub fn find(model: &str) -> Result<Option<PathBuf>> {
    match BUNDLES.iter().find(|(name, _)| *name == model) {
        Some((name, files)) if !Path::new(model).exists() => {
            let cache = Cache::open()?;
            let folder = cache.folder().join("bundled").join(env!("CARGO_PKG_VERSION")).join(name);
            unpack(&folder, files)?;
            Ok(Some(folder))
        }
        _ => Ok(None),
    }
}

fn unpack(folder: &Path, files: &[(&str, &[u8])]) -> Result<()> {
    fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    for (name, bytes) in files {
        let path = folder.join(name);
        // A file that differs is an older build's or a damaged one.
        if fs::read(&path).ok().as_deref() != Some(*bytes) {
            write_atomic(&path, bytes).map_err(|e| Error::io(&path, e))?;
        }
    }
    Ok(())
}
