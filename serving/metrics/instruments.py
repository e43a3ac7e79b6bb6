"""Counter, Gauge and Histogram: a handler's own metrics, which the server adds to ``GET /metrics``.

    PREDICTIONS = Counter("predictions_total", "Predictions by class", ["label"])
    PREDICTIONS.labels("cat").inc()

Each has the label ``model``, too; gauges have ``replica`` besides. Values are added up over a model's replicas, and
survive a replica that dies. Names, arguments and methods are those of the package prometheus_client. Outside of a
server, ``values`` shows what was counted.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from serving.metrics.region import Kind, Region, Series, Values
from serving.system import log

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
OURS = "serving_"
RESERVED = frozenset({"model", "replica", "le"})
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LOCK = threading.RLock()  # handlers may count on several threads


class Target:
    """The place where this process counts: ``region``, with ``labels`` on all series and ``more`` on gauges."""

    def __init__(self) -> None:
        self.region = Region.private()
        self.labels: dict[str, str] = {}
        self.more: dict[str, str] = {}
        self.changes = 0
        self.is_full = False

    def use(self, region: Region, labels: Mapping[str, str], more: Mapping[str, str]) -> None:
        """Count there from now on."""
        with LOCK:
            self.region, self.labels, self.more = region, dict(labels), dict(more)
            self.changes += 1

    def place(self, name: str, kind: Kind, help: str, labels: dict[str, str], bounds: tuple[float, ...]) -> int | None:
        more = self.more if kind is Kind.GAUGE else {}
        named = {**self.labels, **more, **labels}
        at = self.region.place(Series(name, kind, help, tuple(named.items()), bounds))
        if at is None and not self.is_full:
            self.is_full = True
            log.warning("there is no room for more series of metrics; new ones are not counted", metric=name)
        return at


TARGET = Target()


class Described(Protocol):
    """The parts of a metric that its series need."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> Kind: ...

    @property
    def help(self) -> str: ...

    @property
    def bounds(self) -> tuple[float, ...]: ...


class Cell:
    """One series of a metric: its values of the labels are fixed."""

    def __init__(self, metric: Described, labels: dict[str, str]) -> None:
        self._metric = metric
        self._labels = labels
        self._changes = -1
        self._place: int | None = None

    def _at(self) -> int | None:
        if self._changes != TARGET.changes:
            metric = self._metric
            self._changes = TARGET.changes
            self._place = TARGET.place(metric.name, metric.kind, metric.help, self._labels, metric.bounds)
        return self._place

    def _add(self, amount: float) -> None:
        with LOCK:
            at = self._at()
            if at is not None:
                TARGET.region.floats[at] += amount

    def inc(self, amount: float = 1) -> None:
        """Add ``amount``. Raises ValueError where a counter would go down."""
        if self._metric.kind is Kind.COUNTER and amount < 0:
            raise ValueError(f"the counter {self._metric.name} only grows; the amount is {amount}")
        self._add(amount)

    def dec(self, amount: float = 1) -> None:
        self._add(-amount)

    def set(self, value: float) -> None:
        with LOCK:
            at = self._at()
            if at is not None:
                TARGET.region.floats[at] = float(value)

    def observe(self, value: float) -> None:
        """Count ``value`` in its bucket."""
        bounds = self._metric.bounds
        with LOCK:
            at = self._at()
            if at is not None:
                TARGET.region.ints[at + bisect_left(bounds, value)] += 1
                TARGET.region.floats[at + len(bounds) + 1] += value

    @contextlib.contextmanager
    def time(self) -> Iterator[None]:
        """Observe the seconds that the block takes, also where it raises."""
        since = time.perf_counter()
        try:
            yield
        finally:
            self.observe(time.perf_counter() - since)


class Metric:
    """One name, with ``labelnames``. Raises ValueError for a name that Prometheus or this server does not allow."""

    kind = Kind.COUNTER

    def __init__(self, name: str, documentation: str, labelnames: Sequence[str] = ()) -> None:
        self.name = checked_name(name)
        self.help = documentation
        self.labelnames = tuple(checked_label(one) for one in labelnames)
        self.bounds: tuple[float, ...] = ()
        self._cells: dict[tuple[str, ...], Cell] = {}
        self._own: Cell | None = None if self.labelnames else self.labels()

    def labels(self, *values: object, **named: object) -> Cell:
        """Return the series with these values of the labels, in their order or by name. Raises ValueError."""
        if named:
            if values or set(named) != set(self.labelnames):
                raise ValueError(f"the labels of {self.name} are {list(self.labelnames)}; given were {sorted(named)}")
            values = tuple(named[name] for name in self.labelnames)
        if len(values) != len(self.labelnames):
            raise ValueError(f"the labels of {self.name} are {list(self.labelnames)}; given were {len(values)} values")
        key = tuple(map(str, values))
        cell = self._cells.get(key)
        if cell is None:
            cell = self._cells.setdefault(key, Cell(self, dict(zip(self.labelnames, key, strict=True))))
        return cell

    @property
    def _only(self) -> Cell:
        if self._own is None:
            raise ValueError(f"{self.name} has labels: use {self.name}.labels(...)")
        return self._own


class Counter(Metric):
    """A number that only grows."""

    kind = Kind.COUNTER

    def __init__(self, name: str, documentation: str, labelnames: Sequence[str] = ()) -> None:
        super().__init__(name.removesuffix("_total") + "_total", documentation, labelnames)

    def inc(self, amount: float = 1) -> None:
        self._only.inc(amount)


class Gauge(Metric):
    """A number that goes up and down. The value of a replica that has ended is shown no more."""

    kind = Kind.GAUGE

    def set(self, value: float) -> None:
        self._only.set(value)

    def inc(self, amount: float = 1) -> None:
        self._only.inc(amount)

    def dec(self, amount: float = 1) -> None:
        self._only.dec(amount)


class Histogram(Metric):
    """Counts of values in ``buckets``, given by their upper bounds, ascending."""

    kind = Kind.HISTOGRAM

    def __init__(
        self, name: str, documentation: str, labelnames: Sequence[str] = (), buckets: Sequence[float] = BUCKETS
    ) -> None:
        super().__init__(name, documentation, labelnames)
        bounds = [float(one) for one in buckets]
        if bounds and bounds[-1] == float("inf"):
            bounds.pop()
        if not bounds or bounds != sorted(set(bounds)):
            raise ValueError(f"the buckets of {name} are {list(buckets)}; allowed: ascending bounds, one at least")
        self.bounds = tuple(bounds)

    def observe(self, value: float) -> None:
        self._only.observe(value)

    def time(self) -> contextlib.AbstractContextManager[None]:
        return self._only.time()


def checked_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(f"metric {name!r}: allowed are letters, digits, _ and :")
    if name.startswith(OURS):
        raise ValueError(f"metric {name!r}: names that begin with {OURS} are the server's")
    return name


def checked_label(name: str) -> str:
    if not LABEL.fullmatch(name) or name.startswith("__") or name in RESERVED:
        raise ValueError(f"label {name!r}: allowed are letters, digits and _, but for {', '.join(sorted(RESERVED))}")
    return name


def values() -> list[Values]:
    """Return all that this process has counted."""
    with LOCK:
        return TARGET.region.read()


use: Callable[[Region, Mapping[str, str], Mapping[str, str]], None] = TARGET.use
