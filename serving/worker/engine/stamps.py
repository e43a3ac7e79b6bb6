"""Stamps: the engine's side of its scoreboard row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Stamps(Protocol):
    def start(self, ids: Sequence[int], until: float) -> None:
        """User code is about to run, until ``until`` at the latest."""
        ...

    def renew(self, until: float) -> None:
        """Another call for the same requests is about to run."""
        ...

    def pause(self) -> None:
        """User code has returned."""
        ...

    def finish(self, completed: int) -> None:
        """User code has returned, and with it the answers to the requests that it was given."""
        ...

    def reserve(self, threads: int) -> None:
        """So many decode threads there will be, at most as many as the row has room for."""
        ...

    def begin(self, thread: int, id: int, until: float) -> None:
        """On decode thread ``thread``, counted from 0: user code is about to work on this request."""
        ...

    def end(self, thread: int) -> None:
        """On a decode thread: it has returned."""
        ...

    def hold(self, streams: int) -> None:
        """So many answers and conversations are under way between calls of user code."""
        ...

    def count_padding(self, values: int, padded: int) -> None:
        """A batch of so many values was padded to so many."""
        ...


class Row(Stamps, Protocol):
    """Stamps that can list requests on the device beside those that user code is given."""

    def keep(self, ids: Sequence[int]) -> None:
        """The requests that run beside those of each ``start`` from now on."""
        ...
