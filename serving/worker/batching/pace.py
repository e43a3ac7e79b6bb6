"""Pace: how long samples take to decode, where that is slow enough to matter. Pure."""

from __future__ import annotations

from collections.abc import Callable

from serving.worker.batching.times import Times

PARTS = 4  # the time-out divided by this is the most for decoding a whole batch


class Pace:
    """The time that decoding a sample takes. Learns nothing while all samples take less than ``quick`` seconds.

    ``timeout`` is the model's, in seconds. ``on_pace`` is called with each new mean, in seconds.
    """

    def __init__(self, max_size: int, timeout: float, quick: float, on_pace: Callable[[float], None] | None) -> None:
        self._max = self.most = max_size
        """The largest batch: its first samples must not be late before the last is decoded."""
        self._timeout = timeout
        self._quick = quick
        self._on_pace = on_pace
        self._times = Times()
        self._count = 0
        self._seconds = 0.0
        self.threads = 0
        """The number of decoding threads; 0 where the engine's own thread decodes."""
        self.each = 0.0
        """Seconds from one decoded sample to the next under load; 0 where all are quick."""
        self.is_slow = self.is_running = False

    @property
    def alone(self) -> float:
        """Seconds that decoding one sample takes from beginning to end."""
        return self.each * max(1, self.threads)

    def begins(self) -> None:
        """Record that the engine's thread begins to decode."""
        self.is_running = True

    def add(self, seconds: float) -> None:
        """Record that a sample took ``seconds`` to decode."""
        self._count += 1
        self._seconds += seconds
        if self._seconds > self._quick:  # at once: it decides how many more are decoded before they run
            self._learn()

    def ended(self) -> None:
        """Record that decoding stops for now."""
        self.is_running = False
        if self._count:
            self._learn()

    def _learn(self) -> None:
        each = self._seconds / self._count / max(1, self.threads)
        self._count, self._seconds = 0, 0.0
        if self._on_pace is not None:
            self._on_pace(each)
        if not self.is_slow and each < self._quick:
            return
        self._times.learn(1, each)
        self.each = self._times.mean(1)
        self.is_slow = self.each >= self._quick / 2
        if not self.is_slow:
            self._times, self.each = Times(), 0.0
        self.most = self._max
        if self.is_slow and not self.threads:
            self.most = max(1, min(self._max, int(self._timeout / PARTS / self.each)))
