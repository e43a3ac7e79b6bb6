"""Calls: the engine's thread in user code, as the supervisor sees it. Each call is announced when it begins, with the
time that it may take from then on; the supervisor ends a worker whose call takes longer.

That is another question than when its clients stop waiting: a call that begins just before a deadline does not hang
just after it, and one that hangs is not excused by those that come later. Whoever waits hears at the deadline, from the
HTTP worker. The requests stay listed as running until their answers are handed over.
"""

from __future__ import annotations

from collections.abc import Sequence

from serving.deadline import Clock
from serving.handler import MAX_BATCH
from serving.worker.batching.batcher import Item
from serving.worker.engine.stamps import Stamps
from serving.worker.engine.streams import Streams

DROP_TIME = 5.0  # seconds that the destructor of a dropped request's sample may take
FRESH = 0.05  # seconds for which a stamp is good for calls that are many and quick


class Calls:
    """``most`` seconds, the model's time-out, are what a call may take.

    Those of ``streams`` of which nothing has left yet are listed with each call, since they would be lost with it.
    """

    def __init__(self, stamps: Stamps, most: float, streams: Streams, clock: Clock) -> None:
        self._stamps = stamps
        self._most = most
        self._streams = streams
        self._clock = clock
        self.fresh_until = 0.0
        """Until when a call that mostly is quick, one of many for the same requests, needs no stamp of its own."""

    def one(self, item: Item, now: float) -> None:
        """For one request: ``decode`` and ``bucket``, or what its session has the handler do."""
        if self._streams.unsent:
            self._start([item.id], now + self._most)
        else:
            self._stamps.start((item.id,), now + self._most)

    def batch(self, items: Sequence[Item]) -> None:
        """For many: the model, ``split`` and ``encode``."""
        now = self._clock()
        self.fresh_until = now + FRESH
        self._start([item.id for item in items], now + self._most)

    def landing(self, items: Sequence[Item], until: float) -> None:
        """The thread waits for the device."""
        self._start([item.id for item in items], until)

    def _start(self, ids: list[int], until: float) -> None:
        if self._streams.unsent and (risk := self._streams.at_risk()):
            ids = [*ids, *risk][:MAX_BATCH]
        self._stamps.start(ids, until)

    def again(self) -> None:
        """One more, for the same requests."""
        now = self._clock()
        self.fresh_until = now + FRESH
        self._stamps.renew(now + self._most)

    def finish(self, completed: int = 0) -> None:
        """User code has returned, and with it the answers to so many requests."""
        self._stamps.finish(completed)

    def drop(self, items: Sequence[Item]) -> None:
        """Let go of samples: what user code made, user code may destroy."""
        dropped = [item for item in items if item.sample is not None]
        for item in dropped:
            self._start([], self._clock() + DROP_TIME)
            item.sample = None
        if dropped:
            self.finish()
