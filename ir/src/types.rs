//! Tensor types and constant tensors.

use std::fmt;
use std::sync::Arc;

use crate::dim::Dim;
use crate::dtype::DType;

/// The type of a value: element type and shape. Values are dense and row-major.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Type {
    /// Element type.
    pub dtype: DType,
    /// Sizes, outermost first; empty for a scalar.
    pub shape: Vec<Dim>,
}

impl Type {
    /// A type of this element type and shape.
    pub fn new(dtype: DType, shape: impl IntoIterator<Item = impl Into<Dim>>) -> Self {
        Type { dtype, shape: shape.into_iter().map(Into::into).collect() }
    }

    /// A scalar type.
    pub fn scalar(dtype: DType) -> Self {
        Type { dtype, shape: Vec::new() }
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements.
    pub fn elements(&self) -> Dim {
        self.shape.iter().cloned().fold(Dim::constant(1), |a, d| a * d)
    }

    /// Size in bytes.
    pub fn bytes(&self) -> Dim {
        self.elements() * Dim::from(self.dtype.size())
    }

    /// The shape, when no symbol occurs in it and no size is negative.
    pub fn static_shape(&self) -> Option<Vec<usize>> {
        self.shape.iter().map(|d| d.as_const().and_then(|v| usize::try_from(v).ok())).collect()
    }

    /// The same shape with another element type.
    pub fn with_dtype(&self, dtype: DType) -> Self {
        Type { dtype, shape: self.shape.clone() }
    }
}

/// `f32[tokens, 384]`; a scalar is `f32[]`.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (i, d) in self.shape.iter().enumerate() {
            write!(f, "{}{d}", if i == 0 { "" } else { ", " })?;
        }
        f.write_str("]")
    }
}

/// A constant tensor: element type, shape and little-endian bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Literal {
    dtype: DType,
    shape: Vec<usize>,
    bytes: Arc<[u8]>,
}

impl Literal {
    /// A constant from its bytes; `None` when their count is not that of the shape.
    pub fn new(dtype: DType, shape: Vec<usize>, bytes: impl Into<Arc<[u8]>>) -> Option<Self> {
        let bytes = bytes.into();
        let count = shape.iter().try_fold(dtype.size(), |a, &d| a.checked_mul(d))?;
        (count == bytes.len()).then_some(Literal { dtype, shape, bytes })
    }

    /// A scalar of a floating-point type, rounded to it once.
    ///
    /// # Panics
    /// When `dtype` is no floating-point type.
    pub fn float(dtype: DType, value: f64) -> Self {
        let bytes: Vec<u8> = match dtype {
            DType::F64 => value.to_le_bytes().into(),
            DType::F32 => (value as f32).to_le_bytes().into(),
            DType::F16 => half::f16::from_f64(dtype.round(value)).to_le_bytes().into(),
            DType::Bf16 => half::bf16::from_f64(dtype.round(value)).to_le_bytes().into(),
            _ => panic!("Literal::float of {dtype}"),
        };
        Literal { dtype, shape: Vec::new(), bytes: bytes.into() }
    }

    /// A scalar of an integer type or `bool`, wrapped to its width.
    ///
    /// # Panics
    /// When `dtype` is a floating-point type.
    pub fn int(dtype: DType, value: i64) -> Self {
        assert!(!dtype.is_float(), "Literal::int of {dtype}");
        Literal { dtype, shape: Vec::new(), bytes: value.to_le_bytes()[..dtype.size()].into() }
    }

    /// A scalar of any type: `value` rounded (floats) or truncated (integers) to it.
    pub fn scalar(dtype: DType, value: f64) -> Self {
        if dtype.is_float() { Literal::float(dtype, value) } else { Literal::int(dtype, value as i64) }
    }

    /// A vector of `i32`.
    pub fn i32s(values: &[i32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Literal { dtype: DType::I32, shape: vec![values.len()], bytes: bytes.into() }
    }

    /// A tensor of `f32`; `None` when the count is not that of the shape.
    pub fn f32s(shape: Vec<usize>, values: &[f32]) -> Option<Self> {
        Literal::new(DType::F32, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Little-endian bytes, row-major.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The type.
    pub fn ty(&self) -> Type {
        Type::new(self.dtype, self.shape.iter().copied())
    }
}
