"""What Transformers' pipelines answer with the tiny models.

    python3 make_pipelines.py FIXTURES

Under Transformers 5 it writes every task but question answering, which that version no longer has; under 4.57 it writes question
answering alone. FIXTURES/pipelines/<task>.json: {"task", "transformers", "cases": [{"name", "model_dir", "args", "inputs",
"outputs"}]}. `model_dir` is relative to FIXTURES, `args` are the keyword arguments of the call, `inputs` its positional argument. A case the pipeline refuses has
"error": true in place of "outputs". The models run in double precision on the stored float32 weights.
"""
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
import transformers as tf

from tiny import CORPUS, dump

OLD = tf.__version__.startswith("4.")
LONG = " ".join(CORPUS)
NAMES = "Anna Berger walked from Paris to Berlin."
MIXED = "Müller in Köln: naïve café?"
ODD = ["A good book.", MIXED, "", "  rain   and\tsnow ", "中文 😀 ok"]


def plain(value):
    """JSON with nine significant digits."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "tolist") and not isinstance(value, float):
        return plain(value.tolist())
    return float(f"{value:.9g}") if isinstance(value, float) else value


class Task:
    def __init__(self, fixtures, task):
        self.fixtures, self.task, self.cases, self.loaded = Path(fixtures), task, [], {}

    def pipe(self, model_dir):
        if model_dir not in self.loaded:
            at = str(self.fixtures / model_dir)
            pipe = tf.pipeline(self.task, model=at, tokenizer=at, device="cpu", dtype=torch.float32,
                               model_kwargs={"attn_implementation": "eager"})
            pipe.model.double()
            self.loaded[model_dir] = pipe
        return self.loaded[model_dir]

    def case(self, name, model_dir, inputs, **args):
        row = {"name": name, "model_dir": model_dir, "args": args, "inputs": inputs}
        try:
            # Questions go in as copies: the old pipeline changes the dictionaries it is given.
            given = [dict(i) if isinstance(i, dict) else i for i in inputs] if isinstance(inputs, list) else inputs
            pipe = self.pipe(model_dir)
            with torch.no_grad():
                row["outputs"] = plain(pipe(**given, **args) if OLD else pipe(given, **args))
        except BaseException as error:  # the tokenizers crate's panics are no Exceptions
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            print(self.task, name, "refused:", type(error).__name__, str(error)[:120])
            row["error"] = True
        self.cases.append(row)

    def write(self, name=None):
        dump(self.fixtures / "pipelines" / f"{name or self.task}.json", {"task": self.task, "transformers": tf.__version__, "cases": self.cases})


def text_classification(fixtures):
    t = Task(fixtures, "text-classification")
    three = "bert-sequence-classification"
    t.case("one text", three, NAMES)
    t.case("texts", three, ODD)
    t.case("batch of mixed length", three, [NAMES, "a", MIXED, "A good book near the old river."], batch_size=3, padding=True)
    for k in (None, 1, 2, 7):
        t.case(f"top_k {k}", three, NAMES, top_k=k)
        t.case(f"top_k {k}, texts", three, [NAMES, MIXED], top_k=k)
    for f in ("sigmoid", "softmax", "none"):
        for model in (three, "bert-regression", "bert-multi-label"):
            t.case(f"{f} with {model}", model, MIXED, top_k=None, function_to_apply=f)
    t.case("regression", "bert-regression", [NAMES, MIXED])
    t.case("regression, top_k", "bert-regression", NAMES, top_k=None)
    t.case("multi-label", "bert-multi-label", [NAMES, MIXED])
    t.case("multi-label, top_k", "bert-multi-label", [NAMES, MIXED], top_k=3)
    pair = {"text": NAMES, "text_pair": "Is it cold?"}
    for family in ("bert", "distilbert", "roberta", "xlm-roberta", "camembert", "mpnet", "electra", "albert"):
        model = f"{family}-sequence-classification"
        t.case(f"{family}, text", model, MIXED, top_k=None)
        t.case(f"{family}, pair", model, pair, top_k=None)
    t.case("pairs", three, [pair, {"text": "rain", "text_pair": MIXED}, {"text": "alone"}])
    t.case("long, truncated", three, LONG, truncation=True, top_k=None)
    t.case("long, truncated to 16", three, LONG, truncation=True, max_length=16, top_k=None)
    t.case("long pair, truncated", three, [{"text": NAMES, "text_pair": LONG}], truncation="only_second", top_k=None)
    t.case("too long", three, LONG)
    t.write()


def token_classification(fixtures):
    t = Task(fixtures, "token-classification")
    strategies = ("none", "simple", "first", "average", "max")
    words = ["Anna", "Berger", "walked", "from", "São", "Paulo", "to", "New", "York", "(cold)", "."]
    for family in ("bert", "roberta", "xlm-roberta", "albert"):
        model = f"{family}-token-classification"
        for s in strategies:
            t.case(f"{family}, {s}", model, NAMES, aggregation_strategy=s)
            t.case(f"{family}, {s}, odd texts", model, ODD, aggregation_strategy=s)
            t.case(f"{family}, {s}, everything kept", model, CORPUS[4], aggregation_strategy=s, ignore_labels=[])
            t.case(f"{family}, {s}, words", model, words, aggregation_strategy=s, is_split_into_words=True)
    bert = "bert-token-classification"
    for family in ("distilbert", "camembert", "mpnet", "electra"):
        t.case(f"{family}, default", f"{family}-token-classification", [NAMES, MIXED])
        t.case(f"{family}, first", f"{family}-token-classification", [NAMES, MIXED], aggregation_strategy="first")
    t.case("default", bert, NAMES)
    t.case("two labels ignored", bert, NAMES, aggregation_strategy="simple", ignore_labels=["O", "LOC"])
    t.case("two tags ignored", bert, NAMES, ignore_labels=["B-PER", "I-PER"])
    t.case("batch of mixed length", bert, [NAMES, "a", MIXED], aggregation_strategy="simple", batch_size=2)
    t.case("words with delimiter", bert, words, aggregation_strategy="simple", is_split_into_words=True, delimiter="_")
    t.case("word lists", bert, [words, ["Köln", "is", "cold"]], aggregation_strategy="max", is_split_into_words=True)
    t.case("long, cut at the model's length", bert, LONG, aggregation_strategy="simple")
    for stride in (0, 8, 20):
        for s in ("simple", "first", "average", "max"):
            t.case(f"stride {stride}, {s}", bert, " ".join(CORPUS[:4]), aggregation_strategy=s, stride=stride)
    t.case("stride, roberta", "roberta-token-classification", " ".join(CORPUS[:3]), aggregation_strategy="simple", stride=16)
    t.case("stride, texts", bert, [NAMES, " ".join(CORPUS[4:7])], aggregation_strategy="first", stride=10, batch_size=2)
    t.case("stride without aggregation", bert, LONG, aggregation_strategy="none", stride=8)
    t.case("stride too large", bert, LONG, aggregation_strategy="simple", stride=64)
    t.write()


def fill_mask(fixtures):
    t = Task(fixtures, "fill-mask")
    for family in ("bert", "distilbert", "roberta", "xlm-roberta", "camembert", "mpnet", "electra", "albert"):
        model = f"{family}-masked-lm"
        m = t.pipe(model).tokenizer.mask_token
        t.case(f"{family}", model, f"The capital of France is {m}.")
        t.case(f"{family}, several masks", model, f"{m} is a {m} book, naïve {m}!", top_k=3)
    m = "[MASK]"
    bert = "bert-masked-lm"
    t.case("texts", bert, [f"a {m}", f"{m} b", m])
    t.case("batch", bert, [f"a {m}", f"{m} walked from Paris to Berlin."], batch_size=2)
    t.case("top_k 1", bert, f"Rain {m}", top_k=1)
    t.case("targets", bert, f"Rain {m}", targets=["the", "a", "is"])
    t.case("targets, top_k", bert, f"Rain {m}", targets=["the", "a", "is"], top_k=2)
    t.case("one target", bert, f"Rain {m}", targets="the")
    t.case("target outside the vocabulary", bert, f"Rain {m}", targets=["the", "zebra"])
    t.case("targets, several masks", bert, f"{m} {m}", targets=["the", "a"])
    t.case("long, truncated", bert, f"{m} {LONG}", tokenizer_kwargs={"truncation": True})
    t.case("no mask", bert, "Rain and snow")
    t.case("too long", bert, f"{m} {LONG}")
    t.write()


def feature_extraction(fixtures):
    t = Task(fixtures, "feature-extraction")
    for model in ("bert-base", "roberta-base", "distilbert-base"):
        t.case(f"{model}", model, "a good book")
    t.case("texts", "bert-base", ["a", "", "é"])
    t.case("truncated", "bert-base", LONG, tokenize_kwargs={"truncation": True, "max_length": 5})
    t.write()


def zero_shot(fixtures):
    t = Task(fixtures, "zero-shot-classification")
    nli = "bert-nli"
    labels = ["weather", "travel", "food"]
    for multi in (False, True):
        t.case(f"labels, multi_label {multi}", nli, NAMES, candidate_labels=labels, multi_label=multi)
        t.case(f"comma string, multi_label {multi}", nli, NAMES, candidate_labels="rain, snow , wind", multi_label=multi)
        t.case(f"template, multi_label {multi}", nli, MIXED, candidate_labels=labels, multi_label=multi, hypothesis_template="It is {}")
        t.case(f"texts, multi_label {multi}", nli, [NAMES, MIXED, "a"], candidate_labels=labels, multi_label=multi)
        t.case(f"one label, multi_label {multi}", nli, NAMES, candidate_labels=["rain"], multi_label=multi)
        t.case(f"no entailment label, multi_label {multi}", "roberta-sequence-classification", "Rain", candidate_labels=labels, multi_label=multi)
    t.case("batch", nli, [NAMES, "a"], candidate_labels=labels, batch_size=4)
    t.case("long, only the text is cut", nli, LONG, candidate_labels=labels)
    t.case("template without braces", nli, NAMES, candidate_labels=labels, hypothesis_template="nothing")
    t.case("no labels", nli, NAMES, candidate_labels=[])
    t.write()


def reviews(fixtures):
    """The bundled model, beside the fixtures; own sentences."""
    t = Task(fixtures, "text-classification")
    bundled = "../../models/bundled/reviews"
    texts = ["What a wonderful film!", "A dull, lifeless mess.", "not good", "It is not bad at all.", "", "Ein schöner Film über München.", LONG[:300]]
    t.case("one text", bundled, texts[0])
    t.case("texts", bundled, texts, top_k=None)
    t.write("reviews")


def question_answering(fixtures):
    t = Task(fixtures, "question-answering")
    where = {"question": "Where does Jean-Luc live?", "context": "Jean-Luc lives in New York, at 25 Main Street."}
    umlaut = {"question": "Was ist schön?", "context": "Müller und Söhne bauen ein Haus in Köln,\n weil es dort schön ist. 😀 El niño!"}
    wide = {"question": "What is it?", "context": LONG}
    bert = "bert-question-answering"
    for family in ("bert", "distilbert", "roberta", "xlm-roberta", "camembert", "mpnet", "electra", "albert"):
        model = f"{family}-question-answering"
        t.case(f"{family}", model, where)
        t.case(f"{family}, non-ASCII", model, umlaut, top_k=3)
        t.case(f"{family}, long context", model, wide, top_k=4)
    for model in (bert, "roberta-question-answering"):
        for k in (1, 2, 10, 200):
            t.case(f"{model}, top_k {k}", model, where, top_k=k)
        for n in (1, 2, 5, 60):
            t.case(f"{model}, max_answer_len {n}", model, umlaut, top_k=3, max_answer_len=n)
        for align in (True, False):
            t.case(f"{model}, align_to_words {align}", model, where, top_k=5, align_to_words=align)
            t.case(f"{model}, align_to_words {align}, long", model, wide, top_k=5, align_to_words=align, doc_stride=10)
        for stride in (1, 8, 24):
            t.case(f"{model}, doc_stride {stride}", model, wide, top_k=3, doc_stride=stride)
            t.case(f"{model}, doc_stride {stride}, impossible", model, wide, top_k=3, doc_stride=stride, handle_impossible_answer=True)
        t.case(f"{model}, impossible", model, where, handle_impossible_answer=True)
        t.case(f"{model}, impossible, top_k", model, umlaut, handle_impossible_answer=True, top_k=4)
        t.case(f"{model}, max_seq_len 40", model, wide, top_k=2, max_seq_len=40, doc_stride=6)
        t.case(f"{model}, max_question_len 6", model, {**where, "question": "Who is it?"}, max_question_len=3)
    t.case("several", bert, {"question": [where["question"], umlaut["question"]], "context": [where["context"], umlaut["context"]]})
    t.case("one context, several questions", bert, {"question": ["Who?", "Where?"], "context": where["context"]}, top_k=2)
    t.case("one word", bert, {"question": "a", "context": "b"})
    t.case("empty context", bert, {"question": "a", "context": ""})
    t.case("empty question", bert, {"question": "", "context": "b"})
    t.case("question leaves less room than the stride", bert, {**where, "question": CORPUS[2]})
    t.case("doc_stride beyond max_seq_len", bert, wide, max_seq_len=32, doc_stride=40)
    t.case("top_k 0", bert, where, top_k=0)
    t.case("max_answer_len 0", bert, where, max_answer_len=0)
    t.write()


def main():
    fixtures = sys.argv[1]
    tf.logging.set_verbosity_error()
    if OLD:
        return question_answering(fixtures)
    for make in (text_classification, token_classification, fill_mask, feature_extraction, zero_shot, reviews):
        make(fixtures)


if __name__ == "__main__":
    main()
