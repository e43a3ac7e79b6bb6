"""Report: the result of one measurement."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import Counter
from collections.abc import Sequence

MEASURED = ("seconds", "requests", "rps", "p50", "p90", "p99", "p999", "max")
HEADER = """\
| load | connections | requests/s | p50 ms | p90 ms | p99 ms | p99.9 ms | max ms | errors |
|---|---:|---:|---:|---:|---:|---:|---:|---:|"""


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """The numbers of one measurement. ``requests`` had a right answer, ``rps`` of them per second.

    ``errors`` counts the others by status, or as ``body`` (not as expected), ``protocol`` (not HTTP), ``connection``
    (lost) or ``unanswered``. Latencies are in milliseconds, over all requests: failed ones count as long as they took.
    """

    connections: int
    rate: float | None
    seconds: float
    requests: int
    errors: dict[str, int]
    rps: float
    p50: float
    p90: float
    p99: float
    p999: float
    max: float


def percentiles(latencies: Sequence[float], shares: Sequence[float]) -> list[float]:
    """Return nearest-rank percentiles of seconds, in milliseconds; zeros without any request."""
    ordered = sorted(latencies) or [0.0]
    return [ordered[math.ceil(share * len(ordered)) - 1] * 1000 for share in shares]


def median(reports: Sequence[Report]) -> Report:
    """Return each number's median over repeated measurements, and the errors of all of them together."""
    rows = [dataclasses.asdict(report) for report in reports]
    numbers = {name: statistics.median(row[name] for row in rows) for name in MEASURED}
    errors = sum((Counter(report.errors) for report in reports), Counter[str]())
    return dataclasses.replace(reports[0], **numbers, errors=dict(errors))


def row(name: str, report: Report) -> str:
    """Return one line of a Markdown table under ``HEADER``."""
    errors = ", ".join(f"{count} x {kind}" for kind, count in sorted(report.errors.items())) or "0"
    latencies = (report.p50, report.p90, report.p99, report.p999, report.max)
    cells = [name, str(report.connections), f"{report.rps:,.0f}", *(f"{value:.2f}" for value in latencies), errors]
    return f"| {' | '.join(cells)} |"
