#!/usr/bin/env python3
"""Steps of training beside torch, in one run: prints a Markdown table with ratios and the peak memory of both processes.

    training.py --lith target/release/lith --model MINILM_DIR --peer 'PYTHON train.py' [--rounds 3]
                [--reviews TRAIN.jsonl --trainer 'PYTHON train_minilm.py' --steps 60]

The peer is called with the model and the number of threads and prints lines such as `b=8 s=128 467 ms/step 70 GF/s`. With
`--reviews` both fine-tune on real rows of many lengths, cut to 128 tokens, in batches of 32: Lith by `lith train`, the peer by the
script of the oracle, which is Transformers' Trainer with its padding collator. Both are run in turn, `--rounds` times, and the
medians count, so that a drift of the machine shows on both sides. Lith runs once before, so that compiling is not measured.
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import tempfile

SHAPES = ["8x128", "32x64"]
LINE = re.compile(r"^b=(\d+) s=(\d+) ([\d.]+) ms/step")


def run(command):
    """What the command prints and its peak memory in MB."""
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    out = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}: status {status}")
    return out, usage.ru_maxrss * 1024 / 1e6


def lith_steps(args):
    command = [args.lith, "bench", args.model, "--train", "--threads", str(args.threads), "--set", "num_labels=2", "--json"]
    for shape in SHAPES:
        command += ["--shape", shape]
    out, peak = run(command)
    return {row["shape"]: 1000 / row["steps_per_s"] for row in map(json.loads, out.splitlines())}, peak


def peer_steps(args):
    out, peak = run(args.peer.split() + [args.model, str(args.threads)])
    return {f"{m[1]}x{m[2]}": float(m[3]) for m in filter(None, map(LINE.match, out.splitlines()))}, peak


def lith_reviews(args, steps):
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out")
        command = [args.lith, "train", args.model, "--train-file", args.reviews, "--output-dir", out, "--max-steps", str(steps)]
        command += ["--per-device-train-batch-size", "32", "--max-seq-length", "128", "--truncate", "--save-strategy", "no"]
        _, peak = run(command + ["--threads", str(args.threads), "--json"])
        with open(os.path.join(out, "train_results.json"), encoding="utf-8") as file:
            return {"reviews": 1000 / json.load(file)["train_steps_per_second"]}, peak


def peer_reviews(args, steps):
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out.json")
        command = args.trainer.split() + [args.model, args.reviews, args.reviews, out, "--steps", str(steps)]
        _, peak = run(command + ["--threads", str(args.threads)])
        with open(out, encoding="utf-8") as file:
            return {"reviews": 1000 / json.load(file)["metrics"]["train_steps_per_second"]}, peak


def table(pairs, shapes):
    for shape in shapes:
        ours = statistics.median(lith[0][shape] for lith, _ in pairs)
        theirs = statistics.median(peer[0][shape] for _, peer in pairs)
        lith_peak = statistics.median(lith[1] for lith, _ in pairs)
        peer_peak = statistics.median(peer[1] for _, peer in pairs)
        memory = f"{peer_peak:.0f} | {lith_peak:.0f} | {lith_peak / peer_peak:.2f} |"
        print(f"| {shape} | {theirs:.0f} | {ours:.0f} | {theirs / ours:.2f} | {memory}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lith", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--reviews")
    parser.add_argument("--trainer")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    print("| shape | torch, ms a step | Lith, ms a step | torch / Lith | torch, peak MB | Lith, peak MB | Lith / torch |")
    print("|---" * 7 + "|")
    lith_steps(args)
    table([(lith_steps(args), peer_steps(args)) for _ in range(args.rounds)], SHAPES)
    if args.reviews:
        lith_reviews(args, 1)
        table([(lith_reviews(args, args.steps), peer_reviews(args, args.steps)) for _ in range(args.rounds)], ["reviews"])


if __name__ == "__main__":
    main()
