"""Metrics: ``context.metrics`` of handlers, shown in ``GET /metrics`` and logged at level debug."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from serving.metrics import instruments
from serving.system import log

TIMES, SIZES = ("ms", "s"), ("B", "kB", "MB", "GB")


class MetricTypes(enum.Enum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


KINDS: dict[MetricTypes, type[instruments.Counter | instruments.Gauge | instruments.Histogram]] = {
    MetricTypes.COUNTER: instruments.Counter,
    MetricTypes.GAUGE: instruments.Gauge,
    MetricTypes.HISTOGRAM: instruments.Histogram,
}


class MetricsCacheTypeError(TypeError):
    """A metric's value has a wrong type."""


class MetricsCacheValueError(ValueError):
    """A unit is unknown."""


class MetricsCacheKeyError(KeyError):
    """A metric was not added."""


@cache
def shown_as(kind: MetricTypes, name: str, help: str, dimensions: tuple[str, ...]) -> instruments.Metric:
    """Return the metric of ``GET /metrics`` for one of a handler's."""
    labels = [f"dimension_{label}" if label in instruments.RESERVED else label for label in map(cleaned, dimensions)]
    return KINDS[kind](cleaned(name), help, labels)


def cleaned(name: str) -> str:
    """Return a name with only letters, digits and _, not beginning as the server's own do."""
    found = re.sub(r"[^a-zA-Z0-9_]", "_", name).lstrip("_").removeprefix(instruments.OURS)
    return found if found[:1].isalpha() else f"m_{found}"


class Dimension:
    def __init__(self, name: str, value: Any) -> None:
        self.name = name
        self.value = value

    def __str__(self) -> str:
        return f"{self.name}:{self.value}"

    def to_dict(self) -> dict[str, Any]:
        return {"Name": self.name, "Value": self.value}


class Metric:
    """One metric. A counter adds up; gauges and histograms keep the latest value."""

    def __init__(
        self,
        metric_name: str,
        unit: str,
        dimension_names: Sequence[str] | None = None,
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> None:
        self.metric_name = self.name = metric_name
        self.unit = unit
        self.dimension_names = list(dimension_names or ())
        self.metric_type = metric_type
        self.values: dict[tuple[str, ...], float] = {}

    def add_or_update(self, value: float, dimension_values: Sequence[Any] = (), request_id: str | None = None) -> None:
        """Add or set a value. One that does not fit is only logged, so that the request still gets its answer."""
        wrong = self._wrong(value, dimension_values)
        if wrong:
            log.warning("a metric is not counted", metric=self.name, reason=wrong, request_id=request_id)
            return
        key = tuple(str(one) for one in dimension_values)
        self._show(key, value)
        before = self.values.get(key, 0) if self.metric_type is MetricTypes.COUNTER else 0
        self.values[key] = before + value
        dimensions = dict(zip(self.dimension_names, key, strict=True))
        log.debug("metric", metric=self.name, value=value, unit=self.unit, dimensions=dimensions, request_id=request_id)

    def _show(self, key: tuple[str, ...], value: float) -> None:
        """Add a value to what the server shows, under a name and labels that Prometheus allows."""
        shown = shown_as(self.metric_type, self.name, f"{self.name}, in {self.unit}", tuple(self.dimension_names))
        cell = shown.labels(*key)
        if self.metric_type is MetricTypes.COUNTER:
            cell.inc(value)
        elif self.metric_type is MetricTypes.GAUGE:
            cell.set(value)
        else:
            cell.observe(value)

    def _wrong(self, value: float, dimension_values: Sequence[Any]) -> str | None:
        if len(dimension_values) != len(self.dimension_names):
            return f"its dimensions are {self.dimension_names}; there are {len(dimension_values)} values"
        return "a counter only grows" if self.metric_type is MetricTypes.COUNTER and value < 0 else None

    def update(self, value: float, request_id: str = "", dimensions: Sequence[Any] = ()) -> None:
        """Update in the older form, with dimensions that replace the metric's."""
        self.dimension_names = [one.name for one in dimensions]
        self.add_or_update(value, [one.value for one in dimensions], request_id)


class Metrics:
    """All metrics of a model. ``request_ids`` are those of the running batch, by index."""

    def __init__(self, model_name: str) -> None:
        self.model_name = model_name
        self.request_ids: dict[int, str] | None = None
        self.cache: dict[tuple[MetricTypes, str], Metric] = {}

    def set_request_ids(self, request_ids: dict[int, str] | None) -> None:
        self.request_ids = request_ids

    def add_metric_to_cache(
        self,
        metric_name: str,
        unit: str,
        dimension_names: Sequence[str] | None = None,
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> Metric:
        metric = Metric(metric_name, unit, dimension_names, metric_type)
        self.cache[metric_type, metric_name] = metric
        return metric

    def get_metric(self, metric_name: str, metric_type: MetricTypes = MetricTypes.COUNTER) -> Metric:
        """Return a metric. Raises MetricsCacheKeyError for one that was not added."""
        try:
            return self.cache[metric_type, metric_name]
        except KeyError:
            raise MetricsCacheKeyError(f"there is no {metric_type.value} called {metric_name!r}") from None

    def add_metric(
        self,
        name: str,
        value: float,
        unit: str = "",
        idx: int | None = None,
        dimensions: Sequence[Any] | None = None,
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> None:
        given = list(dimensions or ())
        names = [one.name for one in given]
        metric = self.cache.get((metric_type, name))
        if metric is None or metric.dimension_names != names:
            metric = self.add_metric_to_cache(name, unit, names, metric_type)
        metric.add_or_update(value, [one.value for one in given], self._request(idx))

    def add_counter(
        self, name: str, value: float, idx: int | None = None, dimensions: Sequence[Any] | None = None
    ) -> None:
        self.add_metric(name, value, "count", idx, dimensions)

    def add_time(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "ms",
        dimensions: Sequence[Any] | None = None,
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Add a time; ``unit`` is ms or s. Raises ValueError for another."""
        self.add_metric(name, value, checked(unit, TIMES), idx, dimensions, metric_type)

    def add_size(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "MB",
        dimensions: Sequence[Any] | None = None,
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Add a size; ``unit`` is B, kB, MB or GB. Raises ValueError for another."""
        self.add_metric(name, value, checked(unit, SIZES), idx, dimensions, metric_type)

    def add_percent(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        dimensions: Sequence[Any] | None = None,
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        self.add_metric(name, value, "percent", idx, dimensions, metric_type)

    def add_error(self, name: str, value: Any, dimensions: Sequence[Any] | None = None) -> None:
        """Log an error; ``value`` is often a text, so it is not added up."""
        log.debug("metric", metric=name, error=str(value), dimensions=[str(one) for one in dimensions or ()] or None)

    def _request(self, idx: int | None) -> str | None:
        ids = self.request_ids or {}
        return ids.get(idx) if idx is not None else ",".join(ids.values()) or None


def checked(unit: str, allowed: Sequence[str]) -> str:
    if unit not in allowed:
        raise MetricsCacheValueError(f"unit is {unit!r}; allowed: {', '.join(allowed)}")
    return unit
