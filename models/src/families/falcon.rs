//! Falcon (Almazrouei et al. 2023, arXiv 2311.16867) in its three forms: 7B with one key head and one norm for attention and
//! feed-forward block beside each other; 40B and later with groups of heads and a norm for each; RW, as GPT-3 with ALiBi
//! (Press et al. 2021, arXiv 2108.12409).

use lith_frontend::nn::{self, layer_norm, projection};
use lith_frontend::sequence::AttentionSpec;
use lith_frontend::{Scope, Tensor};
use lith_ir::Literal;

use super::decoder::{LmHead, head_width};
use super::rope::{max_length, rope};
use super::{Family, FamilyError, Fused, Model};
use crate::config::{Config, ConfigError, Head};
use crate::weights::{Rows, Rules};

pub(super) const FALCON: Family = Family {
    model_type: "falcon",
    rules: Rules { base_prefix: "transformer", renames: &[], ignorable: &[] },
    tied: &[("lm_head.weight", "transformer.word_embeddings.weight")],
    aliases: &[],
    fused: Some(fused),
    max_length,
    body,
    pooler: None,
    heads: &[(Head::CausalLm, |m, s, hidden| {
        LmHead { names: ["lm_head", "transformer.word_embeddings"], ..LmHead::LLAMA }.apply(m, s, hidden)
    })],
};

fn kv_heads(config: &Config) -> Result<usize, ConfigError> {
    let heads = config.positive("num_attention_heads")?;
    match (config.flag("new_decoder_architecture")?, config.flag("multi_query")?) {
        (false, true) => Ok(1),
        _ if config.optional_size("num_kv_heads")?.is_some() => config.positive("num_kv_heads"),
        _ => Ok(heads),
    }
}

fn fused(config: &Config) -> Result<Vec<Fused>, ConfigError> {
    let (heads, kv_heads) = (config.positive("num_attention_heads")?, kv_heads(config)?);
    let head = config.size("hidden_size")? / heads;
    // For each key head its query heads, itself and its value.
    let parts = [heads / kv_heads * head, head, head];
    let part = |name, i| {
        let rows = Rows::part_of_each(&parts, i, kv_heads);
        Fused { name, of: "self_attention.query_key_value", rows, transposed: false }
    };
    Ok(vec![part("self_attention.query", 0), part("self_attention.key", 1), part("self_attention.value", 2)])
}

fn body(m: &Model<'_>, s: &Scope) -> Result<Tensor, FamilyError> {
    let (width, heads, head) = (m.hidden()?, m.config.positive("num_attention_heads")?, head_width(m)?);
    let (kv_heads, bias) = (kv_heads(m.config)?, m.config.flag("bias")?);
    let inner = m.config.optional_size("ffn_hidden_size")?.unwrap_or(4 * width);
    let (act, eps) = (m.act("activation")?, m.config.float("layer_norm_epsilon")?);
    let new = m.config.flag("new_decoder_architecture")?;
    let parallel = new || m.config.flag("parallel_attn")?;
    let two_norms = new && m.config.optional_size("num_ln_in_parallel_attn")?.is_none_or(|norms| norms == 2);

    let mut x = nn::embedding(s, "word_embeddings", m.tokens.ids(), [m.config.positive("vocab_size")?, width]);
    let alibi = m.config.flag("alibi")?;
    let rope = if alibi { None } else { Some(rope(m, head)?) };
    let angles = s.at("rotary_emb", |_| rope.map(|rope| rope.angles(&m.tokens)));
    let dropout = m.config.float("attention_dropout")?;
    let plain = AttentionSpec { kv_heads, causal: true, dropout, ..AttentionSpec::plain(heads, head as f64) };
    // Slopes are added to the scores before those are scaled.
    let slopes: Vec<f32> = slopes(heads).iter().map(|slope| (slope * plain.scale) as f32).collect();
    let slopes = Literal::f32s(vec![heads], &slopes).filter(|_| alibi);
    let slopes = slopes.map(|slopes| s.trace().constant(slopes));
    let spec = AttentionSpec { slopes: slopes.as_ref(), ..plain };

    for i in 0..m.layers("num_hidden_layers")? {
        x = s.at(&format!("h.{i}"), |s| {
            let norm = |name: &str, x: &Tensor| layer_norm(s, name, x, width, eps);
            let before = norm(if two_norms { "ln_attn" } else { "input_layernorm" }, &x);
            let y = s.at("self_attention", |s| {
                let project = |name: &str, heads: usize| projection(s, name, &before, [heads * head, width], bias);
                let turned =
                    |y: Tensor, heads: usize| angles.as_ref().map_or(y.clone(), |angles| angles.turn(&y, heads));
                let q = turned(project("query", heads), heads);
                let k = turned(project("key", kv_heads), kv_heads);
                let y = m.tokens.attention(s, &q, &k, &project("value", kv_heads), &spec);
                projection(s, "dense", &y, [width, width], bias)
            });
            let after = &x + y;
            let z = match (parallel, two_norms) {
                (false, _) => norm("post_attention_layernorm", &after),
                (true, true) => norm("ln_mlp", &x),
                (true, false) => before,
            };
            let act = |x: Tensor| act.apply(&x);
            after
                + s.at("mlp", |s| {
                    let y = act(projection(s, "dense_h_to_4h", &z, [inner, width], bias));
                    projection(s, "dense_4h_to_h", &y, [width, inner], bias)
                })
        });
    }
    Ok(layer_norm(s, "ln_f", &m.tokens.output_rows(&x), width, eps))
}

/// A slope for each head: powers of one base for the greatest power of two of heads, every other power of its root for
/// the rest.
fn slopes(heads: usize) -> Vec<f64> {
    let whole = (heads + 1).next_power_of_two() / 2;
    let base = |n: usize| (-8.0 / n as f64).exp2();
    let first = (1..=whole).map(|i| base(whole).powi(i as i32));
    let rest = (0..heads - whole).map(|i| base(2 * whole).powi(2 * i as i32 + 1));
    first.chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use super::slopes;

    #[test]
    fn slopes_of_any_number_of_heads() {
        assert_eq!(slopes(8), [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625]);
        assert_eq!(slopes(1), [1.0 / 256.0]);
        assert_eq!(slopes(3), [0.0625, 0.00390625, 0.25]);
    }
}
