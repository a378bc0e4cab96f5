"""Makes the tokenizer of the bundled model `reviews`: 8,000 lower-case word pieces of the texts that it is trained on.

    python3 make_reviews_tokenizer.py REVIEWS OUT

REVIEWS is the folder of the fetched data set (see reviews_heldout.py for the split and the citation); neither the held-out nor the
validation part is seen. The pieces are the same each time, but the trainer breaks ties by chance, so their numbers are not: weights go
with the tokenizer that they were trained with.
"""
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

import reviews_heldout as data
from tiny import save_tokenizer

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LENGTH = 128
PIECES = 8000


def make_tokenizer(texts):
    tok = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tok.normalizer = normalizers.BertNormalizer(lowercase=True)
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tok.decoder = decoders.WordPiece(prefix="##")
    tok.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=PIECES, special_tokens=SPECIALS, show_progress=False))
    tok.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return tok


def main():
    folder, out = sys.argv[1], Path(sys.argv[2])
    movies = [text for _, _, text in data.split(folder)["train"]]
    others = [text for name in ("amazonReview", "nytEditorial", "tweets") for _, _, text in data.rows(folder, name)]
    tok = make_tokenizer(movies * 2 + others + [word for word, _ in data.lexicon(folder)])
    out.mkdir(parents=True, exist_ok=True)
    save_tokenizer(PreTrainedTokenizerFast(
        tokenizer_object=tok, model_max_length=LENGTH, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", clean_up_tokenization_spaces=True, model_input_names=["input_ids", "token_type_ids", "attention_mask"]), out)


if __name__ == "__main__":
    main()
