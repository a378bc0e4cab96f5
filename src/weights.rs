//! Where the values of a model's parameters come from: the checkpoints of its parts, or a GGUF file. Nothing is read
//! before it is asked for. Knows no architecture.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;

use lith_codegen::WeightData;
use lith_ir::DType;
use lith_ir::quant::Storage;
use lith_models::adapters::{MAGNITUDE, Placed};
use lith_models::gguf::{Gguf, GgufTensor, TensorData};
use lith_models::weights::{Fresh, Init, Loaded, Piece, Rows, Wanted, collapse};

use crate::error::{Error, Result};

/// The values of a model's parameters.
pub enum Weights {
    /// Of checkpoints.
    Checkpoints(Vec<LoadedPart>),
    /// Of a GGUF file.
    Gguf(GgufWeights),
    /// Of one of those, with an adapter merged into them.
    Merged(Box<Weights>, Box<Placed>),
    /// Of one of those, with fresh adapters beside them.
    Adapted(Box<Weights>, FreshAdapters),
}

/// Adapters that have learnt nothing yet: the first factors are drawn, the second ones zero, so that they change nothing
/// (PE-04); magnitudes are those of the weights.
pub struct FreshAdapters {
    /// The generator.
    pub fresh: Fresh,
    /// Shapes of the factors and magnitudes by name.
    pub shapes: BTreeMap<String, Vec<usize>>,
    /// Parameters that are parts of what files have as one weight.
    pub pieces: BTreeMap<String, Piece>,
}

impl FreshAdapters {
    fn draw(&self, name: &str, base: &Weights) -> Result<Option<Vec<f32>>> {
        let Some(shape) = self.shapes.get(name) else { return Ok(None) };
        let Some(module) = name.strip_suffix(MAGNITUDE) else {
            let init = if name.ends_with(".lora_A.weight") { Init::KaimingUniform } else { Init::Zeros };
            return Ok(Some(self.fresh.draw(name, shape, init)));
        };
        let weight = format!("{module}.weight");
        let parts = self.pieces.iter().filter(|(_, piece)| piece.of == weight);
        let mut parts: Vec<(&str, Rows)> = parts.map(|(part, piece)| (part.as_str(), piece.rows)).collect();
        if parts.is_empty() {
            parts.push((&weight, Rows::all(shape.iter().product())));
        }
        let mut norms = vec![0.0; shape.iter().product()];
        for (part, rows) in parts {
            let values = base.values(part)?;
            let columns = values.len().checked_div(rows.count()).unwrap_or(0).max(1);
            for (row, at) in values.chunks_exact(columns).zip(rows.indices()) {
                let squares: f64 = row.iter().map(|v| f64::from(*v).powi(2)).sum();
                let norm = norms.get_mut(at).ok_or_else(|| Error::failure(format!("`{name}` has no row {at}")))?;
                *norm = squares.sqrt() as f32;
            }
        }
        Ok(Some(norms))
    }
}

/// Values in `f32` as they are stored.
fn elements<'a>(values: &[f32]) -> WeightData<'a> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    WeightData::Elements { dtype: DType::F32, bytes: bytes.into() }
}

/// The parameters that come from one checkpoint.
pub struct LoadedPart {
    /// What precedes their names in the program.
    pub prefix: String,
    /// The checkpoint.
    pub loaded: Loaded,
}

impl Weights {
    /// Whether the names of all parameters are those of one checkpoint.
    pub fn is_one_checkpoint(&self) -> bool {
        matches!(self, Weights::Checkpoints(parts) if matches!(parts.as_slice(), [part] if part.prefix.is_empty()))
    }

    /// The storage that a matrix keeps whatever is asked for: a GGUF file's own codes, or its 16-bit floats.
    pub fn kept(&self, name: &str) -> Option<Storage> {
        match self {
            Weights::Checkpoints(_) => None,
            Weights::Gguf(gguf) => gguf.storage(name).filter(|s| *s != Storage::Float(DType::F32)),
            Weights::Merged(base, placed) if !placed.changes(name) => base.kept(name),
            Weights::Merged(..) => None,
            Weights::Adapted(base, _) => base.kept(name),
        }
    }

    /// A parameter as it is stored: codes, or elements in `f32` or narrower.
    ///
    /// # Errors
    /// When there is no such parameter or its data cannot be read.
    pub fn read(&self, name: &str) -> Result<WeightData<'_>> {
        let unknown = || Error::failure(format!("no parameter `{name}`"));
        match self {
            Weights::Checkpoints(parts) => {
                let bytes = parts.iter().find_map(|part| part.loaded.bytes(part.local(name)?, DType::F32));
                let bytes = bytes.ok_or_else(unknown)?.map_err(Error::input)?;
                Ok(WeightData::Elements { dtype: DType::F32, bytes })
            }
            Weights::Gguf(gguf) => gguf.read(name).ok_or_else(unknown)?,
            Weights::Merged(base, placed) => match placed.replaced(name) {
                Some(values) => Ok(elements(&values.map_err(Error::input)?)),
                None if !placed.changes(name) => base.read(name),
                None => Ok(elements(&placed.merged(name, base.values(name)?).map_err(Error::input)?)),
            },
            Weights::Adapted(base, adapters) => match adapters.draw(name, base)? {
                Some(values) => Ok(elements(&values)),
                None => base.read(name),
            },
        }
    }

    /// The values of a parameter in `f32`.
    ///
    /// # Errors
    /// As [`Weights::read`].
    pub fn values(&self, name: &str) -> Result<Vec<f32>> {
        let floats = |dtype, bytes: &[u8]| {
            let values = lith_models::checkpoint::bytes_to_f32(bytes, dtype);
            values.ok_or_else(|| Error::failure(format!("parameter `{name}` of {dtype}")))
        };
        match self.read(name)? {
            WeightData::Elements { dtype, bytes } => floats(dtype, &bytes),
            WeightData::Quantized(matrix) => Ok(matrix.dequantize()),
        }
    }
}

impl LoadedPart {
    /// A parameter's name in the checkpoint.
    fn local<'n>(&self, name: &'n str) -> Option<&'n str> {
        name.strip_prefix(self.prefix.as_str())
    }
}

/// The parameters of a model in a GGUF file.
pub struct GgufWeights {
    gguf: Gguf,
    /// For each parameter the name of its tensor, its shape and what part of the tensor it is.
    origins: BTreeMap<String, (String, Vec<usize>, Option<Piece>)>,
    /// Tensors that the model does not use.
    unused: Vec<String>,
}

impl GgufWeights {
    /// Finds every parameter in the file.
    ///
    /// # Errors
    /// A list of those that are absent or of another shape; with `strict`, of tensors left over too.
    pub fn resolve(gguf: Gguf, wanted: &[Wanted], strict: bool) -> Result<GgufWeights> {
        let (mut origins, mut problems) = (BTreeMap::new(), Vec::new());
        for parameter in wanted {
            let piece = parameter.piece.iter().map(|piece| (&piece.of, Some(piece)));
            // A matrix that is only stored the other way round has one name for both forms.
            let turned = piece.clone().filter(|(of, _)| **of == parameter.name);
            let whole = std::iter::once(&parameter.name).chain(&parameter.tied_to).map(|name| (name, None));
            let found =
                turned.chain(whole).chain(piece).find_map(|(name, piece)| Some((name, gguf.tensor(name)?, piece)));
            let Some((name, tensor, piece)) = found else {
                problems.push(format!("{}: missing", parameter.name));
                continue;
            };
            let expected = piece.map_or(parameter.shape.clone(), |piece| piece.stored_shape(&parameter.shape));
            if tensor.shape() != expected {
                problems.push(format!("{}: is {:?}, expected {expected:?}", parameter.name, tensor.shape()));
            }
            origins.insert(parameter.name.clone(), (name.clone(), parameter.shape.clone(), piece.cloned()));
        }
        let used = |name: &String| origins.values().any(|(of, ..)| of == name);
        let unused: Vec<String> = gguf.parameters().filter(|name| !used(name)).collect();
        if strict && !unused.is_empty() {
            problems.extend(unused.iter().map(|name| format!("{name}: left over")));
        }
        if problems.is_empty() {
            return Ok(GgufWeights { gguf, origins, unused });
        }
        let list: String = problems.iter().map(|p| format!("\n  {p}")).collect();
        Err(Error::input(format!("{}: the weights do not fit the model{list}", gguf.path().display())))
    }

    /// What the user should know.
    pub fn warning(&self) -> Option<String> {
        let names = collapse(self.unused.iter().map(String::as_str));
        (!names.is_empty()).then(|| format!("{}: not used: {}", self.gguf.path().display(), names.join(", ")))
    }

    /// The files.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        self.gguf.files().map(PathBuf::from)
    }

    fn tensor(&self, name: &str) -> Option<(GgufTensor<'_>, &[usize], Option<&Piece>)> {
        let (of, shape, piece) = self.origins.get(name)?;
        Some((self.gguf.tensor(of)?, shape, piece.as_ref()))
    }

    fn storage(&self, name: &str) -> Option<Storage> {
        self.tensor(name)?.0.storage().ok()
    }

    fn read(&self, name: &str) -> Option<Result<WeightData<'_>>> {
        let (tensor, shape, piece) = self.tensor(name)?;
        Some(tensor.read().map_err(Error::input).map(|data| match (data, piece) {
            (TensorData::Float(dtype, bytes), piece) => {
                // What the file has as the parameter's transpose is the parameter of a layer already.
                let piece = piece.map(|p| Piece { transposed: p.transposed && !tensor.is_transposed(), ..p.clone() });
                let bytes: Cow<'_, [u8]> = piece.map_or(bytes.clone(), |p| p.take(bytes, shape, dtype.size()));
                WeightData::Elements { dtype, bytes }
            }
            (TensorData::Quantized(matrix), Some(piece)) => {
                WeightData::Quantized(matrix.take_rows(piece.rows.indices()))
            }
            (TensorData::Quantized(matrix), None) => WeightData::Quantized(matrix),
        }))
    }
}
