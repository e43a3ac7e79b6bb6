"""Latency: how long batches take, learned from earlier ones, and the batch sizes that follow. Pure.

The time of a batch of n is taken for a·n + b, with an a and a b for each bucket, fitted by least squares over recent
batches (Crankshaw et al., "Clipper", NSDI 2017, and Gujarati et al., "Clockwork", OSDI 2020, found such times to be
that regular).
"""

from __future__ import annotations

from collections.abc import Hashable

DECAY = 0.97  # of the weight of earlier batches with each new one: about 33 of them count
ENOUGH = 8  # batches before their times count
KNOWN = 1024  # buckets with times of their own
MARGIN = 2.0  # mean deviations added to be safe
SLOW = 8.0  # times the expected time; beyond it something else happened, such as a pause of the machine


class Fit:
    """The fitted line of one bucket's batches. Times are in seconds."""

    __slots__ = ("_deviation", "_n", "_nn", "_nt", "_t", "_weight", "count")

    def __init__(self) -> None:
        self.count = 0
        self._weight = self._n = self._nn = self._t = self._nt = self._deviation = 0.0

    def learn(self, n: int, seconds: float) -> None:
        if self.count >= ENOUGH:
            expected = self.mean(n)
            seconds = min(seconds, SLOW * expected)
            self._deviation += (1 - DECAY) * (abs(seconds - expected) - self._deviation)
        self.count += 1
        self._weight = DECAY * self._weight + 1
        self._n = DECAY * self._n + n
        self._nn = DECAY * self._nn + n * n
        self._t = DECAY * self._t + seconds
        self._nt = DECAY * self._nt + n * seconds

    def line(self) -> tuple[float, float]:
        """Return a and b of a·n + b, neither of them negative."""
        if not self._weight:
            return 0.0, 0.0
        mean_n, mean_t = self._n / self._weight, self._t / self._weight
        variance = self._nn / self._weight - mean_n * mean_n
        covariance = self._nt / self._weight - mean_n * mean_t
        if variance < 1e-3 * mean_n * mean_n:
            # All were of about one size, which cannot tell a from b: assume time in proportion to size.
            return mean_t / mean_n, 0.0
        a = max(0.0, covariance / variance)
        b = mean_t - a * mean_n
        return (a, b) if b >= 0 else (self._nt / self._nn, 0.0)

    @property
    def deviation(self) -> float:
        """The mean absolute deviation of a batch's time from the line."""
        return self._deviation

    def mean(self, n: float) -> float:
        a, b = self.line()
        return a * n + b

    def upper(self, n: int) -> float:
        """Return a time, in seconds, that most batches of ``n`` do not exceed."""
        return self.mean(n) + MARGIN * self._deviation

    def most(self, seconds: float, limit: int) -> int:
        """Return the largest batch, up to ``limit``, that takes at most ``seconds``; 0 if none does."""
        a, b = self.line()
        left = seconds - b - MARGIN * self._deviation
        if left < a:
            return 0
        return limit if a <= 0 else min(limit, int(left / a))


class Latency:
    """The times of all buckets. A request should be answered within ``limit`` seconds of its arrival here."""

    def __init__(self, limit: float, max_size: int) -> None:
        self.limit = limit
        self._max = max_size
        self._fits: dict[Hashable, Fit] = {}
        self._all = Fit()
        self._decode = 0.0
        self._busy_until = self._last_end = 0.0

    def decoded(self, seconds: float) -> None:
        self._decode += 0.05 * (min(seconds, self.limit) - self._decode)

    def begins(self, bucket: Hashable, n: int, now: float) -> None:
        """Record that the model begins a batch of ``n``."""
        fit = self._fit(bucket)
        self._busy_until = max(now, self._busy_until) + (fit.mean(n) if fit is not None else 0.0)

    def ended(self, bucket: Hashable, n: int, since: float, now: float) -> None:
        """Record that the batch of ``n`` that began at ``since`` is answered.

        Its time counts from the end of the batch before it, if that is later.
        """
        seconds = now - max(since, self._last_end)
        self._last_end = now
        fit = self._fits.get(bucket)
        if fit is None and len(self._fits) < KNOWN:
            fit = self._fits[bucket] = Fit()
        for one in (fit, self._all):
            if one is not None:
                one.learn(n, seconds)
        self._busy_until = min(self._busy_until, now)

    def failed(self, now: float) -> None:
        """Record that a batch ended without answers, which says nothing of how long one takes."""
        self._last_end = now
        self._busy_until = min(self._busy_until, now)

    def _fit(self, bucket: Hashable) -> Fit | None:
        """Return the fit of a bucket, else that of all buckets; None where too little is known."""
        own = self._fits.get(bucket)
        if own is not None and own.count >= ENOUGH:
            return own
        return self._all if self._all.count >= ENOUGH else None

    def size(self, bucket: Hashable, left: float, limit: int) -> int:
        """Return how many of a bucket to take when the most urgent has ``left`` seconds.

        A request that is late anyway does not make the batch smaller.
        """
        fit = self._fit(bucket)
        if fit is None:
            return limit
        usual = self._usual(fit, limit)
        return min(usual, fit.most(left, limit) or usual)

    def _usual(self, fit: Fit, limit: int) -> int:
        """Return the usual size of a batch: one that takes half of the limit.

        A request that arrives just after a batch began waits for that batch and its own.
        """
        return fit.most(self.limit / 2, limit) or fit.most(self.limit, limit) or limit

    def start_by(self, bucket: Hashable, n: int, due: float) -> float:
        """Return when a batch of ``n`` has to start to be done by ``due``."""
        fit = self._fit(bucket)
        return due if fit is None else due - fit.upper(n)

    def wait(self, ahead: int, now: float) -> float:
        """Return the seconds until a request behind ``ahead`` others would be answered; 0 where too little is known."""
        if self._all.count < ENOUGH:
            return 0.0
        size = self._usual(self._all, self._max)
        busy = max(0.0, self._busy_until - now)
        batches, rest = divmod(ahead, size)
        # While the model is busy more requests arrive and share the batch.
        own = size if busy else rest + 1
        return busy + batches * self._all.mean(size) + self._all.mean(own) + (ahead + 1) * self._decode
