"""Batches by the clock: what is learned of a model's times, and a simulated server that keeps its latency by it."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.deadline import Deadline
from serving.errors import Overloaded, QueueFull
from serving.handler import BatchPolicy
from serving.request import Request
from serving.worker.batching.batcher import Batcher, Item
from serving.worker.batching.latency import ENOUGH, Fit, Latency


def learned(a: float, b: float, sizes: list[int], noise: float = 0.0) -> Fit:
    fit, dice = Fit(), random.Random(7)
    for n in sizes:
        fit.learn(n, (a * n + b) * (1 + noise * dice.uniform(-1, 1)))
    return fit


@given(
    st.floats(1e-6, 1e-2),
    st.floats(0, 1e-1),
    st.lists(st.integers(1, 64), min_size=20, max_size=60).filter(lambda sizes: len(set(sizes[-10:])) > 3),
)
def test_a_line_is_found_whatever_sizes_came(a: float, b: float, sizes: list[int]) -> None:
    fit = learned(a, b, sizes)
    for n in (1, 16, 64):
        assert fit.mean(n) == pytest.approx(a * n + b, rel=1e-3)


def test_with_noise_it_is_about_right_and_upper_is_above_most() -> None:
    dice = random.Random(3)
    fit = learned(0.001, 0.010, [dice.randint(1, 32) for _ in range(300)], noise=0.2)
    assert fit.mean(32) == pytest.approx(0.042, rel=0.1)
    assert fit.upper(32) > 0.042


def test_batches_of_one_size_say_that_larger_ones_take_longer_in_proportion() -> None:
    fit = learned(0.001, 0.010, [8] * 20)
    assert fit.mean(8) == pytest.approx(0.018)
    assert fit.mean(16) == pytest.approx(0.036)


def test_neither_part_is_negative() -> None:
    fit = Fit()
    for n, seconds in [(1, 0.010), (32, 0.002)] * 10:  # a cold first one each time
        fit.learn(n, seconds)
    a, b = fit.line()
    assert a >= 0
    assert b >= 0


def test_a_pause_of_the_machine_is_not_taken_for_the_model() -> None:
    fit = learned(0.001, 0.010, [1, 8, 32] * 10)
    fit.learn(8, 5.0)
    assert fit.mean(8) < 0.05


def test_what_changes_is_learned_anew() -> None:
    fit = learned(0.001, 0.010, [1, 8, 32] * 20)
    for _ in range(60):
        for n in (1, 8, 32):
            fit.learn(n, 0.003 * n + 0.030)
    assert fit.mean(32) == pytest.approx(0.126, rel=0.05)


def test_the_largest_batch_in_so_many_seconds() -> None:
    fit = learned(0.001, 0.010, [1, 8, 32] * 10)
    assert fit.most(0.0305, 64) == 20
    assert fit.most(1.0, 64) == 64
    assert fit.most(0.005, 64) == 0, "not even one"


def test_nothing_is_decided_by_a_few_batches() -> None:
    latency = Latency(0.05, 32)
    for _ in range(ENOUGH - 1):
        latency.ended("b", 1, 0.0, 1.0)
    assert latency.size("b", 0.01, 32) == 32
    assert latency.wait(1000, 0.0) == 0.0


def test_a_bucket_that_is_new_is_judged_by_the_others() -> None:
    latency = Latency(0.05, 32)
    now = 0.0
    for n in (1, 8, 16) * 6:
        latency.ended("known", n, now, now + 0.010 + 0.001 * n)
        now += 1.0
    assert latency.size("new", 0.0205, 32) == 10
    assert latency.size("new", 0.0001, 32) in (14, 15), "it is late anyway: as many as half of the time allows"


# A server with one model, simulated: arrivals and batches go by an injected clock.


@dataclass
class Simulation:
    """``time_of`` a batch of n; ``rate`` requests per second arrive at random."""

    policy: BatchPolicy
    time_of: Callable[[int], float]
    rate: float
    seconds: float = 20.0
    now: float = 1000.0
    latencies: list[float] = field(default_factory=list)
    refused: int = 0
    sizes: list[int] = field(default_factory=list)

    def run(self) -> Simulation:
        dice = random.Random(11)
        batcher = Batcher(self.policy, 100_000, lambda: self.now)
        arrivals, at = [], self.now
        while at < self.now + self.seconds:
            at += dice.expovariate(self.rate)
            heapq.heappush(arrivals, at)
        ids = iter(range(10**9))
        while arrivals or batcher.size:
            self.arrive(batcher, arrivals, ids)
            taken = batcher.take()
            if not taken.batch:
                self.now = max(self.now, arrivals[0] if arrivals else self.now) if not batcher.size else self.now + 1e-4
                continue
            began = self.now
            self.sizes.append(len(taken.batch))
            if batcher.latency is not None:
                batcher.latency.begins(taken.bucket, len(taken.batch), began)
            done = began + self.time_of(len(taken.batch))
            while arrivals and arrivals[0] <= done:
                self.now = heapq.heappop(arrivals)
                self.put(batcher, next(ids))
            self.now = done
            if batcher.latency is not None:
                batcher.latency.ended(taken.bucket, len(taken.batch), began, done)
            self.latencies += [done - one.arrival for one in taken.batch]
        return self

    def arrive(self, batcher: Batcher, arrivals: list[float], ids: object) -> None:
        while arrivals and arrivals[0] <= self.now:
            heapq.heappop(arrivals)
            self.put(batcher, next(ids))  # type: ignore[call-overload]
        while (one := batcher.next_arrival()) is not None:
            batcher.admit(one, "b")

    def put(self, batcher: Batcher, id: int) -> None:
        if not batcher.put(Item(id, Request(deadline=Deadline(self.now + 60)))):
            self.refused += 1
            assert isinstance(batcher.refusal, Overloaded)
            assert "max_latency_ms" in batcher.refusal.message

    def quantile(self, share: float) -> float:
        settled = sorted(self.latencies[len(self.latencies) // 10 :])
        return settled[int(share * (len(settled) - 1))]


def linear(n: int) -> float:
    return 0.004 + 0.001 * n  # at most 889 a second in batches of 32


POLICY = BatchPolicy(max_size=32, max_latency_ms=50)


def test_what_was_taken_is_answered_in_time_although_twice_as_much_comes_as_can_be_done() -> None:
    bound = Simulation(POLICY, linear, rate=1800).run()
    free = Simulation(BatchPolicy(max_size=32), linear, rate=1800).run()
    assert free.quantile(0.5) > 1.0, "without a bound the queue grows and grows"
    assert bound.quantile(0.99) < 0.055
    done = len(bound.latencies) / (bound.now - 1000)
    assert done > 0.75 * 889, "and nearly as many are answered as can be"
    assert bound.refused > 0


def test_nobody_is_refused_where_there_is_room_for_all() -> None:
    quiet = Simulation(POLICY, linear, rate=500).run()
    assert quiet.refused == 0
    assert quiet.quantile(0.99) < 0.05


def test_batches_are_as_large_as_the_latency_allows_and_no_larger() -> None:
    tight = Simulation(BatchPolicy(max_size=32, max_latency_ms=20), linear, rate=1500).run()
    assert max(tight.sizes[len(tight.sizes) // 5 :]) < 20
    assert tight.quantile(0.99) < 0.025


def test_a_latency_that_cannot_be_kept_does_not_stop_the_server() -> None:
    hopeless = Simulation(BatchPolicy(max_size=32, max_latency_ms=2), linear, rate=100).run()
    assert len(hopeless.latencies) > 0.5 * 20 * 100, "who finds nobody waiting is taken"


def test_a_model_that_was_slow_for_a_while_is_trusted_again() -> None:
    slow_until = 1005.0
    simulation = Simulation(POLICY, linear, rate=300)
    simulation.time_of = lambda n: linear(n) * (30 if simulation.now < slow_until else 1)
    simulation.run()
    last = simulation.latencies[-1000:]
    assert sorted(last)[990] < 0.05


# The order of the batcher by deadlines.


def batcher(clock: Callable[[], float], **policy: float) -> Batcher:
    return Batcher(BatchPolicy(**{"max_size": 4, "max_latency_ms": 50, **policy}), 10, clock)  # type: ignore[arg-type]


def test_the_bucket_with_the_most_urgent_request_goes_first() -> None:
    now = [100.0]
    one = batcher(lambda: now[0])
    for id, (bucket, deadline) in enumerate([("a", 200.0), ("b", 100.01)]):
        one.put(Item(id, Request(deadline=Deadline(deadline))))
        arrived = one.next_arrival()
        assert arrived is not None
        one.admit(arrived, bucket)
    assert [item.id for item in one.take().batch] == [1], "its own deadline is sooner than the latency says"


def test_within_a_bucket_the_most_urgent_go_first() -> None:
    now = [100.0]
    one = batcher(lambda: now[0], max_size=2)
    for id, deadline in enumerate([200.0, 200.0, 100.01]):
        one.put(Item(id, Request(deadline=Deadline(deadline))))
    for _ in range(2):
        arrived = one.next_arrival()
        assert arrived is not None
        one.admit(arrived, "b")
    first = one.take()
    assert [item.id for item in first.batch] == [0, 1]


def test_a_batch_that_waits_for_more_does_not_wait_too_long() -> None:
    now = [100.0]
    one = batcher(lambda: now[0], max_delay_ms=1000)
    assert one.latency is not None
    for n in (1, 2, 4) * 5:
        one.latency.ended("b", n, now[0] - 0.020, now[0])
        now[0] += 1.0
    now[0] = 200.0
    one.put(Item(1, Request(deadline=Deadline(300.0))))
    arrived = one.next_arrival()
    assert arrived is not None
    one.admit(arrived, "b")
    assert not one.take().batch
    delay = one.delay()
    assert delay is not None
    assert 0.02 < delay < 0.04, "50 ms less about 20 for the batch"


def test_a_request_that_another_worker_had_taken_is_not_refused() -> None:
    now = [100.0]
    one = batcher(lambda: now[0], queue_size=100)
    assert one.latency is not None
    for n in (1, 2, 4) * 5:
        one.latency.ended("b", n, now[0] - 10.0, now[0])
    assert one.put(Item(1, Request(deadline=Deadline(300.0))))
    assert not one.put(Item(2, Request(deadline=Deadline(300.0))))
    assert one.put(Item(3, Request(deadline=Deadline(300.0))), accepted=True)


def test_a_full_queue_says_so_and_not_that_it_is_slow() -> None:
    one = batcher(lambda: 100.0, queue_size=1)
    one.put(Item(1, Request(deadline=Deadline(300.0))))
    assert not one.put(Item(2, Request(deadline=Deadline(300.0))))
    assert isinstance(one.refusal, QueueFull)


@pytest.mark.parametrize("value", [0, -1, 60_001])
def test_a_latency_that_is_none_is_an_error_that_names_it(value: float) -> None:
    with pytest.raises(ValueError, match="max_latency_ms"):
        BatchPolicy(max_latency_ms=value)
