"""Tiny random checkpoints of every decoder family and rotary variant, each with golden logits.

    python3 make_decoders.py FIXTURES [NAME ...]

Writes FIXTURES/decoders/<name>/{config.json, model.safetensors, golden.json}. golden.json has
    cases     lists of token ids, the first a prompt, followed by DECODE tokens that are fed one by one
    logits    for each case the logits of the prompt's last token and of each fed token, LOGITS columns spread over the vocabulary
    prefill   of each case the logits of all tokens of its prompt, of the first of those columns
    columns   the columns
Arithmetic is float64 on the stored float32 weights, angles of rotary positions too. Remaking gives the same bytes.
"""
import copy
import json
import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
import transformers as tf
from safetensors.torch import load_file, save_file

from tiny import dump, generator

DECODE = 32
VOCAB = 93
LOGITS = 12

SIZE = dict(vocab_size=VOCAB, hidden_size=24, num_hidden_layers=3, num_attention_heads=4, intermediate_size=44,
            bos_token_id=1, eos_token_id=2, pad_token_id=None)
GQA = dict(SIZE, num_key_value_heads=2, max_position_embeddings=256)
TIED = dict(tie_word_embeddings=True)


def rope(kind, **more):
    return dict(rope_type=kind, rope_theta=10000.0, **more)


def pairs(n, name):
    """Factors for longrope: some number above 1 for each pair."""
    return [round(1 + 3 * float(x), 4) for x in torch.rand(n, generator=generator("longrope", name))]


# name -> (model type, fields of the configuration, more: prompts, how the file is changed)
MODELS = {
    "llama": ("llama", dict(GQA)),
    "llama-tied-biases": ("llama", dict(GQA, **TIED, attention_bias=True, mlp_bias=True, head_dim=10, hidden_act="gelu")),
    "llama-mha": ("llama", dict(SIZE, max_position_embeddings=256)),
    "llama-linear": ("llama", dict(GQA, rope_parameters=rope("linear", factor=3.0))),
    "llama-dynamic": ("llama", dict(GQA, head_dim=8, max_position_embeddings=24, rope_parameters=rope("dynamic", factor=2.5)), "around 24"),
    "llama-yarn": ("llama", dict(GQA, head_dim=16, rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=64))),
    "llama-yarn-mscale": ("llama", dict(GQA, head_dim=16, rope_parameters=rope(
        "yarn", factor=8.0, original_max_position_embeddings=32, mscale=0.8, mscale_all_dim=0.5, beta_fast=8.0, beta_slow=2.0, truncate=False))),
    "llama-yarn-attention-factor": ("llama", dict(GQA, head_dim=16, rope_parameters=rope(
        "yarn", factor=4.0, original_max_position_embeddings=64, attention_factor=1.3))),
    "llama-llama3": ("llama", dict(GQA, head_dim=16, rope_parameters=rope(
        "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64))),
    "llama-longrope": ("llama", dict(GQA, head_dim=12, rope_parameters=rope(
        "longrope", original_max_position_embeddings=24, factor=10.0, short_factor=pairs(6, "s"), long_factor=pairs(6, "l"))), "around 24"),
    "llama-proportional": ("llama", dict(GQA, head_dim=16, rope_parameters=rope("proportional", partial_rotary_factor=0.5, factor=2.0))),
    "llama-old-rope-fields": ("llama", dict(GQA, head_dim=16, rope_parameters=dict(
        rope_type="llama3", rope_theta=5000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)), "", "old rope"),
    "llama-no-prefix": ("llama", dict(GQA), "", "no prefix"),
    "mistral": ("mistral", dict(GQA, sliding_window=9, head_dim=10)),
    "mistral-no-window": ("mistral", dict(GQA, sliding_window=None)),
    "qwen2": ("qwen2", dict(GQA, **TIED)),
    "qwen2-window": ("qwen2", dict(GQA, use_sliding_window=True, sliding_window=7, max_window_layers=1)),
    "qwen3": ("qwen3", dict(GQA, head_dim=10)),
    "phi3": ("phi3", dict(GQA, sliding_window=11)),
    "phi3-longrope-partial": ("phi3", dict(GQA, hidden_size=48, original_max_position_embeddings=24, partial_rotary_factor=0.5,
        rope_parameters=rope("longrope", partial_rotary_factor=0.5, short_factor=pairs(3, "ps"), long_factor=pairs(3, "pl"))), "around 24"),
    "gemma": ("gemma", dict(GQA, head_dim=10)),
    "gemma2": ("gemma2", dict(GQA, head_dim=10, query_pre_attn_scalar=7, sliding_window=9, attn_logit_softcapping=2.0, final_logit_softcapping=3.0)),
    "gemma3": ("gemma3_text", dict(GQA, num_hidden_layers=4, head_dim=10, query_pre_attn_scalar=7, sliding_window=9,
        layer_types=["sliding_attention", "full_attention"] * 2, rope_parameters=dict(
            full_attention=rope("linear", factor=8.0) | dict(rope_theta=1000000.0), sliding_attention=rope("default")))),
    "gemma3-old-fields": ("gemma3_text", dict(GQA, head_dim=10, query_pre_attn_scalar=7, sliding_window=9,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"], rope_parameters=dict(
            full_attention=dict(rope_type="linear", factor=8.0, rope_theta=500000.0), sliding_attention=dict(rope_type="default", rope_theta=3000.0))), "", "old gemma3"),
    "gpt2": ("gpt2", dict(vocab_size=VOCAB, n_embd=24, n_layer=3, n_head=4, n_positions=128, bos_token_id=1, eos_token_id=2)),
    "gpt2-variant": ("gpt2", dict(vocab_size=VOCAB, n_embd=24, n_layer=3, n_head=4, n_inner=40, n_positions=128, bos_token_id=1, eos_token_id=2,
        scale_attn_by_inverse_layer_idx=True, activation_function="relu", tie_word_embeddings=False), "", "buffers"),
    "gpt-neox": ("gpt_neox", dict(SIZE, max_position_embeddings=256, rope_parameters=rope("default", partial_rotary_factor=0.5), hidden_size=32)),
    "gpt-neox-sequential": ("gpt_neox", dict(SIZE, max_position_embeddings=256, rope_parameters=rope("default", partial_rotary_factor=1.0),
        use_parallel_residual=False, attention_bias=False, tie_word_embeddings=True), "", "neox buffers"),
    "starcoder2": ("starcoder2", dict(GQA, sliding_window=9)),
    "starcoder2-untied": ("starcoder2", dict(GQA, use_bias=False, tie_word_embeddings=False)),
    "falcon-7b": ("falcon", dict(vocab_size=VOCAB, hidden_size=24, num_hidden_layers=3, num_attention_heads=4, bos_token_id=1, eos_token_id=2,
        multi_query=True, parallel_attn=True, bias=False, max_position_embeddings=256)),
    "falcon-new": ("falcon", dict(vocab_size=VOCAB, hidden_size=24, num_hidden_layers=3, num_attention_heads=4, num_kv_heads=2, bos_token_id=1,
        eos_token_id=2, new_decoder_architecture=True, bias=False, max_position_embeddings=256)),
    "falcon-new-one-norm": ("falcon", dict(vocab_size=VOCAB, hidden_size=24, num_hidden_layers=3, num_attention_heads=4, num_kv_heads=2,
        bos_token_id=1, eos_token_id=2, new_decoder_architecture=True, num_ln_in_parallel_attn=1, max_position_embeddings=256)),
    "falcon-rw": ("falcon", dict(vocab_size=VOCAB, hidden_size=24, num_hidden_layers=3, num_attention_heads=4, bos_token_id=1, eos_token_id=2,
        alibi=True, multi_query=False, parallel_attn=False, bias=True, max_position_embeddings=256, ffn_hidden_size=44)),
    "smollm3": ("smollm3", dict(GQA, num_hidden_layers=4, no_rope_layers=[1, 0, 1, 0])),
    "olmo2": ("olmo2", dict(GQA)),
    "granite": ("granite", dict(GQA, embedding_multiplier=3.0, logits_scaling=2.5, residual_multiplier=0.4, attention_multiplier=0.2)),
    "cohere": ("cohere", dict(GQA, logit_scale=0.3)),
    "cohere-qk-norm": ("cohere", dict(GQA, use_qk_norm=True)),
}


def randomise(model, name):
    """Weights wide enough that a wrong layer shows, norms and biases not what they start as."""
    g = generator("decoder", name)
    with torch.no_grad():
        for key, p in model.named_parameters():
            if p.dim() >= 2:
                p.copy_(torch.randn(p.shape, generator=g) * (1.0 if "emb" in key or "wte" in key or "wpe" in key else 0.35))
            elif key.endswith("weight"):
                p.copy_(p + 0.3 * torch.randn(p.shape, generator=g))
            else:
                p.copy_(0.3 * torch.randn(p.shape, generator=g))
    return model.eval()


@contextmanager
def double():
    """What asks for float32 on the way, such as the angles of positions, gets float64."""
    kept = torch.Tensor.float, torch.float, torch.float32
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = lambda self, **_: self.double()
    torch.float = torch.float32 = torch.float64
    try:
        yield
    finally:
        torch.Tensor.float, torch.float, torch.float32 = kept
        torch.set_default_dtype(torch.float32)


def wide(config, state):
    """The model in double precision throughout."""
    config = copy.deepcopy(config)
    config.dtype = torch.float64
    # Falcon's eager attention of Transformers 5.23 adds the slopes twice, in the mask and to the scores.
    kind = "sdpa" if getattr(config, "alibi", False) else "eager"
    model = tf.AutoModelForCausalLM.from_config(config, attn_implementation=kind).double().eval()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and all("inv_freq" in k or "lm_head" in k for k in missing), (missing, unexpected)
    model.tie_weights()
    return model


def lengths(kind):
    # Past a multiple of the page of 64, past every window; "around 24": below, across and beyond a limit of 24 positions.
    return (5, 20, 30) if kind == "around 24" else (1, 7, 40)


@torch.no_grad()
def golden(model_of, name, vocab, kind, columns):
    g = generator("tokens", name)
    cases, logits, prefill = [], [], []
    for n in lengths(kind):
        ids = torch.randint(0, vocab, (n + DECODE,), generator=g)
        model = model_of()  # rotary positions that follow the length have a memory
        past, steps = None, []
        out = model(input_ids=ids[None, :n], use_cache=True)
        past = out.past_key_values
        prefill.append(out.logits[0][:, columns[0]])
        steps.append(out.logits[0, -1, columns])
        for i in range(n, n + DECODE):
            out = model(input_ids=ids[None, i:i + 1], past_key_values=past, use_cache=True)
            past = out.past_key_values
            steps.append(out.logits[0, -1, columns])
        cases.append({"prompt": n, "ids": ids.tolist()})
        logits.append(torch.stack(steps))
    def short(t):
        return [float(f"{v:.9g}") for v in t] if t.dim() == 1 else [short(x) for x in t]
    return {"cases": cases, "columns": columns, "logits": [short(t) for t in logits], "prefill": [short(t) for t in prefill]}


def make(folder, name):
    kind, fields, *more = MODELS[name]
    prompts, change = (more + ["", ""])[:2]
    config = tf.AutoConfig.for_model(kind, **fields)
    model = randomise(tf.AutoModelForCausalLM.from_config(config), name)
    config.architectures = [type(model).__name__]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config.dtype = torch.float32
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    file, tensors = folder / "model.safetensors", load_file(folder / "model.safetensors")
    fields = json.loads((folder / "config.json").read_text())
    if change == "no prefix":
        tensors = {k.removeprefix("model."): v for k, v in tensors.items()}
    if change == "buffers":  # as old files of GPT-2 have them; the body's prefix is missing there too
        tensors = {k.removeprefix("transformer."): v for k, v in tensors.items()}
        for i in range(3):
            tensors[f"h.{i}.attn.bias"] = torch.ones(1, 1, 4, 4).tril()
            tensors[f"h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    if change == "neox buffers":
        for i in range(3):
            tensors[f"gpt_neox.layers.{i}.attention.bias"] = torch.ones(1, 1, 4, 4).tril().bool()
            tensors[f"gpt_neox.layers.{i}.attention.masked_bias"] = torch.tensor(-1e9)
            tensors[f"gpt_neox.layers.{i}.attention.rotary_emb.inv_freq"] = torch.ones(3)
    if change == "old rope":
        params = fields.pop("rope_parameters")
        fields["rope_theta"] = params.pop("rope_theta")
        fields["rope_scaling"] = {"type": params.pop("rope_type"), **params}
    if change == "old gemma3":
        params = fields.pop("rope_parameters")
        fields.pop("layer_types")
        fields["sliding_window_pattern"] = 3
        full = params["full_attention"]
        fields["rope_theta"], fields["rope_local_base_freq"] = full.pop("rope_theta"), params["sliding_attention"]["rope_theta"]
        fields["rope_scaling"] = full
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, file, metadata={"format": "pt"})
    file.chmod(0o644)
    (folder / "config.json").write_text(json.dumps(fields, indent=1, sort_keys=True) + "\n")
    columns = torch.linspace(0, VOCAB - 1, LOGITS).long().tolist()
    state = {k: v.double() for k, v in model.state_dict().items()}
    with double():
        rows = golden(lambda: wide(config, state), name, VOCAB, prompts, columns)
    head = {"class": type(model).__name__, "transformers": tf.__version__, "arithmetic": "float64 on the stored weights"}
    dump(folder / "golden.json", {**head, **rows})


def main():
    fixtures = Path(sys.argv[1]) / "decoders"
    for name in sys.argv[2:] or MODELS:
        make(fixtures / name, name)
        size = sum(f.stat().st_size for f in (fixtures / name).iterdir())
        print(f"{name:32} {size:8}", flush=True)


if __name__ == "__main__":
    main()
