//! StarCoder 2 (Lozhkov et al. 2024, arXiv 2402.19173): Mistral's attention, norms with mean and bias, a plain feed-forward
//! block, biases everywhere.

use super::Family;
use super::decoder::{Decoder, Mlp, Norm, causal_lm};
use super::rope::max_length;
use crate::config::Head;
use crate::weights::Rules;

pub(super) const STARCODER2: Family = Family {
    model_type: "starcoder2",
    rules: Rules { base_prefix: "model", renames: &[], ignorable: &[] },
    tied: &[("lm_head.weight", "model.embed_tokens.weight")],
    aliases: &[],
    fused: None,
    max_length,
    body: |m, s| {
        let norm = Norm::Layer { eps: m.config.float("norm_epsilon")? };
        let biases = [m.config.flag("use_bias")?; 3];
        let mut coder = Decoder { norm, biases, mlp: Mlp::Plain, ..Decoder::llama(m)? };
        coder.set_windows(m.window()?, |_| true);
        coder.body(m, s)
    },
    pooler: None,
    heads: &[(Head::CausalLm, causal_lm)],
};
