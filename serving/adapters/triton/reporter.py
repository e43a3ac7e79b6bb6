"""Reporter: a model's own metrics, on their way to the server's ``GET /metrics``."""

from __future__ import annotations

import threading
import time

from serving.metrics.instruments import LOCK, TARGET
from serving.metrics.region import MODEL, Kind, Series
from triton_python_backend_utils import metrics
from triton_python_backend_utils.metrics import MetricKind

INTERVAL = 0.5  # seconds between checks for changes
PAUSE = 0.05  # seconds, at least, between the checks that answers cause
KINDS = {MetricKind.COUNTER: Kind.COUNTER, MetricKind.GAUGE: Kind.GAUGE, MetricKind.HISTOGRAM: Kind.HISTOGRAM}


class Reporter:
    """Writes all metrics of this process where the server reads them. Each has the labels ``model``, which is the name
    in the configuration, and ``replica`` besides its own, which win.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._next = 0.0
        self._closing = threading.Event()
        threading.Thread(target=self._run, name="metrics", daemon=True).start()

    def close(self) -> None:
        self._closing.set()

    def touch(self) -> None:
        """Write the metrics before an answer leaves, since its client may read them next."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + PAUSE
            write(self._model)

    def _run(self) -> None:
        while not self._closing.wait(INTERVAL):
            write(self._model)


def write(model: str) -> None:
    """Write the values of all metrics; a metric for which there is no room is left out."""
    with LOCK:
        region = TARGET.region
        for one in metrics.samples():
            labels = {**TARGET.more, MODEL: model, **one.labels}
            at = region.place(Series(one.name, KINDS[one.kind], one.help, tuple(labels.items()), one.bounds))
            if at is None:
                continue
            for offset, count in enumerate(one.counts):
                region.ints[at + offset] = count
            region.floats[at + len(one.counts)] = one.value
