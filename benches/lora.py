"""LoRA fine-tuning of a language model by Lith beside PEFT, on the same text: prints a Markdown table.

    python3 lora.py LITH MODEL_DIR TEXT_FILE ... [--bytes 50000] [--epochs 2] [--threads 2] [--quantize nf4] [--runs ...]

The texts are joined and cut to so many bytes; paragraphs are rows. The last tenth is held out. Lith trains beside weights as they
are and beside quantized ones; PEFT (torch) in float32. Peak memory is that of the training process; Lith's programs are in its
cache by then. Perplexities are e to the evaluation loss before and after.
"""
import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BLOCK, BATCH, RATE, SEED = 128, 4, 5e-4, 7
LORA = dict(r=8, lora_alpha=16, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])


def measured(command, **more):
    """Output, and peak resident memory in MiB."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **more)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, command
    return out, usage.ru_maxrss / 1024


def write(folder, texts, size):
    text = "\n\n".join(Path(t).read_text() for t in texts).encode()[:size].decode(errors="ignore")
    rows = [part for part in text.split("\n\n") if part.strip()]
    held = sum(len(r) for r in rows) * 9 // 10
    total, files = 0, {"train": [], "heldout": []}
    for row in rows:
        files["train" if total < held else "heldout"].append(row)
        total += len(row)
    for name, part in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in part))
    return len(text)


def lith(args, folder, quantize):
    command = [args.lith, "train", args.model, "--task", "text-generation", "--train-file", folder / "train.jsonl",
               "--validation-file", folder / "heldout.jsonl", "--block-size", BLOCK, "--per-device-train-batch-size", BATCH,
               "--per-device-eval-batch-size", BATCH, "--lr-scheduler-type", "linear", "--seed", SEED, "--threads", args.threads,
               "--lora", "--lora-r", LORA["r"], "--lora-alpha", LORA["lora_alpha"], "--lora-target-modules", ",".join(LORA["target_modules"]),
               "--output-dir", folder / "out", "--save-strategy", "no", "--weight-decay", 0, "--json"]
    command = [str(part) for part in command + (["--quantize", quantize] if quantize else [])]
    env = {**os.environ, "LITH_CACHE": str(folder / "cache")}

    def run(*more):
        out, peak = measured(command + [str(m) for m in more], env=env)
        logs = {key: value for line in out.splitlines() for key, value in json.loads(line).items()}
        return logs["train"], logs["eval"], peak

    _, before, _ = run("--max-steps", 1, "--learning-rate", 0)
    train, after, peak = run("--num-train-epochs", args.epochs, "--learning-rate", RATE)
    tokens = train["train_samples_per_second"] * BLOCK
    return before["eval_loss"], after["eval_loss"], tokens, peak


def blocks(tokenizer, file):
    ids = []
    for line in file.read_text().splitlines():
        ids += tokenizer(json.loads(line)["text"])["input_ids"] + [tokenizer.eos_token_id]
    return [ids[i:i + BLOCK] for i in range(0, len(ids) - BLOCK + 1, BLOCK)]


def peer(folder, model_dir, epochs, threads):
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    import transformers as tf
    from peft import LoraConfig, get_peft_model
    torch.set_num_threads(threads)
    torch.manual_seed(SEED)
    tokenizer = tf.AutoTokenizer.from_pretrained(model_dir)
    train, held = (blocks(tokenizer, folder / f"{name}.jsonl") for name in ("train", "heldout"))
    model = tf.AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, attn_implementation="sdpa")
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **LORA))

    @torch.no_grad()
    def evaluate():
        model.eval()
        losses = [model(input_ids=(x := torch.tensor(held[i:i + BATCH])), labels=x).loss.item() * len(x) for i in range(0, len(held), BATCH)]
        model.train()
        return sum(losses) / len(held)

    before = evaluate()
    learnt = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=RATE, weight_decay=0)
    steps = epochs * math.ceil(len(train) / BATCH)
    schedule = tf.get_linear_schedule_with_warmup(optimizer, 0, steps)
    order = torch.Generator().manual_seed(SEED)
    start = time.perf_counter()
    for _ in range(epochs):
        at = torch.randperm(len(train), generator=order).tolist()
        for i in range(0, len(at), BATCH):
            x = torch.tensor([train[j] for j in at[i:i + BATCH]])
            model(input_ids=x, labels=x).loss.backward()
            torch.nn.utils.clip_grad_norm_(learnt, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
    rate = epochs * len(train) * BLOCK / (time.perf_counter() - start)
    print(json.dumps([before, evaluate(), rate]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lith")
    parser.add_argument("model")
    parser.add_argument("text", nargs="+")
    parser.add_argument("--bytes", type=int, default=50_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quantize", default="nf4")
    parser.add_argument("--runs", default="quantized,peer,float32", help="which of these")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write(folder, args.text, args.bytes)
        print(f"{size} characters, {args.epochs} epochs, blocks of {BLOCK}, {BATCH} a step, {args.threads} threads\n")
        print("| | perplexity before | after | tokens/s | peak MiB |\n|---|---|---|---|---|", flush=True)

        def row(name, before, after, rate, peak):
            print(f"| {name} | {math.exp(before):.2f} | {math.exp(after):.2f} | {rate:.0f} | {peak:.0f} |", flush=True)

        if "quantized" in args.runs:
            row(f"Lith, {args.quantize}", *lith(args, folder, args.quantize))
        if "peer" in args.runs:
            peer = [sys.executable, __file__, "--peer", name, args.model, str(args.epochs), str(args.threads)]
            out, peak = measured(peer)
            row("PEFT, float32", *json.loads(out.splitlines()[-1]), peak)
        if "float32" in args.runs:
            row("Lith, float32", *lith(args, folder, None))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        peer(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    else:
        main()
