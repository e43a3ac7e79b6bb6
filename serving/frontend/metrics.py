"""``GET /metrics``: the scoreboard in Prometheus' text format; no other process is asked."""

from __future__ import annotations

import time

from serving.frontend.health import is_healthy
from serving.scoreboard import ROWS, Scoreboard

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def render(board: Scoreboard) -> bytes:
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
    add("sessions_lost_total", "counter", "Sessions that ended with their replica", board.lost_sessions)
    return "\n".join([*lines, ""]).encode()
