"""Tally: one request of another API than /invocations, as the metrics count it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from time import monotonic

from serving.frontend.counting.counts import Counts
from serving.frontend.error_responses import CAUGHT, Api, failure_of


class Tally:
    """``received`` and ``sent`` are the bytes of the bodies, ``status`` is that of the response."""

    received = 0
    sent = 0
    status = 200
    code = ""


@contextlib.contextmanager
def counted(counts: Counts, model: str, arrival: float, api: Api) -> Iterator[Tally]:
    """Count the request that the block answers, which arrived at the instant ``arrival``; an error of the block is the
    request's.
    """
    tally = Tally()
    try:
        yield tally
    except CAUGHT as exc:
        failure = failure_of(exc, api)
        tally.status, tally.code = (failure.status, failure.code) if failure is not None else (0, "")
        raise
    finally:
        seconds = monotonic() - arrival
        counts.of(model).end(tally.status, tally.code, seconds, tally.received, tally.sent)
