"""What the fixture makers share: the sentences, the tiny tokenizers, the tiny random models and the way goldens are written.

Nothing here reads the network or a path of its own; the callers pass directories.
"""
import json
import zlib
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

FAMILIES = ("bert", "distilbert", "roberta", "xlm-roberta", "camembert", "mpnet", "electra", "albert")
WORDPIECE = ("bert", "distilbert", "electra", "mpnet")
BYTE_BPE = ("roberta",)
UNIGRAM = ("xlm-roberta", "camembert", "albert")
LENGTH = 64  # longest sequence, specials included
LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]

# Own sentences; every character of the tests' texts appears, so that few are unknown.
CORPUS = """
Anna Berger walked from Paris to Berlin in the cold rain.
The happy person reads a good book near the old river.
What a terrible film: the plot is thin, the cast is bored, and it runs for 143 minutes!
Café owners in São Paulo aren't paying more than 7.50 euros; they can't.
Where does Jean-Luc live? He lives in New York, at 25 Main Street.
Naïve résumé writers don't say "I'm great"; it's odd, isn't it?
Müller und Söhne bauen ein Haus in Köln, weil es dort schön ist.
Words are split into pieces, pieces become numbers, numbers become vectors.
She said: we've seen the sea, and you're late again...
The compiler turns one graph into another graph and prints 6480 numbers.
Rain, wind and snow: the weather of the north is not for everyone.
El niño come una manzana y bebe agua fría.
A model answers questions about a long text with a start and an end.
The capital of France is Paris. The capital of Italy is Rome.
I love this wonderful movie, it was the best of the year (really)!
""".strip().splitlines()


def seed_of(*parts):
    """A seed that depends on names only, so that one fixture can be remade alone."""
    return zlib.crc32("/".join(map(str, parts)).encode())


def generator(*parts):
    return torch.Generator().manual_seed(seed_of(*parts))


# ---- tokenizers ---------------------------------------------------------------------------------------------------

def make_tokenizer(family, fixtures):
    """The family's kind of tokenizer with its special tokens at the places the family is used to, tiny vocabulary.

    The trainers of the tokenizers crate break ties differently from run to run, so the one in FIXTURES/<family>-base is the
    source for every other directory; it is trained only where it is absent.
    """
    kept = Path(fixtures) / f"{family}-base" / "tokenizer.json"
    if family in ("bert", "distilbert", "electra"):
        specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        named = dict(pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]")
        tok = word_piece(specials, "[UNK]", 160)
        template(tok, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ["[CLS]", "[SEP]"])
    elif family == "mpnet":
        specials = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]
        named = dict(bos_token="<s>", cls_token="<s>", pad_token="<pad>", eos_token="</s>", sep_token="</s>",
                     unk_token="[UNK]", mask_token="<mask>")
        tok = word_piece(specials, "[UNK]", 160)
        template(tok, "<s> $A </s>", "<s> $A </s> </s> $B </s>", ["<s>", "</s>"])
    elif family == "roberta":
        specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        named = dict(bos_token="<s>", cls_token="<s>", pad_token="<pad>", eos_token="</s>", sep_token="</s>",
                     unk_token="<unk>", mask_token="<mask>")
        tok = Tokenizer(models.BPE())
        tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tok.decoder = decoders.ByteLevel()
        tok.train_from_iterator(CORPUS, trainers.BpeTrainer(
            vocab_size=320, special_tokens=specials, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
        tok.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False)
    elif family == "albert":
        specials = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
        named = dict(pad_token="<pad>", unk_token="<unk>", cls_token="[CLS]", bos_token="[CLS]", sep_token="[SEP]",
                     eos_token="[SEP]", mask_token="[MASK]")
        tok = unigram()
        tok.normalizer = normalizers.Sequence([normalizers.Replace("``", '"'), normalizers.Replace("''", '"'), normalizers.NFKD(),
                                               normalizers.StripAccents(), normalizers.Lowercase(),
                                               normalizers.Replace(Regex(" {2,}"), " ")])
        train_unigram(tok, specials, 160)
        template(tok, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ["[CLS]", "[SEP]"])
    else:  # xlm-roberta, camembert
        specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        named = dict(bos_token="<s>", cls_token="<s>", pad_token="<pad>", eos_token="</s>", sep_token="</s>",
                     unk_token="<unk>", mask_token="<mask>")
        tok = unigram()
        tok.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
        train_unigram(tok, specials, 160)
        template(tok, "<s> $A </s>", "<s> $A </s> </s> $B </s>", ["<s>", "</s>"])
    names = ["input_ids", "attention_mask"]
    if family in ("bert", "electra", "albert"):
        names.insert(1, "token_type_ids")
    # The mask token swallows the space before it where the family's published tokenizers say so.
    if family in BYTE_BPE + UNIGRAM + ("mpnet",):
        from tokenizers import AddedToken
        named["mask_token"] = AddedToken(named["mask_token"], lstrip=True, rstrip=False, normalized=False, special=True)
    if kept.exists():
        tok = Tokenizer.from_file(str(kept))
    return PreTrainedTokenizerFast(tokenizer_object=tok, model_max_length=LENGTH, model_input_names=names,
                                   clean_up_tokenization_spaces=family in WORDPIECE, **named)


def word_piece(specials, unk, size):
    tok = Tokenizer(models.WordPiece(unk_token=unk))
    tok.normalizer = normalizers.BertNormalizer(lowercase=True)
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tok.decoder = decoders.WordPiece(prefix="##")
    tok.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=size, special_tokens=specials, show_progress=False))
    return tok


def unigram():
    tok = Tokenizer(models.Unigram())
    tok.pre_tokenizer = pre_tokenizers.Metaspace()
    tok.decoder = decoders.Metaspace()
    return tok


def train_unigram(tok, specials, size):
    tok.train_from_iterator(CORPUS, trainers.UnigramTrainer(
        vocab_size=size, special_tokens=specials, unk_token="<unk>", show_progress=False, max_piece_length=6))


def template(tok, single, pair, names):
    tok.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=[(n, tok.token_to_id(n)) for n in names])


def save_tokenizer(tokenizer, folder):
    """Writes tokenizer.json and tokenizer_config.json so that Transformers 4 and 5 both read them."""
    tokenizer.save_pretrained(folder)
    path = Path(folder) / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    for volatile in ("is_local", "local_files_only", "backend"):
        config.pop(volatile, None)
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    for other in ("special_tokens_map.json", "added_tokens.json"):
        (Path(folder) / other).unlink(missing_ok=True)
    compact = Path(folder) / "tokenizer.json"
    compact.write_text(json.dumps(json.loads(compact.read_text()), ensure_ascii=False, separators=(",", ":")) + "\n")


# ---- models -------------------------------------------------------------------------------------------------------

def randomise(model, *name):
    """Draws every weight anew, wide enough that no output is degenerate: a wrong layer must show in the result."""
    g = generator(*name)
    with torch.no_grad():
        for key, p in model.named_parameters():
            if p.dim() >= 2:
                wide = 0.6 if any(h in key for h in ("classifier", "qa_outputs", "relative_attention_bias")) else 0.25
                p.copy_(torch.randn(p.shape, generator=g) * wide)
            elif key.endswith("weight"):
                p.copy_(1 + 0.2 * torch.randn(p.shape, generator=g))
            else:
                p.copy_(0.1 * torch.randn(p.shape, generator=g))
    return model.eval()


def rounded(tensor):
    """Nine significant digits, as nested lists."""
    if tensor.dim() == 0:
        return float(f"{tensor.item():.9g}")
    return [rounded(t) for t in tensor]


def batches_for(config, short=False):
    """Batches of id lists: lengths 1, 2 and the longest, mixed ones, pad ids in the middle that are not padding."""
    g = generator("batches", config.model_type, config.vocab_size)
    pad, vocab = config.pad_token_id or 0, config.vocab_size
    def draw(n):
        ids = torch.randint(5, vocab, (n,), generator=g).tolist()
        return ids
    with_pads = draw(7)
    with_pads[2] = with_pads[5] = pad
    if short:  # outputs as wide as the vocabulary: fewer tokens
        return [[draw(1)], [draw(6), with_pads], [draw(3), draw(9)]]
    return [[draw(1)], [draw(5), draw(17), with_pads], [draw(2), draw(LENGTH), draw(11)], [[pad, pad, pad], draw(8)]]


OUTPUTS = ("last_hidden_state", "pooler_output", "logits", "start_logits", "end_logits")


@torch.no_grad()
def outputs_of(model, ids, types=None):
    """Outputs of one unpadded sequence in double precision, without the batch dimension."""
    args = dict(input_ids=torch.tensor([ids]))
    args["attention_mask"] = torch.ones_like(args["input_ids"])
    if types is not None:
        args["token_type_ids"] = torch.tensor([types])
    result = model(**args)
    return {k: rounded(result[k][0]) for k in OUTPUTS if k in result and result[k] is not None}


def golden(model, short=False, batches=None):
    """`model` holds float32 values; the arithmetic is double. Token types are drawn where the family has more than one."""
    import copy
    wide = copy.deepcopy(model).double().eval()
    wide.tie_weights()
    config = model.config
    g = generator("types", config.model_type)
    typed = getattr(config, "type_vocab_size", 0) > 1 and config.model_type != "mpnet"
    rows = []
    for n, batch in enumerate(batches or batches_for(config, short)):
        row = []
        for ids in batch:
            case = {"input_ids": ids}
            if typed and n > 0:  # the first batch leaves them to the default, zeros
                split = int(torch.randint(0, len(ids) + 1, (1,), generator=g))
                case["token_type_ids"] = [0] * split + [1] * (len(ids) - split)
            case["outputs"] = outputs_of(wide, ids, case.get("token_type_ids"))
            row.append(case)
        rows.append(row)
    return rows


@torch.no_grad()
def distance(model, rows):
    """Largest |float32 output - golden| over the largest |golden| of the same output of the same sequence."""
    worst = 0.0
    for case in (c for row in rows for c in row):
        args = {k: torch.tensor([case[k]]) for k in ("input_ids", "token_type_ids") if k in case}
        out = model(**args, attention_mask=torch.ones_like(args["input_ids"]))
        for key, value in case["outputs"].items():
            want = torch.tensor(value, dtype=torch.float64)
            worst = max(worst, float((out[key][0].double() - want).abs().max() / want.abs().max()))
    return worst


def write_golden(folder, model, rows, name="golden.json", **more):
    import transformers
    head = {"class": type(model).__name__, "transformers": transformers.__version__, "arithmetic": "float64 on the stored weights", **more}
    dump(Path(folder) / name, {**head, "batches": rows})


def dump(path, value):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")
