//! GGUF files as a source of models (spec rows LB-15 to LB-17): configuration, tokenizer and weights out of one file,
//! or out of the parts of one that was split.
//!
//! ```text
//! header ──▶ metadata ──▶ config      a config.json
//!    │           └──────▶ tokenizer   tokenizer.json, tokenizer_config.json, generation_config.json
//!    └─────▶ blocks ────▶ names       parameters under Transformers' names, kept at their width
//! ```
//!
//! What comes out has the shape of what a directory of Transformers' files holds, so nothing behind this module knows
//! GGUF. The file stays mapped; tensors are read when they are asked for. Must not know families, layouts or kernels.

pub mod blocks;
mod config;
mod cursor;
mod discover;
mod error;
mod header;
mod metadata;
mod names;
mod tensor;
mod tokenizer;

pub use discover::{find, is_gguf};
pub use error::GgufError;
pub use metadata::{Array, Value};
pub use tensor::{GgufTensor, TensorData};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Map;

use crate::checkpoint::MappedFile;
use config::Model;
use header::TensorInfo;
use metadata::Metadata;

/// Most parts of a split file.
const MAX_PARTS: usize = 99_999;

/// A GGUF file, or all parts of a split one.
#[derive(Debug)]
pub struct Gguf {
    files: Vec<File>,
    /// That of the first part.
    metadata: Metadata,
    tensors: BTreeMap<String, Stored>,
    /// `None` for an architecture that Lith does not have, or a broken description of one: [`Gguf::config`] says why.
    model: Option<Model>,
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    Mapped(MappedFile),
    Owned(Vec<u8>),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Owned(bytes) => bytes,
        }
    }
}

/// A tensor and the part it is in.
#[derive(Debug)]
struct Stored {
    file: usize,
    info: TensorInfo,
}

impl std::ops::Deref for Stored {
    type Target = TensorInfo;
    fn deref(&self) -> &TensorInfo {
        &self.info
    }
}

impl Gguf {
    /// Opens a file and, if it is one part of a split file, all the others, which must lie beside it as
    /// `NAME-00001-of-0000N.gguf`. Heads are read and checked, tensors are not touched.
    ///
    /// # Errors
    /// [`GgufError`] naming the file, and the key or tensor that is broken.
    pub fn open(path: &Path) -> Result<Gguf, GgufError> {
        let bytes = Bytes::Mapped(MappedFile::open(path)?);
        let head = header::parse(&bytes, path)?;
        let parts = split_size(&head.metadata, "split.count")?.unwrap_or(1);
        if parts <= 1 {
            return Gguf::of(vec![(path.to_path_buf(), bytes, head)]);
        }
        let part = path.file_name().and_then(|name| name.to_str()).and_then(discover::part);
        let stem = part.filter(|(_, _, count)| *count == parts).map(|(stem, ..)| stem);
        let stem = stem.ok_or_else(|| {
            let reason =
                format!("one of {parts} parts, but its name does not end in -00001-of-{parts:05}.gguf or alike");
            GgufError::key(path, "split.count", reason)
        })?;
        let mut all = Vec::new();
        for part in 0..parts {
            let path = path.with_file_name(format!("{stem}-{:05}-of-{parts:05}.gguf", part + 1));
            let bytes = Bytes::Mapped(MappedFile::open(&path)?);
            let head = header::parse(&bytes, &path)?;
            for (key, expected) in [("split.no", part), ("split.count", parts)] {
                let found = split_size(&head.metadata, key)?;
                if found != Some(expected) {
                    let found = found.map_or("nothing".into(), |found| found.to_string());
                    return Err(GgufError::key(&path, key, format!("expected {expected}, found {found}")));
                }
            }
            all.push((path, bytes, head));
        }
        Gguf::of(all)
    }

    /// Reads a whole file that is in memory. `name` is for messages.
    ///
    /// # Errors
    /// As [`Gguf::open`]; a part of a split file is one.
    pub fn from_bytes(bytes: Vec<u8>, name: &Path) -> Result<Gguf, GgufError> {
        let head = header::parse(&bytes, name)?;
        match split_size(&head.metadata, "split.count")? {
            None | Some(0 | 1) => Gguf::of(vec![(name.to_path_buf(), Bytes::Owned(bytes), head)]),
            Some(parts) => Err(GgufError::key(name, "split.count", format!("one of {parts} parts"))),
        }
    }

    fn of(parts: Vec<(PathBuf, Bytes, header::Header)>) -> Result<Gguf, GgufError> {
        let mut gguf = Gguf { files: Vec::new(), metadata: Metadata::default(), tensors: BTreeMap::new(), model: None };
        for (file, (path, bytes, head)) in parts.into_iter().enumerate() {
            if file == 0 {
                gguf.metadata = head.metadata;
            }
            for info in head.tensors {
                if let Some(first) = gguf.tensors.get(&info.name) {
                    return Err(GgufError::tensor(
                        &path,
                        &info.name,
                        format!("also in {}", gguf.file_of(first).display()),
                    ));
                }
                gguf.tensors.insert(info.name.clone(), Stored { file, info });
            }
            gguf.files.push(File { path, bytes });
        }
        const TOTAL: &str = "split.tensors.count";
        if let Some(total) = split_size(&gguf.metadata, TOTAL)?.filter(|&total| total != gguf.len()) {
            let reason = format!("expected {total} tensors in all parts, found {}", gguf.len());
            return Err(GgufError::key(gguf.metadata.file(), TOTAL, reason));
        }
        gguf.model = Model::read(&gguf).ok();
        Ok(gguf)
    }

    /// The files, the first of which has the metadata.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// The file that was opened, or the first part, for messages.
    pub fn path(&self) -> &Path {
        self.metadata.file()
    }

    /// Every entry of the metadata, by key.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.metadata.entries()
    }

    /// The configuration: the entries of a `config.json`, for [`Config::from_map`](crate::Config::from_map).
    ///
    /// # Errors
    /// An architecture Lith does not have; a key that is absent or broken.
    pub fn config(&self) -> Result<Map<String, serde_json::Value>, GgufError> {
        config::config(self)
    }

    /// The files of the tokenizer by name: `tokenizer.json`, `tokenizer_config.json` (with the chat template) and
    /// `generation_config.json` (with every token that ends a text or a turn).
    ///
    /// # Errors
    /// A kind of tokenizer or pre-tokenizer Lith does not have; a key that is absent or broken.
    pub fn tokenizer_files(&self) -> Result<Vec<(String, Vec<u8>)>, GgufError> {
        tokenizer::files(self)
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// The parameters the file has, by Transformers' names, each once; a tensor that is none of them has its own name.
    /// Tensors that [`Gguf::config`] takes in are left out.
    pub fn parameters(&self) -> impl Iterator<Item = String> {
        let rest = self.tensors.keys().filter(|name| !config::CONFIG_TENSORS.contains(&name.as_str()));
        rest.map(|name| {
            let model = self.model.as_ref();
            model.and_then(|m| m.architecture.to_parameter(name, m.separate_norms)).unwrap_or_else(|| name.clone())
        })
    }

    /// A parameter by Transformers' name, or by its name in the file where it has no other; `None` if the file does not
    /// have it.
    pub fn tensor(&self, parameter: &str) -> Option<GgufTensor<'_>> {
        let named = self.model.as_ref().and_then(|model| {
            let (name, fix) = model.architecture.to_gguf(parameter)?;
            Some((self.tensors.get(&name)?, fix, model.heads))
        });
        let (stored, fix, heads) = match named {
            Some(named) => named,
            None => (self.tensors.get(parameter)?, names::Fix::None, names::Heads { queries: 1, keys: 1, size: 2 }),
        };
        Some(GgufTensor::new(self.file_of(stored), &stored.info, self.bytes_of(stored), fix, heads))
    }

    /// A tensor by its name in the file.
    fn raw(&self, name: &str) -> Option<&Stored> {
        self.tensors.get(name)
    }

    fn file_of(&self, stored: &Stored) -> &Path {
        self.files.get(stored.file).map_or(self.metadata.file(), |file| &file.path)
    }

    fn bytes_of(&self, stored: &Stored) -> &[u8] {
        // Ranges were checked when the file was opened.
        self.files.get(stored.file).and_then(|file| file.bytes.get(stored.range.clone())).unwrap_or_default()
    }

    /// The bytes of the file the metadata is in.
    fn bytes(&self) -> &[u8] {
        self.files.first().map(|file| &*file.bytes).unwrap_or_default()
    }
}

/// A number about the parts of a split file.
fn split_size(metadata: &Metadata, key: &str) -> Result<Option<usize>, GgufError> {
    match metadata.size(key)? {
        Some(size) if key == "split.count" && size > MAX_PARTS => {
            Err(GgufError::key(metadata.file(), key, format!("expected {MAX_PARTS} parts at most, found {size}")))
        }
        size => Ok(size),
    }
}
