"""Bell: what the engine's thread waits at while there is nothing to do."""

from __future__ import annotations

import contextlib
from queue import Empty, SimpleQueue
from typing import Protocol


class Bell(Protocol):
    """``wait`` may come back early: who waits looks for itself what there is."""

    def ring(self) -> None:
        """From any thread: ``wait`` comes back, the next one if none is under way."""
        ...

    def wait(self, seconds: float | None) -> None:
        """On the engine's thread: until it is rung or so many seconds are over."""
        ...

    def look(self) -> None:
        """On the engine's thread, between two batches."""
        ...

    def away(self, is_away: bool) -> None:
        """On the engine's thread: from now on it looks seldom, or often again."""
        ...

    def alone(self, is_alone: bool) -> None:
        """On the engine's thread: from now on it does many short things that others would come between, or no more."""
        ...


class PlainBell:
    """For an engine that is brought all its requests by another thread."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[None] = SimpleQueue()  # the cheapest there is to wait for

    def ring(self) -> None:
        if self._queue.empty():  # else the engine is about to look anyway
            self._queue.put(None)

    def wait(self, seconds: float | None) -> None:
        with contextlib.suppress(Empty):
            self._queue.get(timeout=seconds)

    def look(self) -> None:
        pass

    def away(self, is_away: bool) -> None:
        pass

    def alone(self, is_alone: bool) -> None:
        pass
