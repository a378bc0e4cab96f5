"""Language models beside llama.cpp in one run, the two taking turns.

usage: language.py LITH PEER_PYTHON PEER_SCRIPT MODEL.gguf [ROUNDS]

LITH is the `lith` command, PEER_PYTHON a Python with llama-cpp-python, PEER_SCRIPT the peer's measurement (prefill of 512
tokens, 64 tokens decoded greedily). Prints a table; medians of the rounds.
"""
import json
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

MODES = ["float32", "int8", "int8-all"]


def lith(command, artifact, threads, batch):
    out = subprocess.run([command, "bench", artifact, "--prefill", "512", "--decode", "64", "--batch", str(batch),
                          "--threads", str(threads), "--json"], check=True, capture_output=True, text=True).stdout
    return json.loads(out)


def peer(python, script, model, threads):
    out = subprocess.run([python, script, model, str(threads)], check=True, capture_output=True, text=True).stdout
    found = re.findall(r"prefill512\s+([\d.]+) tok/s\s+decode\s+([\d.]+)", out)
    return [statistics.median(float(row[i]) for row in found) for i in (0, 1)]


def main():
    command, python, script, model = sys.argv[1:5]
    rounds = int(sys.argv[5]) if len(sys.argv) > 5 else 3
    with tempfile.TemporaryDirectory() as folder:
        artifacts = {}
        for mode in MODES:
            artifacts[mode] = str(Path(folder) / f"{mode}.lith")
            subprocess.run([command, "compile", model, "--activations", mode, "--cache-dtype", "float16", "--emit",
                            "artifact", "-o", artifacts[mode], "--quiet"], check=True)
        print("| threads | activations | batch | prefill tokens/s | decode tokens/s | of the memory roof | prefill / llama.cpp "
              "| decode / llama.cpp |\n|---|---|---|---|---|---|---|---|")
        for threads in (1, 2):
            peers, ours = [], {}
            for _ in range(rounds):
                peers.append(peer(python, script, model, threads))
                for mode in MODES:
                    ours.setdefault((mode, 1), []).append(lith(command, artifacts[mode], threads, 1))
                ours.setdefault((MODES[-1], 8), []).append(lith(command, artifacts[MODES[-1]], threads, 8))
            base = [statistics.median(p[i] for p in peers) for i in (0, 1)]
            print(f"| {threads} | llama.cpp | 1 | {base[0]:.1f} | {base[1]:.1f} | | 1 | 1 |")
            for (mode, batch), runs in ours.items():
                fill, decode, share = (statistics.median(r[k] for r in runs) for k in (
                    "prefill_tokens_per_s", "decode_tokens_per_s", "memory_roof_share"))
                ratio = f"{decode / base[1]:.2f}" if batch == 1 else ""
                print(f"| {threads} | {mode} | {batch} | {fill:.1f} | {decode:.1f} | {share:.0%} | {fill / base[0]:.2f} | {ratio} |")


if __name__ == "__main__":
    main()
