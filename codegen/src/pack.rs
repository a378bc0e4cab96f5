//! Packing by the layout of panels.

use lith_ir::DType;
use lith_ir::quant::{QuantMatrix, Storage};
use lith_runtime::kernels::{PanelError, Storage as Panels, pack_panels, panels_len};

pub fn panels(dtype: DType) -> Panels {
    match dtype {
        DType::Bf16 => Panels::Bf16,
        DType::F16 => Panels::F16,
        _ => Panels::F32,
    }
}

pub fn packed_len(n: usize, k: usize, storage: &Storage) -> Result<usize, PanelError> {
    match storage {
        Storage::Float(dtype) => panels_len(n, k, panels(*dtype)),
        Storage::Quantized(_) => Err(PanelError::TooLarge { n, k }),
    }
}

pub fn pack_floats(rows: &[u8], dtype: DType, n: usize, k: usize) -> Result<Vec<u8>, PanelError> {
    let mut out = vec![0; panels_len(n, k, panels(dtype))?];
    pack_panels(rows, panels(dtype), n, k, &mut out)?;
    Ok(out)
}

pub fn pack_quantized(matrix: &QuantMatrix) -> Result<Vec<u8>, PanelError> {
    Err(PanelError::TooLarge { n: matrix.rows, k: matrix.cols })
}
