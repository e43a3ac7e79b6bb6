"""Metrics of a model's own: kept in its process, shown by the server in ``GET /metrics``."""

from __future__ import annotations

import enum
import math
import re
import threading
from collections.abc import Sequence

from triton_python_backend_utils.errors import TritonModelException

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


class MetricKind(enum.Enum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Metric:
    """One series of a family, made by ``MetricFamily.Metric``."""

    def __init__(self, kind: MetricKind, buckets: Sequence[float]) -> None:
        self._kind = kind
        self._lock = threading.Lock()
        self._value = 0.0
        self._bounds = [*map(float, buckets), math.inf] if kind is MetricKind.HISTOGRAM else []
        self._counts = [0] * len(self._bounds)

    def _only(self, what: str, *kinds: MetricKind) -> None:
        if self._kind not in kinds:
            raise TritonModelException(f"a {self._kind.value} does not support {what}")

    def increment(self, value: float) -> None:
        """Add ``value`` to a counter or gauge. Raises TritonModelException for a counter that would go down."""
        self._only("increment", MetricKind.COUNTER, MetricKind.GAUGE)
        if self._kind is MetricKind.COUNTER and value < 0:
            raise TritonModelException(f"a counter cannot be incremented by {value}")
        with self._lock:
            self._value += value

    def set(self, value: float) -> None:
        self._only("set", MetricKind.GAUGE)
        with self._lock:
            self._value = float(value)

    def observe(self, value: float) -> None:
        self._only("observe", MetricKind.HISTOGRAM)
        with self._lock:
            self._value += value
            self._counts[next(i for i, bound in enumerate(self._bounds) if value <= bound or bound == math.inf)] += 1

    def value(self) -> float:
        self._only("value", MetricKind.COUNTER, MetricKind.GAUGE)
        return self._value

    def _lines(self, name: str, labels: dict[str, str]) -> list[str]:
        if self._kind is not MetricKind.HISTOGRAM:
            return [f"{name}{text_of(labels)} {self._value:.17g}"]
        with self._lock:
            counts, total = list(self._counts), self._value
        sums = [sum(counts[: index + 1]) for index in range(len(counts))]
        bounds = ["+Inf" if bound == math.inf else f"{bound:g}" for bound in self._bounds]
        lines = [
            f"{name}_bucket{text_of({**labels, 'le': le})} {count}" for le, count in zip(bounds, sums, strict=True)
        ]
        return [*lines, f"{name}_sum{text_of(labels)} {total:.17g}", f"{name}_count{text_of(labels)} {sums[-1]}"]


class MetricFamily:
    """Metrics of one name. Within a process the families of one name are one; their kinds must agree."""

    COUNTER = MetricKind.COUNTER
    GAUGE = MetricKind.GAUGE
    HISTOGRAM = MetricKind.HISTOGRAM

    def __init__(self, name: str, description: str, kind: MetricKind) -> None:
        if not NAME.fullmatch(name):
            raise TritonModelException(f"metric family {name!r}: allowed are letters, digits, _ and :")
        self._name = name
        self._description = description
        self._kind = MetricKind(kind)
        self._metrics: dict[tuple[tuple[str, str], ...], Metric] = {}
        first = _families.setdefault(name, self)
        if first._kind is not self._kind:
            raise TritonModelException(f"metric family {name!r} is a {first._kind.value} already")
        self._metrics = first._metrics

    def Metric(self, labels: dict[str, str] | None = None, buckets: Sequence[float] | None = None) -> Metric:
        """The series with these labels. ``buckets`` are a histogram's upper bounds, ascending."""
        if (self._kind is MetricKind.HISTOGRAM) != (buckets is not None):
            raise TritonModelException("a histogram needs buckets, and nothing else has any")
        if buckets is not None and list(buckets) != sorted(set(buckets)):
            raise TritonModelException(f"buckets are {list(buckets)}; allowed: ascending")
        wrong = [name for name in labels or {} if not LABEL.fullmatch(name)]
        if wrong:
            raise TritonModelException(f"label {wrong[0]!r}: allowed are letters, digits and _")
        key = tuple(sorted((labels or {}).items()))
        return self._metrics.setdefault(key, Metric(self._kind, buckets or ()))

    def _lines(self, more: dict[str, str]) -> list[str]:
        help = self._description.replace("\\", "\\\\").replace("\n", "\\n")
        head = [f"# HELP {self._name} {help}", f"# TYPE {self._name} {self._kind.value}"]
        series = [
            line
            for key, metric in list(self._metrics.items())
            for line in metric._lines(self._name, {**more, **dict(key)})
        ]
        return head + series


_families: dict[str, MetricFamily] = {}


def render(labels: dict[str, str]) -> str:
    """All metrics of this process in Prometheus' text format, with these labels more; the model's own ones win."""
    return "".join(f"{line}\n" for family in list(_families.values()) for line in family._lines(labels))


def text_of(labels: dict[str, str]) -> str:
    def quoted(value: str) -> str:
        return str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    inner = ",".join(f'{name}="{quoted(value)}"' for name, value in labels.items())
    return f"{{{inner}}}" if inner else ""
