"""MetricsTable: the regions of all processes of one server, in the memory of the scoreboard.

Each HTTP worker and each model worker writes its own region, the supervisor one more. What a model worker has counted
moves to the supervisor's region when it has died, and the row is free for the next; gauges end with it. An HTTP
worker's region is taken over by the next one with its number.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cached_property
from operator import add
from typing import NamedTuple

from serving.metrics.catalog import Metric
from serving.metrics.region import OTHER, Kind, Region, Series, Values, joined
from serving.system import log

HTTP_WORKERS = 128
MODEL_WORKERS = 1024
HTTP_WORDS = 1 << 16  # 512 KiB; memory is taken only as it is used
WORKER_WORDS = 1 << 13
SUPERVISOR_WORDS = 1 << 19
SUPERVISOR_AT = 8  # words; the first one counts the moves, and is odd while one is under way
HTTP_AT = SUPERVISOR_AT + SUPERVISOR_WORDS
WORKERS_AT = HTTP_AT + HTTP_WORKERS * HTTP_WORDS
WORDS = WORKERS_AT + MODEL_WORKERS * WORKER_WORDS
MOST_MODELS = 64  # in one region; then the least used ones are joined
KEPT_MODELS = 32
KNOWN = 100_000  # series that a reader remembers
TRIES = 100  # for one look at all regions while values move


class MetricsTable:
    """The table that begins at word ``at`` of memory seen as integers and as floats."""

    def __init__(self, ints: memoryview[int], floats: memoryview[float], at: int) -> None:
        self._ints = ints
        self._floats = floats
        self._at = at
        self.supervisor = self._region(SUPERVISOR_AT, SUPERVISOR_WORDS)

    def _region(self, at: int, size: int) -> Region:
        return Region(self._ints, self._floats, self._at + at, size)

    def http(self, index: int) -> Region:
        """Return the region of an HTTP worker."""
        return self._region(HTTP_AT + index * HTTP_WORDS, HTTP_WORDS)

    def worker(self, index: int) -> Region:
        """Return the region of the model worker in row ``index``."""
        return self._region(WORKERS_AT + index * WORKER_WORDS, WORKER_WORDS)

    def row_of(self, at: int) -> int | None:
        """Return the row whose region begins at word ``at``, None where that is no model worker's."""
        index = (at - self._at - WORKERS_AT) // WORKER_WORDS
        return index if index >= 0 else None

    def bury(self, index: int) -> None:
        """Supervisor: add what a dead model worker has counted to the supervisor's own region."""
        region = self.worker(index)
        if not region.has_values:
            return
        try:
            values = [one for one in region.read() if one.series.kind is not Kind.GAUGE and one.are_sound]
        except ValueError as exc:  # also of msgspec
            log.warning("what a worker has counted cannot be read", row=index, error=str(exc))
            values = []
        with self.moving():
            for one in values:
                self.supervisor.add(one) or self.supervisor.add(one._replace(series=one.series.of_other()))
            region.clear()
        condense(self.supervisor)

    @contextlib.contextmanager
    def moving(self) -> Iterator[None]:
        """Supervisor: have no scrape see the regions as the block changes them."""
        self._ints[self._at] += 1
        try:
            yield
        finally:
            self._ints[self._at] += 1

    def copies(self) -> dict[int, tuple[int, bytes]]:
        """Return the bytes of all regions that have values, at one instant, by the word where each begins; and how
        often each has been rewritten.
        """
        for _ in range(TRIES):
            moves = self._ints[self._at]
            found = {region.at: (region.rewrites, region.copy()) for region in self._regions if region.has_values}
            still = all(self._ints[at + 1] == count and not count % 2 for at, (count, _) in found.items())
            if still and moves == self._ints[self._at] and not moves % 2:
                break
        return {at: one for at, one in found.items() if not one[0] % 2}

    @cached_property
    def _regions(self) -> list[Region]:
        https = [self.http(index) for index in range(HTTP_WORKERS)]
        return [self.supervisor, *https, *map(self.worker, range(MODEL_WORKERS))]


def condense(region: Region) -> bool:
    """Join the least used models of a region where it has too many. Returns whether places have changed by it."""
    if len(region.models) <= MOST_MODELS:
        return False
    region.rewrite(lambda values: joined(values, KEPT_MODELS))
    return True


class Known(NamedTuple):
    """A series as the reader knows it: its ``model``, None where it has none, and the series of ``other`` models that
    it may be joined with. Equal series are one object.
    """

    series: Series
    model: str | None
    other: Series


class Reader:
    """Reads all regions of ``table``, and remembers where their values are. The series called ``mean`` is that of all
    replicas together, not the sum.
    """

    def __init__(self, table: MetricsTable, mean: str) -> None:
        self._table = table
        self._mean = mean
        self._layouts: dict[int, tuple[int, int, list[tuple[Known, int, int]]]] = {}
        self._known: dict[Series, Known] = {}
        self._of_models: dict[tuple[str, str], Known] = {}

    def known(self, series: Series) -> Known:
        found = self._known.get(series)
        if found is None:
            if len(self._known) >= KNOWN:
                self._known.clear()
                self._of_models.clear()
                self._layouts.clear()
            other = series.of_other()
            other = other if other == series else self.known(other).series
            found = self._known[series] = Known(series, series.model, other)
        return found

    def of_model(self, metric: Metric, model: str) -> Known:
        """Return the series of a metric that has no other label than its model."""
        found = self._of_models.get((metric.name, model))
        if found is None:
            found = self._of_models[metric.name, model] = self.known(metric.of(model))
        return found

    def read(self, kept: int, more: Callable[[dict[int, str]], Iterable[tuple[Known, float]]]) -> list[Values]:
        """Return all values, those of all models but the ``kept`` most used ones under ``other``. ``more`` returns
        further values; its argument are the models of the model workers, by their rows.
        """
        entries: list[tuple[Known, list[int], float]] = []
        models: dict[int, str] = {}
        for at, (rewrites, data) in self._table.copies().items():
            view = memoryview(data)
            ints, floats = view.cast("Q"), view.cast("d")
            try:
                layout = self._layout(at, rewrites, data)
            except ValueError:  # the supervisor says so when the worker has died
                continue
            entries += [(known, ints[start:end].tolist(), floats[end]) for known, start, end in layout]
            row = self._table.row_of(at)
            if row is not None and (model := layout[0][0].model) is not None:
                models[row] = model
        uses: dict[str | None, int] = {}
        for (_, model, _), counts, _ in entries:
            uses[model] = uses.get(model, 0) + sum(counts)
        named = {None, OTHER, *sorted(uses.keys() - {None, OTHER}, key=lambda one: uses[one], reverse=True)[:kept]}
        return self._joined([*entries, *((known, [], number) for known, number in more(models))], named)

    def _layout(self, at: int, rewrites: int, data: bytes) -> list[tuple[Known, int, int]]:
        """Return the series of a region, and the words where the counts of each begin and end."""
        found = self._layouts.get(at)
        if found is None or found[:2] != (rewrites, len(data)):
            layout = [(self.known(series), start, start + series.words - 1) for series, start in Region.layout(data)]
            found = self._layouts[at] = (rewrites, len(data), layout)
        return found[2]

    def _joined(self, entries: Iterable[tuple[Known, list[int], float]], named: Collection[str | None]) -> list[Values]:
        sums: dict[int, Values] = {}
        sizes: dict[int, int] = {}
        for (series, model, other), counts, number in entries:
            target = series if model in named else other
            key = id(target)
            before = sums.get(key)
            if before is not None:
                counts, number = list(map(add, before.counts, counts)), before.sum + number
            sums[key] = Values(target, counts, number)
            sizes[key] = sizes.get(key, 0) + 1
        return [
            one._replace(sum=one.sum / sizes[key]) if one.series.name == self._mean else one
            for key, one in sums.items()
        ]
