"""Fine-tunes a model on JSONL rows with `text` and `label` as Transformers does it: the recipe that `lith train` is compared with.

usage: train_minilm.py MODEL_DIR TRAIN.jsonl EVAL.jsonl OUT.json [--epochs N | --steps N] [--batch N] [--rate R] [--threads N] [--seed N]

Writes the losses of the log, the accuracy and the loss of each epoch's evaluation, and the time; with `--steps` so many steps
without evaluation, to be timed. Defaults are those of
TrainingArguments; texts are cut to 128 tokens.
"""
import argparse
import json
import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments

p = argparse.ArgumentParser()
p.add_argument("model"), p.add_argument("train"), p.add_argument("eval"), p.add_argument("out")
p.add_argument("--epochs", type=float, default=3), p.add_argument("--batch", type=int, default=32)
p.add_argument("--steps", type=int, default=-1)
p.add_argument("--rate", type=float, default=5e-5), p.add_argument("--threads", type=int, default=2)
p.add_argument("--seed", type=int, default=42)
args = p.parse_args()
torch.set_num_threads(args.threads)
tokenizer = AutoTokenizer.from_pretrained(args.model)


class Rows(Dataset):
    def __init__(self, path, labels):
        rows = [json.loads(line) for line in open(path, encoding="utf-8")]
        self.items = []
        for row in rows:
            item = dict(tokenizer(row["text"], truncation=True, max_length=128))
            item["labels"] = labels.index(row["label"])
            self.items.append(item)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


labels = sorted({json.loads(line)["label"] for line in open(args.train, encoding="utf-8")})
train, held = Rows(args.train, labels), Rows(args.eval, labels)
torch.manual_seed(args.seed)
model = AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=len(labels))
with tempfile.TemporaryDirectory() as folder:
    trainer = Trainer(
        model,
        TrainingArguments(
            output_dir=folder, num_train_epochs=args.epochs, max_steps=args.steps, per_device_train_batch_size=args.batch, seed=args.seed,
            learning_rate=args.rate, logging_steps=25, eval_strategy="no" if args.steps > 0 else "epoch", save_strategy="no", report_to="none",
            per_device_eval_batch_size=64, use_cpu=True, disable_tqdm=True,
        ),
        train_dataset=train, eval_dataset=held, data_collator=DataCollatorWithPadding(tokenizer), processing_class=tokenizer,
        compute_metrics=lambda e: {"accuracy": float((np.argmax(e.predictions, -1) == e.label_ids).mean())},
    )
    result = trainer.train()
json.dump(dict(log=trainer.state.log_history, metrics=result.metrics), open(args.out, "w"), indent=1)
