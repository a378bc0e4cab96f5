//! How an artifact's weights are stored: bytes by kind of storage, and what quantization did to each layer.

use std::collections::BTreeMap;
use std::fmt::Write;

use lith_passes::quantize::{LayerError, describe};
use lith_runtime::artifact::Artifact;
use lith_runtime::tokenizer::Assets;
use serde::Serialize;

use crate::compile::QUANTIZATION_REPORT;
use crate::error::{Error, Result};

/// Weights of one kind of storage.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Stored {
    /// Number of tensors.
    pub tensors: usize,
    /// Their bytes as they are stored, scales included.
    pub bytes: u64,
}

/// The weights of an artifact.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StoredWeights {
    /// By dtype or scheme.
    pub kinds: BTreeMap<String, Stored>,
    /// The error of each weight that Lith quantized.
    pub quantization: Vec<LayerError>,
}

impl StoredWeights {
    /// Of an artifact.
    ///
    /// # Errors
    /// When the report in it is damaged.
    pub fn of(artifact: &Artifact) -> Result<StoredWeights> {
        let mut kinds: BTreeMap<String, Stored> = BTreeMap::new();
        for param in &artifact.manifest().params {
            let kind = param.scheme.as_ref().map_or_else(|| param.dtype.to_string(), describe);
            let stored = kinds.entry(kind).or_default();
            stored.tensors += 1;
            stored.bytes += param.bytes;
        }
        let report = artifact.read(QUANTIZATION_REPORT).map_err(|e| Error::io(artifact.path(), e))?;
        let quantization = match report {
            Some(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| Error::input(format!("{}: {QUANTIZATION_REPORT}: {e}", artifact.path().display())))?,
            None => Vec::new(),
        };
        Ok(StoredWeights { kinds, quantization })
    }

    /// A line for each kind and for the greatest error.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for (kind, stored) in &self.kinds {
            let _ = writeln!(
                out,
                "stored      {} in {} tensors as {kind}",
                super::bytes(stored.bytes as i64),
                stored.tensors
            );
        }
        let worst = |a: &&LayerError, b: &&LayerError| a.error.relative_rms.total_cmp(&b.error.relative_rms);
        if let Some(worst) = self.quantization.iter().max_by(worst) {
            let _ = writeln!(
                out,
                "quantized   {} weights; greatest relative RMS error {:.4} of `{}` (inspect --weights lists all)",
                self.quantization.len(),
                worst.error.relative_rms,
                worst.name
            );
        }
        out
    }

    /// A line for each quantized weight.
    pub fn table(&self) -> String {
        let mut out = format!("{:<12} {:>6}  {:>9}  {:>12}  weight\n", "storage", "bits", "cosine", "relative RMS");
        for layer in &self.quantization {
            let _ = writeln!(
                out,
                "{:<12} {:>6.3}  {:>9.6}  {:>12.6}  {}",
                layer.storage, layer.bits_per_weight, layer.error.cosine, layer.error.relative_rms, layer.name
            );
        }
        out
    }
}
