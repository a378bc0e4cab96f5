"""The review sentences and their fixed split; as a program, writes the held-out part.

    python3 reviews_heldout.py REVIEWS [--part heldout|validation|train] > heldout.jsonl

REVIEWS is the folder of the fetched data set (it holds movieReviewSnippets_GroundTruth.txt, at any depth). One JSON object a
line: {"id", "text", "label", "score"}. The label is the sign of the mean of the human ratings; sentences whose mean is exactly
zero belong to no label and are left out.

The rule of the split, by the sentence's id alone: h = first four bytes, big-endian, of SHA-256("movie:" + id); h mod 10 is 0 for
held-out, 1 for validation, else training. A sentence whose text also stands in another part goes to training only if all its
copies do (the set has two doubled sentences).

Data: Hutto, C.J. & Gilbert, E.E. (2014), VADER, ICWSM-14; MIT licence. It is not part of this repository.
"""
import argparse
import hashlib
import json
from pathlib import Path

LABELS = ("NEGATIVE", "POSITIVE")


def rows(folder, name):
    """(id, mean score, text) of one of the four sets: movieReview, amazonReview, nytEditorial, tweets."""
    files = sorted(Path(folder).rglob(f"{name}*_GroundTruth.txt"))
    if len(files) != 1:
        raise SystemExit(f"{folder}: expected one file {name}*_GroundTruth.txt, found {len(files)}")
    for line in files[0].read_text(encoding="utf-8-sig").splitlines():
        if line.strip():
            key, score, text = line.split("\t")
            yield key, float(score), text.strip()


def lexicon(folder):
    """(word, mean score) for the entries of the sentiment lexicon that are plain words."""
    (path,) = Path(folder).rglob("vader_sentiment_lexicon.txt")
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        word, score = line.split("\t")[:2]
        word = word.rstrip(":")
        if word.isalpha() and word.isascii() and len(word) > 1:
            yield word, float(score)


def part_of(key):
    bucket = int.from_bytes(hashlib.sha256(f"movie:{key}".encode()).digest()[:4], "big") % 10
    return {0: "heldout", 1: "validation"}.get(bucket, "train")


def split(folder):
    """{"train": [(id, score, text)], "validation": ..., "heldout": ...}; no text is in two parts."""
    everything = list(rows(folder, "movieReview"))
    rank = {"heldout": 0, "validation": 1, "train": 2}
    home = {}
    for key, _, text in everything:
        part = part_of(key)
        if rank[part] < rank[home.get(text, "train")]:
            home[text] = part
    parts = {name: [] for name in rank}
    for key, score, text in everything:
        parts[home.get(text, "train")].append((key, score, text))
    return parts


def main():
    cli = argparse.ArgumentParser()
    cli.add_argument("reviews")
    cli.add_argument("--part", default="heldout", choices=("heldout", "validation", "train"))
    args = cli.parse_args()
    for key, score, text in split(args.reviews)[args.part]:
        if score != 0:
            print(json.dumps({"id": key, "text": text, "label": LABELS[score > 0], "score": score}, ensure_ascii=False))


if __name__ == "__main__":
    main()
