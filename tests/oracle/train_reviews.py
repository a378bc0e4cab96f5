"""Trains the bundled model `reviews`: a small BERT sentiment classifier, from scratch.

    python3 train_reviews.py REVIEWS OUT [--folds N] [--epochs N] [--seed N] [--threads N] [--with-validation] ...

REVIEWS is the folder of the fetched data set (see reviews_heldout.py for the split and the citation). Training sees the training
part of the movie sentences and, as further labelled text, the three smaller sets and the plain words of the lexicon of the same
package, bare and negated; neither it nor the vocabulary ever sees the held-out part. With --folds N, N teachers of the same shape are
trained first, each on the training movie sentences without one of N parts, and the target of a sentence becomes the mean of its human
rating and of what the teacher that has not seen it says. Progress goes to standard error. Weights are written in float16.
"""
import argparse
import json
import math
import os
import random
import sys
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

import reviews_heldout as data

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LENGTH = 128
# A negated word of the lexicon keeps this part of its score, turned round: the factor that Hutto & Gilbert (2014) measured.
NEGATED = -0.74
NEGATIONS = ("not", "not", "never", "it is not", "isn't", "wasn't", "not very", "it is never", "hardly")


def make_tokenizer(texts, size):
    tok = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tok.normalizer = normalizers.BertNormalizer(lowercase=True)
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tok.decoder = decoders.WordPiece(prefix="##")
    tok.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=size, special_tokens=SPECIALS, show_progress=False))
    tok.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return tok


def soft(score):
    """Mean rating on [-4, 4] to the probability of POSITIVE that is trained for."""
    return 1 / (1 + math.exp(-1.25 * score))


class Samples:
    """(ids, target, weight) with batches of similar length in random order."""

    def __init__(self, tok, rng):
        self.tok, self.rng, self.items = tok, rng, []

    def add(self, texts, targets, weight):
        for enc, t in zip(self.tok.encode_batch(list(texts)), targets):
            self.items.append((enc.ids[:LENGTH - 1] + enc.ids[-1:] if len(enc.ids) > LENGTH else enc.ids, t, weight))

    def batches(self, size, word_dropout):
        order = sorted(self.items, key=lambda it: len(it[0]) * (1 + 0.3 * self.rng.random()))
        chunks = [order[i:i + size] for i in range(0, len(order), size)]
        self.rng.shuffle(chunks)
        for chunk in chunks:
            yield collate(chunk, self.rng, word_dropout)


def collate(chunk, rng=None, word_dropout=0.0):
    width = max(len(it[0]) for it in chunk)
    ids = torch.zeros(len(chunk), width, dtype=torch.long)
    for row, (tokens, _, _) in enumerate(chunk):
        # Single words keep their token: hiding it would leave nothing to learn from.
        drop = word_dropout if len(tokens) > 6 else 0.0
        ids[row, :len(tokens)] = torch.tensor([4 if drop and t > 4 and rng.random() < drop else t for t in tokens])
    return ids, (ids != 0).long(), torch.tensor([it[1] for it in chunk]), torch.tensor([it[2] for it in chunk])


@torch.no_grad()
def predict(model, tok, texts):
    """POSITIVE logit minus NEGATIVE logit."""
    model.eval()
    samples = Samples(tok, random.Random(0))
    samples.add(texts, [0.0] * len(texts), 1.0)
    out = []
    for i in range(0, len(texts), 64):
        ids, mask, _, _ = collate(samples.items[i:i + 64])
        logits = model(input_ids=ids, attention_mask=mask).logits
        out += (logits[:, 1] - logits[:, 0]).tolist()
    return torch.tensor(out)


def accuracy(model, tok, part):
    kept = [(s, t) for _, s, t in part if s != 0]
    d = predict(model, tok, [t for _, t in kept])
    return sum((x > 0) == (s > 0) for x, (s, _) in zip(d.tolist(), kept)) / len(kept), len(kept)


def train(args, folder, say):
    parts = data.split(folder)
    movies = parts["train"] + (parts["validation"] if args.with_validation else [])
    others = [r for name in ("amazonReview", "nytEditorial", "tweets") for r in data.rows(folder, name)]
    words = list(data.lexicon(folder))
    tok = make_tokenizer([t for _, _, t in movies] * 2 + [t for _, _, t in others] + [w for w, _ in words], args.vocab)

    def fitted(movies, seed, epochs):
        """A model trained on movie rows (score, target, text) and on everything else."""
        samples = Samples(tok, random.Random(seed))
        samples.add([t for _, _, t in movies], [p for _, p, _ in movies], 1.0)
        samples.add([t for _, _, t in others], [soft(s) for _, s, _ in others], args.other_weight)
        samples.add([w for w, _ in words], [soft(s) for _, s in words], args.word_weight)
        samples.add([f"{samples.rng.choice(NEGATIONS)} {w}" for w, _ in words], [soft(NEGATED * s) for _, s in words], args.word_weight)
        return fit(args, tok, samples, seed, epochs, None if args.with_validation else parts["validation"], say)

    rows = [(s, soft(s), t) for _, s, t in movies]
    if args.folds:
        taught = list(rows)
        for fold in range(args.folds):
            say(f"teacher {fold + 1} of {args.folds}")
            teacher = fitted([r for i, r in enumerate(rows) if i % args.folds != fold], 1000 + fold, args.teacher_epochs)
            mine = [i for i in range(len(rows)) if i % args.folds == fold]
            margins = predict(teacher, tok, [rows[i][2] for i in mine])
            for i, p in zip(mine, torch.sigmoid(margins).tolist()):
                taught[i] = (rows[i][0], (rows[i][1] + p) / 2, rows[i][2])
        rows = taught
    return fitted(rows, args.seed, args.epochs), tok, parts


def fit(args, tok, samples, seed, epochs, validation, say):
    """Trains one classifier; the answer is the running average of its weights."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=tok.get_vocab_size(), hidden_size=args.hidden, num_hidden_layers=args.layers, num_attention_heads=args.hidden // 32,
        intermediate_size=args.hidden * 3, max_position_embeddings=LENGTH, type_vocab_size=2, pad_token_id=0,
        hidden_dropout_prob=args.dropout, attention_probs_dropout_prob=0.1, classifier_dropout=0.3,
        id2label=dict(enumerate(data.LABELS)), label2id={name: i for i, name in enumerate(data.LABELS)})
    model = BertForSequenceClassification(config)
    say(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(samples.items):,} samples a pass")
    decay = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": args.decay}, {"params": plain, "weight_decay": 0.0}],
                                  lr=args.lr, betas=(0.9, 0.98))
    average = {k: v.detach().clone() for k, v in model.state_dict().items()}
    steps = epochs * -(-len(samples.items) // args.batch)
    step = 0
    for epoch in range(epochs):
        model.train()
        begun, total = time.time(), 0.0
        for ids, mask, target, weight in samples.batches(args.batch, args.word_dropout):
            rate = min(1.0, (step + 1) / 300) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
            for group in optimizer.param_groups:
                group["lr"] = args.lr * rate
            logits = model(input_ids=ids, attention_mask=mask).logits
            margin = logits[:, 1] - logits[:, 0]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(margin, target, weight)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            with torch.no_grad():
                keep = min(0.999, (step + 1) / (step + 10))
                for key, value in model.state_dict().items():
                    average[key].lerp_(value, 1 - keep) if value.is_floating_point() else average[key].copy_(value)
            total, step = total + loss.item(), step + 1
        line = f"epoch {epoch + 1} loss {total * args.batch / len(samples.items):.4f} ({time.time() - begun:.0f} s)"
        live = {k: v.clone() for k, v in model.state_dict().items()}
        model.load_state_dict(average)
        if validation:
            line += f" validation {accuracy(model, tok, validation)[0]:.4f}"
        if epoch + 1 < epochs:
            model.load_state_dict(live)
        say(line)
    return model.eval()


def main():
    cli = argparse.ArgumentParser()
    cli.add_argument("reviews")
    cli.add_argument("out")
    cli.add_argument("--threads", type=int, default=2)
    cli.add_argument("--seed", type=int, default=1)
    cli.add_argument("--epochs", type=int, default=6)
    cli.add_argument("--folds", type=int, default=0)
    cli.add_argument("--teacher-epochs", type=int, default=4)
    cli.add_argument("--batch", type=int, default=64)
    cli.add_argument("--vocab", type=int, default=8000)
    cli.add_argument("--hidden", type=int, default=128)
    cli.add_argument("--layers", type=int, default=2)
    cli.add_argument("--lr", type=float, default=7e-4)
    cli.add_argument("--decay", type=float, default=0.05)
    cli.add_argument("--dropout", type=float, default=0.3)
    cli.add_argument("--word-dropout", type=float, default=0.2)
    cli.add_argument("--other-weight", type=float, default=0.5)
    cli.add_argument("--word-weight", type=float, default=1.0)
    cli.add_argument("--with-validation", action="store_true", help="train on the validation part too (settings are chosen by then)")
    args = cli.parse_args()
    torch.set_num_threads(args.threads)
    model, tok, parts = train(args, args.reviews, lambda line: print(line, file=sys.stderr, flush=True))

    out = Path(args.out)
    half = model.half()
    half.config.dtype = "float16"
    half.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tok, model_max_length=LENGTH, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", clean_up_tokenization_spaces=True, model_input_names=["input_ids", "token_type_ids", "attention_mask"])
    from tiny import save_tokenizer
    save_tokenizer(fast, out)
    # The figures are those of the written weights: float16 values, float32 arithmetic.
    final = BertForSequenceClassification.from_pretrained(out, dtype=torch.float32)
    figures = {}
    for part in ("heldout",) if args.with_validation else ("validation", "heldout"):
        figures[part], figures[part + "_sentences"] = accuracy(final, tok, parts[part])
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
