//! LLaMA (Touvron et al. 2023, arXiv 2302.13971) and what is built as it is: Llama 2 and 3, Yi, SmolLM, Tulu.

use super::Family;
use super::decoder::{Decoder, causal_lm};
use super::rope::max_length;
use crate::config::Head;
use crate::weights::Rules;

pub(super) const LLAMA: Family = Family {
    model_type: "llama",
    rules: Rules { base_prefix: "model", renames: &[], ignorable: &[] },
    tied: &[("lm_head.weight", "model.embed_tokens.weight")],
    aliases: &[],
    fused: None,
    max_length,
    body: |m, s| {
        let llama = Decoder::llama(m)?;
        let mlp_bias = m.config.flag("mlp_bias")?;
        let [qkv, out, _] = llama.biases;
        Decoder { biases: [qkv, out, mlp_bias], ..llama }.body(m, s)
    },
    pooler: None,
    heads: &[(Head::CausalLm, causal_lm)],
};
