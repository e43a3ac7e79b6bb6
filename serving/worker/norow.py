"""NoRow: a stand-in for a worker's row of the scoreboard where no server reads it."""

from __future__ import annotations

from collections.abc import Sequence


class NoRow:
    """The methods of a scoreboard row that a replica calls, all without effect."""

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
