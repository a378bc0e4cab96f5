//! A batch: named arrays for the arguments of a compiled program. Must not know where they come from.

use bytemuck::cast_slice;
use lith_ir::DType;

use super::error::CollateError;
use crate::tensor::Tensor;

/// Named arrays, in order.
///
/// Padding-free: `input_ids`, `token_type_ids` and labels of tokens are `i32[tokens]`, the samples one after the other;
/// `offsets i32[sequences + 1]` says where each begins and ends. `labels` of whole samples are `i32[sequences]`,
/// `f32[sequences]` or `f32[sequences, labels]`. Padded: `[sequences, length]`, with an `attention_mask`. Whole numbers are 32
/// bits wide, as programs take them, where Transformers has 64.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    tensors: Vec<(String, Tensor)>,
}

impl Batch {
    /// The array of a name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|(n, _)| n == name).map(|(_, t)| t)
    }

    /// The arrays with their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Sets an array.
    pub fn set(&mut self, name: impl Into<String>, tensor: Tensor) {
        let name = name.into();
        match self.tensors.iter_mut().find(|(n, _)| *n == name) {
            Some((_, old)) => *old = tensor,
            None => self.tensors.push((name, tensor)),
        }
    }

    /// Takes an array out.
    pub fn remove(&mut self, name: &str) -> Option<Tensor> {
        let at = self.tensors.iter().position(|(n, _)| n == name)?;
        Some(self.tensors.remove(at).1)
    }

    /// Sets an array of whole numbers.
    pub(super) fn set_i32(&mut self, name: &str, shape: Vec<usize>, values: &[i32]) -> Result<(), CollateError> {
        self.set_bytes(name, DType::I32, shape, cast_slice(values))
    }

    /// Sets an array of floats.
    pub(super) fn set_f32(&mut self, name: &str, shape: Vec<usize>, values: &[f32]) -> Result<(), CollateError> {
        self.set_bytes(name, DType::F32, shape, cast_slice(values))
    }

    fn set_bytes(&mut self, name: &str, dtype: DType, shape: Vec<usize>, bytes: &[u8]) -> Result<(), CollateError> {
        let count = bytes.len() / dtype.size();
        let expected = format!("{shape:?} values");
        let tensor = Tensor::from_bytes(dtype, shape, bytes).ok_or_else(|| CollateError::Shape {
            sample: 0,
            name: name.into(),
            expected,
            found: format!("{count} values"),
        })?;
        self.set(name, tensor);
        Ok(())
    }

    /// The values of an array of whole numbers; empty for any other.
    pub fn i32s(&self, name: &str) -> &[i32] {
        let ints = self.get(name).filter(|t| t.dtype() == DType::I32);
        ints.and_then(Tensor::elements::<i32>).unwrap_or_default()
    }

    /// The values of an array of floats; empty for any other.
    pub fn f32s(&self, name: &str) -> &[f32] {
        self.get(name).map_or(&[], Tensor::f32s)
    }
}
