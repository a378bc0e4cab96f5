"""Tiny random checkpoints of every family and head, each with golden outputs.

    python3 make_models.py FIXTURES [FAMILY ...]

Writes FIXTURES/<family>-<head>/{config.json, model.safetensors, tokenizer.json, tokenizer_config.json, golden.json}, and for
bert and roberta a few more directories that differ in the config. Remaking gives the same bytes.
"""
import json
import os
import shutil
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
import transformers as tf

from tiny import FAMILIES, LABELS, LENGTH, distance, golden, make_tokenizer, randomise, save_tokenizer, seed_of, write_golden

HEADS = {
    "base": tf.AutoModel,
    "sequence-classification": tf.AutoModelForSequenceClassification,
    "token-classification": tf.AutoModelForTokenClassification,
    "masked-lm": tf.AutoModelForMaskedLM,
    "question-answering": tf.AutoModelForQuestionAnswering,
}
SENTIMENT = {0: "NEGATIVE", 1: "NEUTRAL", 2: "POSITIVE"}


def config_for(family, tokenizer, **more):
    """Sizes that are small and unequal to each other, so that a transposed or swapped tensor cannot fit by chance."""
    vocab = len(tokenizer)
    ids = dict(pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    size = dict(vocab_size=vocab, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=52)
    if family == "bert":
        base = dict(size, max_position_embeddings=LENGTH, pad_token_id=ids["pad_token_id"])
        return tf.BertConfig(**{**base, **more})
    if family == "distilbert":
        base = dict(vocab_size=vocab, dim=32, n_layers=2, n_heads=4, hidden_dim=37, max_position_embeddings=LENGTH, pad_token_id=0)
        return tf.DistilBertConfig(**{**base, **more})
    if family == "electra":
        base = dict(size, embedding_size=20, max_position_embeddings=LENGTH, pad_token_id=ids["pad_token_id"])
        return tf.ElectraConfig(**{**base, **more})
    if family == "albert":
        base = dict(size, embedding_size=24, num_hidden_layers=3, num_hidden_groups=1, inner_group_num=1,
                    max_position_embeddings=LENGTH, **ids)
        return tf.AlbertConfig(**{**base, **more})
    if family == "mpnet":
        return tf.MPNetConfig(**{**size, **ids, "max_position_embeddings": LENGTH + 2, "layer_norm_eps": 1e-5, **more})
    kind = {"roberta": tf.RobertaConfig, "xlm-roberta": tf.XLMRobertaConfig, "camembert": tf.CamembertConfig}[family]
    return kind(**{**size, **ids, "max_position_embeddings": LENGTH + 2, "type_vocab_size": 1, "layer_norm_eps": 1e-5, **more})


def labels_for(head):
    if head == "sequence-classification":
        return dict(id2label=SENTIMENT, label2id={v: k for k, v in SENTIMENT.items()})
    if head == "token-classification":
        return dict(id2label=dict(enumerate(LABELS)), label2id={v: k for k, v in enumerate(LABELS)})
    return {}


def make(folder, family, head, tokenizer_too=True, **more):
    """One directory. `more` are config fields; the random draw depends on the directory's name alone."""
    folder = Path(folder)
    tokenizer = make_tokenizer(family, folder.parent)
    shutil.rmtree(folder, ignore_errors=True)
    config = config_for(family, tokenizer, **{**labels_for(head), **more})
    config._attn_implementation = "eager"
    for draw in range(10):
        torch.manual_seed(seed_of(folder.name))
        model = randomise(HEADS[head].from_config(config), folder.name, *[draw] * (draw > 0))
        model.save_pretrained(folder)
        (folder / "model.safetensors").chmod(0o644)
        # Read back: the golden is that of the files, not of the object.
        model = HEADS[head].from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
        rows = golden(model, short=head == "masked-lm")
        # A single logit that nearly cancels would measure the order of the additions: draw again.
        if distance(model, rows) < 3e-6:
            break
    else:
        raise SystemExit(f"{folder.name}: no well-conditioned draw")
    if tokenizer_too:
        save_tokenizer(tokenizer, folder)
    write_golden(folder, model, rows)


def variants(fixtures):
    """Config fields that change the arithmetic; small, without tokenizer."""
    small = dict(hidden_size=16, num_hidden_layers=1, tokenizer_too=False)
    for act in ("gelu_new", "gelu_pytorch_tanh", "relu", "silu"):
        make(fixtures / f"bert-act-{act.replace('_', '-')}", "bert", "base", hidden_act=act, **small)
    make(fixtures / "bert-odd-sizes", "bert", "base", hidden_size=21, num_attention_heads=3, intermediate_size=37, num_hidden_layers=2,
         type_vocab_size=3, layer_norm_eps=1e-3, tokenizer_too=False)
    make(fixtures / "bert-regression", "bert", "sequence-classification", problem_type="regression",
         id2label={0: "SCORE"}, label2id={"SCORE": 0}, hidden_size=16, num_hidden_layers=1)
    names = {0: "toxic", 1: "funny", 2: "köstlich", 3: "long read"}
    make(fixtures / "bert-multi-label", "bert", "sequence-classification", problem_type="multi_label_classification",
         id2label=names, label2id={v: k for k, v in names.items()}, hidden_size=16, num_hidden_layers=1)
    nli = {0: "contradiction", 1: "neutral", 2: "entailment"}
    make(fixtures / "bert-nli", "bert", "sequence-classification", id2label=nli, label2id={v: k for k, v in nli.items()},
         hidden_size=16, num_hidden_layers=1)
    make(fixtures / "albert-groups", "albert", "base", num_hidden_layers=4, num_hidden_groups=2, inner_group_num=2, tokenizer_too=False)
    make(fixtures / "electra-same-width", "electra", "base", embedding_size=32, tokenizer_too=False)
    # Every key that equals the type's default left out: the defaults must come from the reader (CFG-12).
    folder = fixtures / "bert-minimal-config"
    make(folder, "bert", "base", **small)
    config = json.loads((folder / "config.json").read_text())
    keep = {"model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings"}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k in keep}, indent=2) + "\n")


def main():
    fixtures, chosen = Path(sys.argv[1]), sys.argv[2:] or [*FAMILIES, "variants"]
    for family in chosen:
        if family == "variants":
            variants(fixtures)
            continue
        for head in HEADS:
            make(fixtures / f"{family}-{head}", family, head)
        print(family, flush=True)


if __name__ == "__main__":
    main()
