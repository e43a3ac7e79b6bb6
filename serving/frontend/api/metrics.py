"""Metrics: ``GET /metrics``, what all processes have counted, in Prometheus' text format or as OpenMetrics.

It asks no other process: all have written down what they count, in memory that outlives them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from serving.frontend.health import is_healthy
from serving.ipc.scoreboard import ROWS, Phase, Row, Scoreboard
from serving.metrics import catalog
from serving.metrics.catalog import Metric
from serving.metrics.exposition import Exposition
from serving.metrics.region import Values
from serving.metrics.table import Known, Reader

BY_ROW: tuple[tuple[Metric, Callable[[Row], float]], ...] = (
    (catalog.MODEL_REPLICAS, lambda row: row.phase is Phase.READY),
    (catalog.MODEL_IN_FLIGHT, lambda row: row.queued + row.running_count),
    (catalog.MODEL_QUEUED, lambda row: row.queued),
    (catalog.MODEL_STREAMS, lambda row: row.streams),
    (catalog.MODEL_SESSIONS, lambda row: row.sessions),
    (catalog.MEMORY, lambda row: row.memory),
    (catalog.DEVICE_MEMORY, lambda row: row.device_memory),
)
SUMS = {
    catalog.MODEL_RECOMPILATIONS.name: catalog.RECOMPILATIONS,
    catalog.MODEL_VALUES.name: catalog.VALUES,
    catalog.MODEL_PADDED_VALUES.name: catalog.PADDED_VALUES,
}


class Metrics:
    """The metrics of one server. ``models`` of them, the most used ones, have labels of their own."""

    def __init__(self, board: Scoreboard, models: int) -> None:
        self._board = board
        self._models = models
        self._reader = Reader(board.metrics, mean=catalog.SATURATION.name)
        self._exposition = Exposition()
        self._rows = [board.row(index) for index in range(ROWS)]

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the text, in a format that the header ``accept`` allows, and its content type."""
        values = self._reader.read(self._models, self._of_rows)
        return self._exposition.render([*values, *self._of_server(values)], accept)

    def _of_rows(self, models: dict[int, str]) -> Iterator[tuple[Known, float]]:
        """Return what the rows of model workers say, by their models."""
        for index, model in models.items():
            row = self._rows[index]
            if row.pid:
                for metric, read in BY_ROW:
                    yield self._reader.of_model(metric, model), float(read(row))

    def _of_server(self, values: Iterable[Values]) -> Iterator[Values]:
        board = self._board
        header = board.read_header()
        rows = [row for row in self._rows if row.pid]
        yield value(catalog.READY, is_healthy(header, time.monotonic()))
        yield value(catalog.REPLICAS, header.ready)
        yield value(catalog.REPLICAS_WANTED, header.wanted)
        yield value(catalog.IN_FLIGHT, board.in_flight())
        yield value(catalog.QUEUED, sum(row.queued for row in rows))
        yield value(catalog.STREAMS, sum(row.streams for row in rows))
        yield value(catalog.SESSIONS, sum(row.sessions for row in rows))
        yield value(catalog.SESSIONS_LOST, board.lost_sessions)
        sums = dict.fromkeys(SUMS, 0.0)
        for one in values:
            if one.series.name in sums:
                sums[one.series.name] += one.sum
        for name, metric in SUMS.items():
            yield value(metric, sums[name])


def value(metric: Metric, number: float) -> Values:
    return Values(metric.of(), [], float(number))
