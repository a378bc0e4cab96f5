//! Mistral (Jiang et al. 2023, arXiv 2310.06825): LLaMA whose tokens see a window of those before them.

use super::Family;
use super::decoder::{Decoder, causal_lm};
use super::rope::max_length;
use crate::config::Head;
use crate::weights::Rules;

pub(super) const MISTRAL: Family = Family {
    model_type: "mistral",
    rules: Rules { base_prefix: "model", renames: &[], ignorable: &[] },
    tied: &[("lm_head.weight", "model.embed_tokens.weight")],
    aliases: &[],
    fused: None,
    max_length,
    body: |m, s| {
        let mut mistral = Decoder::llama(m)?;
        mistral.biases = [false; 3];
        // Ministral's files call it the same and tell which layers have the window. CFG-05
        let near = m.layer_types(mistral.layers.len(), |_| true)?;
        mistral.set_windows(m.window()?, |i| near[i]);
        mistral.body(m, s)
    },
    pooler: None,
    heads: &[(Head::CausalLm, causal_lm)],
};
