"""Deadline: the instant by which a request is answered, set when it arrives and never extended."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

EARLY = 0.01  # seconds; an event loop counts whole milliseconds, so its timers may fire early

Clock = Callable[[], float]


class Deadline(msgspec.Struct, frozen=True, order=True):
    """An absolute instant of ``time.monotonic``, in seconds; all processes of one machine share this clock."""

    at: float

    @classmethod
    def after(cls, seconds: float, clock: Clock = time.monotonic) -> Deadline:
        return cls(clock() + seconds)

    def remaining(self, clock: Clock = time.monotonic) -> float:
        """Return the seconds left, never negative."""
        return max(0.0, self.at - clock())

    def sooner(self, at: float) -> Deadline:
        """Return the earlier of this deadline and the instant ``at``."""
        return self if self.at <= at else Deadline(at)

    def expired(self, clock: Clock = time.monotonic) -> bool:
        return clock() >= self.at
