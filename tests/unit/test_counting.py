"""What the processes count: the engine of its batches, the supervisor of loads, a loop of its lateness."""

from __future__ import annotations

import asyncio
import time

import pytest

from serving.errors import QueueFull
from serving.frontend.api.metrics import Metrics
from serving.frontend.counting.counts import Counts, NoCounts
from serving.frontend.counting.pulse import Pulse
from serving.frontend.counting.tally import counted
from serving.frontend.error_responses import Api
from serving.ipc.scoreboard import Phase, Scoreboard
from serving.metrics import catalog
from serving.metrics.catalog import Metric
from serving.metrics.region import Region, Values
from serving.model.model import Model
from serving.request import Request
from serving.supervisor.fleet.deployment import Deployment, Owner, Role
from serving.supervisor.fleet.workers import Rows, Workers
from serving.supervisor.store.diskcache import Cost
from serving.supervisor.watch.counts import ROOM, SupervisorCounts
from serving.worker.batching.batcher import Item
from serving.worker.counts import SPAN, EngineCounts, NoEngineCounts

API = Api()


def found(region: Region, metric: Metric, *labels: str) -> Values:
    [one] = [one for one in region.read() if one.series == metric.of(*labels)]
    return one


def batch(*arrivals: float) -> list[Item]:
    return [Item(number, Request(), arrival=arrival) for number, arrival in enumerate(arrivals)]


def test_a_batch_is_counted_with_the_waits_of_its_requests_and_its_phases() -> None:
    region = Region.private()
    counts = EngineCounts(region, "m")
    counts.decoded(0.5, 10.5)
    counts.begins(batch(10.0, 10.5), 11.0)
    counts.predicted(11.0, 13.0)
    counts.encoded(13.0, 13.25)
    assert found(region, catalog.QUEUE_SECONDS, "m").sum == 1.5
    assert sum(found(region, catalog.QUEUE_SECONDS, "m").counts) == 2
    assert found(region, catalog.BATCH_SIZE, "m").sum == 2
    assert found(region, catalog.DECODE_SECONDS, "m").sum == 0.5
    assert found(region, catalog.PREDICT_SECONDS, "m").sum == 2
    assert found(region, catalog.ENCODE_SECONDS, "m").sum == 0.25
    assert found(region, catalog.BUSY_SECONDS, "m").sum == 2.75


def test_batches_that_overlap_on_a_device_are_busy_once() -> None:
    region = Region.private()
    counts = EngineCounts(region, "m")
    counts.predicted(1.0, 3.0)
    counts.predicted(2.0, 4.0)
    assert found(region, catalog.BUSY_SECONDS, "m").sum == 3


@pytest.mark.parametrize(("busy", "share"), [(0.0, 0.0), (0.25, 0.25), (1.0, 1.0)])
def test_saturation_is_the_busy_share_of_the_last_seconds(busy: float, share: float) -> None:
    region = Region.private()
    counts = EngineCounts(region, "m")
    counts.look(0.0)
    for second in range(1, 40):
        if busy:
            counts.predicted(second - busy, second)
        counts.look(float(second))
    assert found(region, catalog.SATURATION, "m").sum == pytest.approx(share)


def test_a_call_that_does_not_end_is_busy_all_the_time() -> None:
    region = Region.private()
    counts = EngineCounts(region, "m")
    counts.begins(batch(0.0), 1.0)
    for second in range(1, int(SPAN) * 3):
        counts.look(float(second))
    assert found(region, catalog.SATURATION, "m").sum == 1


def test_nothing_is_counted_where_metrics_are_off() -> None:
    region = Region.private()
    counts = NoEngineCounts(region, "m")
    counts.begins(batch(0.0), 1.0)
    counts.predicted(1.0, 2.0)
    assert all(one.sum == 0 for one in region.read())
    nothing = NoCounts()
    nothing.of("m").end(200, "", 0.1, 1, 1)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(None, "2xx", "none"), (QueueFull("full"), "5xx", "queue_full"), (ValueError(), "5xx", "internal")],
)
def test_a_request_of_another_api_has_one_outcome(error: Exception | None, status: str, code: str) -> None:
    region = Region.private()

    def ask() -> None:
        with counted(Counts(region), "m", time.monotonic(), API) as tally:
            tally.received, tally.sent = 3, 4
            if error is not None:
                raise error

    if error is None:
        ask()
    else:
        with pytest.raises(type(error)):
            ask()
    assert found(region, catalog.REQUESTS, "m", status, code).sum == 1
    assert found(region, catalog.REQUEST_BYTES, "m").sum == 3


def test_a_late_loop_is_seen() -> None:
    region = Region.private()

    async def work() -> None:
        pulse = Pulse(region)
        pulse.start()
        time.sleep(0.5)  # noqa: ASYNC251  # it holds the loop up
        while not sum(found(region, catalog.LOOP_LAG).counts):  # noqa: ASYNC110  # memory that wakes nobody
            await asyncio.sleep(0.01)
        pulse.stop()

    asyncio.run(asyncio.wait_for(work(), 30))
    assert found(region, catalog.LOOP_LAG).sum > 0.2
    assert found(region, catalog.RESIDENT, "http").sum > 0
    assert found(region, catalog.DESCRIPTORS, "http").sum > 0


MODEL = Model("m", "/m", "/m/code", "a:B", 60.0, 1, "cpu", 1, 100)


def test_loads_evictions_ends_and_errors_of_gpus_are_counted_by_their_cause() -> None:
    board = Scoreboard.create()
    counts = SupervisorCounts(board.metrics)
    deployment = Deployment(1, MODEL, 1, Owner.STORE, Cost(1, 1), 0.0)
    replica = Workers(Rows(board)).start(Role.SERVING, "cpu", 1.0, deployment)
    counts.load_failed(replica)
    counts.loaded(replica, 4.0)
    deployment.was_ready = True
    counts.loaded(replica, 2.0)
    counts.evicted("m", ROOM)
    counts.exited("m", "crash")
    counts.xid("cuda:0", 79)
    counts.restarted("fork server")
    region = board.metrics.supervisor
    for labels in (("m", "store", "failed"), ("m", "store", "ok"), ("m", "restart", "ok")):
        assert found(region, catalog.LOADS, *labels).sum == 1
    assert found(region, catalog.LOAD_SECONDS, "m").sum == 4
    assert found(region, catalog.EVICTIONS, "m", "room").sum == 1
    assert found(region, catalog.EXITS, "m", "crash").sum == 1
    assert found(region, catalog.XIDS, "cuda:0", "79").sum == 1
    assert found(region, catalog.RESTARTS, "fork server").sum == 1


def test_a_scrape_joins_the_rows_of_a_model_with_what_its_replicas_have_counted() -> None:
    board = Scoreboard.create()
    for index, share in ((0, 0.25), (1, 0.75)):
        row = board.row(index)
        row.pid, row.phase, row.queued = 1, Phase.READY, 3
        EngineCounts(row.metrics, "m")
        row.metrics.floats[row.metrics.must(catalog.SATURATION.of("m"))] = share
        row.metrics.floats[row.metrics.must(catalog.MODEL_VALUES.of("m"))] = 5
    lines = Metrics(board, 20).render("")[0].decode().splitlines()
    for line in (
        'serving_saturation{model="m"} 0.5',
        'serving_model_replicas{model="m"} 2',
        'serving_model_requests_queued{model="m"} 6',
        "serving_requests_queued 6",
        'serving_model_values_total{model="m"} 10',
        "serving_values_total 10",
    ):
        assert line in lines


def test_a_scrape_of_many_models_is_small_and_quick() -> None:
    board = Scoreboard.create()
    counts = [Counts(board.metrics.http(index)) for index in range(2)]
    for number in range(1000):
        for one in counts:
            one.of(f"model-{number}").end(200, "", 0.01, 1, 1)
    for index in range(20):
        EngineCounts(board.row(index).metrics, f"model-{index}")
    metrics = Metrics(board, 20)
    metrics.render("")
    started = time.thread_time()
    text, _ = metrics.render("")
    assert len(text) < 1_000_000
    assert time.thread_time() - started < 0.1  # some 5 ms; benchmarks/metrics.py measures it
