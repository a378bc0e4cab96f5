"""GGUF files and what is in them, by the `gguf`, `transformers`, `tokenizers` and `sentencepiece` packages.

    python3 make_gguf.py FIXTURES [blocks] [models] [tokenizers] [real=MODELS/smollm2]

FIXTURES/gguf/blocks.gguf: for each block type a tensor of random and of extreme blocks, named after the type, and beside it `TYPE.f32`,
what `gguf.dequantize` makes of it (LB-18).
FIXTURES/gguf/ARCHITECTURE.gguf, .safetensors, .json: a random model of Transformers, its parameters as they are and as conversion to GGUF
writes them (LB-16), and its configuration. Names are those of the `gguf` package's own table.
FIXTURES/gguf/tokenizer-NAME.gguf, .json: a vocabulary trained here and the ids of the texts below. Ids of SentencePiece vocabularies are those
of the library for every stretch between special tokens.
"""
import io
import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import gguf
import numpy as np

OUT = None
Q = gguf.GGMLQuantizationType


# ---- blocks ----

# Where a block has binary16 numbers: anything but infinities and not-a-number may be there.
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2],
          "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0], "MXFP4": []}
EXTREMES = [0.0, -0.0, 65504.0, -65504.0, 2.0**-24, -(2.0**-24), 2.0**-14, 1.0]


def blocks():
    rng = np.random.default_rng(3)
    writer = gguf.GGUFWriter(OUT / "blocks.gguf", "blocks")
    for name, halves in HALVES.items():
        kind = Q[name]
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        rows, across = (6, 2) if elements == 32 else (4, 2)
        data = rng.integers(0, 256, (rows, across, size), dtype=np.uint8)
        # The first rows: all bits clear, all bits set, extreme scales.
        data[0, 0], data[0, 1] = 0, 255
        for at in halves:
            random = rng.integers(0, 1 << 16, (rows, across), dtype=np.uint16)
            random = np.where(random & 0x7C00 == 0x7C00, random & 0x83FF, random)
            random[:2] = rng.choice(np.array(EXTREMES, np.float16), (2, across)).view(np.uint16)
            data[:, :, at], data[:, :, at + 1] = random & 255, random >> 8
        if name == "MXFP4":
            # Exponents above make infinities.
            data[:, :, 0] = np.minimum(data[:, :, 0], 250)
        data = data.reshape(rows, across * size)
        writer.add_tensor(name, data, raw_dtype=kind)
        expected = gguf.dequantize(data, kind)
        assert expected.dtype == np.float32 and np.isfinite(expected).all(), name
        writer.add_tensor(f"{name}.f32", expected)
    halves = rng.integers(0, 1 << 16, (3, 8), dtype=np.uint16)
    halves = np.where(halves & 0x7C00 == 0x7C00, halves & 0x83FF, halves)
    writer.add_tensor("F16", halves.view(np.float16))
    writer.add_tensor("F16.f32", halves.view(np.float16).astype(np.float32))
    words = rng.integers(0, 0x7F80, (3, 8), dtype=np.uint16)
    writer.add_tensor("BF16", words.view(np.uint8), raw_dtype=Q.BF16)
    writer.add_tensor("BF16.f32", gguf.dequantize(words.view(np.uint8), Q.BF16))
    for kind, dtype in [("I8", np.int8), ("I16", np.int16), ("I32", np.int32), ("I64", np.int64)]:
        numbers = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, (3, 8), dtype=dtype)
        writer.add_tensor(kind, numbers)
        writer.add_tensor(f"{kind}.f32", numbers.astype(np.float32))
    doubles = rng.standard_normal((3, 8))
    writer.add_tensor("F64", doubles)
    writer.add_tensor("F64.f32", doubles.astype(np.float32))
    # Known by name only.
    writer.add_tensor("IQ2_XS", rng.integers(0, 256, (1, 74), dtype=np.uint8), raw_dtype=Q.IQ2_XS)
    finish(writer)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# ---- models ----

def interleave(weight, heads):
    """The order in which the conversion of Llama keeps rows of queries and keys."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def models():
    import torch
    import transformers as tf
    from safetensors.numpy import save_file

    base = dict(vocab_size=24, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    eps = dict(rms_norm_eps=1e-5)
    rope = lambda theta, **more: dict(rope_parameters=dict(rope_type="default", rope_theta=theta, **more))
    rows = {
        "llama": ("llama", tf.LlamaConfig(**{**base, "hidden_size": 32}, **eps, head_dim=6, tie_word_embeddings=False, attention_bias=True, rope_parameters=dict(
            rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
            original_max_position_embeddings=16))),
        "mistral": ("llama", tf.MistralConfig(**base, **eps, head_dim=4, sliding_window=8, **rope(1e6))),
        "qwen2": ("qwen2", tf.Qwen2Config(**base, **eps, tie_word_embeddings=True, rope_parameters=dict(
            rope_type="yarn", rope_theta=1e6, factor=4.0, original_max_position_embeddings=16))),
        "qwen3": ("qwen3", tf.Qwen3Config(**base, **eps, head_dim=6, tie_word_embeddings=True, **rope(1e6))),
        "gemma2": ("gemma2", tf.Gemma2Config(**base, **eps, head_dim=6, query_pre_attn_scalar=6, sliding_window=8, **rope(1e4))),
        "gemma3": ("gemma3", tf.Gemma3TextConfig(**{**base, "num_hidden_layers": 6}, **eps, head_dim=6, query_pre_attn_scalar=6, sliding_window=8,
                                                 rope_parameters=dict(full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1e6),
                                                                      sliding_attention=dict(rope_type="default", rope_theta=1e4)))),
        "phi3": ("phi3", tf.Phi3Config(**base, **eps, original_max_position_embeddings=16, sliding_window=8, tie_word_embeddings=False,
                                       rope_parameters=dict(rope_type="longrope", rope_theta=1e4, short_factor=[1.0, 1.5],
                                                            long_factor=[2.0, 4.5], original_max_position_embeddings=16,
                                                            attention_factor=1.25))),
        "gpt2": ("gpt2", tf.GPT2Config(vocab_size=24, n_positions=64, n_embd=16, n_layer=2, n_head=4, n_inner=24, bos_token_id=1,
                                       eos_token_id=2, layer_norm_epsilon=1e-5)),
        "gptneox": ("gptneox", tf.GPTNeoXConfig(**{k: v for k, v in base.items() if k != "num_key_value_heads"}, layer_norm_eps=1e-5,
                                                tie_word_embeddings=False, use_parallel_residual=True,
                                                rope_parameters=dict(rope_type="default", rope_theta=1e4, partial_rotary_factor=0.5))),
        "falcon": ("falcon", tf.FalconConfig(vocab_size=24, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_kv_heads=2,
                                             new_decoder_architecture=True, ffn_hidden_size=64, bos_token_id=1, eos_token_id=2, pad_token_id=0,
                                             max_position_embeddings=64, bias=False, **rope(1e4))),
        "starcoder2": ("starcoder2", tf.Starcoder2Config(**base, norm_epsilon=1e-5, use_bias=True, sliding_window=8, tie_word_embeddings=True,
                                                         **rope(1e5))),
    }
    for name, (arch, config) in rows.items():
        torch.manual_seed(5)
        model = tf.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()
        tied = getattr(config, "tie_word_embeddings", False)
        state = {k: v.numpy().copy() for k, v in model.state_dict().items()}
        heads = ["lm_head.weight", "embed_out.weight"]
        state = {k: v for k, v in state.items() if not (tied and k in heads) and "rotary_emb" not in k and not k.endswith("attn.bias")}
        if name == "gptneox":
            # Its name in files.
            state["embed_out.weight"] = state.pop("lm_head.weight")
        layers, n_heads = config.num_hidden_layers, config.num_attention_heads
        kv = getattr(config, "num_key_value_heads", None) or getattr(config, "num_kv_heads", None) or n_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // n_heads
        writer = gguf.GGUFWriter(OUT / f"{name}.gguf", arch)
        writer.add_block_count(layers)
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_feed_forward_length({"gpt2": 24, "falcon": 64}.get(name) or config.intermediate_size)
        writer.add_head_count(n_heads)
        writer.add_head_count_kv(kv)
        if head_dim * n_heads != config.hidden_size or name.startswith("gemma"):
            writer.add_key_length(head_dim)
            writer.add_value_length(head_dim)
        if name in ("gpt2", "gptneox", "falcon", "starcoder2"):
            writer.add_layer_norm_eps(1e-5)
        else:
            writer.add_layer_norm_rms_eps(1e-5)
        parameters = getattr(config, "rope_parameters", None) or {}
        whole = parameters.get("full_attention", parameters)
        if name != "gpt2":
            writer.add_rope_freq_base(whole["rope_theta"])
            writer.add_rope_dimension_count(int(head_dim * whole.get("partial_rotary_factor", 1.0)))
        if name == "gptneox":
            writer.add_parallel_residual(True)
        if name in ("mistral", "phi3", "gemma2", "gemma3", "starcoder2"):
            writer.add_sliding_window(config.sliding_window)
        if name == "gemma2":
            writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
            writer.add_final_logit_softcapping(config.final_logit_softcapping)
        if name in ("qwen2", "gemma3"):
            writer.add_rope_scaling_type(gguf.RopeScalingType.YARN if name == "qwen2" else gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(whole["factor"])
        if name == "qwen2":
            writer.add_rope_scaling_orig_ctx_len(16)
        if name == "llama":
            # Llama 3's frequencies over those without scaling, which is how they are stored.
            from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
            scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
            plain = 1.0 / 500000.0 ** (torch.arange(0, head_dim, 2).float() / head_dim)
            writer.add_tensor("rope_freqs.weight", (plain / scaled).numpy())
        if name == "phi3":
            writer.add_rope_scaling_orig_ctx_len(16)
            writer.add_rope_scaling_attn_factors(1.25)
            writer.add_tensor("rope_factors_short.weight", np.array(whole["short_factor"], np.float32))
            writer.add_tensor("rope_factors_long.weight", np.array(whole["long_factor"], np.float32))
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        if config.pad_token_id is not None:
            writer.add_pad_token_id(config.pad_token_id)
        table = gguf.get_tensor_name_map(gguf.MODEL_ARCH_NAMES and {v: k for k, v in gguf.MODEL_ARCH_NAMES.items()}[arch], layers)
        for key, value in state.items():
            stem, ending = key.rsplit(".", 1)
            target = table.get_name(stem) or sys.exit(f"{name}: no name for {key}")
            if arch == "llama" and "q_proj" in key:
                value = interleave(value, n_heads)
            if arch == "llama" and "k_proj" in key:
                value = interleave(value, kv)
            if arch.startswith("gemma") and key.endswith("norm.weight"):
                value = value + np.float32(1)
            if name == "gpt2" and ending == "weight" and stem.rsplit(".", 1)[-1] in ("c_attn", "c_proj", "c_fc"):
                value = value.T
            if name == "gptneox" and "query_key_value" in key:
                value = value.reshape(n_heads, 3, head_dim, *value.shape[1:]).swapaxes(0, 1).reshape(value.shape)
            if name == "falcon" and "query_key_value" in key:
                qkv = value.reshape(kv, n_heads // kv + 2, head_dim, *value.shape[1:])
                parts = [qkv[:, :-2], qkv[:, [-2]], qkv[:, [-1]]]
                value = np.concatenate([part.reshape(-1, *value.shape[1:]) for part in parts])
            value = np.ascontiguousarray(value)
            if value.ndim == 2 and value.shape[1] == 32 and "attn" in target:
                # Rows are quantized each by itself, so that their order and their quantization do not meet.
                kind = Q.Q4_0 if "_k" in target else Q.Q8_0
                writer.add_tensor(f"{target}.{ending}", gguf.quantize(value, kind), raw_dtype=kind)
                state[key] = gguf.dequantize(gguf.quantize(state[key], kind), kind)
            else:
                writer.add_tensor(f"{target}.{ending}", value)
        finish(writer)
        save_file(state, OUT / f"{name}.safetensors")
        dump(f"{name}.json", config.to_dict())


def dump(name, what):
    (OUT / name).write_text(json.dumps(what, ensure_ascii=False, indent=0, sort_keys=True) + "\n")


# ---- tokenizers ----

CORPUS = """The harbour lay quiet under a low grey sky, and the boats knocked gently against the stones. Nobody had spoken since morning.
She counted 1024 crates, 365 barrels and 17 ropes; the total, 1406, did not agree with the ledger's 1,409. It's odd, isn't it? We'll see, they'd said.
def area(width, height):\n    if width < 0 or height < 0:\n        raise ValueError("sizes must not be negative")\n    return width * height\n
for (let i = 0; i < items.length; i++) { total += items[i].price * 1.19; } // tax
Der Händler zählte die Kisten noch einmal, während draußen der Regen gegen die Scheiben schlug. Größe und Länge stimmten nicht überein.
Le café était fermé depuis l'été, mais les élèves passaient encore devant la vitrine en riant. Où êtes-vous allés hier ?
El niño corrió hacia la montaña y gritó: ¡mañana volveré! ¿Cuántos años tienes?
Капитан долго смотрел на карту и молчал. Потом он сказал, что завтра будет ветер.
船は静かな港に入り、漁師たちは網を片付けた。明日も天気がいいでしょう。
港口很安静，渔夫们正在收网。明天的天气应该不错。
البحر هادئ اليوم والسماء صافية. सागर आज शांत है और आकाश साफ़ है।
Πού πήγες χθες; Το λιμάνι ήταν ήσυχο. 바다는 오늘 조용하고 하늘은 맑다.
"""
TEXTS = ["", " ", "  ", "     ", "\n", "\n\n\n", "\t", " \t \n ", "a", "A b", " leading", "trailing ", "two  spaces", "three   spaces   here",
         "The harbour lay quiet.", "the harbour's boats, isn't it?", "IT'S ODD; WE'LL SEE, THEY'D SAY", "1", "12", "123", "1234", "12345678901", "3.14159, 1,000,000 and 2^10",
         "x=1;y=2", "def area(width, height):\n    return width * height\n", "\tif (a[i] != b->c) { return \"no\"; }  // ok", "<html>\n  <b>hi</b>\n</html>",
         "Händler Größe Länge draußen", "café élèves où êtes", "cafe\u0301 n\u0303 composed", "¡mañana! ¿Cuántos años?", "Капитан смотрел", "船は静かな港に", "港口很安静，天气不错。",
         "البحر هادئ", "सागर शांत है", "Πού πήγες;", "바다는 맑다", "😀", "hi 😀👍🏽 there 👩‍👩‍👧", "\u200b zero\u200bwidth", "a\u00a0b\u3000c", "½ ² Ⅷ ٣ ৩", "--- === *** ...",
         "https://example.org/a?b=c&d=%20e#f", "snake_case camelCase SCREAMING", "word" * 12, "ﬁ ﬂ Å Å", "Zażółć gęślą jaźń", "quiet\r\nline\rends"]
SPECIAL_TEXTS = ["{bos}", "{bos}The boats{eos}", "a {eos} b", "{eos}{eos}  the harbour", "The{user}quiet {user} sky", "{bos}\n{eos}\n"]


def texts(bos, eos, user):
    return TEXTS + [text.format(bos=bos, eos=eos, user=user) for text in SPECIAL_TEXTS]


def vocabulary(writer, kind, tokens, types, scores=None):
    writer.add_tokenizer_model(kind)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if scores is not None:
        writer.add_token_scores(scores)


def byte_level():
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers as pre, trainers

    split = lambda regex: pre.Split(Regex(regex), "isolated")
    raw = pre.ByteLevel(add_prefix_space=False, use_regex=False)
    words = pre.ByteLevel(add_prefix_space=False, use_regex=True)
    rules = {
        "gpt-2": (None, [words]),
        "smollm": (None, [pre.Digits(individual_digits=True), words]),
        "llama-bpe": (None, [split(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), raw]),
        "qwen2": (normalizers.NFC(), [split(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), raw]),
        "falcon": (None, [pre.Punctuation("contiguous"), words, pre.Digits(individual_digits=False), split("[0-9][0-9][0-9]")]),
        "deepseek-coder": (None, [split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split("[一-龥ࠀ-一가-퟿]+"), pre.Digits(individual_digits=True), raw]),
        "gpt-4o": (None, [split(r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"), raw]),
    }
    for name, (normalizer, cuts) in rules.items():
        tokenizer = Tokenizer(models.BPE(ignore_merges=name == "llama-bpe"))
        if normalizer:
            tokenizer.normalizer = normalizer
        tokenizer.pre_tokenizer = pre.Sequence(cuts)
        tokenizer.decoder = decoders.ByteLevel()
        control, user = ["<|begin|>", "<|end|>"], "<user>"
        trainer = trainers.BpeTrainer(vocab_size=480, initial_alphabet=sorted(pre.ByteLevel.alphabet()), special_tokens=control, show_progress=False)
        tokenizer.train_from_iterator(CORPUS.splitlines(keepends=True) * 2, trainer)
        tokenizer.add_tokens([AddedToken(user, normalized=False)])
        saved = json.loads(tokenizer.to_str())
        tokens = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
        types = [3 if token in control else 4 if token == user else 1 for token in tokens]
        writer = gguf.GGUFWriter(OUT / f"tokenizer-{name}.gguf", "llama")
        vocabulary(writer, "gpt2", tokens, types)
        writer.add_tokenizer_pre(name)
        writer.add_token_merges([" ".join(merge) for merge in saved["model"]["merges"]])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(1)
        if name == "llama-bpe":
            writer.add_chat_template([{"name": "default", "template": "{{ messages }}"}, {"name": "tools", "template": "{{ tools }}"}])
        else:
            writer.add_chat_template("{{ messages }}")
        finish(writer)
        begin = [0] if name == "llama-bpe" else []
        golden(f"tokenizer-{name}", [(text, begin + tokenizer.encode(text).ids, tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False)) for text in texts(*control, user)])


def golden(name, rows):
    dump(f"{name}.json", [{"text": text, "ids": ids, "decoded": decoded} for text, ids, decoded in rows])


def sentence_piece():
    import re

    import sentencepiece as spm

    common = dict(sentence_iterator=None, character_coverage=0.98, hard_vocab_limit=False, max_sentencepiece_length=16, minloglevel=2)
    rows = {
        "spm": ("llama", True, dict(model_type="bpe", vocab_size=620, byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
                                    add_dummy_prefix=True, split_digits=True, allow_whitespace_only_pieces=True, user_defined_symbols=["<user>"])),
        "spm-no-prefix": ("llama", False, dict(model_type="bpe", vocab_size=620, byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
                                               add_dummy_prefix=False, split_digits=True, allow_whitespace_only_pieces=True,
                                               user_defined_symbols=["<user>", "▁▁", "▁▁▁", "▁▁▁▁", "\n", "\n\n"])),
        "unigram": ("t5", True, dict(model_type="unigram", vocab_size=420, byte_fallback=False, normalization_rule_tsv="RULES", remove_extra_whitespaces=True,
                                     add_dummy_prefix=True, user_defined_symbols=["<user>"])),
    }
    for name, (kind, prefix, options) in rows.items():
        out = io.BytesIO()
        rules = OUT / "rules.tsv"
        if "normalization_rule_tsv" in options:
            # From and to, in code points: a ligature, a no-break space, letters with accents put together.
            rules.write_text("FB01\t66 69\nA0\t20\n65 301\tE9\n6E 303\tF1\n3000\t20\n")
            options = {**options, "normalization_rule_tsv": str(rules)}
        spm.SentencePieceTrainer.train(**{**common, **options, "sentence_iterator": iter([line for line in CORPUS.splitlines() if line.strip()] * 3), "model_writer": out})
        rules.unlink(missing_ok=True)
        processor = spm.SentencePieceProcessor(model_proto=out.getvalue())
        tokens, types, scores = [], [], []
        for id in range(processor.get_piece_size()):
            piece = processor.id_to_piece(id)
            of = 1
            if processor.is_unknown(id):
                of = 2
            elif processor.is_control(id):
                of = 3
            elif processor.is_unused(id):
                of = 5
            elif processor.is_byte(id):
                of = 6
            elif piece in options["user_defined_symbols"]:
                of, piece = 4, piece.replace("▁", " ")
            tokens.append(piece)
            types.append(of)
            scores.append(processor.get_score(id))
        writer = gguf.GGUFWriter(OUT / f"tokenizer-{name}.gguf", "llama")
        vocabulary(writer, kind, tokens, types, scores)
        writer.add_unk_token_id(processor.unk_id())
        writer.add_bos_token_id(processor.bos_id())
        writer.add_eos_token_id(processor.eos_id())
        writer.add_add_space_prefix(prefix)
        if kind == "t5":
            from sentencepiece import sentencepiece_model_pb2 as pb
            proto = pb.ModelProto()
            proto.ParseFromString(out.getvalue())
            writer.add_precompiled_charsmap(proto.normalizer_spec.precompiled_charsmap)
            writer.add_remove_extra_whitespaces(True)
        finish(writer)
        special = {"<s>": processor.bos_id(), "</s>": processor.eos_id(), "<unk>": processor.unk_id(), "<user>": tokens.index("<user>")}
        cases = []
        for text in texts("<s>", "</s>", "<user>"):
            ids = []
            for part in re.split("(<s>|</s>|<unk>|<user>)", text):
                ids += [special[part]] if part in special else processor.encode(part)
            ids = ids + [processor.eos_id()] if kind == "t5" else [processor.bos_id()] + ids
            cases.append((text, ids, None))
        golden(f"tokenizer-{name}", cases)


def word_piece():
    import transformers as tf
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers as pre, trainers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.normalizer = normalizers.BertNormalizer(lowercase=True)
    trained.pre_tokenizer = pre.BertPreTokenizer()
    trained.train_from_iterator(CORPUS.splitlines(), trainers.WordPieceTrainer(vocab_size=500, limit_alphabet=160, special_tokens=special, show_progress=False))
    vocab = trained.get_vocab()
    tokenizer = tf.BertTokenizer(vocab=vocab)
    tokens, types = [], []
    for token, _ in sorted(vocab.items(), key=lambda item: item[1]):
        control = token in special
        types.append(3 if control else 1)
        tokens.append(token if control else token[2:] if token.startswith("##") else "\u2581" + token)
    writer = gguf.GGUFWriter(OUT / "tokenizer-wordpiece.gguf", "bert")
    vocabulary(writer, "bert", tokens, types)
    for add, token in [(writer.add_pad_token_id, "[PAD]"), (writer.add_unk_token_id, "[UNK]"), (writer.add_bos_token_id, "[CLS]"), (writer.add_sep_token_id, "[SEP]"),
                       (writer.add_mask_token_id, "[MASK]")]:
        add(vocab[token])
    finish(writer)
    golden("tokenizer-wordpiece", [(text, tokenizer(text)["input_ids"], None) for text in texts("[CLS]", "[SEP]", "[MASK]")])


def tokenizers():
    byte_level()
    sentence_piece()
    word_piece()


def real(at):
    """Ids of the tokenizer whose vocabulary the file of SmolLM2 has; the vocabulary is not kept."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{at}/tokenizer.json")
    golden("tokenizer-smollm2", [(text, tokenizer.encode(text).ids, tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False))
                                 for text in texts("<|im_start|>", "<|im_end|>", "<jupyter_code>")])


if __name__ == "__main__":
    OUT = Path(sys.argv[1]) / "gguf"
    OUT.mkdir(exist_ok=True)
    for part in sys.argv[2:] or ["blocks", "models", "tokenizers"]:
        if part.startswith("real="):
            real(part.removeprefix("real="))
        else:
            {"blocks": blocks, "models": models, "tokenizers": tokenizers}[part]()
