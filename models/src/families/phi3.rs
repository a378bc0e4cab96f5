//! Phi 3, 3.5 and 4 (Abdin et al. 2024, arXiv 2404.14219): Mistral's layers, whose projections stand in the file as two
//! fused ones.

use super::decoder::{Decoder, causal_lm};
use super::rope::max_length;
use super::{Family, Fused};
use crate::config::{Config, ConfigError, Head};
use crate::weights::{Rows, Rules};

pub(super) const PHI3: Family = Family {
    model_type: "phi3",
    rules: Rules { base_prefix: "model", renames: &[], ignorable: &[] },
    tied: &[("lm_head.weight", "model.embed_tokens.weight")],
    aliases: &[],
    fused: Some(fused),
    max_length,
    body: |m, s| {
        let mut phi = Decoder::llama(m)?;
        phi.biases = [false; 3];
        phi.set_windows(m.window()?, |_| true);
        phi.body(m, s)
    },
    pooler: None,
    heads: &[(Head::CausalLm, causal_lm)],
};

fn fused(config: &Config) -> Result<Vec<Fused>, ConfigError> {
    let heads = config.positive("num_attention_heads")?;
    let head = config.optional_size("head_dim")?.unwrap_or(config.size("hidden_size")? / heads);
    let kv = config.optional_size("num_key_value_heads")?.unwrap_or(heads) * head;
    let inner = config.size("intermediate_size")?;
    let qkv = [heads * head, kv, kv];
    let part = |name, of, parts: &[usize], i| Fused { name, of, rows: Rows::part(parts, i), transposed: false };
    Ok(vec![
        part("q_proj", "qkv_proj", &qkv, 0),
        part("k_proj", "qkv_proj", &qkv, 1),
        part("v_proj", "qkv_proj", &qkv, 2),
        part("gate_proj", "gate_up_proj", &[inner; 2], 0),
        part("up_proj", "gate_up_proj", &[inner; 2], 1),
    ])
}
