"""Apart: how a request that may have ended a worker is tried again, with nothing else in the process.

The engine's thread works on it alone: no answer in pieces is under way when it begins, and nothing begins until it is
answered. WebSockets that are open stay so, since they may last for hours, but none of their code runs beside its batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from serving.errors import ServingError, WorkerDied
from serving.worker.batching.batcher import Item
from serving.worker.engine.streams import Streams

DIED = "the model's process died while it worked on this request"
SHARE = 0.5  # of the time that such a request has left may go by before it begins, and again until it is answered


class Apart:
    """``streams`` are all of the process; those under way go on meanwhile. ``sent`` waits until the answers to others
    have left the process, so that none is lost with it."""

    def __init__(self, streams: Streams, sent: Callable[[], None]) -> None:
        self._streams = streams
        self._sent = sent

    def run(self, item: Item, run: Callable[[Item], None], refuse: Callable[[ServingError], None]) -> None:
        """``run`` the request once no answer in pieces is under way, and wait for its own. ``refuse`` is for one that
        has waited too long; an answer that takes long goes on among others."""
        if not self._wait(item):
            refuse(WorkerDied(f"{DIED}, and then there was no time for it alone"))
            return
        self._sent()
        run(item)
        self._wait(item)

    def _wait(self, item: Item) -> bool:
        until = time.monotonic() + SHARE * item.request.deadline.remaining()
        while self._streams.answers:
            seconds = until - time.monotonic()
            if seconds <= 0:
                return False
            self._streams.go_on(seconds)
        return True
