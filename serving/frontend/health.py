"""Health: the response to ``/ping``, read from the scoreboard alone."""

from __future__ import annotations

import msgspec

from serving.ipc.scoreboard import Header, State

SILENT = 10.0  # seconds without a beat after which the supervisor counts as stopped; it beats ten times a second
DEGRADED_GRACE = 30.0  # seconds without any ready replica, while a replacement starts, that still count as healthy


def ping(header: Header, now: float) -> tuple[int, bytes]:
    """Return the HTTP status and the JSON body. 200 means that a request sent now could be served."""
    silent = is_silent(header, now)
    body = {
        "status": "degraded" if silent else header.state.name.lower(),
        "replicas": {"ready": header.ready, "wanted": header.wanted},
        "seconds": round(max(0.0, now - header.since), 1),
    }
    if reason := "the supervisor does not run" if silent else header.reason:
        body["reason"] = reason
    return (200 if is_healthy(header, now) else 503), msgspec.json.encode(body)


def is_healthy(header: Header, now: float) -> bool:
    if is_silent(header, now):
        return False
    if header.state is State.READY:
        return True
    return header.state is State.DEGRADED and (header.ready > 0 or now - header.last_ready <= DEGRADED_GRACE)


def is_silent(header: Header, now: float) -> bool:
    """Return whether the supervisor, which alone loads models and kills hung workers, has not run for ``SILENT``
    seconds.
    """
    return header.beat > 0.0 and now > header.beat + SILENT
