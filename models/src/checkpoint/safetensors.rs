//! The safetensors container (CKP-23): eight bytes of header length, a JSON header, and the tensors back to back.
//!
//! The header is checked whole before anything is handed out: lengths against the file, every size against its
//! shape and type, offsets that tile the data without gap or overlap, and no name twice. (The `safetensors` crate
//! checks most of that, but its errors do not name the tensor and it lets repeated names pass; the tests compare the two.)

use std::ops::Range;
use std::path::Path;

use serde_json::Value;

use super::json::Entries;
use super::{CheckpointError, Element};

/// Largest header that is read, in bytes, as in the reference implementation.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

/// One tensor of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub element: Element,
    /// Its dimensions; none for a scalar.
    pub shape: Vec<usize>,
    /// Where its bytes are, from the start of the file.
    pub range: Range<usize>,
}

/// A checked header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Tensors by ascending offset.
    pub tensors: Vec<TensorInfo>,
    /// `__metadata__`.
    pub metadata: Vec<(String, String)>,
}

/// Reads and checks the header of a whole file. `file` is named in messages only.
pub fn parse_header(bytes: &[u8], file: &Path) -> Result<Header, CheckpointError> {
    let length = match bytes.first_chunk::<8>() {
        Some(length) => u64::from_le_bytes(*length),
        None => {
            return Err(CheckpointError::file(
                file,
                "truncated: shorter than the 8 bytes of a safetensors header length",
            ));
        }
    };
    if length > MAX_HEADER_BYTES {
        return Err(CheckpointError::file(
            file,
            format!("header length {length} is over {MAX_HEADER_BYTES}: no safetensors file"),
        ));
    }
    let rest = &bytes[8..];
    let Some((json, data)) = rest.split_at_checked(length as usize) else {
        let reason = format!("header length {length} is past the end of the file, which has {} more bytes", rest.len());
        return Err(CheckpointError::file(file, reason));
    };
    let broken = |reason: String| CheckpointError::file(file, format!("broken safetensors header: {reason}"));
    let entries: Entries<Value> = serde_json::from_slice(json).map_err(|error| broken(error.to_string()))?;
    if let Some(name) = entries.repeated() {
        return Err(CheckpointError::tensor(file, name, "named twice in the header"));
    }

    let mut header = Header::default();
    for (name, value) in entries.0 {
        if name == "__metadata__" {
            let map = value.as_object().ok_or_else(|| broken("`__metadata__` is no object".into()))?;
            for (key, value) in map {
                let text = value.as_str().ok_or_else(|| broken(format!("`__metadata__.{key}` is no string")))?;
                header.metadata.push((key.clone(), text.to_string()));
            }
        } else {
            let info = tensor_info(&name, &value, data.len());
            header.tensors.push(info.map_err(|reason| CheckpointError::tensor(file, &name, reason))?);
        }
    }

    // Empty tensors share their offset with the next one, so they sort before it.
    header.tensors.sort_by_key(|tensor| (tensor.range.start, tensor.range.end));
    let mut end = 0;
    for tensor in &header.tensors {
        if tensor.range.start != end {
            let what =
                if tensor.range.start < end { "overlaps the tensor before it" } else { "leaves a gap before it" };
            let reason = format!("{what}: starts at {}, the one before ends at {end}", tensor.range.start);
            return Err(CheckpointError::tensor(file, &tensor.name, reason));
        }
        end = tensor.range.end;
    }
    if end != data.len() {
        return Err(CheckpointError::file(file, format!("{} bytes after the last tensor", data.len() - end)));
    }
    let start = bytes.len() - data.len();
    for tensor in &mut header.tensors {
        tensor.range = tensor.range.start + start..tensor.range.end + start;
    }
    Ok(header)
}

/// One entry of the header, its range still from the start of the data.
fn tensor_info(name: &str, value: &Value, data_len: usize) -> Result<TensorInfo, String> {
    let dtype = value.get("dtype").and_then(Value::as_str).ok_or("no `dtype`")?;
    let element = Element::from_safetensors(dtype).ok_or_else(|| format!("unknown dtype `{dtype}`"))?;
    let sizes = |key: &str| -> Result<Vec<usize>, String> {
        let items = value.get(key).and_then(Value::as_array).ok_or_else(|| format!("no `{key}`"))?;
        let size = |item: &Value| item.as_u64().and_then(|size| usize::try_from(size).ok());
        items.iter().map(|item| size(item).ok_or_else(|| format!("`{key}` holds {item}"))).collect()
    };
    let shape = sizes("shape")?;
    let &[start, end] = sizes("data_offsets")?.as_slice() else { return Err("`data_offsets` is no pair".into()) };
    let length = element.bytes_of(&shape).ok_or_else(|| format!("shape {shape:?} of {element} is too large"))?;
    if end.checked_sub(start) != Some(length) {
        return Err(format!("offsets {start} to {end} do not hold the {length} bytes of {element} {shape:?}"));
    }
    if end > data_len {
        return Err(format!("truncated file: the tensor ends at byte {end} of {data_len}"));
    }
    Ok(TensorInfo { name: name.to_string(), element, shape, range: start..end })
}
