//! `*.index.json`: which shard holds which tensor (CKP-04).

use std::path::Path;

use serde::Deserialize;

use super::CheckpointError;
use super::json::Entries;

/// Largest index that is read, in bytes. One entry has about 100 bytes; the largest models have 200,000.
pub const MAX_INDEX_BYTES: u64 = 256 << 20;

#[derive(Deserialize)]
struct Raw {
    weight_map: Entries<String>,
}

/// Reads an index: `(tensor, shard)` in file order. `file` is named in messages only. An index without `metadata`
/// is fine.
pub fn parse_index(text: &str, file: &Path) -> Result<Vec<(String, String)>, CheckpointError> {
    let broken = |reason: String| CheckpointError::Index { file: file.to_path_buf(), reason };
    let raw: Raw = serde_json::from_str(text).map_err(|error| broken(error.to_string()))?;
    if let Some(tensor) = raw.weight_map.repeated() {
        return Err(CheckpointError::tensor(file, tensor, "named twice in the index"));
    }
    if let Some((tensor, shard)) = raw.weight_map.0.iter().find(|(_, shard)| !crate::source::is_inside(shard)) {
        return Err(broken(format!("tensor `{tensor}` is said to be in `{shard}`, outside the model's directory")));
    }
    Ok(raw.weight_map.0)
}
