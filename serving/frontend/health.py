"""What ``/ping`` says, read from the scoreboard alone."""

from __future__ import annotations

import msgspec

from serving.scoreboard import Header, State

DEGRADED_GRACE = 30.0  # seconds without any ready replica, while a replacement starts, that still count as healthy


def ping(header: Header, now: float) -> tuple[int, bytes]:
    """HTTP status and JSON body. 200 says that a request sent now could be served."""
    body = {
        "status": header.state.name.lower(),
        "replicas": {"ready": header.ready, "wanted": header.wanted},
        "seconds": round(max(0.0, now - header.since), 1),
    }
    if header.reason:
        body["reason"] = header.reason
    return (200 if is_healthy(header, now) else 503), msgspec.json.encode(body)


def is_healthy(header: Header, now: float) -> bool:
    if header.state is State.READY:
        return True
    return header.state is State.DEGRADED and (header.ready > 0 or now - header.last_ready <= DEGRADED_GRACE)
