"""Counts: what an HTTP worker counts of requests and their responses, by model."""

from __future__ import annotations

from bisect import bisect_left

from serving.metrics import catalog
from serving.metrics.catalog import SECONDS, SIZES, Metric
from serving.metrics.region import OTHER, Region, uses_of
from serving.metrics.table import condense

CLIENT_GONE = "client_gone"
NO_CODE = "none"  # of a response that is no error of the server's
GONE = "gone"  # the status of a request whose client left before its response
UNKNOWN = "unknown"  # the model of a request that names none that there is
CODES = 16  # pairs of status and code for one model
WAITING = 4096  # models without a label of their own whose requests are counted
HISTOGRAMS = 3  # in which each request is counted
MORE = 2  # times as many requests as the least used model with a label: then a model gets one


class ModelCounts:
    """The counts of one model's requests."""

    __slots__ = (
        "_floats",
        "_ints",
        "_last_received",
        "_last_sent",
        "_model",
        "_ok",
        "_outcomes",
        "_places",
        "_received",
        "_received_at",
        "_region",
        "_seconds",
        "_sent",
        "_sent_at",
    )

    def __init__(self, region: Region, model: str) -> None:
        self._region = region
        self._ints = region.ints
        self._floats = region.floats
        self._model = model
        self._places: dict[str, int] = {}
        self._outcomes: dict[tuple[int, str], int] = {}
        self._last_received = self._last_sent = -1
        self._received_at = self._sent_at = 0
        self._ok = self._outcome(200, "")
        self._seconds = region.must(catalog.REQUEST_SECONDS.of(model))
        self._received = region.must(catalog.REQUEST_BYTES.of(model))
        self._sent = region.must(catalog.RESPONSE_BYTES.of(model))

    def end(self, status: int, code: str, seconds: float, received: int, sent: int) -> None:
        """Count a request as over, after ``seconds``. ``received`` and ``sent`` are the bytes of the bodies. The status
        is 0 where the client has left.
        """
        ints, floats = self._ints, self._floats
        floats[self._ok if status == 200 and not code else self._outcome(status, code)] += 1.0
        at = self._seconds
        ints[at + bisect_left(SECONDS, seconds)] += 1
        floats[at + SECONDS_SUM] += seconds
        if received != self._last_received:  # bodies are often of one size
            self._last_received, self._received_at = received, self._received + bisect_left(SIZES, received)
        ints[self._received_at] += 1
        floats[self._received + SIZES_SUM] += received
        if sent != self._last_sent:
            self._last_sent, self._sent_at = sent, self._sent + bisect_left(SIZES, sent)
        ints[self._sent_at] += 1
        floats[self._sent + SIZES_SUM] += sent

    def _outcome(self, status: int, code: str) -> int:
        at = self._outcomes.get((status, code))
        if at is None:
            said = OTHER if len(self._outcomes) >= CODES else code  # user code may make up its own
            kind, said = (f"{status // 100}xx", said or NO_CODE) if status else (GONE, CLIENT_GONE)
            at = self._region.must(catalog.REQUESTS.of(self._model, kind, said))
            if said != OTHER:
                self._outcomes[status, code] = at
        return at

    def first_chunk(self, seconds: float) -> None:
        self._observe(catalog.FIRST_CHUNK_SECONDS, seconds)

    def next_chunk(self, seconds: float) -> None:
        self._observe(catalog.CHUNK_GAP_SECONDS, seconds)

    def retried(self) -> None:
        """Count a request that is sent once more."""
        self._count(catalog.RETRIES)

    def connected(self) -> None:
        """Count a WebSocket."""
        self._count(catalog.WEBSOCKETS)

    def _observe(self, metric: Metric, value: float) -> None:
        at = self._place(metric)
        self._ints[at + bisect_left(metric.bounds, value)] += 1
        self._floats[at + len(metric.bounds) + 1] += value

    def _count(self, metric: Metric) -> None:
        self._floats[self._place(metric)] += 1.0

    def _place(self, metric: Metric) -> int:
        at = self._places.get(metric.name)
        if at is None:
            at = self._places[metric.name] = self._region.must(metric.of(self._model))
        return at


SECONDS_SUM = len(SECONDS) + 1
SIZES_SUM = len(SIZES) + 1


class Counts:
    """The counts of one HTTP worker, in ``region``.

    Where there are many models, those used least are counted together as ``other``. A model without a label of its own
    gets one when it has been asked much more often than the least used one that has.
    """

    def __init__(self, region: Region) -> None:
        region.take_over()
        self._region = region
        self._models: dict[str, ModelCounts] = {}
        self._waiting: dict[str, int] = {}
        self._least = 0.0  # requests of the least used model when some were last joined

    def of(self, model: str) -> ModelCounts:
        """Return the counts of a model, or those that it shares with others. "" stands for one that there is not."""
        return self._models.get(model) or self._new(self._label(model or UNKNOWN))

    def _label(self, model: str) -> str:
        if not self._least or model in (UNKNOWN, OTHER) or model in self._region.models:
            return model
        asked = self._waiting[model] = self._waiting.get(model, 0) + 1
        if asked < MORE * self._least:
            if len(self._waiting) > WAITING:
                self._waiting.clear()
            return OTHER
        del self._waiting[model]
        return model

    def _new(self, label: str) -> ModelCounts:
        counts = self._models.get(label)
        if counts is None:
            counts = self._models[label] = ModelCounts(self._region, label)
            if condense(self._region):
                self._models.clear()  # their places have changed
                self._least = min(uses_of(self._region.read()).values(), default=0.0) / HISTOGRAMS
                counts = self._models[label] = ModelCounts(self._region, label)
        return counts


class NoModelCounts(ModelCounts):
    """Counts nothing."""

    def __init__(self) -> None:
        super().__init__(Region.private(), UNKNOWN)

    def end(self, status: int, code: str, seconds: float, received: int, sent: int) -> None: ...

    def first_chunk(self, seconds: float) -> None: ...

    def next_chunk(self, seconds: float) -> None: ...

    def retried(self) -> None: ...

    def connected(self) -> None: ...


class NoCounts(Counts):
    """Counts nothing: metrics are switched off."""

    def __init__(self) -> None:
        super().__init__(Region.private())
        self._nothing = NoModelCounts()

    def of(self, model: str) -> ModelCounts:
        return self._nothing
