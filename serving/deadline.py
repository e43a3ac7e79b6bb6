"""Deadline: the one instant by which a request is answered, made at the door and never extended."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

EARLY = 0.01  # seconds; an event loop counts whole milliseconds, so that its timers may fire before their time

Clock = Callable[[], float]


class Deadline(msgspec.Struct, frozen=True, order=True):
    """An absolute instant of ``time.monotonic``, in seconds; the same clock in every process of one machine."""

    at: float

    @classmethod
    def after(cls, seconds: float, clock: Clock = time.monotonic) -> Deadline:
        return cls(clock() + seconds)

    def remaining(self, clock: Clock = time.monotonic) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at - clock())

    def sooner(self, at: float) -> Deadline:
        """The earlier of the two."""
        return self if self.at <= at else Deadline(at)

    def expired(self, clock: Clock = time.monotonic) -> bool:
        return clock() >= self.at
