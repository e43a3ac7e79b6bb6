"""Pace: how long samples take to decode, where that is slow enough to matter. Pure."""

from __future__ import annotations

from collections.abc import Callable

from serving.worker.batching.times import Times

PARTS = 4  # times the decoding of a whole batch fits into the time-out


class Pace:
    """``timeout`` is the model's, in seconds; ``quick`` seconds are what a sample may take without being looked at.
    ``tell`` hears of every mean that is learned from."""

    def __init__(self, max_size: int, timeout: float, quick: float, tell: Callable[[float], None] | None) -> None:
        self._max = self.most = max_size
        """How many make a batch at most: what is decoded must not be late before it runs."""
        self._timeout = timeout
        self._quick = quick
        self._tell = tell
        self._times = Times()
        self._count = 0
        self._seconds = 0.0
        self.threads = 0
        """That decode beside the one that runs the batches; 0 where it is the same."""
        self.each = 0.0
        """Seconds from one sample to the next while many wait for it; 0 where all are quick."""
        self.is_slow = self.is_running = False

    @property
    def alone(self) -> float:
        """Seconds from the beginning of a sample to its end."""
        return self.each * max(1, self.threads)

    def begins(self) -> None:
        """One sample is made after the other now, on the thread that runs the batches."""
        self.is_running = True

    def add(self, seconds: float) -> None:
        """A sample has been made."""
        self._count += 1
        self._seconds += seconds
        if self._seconds > self._quick:  # at once: it says how many more are to be decoded before they run
            self._learn()

    def ended(self) -> None:
        """No more are made for now."""
        self.is_running = False
        if self._count:
            self._learn()

    def _learn(self) -> None:
        each = self._seconds / self._count / max(1, self.threads)
        self._count, self._seconds = 0, 0.0
        if self._tell is not None:
            self._tell(each)
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
