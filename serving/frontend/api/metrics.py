"""Metrics: ``GET /metrics``, the scoreboard and the handlers' own metrics in Prometheus' text format.

It asks no other process: handlers have written theirs down.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from serving.frontend.health import is_healthy
from serving.ipc.scoreboard import ROWS, Scoreboard

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def merged(texts: Sequence[str]) -> str:
    """Return the metrics of several handlers as one text, with all series of a name together as the format requires."""
    heads: dict[str, list[str]] = {}
    series: dict[str, list[str]] = {}
    for text in texts:
        name = ""
        for line in text.splitlines():
            if line.startswith("# HELP "):
                name = line.split(" ")[2]
                heads[name] = []
            (heads if line.startswith("#") else series).setdefault(name, []).append(line)
    return "".join(f"{line}\n" for name in heads for line in (*heads[name], *series.get(name, ())))


def render(board: Scoreboard, texts: Sequence[str] = ()) -> bytes:
    """Return the body of ``GET /metrics``; ``texts`` are the handlers' own metrics."""
    header = board.read_header()
    rows = [board.row(index) for index in range(ROWS)]
    lines: list[str] = []

    def add(name: str, kind: str, help: str, value: float) -> None:
        lines.extend((f"# HELP serving_{name} {help}", f"# TYPE serving_{name} {kind}", f"serving_{name} {value:g}"))

    add("ready", "gauge", "Whether GET /ping says 200", is_healthy(header, time.monotonic()))
    add("replicas", "gauge", "Replicas that take requests", header.ready)
    add("replicas_wanted", "gauge", "Replicas that should", header.wanted)
    add("requests_in_flight", "gauge", "Requests accepted and not answered", board.in_flight())
    add("requests_queued", "gauge", "Requests that wait at replicas", sum(row.queued for row in rows))
    add("streams_open", "gauge", "Answers in pieces and WebSockets under way", sum(row.streams for row in rows))
    add("sessions_open", "gauge", "Sessions that replicas hold", sum(row.sessions for row in rows))
    compiled = sum(row.recompilations for row in rows)
    add("recompilations_total", "counter", "Times a model was compiled while requests waited", compiled)
    values, padded = (sum(counts) for counts in zip(*(row.padding for row in rows), strict=True))
    add("values_total", "counter", "Values of the samples that were padded, along the padded dimension", values)
    add("padded_values_total", "counter", "Values of the batches that they were padded to", padded)
    add("sessions_lost_total", "counter", "Sessions that ended with their replica", board.lost_sessions)
    return ("\n".join([*lines, ""]) + merged(texts)).encode()
