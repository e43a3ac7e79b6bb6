"""Reporter: a model's own metrics, written to the file that the server's ``GET /metrics`` reads."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

from triton_python_backend_utils import metrics

INTERVAL = 0.5  # seconds between checks for changes
PAUSE = 0.05  # seconds, at least, between the checks that answers cause


class Reporter:
    def __init__(self, path: Path, model: str) -> None:
        self._path = path
        self._labels = {"model": model, "replica": path.stem.removeprefix("worker-")}
        self._written = ""
        self._lock = threading.Lock()
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
            self._look()

    def _run(self) -> None:
        while not self._closing.wait(INTERVAL):
            self._look()

    def _look(self) -> None:
        with self._lock:
            text = metrics.render(self._labels)
            if text != self._written:
                with contextlib.suppress(OSError):  # the folder goes when the server ends
                    self._write(text)

    def _write(self, text: str) -> None:
        # Write and rename, so that no reader sees half of it.
        part = self._path.with_suffix(".part")
        part.write_text(text)
        part.replace(self._path)
        self._written = text
