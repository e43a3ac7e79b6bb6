"""Batch sizes: how many requests make a whole batch of a bucket, and when a smaller one has to start."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Protocol

from serving.worker.batching.caps import Caps
from serving.worker.batching.items import Item
from serving.worker.batching.latency import Latency
from serving.worker.batching.order import Buckets
from serving.worker.batching.pace import Pace


class Sizes(Protocol):
    """The sizes of whole batches. ``now`` is an instant of the batcher's clock."""

    def of(self, key: Hashable, queue: deque[Item], now: float) -> int:
        """Return the size of a whole batch of the bucket ``key``."""
        ...

    def whole(self, buckets: Buckets, now: float) -> Hashable | None:
        """Return a bucket that has a whole batch, or None where there is none."""
        ...

    def start_by(self, key: Hashable, queue: deque[Item], at: float) -> float:
        """Return when a batch has to start that would wait until ``at`` for more requests."""
        ...


class LargestSizes:
    """Batches as large as the policy, the memory and the time for decoding allow."""

    def __init__(self, caps: Caps, pace: Pace) -> None:
        self._caps = caps
        self._pace = pace

    def of(self, key: Hashable, queue: deque[Item], now: float) -> int:
        return min(self._caps.of(key), self._pace.most)

    def whole(self, buckets: Buckets, now: float) -> Hashable | None:
        caps, most = self._caps, self._pace.most
        for key, queue in buckets.items():
            if len(queue) >= min(caps.of(key), most):
                return key
        return None

    def start_by(self, key: Hashable, queue: deque[Item], at: float) -> float:
        return at


class TimelySizes:
    """Batches no larger than the time allows that their most urgent request has left."""

    def __init__(self, caps: Caps, pace: Pace, latency: Latency) -> None:
        self._largest = LargestSizes(caps, pace)
        self._latency = latency

    def of(self, key: Hashable, queue: deque[Item], now: float) -> int:
        return self._latency.size(key, queue[0].due - now, self._largest.of(key, queue, now))

    def whole(self, buckets: Buckets, now: float) -> Hashable | None:
        keys = [key for key, queue in buckets.items() if len(queue) >= self.of(key, queue, now)]
        return min(keys, key=lambda key: buckets[key][0].due, default=None)

    def start_by(self, key: Hashable, queue: deque[Item], at: float) -> float:
        return min(at, self._latency.start_by(key, len(queue), queue[0].due))


def sizes_of(caps: Caps, pace: Pace, latency: Latency | None) -> Sizes:
    """Return the sizes for a policy with or without a latency."""
    return LargestSizes(caps, pace) if latency is None else TimelySizes(caps, pace, latency)
