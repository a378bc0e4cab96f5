//! Tensors of the reference interpreter: floats as `f64`, integers and `bool` as `i64`, whatever the element type.

use std::sync::Arc;

use crate::dtype::DType;
use crate::types::Literal;

/// A tensor larger than this is refused before memory is asked for.
pub const MAX_ELEMENTS: usize = 1 << 30;

/// The elements, row-major. Shared, so that copying a tensor costs nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Elements of a floating-point type.
    Float(Arc<Vec<f64>>),
    /// Elements of an integer type or `bool`.
    Int(Arc<Vec<i64>>),
}

impl Data {
    pub(super) fn len(&self) -> usize {
        match self {
            Data::Float(v) => v.len(),
            Data::Int(v) => v.len(),
        }
    }
}

impl From<Vec<f64>> for Data {
    fn from(v: Vec<f64>) -> Self {
        Data::Float(Arc::new(v))
    }
}

impl From<Vec<i64>> for Data {
    fn from(v: Vec<i64>) -> Self {
        Data::Int(Arc::new(v))
    }
}

/// A value: element type, shape, elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    data: Data,
}

/// Why elements make no tensor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// Their number is not that of the shape.
    #[error("{found} elements for shape {shape:?}")]
    Count {
        /// The shape.
        shape: Vec<usize>,
        /// How many there are.
        found: usize,
    },
    /// Floats for an integer type, or the other way round.
    #[error("elements of another kind than {0}")]
    Kind(DType),
    /// An integer outside the type's range.
    #[error("{value} does not fit {dtype}")]
    Range {
        /// The element type.
        dtype: DType,
        /// The element.
        value: i64,
    },
    /// More than [`MAX_ELEMENTS`].
    #[error("shape {0:?} is larger than the interpreter takes")]
    TooLarge(Vec<usize>),
}

/// Number of elements of a shape within bounds.
pub(super) fn count(shape: &[usize]) -> Result<usize, TensorError> {
    // A zero anywhere makes the count 0, but only when the other sizes are sane as well.
    let product = shape.iter().try_fold(1usize, |a, &d| a.checked_mul(d.max(1)));
    match product {
        Some(n) if n <= MAX_ELEMENTS => Ok(if shape.contains(&0) { 0 } else { n }),
        _ => Err(TensorError::TooLarge(shape.to_vec())),
    }
}

impl Tensor {
    /// A tensor of a floating-point type; elements are rounded to it.
    ///
    /// # Errors
    /// When `dtype` is no floating-point type or the count is not that of the shape.
    pub fn floats(dtype: DType, shape: &[usize], mut values: Vec<f64>) -> Result<Self, TensorError> {
        if !dtype.is_float() {
            return Err(TensorError::Kind(dtype));
        }
        values.iter_mut().for_each(|v| *v = dtype.round(*v));
        Tensor::from_data(dtype, shape.to_vec(), values.into())
    }

    /// A tensor of an integer type or `bool` (0 and 1).
    ///
    /// # Errors
    /// When `dtype` is a floating-point type, an element is out of its range or the count is not that of the shape.
    pub fn ints(dtype: DType, shape: &[usize], values: Vec<i64>) -> Result<Self, TensorError> {
        let (min, max) = dtype.int_range().ok_or(TensorError::Kind(dtype))?;
        if let Some(&value) = values.iter().find(|v| !(min..=max).contains(*v)) {
            return Err(TensorError::Range { dtype, value });
        }
        Tensor::from_data(dtype, shape.to_vec(), values.into())
    }

    /// A tensor from little-endian elements as they lie in memory; a `bool` is true when its byte is not 0.
    ///
    /// # Errors
    /// When their count is not that of the shape.
    pub fn from_bytes(dtype: DType, shape: &[usize], bytes: &[u8]) -> Result<Self, TensorError> {
        if !bytes.len().is_multiple_of(dtype.size()) {
            return Err(TensorError::Count { shape: shape.to_vec(), found: bytes.len() / dtype.size() });
        }
        macro_rules! read {
            ($ty:ty, $size:literal, $to:expr) => {
                bytes.as_chunks::<$size>().0.iter().map(|b| $to(<$ty>::from_le_bytes(*b))).collect::<Vec<_>>().into()
            };
        }
        let data: Data = match dtype {
            DType::F64 => read!(f64, 8, |v| v),
            DType::F32 => read!(f32, 4, f64::from),
            DType::F16 => read!(half::f16, 2, half::f16::to_f64),
            DType::Bf16 => read!(half::bf16, 2, half::bf16::to_f64),
            DType::I64 => read!(i64, 8, |v: i64| v),
            DType::I32 => read!(i32, 4, i64::from),
            DType::I16 => read!(i16, 2, i64::from),
            DType::I8 => read!(i8, 1, i64::from),
            DType::U32 => read!(u32, 4, i64::from),
            DType::U8 => read!(u8, 1, i64::from),
            DType::Bool => read!(u8, 1, |v: u8| i64::from(v != 0)),
        };
        Tensor::from_data(dtype, shape.to_vec(), data)
    }

    /// The elements as they lie in memory, little-endian; floats are rounded to the type.
    pub fn to_bytes(&self) -> Vec<u8> {
        match &self.data {
            Data::Float(v) => {
                let mut bytes = Vec::with_capacity(v.len() * self.dtype.size());
                for &x in v.iter() {
                    match self.dtype {
                        DType::F64 => bytes.extend(x.to_le_bytes()),
                        DType::F16 => bytes.extend(half::f16::from_f64(self.dtype.round(x)).to_le_bytes()),
                        DType::Bf16 => bytes.extend(half::bf16::from_f64(self.dtype.round(x)).to_le_bytes()),
                        _ => bytes.extend((x as f32).to_le_bytes()),
                    }
                }
                bytes
            }
            Data::Int(v) => v.iter().flat_map(|x| x.to_le_bytes().into_iter().take(self.dtype.size())).collect(),
        }
    }

    /// Elements of the right kind, their count checked.
    pub(super) fn from_data(dtype: DType, shape: Vec<usize>, data: Data) -> Result<Self, TensorError> {
        if matches!(data, Data::Float(_)) != dtype.is_float() {
            return Err(TensorError::Kind(dtype));
        }
        if count(&shape)? != data.len() {
            return Err(TensorError::Count { shape, found: data.len() });
        }
        Ok(Tensor { dtype, shape, data })
    }

    /// A tensor of zeros.
    ///
    /// # Errors
    /// When the shape is larger than [`MAX_ELEMENTS`].
    pub fn zeros(dtype: DType, shape: &[usize]) -> Result<Self, TensorError> {
        let n = count(shape)?;
        let data = if dtype.is_float() { vec![0.0; n].into() } else { vec![0i64; n].into() };
        Ok(Tensor { dtype, shape: shape.to_vec(), data })
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Elements, row-major.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// Elements of a floating-point tensor.
    pub fn as_floats(&self) -> Option<&[f64]> {
        match &self.data {
            Data::Float(v) => Some(v),
            Data::Int(_) => None,
        }
    }

    /// Elements of an integer or `bool` tensor.
    pub fn as_ints(&self) -> Option<&[i64]> {
        match &self.data {
            Data::Int(v) => Some(v),
            Data::Float(_) => None,
        }
    }
}

impl TryFrom<&Literal> for Tensor {
    type Error = TensorError;
    fn try_from(value: &Literal) -> Result<Self, TensorError> {
        Tensor::from_bytes(value.dtype(), value.shape(), value.bytes())
    }
}
