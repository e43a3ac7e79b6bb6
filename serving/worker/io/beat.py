"""Beat: what a worker's loop does several times a second, whatever the engine does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from serving.ipc.scoreboard import Row
from serving.usercode import surroundings
from serving.worker.io.loopside import LoopSide
from serving.worker.io.measures import Measures

BEAT = 0.25  # seconds between stamps of the I/O thread


class Beat:
    """Shows the supervisor that the loop runs, and what waits; ends what is over time; measures memory now and then.

    ``measure`` reads the memory of the process, on any thread; ``measure_idle`` does so once it has been idle for a
    while. ``look`` measures how busy the engine's thread is.
    """

    def __init__(
        self,
        row: Row,
        side: LoopSide,
        measure: Callable[[], None],
        measure_idle: Callable[[], None],
        look: Callable[[float], None],
    ) -> None:
        self._row = row
        self._side = side
        self._look = look
        self._measures = Measures(row, measure, measure_idle)

    def start(self) -> None:
        """Beat once, and from then on for as long as the loop runs."""
        loop = asyncio.get_running_loop()
        self._row.stamp_beat()
        loop.call_later(BEAT, self.start)
        self._side.sweep()
        surroundings.write_old()
        self._side.count()
        now = time.monotonic()
        self._look(now)
        if (measure := self._measures.due(now)) is not None:
            loop.run_in_executor(None, measure)
