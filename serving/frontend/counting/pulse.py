"""Pulse: how late the event loop of an HTTP worker runs its timers, and what the process takes."""

from __future__ import annotations

import asyncio
from bisect import bisect_left

from serving.metrics.catalog import LOOP_LAG, SECONDS
from serving.metrics.process import ProcessCounts
from serving.metrics.region import Region

BEAT = 0.25  # seconds


class Pulse:
    """Counts in ``region`` how late each beat is. Call it on the loop."""

    def __init__(self, region: Region) -> None:
        self._ints = region.ints
        self._floats = region.floats
        self._lag = region.must(LOOP_LAG.of())
        self._process = ProcessCounts(region, "http")
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(BEAT, self._beat, loop.time() + BEAT)

    def _beat(self, due: float) -> None:
        loop = asyncio.get_running_loop()
        lag = max(0.0, loop.time() - due)
        self._ints[self._lag + bisect_left(SECONDS, lag)] += 1
        self._floats[self._lag + len(SECONDS) + 1] += lag
        self._process.look(loop.time())
        self.start()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
