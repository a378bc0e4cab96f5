//! OLMo 2 (arXiv 2501.00656): LLaMA with norms after the blocks, and of queries and keys.

use super::Family;
use super::decoder::{Block, Decoder, QkNorm, causal_lm};
use super::rope::max_length;
use crate::config::Head;
use crate::weights::Rules;

pub(super) const OLMO2: Family = Family {
    model_type: "olmo2",
    rules: Rules { base_prefix: "model", renames: &[], ignorable: &[] },
    tied: &[("lm_head.weight", "model.embed_tokens.weight")],
    aliases: &[],
    fused: None,
    max_length,
    body: |m, s| Decoder { block: Block::Post, qk_norm: QkNorm::OfAll, ..Decoder::llama(m)? }.body(m, s),
    pooler: None,
    heads: &[(Head::CausalLm, causal_lm)],
};
