//! GPT-2 (Radford et al. 2019): learned positions, norms with bias before each block, weights stored `[in, out]`, query,
//! key and value fused.

use lith_frontend::nn::{self, layer_norm, linear};
use lith_frontend::sequence::AttentionSpec;
use lith_frontend::{Scope, Tensor};

use super::decoder::LmHead;
use super::{Family, FamilyError, Fused, Model};
use crate::config::{Config, ConfigError, Head};
use crate::weights::{Rows, Rules};

pub(super) const GPT2: Family = Family {
    model_type: "gpt2",
    rules: Rules { base_prefix: "transformer", renames: &[], ignorable: &["*.attn.bias", "*.attn.masked_bias"] },
    tied: &[("lm_head.weight", "transformer.wte.weight")],
    aliases: &[],
    fused: Some(fused),
    max_length: |config| config.size("n_positions"),
    body,
    pooler: None,
    heads: &[(Head::CausalLm, |m, s, hidden| {
        LmHead { names: ["lm_head", "transformer.wte"], ..LmHead::LLAMA }.apply(m, s, hidden)
    })],
};

fn inner(config: &Config) -> Result<usize, ConfigError> {
    Ok(config.optional_size("n_inner")?.unwrap_or(4 * config.size("n_embd")?))
}

fn fused(config: &Config) -> Result<Vec<Fused>, ConfigError> {
    let (width, inner) = (config.size("n_embd")?, inner(config)?);
    let layer = |name, of, rows| Fused { name, of, rows, transposed: true };
    let third = |i| Rows::part(&[width; 3], i);
    Ok(vec![
        layer("attn.q_proj", "attn.c_attn", third(0)),
        layer("attn.k_proj", "attn.c_attn", third(1)),
        layer("attn.v_proj", "attn.c_attn", third(2)),
        layer("attn.c_proj", "attn.c_proj", Rows::all(width)),
        layer("mlp.c_fc", "mlp.c_fc", Rows::all(inner)),
        layer("mlp.c_proj", "mlp.c_proj", Rows::all(width)),
    ])
}

fn body(m: &Model<'_>, s: &Scope) -> Result<Tensor, FamilyError> {
    if m.config.flag("add_cross_attention")? {
        return Err(m.bad_field("add_cross_attention", "false", true));
    }
    let (width, heads, eps) = (m.hidden()?, m.config.positive("n_head")?, m.config.float("layer_norm_epsilon")?);
    let (inner, act) = (inner(m.config)?, m.act("activation_function")?);
    let scaled = m.config.flag("scale_attn_weights")?;
    let dropout = m.config.float("attn_pdrop")?;
    let by_layer = m.config.flag("scale_attn_by_inverse_layer_idx")?;

    let words = nn::embedding(s, "wte", m.tokens.ids(), [m.config.positive("vocab_size")?, width]);
    let places = nn::embedding(s, "wpe", &m.tokens.positions(), [m.config.positive("n_positions")?, width]);
    let mut x = words + places;
    for i in 0..m.layers("n_layer")? {
        let plain = AttentionSpec { causal: true, dropout, ..AttentionSpec::plain(heads, width as f64 / heads as f64) };
        let scale = if scaled { plain.scale } else { 1.0 } / if by_layer { (i + 1) as f64 } else { 1.0 };
        let spec = AttentionSpec { scale, ..plain };
        x = s.at(&format!("h.{i}"), |s| {
            let y = layer_norm(s, "ln_1", &x, width, eps);
            let y = s.at("attn", |s| {
                let [q, k, v] = ["q_proj", "k_proj", "v_proj"].map(|name| linear(s, name, &y, [width, width]));
                linear(s, "c_proj", &m.tokens.attention(s, &q, &k, &v, &spec), [width, width])
            });
            let x = &x + y;
            let y = layer_norm(s, "ln_2", &x, width, eps);
            x + s.at("mlp", |s| nn::mlp(s, ["c_fc", "c_proj"], &y, [width, inner], act))
        });
    }
    Ok(layer_norm(s, "ln_f", &m.tokens.output_rows(&x), width, eps))
}
