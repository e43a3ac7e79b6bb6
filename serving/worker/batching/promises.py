"""Promises: which requests can still be answered in time, from their arrival until they run.

Two promises are kept: a request's deadline, by the Forecast, and the policy's ``max_latency_ms``, by Latency.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable

from serving.errors import Overloaded
from serving.handler import BatchPolicy
from serving.worker.batching.forecast import Forecast
from serving.worker.batching.items import Item
from serving.worker.batching.latency import Latency
from serving.worker.batching.times import Times


class Promises:
    """The times of one model's batches, and what they allow to promise. Instants are of the batcher's clock.

    ``timeout`` is the model's, in seconds. ``by_priority``: nobody can tell how many requests will be ahead of another.
    ``waiting`` returns the number of waiting requests.
    """

    def __init__(
        self, policy: BatchPolicy, queue_size: int, timeout: float, by_priority: bool, waiting: Callable[[], int]
    ) -> None:
        limit = policy.max_latency_ms
        self.latency = None if limit is None else Latency(limit / 1000, policy.max_size)
        on_pace = None if self.latency is None else self.latency.decoded
        self.forecast = Forecast(policy.max_size, queue_size, timeout, on_pace)
        self._pace = self.forecast.pace
        self._by_priority = by_priority
        self._waiting = waiting

    def refusal(self, item: Item, ahead: int, undecoded: int, now: float) -> Overloaded | None:
        """Return the error for a new request that cannot be answered in time behind ``ahead`` others; else None.

        ``undecoded`` of those are still to be decoded.
        """
        # A request that finds an empty queue is always taken, so that the measured times stay fresh.
        if self.latency is not None and ahead and (wait := self.latency.wait(ahead, now)) > self.latency.limit:
            limit = self.latency.limit * 1000
            return Overloaded(f"an answer would take about {wait * 1000:.0f} ms, and max_latency_ms is {limit:g}")
        if not (self.forecast.knows or self._pace.is_slow):
            return None
        item.sure = not ahead and self.forecast.is_idle(now)
        if item.sure or self._by_priority:
            return None
        wait, left = self.forecast.wait(ahead, now, undecoded), item.request.deadline.at - now
        if wait <= left:
            return None
        message = f"an answer would take about {wait:.1f} s, and it is wanted in {left:.1f} s"
        return Overloaded(message, self.forecast.again_after(wait - left))

    def is_hopeless(self, item: Item, decoded: int, undecoded: int, now: float) -> bool:
        """Return whether the next request to decode cannot be answered by its deadline, where decoding is slow."""
        if not self._pace.is_slow or item.sure or item.command is not None:
            return False
        enough = not self._by_priority and decoded + undecoded >= int(self.forecast.size)
        return self.forecast.is_hopeless(item.request.deadline.at - now, now, decoded, enough)

    def too_late(self, item: Item, now: float) -> Overloaded:
        """Return the error for a hopeless request."""
        left = item.request.deadline.at - now
        message = f"there are {max(0.0, left):.1f} s left for an answer, and it takes longer"
        return Overloaded(message, self.forecast.again_after(self.forecast.batch()))

    def begins(self, bucket: Hashable, n: int, now: float) -> None:
        """Record that the model begins a batch of ``n``."""
        if self.forecast.knows or self.forecast.held_from:
            self.forecast.begins(bucket, n, now, self._waiting())
        if self.latency is not None:
            self.latency.begins(bucket, n, now)

    def failed(self, now: float, behind: int) -> None:
        """Record that a batch ended without answers; ``behind`` batches are still on the device."""
        self.forecast.failed(now, behind)
        if self.latency is not None:
            self.latency.failed(now)

    def ended(self, bucket: Hashable, n: int, since: float, now: float, behind: int = 0) -> None:
        """Record the answer to the batch of ``n`` that began at ``since``; ``behind`` are still on the device."""
        self.forecast.ended(bucket, n, since, now, behind)
        if self.latency is not None:
            self.latency.ended(bucket, n, since, now)


def drop_hopeless(queue: deque[Item], size: int, times: Times, undecoded: int, begin: float) -> list[Item]:
    """Remove and return the requests of a bucket whose batch takes longer than they have left at ``begin``.

    That is a batch of one, or of ``size`` where enough others fill a whole one, ``undecoded`` ones included.
    """
    one, enough = times.upper(1), len(queue) + undecoded - size
    whole = times.upper(min(size, size + enough))
    stay, hopeless = deque[Item](), list[Item]()
    for item in queue:
        left = item.request.deadline.at - begin
        if item.sure or item.cancelled or left >= whole or (left >= one and enough <= 0):
            stay.append(item)
        else:
            hopeless.append(item)
            enough -= 1
    if hopeless:
        queue.clear()
        queue.extend(stay)
    return hopeless
