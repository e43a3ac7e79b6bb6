"""MetricsTable: the regions of all processes of one server, in the memory of the scoreboard.

Each HTTP worker and each model worker writes its own region, the supervisor one more. What a model worker has counted
moves to the supervisor's region when it has died, and the row is free for the next; gauges end with it. An HTTP
worker's region is taken over by the next one with its number.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from serving.metrics.region import Kind, Region, Series, Values, joined, values_of

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
        values = [one for one in region.read() if one.series.kind is not Kind.GAUGE]
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
            found = {region.at: (region.rewrites, region.copy()) for region in self._regions() if region.has_values}
            still = all(self._ints[at + 1] == count and not count % 2 for at, (count, _) in found.items())
            if still and moves == self._ints[self._at] and not moves % 2:
                break
        return found

    def _regions(self) -> Iterator[Region]:
        yield self.supervisor
        for index in range(HTTP_WORKERS):
            yield self.http(index)
        for index in range(MODEL_WORKERS):
            yield self.worker(index)


def condense(region: Region) -> bool:
    """Join the least used models of a region where it has too many. Returns whether places have changed by it."""
    models = region.models
    if len(models) <= MOST_MODELS:
        return False
    region.rewrite(lambda values: joined(values, KEPT_MODELS, keeps_busy=True))
    return len(region.models) < len(models)


class Reader:
    """Reads all regions of ``table``, and remembers where their values are."""

    def __init__(self, table: MetricsTable) -> None:
        self._table = table
        self._layouts: dict[int, tuple[int, int, list[tuple[Series, int]]]] = {}
        self.models: dict[int, str] = {}
        """The model of each model worker that counts, by its row."""

    def read(self) -> list[Values]:
        copies = self._table.copies()
        self.models = {}
        found: list[Values] = []
        for at, (rewrites, data) in copies.items():
            known = self._layouts.get(at)
            if known is None or known[:2] != (rewrites, len(data)):
                known = self._layouts[at] = (rewrites, len(data), Region.layout(data))
            found += values_of(data, known[2])
            row = self._table.row_of(at)
            if row is not None and (model := known[2][0][0].model) is not None:
                self.models[row] = model
        return found
