"""Draws the logs of training runs beside each other: loss on the left, accuracy of the evaluations on the right.

    python3 curves.py OUT.svg NAME=trainer_state.json NAME=train_minilm.json ...

Reads `log_history` of Lith's or Transformers' trainer_state.json, or `log` of what tests/oracle/train_minilm.py writes.
"""
import json
import sys

WIDTH, HEIGHT, LEFT, TOP, GAP = 330, 220, 48, 34, 62
COLORS = ["#2166ac", "#c4501b", "#3b7d3b", "#7b4fa3"]


def read(path):
    with open(path, encoding="utf-8") as file:
        state = json.load(file)
    log = state.get("log_history") or state["log"]
    return {name: [(line["epoch"], line[name]) for line in log if name in line] for name in ("loss", "eval_accuracy")}


def ticks(low, high, count=5):
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5) if (high - low) / s <= count)
    first = round(low / step)
    return [i * step for i in range(first, first + count + 2) if low - 1e-9 <= i * step <= high + 1e-9]


def panel(x0, title, name, runs):
    points = [p for run in runs.values() for p in run[name]]
    right, low, high = max(e for e, _ in points), min(v for _, v in points), max(v for _, v in points)
    margin = (high - low) * 0.12
    low, high = low - margin, high + margin
    x = lambda e: x0 + e / right * WIDTH
    y = lambda v: TOP + (high - v) / (high - low) * HEIGHT
    yield f'<text x="{x0}" y="{TOP - 14}" class="title">{title}</text>'
    for v in ticks(low, high):
        yield f'<line x1="{x0}" x2="{x0 + WIDTH}" y1="{y(v):.1f}" y2="{y(v):.1f}" class="grid"/>'
        yield f'<text x="{x0 - 6}" y="{y(v) + 4:.1f}" text-anchor="end">{v:.2f}</text>'
    for e in range(int(right) + 1):
        yield f'<text x="{x(e):.1f}" y="{TOP + HEIGHT + 18}" text-anchor="middle">{e}</text>'
    for (label, run), color in zip(runs.items(), COLORS):
        line = " ".join(f"{x(e):.1f},{y(v):.1f}" for e, v in run[name])
        yield f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>'
        if name != "loss":
            yield from (f'<circle cx="{x(e):.1f}" cy="{y(v):.1f}" r="3.5" fill="{color}"/>' for e, v in run[name])


def main(out, *runs):
    runs = {name: read(path) for name, path in (run.split("=", 1) for run in runs)}
    second = LEFT + WIDTH + GAP
    width, height = second + WIDTH + 20, TOP + HEIGHT + 58
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
             "<style>text{font:12px sans-serif;fill:#333}.title{font-weight:600;font-size:13px}.grid{stroke:#ddd}</style>",
             f'<rect width="{width}" height="{height}" fill="#fff"/>']
    parts += panel(LEFT, "Loss while training, by epoch", "loss", runs)
    parts += panel(second, "Accuracy on the held-out rows, by epoch", "eval_accuracy", runs)
    for i, (label, color) in enumerate(zip(runs, COLORS)):
        at = LEFT + i * 150
        parts.append(f'<line x1="{at}" x2="{at + 22}" y1="{height - 14}" y2="{height - 14}" stroke="{color}" stroke-width="3"/>')
        parts.append(f'<text x="{at + 28}" y="{height - 10}">{label}</text>')
    with open(out, "w", encoding="utf-8") as file:
        file.write("\n".join(parts + ["</svg>", ""]))


main(*sys.argv[1:])
