"""Metrics of a model's own: kept in its process, shown by the server in ``GET /metrics``."""

from __future__ import annotations

import enum
import math
import re
import threading
from collections.abc import Sequence
from typing import NamedTuple

from triton_python_backend_utils.errors import TritonModelException

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


class MetricKind(enum.Enum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Sample(NamedTuple):
    """One series with its values: ``value`` is the sum of a histogram, ``counts`` its numbers per bucket, the last one
    of those above all ``bounds``.
    """

    name: str
    kind: MetricKind
    help: str
    labels: dict[str, str]
    value: float
    bounds: tuple[float, ...]
    counts: list[int]


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

    def _sample(self, name: str, help: str, labels: dict[str, str]) -> Sample:
        with self._lock:
            bounds = tuple(self._bounds[:-1])
            return Sample(name, self._kind, help, labels, self._value, bounds, list(self._counts))


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

    def _samples(self) -> list[Sample]:
        metrics = list(self._metrics.items())
        return [metric._sample(self._name, self._description, dict(key)) for key, metric in metrics]


_families: dict[str, MetricFamily] = {}


def samples() -> list[Sample]:
    """Return all metrics of this process."""
    return [sample for family in list(_families.values()) for sample in family._samples()]
