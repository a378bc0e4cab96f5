"""Whether a model that `lith train` saved is the same model in Transformers.

    python3 check_training.py MODEL_DIR OUT_DIR [LITH]

Loads OUT_DIR in Transformers, compares its logits on some texts with those that `lith run` gives (LITH is the command,
`lith` by default), and fails where they differ by more than 1e-5. Also says how far training moved the weights of
MODEL_DIR; weights that did not move at all, or names that only one of both has beside the head's, are failures.

Of a causal language model the vectors that its body makes of the texts are compared, and the loss that `lith train` finds in
them.
"""
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
import transformers as tf
from safetensors.torch import load_file

TEXTS = ["the capital", "in pieces", "we live in the rain and become numbers of the graph", "paris!", "25"]
LIMIT = 1e-5


def answers(lith, out):
    """What `lith run` says of each text: scores by label, before they become shares."""
    command = [lith, "run", str(out), "--json", "--top-k", "1000", "--function-to-apply", "none", *TEXTS]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return [{answer["label"]: answer["score"] for answer in json.loads(line)} for line in lines]


def moved(before, after):
    """The largest change of each parameter that both have."""
    before, after = load_file(before / "model.safetensors"), load_file(after / "model.safetensors")
    for name in sorted(before.keys() ^ after.keys()):
        assert not name.startswith(("bert.", "model.", "distilbert.", "transformer.", "gpt_neox.")), f"{name} is in one of both only"
    same = [name for name in before.keys() & after.keys() if before[name].shape == after[name].shape]
    return {name: (before[name].float() - after[name].float()).abs().max().item() for name in same}


def language_model(lith, out, model, tokenizer):
    """The greatest difference of the body's vectors, and that of the loss."""
    command = [lith, "run", str(out), "--task", "feature-extraction", "--json", *TEXTS]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    worst, total, count = 0.0, 0.0, 0
    for text, line in zip(TEXTS, lines, strict=True):
        ids = tokenizer(text, return_tensors="pt").input_ids
        vectors = torch.tensor(json.loads(line))
        worst = max(worst, (vectors.reshape(ids.shape[1], -1) - model.base_model(ids).last_hidden_state[0]).abs().max().item())
        # Examples end with the token that ends texts.
        ids = torch.cat([ids, torch.tensor([[tokenizer.eos_token_id]])], 1)
        logits = model(ids).logits[0, :-1]
        total += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        count += ids.shape[1] - 1
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder, "rows.jsonl")
        rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
        data = ["--train-file", str(rows), "--validation-file", str(rows), "--max-steps", "1", "--learning-rate", "0"]
        subprocess.run([lith, "train", str(out), *data, "--output-dir", folder], check=True, capture_output=True)
        loss = json.loads(Path(folder, "eval_results.json").read_text())["eval_loss"]
    return worst, abs(loss - total / count)


def main():
    tf.logging.set_verbosity_error()
    model_dir, out = Path(sys.argv[1]), Path(sys.argv[2])
    lith = sys.argv[3] if len(sys.argv) > 3 else "lith"
    config = json.loads((out / "config.json").read_text())
    model, loading = getattr(tf, config["architectures"][0]).from_pretrained(out, output_loading_info=True)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), loading
    tokenizer = tf.AutoTokenizer.from_pretrained(out)
    worst = 0.0
    with torch.no_grad():
        causal = config["architectures"][0].endswith("LMHeadModel") or config["architectures"][0].endswith("ForCausalLM")
        if causal:
            worst = max(language_model(lith, out, model.eval(), tokenizer))
        found = [] if causal else answers(lith, out)
        for text, scores in zip(TEXTS, found, strict=not causal):
            logits = model.eval()(**tokenizer(text, return_tensors="pt")).logits[0]
            assert len(scores) == len(logits), f"{text!r}: {len(scores)} scores, {len(logits)} logits"
            gaps = [abs(scores[model.config.id2label[i]] - logit.item()) for i, logit in enumerate(logits)]
            worst = max(worst, *gaps)
    changes = moved(model_dir, out)
    print(f"{'vectors and loss' if causal else 'logits'} of {len(TEXTS)} texts differ by at most {worst:.1e}")
    print(f"{len(changes)} parameters moved by {min(changes.values()):.1e} to {max(changes.values()):.1e}")
    assert worst <= LIMIT, f"more than {LIMIT:.0e}"
    assert min(changes.values()) > 0, [name for name, change in changes.items() if change == 0]


if __name__ == "__main__":
    main()
