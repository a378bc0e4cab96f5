"""How far float32 arithmetic is from the goldens: the distance that a correct float32 program may show.

    python3 check_models.py FIXTURES

Prints, a directory a line, the largest absolute difference over the largest absolute value of the output, for Transformers in float32.
"""
import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
import transformers as tf

from tiny import distance


def main():
    tf.logging.set_verbosity_error()
    worst = 0.0
    for path in sorted(Path(sys.argv[1]).glob("*/golden.json")):
        golden = json.loads(path.read_text())
        if "batches" not in golden or path.parent.name == "load-gamma-beta" or "pretraining" in path.parent.name:
            continue  # Transformers 5 no longer renames gamma and beta in every head
        try:
            model = getattr(tf, golden["class"]).from_pretrained(path.parent, dtype=torch.float32, attn_implementation="eager").eval()
        except Exception as error:
            print(path.parent.name, "not loaded:", type(error).__name__, str(error)[:100])
            continue
        relative = distance(model, golden["batches"])
        worst = max(worst, relative)
        print(f"{path.parent.name:36} {relative:.1e}")
    print(f"{'largest':36} {worst:.1e}")


if __name__ == "__main__":
    main()
