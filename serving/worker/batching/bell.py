"""Bell: what the engine's thread waits on while it has nothing to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from typing import Protocol


class Bell(Protocol):
    """An event that wakes the engine. ``wait`` may return early, so its caller checks for work itself."""

    def ring(self) -> None:
        """Make ``wait`` return, or the next one where none is under way. From any thread."""
        ...

    def wait(self, seconds: float | None) -> None:
        """Wait until rung, at most ``seconds``. On the engine's thread."""
        ...

    def look(self) -> None:
        """Take in what has arrived. On the engine's thread, between two batches."""
        ...

    def away(self, is_away: bool) -> None:
        """Set whether the engine looks seldom, since it has other work. On the engine's thread."""
        ...

    def alone(self, is_alone: bool) -> None:
        """Set whether the engine does many short things that others should not interrupt. On the engine's thread."""
        ...


class PlainBell:
    """A bell for an engine whose requests are all brought by another thread."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[None] = SimpleQueue()  # the cheapest thing to wait on

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


@contextlib.contextmanager
def uninterrupted(bell: Bell) -> Iterator[None]:
    """Context in which the engine does many short things that other threads should not interrupt."""
    bell.alone(True)
    try:
        yield
    finally:
        bell.alone(False)
