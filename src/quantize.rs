//! Which weights of a model are quantized, and how: what the user asked for, held against the program. Knows no file.

use std::collections::{BTreeMap, BTreeSet};

use lith_ir::quant::{Scheme, Storage};
use lith_ir::{Op, Program};
use lith_passes::quantize::{
    LayerError, MIXED, Rounding, SCHEMES, bits_per_weight, compare, describe, quantize, scheme,
};
use rayon::prelude::*;

use crate::error::{Error, Result};

/// The widths of linear layers' weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Widths {
    /// As the checkpoint has them, or by `--dtype`.
    Keep,
    /// One scheme for all.
    All(Scheme),
    /// The narrowest of a few schemes whose relative RMS error stays within the budget, for each weight; where none does,
    /// the weight is not quantized.
    Mixed {
        /// Greatest relative root mean square error.
        budget: f64,
    },
}

/// What is quantized.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantization {
    /// Weights of linear layers.
    pub widths: Widths,
    /// Embedding tables, and output layers tied to them; `None` leaves them as they are.
    pub embeddings: Option<Scheme>,
    /// To how many bits linear layers round their activations.
    pub rounding: Rounding,
}

/// The budget of `mixed` when none is given.
pub const ERROR_BUDGET: f64 = 0.08;
/// How embeddings are stored when weights are quantized and nothing is said.
const EMBEDDINGS: &str = "int8-32";

impl Default for Quantization {
    fn default() -> Self {
        Quantization { widths: Widths::Keep, embeddings: None, rounding: Rounding::Nowhere }
    }
}

impl Quantization {
    /// From the command line: `--quantize`, `--error-budget`, `--quantize-embeddings`, `--activations`.
    ///
    /// # Errors
    /// When a name is unknown or options contradict each other.
    pub fn new(
        widths: Option<&str>,
        budget: Option<f64>,
        embeddings: Option<&str>,
        activations: Option<&str>,
    ) -> Result<Quantization> {
        let known = || SCHEMES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let find = |option: &str, name: &str| {
            let found = scheme(name);
            found.ok_or_else(|| Error::input(format!("{option} {name}: expected one of {}", known())))
        };
        if budget.is_some() && widths != Some("mixed") {
            return Err(Error::input("--error-budget goes with --quantize mixed"));
        }
        if let Some(budget) = budget.filter(|b| !(*b > 0.0 && *b < 1.0)) {
            return Err(Error::input(format!("--error-budget {budget}: expected a number between 0 and 1")));
        }
        let widths = match widths {
            None => Widths::Keep,
            Some("mixed") => Widths::Mixed { budget: budget.unwrap_or(ERROR_BUDGET) },
            Some(name) => Widths::All(
                scheme(name).ok_or_else(|| Error::input(format!("--quantize {name}: expected mixed, {}", known())))?,
            ),
        };
        let embeddings = match embeddings {
            Some("none") => None,
            Some(name) => Some(find("--quantize-embeddings", name)?),
            None if widths == Widths::Keep => None,
            None => scheme(EMBEDDINGS),
        };
        let rounding = match activations.unwrap_or("float32") {
            "float32" => Rounding::Nowhere,
            "int16" => Rounding::Fine,
            "int8" => Rounding::Robust,
            "int8-all" => Rounding::Everywhere,
            other => {
                let problem = format!("--activations {other}: expected float32, int16, int8 or int8-all");
                return Err(Error::input(problem));
            }
        };
        Ok(Quantization { widths, embeddings, rounding })
    }
}

/// The matrices of a program that can be quantized.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matrices {
    /// Weights of linear layers.
    pub linear: BTreeSet<String>,
    /// Tables that rows are looked up in; a tied one is in both.
    pub tables: BTreeSet<String>,
}

impl Matrices {
    /// Of a traced program, whose entry points name parameters directly. A table that anything else reads is none.
    pub fn of(program: &Program) -> Matrices {
        let (mut found, mut other) = (Matrices::default(), BTreeSet::new());
        for (_, graph) in program.graphs() {
            for node in graph.petgraph().node_indices() {
                let Op::Param { name, ty } = &graph.node(node).op else { continue };
                for (user, operand) in graph.users(node.into()) {
                    match (&graph.node(user).op, operand) {
                        (Op::Linear {}, 1) => drop(found.linear.insert(name.clone())),
                        (Op::Gather { axis: 0 }, 0) if ty.rank() == 2 => drop(found.tables.insert(name.clone())),
                        _ => drop(other.insert(name.clone())),
                    }
                }
            }
        }
        found.linear.retain(|name| !other.contains(name));
        found.tables.retain(|name| !other.contains(name));
        found
    }

    /// Without these: what is trained is stored as floats.
    pub fn leave_out(&mut self, names: &BTreeSet<String>) {
        self.linear.retain(|name| !names.contains(name));
        self.tables.retain(|name| !names.contains(name));
    }
}

/// How each weight is stored, and what that does to it.
#[derive(Clone, Debug, Default)]
pub struct StoragePlan {
    /// The storage of the weights that are not stored as plain floats of the chosen type.
    pub storage: BTreeMap<String, Storage>,
    /// Errors of the weights that Lith quantized, by name.
    pub report: Vec<LayerError>,
}

/// The values of a matrix, row-major, and its number of columns.
pub type Matrix = (Vec<f32>, usize);

/// Decides how weights are stored. `stored` tells how the checkpoint has a weight; `values` gives its values and width.
///
/// # Errors
/// When a weight cannot be read.
pub fn plan(
    matrices: &Matrices,
    wanted: &Quantization,
    stored: &(dyn Fn(&str) -> Option<Storage> + Sync),
    values: &(dyn Fn(&str) -> Result<Matrix> + Sync),
) -> Result<StoragePlan> {
    let names: Vec<&String> = matrices.linear.union(&matrices.tables).collect();
    let decided: Vec<Result<(Option<Storage>, Option<LayerError>)>> = names
        .par_iter()
        .map(|name| {
            let kept = stored(name);
            // What a file brings quantized is kept at its width.
            if let Some(Storage::Quantized(_)) = kept {
                return Ok((kept, None));
            }
            let candidates: Vec<Scheme> = match (matrices.tables.contains(*name), wanted.widths) {
                (true, _) => wanted.embeddings.into_iter().collect(),
                (false, Widths::Keep) => Vec::new(),
                (false, Widths::All(scheme)) => vec![scheme],
                (false, Widths::Mixed { .. }) => MIXED.iter().filter_map(|name| scheme(name)).collect(),
            };
            if candidates.is_empty() {
                return Ok((kept, None));
            }
            let (values, cols) = values(name)?;
            for scheme in candidates {
                let error = compare(&values, &quantize(&values, cols, scheme).dequantize());
                if let Widths::Mixed { budget } = wanted.widths
                    && !matrices.tables.contains(*name)
                    && error.relative_rms > budget
                {
                    continue;
                }
                let report = LayerError {
                    name: (*name).clone(),
                    storage: describe(&scheme),
                    bits_per_weight: bits_per_weight(&scheme, cols),
                    error,
                };
                return Ok((Some(Storage::Quantized(scheme)), Some(report)));
            }
            Ok((kept, None))
        })
        .collect();
    let mut plan = StoragePlan::default();
    for (name, decided) in names.into_iter().zip(decided) {
        let (storage, report) = decided?;
        plan.storage.extend(storage.map(|s| (name.clone(), s)));
        plan.report.extend(report);
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked() {
        let new = Quantization::new;
        assert_eq!(new(None, None, None, None).unwrap(), Quantization::default());
        let int4 = new(Some("int4-32"), None, None, Some("int8")).unwrap();
        assert!(int4.rounding == Rounding::Robust && int4.embeddings == scheme("int8-32"));
        assert_eq!(new(Some("int8"), None, Some("none"), None).unwrap().embeddings, None);
        for (bad, word) in [
            (new(Some("int5"), None, None, None), "int4-32"),
            (new(None, Some(0.1), None, None), "mixed"),
            (new(Some("mixed"), Some(2.0), None, None), "between"),
            (new(None, None, Some("int2"), None), "int8"),
            (new(None, None, None, Some("int4")), "float32"),
        ] {
            assert!(bad.unwrap_err().to_string().contains(word));
        }
    }

    #[test]
    fn a_budget_picks_widths() {
        let matrices = Matrices { linear: ["a".into(), "b".into()].into(), tables: ["t".into()].into() };
        let values = |name: &str| -> Result<Matrix> {
            // `b` has an outlier in each group, which narrow codes cannot follow.
            let wave = |i: usize| (i as f32 * 0.7).sin();
            let outlier = |i: usize| if name == "b" && i.is_multiple_of(32) { 60.0 } else { wave(i) };
            Ok(((0..512).map(outlier).collect(), 128))
        };
        let wanted = Quantization {
            widths: Widths::Mixed { budget: 0.09 },
            embeddings: scheme("int8-32"),
            rounding: Rounding::Nowhere,
        };
        let found = plan(&matrices, &wanted, &|_| None, &values).unwrap();
        let bits = |name: &str| found.report.iter().find(|r| r.name == name).map(|r| r.storage.clone());
        assert!(bits("a").unwrap().starts_with("int4"), "{:?}", found.report);
        assert_eq!(bits("t").as_deref(), Some("int8-32"));
        assert!(found.report.iter().all(|r| r.error.relative_rms <= 0.09));
        let kept = Storage::Quantized(scheme("nf4").unwrap());
        let found = plan(&matrices, &wanted, &|_| Some(kept), &values).unwrap();
        assert!(found.report.is_empty() && found.storage["a"] == kept);
    }
}
