"""Apart: how a request that may have ended a worker is tried again, with nothing else in the process.

The engine's thread works on it alone: no answer in pieces is under way when it begins, and nothing begins until it is
answered. WebSockets that are open stay so, since they may last for hours, but none of their code runs beside its batch.
"""

from __future__ import annotations

import time

from serving.errors import ServingError, WorkerDied
from serving.worker.batcher import Item
from serving.worker.streams import Streams

SHARE = 0.5  # of the time that such a request has left may go by before it begins, and again until it is answered


class Apart:
    """``streams`` are all of the process; those under way go on meanwhile."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    def begin(self, item: Item) -> ServingError | None:
        """Wait until no answer in pieces is under way. The error is for a request that this takes too much time."""
        if self._wait(item):
            return None
        return WorkerDied("the model's process died while it worked on this request, and then had no time for it alone")

    def end(self, item: Item) -> None:
        """Wait for its own answer in pieces, if that is what it is; one that takes long goes on among others."""
        self._wait(item)

    def _wait(self, item: Item) -> bool:
        until = time.monotonic() + SHARE * item.request.deadline.remaining()
        while self._streams.answers:
            seconds = until - time.monotonic()
            if seconds <= 0:
                return False
            self._streams.go_on(seconds)
        return True
