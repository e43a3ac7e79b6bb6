"""Teach a tiny causal language model a nursery rhyme in seconds, and lay it out as a model folder.

    python examples/writer/train.py --out /tmp/writer && serving serve --model-dir /tmp/writer

    curl localhost:8080/v1/chat/completions -d '{"messages": [{"role": "user", "content": "sing"}], "stream": true}'

Nothing is downloaded: the text is here, and its words are the vocabulary.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

HERE = Path(__file__).resolve().parent
TEXT = """
twinkle twinkle little star how i wonder what you are
up above the world so high like a diamond in the sky
twinkle twinkle little star how i wonder what you are"""
CONTEXT = 128  # tokens
STEPS = 150


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes are tokens, so that any text can be read; so are the rhyme's words, each with the space before it."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = sorted({f"Ġ{word}" for word in TEXT.split()})
    tokens = dict.fromkeys(["<end>", *letters])
    merges = [pair for word in words for pair in merges_of(word)]
    tokens |= dict.fromkeys(left + right for left, right in merges)
    vocabulary = {token: id for id, token in enumerate(tokens)}
    core = Tokenizer(models.BPE(vocabulary, list(dict.fromkeys(merges))))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", model_max_length=CONTEXT)


def merges_of(word: str) -> list[tuple[str, str]]:
    return [(word[:at], word[at]) for at in range(1, len(word))]


def train(tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    end = tokenizer.eos_token_id
    size = {"n_positions": CONTEXT, "n_embd": 64, "n_layer": 2, "n_head": 4}
    config = GPT2Config(vocab_size=len(tokenizer), bos_token_id=end, eos_token_id=end, **size)
    model = GPT2LMHeadModel(config)
    ids = torch.tensor([[*tokenizer(" ".join(TEXT.split()))["input_ids"], end]])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(STEPS):
        optimizer.zero_grad()
        torch.autograd.backward(model(input_ids=ids, labels=ids).loss)
        optimizer.step()
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the model folder to write")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(out)
    train(tokenizer).save_pretrained(out)
    shutil.copy(HERE / "serving.toml", out)


if __name__ == "__main__":
    main()
