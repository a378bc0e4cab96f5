//! Checkpoints: finding the files of a model's weights and reading tensors out of them (spec rows CKP-*).
//!
//! A [`Checkpoint`] is one view over safetensors files, shards and PyTorch pickles: names, types, shapes, and bytes
//! that stay in the mapped file until somebody asks. It knows nothing of model families or of the hub.

mod convert;
mod discover;
mod element;
mod error;
mod index;
mod json;
mod map;
pub mod pickle;
pub mod safetensors;
mod torch;
mod zip;

pub(crate) use convert::to_dtype as convert_bytes;
pub use convert::to_f32 as bytes_to_f32;
pub use discover::{Format, OpenOptions};
pub use element::Element;
pub use error::CheckpointError;
pub use index::parse_index;
pub(crate) use map::MappedFile;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use lith_ir::DType;

use crate::source::Source;

/// The weights of a model.
#[derive(Debug)]
pub struct Checkpoint {
    place: String,
    files: Vec<File>,
    tensors: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    map: MappedFile,
}

/// Where a tensor is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    file: usize,
    element: Element,
    shape: Vec<usize>,
    layout: Layout,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Layout {
    /// Row-major, at these bytes of the file.
    Contiguous(Range<usize>),
    /// A view on a storage at these bytes; offset and strides in elements, all inside the storage.
    Strided { storage: Range<usize>, offset: usize, strides: Vec<usize> },
}

/// A stored tensor: its description, and its bytes on request.
#[derive(Clone, Copy, Debug)]
pub struct StoredTensor<'a> {
    name: &'a str,
    file: &'a File,
    entry: &'a Entry,
}

impl Checkpoint {
    /// Finds and opens the weights of a model. Headers are read and checked, data is not touched.
    pub fn open(source: &Source, options: &OpenOptions) -> Result<Checkpoint, CheckpointError> {
        discover::open(source, options)
    }

    /// Opens one file: a pickle if its name ends in `.bin`, `.pt` or `.pth`, safetensors otherwise.
    pub fn open_file(path: &Path) -> Result<Checkpoint, CheckpointError> {
        let mut checkpoint = Checkpoint::empty(path.display().to_string());
        checkpoint.add_file(path)?;
        Ok(checkpoint)
    }

    /// One without any tensors: of a model whose weights are all to be drawn.
    pub fn empty(place: String) -> Checkpoint {
        Checkpoint { place, files: Vec::new(), tensors: BTreeMap::new() }
    }

    /// Adds every tensor of a file. A name that another file has too is an error.
    fn add_file(&mut self, path: &Path) -> Result<(), CheckpointError> {
        let map = MappedFile::open(path)?;
        let extension = path.extension().and_then(|extension| extension.to_str());
        let file = self.files.len();
        let tensors: Vec<(String, Entry)> = if matches!(extension, Some("bin" | "pt" | "pth")) {
            torch::read(&map, path, file)?
        } else {
            let entry = |info: safetensors::TensorInfo| {
                let layout = Layout::Contiguous(info.range);
                (info.name, Entry { file, element: info.element, shape: info.shape, layout })
            };
            safetensors::parse_header(&map, path)?.tensors.into_iter().map(entry).collect()
        };
        for (name, entry) in tensors {
            if let Some(first) = self.tensors.get(&name) {
                let reason =
                    format!("also in {}", self.files.get(first.file).map_or(path, |file| &file.path).display());
                return Err(CheckpointError::tensor(path, &name, reason));
            }
            self.tensors.insert(name, entry);
        }
        self.files.push(File { path: path.to_path_buf(), map });
        Ok(())
    }

    /// The file, directory or repository the checkpoint was opened from, for messages.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The files the tensors are in.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Every tensor, by name.
    pub fn tensors(&self) -> impl Iterator<Item = StoredTensor<'_>> {
        self.tensors.iter().filter_map(|(name, entry)| self.stored(name, entry))
    }

    /// A tensor by its name in the file.
    pub fn tensor(&self, name: &str) -> Option<StoredTensor<'_>> {
        let (name, entry) = self.tensors.get_key_value(name)?;
        self.stored(name, entry)
    }

    fn stored<'a>(&'a self, name: &'a str, entry: &'a Entry) -> Option<StoredTensor<'a>> {
        Some(StoredTensor { name, file: self.files.get(entry.file)?, entry })
    }
}

impl<'a> StoredTensor<'a> {
    /// Its name in the file.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// The file it is in.
    pub fn file(&self) -> &'a Path {
        &self.file.path
    }

    /// Its element type, also where Lith cannot read it.
    pub fn element(&self) -> Element {
        self.entry.element
    }

    /// Its element type, or an error naming the tensor where Lith does not have that type.
    pub fn dtype(&self) -> Result<DType, CheckpointError> {
        match self.entry.element {
            Element::Known(dtype) => Ok(dtype),
            other => {
                Err(CheckpointError::tensor(self.file(), self.name, format!("type {other} is not supported by Lith")))
            }
        }
    }

    /// Its dimensions; none for a scalar.
    pub fn shape(&self) -> &'a [usize] {
        &self.entry.shape
    }

    /// Its elements, little-endian and row-major: borrowed from the mapped file unless the tensor is a strided view.
    /// A borrowed slice may start at any address.
    pub fn bytes(&self) -> Cow<'a, [u8]> {
        let map: &'a [u8] = &self.file.map;
        // The ranges were checked against the file when it was opened.
        let slice = |range: &Range<usize>| map.get(range.clone()).unwrap_or_default();
        match &self.entry.layout {
            Layout::Contiguous(range) => Cow::Borrowed(slice(range)),
            Layout::Strided { storage, offset, strides } => {
                let size = self.entry.element.bits() / 8;
                Cow::Owned(gather(slice(storage), size, *offset, &self.entry.shape, strides))
            }
        }
    }

    /// Its elements as `f32`, converted exactly or, from f64, rounded to nearest (WLD-15).
    pub fn to_f32(&self) -> Result<Vec<f32>, CheckpointError> {
        let dtype = self.dtype()?;
        convert::to_f32(&self.bytes(), dtype).ok_or_else(|| self.no_conversion(DType::F32))
    }

    /// Its elements as little-endian bytes of `dtype`. Between floating-point types this rounds to nearest even;
    /// any other change of type is an error.
    pub fn to_dtype(&self, dtype: DType) -> Result<Cow<'a, [u8]>, CheckpointError> {
        let from = self.dtype()?;
        if from == dtype {
            return Ok(self.bytes());
        }
        convert::to_dtype(&self.bytes(), from, dtype).map(Cow::Owned).ok_or_else(|| self.no_conversion(dtype))
    }

    fn no_conversion(&self, to: DType) -> CheckpointError {
        CheckpointError::tensor(self.file(), self.name, format!("{} cannot be read as {to}", self.entry.element))
    }
}

/// Copies a strided view out of its storage in row-major order.
fn gather(storage: &[u8], size: usize, offset: usize, shape: &[usize], strides: &[usize]) -> Vec<u8> {
    let count: usize = shape.iter().product();
    let mut bytes = Vec::with_capacity(count * size);
    let mut index = vec![0; shape.len()];
    let mut at = offset;
    for _ in 0..count {
        bytes.extend_from_slice(storage.get(at * size..(at + 1) * size).unwrap_or_default());
        // The next index: the last dimension first, carrying to the ones before it.
        for ((index, &dim), &stride) in index.iter_mut().zip(shape).zip(strides).rev() {
            *index += 1;
            // Wrapping: the stride of a dimension of 1 is any number and is taken back at once.
            at = at.wrapping_add(stride);
            if *index < dim {
                break;
            }
            at = at.wrapping_sub(stride.wrapping_mul(dim));
            *index = 0;
        }
    }
    bytes
}
