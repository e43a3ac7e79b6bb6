"""Times: how long batches of one bucket, or of all, have taken. Pure."""

from __future__ import annotations

from bisect import bisect_right

from serving.worker.batching.latency import ENOUGH, MARGIN, SLOW, Fit

DECAY = 0.97  # of the size of the largest recent batch, with each new one
PATIENCE, LONGEST = 64, 4096  # smaller batches until the largest size is tried again, at first and at most
ODD = 1.5  # times the proportional time; beyond it some work may have been done for the first time


class Tried:
    """The largest ``size`` of a batch so far and its ``seconds``.

    It is kept for many smaller batches: to find out anew may cost a whole batch.
    """

    __slots__ = ("_age", "_odd", "_patience", "seconds", "size")

    def __init__(self) -> None:
        self.size = 0
        self.seconds = self._odd = 0.0
        self._age = 0
        self._patience = PATIENCE

    def learn(self, n: int, seconds: float, largest: float) -> None:
        """Record that a batch of ``n`` took ``seconds``; recent batches were at most ``largest``."""
        if n < self.size:
            self._age += 1
            if self._age > self._patience:
                self.size, self._age = max(n, int(largest)), 0
                self._patience = min(LONGEST, 2 * self._patience)
            return
        if self.size and not self._odd and seconds > ODD * self.seconds * n / self.size:
            self._odd = seconds
            return
        self.size, self.seconds = n, min(seconds, self._odd or seconds)
        self._odd, self._age = 0.0, 0


class Times:
    """The times of one bucket's batches, or of all.

    The first few are judged together: one of them is often slow, since something was done for the first time.
    """

    __slots__ = ("_first", "_fit", "_largest", "_tried")

    def __init__(self) -> None:
        self._fit = Fit()
        self._first: list[tuple[int, float]] = []
        self._largest = 0.0
        self._tried = Tried()

    def learn(self, n: int, seconds: float) -> None:
        """Record that a batch of ``n`` took ``seconds``."""
        self._tried.learn(n, seconds, self._largest)
        self._largest = max(n, DECAY * self._largest)
        if self._fit.count:
            self._fit.learn(n, seconds)
            return
        self._first.append((n, seconds))
        if len(self._first) == ENOUGH:
            usual = sorted(seconds for _, seconds in self._first)[ENOUGH // 2]
            for one, took in self._first:
                self._fit.learn(one, min(took, SLOW * usual))
            self._first.clear()

    def mean(self, n: float) -> float:
        """Return the seconds that a batch of ``n`` takes; one larger than any so far is not assumed to take longer."""
        if self._fit.count:
            return self._fit.mean(min(n, self._largest))
        most = max((size for size, _ in self._first), default=0)
        return min((seconds for size, seconds in self._first if size >= min(n, most)), default=0.0)

    @property
    def deviation(self) -> float:
        return self._fit.deviation if self._fit.count else 0.0

    def upper(self, n: float) -> float:
        """Return a time, in seconds, that most batches of ``n`` do not exceed."""
        return self.mean(n) + MARGIN * self.deviation

    def most(self, seconds: float, limit: int) -> int:
        """Return the largest batch, at most ``limit``, that takes up to ``seconds``; at least 1.

        Where a size beyond any so far might take too long, up to twice the largest so far is tried.
        """
        if not self._largest or seconds >= self._worst(limit):
            return limit
        size = self._tried.size
        if seconds >= self._worst(size):
            return min(limit, max(2 * size, int(size * seconds / self._worst(size))))
        return max(1, bisect_right(range(1, min(limit, size) + 1), seconds, key=self._worst))

    def _worst(self, n: int) -> float:
        """Return the most seconds that a batch of ``n`` takes, in proportion beyond the largest size so far."""
        tried, largest = self._tried, min(self._largest, self._tried.size)
        usual = self.upper(min(n, largest))
        if n <= largest:
            return usual
        if n > tried.size:
            return self._worst(tried.size) * n / tried.size
        return usual + max(0.0, tried.seconds - usual) * (n - largest) / (tried.size - largest)
