"""Which request leaves first, by each of the three orders, and how large a whole batch is."""

from __future__ import annotations

from collections import deque

import pytest

from serving.request import Request
from serving.worker.batching.batchsizes import LargestSizes, TimelySizes, sizes_of
from serving.worker.batching.caps import Caps
from serving.worker.batching.items import Item
from serving.worker.batching.latency import ENOUGH, Latency
from serving.worker.batching.order import ByArrival, ByDue, ByPriority, Order, order_of
from serving.worker.batching.pace import Pace


def item(id: int, arrival: float = 0.0, priority: int = 0, due: float = 0.0) -> Item:
    return Item(id, Request(), arrival=arrival, priority=priority, due=due)


ITEMS = [item(0, 1.0, 5, 9.0), item(1, 2.0, 1, 8.0), item(2, 3.0, 5, 7.0), item(3, 4.0, 1, 8.0)]


@pytest.mark.parametrize(
    ("order", "expected", "since"),
    [(ByArrival(), [0, 1, 2, 3], 1.0), (ByPriority(), [1, 3, 0, 2], 1.0), (ByDue(), [2, 1, 3, 0], 3.0)],
    ids=["arrival", "priority", "due"],
)
def test_within_a_bucket_each_order_puts_requests_in_its_place(order: Order, expected: list[int], since: float) -> None:
    queue = deque[Item]()
    for one in ITEMS:
        order.insert(queue, one)
    assert [one.id for one in queue] == expected
    assert order.since(queue) == since


@pytest.mark.parametrize(
    ("order", "first"), [(ByArrival(), 0), (ByPriority(), 1), (ByDue(), 2)], ids=["arrival", "priority", "due"]
)
def test_among_buckets_the_one_whose_head_is_first_has_its_turn(order: Order, first: int) -> None:
    assert order.first({}) is None
    assert order.first({one.id: deque([one]) for one in ITEMS}) == first


def test_of_equal_priorities_the_bucket_with_the_earliest_request_goes_first() -> None:
    late = deque([item(0, 5.0), item(1, 2.0, 1)])
    early = deque([item(2, 3.0)])
    assert ByPriority().first({"late": early, "early": late}) == "early"


def test_priorities_come_before_a_latency() -> None:
    kinds = [type(order_of(*words)) for words in [(False, False), (False, True), (True, False), (True, True)]]
    assert kinds == [ByArrival, ByDue, ByPriority, ByPriority]


def test_a_batch_is_as_large_as_its_most_urgent_request_allows() -> None:
    caps, pace, latency = Caps(8), Pace(8, 60.0, 1.0, None), Latency(1.0, 8)
    largest, timely = sizes_of(caps, pace, None), sizes_of(caps, pace, latency)
    assert (type(largest), type(timely)) == (LargestSizes, TimelySizes)
    for n in (1, 2, 4, 8) * ENOUGH:
        latency.ended("b", n, latency._last_end, latency._last_end + 0.1 * n)
    urgent, patient = deque([item(0, due=0.31)] * 8), deque([item(0, due=0.51)] * 8)
    assert largest.of("b", urgent, 0.0) == 8
    assert timely.of("b", urgent, 0.0) == 3
    assert timely.whole({"b": patient, "a": urgent}, 0.0) == "a"
    assert largest.start_by("b", urgent, 5.0) == 5.0
    assert timely.start_by("b", deque([item(0, due=0.51)]), 5.0) == pytest.approx(0.41, abs=0.01)
