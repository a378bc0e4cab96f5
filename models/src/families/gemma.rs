//! Gemma 1 to 3 (arXiv 2403.08295, 2408.00118, 2503.19786): scaled embeddings and weights of norms that are kept less 1;
//! from 2 on norms before and after each block, soft caps, and layers with windows between those without; in 3 norms
//! of queries and keys, and rotary positions for each kind of layer.

use super::decoder::{Block, Decoder, LmHead, Norm, QkNorm, causal_lm};
use super::rope::{max_length, rope, rope_of_kind};
use super::{Family, FamilyError, Model, Outputs};
use crate::config::Head;
use crate::weights::Rules;
use lith_frontend::nn::Act;
use lith_frontend::{Scope, Tensor};
use lith_ir::Activation;

pub(super) const GEMMA: Family = Family {
    model_type: "gemma",
    rules: Rules { base_prefix: "model", renames: &[], ignorable: &[] },
    tied: &[("lm_head.weight", "model.embed_tokens.weight")],
    aliases: &[],
    fused: None,
    max_length,
    body: |m, s| {
        let gemma = decoder(m)?;
        // Files that ask for gelu were trained with its approximation.
        let act = if gemma.act == Act::Op(Activation::Gelu) { Act::Op(Activation::GeluTanh) } else { gemma.act };
        Decoder { act, ropes: vec![rope(m, gemma.head)?], ..gemma }.body(m, s)
    },
    pooler: None,
    heads: &[(Head::CausalLm, causal_lm)],
};

pub(super) const GEMMA2: Family = Family {
    model_type: "gemma2",
    body: |m, s| {
        let gemma = sandwich(m)?;
        let mut gemma = Decoder { ropes: vec![rope(m, gemma.head)?], ..gemma };
        let kinds = m.layer_types(gemma.layers.len(), |i| i % 2 == 0)?;
        gemma.set_windows(m.window()?, |i| kinds[i]);
        gemma.body(m, s)
    },
    heads: &[(Head::CausalLm, capped_causal_lm)],
    ..GEMMA
};

pub(super) const GEMMA3_TEXT: Family = Family {
    model_type: "gemma3_text",
    body: |m, s| {
        let gemma = sandwich(m)?;
        let ropes = vec![
            rope_of_kind(m, "full_attention", "rope_theta", gemma.head)?,
            rope_of_kind(m, "sliding_attention", "rope_local_base_freq", gemma.head)?,
        ];
        let mut gemma = Decoder { qk_norm: QkNorm::OfHead, ropes, ..gemma };
        let pattern = m.config.positive("sliding_window_pattern")?;
        let kinds = m.layer_types(gemma.layers.len(), |i| (i + 1) % pattern != 0)?;
        gemma.set_windows(m.window()?, |i| kinds[i]);
        for (layer, near) in gemma.layers.iter_mut().zip(kinds) {
            layer.rope = Some(usize::from(near));
        }
        gemma.body(m, s)
    },
    ..GEMMA2
};

fn decoder(m: &Model<'_>) -> Result<Decoder, FamilyError> {
    if m.config.value("use_bidirectional_attention").as_bool() == Some(true) {
        return Err(m.bad_field("use_bidirectional_attention", "false", true));
    }
    let decoder = Decoder::without_rope(m)?;
    let eps = m.config.float("rms_norm_eps")?;
    // The root is rounded to the type of the hidden states.
    let embedding_scale = f64::from((decoder.width as f64).sqrt() as f32);
    Ok(Decoder { norm: Norm::Rms { eps, offset: 1.0 }, embedding_scale, ..decoder })
}

fn sandwich(m: &Model<'_>) -> Result<Decoder, FamilyError> {
    let scale = 1.0 / (m.config.positive("query_pre_attn_scalar")? as f64).sqrt();
    let softcap = m.config.optional_float("attn_logit_softcapping")?.unwrap_or(0.0);
    Ok(Decoder { block: Block::Sandwich, scale, softcap, ..decoder(m)? })
}

fn capped_causal_lm(m: &Model<'_>, s: &Scope, hidden: &Tensor) -> Result<Outputs, FamilyError> {
    let softcap = m.config.optional_float("final_logit_softcapping")?.unwrap_or(0.0);
    LmHead { softcap, ..LmHead::LLAMA }.apply(m, s, hidden)
}
