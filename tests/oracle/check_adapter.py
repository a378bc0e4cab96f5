"""Whether an adapter that `lith train --lora` saved is the same adapter in PEFT.

    python3 check_adapter.py MODEL_DIR ADAPTER_DIR [LITH]

Loads ADAPTER_DIR on MODEL_DIR in PEFT, every tensor of it, and compares with `lith run MODEL_DIR --adapter ADAPTER_DIR` (LITH is
the command, `lith` by default): of classifiers the logits of some texts, which may differ by 1e-5; of language models the
greedy answers to some prompts, which must be equal. Fails where the adapter changes nothing.
"""
import json
import os
import subprocess
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
import transformers as tf
from peft import PeftConfig, PeftModel
from safetensors import safe_open

TEXTS = ["the capital", "in pieces", "we live in the rain and become numbers of the graph", "paris!", "25"]
LIMIT, TOKENS = 1e-5, 24


def lith(command, *args):
    out = subprocess.run([command, "run", *map(str, args), "--json", *TEXTS], check=True, capture_output=True, text=True)
    return [json.loads(line) for line in out.stdout.splitlines()]


def place(base, adapter):
    """The model with its adapter; all tensors of the file must have found a place, and all places a tensor."""
    model = PeftModel.from_pretrained(base, adapter).eval()
    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        stored = set(file.keys())
    from peft import get_peft_model_state_dict
    # With `bias="all"` PEFT lists the biases of saved modules three times.
    placed = {name: tensor for name, tensor in get_peft_model_state_dict(model, save_embedding_layers=False).items()
              if ".original_module." not in name and ".modules_to_save." not in name}
    assert stored == set(placed), f"in one of both only: {sorted(stored ^ set(placed))}"
    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        for name, tensor in placed.items():
            assert torch.equal(file.get_tensor(name), tensor), f"{name} has other values once it is loaded"
    return model


@torch.no_grad()
def logits(model, tokenizer):
    return [model(**tokenizer(text, return_tensors="pt")).logits[0] for text in TEXTS]


@torch.no_grad()
def answers(model, tokenizer):
    found = []
    for text in TEXTS:
        ids = tokenizer(text, return_tensors="pt")
        out = model.generate(**ids, do_sample=False, max_new_tokens=TOKENS)
        found.append(tokenizer.decode(out[0, ids["input_ids"].shape[1]:], skip_special_tokens=True))
    return found


def main():
    tf.logging.set_verbosity_error()
    base_dir, adapter = Path(sys.argv[1]), Path(sys.argv[2])
    command = sys.argv[3] if len(sys.argv) > 3 else "lith"
    tokenizer = tf.AutoTokenizer.from_pretrained(base_dir)
    run = (base_dir, "--adapter", adapter)
    if PeftConfig.from_pretrained(adapter).task_type == "CAUSAL_LM":
        load = lambda: tf.AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32).eval()
        before = answers(load(), tokenizer)
        expected = answers(place(load(), adapter), tokenizer)
        found = [row[0]["generated_text"] for row in lith(
            command, *run, "--do-sample=false", "--max-new-tokens", TOKENS, "--return-full-text=false")]
        assert found == expected, [pair for pair in zip(found, expected) if pair[0] != pair[1]]
        assert before != expected, "the adapter changes nothing"
        print(f"{len(TEXTS)} greedy answers of {TOKENS} tokens are equal")
        return
    labels = len(json.loads((adapter / "config.json").read_text())["id2label"])
    kind = dict(num_labels=labels, ignore_mismatched_sizes=True, dtype=torch.float32)
    load = lambda: tf.AutoModelForSequenceClassification.from_pretrained(base_dir, **kind).eval()
    before, expected = logits(load(), tokenizer), logits(place(load(), adapter), tokenizer)
    names = json.loads((adapter / "config.json").read_text())["id2label"]
    found = lith(command, *run, "--top-k", 1000, "--function-to-apply", "none")
    worst = 0.0
    for scores, row in zip(found, expected):
        by_name = {score["label"]: score["score"] for score in scores}
        worst = max(worst, *(abs(by_name[names[str(i)]] - logit.item()) for i, logit in enumerate(row)))
    moved = max((a - b).abs().max().item() for a, b in zip(before, expected))
    print(f"logits of {len(TEXTS)} texts differ by at most {worst:.1e}; the adapter moves them by {moved:.1e}")
    assert worst <= LIMIT, f"more than {LIMIT:.0e}"
    assert moved > 1e-3, "the adapter changes nothing"


if __name__ == "__main__":
    main()
