"""Handover: the outcomes of requests leave the engine."""

from __future__ import annotations

from collections.abc import Callable

from serving.worker.batching.items import Item
from serving.worker.engine.stamps import Stamps
from serving.worker.engine.streams.parts import Outcome, Part

Deliver = Callable[[list[Outcome]], None]


class Handover:
    """Hands outcomes to ``deliver``."""

    def __init__(self, deliver: Deliver, stamps: Stamps) -> None:
        self.deliver = deliver
        self._stamps = stamps

    def settle(self, outcomes: list[Outcome]) -> None:
        """Hand over the last words about some requests, none twice."""
        # Before the scoreboard forgets the requests: if the worker dies in between, they are tried again, never lost.
        self.deliver(outcomes)
        self._stamps.finish(len(outcomes))

    def emit(self, item: Item, part: Part) -> None:
        """Hand over a part of an answer at once."""
        self.deliver([(item, part)])
