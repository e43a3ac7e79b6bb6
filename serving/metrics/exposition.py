"""Exposition: series in Prometheus' text format, or OpenMetrics for a scraper that asks for it.

The package prometheus_client writes the text of each series once, with names, escapes, HELP and TYPE lines. After that
only the numbers are put in, since most of a scrape's time would go into text that never changes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from prometheus_client import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from serving.metrics.region import Kind, Series, Values

KINDS = {Kind.COUNTER: "counter", Kind.GAUGE: "gauge", Kind.HISTOGRAM: "histogram"}
TOTAL = "_total"
UNTYPED, COUNTER = " untyped\n", " counter\n"  # which the text format allows for any name
END = "# EOF\n"  # of OpenMetrics


class Template(NamedTuple):
    """The text of one series: the lines about its name, and what is before the number of each sample."""

    head: str
    before: tuple[str, ...]


class One(Collector):
    """One series as the package wants it, with the numbers 0, 1, 2 and so on as values."""

    def __init__(self, series: Series) -> None:
        self._series = series

    def collect(self) -> Iterator[Metric]:
        series = self._series
        kind = KINDS[series.kind]
        if kind == "counter" and not series.name.endswith(TOTAL):
            kind = "unknown"  # a counter's samples would get another name
        metric = Metric(series.name.removesuffix(TOTAL) if kind == "counter" else series.name, series.help, kind)
        add_samples(metric, series)
        yield metric


def add_samples(metric: Metric, series: Series) -> None:
    labels = dict(series.labels)
    if series.kind is not Kind.HISTOGRAM:
        metric.add_sample(series.name, labels, 0.0)
        return
    for number, bound in enumerate((*series.bounds, math.inf)):
        le = "+Inf" if math.isinf(bound) else repr(bound)
        metric.add_sample(f"{series.name}_bucket", {**labels, "le": le}, float(number))
    metric.add_sample(f"{series.name}_count", labels, len(series.bounds) + 1.0)
    metric.add_sample(f"{series.name}_sum", labels, len(series.bounds) + 2.0)


def numbers_of(values: Values) -> Iterable[float]:
    """Return the numbers of one series, in the order of its samples."""
    if values.series.kind is not Kind.HISTOGRAM:
        return (values.sum,)
    sums = list(itertools.accumulate(values.counts))
    return (*sums, sums[-1], values.sum)


def text_of(number: float) -> str:
    return repr(int(number)) if number % 1 == 0 else repr(number)


def template_of(series: Series, encode: Callable[[Collector], bytes]) -> Template:
    head = ""
    before: dict[int, str] = {}
    for line in encode(One(series)).decode().splitlines(keepends=True):
        if not line.startswith("#"):
            sample, _, number = line.rpartition(" ")
            before[int(float(number))] = sample + " "
        elif line != END:
            head += line.replace(UNTYPED, COUNTER) if series.kind is Kind.COUNTER else line
    return Template(head, tuple(before[number] for number in range(len(before))))


class Exposition:
    """Renders series. It remembers the text of those that it rendered last."""

    def __init__(self) -> None:
        self._known: dict[str, dict[Series, Template]] = {}

    def render(self, values: Iterable[Values], accept: str) -> tuple[bytes, str]:
        """Return the text of ``values`` in a format that ``accept`` allows, and its content type.

        The kind and the help of the first series of a name hold for all; series of another kind are left out.
        """
        encode, content_type = choose_encoder(accept)
        known = self._known.get(content_type, {})
        seen = self._known[content_type] = {}
        parts: list[str] = []
        ordered = sorted(values, key=lambda one: (one.series.name, one.series.labels))
        for _, group in itertools.groupby(ordered, key=lambda one: one.series.name):
            kind: Kind | None = None
            for one in group:
                series = one.series
                template = seen[series] = known.get(series) or template_of(series, encode)
                if kind is None:
                    kind = series.kind
                    parts.append(template.head)
                if series.kind is kind:
                    for before, number in zip(template.before, numbers_of(one), strict=True):
                        parts += (before, text_of(number), "\n")
        if content_type.startswith("application/openmetrics"):
            parts.append(END)
        return "".join(parts).encode(), content_type
