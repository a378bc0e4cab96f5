#!/usr/bin/env python3
"""Lith beside its peers on one encoder, in one run: prints a Markdown table with ratios and the share of the roof.

    compare.py --lith target/release/lith --artifact EMBED --threads 1,2 --peers 'PYTHON encoder.py MODEL_DIR MODEL.onnx'

EMBED is a compiled all-MiniLM-L6-v2. The peers' command is called with the number of threads and the names of the peers
(torch ort ov) and prints lines such as `ort  b=8 s=128  323.00 ms  71.0 GF/s`; with `--mixed` behind, one such as
`ort  mixed 64 sequences, 7006 tokens  1710.00 ms  4097 tokens/s`. Lith is measured before and after each
peer; the medians of all its measurements count, so that a drift of the machine shows on both sides.
"""
import argparse
import json
import re
import statistics
import subprocess

SHAPES = ["1x16", "1x128", "8x128", "32x128", "4x512"]
LINE = re.compile(r"^(\w+)\s+(?:b=(\d+)\s+s=(\d+)|mixed .* tokens)\s+([\d.]+) ms")


def lith(args, threads):
    command = [args.lith, "bench", args.artifact, "--threads", str(threads), "--mixed", "--json"]
    for shape in SHAPES:
        command += ["--shape", shape]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {row["shape"]: row for row in map(json.loads, out.splitlines())}


def peer(args, threads, name):
    found = {}
    for mode in ([], ["--mixed"]):
        command = args.peers.split() + [str(threads), name] + mode
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        for m in filter(None, map(LINE.match, out.splitlines())):
            found[f"{m[2]}x{m[3]}" if m[2] else "mixed"] = float(m[4])
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lith", required=True)
    parser.add_argument("--artifact", required=True)
    parser.add_argument("--peers", required=True)
    parser.add_argument("--names", default="torch,ort,ov")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--roof", type=float, help="measured peak in GFLOP/s on one thread")
    args = parser.parse_args()
    names = args.names.split(",")
    print("| threads | shape | " + " | ".join(f"{n} ms" for n in names) + " | Lith ms | GFLOP/s | share of roof | best peer / Lith |")
    print("|---" * (len(names) + 6) + "|")
    for threads in map(int, args.threads.split(",")):
        ours, theirs = [lith(args, threads)], {}
        for name in names:
            theirs[name] = peer(args, threads, name)
            ours.append(lith(args, threads))
        for shape in SHAPES + ["mixed"]:
            median = statistics.median(run[shape]["median_ms"] for run in ours)
            rate = ours[0][shape]["gflops_per_s"] * ours[0][shape]["median_ms"] / median
            share = f"{rate / (args.roof * threads):.0%}" if args.roof else ""
            best = min(theirs[n][shape] for n in names)
            cells = [f"{theirs[n][shape]:.1f}" for n in names]
            print(f"| {threads} | {shape} | " + " | ".join(cells) + f" | {median:.1f} | {rate:.0f} | {share} | {best / median:.2f} |", flush=True)


main()
