"""Whether Lith learns magnitudes (DoRA) as PEFT does.

    python3 check_dora.py MODEL_DIR START_DIR OUT_DIR ROWS STEPS RATE

START_DIR is an adapter of a classifier that `lith train --lora --lora-dora` saved with a learning rate of 0, OUT_DIR one of the same
seed that learnt STEPS updates at the constant rate RATE by plain SGD, without clipping and dropout, all ROWS in each batch.
Takes START_DIR through the same updates in PEFT, and fails where a tensor differs from OUT_DIR by more than 1e-4 of what
it moved by and the rounding of each update, or has not moved.
"""
import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
import transformers as tf
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file

LIMIT = 1e-4


def main():
    tf.logging.set_verbosity_error()
    base_dir, start, out, rows = map(Path, sys.argv[1:5])
    steps, rate = int(sys.argv[5]), float(sys.argv[6])
    label2id = json.loads((start / "config.json").read_text())["label2id"]
    rows = [json.loads(line) for line in rows.read_text().splitlines()]
    base = tf.AutoModelForSequenceClassification.from_pretrained(
        base_dir, num_labels=len(label2id), ignore_mismatched_sizes=True, dtype=torch.float32)
    # Layers that drop nothing, in the mode in which PEFT learns.
    for module in base.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model = PeftModel.from_pretrained(base, start, is_trainable=True).train()
    tokenizer = tf.AutoTokenizer.from_pretrained(base_dir)
    batch = tokenizer([row["text"] for row in rows], return_tensors="pt", padding=True)
    labels = torch.tensor([label2id[row["label"]] for row in rows])
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(**batch).logits, labels)
        loss.backward()
        optimizer.step()
    expected, before, found = get_peft_model_state_dict(model), load_file(start / "adapter_model.safetensors"), load_file(
        out / "adapter_model.safetensors")
    expected = {name: tensor for name, tensor in expected.items() if ".original_module." not in name}
    assert set(expected) == set(found), sorted(set(expected) ^ set(found))
    worst, least = 0.0, float("inf")
    for name, tensor in expected.items():
        moved = (tensor - before[name]).abs().max().item()
        # Each update rounds what it writes.
        rounding = steps * 2.0**-24 * tensor.abs().max().item()
        gap = (tensor - found[name]).abs().max().item() - rounding
        # The key's bias moves attention by nothing, and is moved by rounding alone.
        worst, least = max(worst, gap / max(moved, 1e-5)), min(least, moved)
    magnitudes = sum("magnitude" in name for name in expected)
    print(f"{len(expected)} tensors, {magnitudes} of them magnitudes, moved by at least {least:.1e}; "
          f"they differ from PEFT's by at most {worst:.1e} of that")
    assert magnitudes > 0 and least > 0 and worst <= LIMIT


if __name__ == "__main__":
    main()
