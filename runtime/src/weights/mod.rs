//! From the values of parameters to the bytes of an artifact's weights: converted, packed in panels, derived parameters
//! computed. Compilation writes weights so, and training writes them anew. Knows entries of the manifest and the graphs of
//! derived parameters; no files, no models.

mod derived;
mod matrices;
mod repack;

use std::borrow::Cow;

use half::{bf16, f16};
use lith_ir::DType;
use lith_ir::quant::QuantMatrix;

use crate::kernels::{PackError, pack_floats, pack_quantized};
use crate::manifest::ParamEntry;

pub use derived::Derived;
pub use repack::Repacking;

/// A weight that is not what the program says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("parameter `{name}`: {problem}")]
pub struct WeightError {
    /// The parameter.
    pub name: String,
    /// Expected and found.
    pub problem: String,
}

/// A parameter's values as the caller has them, in the shape the program says.
#[derive(Clone, Debug)]
pub enum WeightData<'a> {
    /// Plain elements.
    Elements {
        /// Element type; any floating-point type where the program says one.
        dtype: DType,
        /// The elements, row-major, little-endian.
        bytes: Cow<'a, [u8]>,
    },
    /// Codes, of the scheme the parameter is to be stored by.
    Quantized(QuantMatrix),
}

/// The bytes of a parameter as it is stored.
///
/// # Errors
/// When the values are not those of the entry's shape, or codes where floats are stored or the other way round.
pub fn stored<'a>(entry: &ParamEntry, data: &'a WeightData<'_>) -> Result<Cow<'a, [u8]>, WeightError> {
    let wrong = |problem: String| WeightError { name: entry.name.clone(), problem };
    let packed = |pack: &dyn Fn(&mut [u8]) -> Result<(), PackError>| {
        // The plan has found that it fits this machine.
        let mut panels = vec![0; entry.bytes as usize];
        pack(&mut panels).map_err(|e| wrong(e.to_string()))?;
        Ok(Cow::Owned(panels))
    };
    let (dtype, bytes) = match (data, &entry.scheme) {
        (WeightData::Elements { dtype, bytes }, None) => (*dtype, bytes),
        (WeightData::Quantized(matrix), Some(scheme)) => {
            if (matrix.scheme, &[matrix.rows, matrix.cols][..]) != (*scheme, &entry.shape) {
                let (rows, cols, found) = (matrix.rows, matrix.cols, matrix.scheme);
                return Err(wrong(format!("{rows} by {cols} codes of {found:?} for {:?} of {scheme:?}", entry.shape)));
            }
            return packed(&|panels| pack_quantized(matrix, panels));
        }
        (WeightData::Elements { .. }, Some(_)) => return Err(wrong("plain elements where codes are stored".into())),
        (WeightData::Quantized(_), None) => return Err(wrong(format!("codes where {} is stored", entry.dtype))),
    };
    let elements = entry.shape.iter().product::<usize>();
    if elements.checked_mul(dtype.size()) != Some(bytes.len()) {
        return Err(wrong(format!("{} bytes of {dtype} for shape {:?}", bytes.len(), entry.shape)));
    }
    let rows = convert(dtype, bytes, entry.dtype).ok_or_else(|| wrong(format!("{dtype} for {}", entry.dtype)))?;
    match entry.shape[..] {
        _ if !entry.panels => Ok(rows),
        [n, k] => packed(&|panels| pack_floats(&rows, entry.dtype, n, k, panels)),
        _ => Err(wrong(format!("panels of shape {:?}", entry.shape))),
    }
}

/// Values in another floating-point type, rounded once; `None` for other types.
pub(crate) fn convert(from: DType, bytes: &[u8], to: DType) -> Option<Cow<'_, [u8]>> {
    if from == to {
        return Some(Cow::Borrowed(bytes));
    }
    fn each<const N: usize>(bytes: &[u8], to: DType, value: impl Fn([u8; N]) -> f64) -> Option<Vec<u8>> {
        let values = bytes.as_chunks::<N>().0.iter().map(|b| value(*b));
        Some(match to {
            DType::F64 => values.flat_map(f64::to_le_bytes).collect(),
            DType::F32 => values.flat_map(|v| (v as f32).to_le_bytes()).collect(),
            DType::F16 => values.flat_map(|v| f16::from_f64(v).to_le_bytes()).collect(),
            DType::Bf16 => values.flat_map(|v| bf16::from_f64(v).to_le_bytes()).collect(),
            _ => return None,
        })
    }
    let converted = match from {
        DType::F64 => each(bytes, to, f64::from_le_bytes),
        DType::F32 => each(bytes, to, |b| f32::from_le_bytes(b).into()),
        DType::F16 => each(bytes, to, |b| f16::from_le_bytes(b).to_f64()),
        DType::Bf16 => each(bytes, to, |b| bf16::from_le_bytes(b).to_f64()),
        _ => None,
    };
    converted.map(Cow::Owned)
}
