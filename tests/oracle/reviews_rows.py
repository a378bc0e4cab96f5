"""Writes the rows that the bundled model `reviews` is trained on, `{"text", "label"}` a line.

    python3 reviews_rows.py REVIEWS [--passes N] [--seed N] > rows.jsonl

REVIEWS is the folder of the fetched data set (see reviews_heldout.py for the split and the citation). A pass holds the training part of
the movie sentences, a random half of the three smaller sets, and the plain words of the lexicon of the same package, bare and negated;
neither the held-out nor the validation part is in it. A row has one label, but over the passes it is POSITIVE in the share
sigmoid(1.25 x mean rating) of them, which is what the model learns to say. Of longer texts a fifth of the words are hidden, others in
each pass.
"""
import argparse
import json
import math
import random

import reviews_heldout as data

# A negated word of the lexicon keeps this part of its score, turned round: the factor that Hutto & Gilbert (2014) measured.
NEGATED = -0.74
NEGATIONS = ("not", "not", "never", "it is not", "isn't", "wasn't", "not very", "it is never", "hardly")
HIDDEN = 0.2


def soft(score):
    """Mean rating on [-4, 4] to the share of POSITIVE."""
    return 1 / (1 + math.exp(-1.25 * score))


def main():
    cli = argparse.ArgumentParser()
    cli.add_argument("reviews")
    cli.add_argument("--passes", type=int, default=14)
    cli.add_argument("--seed", type=int, default=1)
    args = cli.parse_args()
    rng = random.Random(args.seed)
    movies = [(text, score) for _, score, text in data.split(args.reviews)["train"]]
    others = [(text, score) for name in ("amazonReview", "nytEditorial", "tweets") for _, score, text in data.rows(args.reviews, name)]
    words = list(data.lexicon(args.reviews))
    negated = [(f"{rng.choice(NEGATIONS)} {word}", NEGATED * score) for word, score in words]
    # Where a text stands among the passes, so that its labels come in the share that is wanted and not by chance.
    firsts = {text: rng.random() for text, _ in movies + others + words + negated}
    for turn in range(args.passes):
        rows = movies + [row for row in others if rng.random() < 0.5] + words + negated
        rng.shuffle(rows)
        for text, score in rows:
            label = data.LABELS[(firsts[text] + turn / args.passes) % 1 < soft(score)]
            parts = text.split(" ")
            if len(parts) > 6:
                parts = ["[MASK]" if rng.random() < HIDDEN else part for part in parts]
            print(json.dumps({"text": " ".join(parts), "label": label}, ensure_ascii=False))


if __name__ == "__main__":
    main()
