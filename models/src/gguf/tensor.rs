//! One tensor of a GGUF file as a parameter: what conversion to GGUF did to it is undone as it is read, on codes where
//! it is quantized.

use std::borrow::Cow;
use std::path::Path;

use lith_ir::DType;
use lith_ir::quant::{QuantMatrix, Storage};

use super::GgufError;
use super::blocks::BlockType;
use super::header::TensorInfo;
use super::names::{Fix, Heads};

/// A tensor: its description, and its values on request.
#[derive(Clone, Copy, Debug)]
pub struct GgufTensor<'a> {
    file: &'a Path,
    info: &'a TensorInfo,
    bytes: &'a [u8],
    fix: Fix,
    heads: Heads,
}

/// The values of a tensor as they are stored.
#[derive(Clone, Debug, PartialEq)]
pub enum TensorData<'a> {
    /// Little-endian elements of this type, row-major; borrowed from the mapped file where nothing had to be undone.
    Float(DType, Cow<'a, [u8]>),
    /// Codes.
    Quantized(QuantMatrix),
}

impl<'a> GgufTensor<'a> {
    pub(super) fn new(file: &'a Path, info: &'a TensorInfo, bytes: &'a [u8], fix: Fix, heads: Heads) -> Self {
        GgufTensor { file, info, bytes, fix, heads }
    }

    /// Its name in the file.
    pub fn name(&self) -> &'a str {
        &self.info.name
    }

    /// The file it is in.
    pub fn file(&self) -> &'a Path {
        self.file
    }

    /// Its type in the file.
    pub fn block_type(&self) -> &'static BlockType {
        self.info.block
    }

    /// Bytes it takes in the file.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The dimensions of the parameter, as Transformers has it.
    pub fn shape(&self) -> Vec<usize> {
        let mut shape = self.info.shape.clone();
        if self.is_transposed() {
            shape.reverse();
        }
        shape
    }

    /// Whether [`GgufTensor::read`] gives the transpose of the parameter: the file has `[outputs, inputs]` where the
    /// parameter is `[inputs, outputs]` (GPT-2). Codes cannot be turned around, because their groups run along inputs.
    pub fn is_transposed(&self) -> bool {
        self.fix == Fix::Transposed
    }

    /// How [`GgufTensor::read`] gives its values.
    ///
    /// # Errors
    /// A block type Lith knows only by name.
    pub fn storage(&self) -> Result<Storage, GgufError> {
        let storage = self.info.block.storage();
        let storage = storage
            .ok_or_else(|| self.wrong(format!("block type {} is not supported by Lith", self.info.block.name)))?;
        Ok(match storage {
            // The sum with one was rounded to f32, so f32 is what taking it away again gives.
            Storage::Float(_) if self.fix == Fix::PlusOne => Storage::Float(DType::F32),
            storage => storage,
        })
    }

    fn wrong(&self, reason: String) -> GgufError {
        GgufError::tensor(self.file, &self.info.name, reason)
    }

    /// Rows and columns of the stored matrix: all but the last dimension, and the last.
    fn matrix_shape(&self) -> (usize, usize) {
        match self.info.shape.split_last() {
            Some((&cols, rows)) => (rows.iter().product(), cols),
            None => (1, 1),
        }
    }

    /// Reads the values: the parameter's own rows in their own order, kept at their width. One has been taken from norms
    /// that were stored with one added: exactly, where the stored number is at least 0.5; below, the result is
    /// rounded to `f32` like the sum it comes from.
    ///
    /// # Errors
    /// A block type Lith knows only by name; a size that does not fit the number of heads.
    pub fn read(&self) -> Result<TensorData<'a>, GgufError> {
        let (rows, cols) = self.matrix_shape();
        // A bias has one element for each row of its weight.
        let (rows, cols) =
            if self.info.shape.len() == 1 && self.fix.rows(self.heads).is_some() { (cols, 1) } else { (rows, cols) };
        if let Some(expected) = self.fix.rows(self.heads).filter(|&expected| expected != rows) {
            let Heads { queries, keys, size } = self.heads;
            let reason =
                format!("expected {expected} rows for {queries} heads of {size}, {keys} of keys, found {rows}");
            return Err(self.wrong(reason));
        }
        let source = |row| self.fix.source(row, self.heads);
        let moved = self.fix.rows(self.heads).is_some();
        let unfit = || {
            self.wrong(format!(
                "{} bytes of {} {:?} do not fit",
                self.bytes.len(),
                self.info.block.name,
                self.info.shape
            ))
        };
        match self.storage()? {
            Storage::Quantized(_) if self.fix == Fix::PlusOne => {
                Err(self.wrong(format!("a norm of {}, expected floats", self.info.block.name)))
            }
            Storage::Quantized(_) => {
                self.info.block.matrix(self.bytes, (rows, cols), source).map(TensorData::Quantized).ok_or_else(unfit)
            }
            Storage::Float(dtype) => {
                let bytes = if self.info.block.float() == Some(dtype) && self.fix != Fix::PlusOne {
                    Cow::Borrowed(self.bytes)
                } else {
                    let mut numbers = Vec::new();
                    self.info.block.numbers(self.bytes, &mut numbers);
                    let one = if self.fix == Fix::PlusOne { 1.0 } else { 0.0 };
                    Cow::Owned(numbers.iter().flat_map(|number| (number - one).to_le_bytes()).collect())
                };
                let bytes = if moved { Cow::Owned(move_rows(&bytes, rows, source).ok_or_else(unfit)?) } else { bytes };
                Ok(TensorData::Float(dtype, bytes))
            }
        }
    }

    /// All values of the parameter in `f32`, in Transformers' layout: what an interpreter or a test wants, four bytes an
    /// element.
    ///
    /// # Errors
    /// As [`GgufTensor::read`].
    pub fn to_f32(&self) -> Result<Vec<f32>, GgufError> {
        let values = match self.read()? {
            TensorData::Quantized(matrix) => matrix.dequantize(),
            TensorData::Float(dtype, bytes) => crate::checkpoint::bytes_to_f32(&bytes, dtype)
                .ok_or_else(|| self.wrong(format!("{dtype} cannot be read as f32")))?,
        };
        if !self.is_transposed() {
            return Ok(values);
        }
        let (_, cols) = self.matrix_shape();
        Ok((0..cols).flat_map(|col| values.iter().skip(col).step_by(cols.max(1))).copied().collect())
    }
}

/// Rows of equal size in another order.
fn move_rows(bytes: &[u8], rows: usize, source: impl Fn(usize) -> usize) -> Option<Vec<u8>> {
    let size = bytes.len().checked_div(rows)?;
    let mut moved = Vec::with_capacity(bytes.len());
    for row in 0..rows {
        let at = source(row).checked_mul(size)?;
        moved.extend_from_slice(bytes.get(at..at.checked_add(size)?)?);
    }
    Some(moved)
}
