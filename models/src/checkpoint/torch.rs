//! `pytorch_model.bin` (CKP-17): a zip file with one pickle and one entry per storage, or, from PyTorch before 1.6,
//! a row of pickles followed by the storages.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use super::pickle::{self, PickleError, PickledTensor};
use super::{CheckpointError, Element, Entry, Layout, zip};

/// What a file of before PyTorch 1.6 starts with: the pickles of a magic number and of version 1001.
const LEGACY: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.";

/// Reads the tensors of a PyTorch file. Nothing of it is executed and no storage is touched.
pub(super) fn read(bytes: &[u8], path: &Path, file: usize) -> Result<Vec<(String, Entry)>, CheckpointError> {
    let (tensors, storages) = if zip::is_zip(bytes) {
        read_zip(bytes, path)?
    } else if bytes.starts_with(LEGACY) {
        read_legacy(bytes, path)?
    } else {
        return Err(CheckpointError::file(path, "no PyTorch file: neither a zip file nor the format of before 1.6"));
    };
    let entry = |tensor: PickledTensor| match layout(&tensor, storages.get(&tensor.storage).cloned(), bytes.len()) {
        Ok(layout) => Ok((tensor.name, Entry { file, element: tensor.element, shape: tensor.shape, layout })),
        Err(reason) => Err(CheckpointError::tensor(path, &tensor.name, reason)),
    };
    tensors.into_iter().map(entry).collect()
}

/// Tensors, and where each storage is by its key.
type Contents = (Vec<PickledTensor>, HashMap<String, Range<usize>>);

const BIG_ENDIAN: &str = "written on a big-endian machine, which Lith does not read";

fn refuse(path: &Path, part: &str) -> impl Fn(PickleError) -> CheckpointError {
    move |error| match error {
        PickleError::Forbidden(callable) => CheckpointError::ForbiddenCallable { file: path.to_path_buf(), callable },
        other => CheckpointError::file(path, format!("{part}: {other}")),
    }
}

fn read_zip(bytes: &[u8], path: &Path) -> Result<Contents, CheckpointError> {
    let entries = zip::entries(bytes).map_err(|reason| CheckpointError::file(path, reason))?;
    // All entries are under one directory with the name the file had when it was saved.
    let mut pickles =
        entries.iter().filter(|(name, _)| name.split_once('/').is_some_and(|(_, rest)| rest == "data.pkl"));
    let (Some((name, range)), None) = (pickles.next(), pickles.next()) else {
        return Err(CheckpointError::file(path, "no PyTorch file: the zip does not hold one data.pkl"));
    };
    let root = name.strip_suffix("data.pkl").unwrap_or_default();
    let order = entries.get(&format!("{root}byteorder")).and_then(|range| bytes.get(range.clone()));
    if order.is_some_and(|order| order != b"little") {
        return Err(CheckpointError::file(path, BIG_ENDIAN));
    }
    let tensors = pickle::parse(bytes.get(range.clone()).unwrap_or_default()).map_err(refuse(path, name))?;
    let folder = format!("{root}data/");
    let storage =
        |(name, range): (&String, &Range<usize>)| Some((name.strip_prefix(&folder)?.to_string(), range.clone()));
    Ok((tensors, entries.iter().filter_map(storage).collect()))
}

/// The pickles of the system's traits, of the tensors, and of the storages' keys; then each storage, its number of
/// elements before it.
fn read_legacy(bytes: &[u8], path: &Path) -> Result<Contents, CheckpointError> {
    let rest = |at: usize| bytes.get(at..).unwrap_or_default();
    let mut at = LEGACY.len();
    let (little_endian, len) = pickle::parse_flag(rest(at), "little_endian").map_err(refuse(path, "system"))?;
    at += len;
    if little_endian != Some(true) {
        return Err(CheckpointError::file(path, BIG_ENDIAN));
    }
    let (tensors, len) = pickle::parse_first(rest(at)).map_err(refuse(path, "tensors"))?;
    at += len;
    let (keys, len) = pickle::parse_list(rest(at)).map_err(refuse(path, "keys"))?;
    at += len;
    let elements: HashMap<&str, Element> =
        tensors.iter().map(|tensor| (tensor.storage.as_str(), tensor.element)).collect();
    let mut storages = HashMap::new();
    for key in keys {
        let broken = |reason: &str| CheckpointError::file(path, format!("storage `{key}`: {reason}"));
        let element = elements.get(&*key).ok_or_else(|| broken("no tensor uses it"))?;
        let count =
            rest(at).first_chunk().map(|count| u64::from_le_bytes(*count)).ok_or_else(|| broken("truncated"))?;
        let start = at + 8;
        let len = usize::try_from(count).ok().and_then(|count| count.checked_mul(element.bits() / 8));
        let end = len.and_then(|len| start.checked_add(len)).filter(|end| *end <= bytes.len());
        at = end.ok_or_else(|| broken("truncated"))?;
        storages.insert(key.to_string(), start..at);
    }
    Ok((tensors, storages))
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
