"""Goldens of generation: a model whose logits are a hash of its tokens, through Transformers' processors and searches.

    python tests/oracle/make_generation.py OUT    # transformers 5: processors, greedy and beam search
    python tests/oracle/make_generation.py OUT    # transformers 4.49 afterwards: adds diverse beam and contrastive search

The model is that of `runtime/src/generation/tests/table.rs`. OUT is `tests/fixtures/generation`.
"""

import json
import random
import sys
from pathlib import Path

import torch
import transformers
from transformers import GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

transformers.logging.set_verbosity_error()
NEW = transformers.__version__.startswith("5")
VOCAB, WIDTH, WORD = 24, 4, 1 << 32


def mix(x):
    x %= WORD
    x ^= x >> 15
    x = x * 2246822519 % WORD
    x ^= x >> 13
    x = x * 3266489917 % WORD
    return x ^ (x >> 16)


def fold(tokens):
    h = 1
    for token in tokens:
        h = (h * 31 + int(token) + 7) % 65521
    return h


def logits_of(tokens):
    h = fold(tokens)
    row = [(mix(h * 2654435761 + v * 40503) >> 8) / 2097152.0 - 4.0 for v in range(VOCAB)]
    row[0] += 1.0
    return row


def hidden_of(tokens):
    h = fold(tokens)
    return [((mix(h * 40503 + j * 2654435761 + 99) & 0xFF) - 127.5) / 64.0 for j in range(WIDTH)]


class TableConfig(PretrainedConfig):
    model_type = "table"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.vocab_size, self.hidden_size = VOCAB, WIDTH
        self.num_hidden_layers = self.num_attention_heads = self.num_key_value_heads = 1
        self.is_decoder, self.is_encoder_decoder = True, False


class Table(PreTrainedModel, GenerationMixin):
    """Keeps its tokens as keys of the cache, so that searches that reorder the cache are seen to do so."""

    config_class = TableConfig
    main_input_name = "input_ids"
    _supports_cache_class = True

    def __init__(self, config):
        super().__init__(config)
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.post_init()

    def _init_weights(self, module):
        pass

    def prepare_inputs_for_generation(self, input_ids, past_key_values=None, attention_mask=None, **kwargs):
        if past_key_values is not None and past_key_values.get_seq_length() > 0 and input_ids.shape[1] > 1:
            input_ids = input_ids[:, past_key_values.get_seq_length() :]
        return {"input_ids": input_ids, "past_key_values": past_key_values, "use_cache": True}

    def forward(self, input_ids, past_key_values=None, attention_mask=None, output_hidden_states=False, **kwargs):
        past_key_values = DynamicCache() if past_key_values is None else past_key_values
        new = input_ids.shape[1]
        keys, _ = past_key_values.update(input_ids[:, None, :, None].float(), input_ids[:, None, :, None].float(), 0)
        rows = keys[:, 0, :, 0].long().tolist()
        prefixes = [[row[: len(row) - new + i + 1] for i in range(new)] for row in rows]
        hidden = torch.tensor([[hidden_of(p) for p in row] for row in prefixes])
        return CausalLMOutputWithPast(
            logits=torch.tensor([[logits_of(p) for p in row] for row in prefixes]),
            past_key_values=past_key_values,
            hidden_states=(hidden, hidden) if output_hidden_states else None,
        )


def modes():
    model, numbers, out = Table(TableConfig()).eval(), random.Random(3), []

    def run(kind, **options):
        for length in [5, 1, 130, 67]:
            prompt = [numbers.randrange(1, VOCAB) for _ in range(length)]
            given = dict(eos_token_id=0, pad_token_id=0) | options
            o = model.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, length, dtype=torch.long),
                return_dict_in_generate=True,
                output_scores=True,
                **given,
            )
            case = {"kind": kind, "prompt": prompt, "options": given, "sequences": o.sequences[:, length:].tolist()}
            if getattr(o, "sequences_scores", None) is not None:
                case["scores"] = o.sequences_scores.tolist()
            if NEW:
                beams = getattr(o, "beam_indices", None)
                if beams is not None:
                    case["beams"] = beams.tolist()
                normalize = kind == "greedy"
                transition = model.compute_transition_scores(o.sequences, o.scores, beams, normalize_logits=normalize)
                case["transition"] = transition.tolist()
            out.append(case)

    if NEW:
        run("greedy", max_new_tokens=24)
        run("greedy", max_new_tokens=24, repetition_penalty=1.3, no_repeat_ngram_size=2, min_new_tokens=6, eos_token_id=[0, 5])
        run("greedy", max_new_tokens=20, bad_words_ids=[[3], [4, 9]], suppress_tokens=[7], begin_suppress_tokens=[8],
            exponential_decay_length_penalty=(4, 1.3), forced_eos_token_id=0)  # fmt: skip
        for early in [False, True, "never"]:
            for penalty in [1.0, 0.0, -0.7, 2.0]:
                run("beams", max_new_tokens=14, num_beams=4, num_return_sequences=3, early_stopping=early, length_penalty=penalty)
        run("beams", max_new_tokens=12, num_beams=3, num_return_sequences=3, eos_token_id=[0, 5, 11])
        run("beams", max_new_tokens=12, num_beams=5, num_return_sequences=2, repetition_penalty=1.5, no_repeat_ngram_size=2, min_new_tokens=5)
        run("beams", max_new_tokens=10, num_beams=2, num_return_sequences=2, eos_token_id=None, pad_token_id=None)
        run("lookup", max_new_tokens=20, prompt_lookup_num_tokens=4)
    else:
        for early in [False, True, "never"]:
            for penalty in [1.0, -0.5]:
                run("groups", max_new_tokens=12, num_beams=6, num_beam_groups=3, num_return_sequences=4,
                    diversity_penalty=0.8, early_stopping=early, length_penalty=penalty)  # fmt: skip
        run("groups", max_new_tokens=9, num_beams=4, num_beam_groups=2, num_return_sequences=2, diversity_penalty=2.5,
            eos_token_id=[0, 5], no_repeat_ngram_size=2)  # fmt: skip
        run("contrastive", max_new_tokens=16, penalty_alpha=0.6, top_k=4)
        run("contrastive", max_new_tokens=16, penalty_alpha=0.25, top_k=8, eos_token_id=[0, 5], repetition_penalty=1.2)
    return out


def processors():
    size, numbers, out = 48, random.Random(11), []
    model = Table(TableConfig())

    def word(x):
        if x == -float("inf"):
            return None
        return x if abs(x) < float("inf") else str(x)

    def case(tokens, prompt, kind="plain", **options):
        row = [numbers.randrange(-65536, 65537) / 16384 for _ in range(size)]
        if kind == "ties":
            row = [round(x) * 1.0 for x in row]
        if kind == "steep":
            row = [x * 4 for x in row]
        if kind == "invalid":
            row[3], row[5], row[7] = float("nan"), float("inf"), -float("inf")
        options = dict(eos_token_id=[0, 2]) | options
        given = dict(top_k=0, max_new_tokens=20) | options
        if "sequence_bias" in options:
            given["sequence_bias"] = [[list(ids), bias] for ids, bias in options["sequence_bias"].items()]
        config = GenerationConfig(**options)
        defaults = GenerationConfig._get_default_generation_params() | dict(top_k=0)
        defaults.pop("max_length")
        config.update(**defaults, defaults_only=True)
        config.max_length = prompt + 20
        if "min_new_tokens" in options:
            config.min_length = prompt + options["min_new_tokens"]
        config._eos_token_tensor = torch.tensor(options["eos_token_id"])
        ids = torch.tensor([tokens])
        chain = model._get_logits_processor(
            generation_config=config,
            input_ids_seq_length=prompt,
            encoder_input_ids=ids[:, :prompt],
            device="cpu",
            model_kwargs={},
        )
        scores = chain(ids, torch.tensor([row]))[0].tolist()
        out.append({"tokens": tokens, "prompt": prompt, "options": given, "row": list(map(word, row)), "scores": list(map(word, scores))})

    def ids(n):
        return [numbers.randrange(size) for _ in range(n)]

    for _ in range(2):
        case(ids(12), 5, repetition_penalty=1.3)
        case(ids(12), 5, repetition_penalty=0.7)
        case(ids(12), 5, encoder_repetition_penalty=1.5)
        case([1, 2, 3, 4, 1, 2, 3, 9, 1, 2], 4, no_repeat_ngram_size=3)
        case([1, 2, 3, 4, 1, 2], 3, no_repeat_ngram_size=1)
        case([1], 1, no_repeat_ngram_size=3)
        case([1, 2, 3, 4, 1, 2], 4, encoder_no_repeat_ngram_size=2)
        t = ids(8)
        case(t, 4, bad_words_ids=[[3], [0], [t[-1], 6], [t[-2], t[-1], 8], [5, 5, 9]])
        t = ids(8)
        case(t, 4, sequence_bias={(3,): 1.5, (t[-1], 6): -2.0, (t[-2], t[-1], 6): 0.5, (9, 9, 9, 9): 3.0})
        for n in [6, 7]:
            case(ids(n), 4, min_length=7)
            case(ids(n), 4, min_new_tokens=3)
        case([9], 1, forced_bos_token_id=13)
        case(ids(2), 1, forced_bos_token_id=13)
        case(ids(23), 4, forced_eos_token_id=[0, 2])
        case(ids(22), 4, forced_eos_token_id=2)
        case(ids(6), 4, "invalid", remove_invalid_values=True)
        case(ids(12), 4, exponential_decay_length_penalty=(3, 1.2))
        case(ids(7), 4, exponential_decay_length_penalty=(3, 1.2))
        case(ids(6), 4, suppress_tokens=[1, 5, 7])
        case(ids(4), 4, begin_suppress_tokens=[1, 5])
        case(ids(5), 4, begin_suppress_tokens=[1, 5])
        case([9], 1, forced_bos_token_id=13, begin_suppress_tokens=[1, 5])
        case([9, 13], 1, forced_bos_token_id=13, begin_suppress_tokens=[1, 5])
        case(ids(6), 4, renormalize_logits=True)
        for kind in ["plain", "ties", "steep"]:
            sample, beams = dict(do_sample=True), dict(do_sample=True, num_beams=3)
            # What cuts by a cumulated sum chooses among equals as its sort happens to.
            unequal = "plain" if kind == "ties" else kind
            case(ids(6), 4, kind, temperature=0.7, **sample)
            case(ids(6), 4, kind, top_k=5, **sample)
            case(ids(6), 4, kind, top_k=100, temperature=1.7, **sample)
            for p in [0.3, 0.9, 0.999, 0.0]:
                case(ids(6), 4, unequal, top_p=p, **sample)
            for p in [0.05, 0.5, 1.0]:
                case(ids(6), 4, kind, min_p=p, **sample)
            for h in [0.2, 0.6, 1.0]:
                case(ids(6), 4, unequal, top_h=h, **sample)
            for p in [0.2, 0.9, 0.95]:
                case(ids(6), 4, unequal, typical_p=p, **sample)
            for e in [0.001, 0.02, 0.4]:
                case(ids(6), 4, kind, epsilon_cutoff=e, **sample)
                case(ids(6), 4, kind, eta_cutoff=e, **sample)
            for cut in [dict(top_k=1), dict(top_p=0.1), dict(min_p=0.9), dict(epsilon_cutoff=0.5), dict(eta_cutoff=0.5), dict(typical_p=0.1)]:
                case(ids(6), 4, "steep", **cut, **beams)
            case(ids(12), 5, "plain", repetition_penalty=1.2, temperature=0.8, top_h=0.8, top_k=12, top_p=0.9, min_p=0.02,
                 typical_p=0.9, epsilon_cutoff=0.01, eta_cutoff=0.02, renormalize_logits=True, **sample)  # fmt: skip
    return out


def rounded(x):
    if isinstance(x, list):
        return [rounded(y) for y in x]
    return float(f"{x:.7g}") if isinstance(x, float) else x


def write(path, cases):
    exact = ("options", "row")
    lines = [{k: v if k in exact else rounded(v) for k, v in case.items()} for case in cases]
    path.write_text("[\n" + ",\n".join(json.dumps(line, separators=(",", ":")) for line in lines) + "\n]\n")


if __name__ == "__main__":
    out = Path(sys.argv[1])
    made = modes()
    if NEW:
        write(out / "processors.json", processors())
    else:
        made = json.loads((out / "modes.json").read_text()) + made
    write(out / "modes.json", made)
