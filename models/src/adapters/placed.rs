//! The tensors of an adapter's file, each with its place in a model (PE-02, PE-12), and the weights that come of both (PE-06).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::trace::PREFIX;
use super::{AdapterError, CONFIG_FILE, LoraConfig, Ranks};
use crate::checkpoint::{Checkpoint, StoredTensor};
use crate::config::Head;
use crate::families::Part;
use crate::source::{Source, read_text};
use crate::weights::{Piece, Rows, Wanted, collapse};

/// Longest configuration that is read, in bytes.
const MAX_CONFIG: u64 = 1 << 24;

/// The names that an adapter's weights have, in order of preference.
const WEIGHTS: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];

/// An adapter: its configuration, and weights that are found but not read.
#[derive(Debug)]
pub struct Adapter {
    config: LoraConfig,
    config_file: PathBuf,
    weights: Checkpoint,
}

impl Adapter {
    /// Opens the adapter of a folder or repository.
    ///
    /// # Errors
    /// When its files are not there or broken.
    pub fn open(source: &Source) -> Result<Adapter, AdapterError> {
        let missing = |file: &str| AdapterError::Missing { place: source.describe(), file: file.into() };
        let config_file = source.optional(CONFIG_FILE)?.ok_or_else(|| missing(CONFIG_FILE))?;
        let config = LoraConfig::from_json(&read_text(&config_file, MAX_CONFIG)?, &config_file)?;
        for name in WEIGHTS {
            if let Some(file) = source.optional(name)? {
                return Ok(Adapter { config, config_file, weights: Checkpoint::open_file(&file)? });
            }
        }
        Err(missing(&WEIGHTS.join(" and no ")))
    }

    /// Its configuration.
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// Its files.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.weights.files().chain([self.config_file.as_path()])
    }

    /// Gives each tensor its place in a model of these parts with this head.
    ///
    /// # Errors
    /// When one has none, lacks its partner, or is of another shape.
    pub fn place(self, parts: &[Part], head: Head) -> Result<Placed, AdapterError> {
        let output_layer = matches!(head, Head::CausalLm | Head::MaskedLm);
        let model = Layers::of(parts);
        let ranks = Ranks::new(&self.config)?;
        let place = self.weights.place().to_string();
        let (mut changes, mut unplaced) = (BTreeMap::new(), Vec::new());
        for tensor in self.weights.tensors() {
            let half =
                |missing: String| AdapterError::Half { place: place.clone(), found: tensor.name().into(), missing };
            let wrong = |tensor: &StoredTensor<'_>, expected: Vec<usize>| AdapterError::Shape {
                place: place.clone(),
                tensor: tensor.name().into(),
                expected,
                found: tensor.shape().to_vec(),
                base: self.config.base_model_name_or_path.clone().unwrap_or_else(|| "another model".into()),
            };
            match kind_of(tensor.name()) {
                // The second factor and the magnitude go with the first.
                Some((_, Kind::Magnitude { .. })) if !self.config.use_dora => unplaced.push(tensor.name().to_string()),
                Some((_, Kind::B { partner } | Kind::Magnitude { partner })) => {
                    if self.weights.tensor(&partner).is_none() {
                        return Err(half(partner));
                    }
                }
                Some((module, Kind::A { partner, embedding })) => {
                    let found = model.find(&format!("{module}.weight"));
                    let [(first, ..), ..] = found else {
                        unplaced.push(tensor.name().to_string());
                        continue;
                    };
                    if embedding && output_layer && !first.tied_to.is_empty() {
                        return Err(AdapterError::Tied { place, module });
                    }
                    let other = self.weights.tensor(&partner).ok_or_else(|| half(partner.clone()))?;
                    let magnitude = self.magnitude(&module);
                    if magnitude.is_none() && self.config.use_dora {
                        return Err(half(format!("{PREFIX}{module}.lora_magnitude_vector")));
                    }
                    let (rank, scale) = ranks.of(&module);
                    for (wanted, name, rows) in found {
                        let &[rows_here, inputs] = wanted.shape.as_slice() else {
                            unplaced.push(tensor.name().to_string());
                            continue;
                        };
                        let outputs = rows.map_or(rows_here, |rows| rows.of);
                        let expected = match embedding {
                            false => [vec![rank, inputs], vec![outputs, rank]],
                            true => [vec![rank, outputs], vec![inputs, rank]],
                        };
                        for (tensor, expected) in [tensor, other].iter().zip(expected) {
                            if tensor.shape() != expected {
                                return Err(wrong(tensor, expected));
                            }
                        }
                        if let Some(magnitude) = magnitude.as_ref().and_then(|name| self.weights.tensor(name))
                            && (magnitude.shape().iter().product::<usize>() != outputs || embedding)
                        {
                            return Err(wrong(&magnitude, vec![outputs]));
                        }
                        let rows = rows.unwrap_or(Rows::all(outputs));
                        let [a, b] = [tensor.name(), other.name()].map(String::from);
                        let magnitude = magnitude.clone();
                        changes.insert(name.clone(), Change::LowRank { a, b, magnitude, embedding, rows, scale });
                    }
                }
                Some((path, Kind::Whole)) => {
                    let found = model.find(&path);
                    if found.is_empty() {
                        unplaced.push(tensor.name().to_string());
                    }
                    for (wanted, name, rows) in found {
                        let piece = rows.and(wanted.piece.clone());
                        let expected = piece.as_ref().map_or(wanted.shape.clone(), |p| p.stored_shape(&wanted.shape));
                        if tensor.shape() != expected {
                            return Err(wrong(&tensor, expected));
                        }
                        let (tensor, shape) = (tensor.name().to_string(), wanted.shape.clone());
                        changes.insert(name.clone(), Change::Whole { tensor, piece, shape });
                    }
                }
                Some((path, Kind::Replaced)) => {
                    if self.weights.tensor(&format!("{PREFIX}{path}")).is_none() {
                        return Err(half(format!("{PREFIX}{path}")));
                    }
                }
                None => unplaced.push(tensor.name().to_string()),
            }
        }
        if changes.is_empty() {
            let targets = self.config.target_modules.as_ref().map_or("of its weights".into(), |t| t.to_string());
            return Err(AdapterError::NoMatch { place, targets, known: model.known() });
        }
        if !unplaced.is_empty() {
            return Err(AdapterError::Unplaced { place, names: unplaced, known: model.known() });
        }
        Ok(Placed { adapter: self, changes })
    }

    /// The name of a module's magnitudes, if it has them.
    fn magnitude(&self, module: &str) -> Option<String> {
        let names = MAGNITUDES.map(|ending| format!("{PREFIX}{module}{ending}"));
        names.into_iter().find(|name| self.weights.tensor(name).is_some())
    }
}

/// Endings of the magnitudes of DoRA.
const MAGNITUDES: [&str; 2] = [".lora_magnitude_vector", ".lora_magnitude_vector.weight"];

/// What a tensor of an adapter is, with the name of the tensor that it cannot be without.
enum Kind {
    /// The first factor, which meets the inputs.
    A { partner: String, embedding: bool },
    /// The second factor.
    B { partner: String },
    /// Magnitudes of rows.
    Magnitude { partner: String },
    /// A parameter that the adapter brings whole.
    Whole,
    /// What a module had before the adapter brought it whole: the same name without that part has what counts.
    Replaced,
}

/// Takes the name of an adapter's tensor apart: the module and its part, or the whole parameter.
fn kind_of(name: &str) -> Option<(String, Kind)> {
    let path = name.strip_prefix(PREFIX)?;
    let partner = |module: &str, ending: &str| format!("{PREFIX}{module}{ending}");
    let [a, b] = [".lora_A.weight", ".lora_B.weight"];
    let [table_a, table_b] = [".lora_embedding_A", ".lora_embedding_B"];
    if let Some(module) = path.strip_suffix(a) {
        return Some((module.into(), Kind::A { partner: partner(module, b), embedding: false }));
    }
    if let Some(module) = path.strip_suffix(b) {
        return Some((module.into(), Kind::B { partner: partner(module, a) }));
    }
    if let Some(module) = path.strip_suffix(table_a) {
        return Some((module.into(), Kind::A { partner: partner(module, table_b), embedding: true }));
    }
    if let Some(module) = path.strip_suffix(table_b) {
        return Some((module.into(), Kind::B { partner: partner(module, table_a) }));
    }
    if let Some(module) = MAGNITUDES.iter().find_map(|ending| path.strip_suffix(ending)) {
        return Some((module.into(), Kind::Magnitude { partner: partner(module, a) }));
    }
    if path.contains(".original_module.") {
        return Some((path.replace(".original_module.", "."), Kind::Replaced));
    }
    // A wrapped module's own parameters, and those of its trained copy.
    let plain = path.replace(".base_layer.", ".").replace(".modules_to_save.", ".");
    (!plain.contains("lora_")).then_some((plain, Kind::Whole))
}

/// A parameter: what was wanted, its name in the program, and which rows of the stored tensor it has.
type Found<'a> = (&'a Wanted, String, Option<Rows>);

/// The parameters of a model by the names that files have them by.
struct Layers<'a> {
    /// For each stored tensor the parameters that are it or pieces of it.
    by_name: BTreeMap<&'a str, Vec<Found<'a>>>,
    /// What precedes the names of the body in a model with a head.
    prefixes: Vec<String>,
}

impl<'a> Layers<'a> {
    fn of(parts: &'a [Part]) -> Layers<'a> {
        let mut by_name: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for part in parts {
            for wanted in &part.wanted {
                let name = format!("{}{}", part.prefix, wanted.name);
                if let Some(piece) = &wanted.piece {
                    by_name.entry(&piece.of).or_default().push((wanted, name.clone(), Some(piece.rows)));
                }
                if wanted.piece.as_ref().is_none_or(|piece| piece.of != wanted.name) {
                    by_name.entry(&wanted.name).or_default().push((wanted, name, None));
                }
            }
        }
        Layers { by_name, prefixes: parts.iter().map(|part| part.rules.base_prefix.to_string()).collect() }
    }

    /// The parameters of a stored tensor; adapters of the bare body leave its name out.
    fn find(&self, name: &str) -> &[Found<'a>] {
        let bare = || self.prefixes.iter().find_map(|prefix| self.by_name.get(format!("{prefix}.{name}").as_str()));
        self.by_name.get(name).or_else(bare).map_or(&[], Vec::as_slice)
    }

    /// The model's matrices, for messages.
    fn known(&self) -> String {
        let matrices = self.by_name.iter().filter(|(_, found)| found.iter().any(|(w, ..)| w.shape.len() == 2));
        collapse(matrices.filter_map(|(name, _)| name.strip_suffix(".weight"))).join(", ")
    }
}

/// How a parameter is changed.
#[derive(Debug)]
enum Change {
    /// A product of two factors, scaled, is added; `rows` of the second factor are this parameter's.
    LowRank { a: String, b: String, magnitude: Option<String>, embedding: bool, rows: Rows, scale: f64 },
    /// It is the adapter's.
    Whole { tensor: String, piece: Option<Piece>, shape: Vec<usize> },
}

/// An adapter whose tensors all have a place in a model.
#[derive(Debug)]
pub struct Placed {
    adapter: Adapter,
    changes: BTreeMap<String, Change>,
}

impl Placed {
    /// Whether the adapter changes a parameter of the program.
    pub fn changes(&self, name: &str) -> bool {
        self.changes.contains_key(name)
    }

    /// Whether a parameter is the adapter's, whatever the base model has.
    pub fn replaces(&self, name: &str) -> bool {
        matches!(self.changes.get(name), Some(Change::Whole { .. }))
    }

    /// The adapter.
    pub fn adapter(&self) -> &Adapter {
        &self.adapter
    }

    /// The values of a parameter that the adapter replaces, row-major.
    ///
    /// # Errors
    /// When they cannot be read or are not finite.
    pub fn replaced(&self, name: &str) -> Option<Result<Vec<f32>, AdapterError>> {
        let Some(Change::Whole { tensor, piece, shape }) = self.changes.get(name) else { return None };
        let values = self.values(tensor);
        Some(match piece {
            None => values,
            Some(piece) => values.map(|values| {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                let taken = piece.take(bytes.into(), shape, 4);
                taken.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
            }),
        })
    }

    /// The weights of a layer with its adapter: `base + scale B A`, computed in `f64` and rounded once; with magnitudes each
    /// row is then scaled to its own (Liu et al. 2024). A parameter without adapter stays as it is.
    ///
    /// # Errors
    /// When the adapter's tensors cannot be read or are not finite.
    pub fn merged(&self, name: &str, mut base: Vec<f32>) -> Result<Vec<f32>, AdapterError> {
        let Some(Change::LowRank { a, b, magnitude, embedding, rows, scale }) = self.changes.get(name) else {
            return Ok(base);
        };
        let (mut a, mut b) = (self.matrix(a)?, self.matrix(b)?);
        if *embedding {
            // A table's rows are what a linear layer's columns are.
            (a, b) = (b.transposed(), a.transposed());
        }
        let magnitudes = magnitude.as_ref().map(|name| self.values(name)).transpose()?;
        let mut sum = vec![0f64; a.columns];
        for (row, number) in base.chunks_mut(a.columns.max(1)).zip(rows.indices()) {
            sum.fill(0.0);
            for (factor, inputs) in b.row(number).iter().zip(a.rows()) {
                sum.iter_mut().zip(inputs).for_each(|(sum, input)| *sum += f64::from(*factor) * f64::from(*input));
            }
            sum.iter_mut().zip(row.iter()).for_each(|(sum, base)| *sum = f64::from(*base) + scale * *sum);
            if let Some(magnitude) = magnitudes.as_ref().and_then(|m| m.get(number)) {
                let norm = sum.iter().map(|v| v * v).sum::<f64>().sqrt();
                sum.iter_mut().for_each(|v| *v *= f64::from(*magnitude) / norm);
            }
            row.iter_mut().zip(&sum).for_each(|(value, sum)| *value = *sum as f32);
        }
        if base.iter().all(|value| value.is_finite()) {
            return Ok(base);
        }
        Err(AdapterError::NotFinite { place: self.adapter.weights.place().into(), tensor: name.into() })
    }

    fn values(&self, name: &str) -> Result<Vec<f32>, AdapterError> {
        let place = || self.adapter.weights.place().to_string();
        let half = || AdapterError::Half { place: place(), found: CONFIG_FILE.into(), missing: name.into() };
        let values = self.adapter.weights.tensor(name).ok_or_else(half)?.to_f32()?;
        match values.iter().all(|value| value.is_finite()) {
            true => Ok(values),
            false => Err(AdapterError::NotFinite { place: place(), tensor: name.into() }),
        }
    }

    fn matrix(&self, name: &str) -> Result<Matrix, AdapterError> {
        let columns = self.adapter.weights.tensor(name).and_then(|t| t.shape().last().copied()).unwrap_or(0);
        Ok(Matrix { values: self.values(name)?, columns })
    }
}

/// A matrix, row-major.
struct Matrix {
    values: Vec<f32>,
    columns: usize,
}

impl Matrix {
    fn rows(&self) -> std::slice::Chunks<'_, f32> {
        self.values.chunks(self.columns.max(1))
    }

    /// A row; empty where there is none.
    fn row(&self, number: usize) -> &[f32] {
        let start = number.saturating_mul(self.columns);
        self.values.get(start..start.saturating_add(self.columns)).unwrap_or_default()
    }

    fn transposed(&self) -> Matrix {
        let rows = self.values.len().checked_div(self.columns).unwrap_or(0);
        let column = |c: usize| self.values.iter().skip(c).step_by(self.columns.max(1)).copied();
        Matrix { values: (0..self.columns).flat_map(column).collect(), columns: rows }
    }
}

#[cfg(test)]
mod tests;
