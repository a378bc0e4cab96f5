//! The head of a GGUF file: magic, version, metadata and the table of tensors, all checked against the size of the
//! file before anything is handed out (LB-15).

use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;

use super::GgufError;
use super::blocks::{self, BlockType};
use super::cursor::Cursor;
use super::metadata::Metadata;

/// Most dimensions of a tensor.
const MAX_DIMS: usize = 4;

/// Where tensors start when `general.alignment` is absent: at multiples of this.
const ALIGNMENT: usize = 32;

/// A tensor of the table.
#[derive(Debug)]
pub(super) struct TensorInfo {
    pub name: String,
    /// Slowest dimension first, as everywhere but in the file; none for a scalar.
    pub shape: Vec<usize>,
    pub block: &'static BlockType,
    /// Its bytes, from the start of the file.
    pub range: Range<usize>,
}

/// A checked head.
#[derive(Debug)]
pub(super) struct Header {
    pub metadata: Metadata,
    pub tensors: Vec<TensorInfo>,
}

/// Reads and checks the head of a whole file. `file` is named in messages only.
pub(super) fn parse(bytes: &[u8], file: &Path) -> Result<Header, GgufError> {
    let broken = |reason: String| GgufError::file(file, reason);
    let mut cursor = Cursor::new(bytes, 0);
    match cursor.take(4).map_err(broken)? {
        b"GGUF" => {}
        found => return Err(broken(format!("no GGUF file: expected the magic \"GGUF\", found {found:?}"))),
    }
    match cursor.u32().map_err(broken)? {
        2 | 3 => {}
        version if matches!(version.swap_bytes(), 1..=3) => {
            return Err(broken("a big-endian GGUF file; only little-endian ones are read".into()));
        }
        version => return Err(broken(format!("GGUF version {version}; expected 2 or 3"))),
    }
    // A tensor takes a name's length, a number of dimensions, a type and an offset; an entry a key's length, a type and
    // a byte.
    let tensor_count = cursor.count("tensors", 8 + 4 + 4 + 8).map_err(broken)?;
    let entry_count = cursor.count("metadata entries", 8 + 4 + 1).map_err(broken)?;
    let metadata = Metadata::read(&mut cursor, entry_count, file)?;

    const KEY: &str = "general.alignment";
    let alignment = metadata.size(KEY)?.unwrap_or(ALIGNMENT);
    if !alignment.is_power_of_two() {
        return Err(GgufError::key(file, KEY, format!("expected a power of two, found {alignment}")));
    }
    let mut names = HashSet::new();
    let mut rows = Vec::new();
    for index in 0..tensor_count {
        let name = cursor.string().map_err(|reason| broken(format!("name of tensor {index}: {reason}")))?;
        if !names.insert(name) {
            return Err(GgufError::tensor(file, name, "named twice"));
        }
        rows.push((name, row(&mut cursor).map_err(|reason| GgufError::tensor(file, name, reason))?));
    }

    let start = cursor.at().next_multiple_of(alignment);
    let mut tensors = Vec::new();
    for (name, (shape, block, offset)) in rows {
        let place = || -> Result<Range<usize>, String> {
            let length = block.bytes_of(&shape)?;
            if offset % alignment as u64 != 0 {
                return Err(format!("offset {offset} is no multiple of the alignment {alignment}"));
            }
            let begin = usize::try_from(offset).ok().and_then(|offset| start.checked_add(offset));
            let range = begin.and_then(|begin| Some(begin..begin.checked_add(length)?));
            range.filter(|range| range.end <= bytes.len()).ok_or_else(|| {
                let (name, size) = (block.name, bytes.len());
                format!("truncated: {length} bytes of {name} {shape:?} at offset {offset} of the data, which starts at byte {start}, are past the end of the file at byte {size}")
            })
        };
        let range = place().map_err(|reason| GgufError::tensor(file, name, reason))?;
        tensors.push(TensorInfo { name: name.to_string(), shape, block, range });
    }
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_by_key(|tensor| tensor.range.start);
    if let Some([first, second]) = order.windows(2).find(|pair| pair[0].range.end > pair[1].range.start) {
        let reason = format!("overlaps `{}`, which ends at byte {}", first.name, first.range.end);
        return Err(GgufError::tensor(file, &second.name, reason));
    }
    Ok(Header { metadata, tensors })
}

/// What follows a tensor's name: dimensions, type, offset.
fn row(cursor: &mut Cursor<'_>) -> Result<(Vec<usize>, &'static BlockType, u64), String> {
    let dims = cursor.u32()? as usize;
    if dims > MAX_DIMS {
        return Err(format!("{dims} dimensions, expected {MAX_DIMS} at most"));
    }
    let mut shape = Vec::with_capacity(dims);
    for _ in 0..dims {
        let dim = cursor.u64()?;
        let fits = usize::try_from(dim).ok().filter(|&dim| dim > 0);
        shape.push(fits.ok_or_else(|| format!("a dimension of {dim}"))?);
    }
    shape.reverse();
    let id = cursor.u32()?;
    let block = blocks::find(id).ok_or_else(|| format!("unknown block type {id}"))?;
    Ok((shape, block, cursor.u64()?))
}
