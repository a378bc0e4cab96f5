//! The sections of constants and of weights: what lies where. Equal constants lie once.

use std::collections::BTreeMap;

use lith_ir::plan::{Layout, Plan};
use lith_ir::quant::Storage;
use lith_ir::{DType, Literal, Program};
use lith_runtime::kernels::packed_len;
use lith_runtime::manifest::ParamEntry;
use lith_runtime::weights::WeightError;

use crate::CodegenError;

/// Every weight and every constant larger than a vector starts at a multiple of this: a cache line.
const ALIGNMENT: usize = 64;
/// Other constants start at a multiple of this.
const VECTOR: usize = 16;

/// The section of constants.
#[derive(Debug, Default)]
pub struct Constants {
    bytes: Vec<u8>,
    known: BTreeMap<(DType, Vec<u8>), usize>,
}

impl Constants {
    /// Where a constant lies; added on first use.
    pub fn place(&mut self, value: &Literal) -> usize {
        let key = (value.dtype(), value.bytes().to_vec());
        if let Some(&at) = self.known.get(&key) {
            return at;
        }
        let alignment = if value.bytes().len() > VECTOR { ALIGNMENT } else { VECTOR };
        self.bytes.resize(self.bytes.len().next_multiple_of(alignment), 0);
        let at = self.bytes.len();
        self.bytes.extend_from_slice(value.bytes());
        self.known.insert(key, at);
        at
    }

    /// The section.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// The weight section's table of contents.
#[derive(Debug, Default)]
pub struct Weights {
    /// The parameters as they are stored.
    pub entries: Vec<ParamEntry>,
    index: BTreeMap<(String, Layout), usize>,
}

impl Weights {
    /// Lays out every parameter in every layout that the plan wants. `stored` tells for each parameter and layout
    /// how `f32` is stored.
    ///
    /// # Errors
    /// When the size of a parameter is not known or does not fit this machine, or it is to be codes where something reads
    /// rows.
    pub fn new(
        program: &Program,
        plan: &Plan,
        stored: impl Fn(&str, Layout) -> Storage,
    ) -> Result<Weights, CodegenError> {
        let mut weights = Weights::default();
        let mut end = 0u64;
        for (name, layouts) in &plan.layouts {
            let wrong = |problem: String| CodegenError::from(WeightError { name: name.clone(), problem });
            let ty = program.param_type(name).ok_or_else(|| wrong("is not one of the program".into()))?;
            let shape = ty.static_shape().ok_or_else(|| wrong(format!("{ty} has no fixed size")))?;
            for &layout in layouts {
                let storage = if ty.dtype == DType::F32 { stored(name, layout) } else { Storage::Float(ty.dtype) };
                let (dtype, scheme) = match storage {
                    Storage::Float(dtype) => (dtype, None),
                    Storage::Quantized(scheme) => (ty.dtype, Some(scheme)),
                };
                let bytes = match (layout, &shape[..]) {
                    (Layout::Panels, &[n, k]) => packed_len(n, k, &storage).map_err(|e| wrong(e.to_string()))?,
                    (Layout::Panels, _) => return Err(wrong(format!("{ty} in panels"))),
                    (Layout::Rows, _) if scheme.is_some() => {
                        return Err(wrong(
                            "is quantized, and needed row by row: only weights of linear layers and tables \
                                          of embeddings can be"
                                .into(),
                        ));
                    }
                    (Layout::Rows, shape) => shape
                        .iter()
                        .try_fold(dtype.size(), |a, &d| a.checked_mul(d))
                        .ok_or_else(|| wrong(format!("{ty} is too large")))?,
                };
                let offset = end.next_multiple_of(ALIGNMENT as u64);
                end = offset.checked_add(bytes as u64).ok_or_else(|| wrong("the weights are too large".into()))?;
                weights.index.insert((name.clone(), layout), weights.entries.len());
                weights.entries.push(ParamEntry {
                    name: name.clone(),
                    dtype,
                    scheme,
                    shape: shape.clone(),
                    panels: layout == Layout::Panels,
                    offset,
                    bytes: bytes as u64,
                });
            }
        }
        Ok(weights)
    }

    /// A parameter in a layout.
    pub fn get(&self, name: &str, layout: Layout) -> Option<&ParamEntry> {
        self.index.get(&(name.to_string(), layout)).map(|&i| &self.entries[i])
    }
}
