//! Arrays on the host: what goes into an entry point and what comes out.

use bytemuck::{Pod, cast_slice};

use lith_ir::DType;

/// A borrowed array: element type, shape and its bytes in native order, row-major.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Element type.
    pub dtype: DType,
    /// Shape.
    pub shape: &'a [usize],
    /// `dtype.size()` times the product of the shape.
    pub bytes: &'a [u8],
}

impl<'a> View<'a> {
    /// A view of `i32` values.
    pub fn i32(shape: &'a [usize], values: &'a [i32]) -> View<'a> {
        View { dtype: DType::I32, shape, bytes: cast_slice(values) }
    }

    /// A view of `f32` values.
    pub fn f32(shape: &'a [usize], values: &'a [f32]) -> View<'a> {
        View { dtype: DType::F32, shape, bytes: cast_slice(values) }
    }
}

/// An owned array.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    /// Words, so that every element type is aligned.
    words: Vec<u64>,
    bytes: usize,
}

impl Tensor {
    /// Zeros; `None` when the size in bytes does not fit the address space.
    pub fn zeros(dtype: DType, shape: Vec<usize>) -> Option<Tensor> {
        let bytes = shape.iter().try_fold(dtype.size(), |a, &d| a.checked_mul(d))?;
        isize::try_from(bytes).ok()?;
        Some(Tensor { dtype, shape, words: vec![0; bytes.div_ceil(8)], bytes })
    }

    /// An array of these bytes; `None` when their count is not that of the shape.
    pub fn from_bytes(dtype: DType, shape: Vec<usize>, bytes: &[u8]) -> Option<Tensor> {
        let mut tensor = Tensor::zeros(dtype, shape).filter(|t| t.bytes == bytes.len())?;
        tensor.bytes_mut().copy_from_slice(bytes);
        Some(tensor)
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The data in native byte order.
    pub fn bytes(&self) -> &[u8] {
        &cast_slice(&self.words)[..self.bytes]
    }

    /// The data in native byte order, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[..self.bytes]
    }

    /// The elements as `T`; `None` when the element type has another size.
    pub fn elements<T: Pod>(&self) -> Option<&[T]> {
        (size_of::<T>() == self.dtype.size()).then(|| cast_slice(self.bytes()))
    }

    /// The elements of an `f32` array; empty for any other.
    pub fn f32s(&self) -> &[f32] {
        if self.dtype == DType::F32 { cast_slice(self.bytes()) } else { &[] }
    }

    /// The array, borrowed.
    pub fn view(&self) -> View<'_> {
        View { dtype: self.dtype, shape: &self.shape, bytes: self.bytes() }
    }
}
