"""TextHandler: the base of handlers over a ``transformers`` checkpoint, from texts to padded batches and back."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from handlers.checkpoint import load_checkpoint, load_pretrained
from handlers.options import dtype as dtype_of
from handlers.options import overridable, whole
from handlers.parameters import refuse_parameters
from serving import BadRequest, BatchPolicy, Handler, Request, codecs
from serving.errors import ModelError

SHORTEST = 16  # tokens of the smallest bucket; each next one is twice as long
KEYS = ("inputs", "instances", "input", "texts", "text")


class Texts(NamedTuple):
    """One request: the token ids of each of its texts, and whether it was a single bare text."""

    ids: list[list[int]]
    single: bool


class TextOutput(NamedTuple):
    """One request's output: float32 [texts, …] on the host, whether it was a single text, and its number of tokens."""

    rows: Tensor
    single: bool
    tokens: int


class TextHandler(Handler):
    """A handler of texts: ``"…"``, ``["…", …]`` or one of them below ``inputs``, ``instances``, ``input``, ``text(s)``.

    Requests share a batch with others of similar length, and the model runs on texts of one bucket at a time, so that
    less than half of its work is padding. Nothing is downloaded and no code of the checkpoint is run.
    """

    policy = BatchPolicy(max_size=32)
    auto_class = "AutoModel"  # the class of transformers that loads the checkpoint

    @overridable
    def load(
        self,
        model_dir: Path,
        device: str,
        checkpoint: str = ".",
        max_length: int | None = None,
        truncate: bool = True,
        max_texts: int = 1024,
        dtype: str = "float32",
    ) -> None:
        """Load the checkpoint in the folder ``checkpoint`` below the model's.

        A text has at most ``max_length`` tokens, by default the model's own limit, and is cut there, or refused without
        ``truncate``. A request has at most ``max_texts``. Raises ModelError.
        """
        self.device = device
        self.kind = dtype_of(dtype, "float32", "bfloat16", "float16")
        folder = model_dir / checkpoint
        self.model = self.load_model(folder).to(device)
        self.tokenizer = load_pretrained("AutoTokenizer", folder)
        limit = min(self.tokenizer.model_max_length, getattr(self.model.config, "max_position_embeddings", 1 << 20))
        self.max_length = limit if max_length is None else whole("max_length", max_length, 2, limit)
        self.truncate = truncate
        self.max_texts = whole("max_texts", max_texts, 1, 1 << 20)
        self.fill = self.tokenizer.pad_token_id or 0

    def load_model(self, folder: Path) -> Any:
        return load_checkpoint(self.auto_class, folder, self.kind)

    def check_parameters(self, request: Request) -> None:
        """Raise BadRequest for ``parameters`` that this handler lacks."""
        refuse_parameters(request)

    def decode(self, request: Request) -> Texts:
        self.check_parameters(request)
        texts, single = self.read(request)
        if not 0 < len(texts) <= self.max_texts:
            raise BadRequest(f"the request has {len(texts)} texts; allowed: 1 to {self.max_texts}")
        cut = {"truncation": True, "max_length": self.max_length} if self.truncate else {}
        ids: list[list[int]] = self.tokenizer(texts, **cut)["input_ids"]
        for number, one in enumerate(ids, 1):
            if not 0 < len(one) <= self.max_length:
                raise BadRequest(f"text {number} has {len(one)} tokens; allowed: 1 to {self.max_length}")
        return Texts(ids, single)

    def read(self, request: Request) -> tuple[list[str], bool]:
        """Return the texts of a body, and whether it was a single bare text. Raises BadRequest."""
        if request.media_type in codecs.TEXT:
            return [codecs.decode_text(request.body, request.content_type)], True
        # Not ``super().decode``, which would turn numbers into arrays.
        value = codecs.parse_json(request.body, request.content_type)
        if isinstance(value, dict):
            value = next((value[key] for key in KEYS if key in value), None)
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise BadRequest(f"expected a text or a list of texts, bare or below one of {', '.join(KEYS)}")
        return texts, isinstance(value, str)

    def bucket(self, sample: Texts) -> Hashable:
        return bucket_of(max(map(len, sample.ids)))

    def predict(self, batch: list[Texts]) -> Any:
        ids = [one for texts in batch for one in texts.ids]
        rows: list[Tensor] = [torch.empty(0)] * len(ids)
        for group in groups([len(one) for one in ids], max(1, self.policy.max_size)):
            for place, row in zip(group, self.run([ids[place] for place in group]).cpu(), strict=True):
                rows[place] = row
        parts = torch.split(torch.stack(rows), [len(texts.ids) for texts in batch])
        pairs = zip(parts, batch, strict=True)
        return [TextOutput(part, texts.single, sum(map(len, texts.ids))) for part, texts in pairs]

    def run(self, ids: Sequence[Sequence[int]]) -> Tensor:
        longest = max(map(len, ids))
        data = torch.tensor([[*one, *[self.fill] * (longest - len(one))] for one in ids], device=self.device)
        lengths = torch.tensor([len(one) for one in ids], device=self.device)
        mask = (torch.arange(longest, device=self.device) < lengths[:, None]).long()
        return self.outputs(self.model(input_ids=data, attention_mask=mask), mask)

    def outputs(self, output: Any, mask: Tensor) -> Tensor:
        """Convert the model's output for texts of ``mask`` [n, tokens], 1 for each token, to float32 [n, …]."""
        raise ModelError(f"{type(self).__name__} does not define outputs")

    def warmup(self) -> None:
        self.run([[self.fill] * min(SHORTEST, self.max_length)])


def bucket_of(length: int) -> int:
    """Return the smallest 16 · 2^k that holds ``length`` tokens."""
    return max(SHORTEST, 1 << (length - 1).bit_length())


def groups(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Return places of texts that run together: of one bucket, sorted by length, at most ``most``."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    found: list[list[int]] = []
    for place in order:
        last = found[-1] if found else []
        if last and len(last) < most and bucket_of(lengths[last[0]]) == bucket_of(lengths[place]):
            last.append(place)
        else:
            found.append([place])
    return found
