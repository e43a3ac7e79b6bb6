"""Forecast: what can still be answered by its deadline, by what the batches so far have taken. Pure.

A deadline is a promise: under more load than the model can carry, what cannot keep it is refused as soon as that is
known, so that all that is computed is also answered. What is not known is taken for good news: a forecast that errs
that way is corrected by the next batch, while one that refuses too much may never learn better.
"""

from __future__ import annotations

import math
from collections.abc import Hashable

from serving.worker.latency import ENOUGH, KNOWN, MARGIN, SLOW, Fit

DECAY = 0.97  # of the largest batch that is remembered, with each one
RECENT = 0.2  # weight of the newest in a mean
QUICK = 16  # times a full queue of quick batches fits into the time-out
WAY = 0.01  # seconds at least for an answer's way to its client
SHARE = 100  # of the time-out, for that way and for a machine that has other things to do
LONGEST = 60  # seconds that a client is asked to wait before it tries again


class Times:
    """Of the batches of one bucket, or of all. The first few are judged together: one of them is often slow, since
    something was done for the first time."""

    __slots__ = ("_first", "_fit", "_largest")

    def __init__(self) -> None:
        self._fit = Fit()
        self._first: list[tuple[int, float]] = []
        self._largest = 0.0

    def learn(self, n: int, seconds: float) -> None:
        """A batch of n has taken so many seconds."""
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
        """Seconds that a batch of n takes; one larger than any so far is not known to take longer."""
        if self._fit.count:
            return self._fit.mean(min(n, self._largest))
        most = max((size for size, _ in self._first), default=0)
        return min((seconds for size, seconds in self._first if size >= min(n, most)), default=0.0)

    @property
    def deviation(self) -> float:
        return self._fit.deviation if self._fit.count else 0.0

    def upper(self, n: float) -> float:
        """Longer than most batches of n take."""
        return self.mean(n) + MARGIN * self.deviation

    def most(self, seconds: float, limit: int) -> int:
        """The largest batch, at most ``limit``, that is done in so many seconds; 1 at least."""
        if seconds >= self.upper(limit):
            return limit
        return max(1, self._fit.most(seconds, limit)) if self._fit.count else limit


class Forecast:
    """``quick`` seconds are what a batch may take without being looked at: as long as all are quicker nothing has to be
    refused, and nothing is learned."""

    def __init__(self, max_size: int, queue_size: int, timeout: float) -> None:
        self._max = max_size
        self._usual = float(max_size)
        self._quick = timeout / (QUICK * queue_size)
        self._all = Times()
        self._times: dict[Hashable, Times] = {}
        self.way = max(WAY, timeout / SHARE)
        """Seconds for an answer's way to its client."""
        self._busy_until = self._last_end = 0.0
        self._hold = self._held_from = self._held_to = 0.0
        self.knows = False
        """Whether some batch was slow enough to matter."""

    def begins(self, bucket: Hashable, n: int, now: float, waiting: int = 0) -> None:
        """A batch is given to the model, and so many others wait, perhaps in other buckets."""
        held, self._held_from = (self._held_to - self._held_from, 0.0) if self._held_from else (0.0, 0.0)
        if held > self._quick:
            self.knows = True
        if self.knows:
            if n > self._usual:
                self._usual = n
            elif n + waiting >= self._max:
                self._usual += RECENT * (n - self._usual)
            self._hold += RECENT * (held - self._hold)
            times = self._times.get(bucket, self._all)
            self._busy_until = max(now, self._busy_until) + times.mean(n)

    def holds(self, now: float) -> None:
        """Answers in pieces that have begun keep the next batch from beginning."""
        if not self._held_from:
            self._held_from = now
            self._busy_until = max(self._busy_until, now + self._hold)
        self._held_to = now

    def released(self, now: float) -> None:
        """Nothing keeps it any more."""
        if self._held_from:
            self._busy_until = min(self._busy_until, now)

    def failed(self, now: float, behind: int) -> None:
        """A batch is over without answers, which says nothing of how long one takes. So many are on the device
        ``behind`` it."""
        self._last_end = now
        self._busy_until = now + behind * self._all.mean(self._usual)

    def ended(self, bucket: Hashable, n: int, since: float, now: float, behind: int = 0) -> None:
        """One that was given to it at ``since`` has been answered; until the one before it was, it had to wait. So many
        are on the device ``behind`` it."""
        seconds = now - max(since, self._last_end)
        self._last_end = now
        if not self.knows and seconds < self._quick:
            return
        self.knows = True
        self._all.learn(n, seconds)
        self._busy_until = now + behind * self._all.mean(n)
        times = self._times.get(bucket)
        if times is None:
            if len(self._times) >= KNOWN:
                self._times.clear()
            times = self._times[bucket] = Times()
        times.learn(n, seconds)
        if self._all.upper(self._max) + self._hold < self._quick / 2:
            self._forget()

    def _forget(self) -> None:
        self.knows = False
        self._all = Times()
        self._times.clear()
        self._busy_until = self._hold = 0.0
        self._usual = float(self._max)

    def of(self, bucket: Hashable) -> Times | None:
        """What is known of a bucket's batches, or of all; None where that is nothing."""
        return self._times.get(bucket, self._all) if self.knows else None

    def busy(self, now: float) -> float:
        """Seconds until the model is done with what it was given."""
        return max(0.0, self._busy_until - now)

    def is_idle(self, now: float) -> bool:
        """Whether the model is at nothing, as far as is known, or longer at it than was to be expected."""
        return self._busy_until <= now

    def wait(self, ahead: int, now: float) -> float:
        """Seconds until a request is answered that comes now behind ``ahead`` others; 0 where nothing is known."""
        if not self.knows:
            return 0.0
        all, size = self._all, self._usual
        busy = self.busy(now)
        batches, rest = divmod(ahead, size)
        own = size if busy else rest + 1  # while the model is busy others come, and share its batch
        spread = MARGIN * all.deviation * math.sqrt(batches + 1)
        return busy + batches * (all.mean(size) + self._hold) + all.mean(own) + spread + self.way

    def again_after(self, seconds: float) -> int:
        """When a client that was refused may try again: in whole seconds, when so many more are over."""
        return min(LONGEST, max(1, math.ceil(seconds)))

    def batch(self) -> float:
        """Seconds until there is room for more."""
        return self._all.mean(self._usual) + self._hold
