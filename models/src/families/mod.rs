//! Model families: one file for each architecture, made of `nn` blocks, and the way from a configuration to a program.
//! Knows nothing of files, devices or machine code.
//!
//! Adding a family: write its file with a [`Family`] row, and name the row in [`REGISTRY`]. A row's `body` gives the
//! hidden states, each head turns those into the members of Transformers' outputs.

mod albert;
mod bert;
mod cohere;
mod decoder;
mod distilbert;
mod electra;
mod error;
mod falcon;
mod gemma;
mod gpt2;
mod gpt_neox;
mod granite;
mod heads;
mod llama;
mod loss;
mod mistral;
mod mpnet;
mod olmo2;
mod phi3;
mod qwen2;
mod roberta;
mod rope;
pub mod sentence;
mod smollm3;
mod starcoder2;

pub use error::FamilyError;

use lith_frontend::{Layout, Scope, Sequence, Tensor, Trace, nn::Act};
use lith_ir::{DType, Program};

use crate::adapters::{Adapted, Adapting, LoraConfig, is_adapter};
use crate::config::{Config, ConfigError, Head};
use crate::weights::{Piece, Rows, Rules, Wanted};

/// Every family.
pub const REGISTRY: &[&Family] = &[
    &bert::BERT,
    &distilbert::DISTILBERT,
    &roberta::ROBERTA,
    &roberta::XLM_ROBERTA,
    &roberta::CAMEMBERT,
    &mpnet::MPNET,
    &electra::ELECTRA,
    &albert::ALBERT,
    &llama::LLAMA,
    &mistral::MISTRAL,
    &qwen2::QWEN2,
    &qwen2::QWEN3,
    &phi3::PHI3,
    &gemma::GEMMA,
    &gemma::GEMMA2,
    &gemma::GEMMA3_TEXT,
    &gpt2::GPT2,
    &gpt_neox::GPT_NEOX,
    &starcoder2::STARCODER2,
    &falcon::FALCON,
    &smollm3::SMOLLM3,
    &olmo2::OLMO2,
    &granite::GRANITE,
    &cohere::COHERE,
];

/// Name of the entry point of a traced model.
pub const ENTRY: &str = "forward";

/// Most layers that are traced. The deepest encoders have about 200; a configuration that asks for millions is broken.
const MAX_LAYERS: usize = 2048;

/// Named results, in order.
type Outputs = Vec<(&'static str, Tensor)>;

/// An architecture: what Transformers has a `modeling_*.py` for.
pub struct Family {
    /// The configuration's `model_type`.
    pub model_type: &'static str,
    /// What its checkpoints are like; `base_prefix` is where the body stands in a model with a head.
    pub rules: Rules,
    /// `(parameter, tensor it shares)` with `tie_word_embeddings`: output projections and their input embeddings.
    pub tied: &'static [(&'static str, &'static str)],
    /// `(parameter, name older files have it by)`.
    pub aliases: &'static [(&'static str, &'static str)],
    /// Layers that stand in the file in another form.
    fused: Option<FusedFn>,
    /// Most tokens of a sequence: what the position embeddings reach.
    max_length: fn(&Config) -> Result<usize, ConfigError>,
    /// Hidden states `[.., hidden]` of the tokens.
    body: fn(&Model<'_>, &Scope) -> Result<Tensor, FamilyError>,
    /// `pooler_output` of the hidden states, where the family has it.
    pooler: Option<Pooler>,
    /// The heads besides [`Head::Base`].
    heads: &'static [(Head, HeadFn)],
}

/// A layer whose weight and bias are parts of another layer's in the file.
struct Fused {
    /// How the layer's name ends.
    name: &'static str,
    /// How that of the layer in the file ends.
    of: &'static str,
    rows: Rows,
    /// Whether the file's weight is `[in, out]`.
    transposed: bool,
}

impl Fused {
    /// The part that the parameter `name` is, if it is of this layer.
    fn piece(&self, name: &str, rank: usize) -> Option<Piece> {
        [".weight", ".bias"].into_iter().find_map(|kind| {
            let stem = name.strip_suffix(kind)?.strip_suffix(self.name)?;
            let of = format!("{stem}{}{kind}", self.of);
            (stem.is_empty() || stem.ends_with('.')).then_some(Piece {
                of,
                rows: self.rows,
                transposed: self.transposed && rank == 2,
            })
        })
    }
}

type FusedFn = fn(&Config) -> Result<Vec<Fused>, ConfigError>;

type HeadFn = fn(&Model<'_>, &Scope, &Tensor) -> Result<Outputs, FamilyError>;

/// The layer that makes `pooler_output`: a dense layer with tanh on each sequence's first token.
#[derive(Clone, Copy, Debug)]
struct Pooler {
    /// Name of the dense layer within the body.
    dense: &'static str,
    /// Patterns of its tensors, for models that leave it out on purpose.
    tensors: &'static [&'static str],
}

impl Family {
    /// The family of this model type.
    pub fn find(model_type: &str) -> Option<&'static Family> {
        REGISTRY.iter().copied().find(|family| family.model_type == model_type)
    }

    /// The heads that there are.
    pub fn heads(&self) -> impl Iterator<Item = Head> {
        std::iter::once(Head::Base).chain(self.heads.iter().map(|(head, _)| *head))
    }

    /// Whether a checkpoint holds the pooler of this family; `stored` tells whether it has a tensor of a name.
    pub fn has_pooler(&self, stored: impl Fn(&str) -> bool) -> bool {
        self.pooler.is_some_and(|pooler| {
            let name = format!("{}.weight", pooler.dense);
            stored(&format!("{}.{name}", self.rules.base_prefix)) || stored(&name)
        })
    }
}

/// What a model is traced with.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// How the sequences of a batch lie in memory.
    pub layout: Layout,
    /// Whether [`Head::Base`] yields `pooler_output`, where the family has a pooler. Checkpoints of models with a head
    /// often lack it; [`Family::has_pooler`] tells.
    pub pooler: bool,
    /// Whether the model is to be trained: see [`Training`].
    pub training: Option<Training>,
    /// Low-rank adapters beside linear layers, to be trained in their place.
    pub lora: Option<&'a LoraConfig>,
}

/// What a model is trained by. The program has two entry points then, [`LOSS_ENTRY`] and [`EVAL_ENTRY`], with dropout and
/// without; both have the results `loss_sum` and `items`, how much is lost and of how many, before those of the model, and
/// arguments that tell what is right.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Training {
    /// The share of each label that goes to all classes equally (label smoothing).
    pub smoothing: f64,
}

/// Entry point of the loss that training makes small.
pub const LOSS_ENTRY: &str = "loss";

/// Entry point of the same loss as it is when the model is used.
pub const EVAL_ENTRY: &str = "eval_step";

impl Default for Options<'_> {
    fn default() -> Self {
        Options { layout: Layout::Packed, pooler: true, training: None, lora: None }
    }
}

/// The parameters that come from one checkpoint.
#[derive(Clone, Debug)]
pub struct Part {
    /// Folder of the checkpoint within the model's directory; empty for the directory itself.
    pub folder: String,
    /// What precedes the names of [`Part::wanted`] in the program: empty, or text that ends with a dot.
    pub prefix: String,
    /// The parameters by their name in the checkpoint.
    pub wanted: Vec<Wanted>,
    /// What the checkpoint is like.
    pub rules: Rules,
}

/// A traced model.
#[derive(Clone, Debug)]
pub struct Traced {
    /// The program, with the one entry point [`ENTRY`]. Its results are the members of Transformers' output class:
    /// of [`Head::Base`] `last_hidden_state` and maybe `pooler_output`, of question answering `start_logits` and
    /// `end_logits`, of other heads `logits`; in the paged layout also `hidden_states`, what the logits are made of; of a sentence-transformers stack `sentence_embedding`.
    pub program: Program,
    /// Where its parameters come from.
    pub parts: Vec<Part>,
    /// Most tokens of a sequence; beyond, positions have no embedding.
    pub max_length: usize,
    /// What of it learns, where it was traced with adapters.
    pub adapted: Option<Adapted>,
}

/// Traces a model with a head.
///
/// # Errors
/// When the configuration does not fit the family, or the family lacks the head.
pub fn trace(config: &Config, head: Head, options: &Options<'_>) -> Result<Traced, FamilyError> {
    if options.training.is_none() {
        return trace_entry(config, head, options, ENTRY);
    }
    let mut traced = trace_entry(config, head, options, LOSS_ENTRY)?;
    let eval = trace_entry(config, head, options, EVAL_ENTRY)?;
    traced.program.entries.extend(eval.program.entries);
    Ok(traced)
}

/// Traces one entry point.
fn trace_entry(config: &Config, head: Head, options: &Options<'_>, entry: &str) -> Result<Traced, FamilyError> {
    let family = family(config)?;
    let build = match head {
        Head::Base => None,
        _ => Some(*family.heads.iter().find(|(known, _)| *known == head).map(|(_, build)| build).ok_or_else(|| {
            let heads = family.heads().map(|head| head.to_string()).collect::<Vec<_>>().join(", ");
            FamilyError::NoHead { file: config.file().into(), model_type: family.model_type, head, heads }
        })?),
    };
    let model = Model::new(config, family, options.layout)?;
    let root = model.tokens.ids().trace().root();
    if entry == LOSS_ENTRY {
        root.trace().start_dropout();
    }
    let adapting = options.lora.map(|lora| adapting(lora, config, family, head)).transpose()?;
    if let Some(adapting) = &adapting {
        adapting.install(root.trace());
    }
    let mut outputs: Outputs = match build {
        None => {
            let hidden = (family.body)(&model, &root)?;
            let pooled =
                options.pooler.then(|| family.pooler.map(|_| model.pooled(&root, &hidden))).flatten().transpose()?;
            let pooled = pooled.map(|pooled| ("pooler_output", pooled));
            std::iter::once(("last_hidden_state", hidden)).chain(pooled).collect()
        }
        Some(build) => {
            let hidden = root.at(family.rules.base_prefix, |s| (family.body)(&model, s))?;
            let mut outputs = build(&model, &root, &hidden)?;
            // Searches that compare tokens by what the model makes of them want it; it is there anyway.
            if matches!(options.layout, Layout::Paged(_)) {
                outputs.push(("hidden_states", hidden));
            }
            outputs
        }
    };
    if let Some(Training { smoothing }) = options.training {
        let loss::Loss { sum, items } = loss::loss(&model, head, &outputs, smoothing)?;
        outputs.splice(0..0, [("loss_sum", sum), ("items", items)]);
    }
    let mut traced = model.finish(head, entry, outputs)?;
    let params: Vec<&str> = traced.program.params.keys().map(String::as_str).collect();
    traced.adapted = adapting.map(|adapting| adapting.finish(&params)).transpose()?;
    Ok(traced)
}

/// Adapters of a family's linear layers.
fn adapting(lora: &LoraConfig, config: &Config, family: &Family, head: Head) -> Result<Adapting, FamilyError> {
    let fused = family.fused.map_or_else(|| Ok(Vec::new()), |fused| fused(config))?;
    let model = crate::adapters::Model {
        model_type: family.model_type,
        base_prefix: family.rules.base_prefix,
        classifier: !matches!(head, Head::Base | Head::CausalLm | Head::MaskedLm),
        joined: !fused.is_empty(),
        transposed: fused.iter().any(|fused| fused.transposed),
        module_of: Box::new(move |layer| {
            let piece = fused.iter().find_map(|fused| fused.piece(&format!("{layer}.weight"), 2))?;
            Some((piece.of.strip_suffix(".weight")?.to_string(), piece.rows))
        }),
    };
    Ok(Adapting::new(lora, model)?)
}

fn family(config: &Config) -> Result<&'static Family, FamilyError> {
    let known = || REGISTRY.iter().map(|family| family.model_type).collect::<Vec<_>>().join(", ");
    Family::find(config.model_type()).ok_or_else(|| FamilyError::NoFamily {
        file: config.file().into(),
        model_type: config.model_type(),
        known: known(),
    })
}

/// A model being traced: what bodies and heads build from.
struct Model<'a> {
    config: &'a Config,
    family: &'static Family,
    tokens: Sequence,
    max_length: usize,
}

impl<'a> Model<'a> {
    fn new(config: &'a Config, family: &'static Family, layout: Layout) -> Result<Self, FamilyError> {
        let max_length = (family.max_length)(config)?;
        let trace = Trace::new(family.model_type, DType::F32);
        // Without the field, or with one type, every token has type 0 and there is nothing to tell.
        let type_ids = config.value("type_vocab_size").as_u64().is_some_and(|types| types > 1);
        let tokens = Sequence::arguments(&trace, layout, type_ids, max_length);
        Ok(Model { config, family, tokens, max_length })
    }

    /// The width of the hidden states.
    fn hidden(&self) -> Result<usize, FamilyError> {
        Ok(self.config.positive("hidden_size")?)
    }

    /// The number of layers that `field` tells.
    fn layers(&self, field: &str) -> Result<usize, FamilyError> {
        let layers = self.config.size(field)?;
        if layers > MAX_LAYERS {
            return Err(self.bad_field(field, &format!("at most {MAX_LAYERS}"), layers));
        }
        Ok(layers)
    }

    /// How many tokens a token sees in layers with a window; 0 for all.
    fn window(&self) -> Result<usize, FamilyError> {
        Ok(self.config.optional_size("sliding_window")?.unwrap_or(0))
    }

    /// Which of the layers have a window: what `layer_types` says, or else `default` (CFG-20, CFG-22).
    fn layer_types(&self, layers: usize, default: impl Fn(usize) -> bool) -> Result<Vec<bool>, FamilyError> {
        let given = self.config.value("layer_types");
        let Some(list) = given.as_array() else { return Ok((0..layers).map(default).collect()) };
        if list.len() != layers {
            return Err(self.bad_field("layer_types", &format!("{layers} items, one for each layer"), list.len()));
        }
        let windowed = |kind: &serde_json::Value| match kind.as_str() {
            Some("sliding_attention") => Ok(true),
            Some("full_attention" | "attention") => Ok(false),
            _ => Err(self.bad_field("layer_types", "full_attention or sliding_attention", kind)),
        };
        list.iter().map(windowed).collect()
    }

    /// The activation that `field` names.
    fn act(&self, field: &str) -> Result<Act, FamilyError> {
        let name = self.config.text(field)?;
        Act::from_name(&name).ok_or_else(|| self.bad_field(field, "the name of an activation", name))
    }

    fn bad_field(&self, field: &str, expected: &str, found: impl ToString) -> FamilyError {
        FamilyError::Config(ConfigError::Field {
            file: self.config.file().into(),
            field: field.into(),
            expected: expected.into(),
            found: found.to_string(),
        })
    }

    /// `pooler_output`; `body` is the scope of the body.
    fn pooled(&self, body: &Scope, hidden: &Tensor) -> Result<Tensor, FamilyError> {
        let width = self.hidden()?;
        let dense = self.family.pooler.map_or("pooler", |pooler| pooler.dense);
        Ok(lith_frontend::nn::linear(body, dense, &self.tokens.first(hidden), [width, width]).tanh())
    }

    fn finish(self, head: Head, entry: &str, outputs: Outputs) -> Result<Traced, FamilyError> {
        let trace = self.tokens.ids().trace().clone();
        for (name, tensor) in &outputs {
            trace.result(name, tensor);
        }
        let file = || self.config.file().into();
        let program =
            trace.finish(entry).map_err(|source| FamilyError::Trace { file: file(), source: source.into() })?;
        let tie = self.config.flag("tie_word_embeddings")?;
        let fused = self.family.fused.map_or_else(|| Ok(Vec::new()), |fused| fused(self.config))?;
        let wanted = program.params.iter().filter(|(name, _)| !is_adapter(name)).filter_map(|(name, ty)| {
            let body = head == Head::Base || in_scope(name, self.family.rules.base_prefix);
            let piece = fused.iter().find_map(|fused| fused.piece(name, ty.rank()));
            let wanted = Wanted { head: !body, piece, ..Wanted::body(name, ty.static_shape()?) };
            // Tying is symmetric: whichever of the two a file has is both.
            let ties = self.family.tied.iter().filter(|_| tie).flat_map(|(a, b)| [(a, b), (b, a)]);
            let aliases = self.family.aliases.iter().map(|(a, b)| (a, b));
            let others = ties.chain(aliases).filter(|(parameter, _)| *parameter == name);
            Some(others.fold(wanted, |wanted, (_, other)| wanted.tied(*other)))
        });
        let part =
            Part { folder: String::new(), prefix: String::new(), wanted: wanted.collect(), rules: self.family.rules };
        Ok(Traced { program, parts: vec![part], max_length: self.max_length, adapted: None })
    }
}

/// Whether the parameter `name` stands within the scope `prefix`.
fn in_scope(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'))
}

#[cfg(test)]
mod decoder_tests;
#[cfg(test)]
mod tests;
