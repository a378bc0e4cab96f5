//! Command R of Cohere: attention and feed-forward block beside each other after one norm without bias, rotary positions
//! over neighbouring features, scaled logits.

use super::Family;
use super::decoder::{Block, Decoder, LmHead, Norm, QkNorm};
use super::rope::max_length;
use crate::config::Head;
use crate::weights::Rules;

pub(super) const COHERE: Family = Family {
    model_type: "cohere",
    rules: Rules { base_prefix: "model", renames: &[], ignorable: &[] },
    tied: &[("lm_head.weight", "model.embed_tokens.weight")],
    aliases: &[],
    fused: None,
    max_length,
    body: |m, s| {
        let norm = Norm::LayerNoBias { eps: m.config.float("layer_norm_eps")? };
        let with_norm = m.config.value("use_qk_norm").as_bool() == Some(true);
        let qk_norm = if with_norm { QkNorm::OfEachHead } else { QkNorm::None };
        let mut cohere = Decoder { norm, qk_norm, block: Block::Parallel, ..Decoder::llama(m)? };
        cohere.ropes.iter_mut().for_each(|rope| rope.interleaved = true);
        cohere.body(m, s)
    },
    pooler: None,
    heads: &[(Head::CausalLm, |m, s, hidden| {
        let scale = m.config.optional_float("logit_scale")?.unwrap_or(1.0);
        LmHead { scale, ..LmHead::LLAMA }.apply(m, s, hidden)
    })],
};
