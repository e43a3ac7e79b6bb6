"""NoRow: stands for a worker's row of the scoreboard where there is no server to read it."""

from __future__ import annotations

from collections.abc import Sequence


class NoRow:
    """Of the scoreboard's row what a replica writes; nobody reads it here."""

    sessions = 0

    def keep(self, ids: Sequence[int]) -> None:
        pass

    def start(self, ids: Sequence[int], until: float) -> None:
        pass

    def renew(self, until: float) -> None:
        pass

    def reserve(self, threads: int) -> None:
        pass

    def begin(self, thread: int, id: int, until: float) -> None:
        pass

    def end(self, thread: int) -> None:
        pass

    def pause(self) -> None:
        pass

    def finish(self, completed: int) -> None:
        pass

    def hold(self, streams: int) -> None:
        pass

    def count_padding(self, values: int, padded: int) -> None:
        pass
