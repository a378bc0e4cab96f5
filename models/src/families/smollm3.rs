//! SmolLM 3: LLaMA with layers that do not know positions.

use super::Family;
use super::decoder::{Decoder, causal_lm};
use super::rope::max_length;
use crate::config::Head;
use crate::weights::Rules;

pub(super) const SMOLLM3: Family = Family {
    model_type: "smollm3",
    rules: Rules { base_prefix: "model", renames: &[], ignorable: &[] },
    tied: &[("lm_head.weight", "model.embed_tokens.weight")],
    aliases: &[],
    fused: None,
    max_length,
    body: |m, s| {
        let mut smol = Decoder::llama(m)?;
        smol.biases[2] = m.config.flag("mlp_bias")?;
        let (count, every) = (smol.layers.len(), m.config.positive("no_rope_layer_interval")?);
        let knows_positions: Vec<bool> = match m.config.value("no_rope_layers").as_array() {
            None => (1..=count).map(|i| i % every != 0).collect(),
            Some(list) if list.len() == count => list.iter().map(|item| item.as_i64() != Some(0)).collect(),
            Some(list) => {
                return Err(m.bad_field("no_rope_layers", &format!("{count} items, one for each layer"), list.len()));
            }
        };
        let windowed = m.config.flag("use_sliding_window")? && m.window()? != 0;
        let near = m.layer_types(count, |i| windowed && !knows_positions[i])?;
        smol.set_windows(m.window()?, |i| near[i]);
        for (layer, knows) in smol.layers.iter_mut().zip(&knows_positions) {
            layer.rope = layer.rope.filter(|_| *knows);
        }
        smol.body(m, s)
    },
    pooler: None,
    heads: &[(Head::CausalLm, causal_lm)],
};
