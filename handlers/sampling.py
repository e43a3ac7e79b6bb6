"""Sampling: the choice of the next token, and the end of a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from serving import BadRequest

NAMES = {"max_completion_tokens": "max_tokens", "max_new_tokens": "max_tokens"}
LIMITS = {"temperature": (0, 100), "top_p": (0, 1), "top_k": (0, 1 << 20), "max_tokens": (1, 1 << 20)}
MOST_STOPS = 16


@dataclass(frozen=True, slots=True)
class Sampling:
    """The settings. ``temperature`` 0 takes the most likely token; ``top_k`` 0 and ``top_p`` 1 exclude none."""

    max_tokens: int = 256
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None

    def choose(self, logits: Tensor, random: torch.Generator) -> int:
        """Return the next token's id for logits [vocabulary], float32 on the CPU."""
        if self.temperature == 0:
            return int(logits.argmax())
        logits = logits / self.temperature
        if 0 < self.top_k < len(logits):
            logits = logits.masked_fill(logits < logits.topk(self.top_k).values[-1], -torch.inf)
        if self.top_p < 1:
            logits = likeliest(logits, self.top_p)
        return int(torch.multinomial(logits.softmax(-1), 1, generator=random))


def likeliest(logits: Tensor, share: float) -> Tensor:
    """Keep the fewest tokens that together reach this share of the probability, at least one."""
    best, order = logits.softmax(-1).sort(descending=True)
    dropped = best.cumsum(-1) - best >= share
    dropped[0] = False
    return logits.index_fill(0, order[dropped], -torch.inf)


def read_sampling(wish: dict[str, Any], usual: Sampling) -> Sampling:
    """Return a request's settings, with defaults from ``usual``. Raises BadRequest with the field's name."""
    found = {NAMES.get(name, name): value for name, value in wish.items() if value is not None}
    numbers = {name: number(name, found[name]) for name in LIMITS if name in found}
    seed = found.get("seed", usual.seed)
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not -(2**63) <= seed < 2**63):
        raise BadRequest(f"seed is {seed!r}; allowed: an integer of 64 bits")
    fields = {name: numbers.get(name, getattr(usual, name)) for name in LIMITS}
    return Sampling(**fields, stop=stops(found.get("stop", usual.stop)), seed=seed)


def number(name: str, value: Any) -> Any:
    low, high = LIMITS[name]
    kinds = int | float if isinstance(getattr(Sampling(), name), float) else int
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        raise BadRequest(f"{name} is {value!r}; allowed: {low} to {high}")
    return value


def stops(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    is_sound = isinstance(texts, list | tuple) and all(isinstance(one, str) and one for one in texts)
    if not is_sound or len(texts) > MOST_STOPS:
        raise BadRequest(f"stop is a text or up to {MOST_STOPS} of them, none empty")
    return tuple(texts)


class Text:
    """Tokens turned into text as they come; ``add`` returns what is certain, ``rest`` what was held back.

    Characters may consist of several tokens, and a possible beginning of a stop text is held back until it is known.
    """

    def __init__(self, decode: Callable[[list[int]], str], stop: Sequence[str]) -> None:
        self.is_stopped = False
        self._decode = decode
        self._stop = stop
        self._ids: list[int] = []
        self._start = self._known = 0  # decoding depends on earlier tokens, so some are decoded again
        self._held = ""

    def add(self, id: int) -> str:
        self._ids.append(id)
        before = self._decode(self._ids[self._start : self._known])
        text = self._decode(self._ids[self._start :])
        if text.endswith("\ufffd"):  # the first bytes of a character
            return ""
        self._start, self._known = self._known, len(self._ids)
        return self._release(text[len(before) :])

    def rest(self) -> str:
        if self.is_stopped:
            return ""
        before = self._decode(self._ids[self._start : self._known])
        text = self._held + self._decode(self._ids[self._start :])[len(before) :]
        self._held = ""
        return text

    def _release(self, text: str) -> str:
        text = self._held + text
        # The stop text that is complete first counts, however many characters arrive at a time.
        found = sorted((text.find(one) + len(one), text.find(one)) for one in self._stop if one in text)
        self.is_stopped = bool(found)
        keep = 0 if found else max((overlap(text, one) for one in self._stop), default=0)
        end = found[0][1] if found else len(text) - keep
        self._held = "" if found else text[end:]
        return text[:end]


def overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of ``text`` may begin ``stop``."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
