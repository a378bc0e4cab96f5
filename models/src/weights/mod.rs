//! From a checkpoint's tensors to a model's parameters (spec rows WLD-*): which stored tensor each parameter is, under
//! all the names files have used for it, and a report of what did not fit.
//!
//! Nothing is read or copied here. [`Loaded`] hands out stored tensors by parameter name; a fresh head is drawn when
//! it is asked for. The module knows families only by the [`Rules`] they pass.

mod fresh;
mod piece;
mod report;

pub use fresh::{Fresh, Init};
pub use piece::{Piece, Rows};
pub use report::{LoadReport, Mismatch, collapse};

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use lith_ir::DType;

use crate::checkpoint::{Checkpoint, CheckpointError, Element, StoredTensor};

/// A parameter a model wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its full name on disk in a checkpoint with a head: `bert.encoder.layer.0.output.dense.weight`.
    pub name: String,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Whether it belongs to the head, which a headless checkpoint lacks.
    pub head: bool,
    /// Names whose tensors it shares when its own is absent, in order of preference (tied weights, WLD-12).
    pub tied_to: Vec<String>,
    /// The tensor of which it is a part, unless the file has it by a name of its own.
    pub piece: Option<Piece>,
}

impl Wanted {
    /// A parameter of the body.
    pub fn body(name: impl Into<String>, shape: impl Into<Vec<usize>>) -> Wanted {
        Wanted { name: name.into(), shape: shape.into(), head: false, tied_to: Vec::new(), piece: None }
    }

    /// A parameter of the head.
    pub fn head(name: impl Into<String>, shape: impl Into<Vec<usize>>) -> Wanted {
        Wanted { head: true, ..Wanted::body(name, shape) }
    }

    /// The same, tied to another tensor.
    pub fn tied(mut self, name: impl Into<String>) -> Wanted {
        self.tied_to.push(name.into());
        self
    }
}

/// What a family's checkpoints are like.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    /// The name of the body inside a model with a head, `bert`; files of the bare body leave it out (WLD-03).
    pub base_prefix: &'static str,
    /// `(ending on disk, ending in the model)`, besides [`RENAMES`] (WLD-04).
    pub renames: &'static [(&'static str, &'static str)],
    /// Names that are left over without being reported, besides [`IGNORABLE`] (WLD-10). `*` stands for any text.
    pub ignorable: &'static [&'static str],
}

/// Endings that every family's old files have.
pub const RENAMES: &[(&str, &str)] = &[("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")];

/// Buffers that old files of every family hold and that follow from the configuration.
pub const IGNORABLE: &[&str] = &["*position_ids", "*embeddings.token_type_ids", "*rotary_emb.inv_freq"];

/// How strictly to load.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadOptions {
    /// Tensors left over are an error.
    pub strict: bool,
    /// Where the checkpoint has no head, draw a fresh one.
    pub fresh_head: Option<Fresh>,
    /// Draw a body that the checkpoint lacks too: of an empty checkpoint everything is fresh.
    pub fresh_body: bool,
    /// A head tensor of another shape counts as absent (`ignore_mismatched_sizes`, WLD-09): with `fresh_head`, it is
    /// drawn anew.
    pub ignore_mismatched_sizes: bool,
}

/// A checkpoint that is not the model: all [`Misfits`]. Bad input (exit code 2).
#[derive(Debug, PartialEq, Eq)]
pub struct LoadError(Box<Misfits>);

impl std::ops::Deref for LoadError {
    type Target = Misfits;
    fn deref(&self) -> &Misfits {
        &self.0
    }
}

/// Everything that keeps a checkpoint from being the model.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Misfits {
    /// The checkpoint.
    pub place: String,
    /// Parameters of the body that are absent.
    pub missing: Vec<String>,
    /// Parameters of the head that are absent.
    pub missing_head: Vec<String>,
    /// Parameters of another shape.
    pub mismatched: Vec<Mismatch>,
    /// `(parameter, its type)` of tensors that hold no floating-point numbers Lith reads.
    pub wrong_type: Vec<(String, String)>,
    /// Tensors left over, where that is an error.
    pub unexpected: Vec<String>,
}

impl Misfits {
    fn is_empty(&self) -> bool {
        let Misfits { place: _, missing, missing_head, mismatched, wrong_type, unexpected } = self;
        missing.is_empty()
            && missing_head.is_empty()
            && mismatched.is_empty()
            && wrong_type.is_empty()
            && unexpected.is_empty()
    }
}

impl std::error::Error for LoadError {}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: the weights do not fit the model", self.place)?;
        report::write_names(f, "missing", &self.missing)?;
        report::write_names(
            f,
            "missing from the head (a fresh, untrained head is made only on request)",
            &self.missing_head,
        )?;
        report::write_mismatches(f, &self.mismatched)?;
        if !self.wrong_type.is_empty() {
            write!(f, "\n  not floating point:")?;
            for (name, found) in &self.wrong_type {
                write!(f, "\n    {name}: found {found}, expected f32, f16, bf16 or f64")?;
            }
        }
        report::write_names(f, "left over", &self.unexpected)
    }
}

/// Where a parameter's values come from.
#[derive(Clone, Debug)]
enum Origin {
    Stored(String),
    Piece(String, Piece),
    Fresh(Fresh, Init),
}

/// A model's parameters, ready to be read.
#[derive(Debug)]
pub struct Loaded {
    checkpoint: Checkpoint,
    origins: BTreeMap<String, (Origin, Vec<usize>)>,
    report: LoadReport,
}

/// Finds every wanted parameter in the checkpoint.
///
/// A body parameter that is absent, misshaped or not of a floating-point type is an error, and so is a head parameter
/// unless [`LoadOptions`] allow a fresh one. The error lists all of them.
pub fn resolve(
    checkpoint: Checkpoint,
    wanted: &[Wanted],
    rules: &Rules,
    options: &LoadOptions,
) -> Result<Loaded, LoadError> {
    let names = Names::new(&checkpoint, rules);
    let mut error = Misfits { place: checkpoint.place().to_string(), ..Misfits::default() };
    let mut report = LoadReport::default();
    let mut origins = BTreeMap::new();
    let mut used = BTreeSet::new();

    for parameter in wanted {
        let converted = parameter.piece.as_ref().is_some_and(|piece| piece.of == parameter.name);
        let own = names.find(&parameter.name, parameter.head).filter(|_| !converted);
        let whole = || parameter.piece.as_ref().and_then(|piece| Some((names.find(&piece.of, parameter.head)?, piece)));
        if let (None, Some((whole, piece))) = (own, whole()) {
            used.insert(whole.name());
            let wanted = piece.stored_shape(&parameter.shape);
            if whole.shape() != wanted {
                let (name, stored) = (parameter.name.clone(), whole.shape().to_vec());
                error.mismatched.push(Mismatch { name, stored, wanted });
                continue;
            }
            if !is_float(&whole) {
                error.wrong_type.push((parameter.name.clone(), whole.element().to_string()));
            }
            let origin = Origin::Piece(whole.name().to_string(), piece.clone());
            report.converted.push((whole.name().to_string(), parameter.name.clone()));
            origins.insert(parameter.name.clone(), (origin, parameter.shape.clone()));
            continue;
        }
        let shared = parameter.tied_to.iter().find_map(|name| names.find(name, false));
        let stored = match (own, shared) {
            (Some(own), shared) => {
                used.insert(own.name());
                match shared {
                    // Both are there and equal: one copy is enough. Different: the file's word against the tie.
                    Some(shared) if same_values(&own, &shared) => {
                        report.tied.push((parameter.name.clone(), shared.name().to_string()));
                        Some(shared)
                    }
                    Some(shared) if own.name() != shared.name() => {
                        report.untied.push((parameter.name.clone(), shared.name().to_string()));
                        Some(own)
                    }
                    _ => Some(own),
                }
            }
            (None, Some(shared)) => {
                report.tied.push((parameter.name.clone(), shared.name().to_string()));
                Some(shared)
            }
            (None, None) => None,
        };
        let misshaped = stored.filter(|stored| stored.shape() != parameter.shape).map(|stored| Mismatch {
            name: parameter.name.clone(),
            stored: stored.shape().to_vec(),
            wanted: parameter.shape.clone(),
        });
        let origin = match (stored, misshaped, options.fresh_head.filter(|_| parameter.head || options.fresh_body)) {
            (Some(stored), None, _) => {
                used.insert(stored.name());
                if !is_float(&stored) {
                    error.wrong_type.push((parameter.name.clone(), stored.element().to_string()));
                }
                if stored.name() != parameter.name && own.is_some() {
                    report.converted.push((stored.name().to_string(), parameter.name.clone()));
                }
                Origin::Stored(stored.name().to_string())
            }
            (Some(_), Some(mismatch), Some(fresh)) if options.ignore_mismatched_sizes => {
                report.mismatched.push(mismatch);
                Origin::Fresh(fresh, Init::of(&parameter.name, &parameter.shape))
            }
            (Some(_), Some(mismatch), _) => {
                error.mismatched.push(mismatch);
                continue;
            }
            (None, _, Some(fresh)) => {
                report.missing.push(parameter.name.clone());
                Origin::Fresh(fresh, Init::of(&parameter.name, &parameter.shape))
            }
            (None, _, None) => {
                let list = if parameter.head { &mut error.missing_head } else { &mut error.missing };
                list.push(parameter.name.clone());
                continue;
            }
        };
        origins.insert(parameter.name.clone(), (origin, parameter.shape.clone()));
    }

    let patterns = || IGNORABLE.iter().chain(rules.ignorable);
    for tensor in checkpoint.tensors().filter(|tensor| !used.contains(tensor.name())) {
        let ignored = patterns().any(|pattern| matches(pattern, tensor.name()));
        let list = if ignored { &mut report.ignored } else { &mut report.unexpected };
        list.push(tensor.name().to_string());
    }
    if options.strict {
        error.unexpected = report.unexpected.clone();
    }
    drop(used);
    if !error.is_empty() {
        return Err(LoadError(Box::new(error)));
    }
    Ok(Loaded { checkpoint, origins, report })
}

fn is_float(tensor: &StoredTensor<'_>) -> bool {
    matches!(tensor.element(), Element::Known(dtype) if dtype.is_float())
}

/// Whether two stored tensors are different ones with equal values.
fn same_values(a: &StoredTensor<'_>, b: &StoredTensor<'_>) -> bool {
    a.name() != b.name() && a.element() == b.element() && a.shape() == b.shape() && a.bytes() == b.bytes()
}

/// The checkpoint's tensors under the names the model uses.
struct Names<'a> {
    checkpoint: &'a Checkpoint,
    /// Renamed name, to name on disk.
    renamed: BTreeMap<String, &'a str>,
    prefix: String,
}

impl<'a> Names<'a> {
    fn new(checkpoint: &'a Checkpoint, rules: &Rules) -> Names<'a> {
        let mut renamed = BTreeMap::new();
        for tensor in checkpoint.tensors() {
            let ending = RENAMES
                .iter()
                .chain(rules.renames)
                .find_map(|(old, new)| Some((tensor.name().strip_suffix(old)?, new)));
            if let Some((stem, new)) = ending {
                renamed.insert(format!("{stem}{new}"), tensor.name());
            }
        }
        Names { checkpoint, renamed, prefix: format!("{}.", rules.base_prefix) }
    }

    fn exactly(&self, name: &str) -> Option<StoredTensor<'a>> {
        self.checkpoint.tensor(name).or_else(|| self.checkpoint.tensor(self.renamed.get(name)?))
    }

    /// By its own name; without the prefix, as files of the bare body have it; or with the prefix, where the model is
    /// the bare body.
    fn find(&self, name: &str, head: bool) -> Option<StoredTensor<'a>> {
        let bare = || self.exactly(name.strip_prefix(&self.prefix)?);
        let prefixed = || if head { None } else { self.exactly(&format!("{}{name}", self.prefix)) };
        self.exactly(name).or_else(bare).or_else(prefixed)
    }
}

/// Whether `name` fits `pattern`, in which `*` stands for any text.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(tail) = name.strip_prefix(first) else { return false };
    tail.char_indices().map(|(at, _)| at).chain([tail.len()]).any(|at| matches(rest, &tail[at..]))
}

impl Loaded {
    /// What was renamed, tied, made anew and left over.
    pub fn report(&self) -> &LoadReport {
        &self.report
    }

    /// The checkpoint the parameters are in.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The stored tensor that a parameter is, or of which it is a [`piece`](Loaded::piece). Tied parameters give the same
    /// one. `None` for a fresh parameter, and for one that was not wanted.
    pub fn stored(&self, name: &str) -> Option<StoredTensor<'_>> {
        match &self.origins.get(name)?.0 {
            Origin::Stored(stored) | Origin::Piece(stored, _) => self.checkpoint.tensor(stored),
            Origin::Fresh(..) => None,
        }
    }

    /// What part of its stored tensor a parameter is; `None` for the whole.
    pub fn piece(&self, name: &str) -> Option<&Piece> {
        match &self.origins.get(name)?.0 {
            Origin::Piece(_, piece) => Some(piece),
            Origin::Stored(_) | Origin::Fresh(..) => None,
        }
    }

    /// The type a parameter is stored in; `f32` for a fresh one.
    pub fn dtype(&self, name: &str) -> Option<DType> {
        match self.stored(name) {
            Some(stored) => stored.dtype().ok(),
            None => self.origins.contains_key(name).then_some(DType::F32),
        }
    }

    /// A parameter's elements as little-endian bytes of `dtype`; borrowed from the mapped file where that is the
    /// stored type. `None` for a name that was not wanted.
    pub fn bytes(&self, name: &str, dtype: DType) -> Option<Result<Cow<'_, [u8]>, CheckpointError>> {
        let (origin, shape) = self.origins.get(name)?;
        match origin {
            Origin::Stored(stored) => Some(self.checkpoint.tensor(stored)?.to_dtype(dtype)),
            Origin::Piece(stored, piece) => {
                let stored = self.checkpoint.tensor(stored)?;
                Some(stored.dtype().and_then(|from| {
                    let taken = piece.take(stored.bytes(), shape, from.size());
                    if from == dtype { Ok(taken) } else { converted(&taken, from, dtype, stored.file(), stored.name()) }
                }))
            }
            Origin::Fresh(fresh, init) => {
                let values = fresh.draw(name, shape, *init);
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                Some(converted(&bytes, DType::F32, dtype, "fresh head".as_ref(), name))
            }
        }
    }

    /// A parameter's elements as `f32` (WLD-15). `None` for a name that was not wanted.
    pub fn to_f32(&self, name: &str) -> Option<Result<Vec<f32>, CheckpointError>> {
        let (origin, shape) = self.origins.get(name)?;
        match origin {
            Origin::Stored(stored) => Some(self.checkpoint.tensor(stored)?.to_f32()),
            Origin::Piece(..) => Some(
                self.bytes(name, DType::F32)?
                    .map(|bytes| bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()),
            ),
            Origin::Fresh(fresh, init) => Some(Ok(fresh.draw(name, shape, *init))),
        }
    }
}

/// The bytes of elements of another type; `file` and `tensor` are for the message.
fn converted<'a>(
    bytes: &[u8],
    from: DType,
    to: DType,
    file: &Path,
    tensor: &str,
) -> Result<Cow<'a, [u8]>, CheckpointError> {
    let found = crate::checkpoint::convert_bytes(bytes, from, to).map(Cow::Owned);
    found.ok_or_else(|| CheckpointError::Tensor {
        file: file.into(),
        tensor: tensor.into(),
        reason: format!("{from} cannot be made {to}"),
    })
}

#[cfg(test)]
mod tests {
    use super::matches;

    /// WLD-10
    #[test]
    fn patterns() {
        assert!(matches("*position_ids", "bert.embeddings.position_ids"));
        assert!(matches("cls.*.bias", "cls.predictions.decoder.bias"));
        assert!(matches("a", "a") && matches("*", "") && matches("a*b*c", "axxbbc"));
        assert!(!matches("*position_ids", "position_ids.x") && !matches("a*b", "ab c") && !matches("a", "ab"));
    }
}
