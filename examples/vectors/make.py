"""A tiny BERT with random weights that turns texts into vectors, as a model folder. Nothing is downloaded.

    python examples/vectors/make.py --out /tmp/vectors && serving serve --model-dir /tmp/vectors

Even so the vectors of texts that share words are nearer to each other than those of others.
"""

from __future__ import annotations

import argparse
import shutil
import string
from pathlib import Path

import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

HERE = Path(__file__).resolve().parent
WORDS = "the a cat dog sat ran on under mat tree train station leaves at arrives late small old green red"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def make_tokenizer(out: Path) -> BertTokenizerFast:
    pieces = [prefix + letter for prefix in ("", "##") for letter in string.ascii_lowercase + string.digits]
    tokens = dict.fromkeys([*SPECIAL, *string.punctuation, *pieces, *WORDS.split()])
    (out / "vocab.txt").write_text("\n".join(tokens))
    return BertTokenizerFast.from_pretrained(out, model_max_length=256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the model folder to write")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(out)
    tokenizer.save_pretrained(out)
    torch.manual_seed(0)
    size = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=256, **size)).save_pretrained(out)
    shutil.copy(HERE / "serving.toml", out)


if __name__ == "__main__":
    main()
