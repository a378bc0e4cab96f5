//! GPT-NeoX (Black et al. 2022, arXiv 2204.06745), which Pythia is too: attention and feed-forward block beside each
//! other, rotary positions on a part of each head, query, key and value of each head fused.

use lith_frontend::nn::{self, layer_norm, projection};
use lith_frontend::sequence::AttentionSpec;
use lith_frontend::{Scope, Tensor};

use super::decoder::{LmHead, head_width};
use super::rope::{max_length, rope};
use super::{Family, FamilyError, Fused, Model};
use crate::config::{Config, ConfigError, Head};
use crate::weights::{Rows, Rules};

pub(super) const GPT_NEOX: Family = Family {
    model_type: "gpt_neox",
    rules: Rules { base_prefix: "gpt_neox", renames: &[], ignorable: &["*.attention.bias", "*.attention.masked_bias"] },
    tied: &[("embed_out.weight", "gpt_neox.embed_in.weight")],
    aliases: &[],
    fused: Some(fused),
    max_length,
    body,
    pooler: None,
    heads: &[(Head::CausalLm, |m, s, hidden| {
        LmHead { names: ["embed_out", "gpt_neox.embed_in"], ..LmHead::LLAMA }.apply(m, s, hidden)
    })],
};

fn fused(config: &Config) -> Result<Vec<Fused>, ConfigError> {
    let heads = config.positive("num_attention_heads")?;
    let head = config.size("hidden_size")? / heads;
    let part = |name, i| {
        let rows = Rows::part_of_each(&[head; 3], i, heads);
        Fused { name, of: "attention.query_key_value", rows, transposed: false }
    };
    Ok(vec![part("attention.query", 0), part("attention.key", 1), part("attention.value", 2)])
}

fn body(m: &Model<'_>, s: &Scope) -> Result<Tensor, FamilyError> {
    let (width, heads, head) = (m.hidden()?, m.config.positive("num_attention_heads")?, head_width(m)?);
    let (inner, act) = (m.config.positive("intermediate_size")?, m.act("hidden_act")?);
    let (eps, bias) = (m.config.float("layer_norm_eps")?, m.config.flag("attention_bias")?);
    let parallel = m.config.flag("use_parallel_residual")?;
    let dropout = m.config.float("attention_dropout")?;
    let spec = AttentionSpec { causal: true, dropout, ..AttentionSpec::plain(heads, head as f64) };

    let mut x = nn::embedding(s, "embed_in", m.tokens.ids(), [m.config.positive("vocab_size")?, width]);
    let rope = rope(m, head)?;
    let angles = s.at("rotary_emb", |_| rope.angles(&m.tokens));
    for i in 0..m.layers("num_hidden_layers")? {
        x = s.at(&format!("layers.{i}"), |s| {
            let y = layer_norm(s, "input_layernorm", &x, width, eps);
            let y = s.at("attention", |s| {
                let [q, k, v] = ["query", "key", "value"].map(|name| projection(s, name, &y, [width, width], bias));
                let [q, k] = [q, k].map(|y| angles.turn(&y, heads));
                projection(s, "dense", &m.tokens.attention(s, &q, &k, &v, &spec), [width, width], bias)
            });
            let after = &x + &y;
            let z = layer_norm(s, "post_attention_layernorm", if parallel { &x } else { &after }, width, eps);
            after + s.at("mlp", |s| nn::mlp(s, ["dense_h_to_4h", "dense_4h_to_h"], &z, [width, inner], act))
        });
    }
    Ok(layer_norm(s, "final_layer_norm", &m.tokens.output_rows(&x), width, eps))
}
