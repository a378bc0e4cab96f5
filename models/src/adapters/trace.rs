//! Layers with adapters in a graph, for training (PE-03, PE-05): a targeted linear layer computes
//! `W x + b + scale B A dropout(x)`, with the factors as parameters of their own. Families do not notice: the trace shows every
//! linear layer it records.
//!
//! With magnitudes (DoRA, Liu et al. 2024) it computes `W x + b + (g - 1) W dropout(x) + g scale B A dropout(x)`, where
//! `g = m / |W + scale B A|`, by rows. As in section 4.3 of the paper and in PEFT the norm is a constant to the gradient. The
//! merged weight is never there: with `a`, `b` and `w` for rows and `G = A A^T`,
//! `|w + scale b A|^2 = |w|^2 + 2 scale b . (A w) + scale^2 b G b^T`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;

use lith_frontend::{LinearLayer, Scope, Tensor, Trace};

use super::targets::ends_in;
use super::{AdapterError, Bias, CONFIG_FILE, LoraConfig, Modules, Ranks, Targets, default_targets};
use crate::weights::{Rows, collapse};

/// What precedes the names of the model's modules in an adapter's file.
pub const PREFIX: &str = "base_model.model.";

/// What an adapter's file of weights is called, without its ending.
pub const WEIGHTS_STEM: &str = "adapter_model";

/// How the name of a module's magnitudes ends.
pub const MAGNITUDE: &str = ".lora_magnitude_vector";

/// Whether a parameter of this name is a factor of an adapter, or its magnitudes.
pub fn is_adapter(name: &str) -> bool {
    [".lora_A.weight", ".lora_B.weight", MAGNITUDE].iter().any(|end| name.ends_with(end))
}

/// What of a traced model learns, where adapters do.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapted {
    /// How it is adapted, with nothing left to defaults.
    pub config: LoraConfig,
    /// The parameters that learn, with their names in the adapter's file.
    pub trained: BTreeMap<String, String>,
}

/// From the path of a layer to the module of a file that it is rows of.
type ModuleOf = dyn Fn(&str) -> Option<(String, Rows)>;

/// What adapting has to know of a model.
pub(crate) struct Model {
    /// Its type.
    pub model_type: &'static str,
    /// The name of the body in a model with a head.
    pub base_prefix: &'static str,
    /// Whether its head sorts texts or tokens, so that it is new with the task.
    pub classifier: bool,
    /// The module and the rows of its weight that a layer is, where files have layers joined.
    pub module_of: Box<ModuleOf>,
    /// Whether files have layers joined.
    pub joined: bool,
    /// Whether files have weights as `[in, out]`.
    pub transposed: bool,
}

/// Adapters being traced; the trace's hook shares it.
pub(crate) struct Adapting {
    shared: Rc<Shared>,
}

struct Shared {
    config: LoraConfig,
    targets: Option<Targets>,
    ranks: Ranks,
    model: Model,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    /// Modules of linear layers.
    known: BTreeSet<String>,
    /// Those that are adapted.
    adapted: BTreeSet<String>,
    /// Module and input of the last layer, with `dropout(x)` and `scale A dropout(x)`: parts of one module share them.
    last: Option<(String, Tensor, [Tensor; 2])>,
}

impl Adapting {
    /// Adapters of a model that is about to be traced.
    ///
    /// # Errors
    /// When the configuration asks for what is not trained, or has a broken pattern.
    pub fn new(config: &LoraConfig, model: Model) -> Result<Adapting, AdapterError> {
        let file = Path::new(CONFIG_FILE);
        config.check(file)?;
        let unsupported = |field: &str, problem: &str| {
            Err(AdapterError::Unsupported { file: file.into(), field: field.into(), problem: problem.into() })
        };
        if config.bias != Bias::None && model.joined {
            return unsupported("bias", "the biases of this model's files belong to several layers at once");
        }
        let mut config = LoraConfig { fan_in_fan_out: model.transposed, ..config.clone() };
        if config.target_modules.is_none() {
            config.target_modules = default_targets(model.model_type).map(Modules::Names);
        }
        let targets = config.target_modules.is_some().then(|| Targets::new(&config)).transpose()?;
        let ranks = Ranks::new(&config)?;
        Ok(Adapting { shared: Rc::new(Shared { config, targets, ranks, model, state: RefCell::default() }) })
    }

    /// Adapts the linear layers that are traced from now on.
    pub fn install(&self, trace: &Trace) {
        let shared = self.shared.clone();
        trace.on_linear(move |scope, layer| shared.adapt(scope, layer));
    }

    /// What came of it; `params` are those of the traced program.
    ///
    /// # Errors
    /// When nothing was adapted, or modules to save are not there.
    pub fn finish(self, params: &[&str]) -> Result<Adapted, AdapterError> {
        let Shared { config, targets, model, state, .. } = &*self.shared;
        let state = state.borrow();
        let known = || collapse(state.known.iter().map(String::as_str)).join(", ");
        if targets.is_none() {
            return Err(AdapterError::NoTargets { model_type: model.model_type.into(), known: known() });
        }
        if state.adapted.is_empty() {
            let targets = config.target_modules.as_ref().map(|t| t.to_string()).unwrap_or_default();
            return Err(AdapterError::NoMatch { place: model.model_type.into(), targets, known: known() });
        }
        let mut config = config.clone();
        if config.modules_to_save.is_none() && model.classifier {
            let head = params.iter().filter(|name| !is_adapter(name) && !self.shared.in_body(name));
            let modules: BTreeSet<String> =
                head.filter_map(|name| name.split_once('.')).map(|(module, _)| module.to_string()).collect();
            config.modules_to_save = Some(modules.into_iter().collect());
        }
        let saved = config.modules_to_save.clone().unwrap_or_default();
        if let Some(absent) = saved.iter().find(|module| !params.iter().any(|name| stands_in(name, module))) {
            return Err(AdapterError::Field {
                file: Path::new(CONFIG_FILE).into(),
                field: "modules_to_save".into(),
                expected: "modules of the model".into(),
                found: absent.clone(),
            });
        }
        if config.target_modules == Some(Modules::AllLinear) {
            config.target_modules = Some(Modules::Names(state.adapted.iter().cloned().collect()));
        }
        let stored = |name: &str| -> Option<String> {
            let bias_of = name.strip_suffix(".bias");
            let of_adapted = bias_of.filter(|module| state.adapted.contains(*module));
            if is_adapter(name) || saved.iter().any(|module| stands_in(name, module)) {
                return Some(format!("{PREFIX}{name}"));
            }
            match (config.bias, bias_of, of_adapted) {
                // A layer with adapter is wrapped, its own parameters stand within.
                (Bias::All | Bias::LoraOnly, _, Some(module)) => Some(format!("{PREFIX}{module}.base_layer.bias")),
                (Bias::All, Some(_), None) => Some(format!("{PREFIX}{name}")),
                _ => None,
            }
        };
        let trained = params.iter().filter_map(|name| Some((name.to_string(), stored(name)?))).collect();
        Ok(Adapted { config, trained })
    }
}

impl Shared {
    /// Whether a parameter or module stands in the body rather than the head.
    fn in_body(&self, name: &str) -> bool {
        name.strip_prefix(self.model.base_prefix).is_some_and(|rest| rest.starts_with('.'))
    }

    /// Whether a module is trained as it is.
    fn is_saved(&self, module: &str) -> bool {
        match &self.config.modules_to_save {
            Some(names) => names.iter().any(|name| stands_in(module, name)),
            None => self.model.classifier && !self.in_body(module),
        }
    }

    /// What becomes of a linear layer.
    fn adapt(&self, scope: &Scope, layer: LinearLayer<'_>) -> Tensor {
        let LinearLayer { x, weight, bias, y, shape: [outputs, inputs] } = layer;
        let name = scope.name("");
        let last = |path: &str| path.rsplit('.').next().map(String::from);
        // An output layer that has the table of embeddings for its weight is no module of that name.
        if last(&name) != last(scope.path()) {
            return y;
        }
        let (module, rows) = match (self.model.module_of)(&name) {
            Some((module, rows)) => (module, Some(rows)),
            None => (name, None),
        };
        self.state.borrow_mut().known.insert(module.clone());
        let Some(targets) = &self.targets else { return y };
        let of_head = targets.are_all_linear() && !self.in_body(&module);
        if of_head || self.is_saved(&module) || !targets.include(&module) {
            return y;
        }
        self.state.borrow_mut().adapted.insert(module.clone());
        let (rank, scale) = self.ranks.of(&module);
        let root = scope.trace().root();
        let known = self.state.borrow().last.clone().filter(|(of, input, _)| *of == module && input.is(x));
        let a = root.param(&format!("{module}.lora_A.weight"), [rank, inputs]);
        let [input, low] = known.map_or_else(
            || {
                let input = x.dropout(self.config.lora_dropout);
                let low = input.linear(&a, None) * scale;
                [input, low]
            },
            |(_, _, known)| known,
        );
        let of = rows.map_or(outputs, |rows| rows.of);
        let b = root.param(&format!("{module}.lora_B.weight"), [of, rank]);
        let b = rows.map_or(b.clone(), |rows| rows_of(&b, rows, rank));
        let magnitude = self.config.use_dora.then(|| {
            let all = root.param(&format!("{module}{MAGNITUDE}"), [of]);
            rows.map_or(all.clone(), |rows| rows_of(&all.reshape([of, 1]), rows, 1).reshape([outputs]))
        });
        self.state.borrow_mut().last = Some((module, x.clone(), [input.clone(), low.clone()]));
        let Some(magnitude) = magnitude else { return y + low.linear(&b, None) };
        let gain = magnitude / constant(&row_norms(weight, &a, &b, scale));
        // Where nothing is dropped the product is there already.
        let plain = match bias {
            _ if self.config.lora_dropout > 0.0 => input.linear(weight, None),
            Some(bias) => &y - bias,
            None => y.clone(),
        };
        y + plain * (&gain - 1.0) + low.linear(&b, None) * gain
    }
}

/// The norms of the rows of `w + scale b a`, `[out]`; of `w [out, in]`, `a [rank, in]` and `b [out, rank]`.
fn row_norms(w: &Tensor, a: &Tensor, b: &Tensor, scale: f64) -> Tensor {
    let crossed = (a.linear(w, None).transpose(&[1, 0]) * b).sum(&[-1], false);
    let own = (b.linear(&a.linear(a, None), None) * b).sum(&[-1], false);
    let squares = (w * w).sum(&[-1], false) + crossed * (2.0 * scale) + own * (scale * scale);
    // Rounding may leave less than nothing of a row that the adapter takes away.
    squares.at_least(1e-30).sqrt()
}

/// The same values as a constant to the gradient. A float of 24 bits, if it is neither below 2^-36 nor above 2^67, is a
/// multiple of 2^-60, so rounding it to one changes nothing; and what is rounded has no gradient.
fn constant(x: &Tensor) -> Tensor {
    let unit = (-60f64).exp2();
    (x * (1.0 / unit)).round() * unit
}

/// Whether a path is that of a module of this name or of something in it.
fn stands_in(path: &str, module: &str) -> bool {
    path.match_indices('.').map(|(at, _)| at).chain([path.len()]).any(|at| ends_in(&path[..at], module))
}

/// These rows of a matrix with `columns` columns.
fn rows_of(matrix: &Tensor, rows: Rows, columns: usize) -> Tensor {
    let Rows { first, len, stride, blocks, .. } = rows;
    if blocks == 1 {
        return matrix.slice(0, first, first + len);
    }
    matrix.reshape([blocks, stride, columns]).slice(1, first, first + len).reshape([rows.count(), columns])
}

#[cfg(test)]
mod tests {
    use super::stands_in;

    #[test]
    fn parameters_of_modules() {
        assert!(stands_in("classifier.dense.weight", "classifier") && stands_in("classifier", "classifier"));
        assert!(stands_in("bert.pooler.dense.bias", "pooler.dense"));
        assert!(!stands_in("pre_classifier.weight", "classifier") && !stands_in("a.b", "c"));
    }
}
