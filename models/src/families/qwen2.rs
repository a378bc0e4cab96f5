//! Qwen 2 (Yang et al. 2024, arXiv 2407.10671) and 1.5: LLaMA with biases of query, key and value, and maybe windows in
//! its later layers. Qwen 3 (arXiv 2505.09388) has norms of queries and keys instead of the biases.

use super::decoder::{Decoder, QkNorm, causal_lm};
use super::rope::max_length;
use super::{Family, FamilyError, Model};
use crate::config::Head;
use crate::weights::Rules;

pub(super) const QWEN2: Family = Family {
    model_type: "qwen2",
    rules: Rules { base_prefix: "model", renames: &[], ignorable: &[] },
    tied: &[("lm_head.weight", "model.embed_tokens.weight")],
    aliases: &[],
    fused: None,
    max_length,
    body: |m, s| Decoder { biases: [true, false, false], ..decoder(m)? }.body(m, s),
    pooler: None,
    heads: &[(Head::CausalLm, causal_lm)],
};

pub(super) const QWEN3: Family =
    Family { model_type: "qwen3", body: |m, s| Decoder { qk_norm: QkNorm::OfHead, ..decoder(m)? }.body(m, s), ..QWEN2 };

fn decoder(m: &Model<'_>) -> Result<Decoder, FamilyError> {
    let mut decoder = Decoder::llama(m)?;
    if m.config.flag("use_sliding_window")? {
        let first = m.config.size("max_window_layers")?;
        let kinds = m.layer_types(decoder.layers.len(), |i| i >= first)?;
        decoder.set_windows(m.window()?, |i| kinds[i]);
    }
    Ok(decoder)
}
