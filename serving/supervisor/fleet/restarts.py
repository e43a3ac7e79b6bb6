"""Restarts: when a model whose workers fail may start again: never in a tight loop, and not for ever."""

from __future__ import annotations

from collections import deque

MAX_FAILURES = 5  # starts in a row that never became ready
BACKOFF = (0.0, 0.5, 1.0, 2.0, 4.0)  # seconds before the next start, by failures so far
CRASH_LIMIT = 10  # deaths within CRASH_WINDOW up to which workers are replaced at once
CRASH_WINDOW, CRASH_DELAY = 10.0, 1.0  # seconds; after CRASH_LIMIT deaths in the window, starts wait for the delay


class Restarts:
    """The failures of one model. ``failures`` counts the starts in a row that never became ready, ``refusals`` those of
    them whose load raised an error. No worker starts before the instant ``next_start``.
    """

    __slots__ = ("_deaths", "failures", "next_start", "refusals")

    def __init__(self) -> None:
        self.failures = 0
        self.refusals = 0
        self.next_start = 0.0
        self._deaths: deque[float] = deque(maxlen=CRASH_LIMIT)

    @property
    def are_over(self) -> bool:
        """Whether it has failed too often to be tried again."""
        return self.failures >= MAX_FAILURES

    def is_calm(self, now: float) -> bool:
        """Return whether a dead worker may be replaced at once."""
        return len(self._deaths) < CRASH_LIMIT or self._deaths[0] < now - CRASH_WINDOW

    def succeed(self) -> None:
        """Count a worker that became ready."""
        self.failures = 0

    def count_failure(self, now: float, raised: bool) -> None:
        """Count a worker that ended before it was ready; ``raised``: its load raised an error."""
        self.failures += 1
        self.refusals += raised
        if not self.are_over:
            self.next_start = now + BACKOFF[self.failures]

    def count_death(self, now: float) -> None:
        """Count a worker that ended after it had been ready."""
        self._deaths.append(now)
        if not self.is_calm(now):
            self.next_start = now + CRASH_DELAY
