//! Which tensor of a GGUF file is which parameter of a model, and what conversion to GGUF did to it (LB-16).
//!
//! One row a parameter: Transformers' name, GGUF's name, what was done. Adding an architecture is adding a row to
//! [`ARCHITECTURES`].

/// What conversion did to a parameter, and reading undoes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fix {
    /// Nothing.
    None,
    /// Rows of queries: the two halves of each head interleaved.
    Queries,
    /// Rows of keys: the same, by key heads.
    Keys,
    /// Rows of queries, keys and values, together by head (GPT-NeoX), put apart.
    HeadQkv,
    /// Rows of queries, keys and values, together by key head (Falcon), put apart.
    GroupQkv,
    /// Transposed: the parameter is `[inputs, outputs]`.
    Transposed,
    /// One added.
    PlusOne,
}

use Fix::{GroupQkv, HeadQkv, Keys, None as Plain, PlusOne, Queries, Transposed};

/// Names of an architecture. Endings `.weight` and `.bias` are the same on both sides and not in the rows.
#[derive(Debug)]
pub(super) struct Architecture {
    /// `general.architecture`.
    pub name: &'static str,
    /// Transformers' `model_type`.
    pub model_type: &'static str,
    /// The class with a language model's head.
    pub class: &'static str,
    /// Names that are there once.
    pub whole: &'static [(&'static str, &'static str, Fix)],
    /// What comes before the number of a layer in Transformers' names; GGUF has `blk.`.
    pub layers: &'static str,
    /// Names inside a layer.
    pub layer: &'static [(&'static str, &'static str, Fix)],
}

type Rows = &'static [(&'static str, &'static str, Fix)];

const MODEL: Rows =
    &[("model.embed_tokens", "token_embd", Plain), ("model.norm", "output_norm", Plain), ("lm_head", "output", Plain)];
const GEMMA: Rows = &[
    ("model.embed_tokens", "token_embd", Plain),
    ("model.norm", "output_norm", PlusOne),
    ("lm_head", "output", Plain),
];

const LLAMA_LAYER: Rows = &[
    ("input_layernorm", "attn_norm", Plain),
    ("self_attn.q_proj", "attn_q", Queries),
    ("self_attn.k_proj", "attn_k", Keys),
    ("self_attn.v_proj", "attn_v", Plain),
    ("self_attn.o_proj", "attn_output", Plain),
    ("post_attention_layernorm", "ffn_norm", Plain),
    ("mlp.gate_proj", "ffn_gate", Plain),
    ("mlp.up_proj", "ffn_up", Plain),
    ("mlp.down_proj", "ffn_down", Plain),
];

const QWEN_LAYER: Rows = &[
    ("input_layernorm", "attn_norm", Plain),
    ("self_attn.q_proj", "attn_q", Plain),
    ("self_attn.k_proj", "attn_k", Plain),
    ("self_attn.v_proj", "attn_v", Plain),
    ("self_attn.o_proj", "attn_output", Plain),
    ("self_attn.q_norm", "attn_q_norm", Plain),
    ("self_attn.k_norm", "attn_k_norm", Plain),
    ("post_attention_layernorm", "ffn_norm", Plain),
    ("mlp.gate_proj", "ffn_gate", Plain),
    ("mlp.up_proj", "ffn_up", Plain),
    ("mlp.down_proj", "ffn_down", Plain),
];

const GEMMA_LAYER: Rows = &[
    ("input_layernorm", "attn_norm", PlusOne),
    ("self_attn.q_proj", "attn_q", Plain),
    ("self_attn.k_proj", "attn_k", Plain),
    ("self_attn.v_proj", "attn_v", Plain),
    ("self_attn.o_proj", "attn_output", Plain),
    ("self_attn.q_norm", "attn_q_norm", PlusOne),
    ("self_attn.k_norm", "attn_k_norm", PlusOne),
    ("post_attention_layernorm", "post_attention_norm", PlusOne),
    ("pre_feedforward_layernorm", "ffn_norm", PlusOne),
    ("mlp.gate_proj", "ffn_gate", Plain),
    ("mlp.up_proj", "ffn_up", Plain),
    ("mlp.down_proj", "ffn_down", Plain),
    ("post_feedforward_layernorm", "post_ffw_norm", PlusOne),
];

/// Every architecture that is read.
pub(super) static ARCHITECTURES: [Architecture; 10] = [
    Architecture {
        name: "llama",
        model_type: "llama",
        class: "LlamaForCausalLM",
        whole: MODEL,
        layers: "model.layers.",
        layer: LLAMA_LAYER,
    },
    Architecture {
        name: "qwen2",
        model_type: "qwen2",
        class: "Qwen2ForCausalLM",
        whole: MODEL,
        layers: "model.layers.",
        layer: QWEN_LAYER,
    },
    Architecture {
        name: "qwen3",
        model_type: "qwen3",
        class: "Qwen3ForCausalLM",
        whole: MODEL,
        layers: "model.layers.",
        layer: QWEN_LAYER,
    },
    Architecture {
        name: "gemma2",
        model_type: "gemma2",
        class: "Gemma2ForCausalLM",
        whole: GEMMA,
        layers: "model.layers.",
        layer: GEMMA_LAYER,
    },
    Architecture {
        name: "gemma3",
        model_type: "gemma3_text",
        class: "Gemma3ForCausalLM",
        whole: GEMMA,
        layers: "model.layers.",
        layer: GEMMA_LAYER,
    },
    Architecture {
        name: "phi3",
        model_type: "phi3",
        class: "Phi3ForCausalLM",
        whole: MODEL,
        layers: "model.layers.",
        layer: &[
            ("input_layernorm", "attn_norm", Plain),
            ("self_attn.qkv_proj", "attn_qkv", Plain),
            ("self_attn.o_proj", "attn_output", Plain),
            ("post_attention_layernorm", "ffn_norm", Plain),
            ("mlp.gate_up_proj", "ffn_up", Plain),
            ("mlp.down_proj", "ffn_down", Plain),
        ],
    },
    Architecture {
        name: "gpt2",
        model_type: "gpt2",
        class: "GPT2LMHeadModel",
        whole: &[
            ("transformer.wte", "token_embd", Plain),
            ("transformer.wpe", "position_embd", Plain),
            ("transformer.ln_f", "output_norm", Plain),
            ("lm_head", "output", Plain),
        ],
        layers: "transformer.h.",
        layer: &[
            ("ln_1", "attn_norm", Plain),
            ("attn.c_attn", "attn_qkv", Transposed),
            ("attn.c_proj", "attn_output", Transposed),
            ("ln_2", "ffn_norm", Plain),
            ("mlp.c_fc", "ffn_up", Transposed),
            ("mlp.c_proj", "ffn_down", Transposed),
        ],
    },
    Architecture {
        name: "gptneox",
        model_type: "gpt_neox",
        class: "GPTNeoXForCausalLM",
        whole: &[
            ("gpt_neox.embed_in", "token_embd", Plain),
            ("gpt_neox.final_layer_norm", "output_norm", Plain),
            ("embed_out", "output", Plain),
        ],
        layers: "gpt_neox.layers.",
        layer: &[
            ("input_layernorm", "attn_norm", Plain),
            ("attention.query_key_value", "attn_qkv", HeadQkv),
            ("attention.dense", "attn_output", Plain),
            ("post_attention_layernorm", "ffn_norm", Plain),
            ("mlp.dense_h_to_4h", "ffn_up", Plain),
            ("mlp.dense_4h_to_h", "ffn_down", Plain),
        ],
    },
    Architecture {
        name: "falcon",
        model_type: "falcon",
        class: "FalconForCausalLM",
        whole: &[
            ("transformer.word_embeddings", "token_embd", Plain),
            ("transformer.ln_f", "output_norm", Plain),
            ("lm_head", "output", Plain),
        ],
        layers: "transformer.h.",
        layer: &[
            // One norm before both branches, or one for each: `attn_norm` is then that of the feed-forward branch.
            ("input_layernorm", "attn_norm", Plain),
            ("ln_mlp", "attn_norm", Plain),
            ("ln_attn", "attn_norm_2", Plain),
            ("self_attention.query_key_value", "attn_qkv", GroupQkv),
            ("self_attention.dense", "attn_output", Plain),
            ("mlp.dense_h_to_4h", "ffn_up", Plain),
            ("mlp.dense_4h_to_h", "ffn_down", Plain),
        ],
    },
    Architecture {
        name: "starcoder2",
        model_type: "starcoder2",
        class: "Starcoder2ForCausalLM",
        whole: MODEL,
        layers: "model.layers.",
        layer: &[
            ("input_layernorm", "attn_norm", Plain),
            ("self_attn.q_proj", "attn_q", Plain),
            ("self_attn.k_proj", "attn_k", Plain),
            ("self_attn.v_proj", "attn_v", Plain),
            ("self_attn.o_proj", "attn_output", Plain),
            ("post_attention_layernorm", "ffn_norm", Plain),
            ("mlp.c_fc", "ffn_up", Plain),
            ("mlp.c_proj", "ffn_down", Plain),
        ],
    },
];

/// What comes before the number of a layer in GGUF.
const BLOCKS: &str = "blk.";

/// A name in its parts: what comes before the layer number, the number, the rest, and the ending.
fn split<'a>(name: &'a str, layers: &str) -> Option<(Option<&'a str>, &'a str, &'a str)> {
    let (stem, ending) = name.rsplit_once('.').filter(|(_, ending)| matches!(*ending, "weight" | "bias"))?;
    match stem.strip_prefix(layers).and_then(|rest| rest.split_once('.')) {
        Some((number, rest)) if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => {
            Some((Some(number), rest, ending))
        }
        _ => Some((None, stem, ending)),
    }
}

impl Architecture {
    pub fn find(name: &str) -> Option<&'static Architecture> {
        ARCHITECTURES.iter().find(|row| row.name == name)
    }

    /// GGUF's name of a parameter, and what was done to it.
    pub fn to_gguf(&self, parameter: &str) -> Option<(String, Fix)> {
        let (layer, stem, ending) = split(parameter, self.layers)?;
        let rows = if layer.is_some() { self.layer } else { self.whole };
        let &(_, gguf, fix) = rows.iter().find(|(hf, _, _)| *hf == stem)?;
        // A bias has no columns to transpose.
        let fix = if fix == Transposed && ending == "bias" { Plain } else { fix };
        Some(match layer {
            Some(layer) => (format!("{BLOCKS}{layer}.{gguf}.{ending}"), fix),
            None => (format!("{gguf}.{ending}"), fix),
        })
    }

    /// The parameter of a GGUF tensor. `separate` says whether layers have a norm for each branch.
    pub fn to_parameter(&self, tensor: &str, separate: bool) -> Option<String> {
        let (layer, stem, ending) = split(tensor, BLOCKS)?;
        let rows = if layer.is_some() { self.layer } else { self.whole };
        let mut found = rows.iter().filter(|(_, gguf, _)| *gguf == stem);
        let first = found.next()?;
        let (hf, _, _) = found.next().filter(|_| separate).unwrap_or(first);
        Some(match layer {
            Some(layer) => format!("{}{layer}.{hf}.{ending}", self.layers),
            None => format!("{hf}.{ending}"),
        })
    }
}

/// Heads of attention: what the order of rows depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heads {
    pub queries: usize,
    pub keys: usize,
    /// Elements of a head.
    pub size: usize,
}

impl Fix {
    /// The row of the file that is row `row` of a parameter.
    pub fn source(self, row: usize, heads: Heads) -> usize {
        let Heads { queries, keys, size } = heads;
        let size = size.max(1);
        let (head, at) = (row / size, row % size);
        match self {
            Plain | Transposed | PlusOne => row,
            // `[head, half, i]` lies at `[head, i, half]`. An odd head has no halves and is refused elsewhere.
            Queries | Keys => {
                let half = (size / 2).max(1);
                head * size + at % half * 2 + at / half
            }
            // `[head, q/k/v, i]` lies at `[q/k/v, head, i]`.
            HeadQkv => (head % 3 * queries + head / 3) * size + at,
            // `[group, its queries, k, v]`: all queries lie first, then keys, then values.
            GroupQkv => {
                let each = queries / keys.max(1);
                let (group, place) = (head / (each + 2), head % (each + 2));
                let head = match place.checked_sub(each) {
                    None => group * each + place,
                    Some(part) => queries + part * keys + group,
                };
                head * size + at
            }
        }
    }

    /// How many rows such a parameter has; `None` where any number will do.
    pub fn rows(self, heads: Heads) -> Option<usize> {
        let Heads { queries, keys, size } = heads;
        match self {
            Plain | Transposed | PlusOne => None,
            Queries => Some(queries * size),
            Keys => Some(keys * size),
            HeadQkv => Some(3 * queries * size),
            GroupQkv => Some((queries + 2 * keys) * size),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// LB-16: names there and back, for every row of every architecture.
    #[test]
    fn names_there_and_back() {
        for architecture in &ARCHITECTURES {
            for (rows, hf_prefix) in [(architecture.whole, ""), (architecture.layer, architecture.layers)] {
                for (hf, _, _) in rows {
                    let number = if hf_prefix.is_empty() { "" } else { "17." };
                    let name = format!("{hf_prefix}{number}{hf}.weight");
                    let (gguf, _) = architecture.to_gguf(&name).unwrap();
                    let separate = hf.starts_with("ln_");
                    assert_eq!(architecture.to_parameter(&gguf, separate), Some(name), "{}", architecture.name);
                }
            }
            assert_eq!(architecture.to_gguf("model.layers.x.self_attn.q_proj.weight"), None);
            assert_eq!(architecture.to_gguf("nothing"), None);
        }
    }

    /// LB-16: every order of rows is a permutation, and the one that conversion makes.
    #[test]
    fn orders_of_rows() {
        let heads = Heads { queries: 4, keys: 2, size: 6 };
        for fix in [Queries, Keys, HeadQkv, GroupQkv] {
            let rows = fix.rows(heads).unwrap();
            let mut sources: Vec<usize> = (0..rows).map(|row| fix.source(row, heads)).collect();
            sources.sort_unstable();
            assert_eq!(sources, (0..rows).collect::<Vec<_>>(), "{fix:?}");
        }
        let first = |fix: Fix, rows: [usize; 4]| rows.map(|row| fix.source(row, heads));
        assert_eq!(first(Queries, [0, 1, 3, 6 + 4]), [0, 2, 1, 6 + 3]);
        // Head 1's key is the second of the keys, which follow four heads of queries.
        assert_eq!(first(HeadQkv, [5, 6, 12, (3 + 1) * 6]), [5, 24, 48, 24 + 6]);
        // Group 0 is two heads of queries, a key, a value.
        assert_eq!(first(GroupQkv, [6, 12, 18, 24]), [6, 24, 36, 12]);
    }
}
