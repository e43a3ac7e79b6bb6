"""Allowance: how long a call of user code may take, from its own beginning, before it counts as one that hangs.

That is another question than when its clients stop waiting: a call that begins just before a deadline is not hung just
after it, and one that hangs is not excused by those that came later.
"""

from __future__ import annotations

ENOUGH = 8  # calls before anything is decided by them
ROOM = 8.0  # times the slowest one
LEAST = 5.0  # seconds that every call may take, however quick all others were
DECAY = 0.999  # of the slowest one, with each call: one that is slow once is forgotten after some thousands


class Allowance:
    """Of one kind of calls. ``most`` is the model's time-out in seconds; ``seconds`` what a call may take now."""

    __slots__ = ("_count", "_most", "_slowest", "seconds")

    def __init__(self, most: float) -> None:
        self.seconds = self._most = most
        self._count = 0
        self._slowest = 0.0

    def learn(self, seconds: float) -> None:
        """A call has come back after so many seconds."""
        self._slowest = max(seconds, DECAY * self._slowest)
        self._count += 1
        if self._count >= ENOUGH:
            self.seconds = min(self._most, max(LEAST, ROOM * self._slowest))
