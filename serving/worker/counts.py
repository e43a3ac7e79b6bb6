"""EngineCounts: what a model worker counts of its batches and the calls of user code."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence

from serving.metrics import catalog
from serving.metrics.catalog import COUNTS, SECONDS
from serving.metrics.region import Region
from serving.model.model import DEFAULT_MODEL
from serving.worker.batching.items import Item

SPAN = 10.0  # seconds over which saturation is measured
STEP = 1.0  # seconds between two looks
SECONDS_SUM = len(SECONDS) + 1
COUNTS_SUM = len(COUNTS) + 1


class EngineCounts:
    """The counts of one replica, in ``region``. Used on the engine's thread, but for ``look``.

    The thread is busy in calls of user code, and while its device has a batch. ``_busy_until`` is the end of the time
    that has been counted, so that what overlaps counts once.
    """

    def __init__(self, region: Region | None = None, model: str = DEFAULT_MODEL) -> None:
        region = region or Region.private()
        self._ints = region.ints
        self._floats = region.floats
        self._busy = region.must(catalog.BUSY_SECONDS.of(model))
        self._queue = region.must(catalog.QUEUE_SECONDS.of(model))
        self._decode = region.must(catalog.DECODE_SECONDS.of(model))
        self._predict = region.must(catalog.PREDICT_SECONDS.of(model))
        self._encode = region.must(catalog.ENCODE_SECONDS.of(model))
        self._size = region.must(catalog.BATCH_SIZE.of(model))
        self._bisections = region.must(catalog.BISECTIONS.of(model))
        self._halvings = region.must(catalog.HALVINGS.of(model))
        self._recompilations = region.must(catalog.MODEL_RECOMPILATIONS.of(model))
        self._values = region.must(catalog.MODEL_VALUES.of(model))
        self._padded = region.must(catalog.MODEL_PADDED_VALUES.of(model))
        self._saturation = region.must(catalog.SATURATION.of(model))
        self._busy_until = 0.0
        self._running_since = 0.0
        self._looks: deque[tuple[float, float]] = deque()

    # The engine's thread.

    def begins(self, batch: Sequence[Item], now: float) -> None:
        """Count a batch that begins at the instant ``now``."""
        ints, floats = self._ints, self._floats
        at = self._queue
        for item in batch:
            waited = now - item.arrival
            ints[at + bisect_left(SECONDS, waited)] += 1
            floats[at + SECONDS_SUM] += waited
        at = self._size
        ints[at + bisect_left(COUNTS, len(batch))] += 1
        floats[at + COUNTS_SUM] += len(batch)
        self._running_since = now

    def decoded(self, seconds: float, now: float) -> None:
        """Count a request that this thread has decoded until ``now``."""
        ints, floats, at = self._ints, self._floats, self._decode
        ints[at + bisect_left(SECONDS, seconds)] += 1
        floats[at + SECONDS_SUM] += seconds
        since, until = now - seconds, self._busy_until
        if now > until:
            floats[self._busy] += now - until if until > since else seconds
            self._busy_until = now

    def decoded_beside(self, seconds: float) -> None:
        """Count a request that a decode thread has decoded."""
        self._observe(self._decode, seconds)

    def predicted(self, since: float, now: float) -> None:
        """Count a batch that the model has had from ``since`` until ``now``."""
        self._observe(self._predict, now - since)
        self._was_busy(since, now)
        self._running_since = 0.0

    def encoded(self, since: float, now: float) -> None:
        """Count a batch whose outputs were encoded from ``since`` until ``now``."""
        self._observe(self._encode, now - since)
        self._was_busy(since, now)

    def failed(self, since: float, now: float) -> None:
        """Count the time of a batch that failed."""
        self._was_busy(since, now)
        self._running_since = 0.0

    def stepped(self, since: float, now: float) -> None:
        """Count the time of one step of the streams."""
        self._was_busy(since, now)

    def bisected(self) -> None:
        self._floats[self._bisections] += 1.0

    def halved(self) -> None:
        self._floats[self._halvings] += 1.0

    def recompiled(self) -> None:
        """Count a compilation that requests waited for."""
        self._floats[self._recompilations] += 1.0

    def padded(self, values: int, padded: int) -> None:
        """Count a batch of ``values`` values that was padded to ``padded``."""
        self._floats[self._values] += values
        self._floats[self._padded] += padded

    def _observe(self, at: int, seconds: float) -> None:
        self._ints[at + bisect_left(SECONDS, seconds)] += 1
        self._floats[at + SECONDS_SUM] += seconds

    def _was_busy(self, since: float, now: float) -> None:
        self._floats[self._busy] += max(0.0, now - max(since, self._busy_until))
        self._busy_until = max(now, self._busy_until)

    # The loop's thread.

    def look(self, now: float) -> None:
        """Write the busy share of the last seconds, with the call that is running."""
        looks = self._looks
        if looks and now - looks[-1][0] < STEP:
            return
        since = self._running_since
        busy = self._floats[self._busy] + (now - max(since, self._busy_until) if since else 0.0)
        looks.append((now, busy))
        while now - looks[0][0] > SPAN:
            looks.popleft()
        first, before = looks[0]
        if now > first:
            self._floats[self._saturation] = min(1.0, max(0.0, (busy - before) / (now - first)))


class NoEngineCounts(EngineCounts):
    """Counts nothing: metrics are switched off."""

    def begins(self, batch: Sequence[Item], now: float) -> None: ...

    def decoded(self, seconds: float, now: float) -> None: ...

    def decoded_beside(self, seconds: float) -> None: ...

    def predicted(self, since: float, now: float) -> None: ...

    def encoded(self, since: float, now: float) -> None: ...

    def failed(self, since: float, now: float) -> None: ...

    def look(self, now: float) -> None: ...
