"""Calls: the engine's thread in user code, as the supervisor sees it. Each call is announced when it begins, with the
time that it may take from then on; the supervisor ends a worker whose call takes longer.

The requests stay listed as running until their answers are handed over.
"""

from __future__ import annotations

from collections.abc import Sequence

from serving.deadline import Clock
from serving.handler import MAX_BATCH
from serving.worker.allowance import Allowance
from serving.worker.batcher import Item
from serving.worker.flights import latest
from serving.worker.stamps import Stamps
from serving.worker.streams import Streams

DROP_TIME = 5.0  # seconds that the destructor of a dropped request's sample may take
FRESH = 0.05  # seconds for which a stamp is good for calls that are many and quick


class Calls:
    """``most`` seconds, the model's time-out, are what any call may take; ``batches`` are allowed what such have taken.

    Those of ``streams`` of which nothing has left yet are listed with each call, since they would be lost with it.
    """

    def __init__(self, stamps: Stamps, batches: Allowance, most: float, streams: Streams, clock: Clock) -> None:
        self.batches = batches
        self.decodes = Allowance(most)
        self._stamps = stamps
        self._most = most
        self._streams = streams
        self._clock = clock
        self._began = 0.0
        self._latest = 0.0
        self._seconds = most

    def decode(self, item: Item, now: float) -> None:
        """``decode`` and ``bucket`` of one request."""
        self._start([item.id], item.request.deadline.at, self.decodes.seconds, now)

    def of_session(self, item: Item, now: float) -> None:
        """What a session's beginning or end has the handler do."""
        self._start([item.id], item.request.deadline.at, self._most, now)

    def batch(self, items: Sequence[Item]) -> None:
        """The model, ``split`` and ``encode``."""
        self._start([item.id for item in items], latest(items), self.batches.seconds, self._clock())

    def landing(self, items: Sequence[Item], until: float) -> None:
        """The thread waits for the device."""
        self._start([item.id for item in items], until, 0.0, until)

    def _start(self, ids: list[int], latest: float, seconds: float, now: float) -> None:
        if self._streams.unsent and (risk := self._streams.at_risk()):
            ids = [*ids, *risk][:MAX_BATCH]
        self._began, self._latest, self._seconds = now, latest, seconds
        self._stamps.start(ids, max(latest, now + seconds))

    def again(self) -> None:
        """One more call for the same requests, which may take as long as the last one."""
        self._began = now = self._clock()
        self._stamps.renew(max(self._latest, now + self._seconds))

    def hook(self) -> None:
        """What the handler wants to hear, within whatever call."""
        self._began = now = self._clock()
        self._stamps.renew(now + self._most)

    def another(self) -> None:
        """The same for one of many that mostly are quick."""
        if self._clock() - self._began > FRESH:
            self.again()

    def finish(self, completed: int = 0) -> None:
        """User code has returned, and with it the answers to so many requests."""
        self._stamps.finish(completed)

    def drop(self, items: Sequence[Item]) -> None:
        """Let go of samples: what user code made, user code may destroy."""
        dropped = [item for item in items if item.sample is not None]
        for item in dropped:
            self._start([], 0.0, DROP_TIME, self._clock())
            item.sample = None
        if dropped:
            self.finish()
