"""What Transformers' tokenizer calls give, for the tiny tokenizers and, ids only, for the one of all-MiniLM-L6-v2.

    python3 make_tokenizers.py FIXTURES [MINILM]

FIXTURES/tokenizers/<name>.json: {"tokenizer": directory, "transformers", "cases": [...]}. A case: "name", "setup" (attributes set
and tokens added before the call; absent: none), "method", "args", and "result" or "error": true. For the method "call" the result is
the returned dictionary, and beside it stand "tokens", "word_ids" and "sequence_ids", one list a row (flat input: one row).
Rows of the surface that the cases prove: TE-01..08 and 10, PT-01..06, TD-01, 02, SP-01..03, 05..08. The tokenizer is loaded anew for each
case with a setup.
"""
import logging
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import transformers as tf
from tokenizers import AddedToken

from tiny import CORPUS, dump

tf.logging.set_verbosity_error()
FULL = dict(return_offsets_mapping=True, return_special_tokens_mask=True, return_attention_mask=True, return_length=True)
TEXTS = ["A good book.", "Müller in Köln: naïve café?", "", "   ", "  rain   and\tsnow \n", "中文 😀 ok", "e\u0301 nin\u0303o", "can't aren't we've I'm",
         "x" * 120, "12,5 % (AB) – “q”…", "a\u200bb\x00c\ufffd"]
LONG = " ".join(CORPUS[:3])


class Book:
    def __init__(self, fixtures, name, at, shown):
        self.at, self.name, self.cases = at, name, []
        self.out = Path(fixtures) / "tokenizers" / f"{name}.json"
        self.shown = shown
        self.tok = self.load()

    def load(self):
        return tf.AutoTokenizer.from_pretrained(self.at)

    def prepared(self, setup):
        """A tokenizer with the setup applied: attributes, then added tokens."""
        if not setup:
            return self.tok, None
        tok = self.load()
        for key, value in setup.items():
            if key not in ("add_tokens", "add_special_tokens"):
                setattr(tok, key, value)
        added = None
        if "add_tokens" in setup:
            added = tok.add_tokens([AddedToken(**t) if isinstance(t, dict) else t for t in setup["add_tokens"]])
        if "add_special_tokens" in setup:
            added = tok.add_special_tokens(setup["add_special_tokens"])
        return tok, added

    def case(self, name, method="call", setup=None, **args):
        row = {"name": name, "method": method, "args": args}
        if setup:
            row["setup"] = setup
        tok, added = self.prepared(setup)
        if added is not None:
            row["added"] = added
        try:
            if method == "call":
                enc = tok(**args)
                row["result"] = {k: enc[k] for k in enc}
                row["tokens"] = [enc.tokens(i) for i in range(len(enc.encodings))]
                row["word_ids"] = [enc.word_ids(i) for i in range(len(enc.encodings))]
                row["sequence_ids"] = [enc.sequence_ids(i) for i in range(len(enc.encodings))]
            elif method == "pad":
                row["result"] = dict(tok.pad(**args))
            elif method == "where":  # the maps between characters, tokens and words of one encoding
                enc = tok(**args)
                text = args["text"]
                n = len(enc["input_ids"])
                pair = "text_pair" in args
                row["result"] = {
                    "char_to_token": [[enc.char_to_token(c, sequence_index=s) for c in range(len(t))]
                                      for s, t in enumerate([text] + ([args["text_pair"]] if pair else []))],
                    "token_to_chars": [list(c) if (c := enc.token_to_chars(i)) is not None else None for i in range(n)],
                    "token_to_word": [enc.token_to_word(i) for i in range(n)],
                    "word_to_tokens": [list(w) if (w := enc.word_to_tokens(i)) is not None else None
                                       for i in range(1 + max((w for w in enc.word_ids() if w is not None), default=-1)) ] if not pair else None,
                    "char_to_word": [enc.char_to_word(c) for c in range(len(text))] if not pair else None,
                }
            else:
                value = getattr(tok, method)
                row["result"] = value(**args) if callable(value) else value
        except BaseException as error:
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            row.pop("tokens", None)
            row["error"] = True
            print(self.name, name, "refused:", type(error).__name__, str(error)[:110])
        self.cases.append(row)

    def write(self):
        dump(self.out, {"tokenizer": self.shown, "transformers": tf.__version__, "cases": self.cases})


def everything(b):
    tok = b.tok
    for i, text in enumerate(TEXTS):
        b.case(f"text {i}", text=text, **FULL)
        b.case(f"text {i}, no specials", text=text, add_special_tokens=False, return_offsets_mapping=True)
    b.case("defaults", text=TEXTS[0])
    b.case("batch", text=TEXTS[:3])
    b.case("pair", text=TEXTS[0], text_pair=TEXTS[1], **FULL)
    b.case("pair with an empty part", text=TEXTS[0], text_pair="", **FULL)
    b.case("pairs", text=TEXTS[:2], text_pair=[TEXTS[4], TEXTS[5]], **FULL)
    b.case("pair without specials", text="rain", text_pair="snow", add_special_tokens=False, **FULL)
    b.case("no masks", text="rain", return_attention_mask=False, return_token_type_ids=False)
    b.case("token types asked for", text="rain", text_pair="snow", return_token_type_ids=True)
    words = ["São", "Paulo", "isn't", "far", "a b", "", "x"]
    b.case("words", text=words, is_split_into_words=True, **FULL)
    b.case("word lists", text=[words, ["one"]], is_split_into_words=True, **FULL)
    b.case("words, pair", text=["What", "now?"], text_pair=words, is_split_into_words=True, **FULL)
    b.case("longer than the model", text=LONG)

    batch = ["rain", "A good book near the old river.", "a"]
    for padding in (False, True, "longest", "max_length", "do_not_pad"):
        b.case(f"padding {padding}", text=batch, padding=padding)
    b.case("padding max_length 12", text="rain", padding="max_length", max_length=12, **FULL)
    b.case("padding max_length 2, text longer", text=batch, padding="max_length", max_length=2)
    for side in ("left", "right"):
        b.case(f"padding side {side}", text=batch, padding=True, padding_side=side, **FULL)
        b.case(f"padding side {side}, pairs", text=batch, text_pair=batch[::-1], padding=True, padding_side=side, **FULL)
        b.case(f"padding side {side} as attribute", setup={"padding_side": side}, text=batch, padding=True)
    b.case("multiple of 8", text=batch, padding=True, pad_to_multiple_of=8)
    b.case("multiple of 8, max_length 10", text=batch, padding="max_length", max_length=10, pad_to_multiple_of=8)
    b.case("multiple of 8, cut at 12", text=batch, padding=True, truncation=True, max_length=12, pad_to_multiple_of=8)

    for strategy in (True, "longest_first", "only_first", False, "do_not_truncate"):
        b.case(f"truncation {strategy}", text=LONG, truncation=strategy, max_length=9, **FULL)
    b.case("truncation to the model's length", text=LONG, truncation=True)
    b.case("max_length alone", text=LONG, max_length=9)
    one, two = "a b c d e f g h", "i, l m n o"  # about a token a letter in every vocabulary
    for strategy in ("longest_first", "only_first", "only_second"):
        for limit in (13, 15):
            for side in ("right", "left"):
                b.case(f"pair, {strategy} {limit} {side}", setup={"truncation_side": side}, text=one, text_pair=two, truncation=strategy,
                       max_length=limit, **FULL)
    b.case("only_first too short", text="a", text_pair=LONG, truncation="only_first", max_length=10)
    b.case("only_second too short", text=LONG, text_pair="a", truncation="only_second", max_length=10)
    b.case("room for specials only", text=one, truncation=True, max_length=2)
    b.case("no room for specials", text=one, truncation=True, max_length=1)

    over = dict(truncation=True, return_overflowing_tokens=True, **FULL)
    for stride in (0, 3):
        b.case(f"overflow, stride {stride}", text=one, max_length=9, stride=stride, **over)
        b.case(f"overflow, stride {stride}, left", setup={"truncation_side": "left"}, text=one, max_length=9, stride=stride, **over)
        b.case(f"overflow, stride {stride}, padded batch", text=[one, "a", two], max_length=9, stride=stride, padding=True, **over)
        b.case(f"overflow, stride {stride}, only_second", text="Who is it?", text_pair=LONG, max_length=28, stride=stride,
               **{**over, "truncation": "only_second"})
        b.case(f"overflow, stride {stride}, only_second, batch padded", text=["Who?", "a"], text_pair=[two, LONG], max_length=24,
               stride=stride, padding="max_length", **{**over, "truncation": "only_second"})
    b.case("stride too large", text=one, max_length=9, stride=8, **over)

    b.case("pad", method="pad", encoded_inputs=[{"input_ids": [5, 6, 7]}, {"input_ids": [8]}])
    b.case("pad, columns", method="pad", encoded_inputs={"input_ids": [[5, 6, 7], [8]], "attention_mask": [[1, 1, 1], [1]]}, padding=True)
    b.case("pad to 6, left", method="pad", encoded_inputs=[{"input_ids": [5, 6, 7], "special_tokens_mask": [1, 0, 1]}], padding="max_length",
           max_length=6, padding_side="left")
    b.case("pad to a multiple", method="pad", encoded_inputs=[{"input_ids": [5, 6, 7]}, {"input_ids": [8]}], pad_to_multiple_of=4)

    ids = tok(TEXTS[1])["input_ids"]
    other = tok("can't we've I'm , done . ok ? yes ! ' quoted ' it's")["input_ids"]
    for skip in (False, True):
        for clean in (None, False, True):
            b.case(f"decode, skip {skip}, clean {clean}", method="decode", token_ids=other, skip_special_tokens=skip,
                   clean_up_tokenization_spaces=clean)
        b.case(f"decode, umlauts, skip {skip}", method="decode", token_ids=ids, skip_special_tokens=skip)
        b.case(f"decode, batch, skip {skip}", method="batch_decode", sequences=[ids, other, []], skip_special_tokens=skip)
    b.case("decode of none", method="decode", token_ids=[])
    b.case("decode of specials", method="decode", token_ids=tok.all_special_ids)

    b.case("encode", method="encode", text=TEXTS[1])
    b.case("encode, pair", method="encode", text="rain", text_pair="snow")
    b.case("tokenize", method="tokenize", text=TEXTS[1])
    b.case("to ids", method="convert_tokens_to_ids", tokens=["a", tok.sep_token, "no-such-token"])
    b.case("to tokens", method="convert_ids_to_tokens", ids=other)
    b.case("to tokens, skip", method="convert_ids_to_tokens", ids=other, skip_special_tokens=True)
    b.case("specials to add", method="num_special_tokens_to_add", pair=False)
    b.case("specials to add, pair", method="num_special_tokens_to_add", pair=True)
    b.case("specials mask of ready ids", method="get_special_tokens_mask", token_ids_0=other, already_has_special_tokens=True)
    for attribute in ("all_special_ids", "all_special_tokens", "vocab_size", "__len__", "pad_token_id", "unk_token_id", "cls_token_id",
                      "sep_token_id", "mask_token_id", "bos_token_id", "eos_token_id", "model_max_length", "model_input_names", "get_added_vocab"):
        b.case(attribute, method=attribute)
    b.case("maps", method="where", text="Café in Köln, isn't  it?")
    b.case("maps, pair", method="where", text="Köln is", text_pair="naïve rain")

    m = tok.mask_token
    special = f"rain {m} snow{m}.{tok.sep_token} {tok.pad_token}"
    b.case("specials in the text", text=special, **FULL)
    b.case("specials in the text, split", text=special, split_special_tokens=True, **FULL)
    tags = [{"content": "<tag>", "special": False, "normalized": False}, {"content": "<tag>s", "special": False, "normalized": False},
            {"content": "wind", "single_word": True, "normalized": True}, {"content": "<l>", "lstrip": True, "special": True, "normalized": False},
            {"content": "<r>", "rstrip": True, "special": True, "normalized": False}]
    text = "a <tag>s b<tag> Wind winds wind  <l>  x  <r>  y"
    b.case("added tokens", setup={"add_tokens": tags}, text=text, **FULL)
    b.case("added tokens twice", setup={"add_tokens": ["<tag>", "<tag>", m]}, text=text)
    b.case("added tokens, length", setup={"add_tokens": ["<tag>", "<tag>"]}, method="__len__")
    b.case("added tokens, vocabulary", setup={"add_tokens": tags}, method="get_added_vocab")
    start = len(tok)
    b.case("added tokens, decode", setup={"add_tokens": tags}, method="decode", token_ids=[*other[:4], start, start + 3, *other[4:7]],
           skip_special_tokens=True)
    b.case("extra specials", setup={"add_special_tokens": {"extra_special_tokens": ["<e1>", "<e2>"]}}, text="a <e1> b<e2>", **FULL)
    b.case("pad is eos", setup={"pad_token": tok.sep_token}, text=batch, padding=True)
    b.case("no pad token", setup={"pad_token": None}, text=batch, padding=True)


def shortening(fixtures, tokenizer_dir):
    """PT-03: [n1, n2, T, m1, m2] for every small pair: T tokens of room, n words cut to m."""
    tok = tf.AutoTokenizer.from_pretrained(tokenizer_dir)
    rows = []
    for side in ("right",):
        for n1 in range(8):
            for n2 in range(8):
                for room in range(1, 15):
                    enc = tok(" ".join("a" * n1), " ".join("b" * n2), truncation="longest_first", max_length=room, add_special_tokens=False)
                    m1 = enc.sequence_ids(0).count(0)
                    rows.append([n1, n2, room, m1, len(enc["input_ids"]) - m1])
    dump(Path(fixtures) / "tokenizers" / "longest-first.json", {"tokenizer": "bert-base", "columns": ["n1", "n2", "room", "m1", "m2"], "rows": rows})


def minilm(fixtures, at):
    b = Book(fixtures, "minilm", at, "minilm")
    texts = TEXTS + CORPUS + ["unaffable supercalifragilisticexpialidocious", "[MASK] [SEP] [CLS] [mask]", "http://a.b/c?d=e&f", "Ελληνικά Русский हिन्दी 日本語 한국어"]
    for i, text in enumerate(texts):
        b.case(f"text {i}", text=text, return_offsets_mapping=True)
    b.case("batch", text=texts[:5])
    b.case("batch, padded", text=texts[:5], padding=True)
    b.case("pairs, cut", text=CORPUS[:3], text_pair=CORPUS[3:6], padding=True, truncation=True, max_length=20, **FULL)
    b.case("windows", text="Where is it?", text_pair=" ".join(CORPUS[:4]), truncation="only_second", max_length=24, stride=6,
           return_overflowing_tokens=True, **FULL)
    b.case("long, cut at the model's length", text=" ".join(CORPUS * 12), truncation=True)
    for clean in (False, True):
        b.case(f"decode, clean {clean}", method="decode", token_ids=b.tok(TEXTS[7])["input_ids"], skip_special_tokens=True,
               clean_up_tokenization_spaces=clean)
    b.write()


def main():
    fixtures = Path(sys.argv[1])
    logging.disable(logging.WARNING)
    for family in ("bert", "roberta", "xlm-roberta", "albert", "mpnet"):
        b = Book(fixtures, family, str(fixtures / f"{family}-base"), f"{family}-base")
        everything(b)
        b.write()
    shortening(fixtures, str(fixtures / "bert-base"))
    if len(sys.argv) > 2:
        minilm(fixtures, sys.argv[2])


if __name__ == "__main__":
    main()
