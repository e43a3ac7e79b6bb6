"""Calls: the engine's calls of user code, announced to the supervisor with the time that each may take.

The supervisor ends a worker whose call takes longer. That is another question than when clients stop waiting: a call
that begins just before a deadline does not hang just after it, and a hung one is not excused by later requests. Clients
get their answer at the deadline, from the HTTP worker. Requests stay listed as running until their answers are handed
over.
"""

from __future__ import annotations

from collections.abc import Sequence

from serving.deadline import Clock
from serving.handler import MAX_BATCH
from serving.worker.batching.items import Item
from serving.worker.engine.progressrow import ProgressRow
from serving.worker.engine.streams.unsent import Unsent

DROP_TIME = 5.0  # seconds that the destructor of a dropped sample may take
FRESH = 0.05  # seconds for which one record serves many quick calls


class Calls:
    """The announcements of one engine. A call may take ``most`` seconds, the model's time-out.

    Each call also lists the ``unsent`` streams, since they would be lost with it.
    """

    def __init__(self, progress: ProgressRow, most: float, unsent: Unsent, clock: Clock) -> None:
        self.progress = progress
        self._most = most
        self._unsent = unsent
        self._clock = clock
        self.fresh_until = 0.0
        """The time until which quick calls for the same requests need no record of their own."""

    def one(self, item: Item, now: float) -> None:
        """Announce a call for one request: ``decode``, ``bucket`` or a session's hook."""
        if self._unsent:
            self._start([item.id], now + self._most)
        else:
            self.progress.start((item.id,), now + self._most)

    def batch(self, items: Sequence[Item]) -> None:
        """Announce calls for many requests: the model, ``split`` and ``encode``."""
        now = self._clock()
        self.fresh_until = now + FRESH
        self._start([item.id for item in items], now + self._most)

    def landing(self, items: Sequence[Item], until: float) -> None:
        """Announce a wait for the device."""
        self._start([item.id for item in items], until)

    def _start(self, ids: list[int], until: float) -> None:
        if self._unsent and (risk := self._unsent.at_risk()):
            ids = [*ids, *risk][:MAX_BATCH]
        self.progress.start(ids, until)

    def again(self) -> None:
        """Announce one more call for the same requests."""
        now = self._clock()
        self.fresh_until = now + FRESH
        self.progress.renew(now + self._most)

    def finish(self, completed: int = 0) -> None:
        """Record that user code has returned, with the answers to ``completed`` requests."""
        self.progress.finish(completed)

    def drop(self, items: Sequence[Item]) -> None:
        """Drop samples, under watch: their destructors may be user code."""
        dropped = [item for item in items if item.sample is not None]
        for item in dropped:
            self._start([], self._clock() + DROP_TIME)
            item.sample = None
        if dropped:
            self.finish()
