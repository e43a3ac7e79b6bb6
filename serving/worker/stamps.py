"""Stamps: the engine's side of its scoreboard row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Stamps(Protocol):
    def keep(self, ids: Sequence[int]) -> None:
        """The requests that run beside those of each ``start`` from now on."""
        ...

    def start(self, ids: Sequence[int], until: float) -> None:
        """User code is about to run, until ``until`` at the latest."""
        ...

    def pause(self) -> None:
        """User code has returned."""
        ...

    def finish(self, completed: int) -> None:
        """User code has returned, and with it the answers to the requests that it was given."""
        ...

    def hold(self, streams: int) -> None:
        """So many answers and conversations are under way between calls of user code."""
        ...

    def count_padding(self, values: int, padded: int) -> None:
        """A batch of so many values was padded to so many."""
        ...
