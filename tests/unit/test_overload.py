"""What becomes of requests under more load than a model can carry: what is computed is answered in time, what cannot be
is refused as soon as that is known, and what can be is never refused."""

from __future__ import annotations

import random

import pytest

from serving.deadline import Deadline
from serving.errors import Overloaded
from serving.handler import BatchPolicy
from serving.request import Request
from serving.worker.batching.batcher import Batcher, Item
from serving.worker.batching.forecast import LONGEST, Forecast
from serving.worker.batching.latency import ENOUGH
from serving.worker.batching.times import Times
from tests.unit.overload import Arrival, Simulation, Time, poisson

LOADS = [2, pytest.param(4, marks=pytest.mark.slow), 10]


def constant(seconds: float) -> Time:
    return lambda _: seconds


def goodput(simulation: Simulation, capacity: float) -> float:
    """Answers in time as a share of what the model could have given."""
    return simulation.answers["200"] / (capacity * (simulation.clock.now - 1000.0))


def flood(capacity: float, load: float, time_of: Time, timeout: float = 60.0, **more: object) -> Simulation:
    count = int(min(8_000, max(300, 8 * timeout * capacity * load)))
    arrivals = poisson(load * capacity, count, timeout=timeout)
    return Simulation(arrivals, time_of, timeout=timeout, **more).run()  # type: ignore[arg-type]


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("max_size", [1, 8])
@pytest.mark.parametrize(("seconds", "timeout"), [(0.05, 60.0), (0.05, 6.0), (1.0, 60.0), (10.0, 60.0)])
@pytest.mark.parametrize("ahead", [False, True], ids=["host", "runs ahead"])
def test_goodput_stays_near_capacity_at_any_load(
    seconds: float, timeout: float, max_size: int, load: float, ahead: bool
) -> None:
    simulation = flood(max_size / seconds, load, constant(seconds), timeout, max_size=max_size, ahead=ahead)
    assert goodput(simulation, max_size / seconds) > 0.9, simulation.answers
    assert simulation.kills == 0
    assert simulation.answers["late"] <= 0.01 * simulation.answers["200"]
    assert simulation.answers["deadline_exceeded"] == 0, "nobody waits for nothing until the end"
    at_once = [seconds for seconds, _ in simulation.refusals if seconds == 0.0]
    assert len(at_once) > 0.9 * len(simulation.refusals)


DECODES = [(0.05, 0.0, 3.0), (0.1, 0.0, 1.0), (0.05, 0.05, 1.0), (0.05, 0.05, 3.0), (0.01, 0.5, 3.0), (0.5, 0.01, 60.0)]


def decoding(seconds: float, call: float, timeout: float, max_size: int, load: float, ahead: bool) -> Simulation:
    """With what the best batches give that take at most a quarter of the time-out to decode."""
    best = max(1, min(max_size, int(timeout / 4 / seconds)))
    capacity = 1 / (seconds + call / best)
    simulation = flood(capacity, load, constant(call), timeout, decode=seconds, ahead=ahead, max_size=max_size)
    assert goodput(simulation, capacity) > 0.9 * min(1.0, load), simulation.answers
    assert simulation.kills == 0
    return simulation


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("max_size", [1, 8, 32])
@pytest.mark.parametrize(("seconds", "call", "timeout"), DECODES)
@pytest.mark.parametrize("ahead", [False, True], ids=["host", "runs ahead"])
def test_time_in_decode_counts_like_time_in_predict(
    seconds: float, call: float, timeout: float, max_size: int, load: float, ahead: bool
) -> None:
    simulation = decoding(seconds, call, timeout, max_size, load, ahead)
    lost = simulation.answers["late"] + simulation.answers["deadline_exceeded"]
    assert lost <= 0.02 * sum(simulation.answers.values()), simulation.answers


@pytest.mark.parametrize("max_size", [1, 8, 32])
@pytest.mark.parametrize(("seconds", "call", "timeout"), DECODES)
def test_nobody_is_refused_for_slow_decoding_at_a_light_load(
    seconds: float, call: float, timeout: float, max_size: int
) -> None:
    simulation = decoding(seconds, call, timeout, max_size, 0.2, ahead=False)
    assert simulation.answers["200"] >= 0.99 * sum(simulation.answers.values()), simulation.answers


def test_who_finds_nothing_to_do_is_decoded_however_long_that_was_known_to_take() -> None:
    arrivals = [Arrival(1000.0 + 45.0 * n, timeout=30.0 if n == 20 else 60.0) for n in range(40)]
    simulation = Simulation(arrivals, constant(0.1), decode=40.0, max_size=8)
    simulation.run()
    assert simulation.answers["200"] == 39
    assert not simulation.answers["overloaded"]


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("buckets", [2, 8, 10_000])
def test_slow_decoding_for_many_buckets_keeps_the_promise_likewise(buckets: int, load: float) -> None:
    dice = random.Random(3)
    arrivals = poisson(load * 10.0, int(300 * load), timeout=3.0)
    for arrival in arrivals:
        arrival.bucket = str(dice.randrange(buckets))
    simulation = Simulation(arrivals, constant(0.05), timeout=3.0, decode=0.05, max_size=8).run()
    assert goodput(simulation, 10.0) > 0.9, simulation.answers


THREADS = [(0.05, 0.0, 3.0), (0.1, 0.0, 1.0), (0.05, 0.05, 3.0), (0.01, 0.5, 6.0), (0.05, 1.0, 6.0), (0.5, 0.01, 60.0)]


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("max_size", [1, 8])
@pytest.mark.parametrize(("seconds", "call", "timeout"), THREADS)
@pytest.mark.parametrize(("threads", "ahead"), [(1, False), (4, False), (4, True)])
def test_so_does_time_on_decode_threads_beside_the_model(
    seconds: float, call: float, timeout: float, max_size: int, load: float, threads: int, ahead: bool
) -> None:
    capacity = min(threads / seconds, max_size / max(call, 1e-9))
    more = {"decode": seconds, "threads": threads, "ahead": ahead, "max_size": max_size}
    simulation = flood(capacity, load, constant(call), timeout, **more)
    assert goodput(simulation, capacity) > 0.9, simulation.answers
    assert simulation.kills == simulation.answers["late"] == simulation.answers["deadline_exceeded"] == 0


@pytest.mark.parametrize(("seconds", "call", "timeout"), THREADS)
@pytest.mark.parametrize("threads", [1, 4])
def test_nobody_is_refused_for_decode_threads_at_a_light_load(
    seconds: float, call: float, timeout: float, threads: int
) -> None:
    capacity = min(threads / seconds, 8 / max(call, 1e-9))
    simulation = flood(capacity, 0.2, constant(call), timeout, decode=seconds, threads=threads, max_size=8)
    assert simulation.answers["200"] >= 0.99 * sum(simulation.answers.values()), simulation.answers


def test_decode_threads_go_on_while_a_whole_batch_waits_for_the_model() -> None:
    simulation = flood(16.0, 4.0, constant(0.5), 6.0, decode=0.01, threads=2, max_size=8)
    assert sum(simulation.sizes) > 7.5 * len(simulation.sizes)


# Buckets of few and slow ones among many that are quick.


def rare(rate: float, seed: int, time_of: Time) -> Simulation:
    dice = random.Random(seed)
    arrivals = poisson(rate, 1200, seed, timeout=1.0)
    for arrival in arrivals:
        arrival.bucket, arrival.weight = ("slow", 0.6) if dice.random() < 0.1 else ("quick", 0.02)
    return Simulation(arrivals, time_of, timeout=1.0, max_size=8).run()


@pytest.mark.parametrize("rate", [3.0, 6.0, 9.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_rare_slow_bucket_makes_others_late_once_at_most(rate: float, seed: int) -> None:
    """Requests of it take the same again in one batch; that is found out by one batch, and again after many."""
    simulation = rare(rate, seed, sum)
    slow = [one for one in simulation.ended if one[0] == "slow" and one[2] > 1.0]
    assert len(slow) <= 2, "one of two requests at first, and one after 64 others"
    assert all(n == 2 for _, n, _ in slow)
    assert simulation.answers["late"] + simulation.answers["deadline_exceeded"] <= 5 * len(slow), simulation.answers


@pytest.mark.parametrize("rate", [3.0, 6.0, 9.0])
def test_a_rare_slow_bucket_whose_batches_cost_the_same_makes_nobody_late(rate: float) -> None:
    simulation = rare(rate, 1, max)
    assert simulation.answers["late"] + simulation.answers["deadline_exceeded"] == 0
    assert simulation.answers["200"] > 0.97 * sum(simulation.answers.values())


def noisy(n: list[float]) -> float:
    return DICE.uniform(0.5, 1.5)


DICE = random.Random(7)

TIMES: dict[str, tuple[Time, float, int]] = {
    "noise": (noisy, 1.0, 1),
    "memoryless": (lambda _: DICE.expovariate(1.0), 1.0, 1),
    "mixture": (lambda _: 10.0 if DICE.random() < 0.1 else 1.0, 1 / 1.9, 1),
    "mostly fixed": (lambda batch: 0.5 + 0.0625 * len(batch), 8.0, 8),
    "by the request": (lambda batch: 0.1 + 1.0 * len(batch), 8 / 8.1, 8),
    "batches of half of the time": (lambda batch: 0.1 + 1.0 * len(batch), 32 / 32.1, 32),
}


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("kind", TIMES)
def test_so_it_does_whatever_the_calls_take(kind: str, load: float) -> None:
    time_of, capacity, max_size = TIMES[kind]
    DICE.seed(7)
    simulation = flood(capacity, load, time_of, max_size=max_size)
    assert goodput(simulation, capacity) > 0.9, simulation.answers
    assert simulation.kills == 0


@pytest.mark.parametrize("kind", TIMES)
def test_nobody_is_refused_at_half_of_the_capacity(kind: str) -> None:
    time_of, capacity, max_size = TIMES[kind]
    DICE.seed(7)
    simulation = flood(capacity, 0.5, time_of, max_size=max_size)
    refused = sum(simulation.answers.values()) - simulation.answers["200"]
    assert refused == 0 or (kind == "mixture" and refused < 0.01 * simulation.answers["200"]), simulation.answers


def test_those_with_less_time_are_refused_and_those_with_more_are_not() -> None:
    arrivals = poisson(2.0, 600)
    for arrival in arrivals[::2]:
        arrival.timeout = 3.0
    simulation = Simulation(arrivals, constant(1.0), max_size=1).run()
    assert goodput(simulation, 1.0) > 0.9
    assert sum(arrival.timeout > 3.0 for arrival in simulation.good) > 0.8 * 300


def test_a_quick_bucket_is_not_judged_by_a_slow_one() -> None:
    dice = random.Random(2)
    arrivals = poisson(0.9, 800)
    for arrival in arrivals:
        arrival.bucket, arrival.weight = dice.choice([("long", 10.0), ("short", 0.1)])
        arrival.timeout = 60.0 if arrival.bucket == "long" else 14.0
    simulation = Simulation(arrivals, max, max_size=1).run()
    assert simulation.answers["late"] + simulation.answers["deadline_exceeded"] < 0.1 * len(arrivals)
    lone = Batcher(BatchPolicy(max_size=1), 100, lambda: 1000.0)
    teach(lone, *[("long", 1, 10.0), ("short", 1, 0.1)] * ENOUGH)
    wait_in(lone, item(0, 5.0), "long")
    assert ids(lone.take().hopeless) == [0]
    wait_in(lone, item(1, 5.0), "short")
    assert ids(lone.take().batch) == [1]


@pytest.mark.parametrize("load", LOADS)
def test_where_no_two_requests_share_a_batch_most_are_refused_at_the_door_likewise(load: float) -> None:
    arrivals = poisson(load, int(600 * load))
    for n, arrival in enumerate(arrivals):
        arrival.bucket = str(n)
    simulation = Simulation(arrivals, constant(1.0), max_size=8).run()
    assert goodput(simulation, 1.0) > 0.9
    assert simulation.answers["overloaded at the door"] > 0.7 * len(simulation.refusals)


def test_answers_in_pieces_that_keep_the_next_batch_from_beginning_count() -> None:
    simulation = flood(1.0, 4.0, constant(0.01), piece=0.1, max_size=1)
    assert goodput(simulation, 1.0) > 0.75
    assert simulation.kills == 0


# Never too strict.


def test_the_first_requests_of_all_are_taken_and_a_slow_first_batch_is_soon_forgotten() -> None:
    first = [True]

    def time_of(batch: list[float]) -> float:
        return 30.0 if first and first.pop() else 0.02

    arrivals = poisson(20.0, 2000)
    simulation = Simulation(arrivals, time_of, max_size=8).run()
    assert simulation.answers["200"] > 1980, simulation.answers


def test_a_burst_on_a_model_that_was_never_asked_for_a_batch_is_taken() -> None:
    arrivals = [Arrival(1000.0 + n) for n in range(20)] + [Arrival(1100.0 + n / 1000) for n in range(1000)]
    simulation = Simulation(arrivals, constant(0.5), max_size=32).run()
    assert simulation.answers == {"200": 1020}


def test_a_request_that_comes_when_there_is_nothing_to_do_is_always_taken() -> None:
    slow_until = 1300.0

    def time_of(batch: list[float]) -> float:
        return 40.0 if simulation.clock.now < slow_until else 0.5

    arrivals = [Arrival(1000.0 + 45.0 * n, timeout=30.0 if n == 8 else 60.0) for n in range(40)]
    simulation = Simulation(arrivals, time_of, max_size=1)
    simulation.run()
    assert simulation.answers["200"] == 40, "also the one with less time than a call was known to take"


def test_a_model_that_was_slow_for_a_while_is_trusted_again() -> None:
    slow_until = 1600.0

    def time_of(batch: list[float]) -> float:
        return 20.0 if simulation.clock.now < slow_until else 0.5

    simulation = Simulation(poisson(1.0, 1500), time_of, max_size=1)
    simulation.run()
    late = [arrival for arrival in simulation.good if arrival.at > slow_until + 60.0]
    assert len(late) > 0.95 * sum(arrival.at > slow_until + 60.0 for arrival in poisson(1.0, 1500))


def test_what_another_worker_had_taken_in_is_not_refused_at_the_door() -> None:
    arrivals = poisson(4.0, 400)
    for arrival in arrivals[200:210]:
        arrival.accepted = True
    simulation = Simulation(arrivals, constant(1.0), max_size=1)
    simulation.run()
    refused = {id(arrival) for arrival in arrivals} - {id(arrival) for arrival in simulation.good}
    assert goodput(simulation, 1.0) > 0.9
    assert refused


# What is said, and when.


def batcher(seconds: float, by_priority: bool = False, **policy: object) -> Batcher:
    rules = BatchPolicy(**{"max_size": 1, **policy})  # type: ignore[arg-type]
    one = Batcher(rules, 100, lambda: 1000.0, by_priority=by_priority)
    teach(one, *[("b", 1, seconds)] * ENOUGH)
    return one


def teach(one: Batcher, *batches: tuple[str, int, float]) -> None:
    """Batches of a bucket, so many requests and so many seconds, one after the other."""
    at = 1.0
    for bucket, n, seconds in batches:
        one.promises.ended((bucket, "shared"), n, at, at + seconds)
        at += seconds + 1.0


def item(id: int, left: float = 60.0) -> Item:
    return Item(id, Request(deadline=Deadline(1000.0 + left)))


def wait_in(one: Batcher, item: Item, bucket: str = "b") -> None:
    """Another worker had taken it in, and now it waits in its bucket."""
    assert one.put(item, accepted=True)
    assert one.next_arrival() is item
    one.admit(item, bucket)


def test_a_refusal_says_why_and_when_to_come_again() -> None:
    one = batcher(10.0)
    one.promises.begins(("b", "shared"), 1, 1000.0)
    taken = [one.put(item(n)) for n in range(8)]
    assert taken == [True] * 4 + [False] * 4, (
        "with the one under way five; a sixth would take 60 s and the way of its answer"
    )
    assert isinstance(one.refusal, Overloaded)
    assert one.refusal.status == 503
    assert 1 <= one.refusal.retry_after <= LONGEST
    assert "an answer would take about" in one.refusal.message


@pytest.mark.parametrize("seconds", [0.5, 59.0, 1e6])
def test_nobody_is_told_to_wait_for_longer_than_a_time_out_or_not_at_all(seconds: float) -> None:
    assert 1 <= Forecast(1, 10, 60.0).again_after(seconds) <= LONGEST


def test_what_has_less_time_than_a_call_takes_is_passed_over_at_once_and_the_next_one_is_run() -> None:
    one = batcher(10.0)
    wait_in(one, item(0, 5.0))
    taken = one.take()
    assert (ids(taken.hopeless), ids(taken.batch)) == ([0], [])
    assert one.promises.too_late(taken.hopeless[0], 1000.0).status == 503
    wait_in(one, item(1))
    assert ids(one.take().batch) == [1]
    assert one.size == 0


def ids(items: list[Item]) -> list[int]:
    return [one.id for one in items]


def test_a_batch_is_smaller_where_that_is_in_time_and_nobody_else_waits() -> None:
    one = Batcher(BatchPolicy(max_size=8), 100, lambda: 1000.0)
    teach(one, *[("b", n, float(n)) for n in (1, 2, 4, 8) * 4])
    for n in range(4):
        wait_in(one, item(n, 3.5))
    taken = one.take()
    assert 1 <= len(taken.batch) <= 3
    assert not taken.hopeless


def test_by_priority_nobody_is_refused_for_those_who_wait_behind() -> None:
    one = batcher(10.0, by_priority=True)
    one.promises.begins(("b", "shared"), 1, 1000.0)
    assert all(one.put(item(n)) for n in range(50))


def test_what_is_quick_is_not_looked_at() -> None:
    forecast = Forecast(32, 1024, 60.0)
    for n in range(100):
        forecast.begins("b", 32, n)
        forecast.ended("b", 32, n, n + 0.001)
    assert not forecast.knows
    forecast.ended("b", 32, 100.0, 101.0)
    assert forecast.knows
    for n in range(200, 2200):
        forecast.ended("b", 32, n, n + 0.0001)
    assert not forecast.knows, "and none again once it is"


# What is known of times.


def times(*batches: tuple[int, float]) -> Times:
    found = Times()
    for n, seconds in batches:
        found.learn(n, seconds)
    return found


def test_of_the_first_few_the_quickest_counts_that_was_as_large() -> None:
    few = times((1, 30.0), (1, 1.0), (8, 5.0), (8, 4.0))
    assert few.mean(1) == 1.0
    assert few.mean(8) == few.mean(32) == 4.0


def test_a_batch_larger_than_any_is_not_known_to_take_longer() -> None:
    one = times(*[(1, 1.0), (2, 2.0)] * 20)
    assert one.mean(2) == pytest.approx(2.0)
    assert one.mean(100) == pytest.approx(2.0)


def test_the_first_of_all_does_not_spoil_what_is_known() -> None:
    one = times((1, 60.0), *[(1, 0.1)] * (ENOUGH + 4))
    assert one.mean(1) < 0.3


def test_with_max_latency_ms_the_rule_that_is_hit_first_is_told() -> None:
    one = batcher(1.0, max_latency_ms=50)
    one.promises.begins(("b", "shared"), 1, 1000.0)
    refusals: list[str] = []
    for n in range(3):
        if not one.put(item(n)):
            assert one.refusal is not None
            refusals.append(one.refusal.message)
    assert refusals
    assert all("max_latency_ms" in message for message in refusals)


def test_a_batch_of_more_than_ever_is_tried_with_twice_as_many_where_it_might_be_late() -> None:
    one = times((1, 0.6))
    assert one.most(60.0, 8) == 8, "in time whatever it takes"
    assert one.most(0.9, 8) == 2
    one.learn(2, 0.62)
    assert one.most(0.9, 8) == 4
    one.learn(4, 0.66)
    assert one.most(0.9, 8) == 8


@pytest.mark.parametrize("quiet", [1, 60])
def test_what_larger_ones_took_is_not_forgotten_as_small_ones_come(quiet: int) -> None:
    slow = times((1, 0.6), (2, 1.2), *[(1, 0.6)] * quiet)
    assert slow.most(0.9, 8) == 1
    same = times((1, 0.6), (8, 0.65), *[(1, 0.6)] * quiet)
    assert same.most(0.9, 8) == 8


def test_one_that_was_slow_for_its_first_time_is_tried_again() -> None:
    one = times((1, 0.1), (2, 9.0))
    assert one.most(0.5, 2) == 2
    one.learn(2, 0.12)
    assert one.most(0.5, 8) == 8


def test_a_size_that_was_too_slow_is_tried_again_after_many_others_and_ever_more_seldom() -> None:
    one = times((1, 0.6), (2, 1.2))
    waits: list[int] = []
    for _ in range(3):
        waits.append(0)
        while one.most(0.9, 8) == 1:
            one.learn(1, 0.6)
            waits[-1] += 1
        one.learn(2, 1.2)
    assert waits[0] > 60
    assert waits[1] >= 1.9 * waits[0]
    assert waits[2] >= 1.9 * waits[1]
