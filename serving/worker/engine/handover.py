"""Handover: the outcomes of requests leave the engine."""

from __future__ import annotations

from collections.abc import Callable

from serving.worker.batching.items import Item
from serving.worker.engine.progressrow import ProgressRow
from serving.worker.engine.streams.parts import Part, Reply

Deliver = Callable[[list[Reply]], None]


class Handover:
    """Hands outcomes to ``deliver``."""

    def __init__(self, deliver: Deliver, progress: ProgressRow) -> None:
        self.deliver = deliver
        self._progress = progress

    def settle(self, replies: list[Reply]) -> None:
        """Hand over the last words about some requests, none twice."""
        # Before the scoreboard forgets the requests: if the worker dies in between, they are tried again, never lost.
        self.deliver(replies)
        self._progress.finish(len(replies))

    def emit(self, item: Item, part: Part) -> None:
        """Hand over a part of an answer at once."""
        self.deliver([(item, part)])
