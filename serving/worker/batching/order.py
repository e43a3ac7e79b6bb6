"""Order: which requests leave first, within a bucket and among buckets: by arrival, by priority or by urgency."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from typing import Protocol

from serving.worker.batching.items import Item

Buckets = Mapping[Hashable, deque[Item]]
"""The decoded requests, none of the queues empty, the next to leave first."""


class Order(Protocol):
    """An order. ``insert`` puts a request into the queue of its bucket."""

    @property
    def insert(self) -> Callable[[deque[Item], Item], None]: ...

    def first(self, buckets: Buckets) -> Hashable | None:
        """Return the bucket whose turn it is, or None without one."""
        ...

    def since(self, queue: deque[Item]) -> float:
        """Return the arrival from which the delay of a bucket's batch counts."""
        ...


class ByArrival:
    """First come, first served."""

    insert = staticmethod(deque[Item].append)  # the list's own method: no call of ours for each request

    def first(self, buckets: Buckets) -> Hashable | None:
        return min(buckets, key=lambda key: buckets[key][0].arrival, default=None)

    def since(self, queue: deque[Item]) -> float:
        return queue[0].arrival


class ByPriority:
    """The lowest priority number first, and of these the first to come."""

    @staticmethod
    def insert(queue: deque[Item], item: Item) -> None:
        queue.insert(bisect_right(queue, item.priority, key=lambda one: one.priority), item)

    def first(self, buckets: Buckets) -> Hashable | None:
        return min(buckets, key=lambda key: (buckets[key][0].priority, self.since(buckets[key])), default=None)

    def since(self, queue: deque[Item]) -> float:
        return min(item.arrival for item in queue)


class ByDue:
    """The most urgent first: the one whose answer is wanted soonest."""

    @staticmethod
    def insert(queue: deque[Item], item: Item) -> None:
        if queue and queue[-1].due > item.due:
            queue.insert(bisect_right(queue, item.due, key=lambda one: one.due), item)
        else:
            queue.append(item)

    def first(self, buckets: Buckets) -> Hashable | None:
        return min(buckets, key=lambda key: buckets[key][0].due, default=None)

    def since(self, queue: deque[Item]) -> float:
        return queue[0].arrival


def order_of(by_priority: bool, timely: bool) -> Order:
    """Return the order of a model whose handler gives priorities, or whose answers are wanted within a latency."""
    if by_priority:
        return ByPriority()
    return ByDue() if timely else ByArrival()
