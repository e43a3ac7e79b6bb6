"""Teach a tiny BERT in seconds whether a sentence is glad or sad, and lay it out as a model folder.

    python examples/moods/train.py --out /tmp/moods && serving serve --model-dir /tmp/moods

Nothing is downloaded: the sentences are made here, and so is the vocabulary.
"""

from __future__ import annotations

import argparse
import random
import shutil
import string
from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

HERE = Path(__file__).resolve().parent
WORDS = {"glad": "happy bright lovely warm good sunny kind", "sad": "gloomy dark awful cold bad rainy cruel"}
PLAIN = "the a this what today was is it day dog song friend story we had my very and so"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
STEPS = 60


def sentence(mood: str, chance: random.Random) -> str:
    words = chance.choices(PLAIN.split(), k=chance.randint(2, 8)) + chance.sample(WORDS[mood].split(), 2)
    chance.shuffle(words)
    return " ".join(words)


def make_tokenizer(out: Path) -> BertTokenizerFast:
    pieces = [prefix + letter for prefix in ("", "##") for letter in string.ascii_lowercase + string.digits]
    words = " ".join([PLAIN, *WORDS.values()]).split()
    # In this order and each once, whatever is a letter and a word.
    tokens = dict.fromkeys([*SPECIAL, *string.punctuation, *pieces, *words])
    (out / "vocab.txt").write_text("\n".join(tokens))
    return BertTokenizerFast.from_pretrained(out, model_max_length=128)


def train(tokenizer: BertTokenizerFast) -> BertForSequenceClassification:
    torch.manual_seed(0)
    chance = random.Random(0)
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    names = dict(enumerate(WORDS))
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=128, id2label=names, **size)
    model = BertForSequenceClassification(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(STEPS):
        moods = chance.choices(list(names), k=64)
        batch = tokenizer([sentence(names[one], chance) for one in moods], padding=True, return_tensors="pt")
        optimizer.zero_grad()
        torch.autograd.backward(model(**batch, labels=torch.tensor(moods)).loss)
        optimizer.step()
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the model folder to write")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(out)
    tokenizer.save_pretrained(out)
    train(tokenizer).save_pretrained(out)
    shutil.copy(HERE / "serving.toml", out)


if __name__ == "__main__":
    main()
