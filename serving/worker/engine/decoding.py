"""Decode threads: samples are decoded beside the thread that runs the model."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor

import msgspec
from msgspec.structs import replace

from serving import claims
from serving.deadline import Clock
from serving.handler import Handler
from serving.worker.batching.batcher import Batcher, Item
from serving.worker.engine.inflating import unpacked
from serving.worker.engine.progressrow import ProgressRow


class Decoded(msgspec.Struct, frozen=True):
    """``item`` with its sample, or the ``error`` of ``decode``, ``bucket`` or ``priority``, after ``seconds``.

    A ``hopeless`` item was not decoded, since there was no time for it.
    """

    item: Item
    bucket: Hashable = None
    priority: int = 0
    error: BaseException | None = None
    in_decode: bool = True
    seconds: float = 0.0
    hopeless: bool = False


class DecodeThreads:
    """A pool of decode threads. ``on_done`` is called on one of them whenever ``next_done`` has a new item.

    Each thread announces its request when it begins, and that it may take ``most`` seconds; a request that waits for a
    thread is not at risk. ``is_hopeless`` is called on a decode thread, with an item and the current time.
    """

    def __init__(
        self,
        handler: Handler,
        on_done: Callable[[], None],
        progress: ProgressRow,
        most: float,
        clock: Clock = time.monotonic,
        is_hopeless: Callable[[Item, float], bool] = lambda item, now: False,
    ) -> None:
        threads = handler.decode_threads
        progress.reserve(threads)
        self._handler = handler
        self._progress = progress
        self._most = most
        self._clock = clock
        self._is_hopeless = is_hopeless
        self._numbers = itertools.count()
        self._own = threading.local()
        self._pool = ThreadPoolExecutor(threads, "decode", self._begin)
        self._done: deque[Decoded] = deque()
        self._on_done = on_done

    def _begin(self) -> None:
        self._own.number = next(self._numbers)

    def submit(self, item: Item) -> None:
        self._pool.submit(self._run, item)

    def next_done(self) -> Decoded | None:
        return self._done.popleft() if self._done else None

    def close(self) -> None:
        self._pool.shutdown(wait=False)

    def _run(self, item: Item) -> None:
        self._done.append(self._decode(item))
        self._on_done()

    def _decode(self, item: Item) -> Decoded:
        now = self._clock()
        if (skipped := self.skipped(item, now)) is not None:
            return skipped
        number = self._own.number
        self._progress.begin(number, item.id, now + self._most)
        try:
            decoded = decode(self._handler, item, claims.own)
            return replace(decoded, seconds=self._clock() - now)
        finally:
            self._progress.end(number)

    def skipped(self, item: Item, now: float) -> Decoded | None:
        """Return the outcome of an item that is not worth decoding, else None."""
        if item.cancelled or item.request.deadline.at <= now:
            return Decoded(item)  # the batcher drops it
        return Decoded(item, hopeless=True) if self._is_hopeless(item, now) else None


def threads_of(
    handler: Handler, batcher: Batcher, progress: ProgressRow, most: float, clock: Clock
) -> DecodeThreads | None:
    """Return the decode threads that a handler asks for, None where the engine's thread decodes."""
    if not handler.decode_threads:
        return None
    return DecodeThreads(handler, batcher.wake, progress, most, clock, batcher.is_hopeless)


def decode(handler: Handler, item: Item, here: claims.Here = claims.engine) -> Decoded:
    """Decode an item and find its bucket; raises nothing. Claims the sample's memory for the item, through ``here``."""
    here.holder = item
    kept = 0
    try:
        if item.request.content_encoding:
            item.request = unpacked(item.request)
            kept = len(item.request.body)
        item.sample = handler.decode(item.request)
        if item.claim is not None:
            claims.settle(item, item.sample, kept)
    except BaseException as exc:
        return Decoded(item, error=exc)
    finally:
        here.holder = None
    try:
        return Decoded(item, handler.bucket(item.sample), handler.priority(item.sample) if handler.prioritizes else 0)
    except BaseException as exc:
        return Decoded(item, error=exc, in_decode=False)
