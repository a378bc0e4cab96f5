//! The configuration of a GGUF file as Transformers' `config.json` says it.
//!
//! Fields are written under their long-standing names (`rope_theta`, `rope_scaling`), but for Gemma 3, whose kinds of
//! layers each have a `rope_parameters` of their own. Whatever GGUF does not say is
//! left out: the defaults of the model type hold. `rope_freqs.weight`, which has the divisors of Llama 3's
//! frequencies, becomes `longrope` with these factors, the same for any length: Transformers divides frequencies by
//! them in the same way, and the four numbers of `llama3` cannot be had back from them.

use serde_json::{Map, Value, json};

use super::names::{Architecture, Heads};
use super::{Gguf, GgufError, tokenizer};

/// What the shape of a model's parameters depends on.
#[derive(Debug)]
pub(super) struct Model {
    pub architecture: &'static Architecture,
    pub heads: Heads,
    /// Whether layers have a norm for each branch (Falcon).
    pub separate_norms: bool,
}

/// GGUF's divisors of rope frequencies.
const FREQUENCIES: &str = "rope_freqs.weight";
const SHORT: &str = "rope_factors_short.weight";
const LONG: &str = "rope_factors_long.weight";

/// Tensors that the configuration has taken in.
pub(super) const CONFIG_TENSORS: [&str; 3] = [FREQUENCIES, SHORT, LONG];

/// `(key after the architecture, field)` of most decoders.
const SIZES: &[(&str, &str)] = &[
    ("context_length", "max_position_embeddings"),
    ("embedding_length", "hidden_size"),
    ("block_count", "num_hidden_layers"),
    ("feed_forward_length", "intermediate_size"),
    ("attention.head_count", "num_attention_heads"),
];
const GPT2_SIZES: &[(&str, &str)] = &[
    ("context_length", "n_positions"),
    ("embedding_length", "n_embd"),
    ("block_count", "n_layer"),
    ("feed_forward_length", "n_inner"),
    ("attention.head_count", "n_head"),
];

/// The field of the norms' epsilon by model type; `rms_norm_eps` for the others.
const LAYER_NORM_EPS: &[(&str, &str)] = &[
    ("gpt2", "layer_norm_epsilon"),
    ("gpt_neox", "layer_norm_eps"),
    ("falcon", "layer_norm_epsilon"),
    ("starcoder2", "norm_epsilon"),
];

impl Model {
    pub fn read(gguf: &Gguf) -> Result<Model, GgufError> {
        let keys = Keys::new(gguf)?;
        let queries = keys.positive("attention.head_count")?;
        let keys_heads = keys.optional("attention.head_count_kv")?.unwrap_or(queries);
        if keys_heads == 0 || queries % keys_heads != 0 {
            let reason = format!("expected a divisor of {queries} heads, found {keys_heads}");
            return Err(keys.wrong("attention.head_count_kv", reason));
        }
        let size = match keys.optional("attention.key_length")? {
            Some(size) => size,
            None => keys.positive("embedding_length")? / queries,
        };
        if size == 0 || size % 2 != 0 {
            return Err(keys.wrong("attention.key_length", format!("expected an even size of a head, found {size}")));
        }
        if let Some(values) = keys.optional("attention.value_length")?.filter(|&values| values != size) {
            let reason = format!("expected the {size} elements of keys' heads, found {values}");
            return Err(keys.wrong("attention.value_length", reason));
        }
        let heads = Heads { queries, keys: keys_heads, size };
        let separate_norms = gguf.raw("blk.0.attn_norm_2.weight").is_some();
        Ok(Model { architecture: keys.architecture, heads, separate_norms })
    }
}

/// The metadata under an architecture's own keys.
struct Keys<'a> {
    gguf: &'a Gguf,
    architecture: &'static Architecture,
}

impl<'a> Keys<'a> {
    fn new(gguf: &'a Gguf) -> Result<Keys<'a>, GgufError> {
        const KEY: &str = "general.architecture";
        let name = gguf.metadata.text(KEY)?.ok_or_else(|| gguf.metadata.missing(KEY))?;
        let architecture = Architecture::find(name).ok_or_else(|| GgufError::Architecture {
            file: gguf.metadata.file().to_path_buf(),
            architecture: name.to_string(),
            known: super::names::ARCHITECTURES.iter().map(|row| row.name).collect::<Vec<_>>().join(", "),
        })?;
        Ok(Keys { gguf, architecture })
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture.name)
    }

    fn wrong(&self, name: &str, reason: String) -> GgufError {
        GgufError::key(self.gguf.metadata.file(), &self.key(name), reason)
    }

    /// A size, which may be given as an array of equal ones, one a layer.
    fn optional(&self, name: &str) -> Result<Option<usize>, GgufError> {
        let key = self.key(name);
        if !matches!(self.gguf.metadata.get(&key), Some(super::Value::Array(_))) {
            return self.gguf.metadata.size(&key);
        }
        let numbers = self.gguf.metadata.numbers(&key, self.gguf.bytes())?.unwrap_or_default();
        match numbers.first() {
            Some(&first) if numbers.iter().any(|&number| number != first) => {
                Err(self.wrong(name, "differs between layers, which is not supported".into()))
            }
            Some(&first) if first >= 0.0 && first < f64::from(1u32 << 31) && first.fract() == 0.0 => {
                Ok(Some(first as usize))
            }
            _ => Err(self.wrong(name, "expected integers from 0 to 2147483647".into())),
        }
    }

    fn positive(&self, name: &str) -> Result<usize, GgufError> {
        match self.optional(name)? {
            Some(0) => Err(self.wrong(name, "expected a positive integer, found 0".into())),
            Some(size) => Ok(size),
            None => Err(self.gguf.metadata.missing(&self.key(name))),
        }
    }

    fn float(&self, name: &str) -> Result<Option<f64>, GgufError> {
        self.gguf.metadata.float(&self.key(name))
    }
}

/// The configuration as the entries of a `config.json`.
pub(super) fn config(gguf: &Gguf) -> Result<Map<String, Value>, GgufError> {
    let model = Model::read(gguf)?;
    let keys = Keys { gguf, architecture: model.architecture };
    let mut map = Map::new();
    let mut set = |name: &str, value: Value| {
        map.insert(name.to_string(), value);
    };

    if keys.optional("expert_count")?.is_some_and(|experts| experts > 0) {
        return Err(keys.wrong("expert_count", "mixtures of experts are not supported".into()));
    }
    let window = keys.optional("attention.sliding_window")?.filter(|&window| window > 0);
    // Files of Mistral call themselves Llama; what tells them apart is the window.
    let (model_type, class) = match (model.architecture.model_type, window) {
        ("llama", Some(_)) => ("mistral", "MistralForCausalLM"),
        (model_type, _) => (model_type, model.architecture.class),
    };
    set("model_type", model_type.into());
    set("architectures", json!([class]));

    for (key, field) in if model_type == "gpt2" { GPT2_SIZES } else { SIZES } {
        // The field of Falcon, whose default is four times the hidden size.
        let field = if (model_type, *field) == ("falcon", "intermediate_size") { "ffn_hidden_size" } else { field };
        set(field, keys.positive(key)?.into());
    }
    let layers = keys.positive("block_count")?;
    if layers > gguf.len() {
        let reason = format!("{layers} layers, but the file has only {} tensors", gguf.len());
        return Err(keys.wrong("block_count", reason));
    }
    set("vocab_size", vocabulary(&keys)?.into());
    set("tie_word_embeddings", gguf.raw("output.weight").is_none().into());

    let Heads { queries, keys: kv_heads, size } = model.heads;
    match model_type {
        "gpt2" | "gpt_neox" => {}
        "falcon" => set("num_kv_heads", kv_heads.into()),
        _ => {
            set("num_key_value_heads", kv_heads.into());
            set("head_dim", size.into());
        }
    }
    let eps = LAYER_NORM_EPS.iter().find(|(name, _)| *name == model_type);
    let (key, field) = match eps {
        Some((_, field)) => ("attention.layer_norm_epsilon", *field),
        None => ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
    };
    if let Some(eps) = keys.float(key)? {
        set(field, eps.into());
    }
    let has = |tensor: &str| gguf.raw(&format!("blk.0.{tensor}")).is_some();

    match model_type {
        "llama" => {
            set("attention_bias", has("attn_q.bias").into());
            set("mlp_bias", has("ffn_up.bias").into());
        }
        "qwen3" => set("attention_bias", has("attn_q.bias").into()),
        "starcoder2" => set("use_bias", has("attn_q.bias").into()),
        "gpt_neox" => {
            set("attention_bias", has("attn_qkv.bias").into());
            if let Some(parallel) = gguf.metadata.flag(&keys.key("use_parallel_residual"))? {
                set("use_parallel_residual", parallel.into());
            }
        }
        "falcon" => {
            // The first Falcon has one head of keys and one norm before both branches; all later ones are of the new
            // kind.
            let new = kv_heads > 1 || model.separate_norms;
            set("new_decoder_architecture", new.into());
            set("num_ln_in_parallel_attn", if model.separate_norms { json!(2) } else { json!(1) });
            set("multi_query", true.into());
            set("parallel_attn", true.into());
            set("alibi", false.into());
            set("bias", has("attn_qkv.bias").into());
        }
        "gemma2" | "gemma3_text" => {
            for name in ["attn_logit_softcapping", "final_logit_softcapping"] {
                // An absent cap is no cap, whatever the type's default.
                set(name, keys.float(name)?.map_or(Value::Null, Value::from));
            }
            // GGUF does not say how scores are scaled. All models scale by the size of a head, but the largest of each
            // generation, known by its number of layers, by hidden size over heads.
            let largest = matches!((model_type, layers), ("gemma2", 46) | ("gemma3_text", 62));
            let scalar = if largest { keys.positive("embedding_length")? / queries } else { size };
            set("query_pre_attn_scalar", scalar.into());
            let pattern = keys.optional("attention.sliding_window_pattern").ok().flatten().filter(|&every| every > 0);
            let every = pattern.unwrap_or(if model_type == "gemma2" { 2 } else { 6 });
            let kind = |layer| if (layer + 1) % every == 0 { "full_attention" } else { "sliding_attention" };
            set("layer_types", (0..layers).map(kind).collect());
        }
        _ => {}
    }
    if let (Some(window), "mistral" | "phi3" | "gemma2" | "gemma3_text" | "starcoder2") = (window, model_type) {
        set("sliding_window", window.into());
    } else if let "phi3" | "starcoder2" = model_type {
        set("sliding_window", Value::Null);
    }
    if model_type != "gpt2" {
        rope(&keys, size, model_type, &mut map)?;
    }
    map.extend(tokenizer::special_ids(gguf)?);
    Ok(map)
}

/// Rows of the embedding, or what the metadata says where there is none.
fn vocabulary(keys: &Keys<'_>) -> Result<usize, GgufError> {
    if let Some(table) = keys.gguf.raw("token_embd.weight") {
        return Ok(table.shape.first().copied().unwrap_or(0));
    }
    match keys.optional("vocab_size")? {
        Some(size) => Ok(size),
        None => Ok(keys.gguf.metadata.array(tokenizer::TOKENS)?.map_or(0, super::Array::len)),
    }
}

/// The fields of rotary positions.
fn rope(keys: &Keys<'_>, head: usize, model_type: &str, map: &mut Map<String, Value>) -> Result<(), GgufError> {
    let base = keys.float("rope.freq_base")?.unwrap_or(if model_type == "gemma3_text" { 1e6 } else { 1e4 });
    let rotated = keys.optional("rope.dimension_count")?.unwrap_or(head);
    if rotated == 0 || rotated > head || rotated % 2 != 0 {
        let reason = format!("expected an even number up to the {head} elements of a head, found {rotated}");
        return Err(keys.wrong("rope.dimension_count", reason));
    }
    // Transformers rounds the product of share and size down: the share must not fall short of it.
    let mut share = rotated as f64 / head as f64;
    if (share * head as f64) < rotated as f64 {
        share = share.next_up();
    }
    let scaling = rope_scaling(keys, rotated)?;
    let mut set = |name: &str, value: Value| {
        map.insert(name.to_string(), value);
    };
    if model_type == "gemma3_text" {
        // Layers with a window turn in their own way, and never by scaled positions.
        let mut full = scaling.unwrap_or_else(|| json!({"rope_type": "default"}));
        full["rope_theta"] = base.into();
        let near = keys.float("rope.freq_base_swa")?.unwrap_or(1e4);
        let near = json!({"rope_type": "default", "rope_theta": near});
        set("rope_parameters", json!({"full_attention": full, "sliding_attention": near}));
        return Ok(());
    }
    if model_type == "gpt_neox" {
        set("rotary_emb_base", base.into());
        set("rotary_pct", share.into());
    } else {
        set("rope_theta", base.into());
        if rotated != head {
            set("partial_rotary_factor", share.into());
        }
    }
    if let Some(scaling) = scaling {
        if let Some(original) = scaling.get("original_max_position_embeddings").filter(|_| model_type == "phi3") {
            set("original_max_position_embeddings", original.clone());
        }
        set("rope_scaling", scaling);
    }
    Ok(())
}

fn rope_scaling(keys: &Keys<'_>, rotated: usize) -> Result<Option<Value>, GgufError> {
    let kind = keys.gguf.metadata.text(&keys.key("rope.scaling.type"))?;
    let factor = keys.float("rope.scaling.factor")?;
    let context = keys.positive("context_length")?;
    let original = keys.optional("rope.scaling.original_context_length")?;

    if let Some(divisors) = factors(keys, FREQUENCIES, rotated)? {
        return Ok(Some(json!({
            "rope_type": "longrope",
            "factor": 1.0,
            "attention_factor": 1.0,
            "original_max_position_embeddings": context,
            "short_factor": divisors,
            "long_factor": divisors,
        })));
    }
    if let (Some(short), Some(long)) = (factors(keys, SHORT, rotated)?, factors(keys, LONG, rotated)?) {
        let mut scaling = json!({
            "rope_type": "longrope",
            "original_max_position_embeddings": original.unwrap_or(context),
            "short_factor": short,
            "long_factor": long,
        });
        if let Some(attention) = keys.float("rope.scaling.attn_factor")? {
            scaling["attention_factor"] = attention.into();
        }
        return Ok(Some(scaling));
    }
    let linear = keys.float("rope.scale_linear")?;
    match (kind, factor.or(linear)) {
        (None, None) | (Some("none"), _) => Ok(None),
        (None | Some("linear"), Some(factor)) if factor > 0.0 => {
            Ok((factor != 1.0).then(|| json!({"rope_type": "linear", "factor": factor})))
        }
        (Some("yarn"), Some(factor)) if factor > 0.0 => {
            let mut scaling = json!({
                "rope_type": "yarn",
                "factor": factor,
                "original_max_position_embeddings": original.unwrap_or(context),
            });
            for (key, name) in [("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")] {
                if let Some(beta) = keys.float(&format!("rope.scaling.{key}"))? {
                    scaling[name] = beta.into();
                }
            }
            Ok(Some(scaling))
        }
        (Some("linear" | "yarn") | None, factor) => {
            let found = factor.map_or("nothing".into(), |factor| factor.to_string());
            Err(keys.wrong("rope.scaling.factor", format!("expected a positive number, found {found}")))
        }
        (Some("longrope"), _) => Err(GgufError::tensor(
            keys.gguf.metadata.file(),
            LONG,
            format!("expected with {SHORT}, because `{}` is `longrope`", keys.key("rope.scaling.type")),
        )),
        (Some(other), _) => {
            Err(keys.wrong("rope.scaling.type", format!("expected none, linear, yarn or longrope, found `{other}`")))
        }
    }
}

/// The numbers of a tensor of rope factors, one for each frequency.
fn factors(keys: &Keys<'_>, name: &str, rotated: usize) -> Result<Option<Vec<f64>>, GgufError> {
    let Some(tensor) = keys.gguf.raw(name) else { return Ok(None) };
    let mut numbers = Vec::new();
    let plain = tensor.block.numbers(keys.gguf.bytes_of(tensor), &mut numbers);
    let usable = |number: &f32| number.is_finite() && *number > 0.0;
    if !plain || numbers.len() != rotated / 2 || !numbers.iter().all(usable) {
        let reason = format!(
            "expected {} positive numbers of F32, found {} {:?}{}",
            rotated / 2,
            tensor.block.name,
            tensor.shape,
            if numbers.iter().all(usable) { "" } else { " with others among them" }
        );
        return Err(GgufError::tensor(keys.gguf.file_of(tensor), name, reason));
    }
    Ok(Some(numbers.iter().filter_map(|number| super::Value::F32(*number).as_f64()).collect()))
}
