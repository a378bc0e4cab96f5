"""Adapters that PEFT wrote, of tiny fixture models: `adapters/<name>/` with PEFT's two files and golden.json.

    python3 make_adapters.py FIXTURES [NAME ...]

Every weight of an adapter is drawn, so that nothing of it is zero. golden.json: `base`, the fixture that is adapted, and
`cases` of `ids` with `logits`, of the sequence (one row) or of each token, computed by PEFT in float64.
"""
import copy
import json
import sys
from pathlib import Path

import torch
import transformers as tf
from peft import LoraConfig, get_peft_model

from tiny import dump, generator, rounded

BERT, DECODERS = "bert-sequence-classification", "decoders"
CASES = {
    # Names, the head as SEQ_CLS has it.
    "names": (BERT, dict(task_type="SEQ_CLS", r=4, lora_alpha=6, target_modules=["query", "value"])),
    "regex-rslora": (BERT, dict(task_type="SEQ_CLS", r=4, lora_alpha=3, use_rslora=True,
                                target_modules=r".*\.layer\.[01]\.(attention\.self\.key|intermediate\.dense)",
                                rank_pattern={"intermediate.dense": 2}, alpha_pattern={"key": 5})),
    "all-linear": (BERT, dict(r=2, lora_alpha=2, target_modules="all-linear", exclude_modules=["pooler.dense"])),
    "bias-lora-only": (BERT, dict(task_type="SEQ_CLS", r=2, target_modules=["key", "output.dense"], bias="lora_only")),
    "bias-all": (BERT, dict(task_type="SEQ_CLS", r=2, target_modules=["query", "intermediate.dense"], bias="all")),
    "dora": (BERT, dict(task_type="SEQ_CLS", r=3, lora_alpha=5, target_modules=["query", "output.dense"], use_dora=True)),
    "embeddings": (BERT, dict(r=2, lora_alpha=4, target_modules=["word_embeddings", "query"])),
    "some-layers": (BERT, dict(r=2, target_modules=["dense"], layers_to_transform=[1], layers_pattern="layer")),
    "saved-modules": (BERT, dict(r=2, target_modules=["value"], modules_to_save=["pooler", "classifier"])),
    "llama": (f"{DECODERS}/llama", dict(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"])),
    "llama-saved": (f"{DECODERS}/llama", dict(task_type="CAUSAL_LM", r=2, target_modules="all-linear", use_dora=True,
                                              use_rslora=True, modules_to_save=["lm_head", "embed_tokens"])),
    "gpt2": (f"{DECODERS}/gpt2", dict(task_type="CAUSAL_LM", r=3, lora_alpha=4, target_modules=["c_attn", "mlp.c_proj"],
                                      fan_in_fan_out=True)),
    "phi3": (f"{DECODERS}/phi3", dict(task_type="CAUSAL_LM", r=2, target_modules=["qkv_proj", "gate_up_proj"])),
    "gpt-neox": (f"{DECODERS}/gpt-neox", dict(task_type="CAUSAL_LM", r=2, target_modules=["query_key_value"])),
}


def base_of(folder):
    config = json.loads((folder / "config.json").read_text())
    architecture = (config.get("architectures") or [None])[0]
    kind = getattr(tf, architecture) if architecture else tf.AutoModelForCausalLM
    return kind.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def draw(model, name):
    """New values for all that the adapter's files have."""
    g = generator("adapters", name)
    for key, p in model.named_parameters():
        if "lora_magnitude" in key:
            p.mul_(1 + 0.3 * torch.rand(p.shape, generator=g))
        elif p.requires_grad:
            p.add_(0.25 * torch.randn(p.shape, generator=g))


@torch.no_grad()
def cases(model, vocabulary):
    g = generator("adapters", "ids", vocabulary)
    wide = copy.deepcopy(model).double().eval()
    for length in (1, 5, 12):
        ids = torch.randint(5, vocabulary, (1, length), generator=g)
        yield {"ids": ids[0].tolist(), "logits": rounded(wide(input_ids=ids).logits[0])}


def main():
    tf.logging.set_verbosity_error()
    fixtures = Path(sys.argv[1])
    for name in sys.argv[2:] or CASES:
        base, options = CASES[name]
        torch.manual_seed(0)
        model = get_peft_model(base_of(fixtures / base), LoraConfig(**options)).eval()
        draw(model, name)
        folder = fixtures / "adapters" / name
        model.save_pretrained(folder, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)
        file = folder / "adapter_config.json"
        config = json.loads(file.read_text()) | {"base_model_name_or_path": base}
        for key, value in config.items():  # sets, in no order
            if isinstance(value, list) and all(isinstance(v, str) for v in value):
                config[key] = sorted(value)
        file.write_text(json.dumps(config, indent=2) + "\n")
        dump(folder / "golden.json", {"base": base, "cases": list(cases(model, model.config.vocab_size))})
        print(name, sum(p.numel() for p in model.parameters() if p.requires_grad))


if __name__ == "__main__":
    main()
