//! Granite 3: LLaMA with a multiplier at each of four places.

use super::Family;
use super::decoder::{Decoder, LmHead};
use super::rope::max_length;
use crate::config::Head;
use crate::weights::Rules;

pub(super) const GRANITE: Family = Family {
    model_type: "granite",
    rules: Rules { base_prefix: "model", renames: &[], ignorable: &[] },
    tied: &[("lm_head.weight", "model.embed_tokens.weight")],
    aliases: &[],
    fused: None,
    max_length,
    body: |m, s| {
        let mut granite = Decoder::llama(m)?;
        granite.biases[2] = m.config.flag("mlp_bias")?;
        granite.embedding_scale = m.config.float("embedding_multiplier")?;
        granite.residual_scale = m.config.float("residual_multiplier")?;
        granite.scale = m.config.float("attention_multiplier")?;
        granite.body(m, s)
    },
    pooler: None,
    heads: &[(Head::CausalLm, |m, s, hidden| {
        LmHead { scale: 1.0 / m.config.float("logits_scaling")?, ..LmHead::LLAMA }.apply(m, s, hidden)
    })],
};
