"""Writes training_minilm.json: AdamW steps of all-MiniLM-L6-v2 with a classification head, as torch takes them.

usage: make_training.py MODEL_DIR OUT    (torch, transformers)

Dropout is off, float32, one thread. The head is not in the checkpoint: its weights are 0.05 sin(1 + i) in row-major order.
"""
import json
import sys

import torch
from transformers import AutoModelForSequenceClassification

torch.set_num_threads(1)
torch.manual_seed(7)
LABELS, STEPS, BATCH = 3, 20, 6
model = AutoModelForSequenceClassification.from_pretrained(
    sys.argv[1], num_labels=LABELS, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
)
with torch.no_grad():
    n = model.classifier.weight.numel()
    model.classifier.weight.copy_((0.05 * torch.sin(1 + torch.arange(n, dtype=torch.float64))).reshape(LABELS, -1))
    model.classifier.bias.zero_()
model.train()
decayed = [p for name, p in model.named_parameters() if "bias" not in name and "LayerNorm" not in name]
plain = [p for name, p in model.named_parameters() if "bias" in name or "LayerNorm" in name]
hyper = dict(learning_rate=5e-5, weight_decay=0.01, beta1=0.9, beta2=0.999, epsilon=1e-8, max_grad_norm=1.0)
optimizer = torch.optim.AdamW(
    [dict(params=decayed, weight_decay=hyper["weight_decay"]), dict(params=plain, weight_decay=0.0)],
    lr=hyper["learning_rate"], betas=(hyper["beta1"], hyper["beta2"]), eps=hyper["epsilon"],
)
steps = []
for _ in range(STEPS):
    lengths = torch.randint(1, 33, (BATCH,)).tolist()
    texts = [torch.randint(1000, 30000, (length,)).tolist() for length in lengths]
    labels = torch.randint(0, LABELS, (BATCH,))
    longest = max(lengths)
    ids = torch.tensor([t + [0] * (longest - len(t)) for t in texts])
    mask = torch.tensor([[1] * len(t) + [0] * (longest - len(t)) for t in texts])
    loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    optimizer.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), hyper["max_grad_norm"])
    optimizer.step()
    steps.append(dict(texts=texts, labels=labels.tolist(), loss=loss.item(), grad_norm=norm.item()))
params = {}
for name, p in model.named_parameters():
    flat = p.detach().flatten()
    at = sorted({int(i * (flat.numel() - 1) / 15) for i in range(16)})
    params[name] = dict(at=at, values=[flat[i].item() for i in at], norm=flat.double().norm().item())
json.dump(dict(hyperparameters=hyper, labels=LABELS, steps=steps, parameters=params), open(sys.argv[2], "w"))
