"""Decode threads: samples are made beside the thread that runs the model."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor

import msgspec

from serving import claims
from serving.handler import Handler
from serving.worker.batcher import Item


class Decoded(msgspec.Struct, frozen=True):
    """``item`` with its sample, or with what ``decode``, ``bucket`` or ``priority`` raised."""

    item: Item
    bucket: Hashable = None
    priority: int = 0
    error: BaseException | None = None
    in_decode: bool = True


class DecodeThreads:
    """``on_done`` is called on a decode thread whenever ``next_done`` has one more."""

    def __init__(self, handler: Handler, threads: int, on_done: Callable[[], None]) -> None:
        self._handler = handler
        self._pool = ThreadPoolExecutor(threads, "decode")
        self._done: deque[Decoded] = deque()
        self._on_done = on_done

    def submit(self, item: Item) -> None:
        self._pool.submit(self._run, item)

    def next_done(self) -> Decoded | None:
        return self._done.popleft() if self._done else None

    def close(self) -> None:
        self._pool.shutdown(wait=False)

    def _run(self, item: Item) -> None:
        self._done.append(decode(self._handler, item))
        self._on_done()


def decode(handler: Handler, item: Item) -> Decoded:
    """The item's sample and bucket; raises nothing."""
    try:
        sample_of(handler, item)
    except BaseException as exc:
        return Decoded(item, error=exc)
    try:
        return Decoded(item, handler.bucket(item.sample), handler.priority(item.sample) if handler.prioritizes else 0)
    except BaseException as exc:
        return Decoded(item, error=exc, in_decode=False)


def sample_of(handler: Handler, item: Item) -> None:
    """Make the item's sample; what that takes is claimed for it. Raises what ``decode`` does."""
    claims.here.holder = item
    try:
        item.sample = handler.decode(item.request)
        if item.claim is not None:
            claims.settle(item, item.sample)
    finally:
        claims.here.holder = None
