//! `pytorch_model.bin`: a zip file with one pickle and one entry per storage (CKP-17).

use std::ops::Range;
use std::path::Path;

use super::pickle::{self, PickleError, PickledTensor};
use super::{CheckpointError, Entry, Layout, zip};

/// Reads the tensors of a PyTorch file. Nothing of it is executed and no storage is touched.
pub(super) fn read(bytes: &[u8], path: &Path, file: usize) -> Result<Vec<(String, Entry)>, CheckpointError> {
    if !zip::is_zip(bytes) {
        let reason = "no zip file: either broken, or written by PyTorch before 1.6; load and save it with a newer one";
        return Err(CheckpointError::file(path, reason));
    }
    let entries = zip::entries(bytes).map_err(|reason| CheckpointError::file(path, reason))?;
    // All entries are under one directory with the name the file had when it was saved.
    let mut pickles =
        entries.iter().filter(|(name, _)| name.split_once('/').is_some_and(|(_, rest)| rest == "data.pkl"));
    let (Some((name, range)), None) = (pickles.next(), pickles.next()) else {
        return Err(CheckpointError::file(path, "no PyTorch file: the zip does not hold one data.pkl"));
    };
    let root = name.trim_end_matches("data.pkl");
    if let Some(order) = entries.get(&format!("{root}byteorder")) {
        if bytes.get(order.clone()) != Some(b"little".as_slice()) {
            return Err(CheckpointError::file(path, "written on a big-endian machine, which Lith does not read"));
        }
    }
    let tensors = pickle::parse(bytes.get(range.clone()).unwrap_or_default()).map_err(|error| match error {
        PickleError::Forbidden(callable) => CheckpointError::ForbiddenCallable { file: path.to_path_buf(), callable },
        other => CheckpointError::file(path, format!("{name}: {other}")),
    })?;
    let entry = |tensor: PickledTensor| {
        let storage = entries.get(&format!("{root}data/{}", tensor.storage)).cloned();
        match layout(&tensor, storage, bytes.len()) {
            Ok(layout) => Ok((tensor.name, Entry { file, element: tensor.element, shape: tensor.shape, layout })),
            Err(reason) => Err(CheckpointError::tensor(path, &tensor.name, reason)),
        }
    };
    tensors.into_iter().map(entry).collect()
}

/// Checks a view against its storage, so that reading it later cannot leave the storage or take more memory than the
/// file has.
fn layout(tensor: &PickledTensor, storage: Option<Range<usize>>, file_len: usize) -> Result<Layout, String> {
    let PickledTensor { element, offset, shape, strides, .. } = tensor;
    let storage = storage.ok_or_else(|| format!("its storage `{}` is missing", tensor.storage))?;
    let size = element.bits() / 8;
    let available = storage.len() / size;
    if available < tensor.storage_len {
        let (storage, len) = (&tensor.storage, tensor.storage_len);
        return Err(format!("truncated: its storage `{storage}` has {available} of {len} elements"));
    }
    let too_large = || format!("shape {shape:?} with strides {strides:?} is too large for the file");
    let length = element.bytes_of(shape).filter(|length| *length <= file_len).ok_or_else(too_large)?;

    // One past the last element a row-major walk reaches.
    let last = shape
        .iter()
        .zip(strides)
        .try_fold(*offset, |at, (&dim, &stride)| at.checked_add(dim.saturating_sub(1).checked_mul(stride)?));
    let end = if length == 0 { *offset } else { last.and_then(|last| last.checked_add(1)).ok_or_else(too_large)? };
    if end > available {
        return Err(format!("its view ends at element {end} of a storage of {available}"));
    }
    if length == 0 || is_row_major(shape, strides) {
        let start = storage.start + offset * size;
        return Ok(Layout::Contiguous(start..start + length));
    }
    Ok(Layout::Strided { storage, offset: *offset, strides: strides.clone() })
}

/// Whether a view of at least one element is laid out row by row without gaps.
fn is_row_major(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    shape.iter().zip(strides).rev().all(|(&dim, &stride)| {
        let fits = dim == 1 || stride == expected;
        expected *= dim;
        fits
    })
}
