"""Apart: the second try of a request that may have ended a worker, with nothing else in the process.

The engine works on it alone: no stream is under way when it begins, and nothing begins until it is answered. Open
WebSockets stay open, since they may last for hours, but none of their code runs beside its batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from serving.errors import ServingError, WorkerDied
from serving.worker.batching.batcher import Item
from serving.worker.engine.streams.streams import Streams

DIED = "the model's process died while it worked on this request"
SHARE = 0.5  # of the request's remaining time, at most, for the wait before it, and again for its answer


class Apart:
    """The isolated run of one request. Running ``streams`` go on before it.

    ``sent`` waits until answers to others have left the process, so that none is lost with it.
    """

    def __init__(self, streams: Streams, sent: Callable[[], None]) -> None:
        self._streams = streams
        self._sent = sent

    def run(self, item: Item, run: Callable[[Item], None], refuse: Callable[[ServingError], None]) -> None:
        """Run ``item`` once no stream is under way, and wait for its answer.

        Calls ``refuse`` where it has waited too long. A slow answer of its own then continues beside others.
        """
        if not self._wait(item):
            refuse(WorkerDied(f"{DIED}, and then there was no time for it alone"))
            return
        self._sent()
        run(item)
        self._wait(item)

    def _wait(self, item: Item) -> bool:
        until = time.monotonic() + SHARE * item.request.deadline.remaining()
        while self._streams.responses:
            seconds = until - time.monotonic()
            if seconds <= 0:
                return False
            self._streams.go_on(seconds)
        return True
