"""Forecast: which requests can still be answered by their deadline, judged by earlier batches. Pure.

A deadline is a promise: under more load than the model can carry, a request that cannot keep it is refused as soon as
that is known, so that all that is computed is also answered. The unknown counts as good news: a forecast that errs that
way is corrected by the next batch, while one that refuses too much may never learn better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable

from serving.worker.batching.latency import KNOWN, MARGIN
from serving.worker.batching.pace import Pace
from serving.worker.batching.times import Times

RECENT = 0.2  # weight of the newest value in a mean
QUICK = 16  # full queues of quick batches that fit into the time-out
WAY = 0.01  # seconds, at least, that an answer takes to its client
SHARE = 100  # the time-out divided by this is kept for that, and for a busy machine
LONGEST = 60  # seconds, at most, in Retry-After


class Forecast:
    """Times of batches and decoding, and the waits that follow.

    Learns nothing while all batches take less than ``quick``. ``quick`` is ``timeout`` / (``QUICK`` * ``queue_size``)
    seconds: below it nothing has to be refused. ``on_pace`` is called with each mean of the decoding seconds.
    """

    def __init__(
        self, max_size: int, queue_size: int, timeout: float, on_pace: Callable[[float], None] | None = None
    ) -> None:
        self._max = max_size
        self._usual = float(max_size)
        self._quick = timeout / (QUICK * queue_size)
        self._all = Times()
        self._times: dict[Hashable, Times] = {}
        self.pace = Pace(max_size, timeout, self._quick, on_pace)
        """The pace of decoding."""
        self.way = max(WAY, timeout / SHARE)
        """Seconds that an answer takes to its client."""
        self._busy_until = self._last_end = 0.0
        self._hold = self._held_to = 0.0
        self.held_from = 0.0
        """The time since which streams have kept the next batch from beginning; 0 where none do."""
        self.knows = False
        """Whether a batch was slow enough to matter."""

    def begins(self, bucket: Hashable, n: int, now: float, waiting: int = 0) -> None:
        """Record that the model begins a batch of ``n`` while ``waiting`` others wait, perhaps in other buckets."""
        held, self.held_from = (self._held_to - self.held_from, 0.0) if self.held_from else (0.0, 0.0)
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
        """Record that running streams keep the next batch from beginning."""
        if not self.held_from:
            self.held_from = now
            self._busy_until = max(self._busy_until, now + self._hold)
        self._held_to = now

    def released(self, now: float) -> None:
        """Record that no stream keeps the next batch back any more."""
        if self.held_from:
            self._busy_until = min(self._busy_until, now)

    def failed(self, now: float, behind: int) -> None:
        """Record that a batch ended without answers, which says nothing of how long one takes.

        ``behind`` batches are still on the device.
        """
        self._last_end = now
        self._busy_until = now + behind * self._all.mean(self._usual)

    def ended(self, bucket: Hashable, n: int, since: float, now: float, behind: int = 0) -> None:
        """Record the answer to the batch of ``n`` that began at ``since``; ``behind`` batches are still on the device.

        Its time counts from the end of the batch before it, if that is later.
        """
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
        """Return the times of a bucket, else those of all buckets; None where nothing is known."""
        return self._times.get(bucket, self._all) if self.knows else None

    def busy(self, now: float) -> float:
        """Return the seconds until the model has finished its batches."""
        return max(0.0, self._busy_until - now)

    def is_idle(self, now: float) -> bool:
        """Return whether the model does nothing, as far as is known, or is overdue."""
        return self._busy_until <= now and not self.pace.is_running

    @property
    def size(self) -> float:
        """The usual size of a batch where enough requests wait."""
        return min(self._usual, self.pace.most)

    def wait(self, ahead: int, now: float, undecoded: int = 0) -> float:
        """Return the seconds until a request behind ``ahead`` others would be answered; 0 where nothing is known.

        ``undecoded`` of those ``ahead`` are still to be decoded.
        """
        pace = self.pace
        if not (self.knows or pace.is_slow):
            return 0.0
        all, size = self._all, self.size
        busy = self.busy(now)
        batches, rest = divmod(ahead, size)
        # While the model is busy more requests arrive and share the batch.
        own = size if busy or pace.is_running else rest + 1
        spread = MARGIN * all.deviation * math.sqrt(batches + 1)
        before = busy + batches * (all.mean(size) + self._hold)
        if pace.threads:  # beside the next batch, if enough are decoded for one
            behind = all.mean(own) if ahead > undecoded else 0.0
            decoding = (undecoded + pace.threads) * pace.each
            before = max(before, busy + (behind if decoding <= behind else decoding + behind))
        else:
            before += (undecoded + own - rest + pace.is_running) * pace.each
        return before + all.mean(own) + spread + self.way

    def is_hopeless(self, left: float, now: float, decoded: int, enough: bool) -> bool:
        """Return whether the next request to decode, with ``left`` seconds, behind ``decoded`` others, must be late.

        Where there are ``enough`` others the time of a whole batch counts.
        """
        if left < self._least(1, decoded, now):
            return True
        return enough and not self.pace.threads and left < self._least(max(1, int(self.size)), decoded, now)

    def _least(self, n: int, decoded: int, now: float) -> float:
        """Return the seconds until the request decoded next is answered, in a batch of ``n``.

        With several buckets its own is not known yet: others run before it, and more are decoded in between.
        """
        each, all = self.pace.each, self._all
        if self.pace.threads:
            return max(self.pace.alone, self.busy(now)) + all.mean(1) + self.way
        if len(self._times) <= 1:
            return max(1, n - decoded) * each + all.upper(n) + self.way
        return (decoded + 1) * each + (decoded / self.size + 1) * all.mean(self.size) + self.way

    def again_after(self, seconds: float) -> int:
        """Return after how many whole seconds a refused client may retry, where ``seconds`` more have to pass."""
        return min(LONGEST, max(1, math.ceil(seconds)))

    def batch(self) -> float:
        """Return the seconds until there is room for more."""
        size = self.size
        return size * self.pace.each + self._all.mean(size) + self._hold
