"""Checkpoints that try the loader, and sentence-transformers directories; all around a tiny BERT.

    python3 make_variants.py FIXTURES

load-*: the files differ (names, containers, dtypes), the golden says what the loaded model must answer (`class` names the head that is
to be loaded); refuse-*: must be refused. st-*: modules.json and its folders, golden.json holds the embedding of each text. Remaking
gives the same bytes, but for load-pytorch-bin-legacy, whose format holds addresses.
"""
import json
import os
import shutil
import sys
from collections import OrderedDict
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
import transformers as tf
from safetensors.torch import load_file, save_file

from make_models import config_for, labels_for
from tiny import dump, generator, golden, make_tokenizer, randomise, rounded, save_tokenizer, write_golden

SMALL = dict(hidden_size=16, intermediate_size=28, num_hidden_layers=2)


def tiny_bert(kind, name, fixtures, **more):
    tokenizer = make_tokenizer("bert", fixtures)
    config = config_for("bert", tokenizer, **{**SMALL, **more})
    config._attn_implementation = "eager"
    return randomise(kind(config), name), tokenizer


def fresh(fixtures, name):
    folder = fixtures / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def write(folder, model, tensors=None, file="model.safetensors"):
    """config.json and, where given, the tensors under their on-disk names."""
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    if tensors is not None:
        save_file({k: v.contiguous().clone() for k, v in tensors.items()}, folder / file, metadata={"format": "pt"})
        (folder / file).chmod(0o644)


def finish(folder, model, note=""):
    """Golden of `model`, whose values are what a correct load gives in float32."""
    write_golden(folder, model, golden(model, short=True), note=note)


def loading(fixtures):
    base, _ = tiny_bert(tf.BertModel, "load", fixtures)
    names = dict(base.state_dict())

    folder = fresh(fixtures, "load-gamma-beta")
    old = {k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v for k, v in names.items()}
    write(folder, base, old)
    finish(folder, base, note="LayerNorm.gamma and LayerNorm.beta are the old names of weight and bias")

    # Two tensors share a storage at different offsets, one is stored transposed, one is a strided view.
    aliased = OrderedDict(names)
    q, k = "encoder.layer.0.attention.self.query.weight", "encoder.layer.0.attention.self.key.weight"
    joint = torch.cat([names[q], names[k]])
    aliased[q], aliased[k] = joint[:16], joint[16:]
    dense = "encoder.layer.1.intermediate.dense.weight"
    aliased[dense] = names[dense].t().contiguous().t()
    bias = "encoder.layer.1.output.dense.bias"
    aliased[bias] = torch.stack([names[bias], torch.zeros_like(names[bias])], dim=1)[:, 0]
    aliased["embeddings.position_ids"] = torch.arange(64).unsqueeze(0)
    assert all(torch.equal(aliased[n], names[n]) for n in names) and not aliased[dense].is_contiguous()
    for name, new in (("load-pytorch-bin", True), ("load-pytorch-bin-legacy", False)):
        folder = fresh(fixtures, name)
        write(folder, base)
        torch.save(aliased, folder / "pytorch_model.bin", _use_new_zipfile_serialization=new)
        finish(folder, base, note="shared storage with offsets, a transposed and a strided tensor, an ignorable position_ids buffer")
    folder = fresh(fixtures, "load-pytorch-bin-parameters")
    write(folder, base)
    torch.save(OrderedDict((n, torch.nn.Parameter(v)) for n, v in names.items()), folder / "pytorch_model.bin")
    finish(folder, base, note="values are Parameters, not plain tensors")

    # The stream asks for a function that has nothing to do with tensors (a harmless one).
    class Call:
        def __reduce__(self):
            return os.getcwd, ()
    folder = fresh(fixtures, "refuse-pytorch-bin-callable")
    write(folder, base)
    torch.save(OrderedDict([*names.items(), ("embeddings.extra", Call())]), folder / "pytorch_model.bin")

    def shards(folder, stem, save):
        order = sorted(names)
        parts = {f"{stem}-00001-of-00002": order[:len(order) // 2], f"{stem}-00002-of-00002": order[len(order) // 2:]}
        suffix = ".safetensors" if stem == "model" else ".bin"
        for part, keys in parts.items():
            save({n: names[n].clone() for n in keys}, folder / (part + suffix))
            (folder / (part + suffix)).chmod(0o644)
        size = sum(v.numel() * v.element_size() for v in names.values())
        index = {"metadata": {"total_size": size}, "weight_map": {n: part + suffix for part, keys in parts.items() for n in keys}}
        main = "model.safetensors" if stem == "model" else "pytorch_model.bin"
        (folder / (main + ".index.json")).write_text(json.dumps(index, indent=1) + "\n")

    folder = fresh(fixtures, "load-sharded")
    write(folder, base)
    shards(folder, "model", lambda t, p: save_file(t, p, metadata={"format": "pt"}))
    finish(folder, base)
    folder = fresh(fixtures, "load-sharded-bin")
    write(folder, base)
    shards(folder, "pytorch_model", torch.save)
    finish(folder, base)

    # A headed file loaded as its base: the prefix goes, the head's tensors are left over; there is no pooler in it.
    headed, _ = tiny_bert(tf.BertForTokenClassification, "load-headed", fixtures, **labels_for("token-classification"))
    folder = fresh(fixtures, "load-headed-as-base")
    tensors = dict(headed.state_dict())
    tensors.update({"bert.pooler.dense.weight": torch.randn(16, 16, generator=generator("p")) * 0.2,
                    "bert.pooler.dense.bias": torch.randn(16, generator=generator("pb")) * 0.2})
    write(folder, headed, tensors)
    body = tf.BertModel(headed.config).eval()
    body.load_state_dict({k[5:]: v for k, v in tensors.items() if k.startswith("bert.")})
    finish(folder, body, note="tensors have the prefix bert.; classifier.* is left over")

    # A headless body with the head beside it: the body's names lack the prefix bert.
    folder = fresh(fixtures, "load-headless-as-headed")
    write(folder, headed, {k.removeprefix("bert."): v for k, v in headed.state_dict().items()})
    finish(folder, headed, note="body without the prefix bert., head as usual")

    # What google's BERT checkpoints look like: masked LM and next-sentence heads, tied tensors stored twice, old norms, position_ids.
    pre, _ = tiny_bert(tf.BertForPreTraining, "load-pretraining", fixtures)
    folder = fresh(fixtures, "load-pretraining-as-masked-lm")
    tensors = {k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v for k, v in pre.state_dict().items()}
    tensors["bert.embeddings.position_ids"] = torch.arange(64).unsqueeze(0)
    assert "cls.predictions.decoder.weight" in tensors
    write(folder, pre, tensors)
    lm = tf.BertForMaskedLM(pre.config).eval()
    lost = lm.load_state_dict(pre.state_dict(), strict=False)
    lm.tie_weights()
    assert not lost.missing_keys, lost
    finish(folder, lm, note="cls.seq_relationship.* and bert.pooler.* are left over; tied duplicates and position_ids are ignorable")

    for name, dtype in (("f16", torch.float16), ("bf16", torch.bfloat16)):
        folder = fresh(fixtures, f"load-{name}")
        model, _ = tiny_bert(tf.BertModel, "load-half", fixtures)
        model.to(dtype)
        model.config.dtype = str(dtype).removeprefix("torch.")
        write(folder, model, model.state_dict())
        finish(folder, model, note=f"golden: double arithmetic on the {name} values, i.e. dtype float32 asked for")
    folder = fresh(fixtures, "load-f64")
    mixed = dict(names)
    exact = names[dense].double() + 1e-9 * torch.randn(names[dense].shape, generator=generator("f64"), dtype=torch.float64)
    mixed[dense] = exact
    write(folder, base, mixed)
    base.load_state_dict({k: v.float() for k, v in mixed.items()})
    finish(folder, base, note="one tensor is float64; rounded to the nearest float32 it is the golden's")


# ---- sentence-transformers ----------------------------------------------------------------------------------------

TEXTS = ["A good book.", "Rain and snow", "", "Café in Köln, isn't it?", "The capital of France is Paris. " * 4, "a"]
POOLINGS = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")


def sentence(fixtures, name, pooling, dense=None, normalize=False, length=24):
    """`dense`: (width, activation class path or None, file name). Formulas as the sentence-transformers documentation gives them."""
    folder = fresh(fixtures, name)
    model, tokenizer = tiny_bert(tf.BertModel, name, fixtures)
    write(folder, model, model.state_dict())
    save_tokenizer(tokenizer, folder)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    pool = folder / "1_Pooling"
    pool.mkdir()
    flags = {f"pooling_mode_{p}": p == pooling for p in POOLINGS}
    (pool / "config.json").write_text(json.dumps({"word_embedding_dimension": 16, **flags}, indent=2) + "\n")
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": length, "do_lower_case": False}, indent=2) + "\n")
    linear = None
    if dense:
        width, activation, file = dense
        linear = torch.nn.Linear(16, width)
        randomise(linear, name, "dense")
        part = folder / "2_Dense"
        part.mkdir()
        (part / "config.json").write_text(json.dumps({"in_features": 16, "out_features": width, "bias": True, "activation_function": activation}, indent=2) + "\n")
        state = {"linear.weight": linear.weight.data, "linear.bias": linear.bias.data}
        if file.endswith(".bin"):
            torch.save(OrderedDict(state), part / file)
        else:
            save_file(state, part / file)
            (part / file).chmod(0o644)
        modules.append(("2_Dense", "Dense"))
    if normalize:
        modules.append((f"{len(modules)}_Normalize", "Normalize"))
    table = [{"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"} for i, (path, kind) in enumerate(modules)]
    (folder / "modules.json").write_text(json.dumps(table, indent=2) + "\n")

    wide = model.double()
    cases = []
    for text in TEXTS:
        ids = tokenizer(text, truncation=True, max_length=length)["input_ids"]
        with torch.no_grad():
            hidden = wide(input_ids=torch.tensor([ids])).last_hidden_state[0]
            n = len(ids)
            e = {"cls_token": hidden[0], "mean_tokens": hidden.sum(0) / n, "max_tokens": hidden.max(0).values,
                 "mean_sqrt_len_tokens": hidden.sum(0) / n ** 0.5}[pooling]
            if linear is not None:
                e = linear.double()(e)
                e = torch.tanh(e) if activation.endswith("Tanh") else e
            if normalize:
                e = e / e.norm().clamp_min(1e-12)
        cases.append({"text": text, "ids": ids, "embedding": rounded(e)})
    dump(folder / "golden.json", {"task": "sentence-embedding", "arithmetic": "float64 on the stored weights", "cases": cases})


def main():
    fixtures = Path(sys.argv[1])
    loading(fixtures)
    tanh, identity = "torch.nn.modules.activation.Tanh", "torch.nn.modules.linear.Identity"
    sentence(fixtures, "st-mean", "mean_tokens")
    sentence(fixtures, "st-mean-normalize", "mean_tokens", normalize=True)
    sentence(fixtures, "st-cls", "cls_token")
    sentence(fixtures, "st-max", "max_tokens")
    sentence(fixtures, "st-mean-sqrt-len", "mean_sqrt_len_tokens")
    sentence(fixtures, "st-dense", "cls_token", dense=(20, identity, "pytorch_model.bin"))
    sentence(fixtures, "st-dense-normalize", "mean_tokens", dense=(12, tanh, "model.safetensors"), normalize=True)


if __name__ == "__main__":
    main()
