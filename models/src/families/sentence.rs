//! Sentence-transformers directories (Reimers and Gurevych 2019, arXiv 1908.10084): `modules.json` names a stack of
//! modules, the first a model of ours, the others making one vector for each sequence.

use lith_frontend::nn::{self, Act, Pooling};
use lith_frontend::{Layout, Tensor};
use lith_ir::Activation;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{ENTRY, FamilyError, Model, Part, Traced, family};
use crate::config::{Config, ConfigError, Head};
use crate::source::{Source, is_inside, read_text};
use crate::weights::{Rules, Wanted};

/// Largest module configuration that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Files that tell the transformer module's settings; old ones are named by the model type.
const SETTINGS: &[&str] = &[
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
];

/// A stack of modules.
#[derive(Clone, Debug, PartialEq)]
pub struct Stack {
    /// Folder of the transformer's configuration, weights and tokenizer within the directory; empty for the directory
    /// itself.
    pub transformer: String,
    /// Most tokens of a sequence, special tokens included, when the directory tells.
    pub max_seq_length: Option<usize>,
    /// Whether texts are lowered before tokenization.
    pub do_lower_case: bool,
    /// What follows the transformer.
    pub modules: Vec<Module>,
}

/// A module after the transformer.
#[derive(Clone, Debug, PartialEq)]
pub enum Module {
    /// One vector for each sequence; several ways stand side by side.
    Pooling(Vec<Pooling>),
    /// To length 1.
    Normalize,
    /// A linear layer with activation. Parameters `linear.weight`, `linear.bias`.
    Dense {
        /// Its folder.
        folder: String,
        /// `[out, in]`
        shape: [usize; 2],
        /// Whether it has a bias.
        bias: bool,
        /// What follows the linear layer.
        act: Act,
    },
    /// Layer normalisation. Parameters `norm.weight`, `norm.bias`.
    LayerNorm {
        /// Its folder.
        folder: String,
        /// The width.
        width: usize,
    },
}

#[derive(Deserialize)]
struct Entry {
    path: String,
    #[serde(rename = "type")]
    class: String,
}

#[derive(Deserialize)]
struct Settings {
    max_seq_length: Option<usize>,
    #[serde(default)]
    do_lower_case: bool,
}

#[derive(Deserialize)]
struct PoolingConfig {
    pooling_mode: Option<Modes>,
    #[serde(default)]
    pooling_mode_cls_token: bool,
    #[serde(default)]
    pooling_mode_max_tokens: bool,
    #[serde(default = "yes")]
    pooling_mode_mean_tokens: bool,
    #[serde(default)]
    pooling_mode_mean_sqrt_len_tokens: bool,
    #[serde(default)]
    pooling_mode_weightedmean_tokens: bool,
    #[serde(default)]
    pooling_mode_lasttoken: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Modes {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct DenseConfig {
    in_features: usize,
    out_features: usize,
    #[serde(default = "yes")]
    bias: bool,
    activation_function: Option<String>,
    /// What the layer is applied to, where not the sentence's vector.
    module_input_name: Option<String>,
}

#[derive(Deserialize)]
struct LayerNormConfig {
    dimension: usize,
}

fn yes() -> bool {
    true
}

impl Stack {
    /// Reads the stack of a directory; `None` when it has no `modules.json`.
    ///
    /// # Errors
    /// When a file is broken or a module is none that Lith has.
    pub fn read(source: &Source) -> Result<Option<Stack>, FamilyError> {
        let list = "modules.json";
        if source.optional(list).map_err(ConfigError::from)?.is_none() {
            return Ok(None);
        }
        let entries: Vec<Entry> = read(source, list)?;
        let problem = |problem: String| FamilyError::Module { file: list.into(), problem };
        let (first, rest) = entries.split_first().ok_or_else(|| problem("no modules".into()))?;
        for entry in &entries {
            if !entry.path.is_empty() && !is_inside(&entry.path) {
                return Err(problem(format!("path `{}` leads out of the directory", entry.path)));
            }
        }
        if class(first)? != "Transformer" {
            return Err(problem(format!("the first module is {}, expected Transformer", first.class)));
        }
        let mut stack = Stack {
            transformer: first.path.clone(),
            max_seq_length: None,
            do_lower_case: false,
            modules: Vec::with_capacity(rest.len()),
        };
        for name in SETTINGS {
            let name = within(&first.path, name);
            if source.optional(&name).map_err(ConfigError::from)?.is_some() {
                let settings: Settings = read(source, &name)?;
                (stack.max_seq_length, stack.do_lower_case) = (settings.max_seq_length, settings.do_lower_case);
                break;
            }
        }
        for entry in rest {
            stack.modules.extend(Module::read(source, entry)?);
        }
        match stack.modules.iter().position(|module| matches!(module, Module::Pooling(_))) {
            Some(0) => Ok(Some(stack)),
            _ => Err(problem("the second module is no Pooling".into())),
        }
    }
}

impl Module {
    /// The module of an entry; `None` for one that does nothing in inference.
    fn read(source: &Source, entry: &Entry) -> Result<Option<Module>, FamilyError> {
        let config = within(&entry.path, "config.json");
        let problem = |problem: String| FamilyError::Module { file: config.clone().into(), problem };
        let folder = || match entry.path.as_str() {
            "" => Err(problem(format!("{} without a path", entry.class))),
            path => Ok(path.to_string()),
        };
        Ok(Some(match class(entry)? {
            "Pooling" => Module::Pooling(read::<PoolingConfig>(source, &config)?.modes().map_err(problem)?),
            "Normalize" => Module::Normalize,
            "Dropout" => return Ok(None),
            "LayerNorm" => {
                Module::LayerNorm { folder: folder()?, width: read::<LayerNormConfig>(source, &config)?.dimension }
            }
            "Dense" => {
                let dense: DenseConfig = read(source, &config)?;
                if let Some(input) = dense.module_input_name.filter(|name| name != "sentence_embedding") {
                    return Err(problem(format!("module_input_name `{input}`, expected sentence_embedding")));
                }
                let name = dense.activation_function.unwrap_or_else(|| "torch.nn.modules.activation.Tanh".into());
                let act =
                    torch_activation(&name).ok_or_else(|| problem(format!("unknown activation_function `{name}`")))?;
                Module::Dense {
                    folder: folder()?,
                    shape: [dense.out_features, dense.in_features],
                    bias: dense.bias,
                    act,
                }
            }
            other => {
                let known = "Pooling, Normalize, Dense, LayerNorm, Dropout";
                return Err(FamilyError::Module {
                    file: "modules.json".into(),
                    problem: format!("unknown module `{other}`; known: {known}"),
                });
            }
        }))
    }
}

impl PoolingConfig {
    /// The ways in the order their vectors are joined.
    fn modes(self) -> Result<Vec<Pooling>, String> {
        let named = match self.pooling_mode {
            None => None,
            Some(Modes::One(name)) => Some(vec![name]),
            Some(Modes::Many(names)) => Some(names),
        };
        let rows = [
            ("cls", Pooling::Cls, self.pooling_mode_cls_token),
            ("max", Pooling::Max, self.pooling_mode_max_tokens),
            ("mean", Pooling::Mean, self.pooling_mode_mean_tokens),
            ("mean_sqrt_len_tokens", Pooling::MeanSqrtLen, self.pooling_mode_mean_sqrt_len_tokens),
            ("weightedmean", Pooling::WeightedMean, self.pooling_mode_weightedmean_tokens),
            ("lasttoken", Pooling::LastToken, self.pooling_mode_lasttoken),
        ];
        if let Some(unknown) = named.iter().flatten().find(|name| rows.iter().all(|row| row.0 != name.as_str())) {
            return Err(format!("unknown pooling_mode `{unknown}`"));
        }
        let asked = |(name, mode, flag): (&str, Pooling, bool)| {
            named.as_ref().map_or(flag, |names| names.iter().any(|n| n == name)).then_some(mode)
        };
        let modes: Vec<Pooling> = rows.into_iter().filter_map(asked).collect();
        if modes.is_empty() { Err("no pooling mode is on".into()) } else { Ok(modes) }
    }
}

/// The last part of a module's Python class, which must be one of sentence-transformers' own.
fn class(entry: &Entry) -> Result<&str, FamilyError> {
    let own = entry.class.starts_with("sentence_transformers.");
    entry.class.rsplit('.').next().filter(|_| own).ok_or_else(|| FamilyError::Module {
        file: "modules.json".into(),
        problem: format!("module `{}` needs Python code of its own, which Lith does not run", entry.class),
    })
}

/// The activation of a PyTorch class.
fn torch_activation(class: &str) -> Option<Act> {
    Some(match class.rsplit('.').next()? {
        "Identity" => Act::Linear,
        "Tanh" => Act::Tanh,
        "ReLU" => Act::Op(Activation::Relu),
        "ReLU6" => Act::Op(Activation::Relu6),
        "LeakyReLU" => Act::Op(Activation::LeakyRelu),
        "GELU" => Act::Op(Activation::Gelu),
        "SiLU" => Act::Op(Activation::Silu),
        "Sigmoid" => Act::Op(Activation::Sigmoid),
        "Mish" => Act::Op(Activation::Mish),
        "Hardswish" => Act::Op(Activation::Hardswish),
        _ => return None,
    })
}

fn within(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.into() } else { format!("{}/{name}", folder.trim_end_matches('/')) }
}

fn read<T: DeserializeOwned>(source: &Source, name: &str) -> Result<T, FamilyError> {
    let file = source.required(name).map_err(ConfigError::from)?;
    let text = read_text(&file, MAX_BYTES).map_err(ConfigError::from)?;
    serde_json::from_str(&text).map_err(|error| FamilyError::Module { file, problem: error.to_string() })
}

/// Traces a stack over the transformer of this configuration. The program's result is `sentence_embedding`.
///
/// # Errors
/// As [`super::trace`], and when widths of modules do not fit each other.
pub fn trace(config: &Config, stack: &Stack, layout: Layout) -> Result<Traced, FamilyError> {
    let family = family(config)?;
    let model = Model::new(config, family, layout)?;
    let root = model.tokens.ids().trace().root();
    let mut x = (family.body)(&model, &root)?;
    for module in &stack.modules {
        x = match module {
            Module::Pooling(modes) => {
                let pooled: Vec<Tensor> = modes.iter().map(|mode| mode.apply(&model.tokens, &x)).collect();
                match pooled.split_first() {
                    Some((first, rest)) => first.concat(-1, rest),
                    None => x,
                }
            }
            Module::Normalize => x.l2_norm(1e-12),
            Module::Dense { folder, shape, bias, act } => root.at(folder, |s| {
                let layer = if *bias { nn::linear } else { nn::linear_no_bias };
                act.apply(&layer(s, "linear", &x, *shape))
            }),
            Module::LayerNorm { folder, width } => root.at(folder, |s| nn::layer_norm(s, "norm", &x, *width, 1e-5)),
        };
    }
    let mut traced = model.finish(Head::Base, ENTRY, vec![("sentence_embedding", x)])?;
    let folders = stack.modules.iter().filter_map(|module| match module {
        Module::Dense { folder, .. } | Module::LayerNorm { folder, .. } => Some(folder),
        Module::Pooling(_) | Module::Normalize => None,
    });
    for folder in folders {
        let prefix = format!("{folder}.");
        traced.split_off(folder, prefix);
    }
    for part in traced.parts.iter_mut().take(1) {
        part.folder = stack.transformer.clone();
        // The directory holds the whole base model; its pooler has no use here. A test sees that no ignorable is lost.
        part.rules.ignorable = family.pooler.map_or(part.rules.ignorable, |pooler| pooler.tensors);
    }
    Ok(traced)
}

impl Traced {
    /// Moves the parameters whose names start with `prefix` from the first part to one of their own.
    fn split_off(&mut self, folder: &str, prefix: String) {
        let Some(main) = self.parts.first_mut() else { return };
        let (moved, stay) = std::mem::take(&mut main.wanted).into_iter().partition(|w| w.name.starts_with(&prefix));
        main.wanted = stay;
        let moved: Vec<Wanted> = moved;
        let bare = |wanted: Wanted| Wanted { name: wanted.name[prefix.len()..].to_string(), ..wanted };
        let wanted = moved.into_iter().map(bare).collect();
        self.parts.push(Part { folder: folder.into(), prefix, wanted, rules: Rules::default() });
    }
}
