"""What is counted in shared memory: nothing is lost with its writer, and every scrape is whole and well formed."""

from __future__ import annotations

import random
import threading
from collections import Counter as Tallies

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from serving.frontend.counting.counts import GONE, MORE, UNKNOWN, Counts
from serving.ipc.scoreboard import Scoreboard
from serving.metrics import Counter, Gauge, Histogram, catalog, instruments, values
from serving.metrics.exposition import Exposition
from serving.metrics.region import FIRST, OTHER, Kind, Region, Series, Values, joined
from serving.metrics.table import MOST_MODELS, Reader

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
MODELS = ["a", "b", 'odd"name\\with\nall', OTHER]
REQUESTS = catalog.REQUESTS.of("m", "2xx", "none")


def add(region: Region, series: Series, amount: float = 1.0) -> None:
    at = region.place(series)
    assert at is not None
    region.floats[at] += amount


def observe(region: Region, series: Series, bucket: int = 0) -> None:
    at = region.place(series)
    assert at is not None
    region.ints[at + bucket] += 1
    region.floats[at + len(series.bounds) + 1] += 0.5


def read(board: Scoreboard) -> dict[Series, Values]:
    return {one.series: one for one in reader_of(board).read(100, lambda models: ())}


def reader_of(board: Scoreboard) -> Reader:
    return Reader(board.metrics, mean=catalog.SATURATION.name)


# Regions.


def test_a_writer_goes_on_with_the_values_of_the_one_before() -> None:
    board = Scoreboard.create()
    for _ in range(3):
        add(board.metrics.http(5), REQUESTS)
    assert read(board)[REQUESTS].sum == 3


def test_what_a_dead_worker_has_counted_moves_to_the_supervisor_but_for_gauges() -> None:
    board = Scoreboard.create()
    for row in (3, 3, 7):
        region = board.row(row).metrics
        add(region, catalog.BISECTIONS.of("m"))
        observe(region, catalog.QUEUE_SECONDS.of("m"), 2)
        add(region, catalog.SATURATION.of("m"), 0.5)
        board.bury(board.row(row))
    found = read(board)
    assert found[catalog.BISECTIONS.of("m")].sum == 3
    assert (found[catalog.QUEUE_SECONDS.of("m")].counts[2], found[catalog.QUEUE_SECONDS.of("m")].sum) == (3, 1.5)
    assert catalog.SATURATION.of("m") not in found
    assert not board.row(3).metrics.has_values


def test_no_scrape_finds_values_twice_or_not_at_all_while_they_move() -> None:
    board = Scoreboard.create()
    stop = threading.Event()
    total = 50.0
    row = board.row(1)
    add(row.metrics, REQUESTS, total)

    def move() -> None:
        while not stop.wait(0.0005):
            board.metrics.bury(1)
            with board.metrics.moving():  # back again
                board.metrics.supervisor.clear()
                add(row.metrics, REQUESTS, total)

    mover = threading.Thread(target=move)
    mover.start()
    try:
        reader = reader_of(board)
        reads = [reader.read(100, lambda models: ()) for _ in range(300)]
        sums = {sum(one.sum for one in found if one.series == REQUESTS) for found in reads}
    finally:
        stop.set()
        mover.join()
    assert sums == {total}


def test_a_full_region_takes_no_more_series_and_goes_on_counting_the_others() -> None:
    region = Region.private(200)
    placed = [region.place(Series("n", Kind.COUNTER, "", (("number", str(number)),))) for number in range(50)]
    assert placed[0] is not None
    assert placed[-1] is None
    spilled = region.must(Series("n", Kind.COUNTER, "", (("number", "x"),)))
    region.floats[spilled] += 1
    region.floats[placed[0]] += 1
    assert [one.sum for one in region.read()][:2] == [1.0, 0.0]


def test_the_longest_series_of_the_server_fits_where_lost_values_go() -> None:
    assert max(one.of(*one.labels).words for one in catalog.ALL) <= 40


def test_the_models_used_least_are_joined() -> None:
    region = Region.private()
    for model, uses in (("a", 3), ("b", 1), ("c", 2)):
        for _ in range(uses):
            observe(region, catalog.QUEUE_SECONDS.of(model))
    found = {one.series.model: sum(one.counts) for one in joined(region.read(), 1)}
    assert found == {"a": 3, OTHER: 3}


# What HTTP workers count.


def test_every_outcome_is_counted_by_model_status_and_code() -> None:
    region = Region.private()
    counts = Counts(region)
    for model, status, code in (("a", 200, ""), ("a", 200, ""), ("b", 503, "queue_full"), ("a", 0, ""), ("", 404, "x")):
        counts.of(model).end(status, code, 0.003, 10, 20)
    found = {one.series: one for one in region.read()}
    assert found[catalog.REQUESTS.of("a", "2xx", "none")].sum == 2
    assert found[catalog.REQUESTS.of("a", GONE, "client_gone")].sum == 1
    assert found[catalog.REQUESTS.of("b", "5xx", "queue_full")].sum == 1
    assert found[catalog.REQUESTS.of(UNKNOWN, "4xx", "x")].sum == 1
    seconds = found[catalog.REQUEST_SECONDS.of("a")]
    assert dict(zip(seconds.series.bounds, seconds.counts, strict=False))[2.0**-8] == 3


def test_codes_of_user_code_are_bounded() -> None:
    region = Region.private()
    counts = Counts(region)
    for number in range(1000):
        counts.of("m").end(500, f"code-{number}", 0.1, 1, 1)
    found = [one for one in region.read() if one.series.name == catalog.REQUESTS.name]
    assert len(found) < 20
    assert sum(one.sum for one in found) == 1000


def test_many_models_are_bounded_and_those_used_most_have_labels() -> None:
    region = Scoreboard.create().metrics.http(0)
    counts = Counts(region)
    asked: Tallies[str] = Tallies()
    for round in range(400):
        for model in (f"model-{round % 300}", "hot", f"warm-{round % 3}"):
            counts.of(model).end(200, "", 0.01, 1, 1)
            asked[model] += 1
    found = {one.series.model: one.sum for one in region.read() if one.series.name == catalog.REQUESTS.name}
    assert sum(found.values()) == asked.total()
    assert len(found) <= MOST_MODELS + 2
    assert {model: found[model] for model in ("hot", "warm-0", "warm-1", "warm-2")} == {
        model: asked[model] for model in ("hot", "warm-0", "warm-1", "warm-2")
    }
    assert all(value >= 0 for one in region.read() for value in (one.sum, *one.counts))


def test_a_model_that_becomes_hot_gets_a_label() -> None:
    region = Scoreboard.create().metrics.http(0)
    counts = Counts(region)
    for number in range(MOST_MODELS + 20):
        for _ in range(5):
            counts.of(f"old-{number}").end(200, "", 0.01, 1, 1)
    for _ in range(100):
        counts.of("new").end(200, "", 0.01, 1, 1)
    found = {one.series.model: one.sum for one in region.read() if one.series.name == catalog.REQUESTS.name}
    assert found["new"] >= 100 - 5 * MORE


# The text.


def exposed() -> list[Values]:
    region = Region.private()
    for model in MODELS:
        add(region, catalog.REQUESTS.of(model, "2xx", "none"), 1.5)
        observe(region, catalog.QUEUE_SECONDS.of(model), 3)
        add(region, catalog.SATURATION.of(model), 0.25)
    add(region, Series("users_own", Kind.COUNTER, 'Odd\nhelp with "quotes" and \\', (("kind", "x"),)), 2)
    return region.read()


@pytest.mark.parametrize(("accept", "parse"), [("", parse_text), (OPENMETRICS, parse_openmetrics)])
def test_the_text_says_what_was_counted(accept: str, parse: object) -> None:
    exposition = Exposition()
    for _ in range(2):  # the second time from memory
        text, content_type = exposition.render(exposed(), accept)
    assert content_type.startswith(accept.partition(";")[0] or "text/plain; version=")
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse(text.decode())  # type: ignore[operator]
        for sample in family.samples
    }
    for model in MODELS:
        label = ("model", model)
        assert samples["serving_requests_total", (("code", "none"), label, ("status", "2xx"))] == 1.5
        assert samples["serving_saturation", (label,)] == 0.25
        assert samples["serving_queue_seconds_count", (label,)] == 1
        assert samples["serving_queue_seconds_sum", (label,)] == 0.5
        buckets = [samples["serving_queue_seconds_bucket", (("le", le), label)] for le in ("0.001953125", "0.00390625")]
        assert buckets == [0, 1]
        assert samples["serving_queue_seconds_bucket", (("le", "+Inf"), label)] == 1
    own = "users_own" if accept else "users_own_total"  # as this parser calls every counter
    assert samples[own, (("kind", "x"),)] == 2
    assert text.endswith(b"# EOF\n") is (accept == OPENMETRICS)


def test_series_of_one_name_and_two_kinds_are_not_mixed() -> None:
    one = Values(Series("n", Kind.COUNTER, "", (("model", "a"),)), [], 1.0)
    other = Values(Series("n", Kind.GAUGE, "", (("model", "b"),)), [], 2.0)
    text, _ = Exposition().render([other, one], "")
    assert text.decode().count("# TYPE n ") == 1
    assert 'model="b"' not in text.decode()


@pytest.mark.parametrize("metric", catalog.ALL, ids=lambda one: one.name)
def test_names_follow_the_conventions(metric: catalog.Metric) -> None:
    assert metric.name.startswith("serving_")
    assert metric.name.endswith("_total") is (metric.kind is Kind.COUNTER)
    assert metric.help[:1].isupper()
    assert not metric.help.endswith(".")
    assert list(metric.bounds) == sorted(set(metric.bounds))


def test_names_are_there_once() -> None:
    assert len({one.name for one in catalog.ALL}) == len(catalog.ALL)


# Handlers' own.


@pytest.fixture
def region() -> Region:
    region = Region.private()
    instruments.use(region, {"model": "m"}, {"replica": "4"})
    return region


def found_in(region: Region) -> dict[tuple[str, tuple[tuple[str, str], ...]], Values]:
    return {(one.series.name, one.series.labels): one for one in region.read()}


def test_a_handlers_metrics_have_its_model_and_gauges_their_replica(region: Region) -> None:
    cats = Counter("animals", "Animals", ["kind"])
    cats.labels("cat").inc()
    cats.labels(kind="cat").inc(2)
    level = Gauge("level", "Level")
    level.set(5)
    level.inc()
    level.dec(2)
    sizes = Histogram("sizes", "Sizes", buckets=[1, 2])
    for size in (0.5, 1.5, 2, 9):
        sizes.observe(size)
    with Histogram("times_seconds", "Times").time():
        pass
    found = found_in(region)
    assert found["animals_total", (("model", "m"), ("kind", "cat"))].sum == 3
    assert found["level", (("model", "m"), ("replica", "4"))].sum == 4
    histogram = found["sizes", (("model", "m"),)]
    assert (histogram.counts, histogram.sum) == ([1, 2, 1], 13)
    assert sum(found["times_seconds", (("model", "m"),)].counts) == 1
    assert {one.series.name for one in values()} == {"animals_total", "level", "sizes", "times_seconds"}


def test_metrics_made_before_the_server_knows_the_model_count_there_afterwards() -> None:
    early = Counter("early", "Early")
    early.inc()
    region = Region.private()
    instruments.use(region, {"model": "late"}, {})
    early.inc(2)
    assert found_in(region)["early_total", (("model", "late"),)].sum == 2


def test_threads_lose_no_counts(region: Region) -> None:
    counter = Counter("threads", "Threads")
    threads = [threading.Thread(target=lambda: [counter.inc() for _ in range(2000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found_in(region)["threads_total", (("model", "m"),)].sum == 8000


def test_more_series_than_there_is_room_for_lose_themselves_only(region: Region) -> None:
    counter = Counter("wide", "Wide", ["number"])
    for number in range(3000):
        counter.labels(number).inc()
    found = found_in(region)
    assert 100 < len(found) < 3000
    assert all(one.sum == 1 for one in found.values())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Counter("no name", ""),
        lambda: Counter("serving_mine", ""),
        lambda: Gauge("g", "", ["model"]),
        lambda: Gauge("g", "", ["no label"]),
        lambda: Gauge("g", "", ["__hidden"]),
        lambda: Histogram("h", "", buckets=[]),
        lambda: Histogram("h", "", buckets=[2, 1]),
        lambda: Counter("c", "").inc(-1),
        lambda: Counter("c", "", ["a"]).inc(),
        lambda: Counter("c", "", ["a"]).labels("x", "y"),
        lambda: Counter("c", "", ["a"]).labels(b="x"),
    ],
)
def test_what_prometheus_would_not_take_is_an_error(make: object, region: Region) -> None:
    with pytest.raises(ValueError, match=r"metric|label|bucket|counter"):
        make()  # type: ignore[operator]


# What user code may do to the memory.


@pytest.mark.parametrize("seed", range(200))
def test_bytes_that_are_no_series_end_neither_the_supervisor_nor_a_scrape(seed: int) -> None:
    board = Scoreboard.create()
    good = board.row(2).metrics
    add(good, catalog.BISECTIONS.of("good"), 2)
    bad = board.row(1).metrics
    for model in ("x", "y"):
        observe(bad, catalog.QUEUE_SECONDS.of(model))
    rng, used = random.Random(seed), bad.used
    for _ in range(rng.randint(1, 4)):
        word = bad.at + rng.choice([0, rng.randrange(FIRST, used)])
        bad.ints[word] = rng.choice([0, 1, 2, 7, 50, 1 << 13, 1 << 62, rng.getrandbits(64)])
    reader_of(board).read(20, lambda models: ())
    board.bury(board.row(1))
    assert read(board)[catalog.BISECTIONS.of("good")].sum == 2
    assert not board.row(1).metrics.has_values
    assert all(one.are_sound for one in board.metrics.supervisor.read())


def test_a_writer_that_died_within_a_rewrite_hides_its_region_until_the_next_one_takes_over() -> None:
    board = Scoreboard.create()
    region = board.metrics.http(0)
    counts = Counts(region)
    counts.of("m").end(200, "", 0.1, 1, 1)
    region.ints[region.at + 1] += 1  # and there it dies
    assert read(board) == {}
    Counts(board.metrics.http(0)).of("m").end(200, "", 0.1, 1, 1)
    assert read(board)[REQUESTS].sum == 2
