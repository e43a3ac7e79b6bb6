"""The batcher's rules: bounded, one bucket per batch, work-conserving, nothing expired or cancelled leaves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.deadline import Deadline
from serving.handler import BatchPolicy
from serving.request import Request
from serving.worker.batching.batcher import Batcher, Item


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def item(id: int, deadline: float = 1e9, alone: bool = False) -> Item:
    return Item(id, Request(deadline=Deadline(deadline)), alone=alone)


def fill(batcher: Batcher, items: list[Item], bucket: str = "b") -> None:
    for one in items:
        assert batcher.put(one)
        admitted = batcher.next_arrival()
        assert admitted is one
        batcher.admit(one, bucket)


def ids(items: list[Item]) -> list[int]:
    return [one.id for one in items]


def test_an_idle_engine_gets_a_single_request_at_once() -> None:
    batcher = Batcher(BatchPolicy(max_size=32), 100, FakeClock())
    fill(batcher, [item(1)])
    assert batcher.wait()
    assert ids(batcher.take().batch) == [1]


def test_a_full_queue_refuses_and_takes_again_after_room_was_made() -> None:
    batcher = Batcher(BatchPolicy(max_size=2), 3, FakeClock())
    assert [batcher.put(item(n)) for n in range(4)] == [True, True, True, False]
    for _ in range(2):
        arrived = batcher.next_arrival()
        assert arrived is not None
        batcher.admit(arrived, "b")
    assert not batcher.put(item(9)), "decoding makes no room"
    batcher.take()
    assert batcher.put(item(9))


def test_work_of_the_workers_own_takes_no_place_of_a_request_and_is_done_before_the_end() -> None:
    batcher = Batcher(BatchPolicy(), 1, FakeClock())
    own = Item(0, Request(deadline=Deadline(1e9)), own=True)
    assert batcher.put(own, accepted=True)
    assert batcher.size == 0
    assert [batcher.put(item(1)), batcher.put(item(2))] == [True, False]
    batcher.close()
    assert batcher.next_arrival() is own
    assert batcher.size == 1
    assert not batcher.is_done
    assert batcher.next_arrival() is not None
    assert batcher.is_done


def test_the_policy_of_the_handler_bounds_the_queue_before_the_server_does() -> None:
    batcher = Batcher(BatchPolicy(queue_size=1), 100, FakeClock())
    assert [batcher.put(item(1)), batcher.put(item(2))] == [True, False]


def test_a_batch_holds_one_bucket_only_and_the_oldest_head_goes_first() -> None:
    clock = FakeClock()
    batcher = Batcher(BatchPolicy(max_size=8), 100, clock)
    for n, bucket in enumerate("abab"):
        clock.now += 1
        fill(batcher, [item(n)], bucket)
    assert ids(batcher.take().batch) == [0, 2]
    assert ids(batcher.take().batch) == [1, 3]
    assert batcher.take().batch == []


def test_a_full_bucket_overtakes_an_older_one_that_is_still_waiting() -> None:
    clock = FakeClock()
    batcher = Batcher(BatchPolicy(max_size=2, max_delay_ms=50), 100, clock)
    fill(batcher, [item(0)], "old")
    fill(batcher, [item(1), item(2)], "full")
    assert ids(batcher.take().batch) == [1, 2]
    assert batcher.take().batch == []


def test_by_priority_the_lowest_number_goes_first_and_of_these_the_oldest() -> None:
    clock = FakeClock()
    batcher = Batcher(BatchPolicy(max_size=2), 100, clock, by_priority=True)
    for n, (bucket, priority) in enumerate([("a", 3), ("a", 1), ("b", 2), ("a", 1), ("a", 3)]):
        clock.now += 1
        batcher.put(item(n))
        one = batcher.next_arrival()
        assert one is not None, "a full batch does not keep the next ones from being seen"
        batcher.admit(one, bucket, priority)
    assert [ids(batcher.take().batch) for _ in range(4)] == [[1, 3], [2], [0, 4], []]


def test_by_priority_the_delay_counts_from_the_first_arrival_whoever_goes_first() -> None:
    clock = FakeClock()
    batcher = Batcher(BatchPolicy(max_size=8, max_delay_ms=50), 100, clock, by_priority=True)
    for n in (2, 1):
        batcher.put(item(n))
        one = batcher.next_arrival()
        assert one is not None
        batcher.admit(one, "b", n)
        clock.now += 0.03
    assert ids(batcher.take().batch) == [1, 2]


def test_the_delay_counts_from_arrival() -> None:
    clock = FakeClock()
    batcher = Batcher(BatchPolicy(max_size=8, max_delay_ms=50), 100, clock)
    batcher.put(item(1))
    clock.now += 0.04  # decoding took so long
    one = batcher.next_arrival()
    assert one is not None
    batcher.admit(one, "b")
    assert batcher.take().batch == []
    clock.now += 0.011
    assert ids(batcher.take().batch) == [1]


def test_expired_requests_come_back_as_expired_and_cancelled_ones_vanish() -> None:
    batcher = Batcher(BatchPolicy(max_size=8), 100, FakeClock())
    gone = item(2)
    fill(batcher, [item(1, deadline=99.0), gone, item(3)])
    gone.cancelled = True
    taken = batcher.take()
    assert (ids(taken.batch), ids(taken.expired)) == ([3], [1])
    assert batcher.size == 0


def test_a_request_marked_alone_shares_no_batch_and_waits_for_no_delay() -> None:
    batcher = Batcher(BatchPolicy(max_size=8, max_delay_ms=1000), 100, FakeClock())
    fill(batcher, [item(1), item(2, alone=True), item(3)])
    clock_due = [ids(batcher.take().batch)]
    assert clock_due == [[]] or clock_due == [[2]]
    batcher.close()
    rest = [ids(batcher.take().batch) for _ in range(2)]
    assert [2] in clock_due + rest
    assert [1, 3] in rest


def test_after_close_what_waits_is_given_out_without_delay_and_then_it_is_done() -> None:
    batcher = Batcher(BatchPolicy(max_size=8, max_delay_ms=60_000), 100, FakeClock())
    fill(batcher, [item(1)])
    batcher.close()
    assert batcher.wait()
    assert ids(batcher.take().batch) == [1]
    assert not batcher.wait()


@given(
    st.integers(1, 5),
    st.integers(1, 12),
    st.lists(st.tuples(st.sampled_from(["put", "take", "cancel", "later"]), st.integers(0, 3)), max_size=120),
)
def test_each_request_leaves_at_most_once_in_a_batch_no_larger_than_allowed(
    max_size: int, queue_size: int, steps: list[tuple[str, int]]
) -> None:
    clock = FakeClock()
    batcher = Batcher(BatchPolicy(max_size=max_size), queue_size, clock)
    accepted: list[Item] = []
    left: list[int] = []
    bucket_of: dict[int, int] = {}
    for number, (step, value) in enumerate(steps):
        if step == "put":
            one = item(number, deadline=clock.now + 5 * value + 1)
            bucket_of[number] = value
            if batcher.put(one):
                accepted.append(one)
        elif step == "cancel" and accepted:
            accepted[value % len(accepted)].cancelled = True
        elif step == "later":
            clock.now += value
        else:
            while (arrived := batcher.next_arrival()) is not None:
                batcher.admit(arrived, bucket_of[arrived.id])
            before = {one.id: one.cancelled for one in accepted}
            taken = batcher.take()
            assert len(taken.batch) <= max_size
            assert len({bucket_of[one.id] for one in taken.batch}) <= 1
            assert all(one.request.deadline.at > clock.now for one in taken.batch)
            assert not any(before[one.id] for one in taken.batch)
            left += ids(taken.batch) + ids(taken.expired)
        assert 0 <= batcher.size <= queue_size
    assert len(left) == len(set(left))


def test_a_bucket_that_is_always_full_does_not_starve_the_others() -> None:
    clock = FakeClock()
    batcher = Batcher(BatchPolicy(max_size=2), 100, clock)
    fill(batcher, [item(1)], "rare")
    taken = []
    for _ in range(3):
        clock.now += 0.001
        for id in (2, 3):
            late = item(id)
            assert batcher.put(late)
            batcher.admit(late, "busy")
        taken += ids(batcher.take().batch)
    assert 1 in taken


def test_a_request_that_was_accepted_before_is_taken_into_a_full_queue() -> None:
    batcher = Batcher(BatchPolicy(), 1, FakeClock())
    assert batcher.put(item(1))
    assert not batcher.put(item(2))
    assert batcher.put(item(3), accepted=True)


def test_any_bucket_is_one_also_none_and_what_looks_like_a_lone_request() -> None:
    batcher = Batcher(BatchPolicy(max_size=8), 100, FakeClock())
    lone, shared, none = item(1, alone=True), item(2), item(3)
    for one, bucket in ((lone, "b"), (shared, (1,)), (none, None)):
        batcher.put(one)
        batcher.next_arrival()
        batcher.admit(one, bucket)
    assert [ids(batcher.take().batch) for _ in range(4)] == [[1], [2], [3], []]
