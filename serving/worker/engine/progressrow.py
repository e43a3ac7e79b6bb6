"""ProgressRow: the engine's side of its scoreboard row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class ProgressRow(Protocol):
    def start(self, ids: Sequence[int], until: float) -> None:
        """Record that user code begins and may take until ``until``."""
        ...

    def renew(self, until: float) -> None:
        """Record that another call for the same requests begins."""
        ...

    def pause(self) -> None:
        """Record that user code has returned."""
        ...

    def finish(self, completed: int) -> None:
        """Record that user code has returned, with the answers to ``completed`` requests."""
        ...

    def reserve(self, threads: int) -> None:
        """Reserve places for decode threads, at most as many as the row has."""
        ...

    def begin(self, thread: int, id: int, until: float) -> None:
        """Record that decode thread ``thread``, counted from 0, begins user code for request ``id``. On that thread."""
        ...

    def end(self, thread: int) -> None:
        """Record that user code on decode thread ``thread`` has returned. On that thread."""
        ...

    def hold(self, streams: int) -> None:
        """Record the number of streams and conversations under way between calls of user code."""
        ...


class EngineRow(ProgressRow, Protocol):
    """A progress row that can list requests on the device beside those of the current call."""

    def keep(self, ids: Sequence[int]) -> None:
        """Set the requests that run beside those of each later ``start``."""
        ...
