"""Measures: when a worker measures its memory."""

from __future__ import annotations

from collections.abc import Callable

from serving.ipc.scoreboard import Row

MEASURE = 2.0  # seconds, at least, between measurements of a busy worker, and until one counts as idle


class Measures:
    """The schedule: ``busy`` now and then while requests are answered, ``idle`` once after the last of them."""

    def __init__(self, row: Row, busy: Callable[[], None], idle: Callable[[], None]) -> None:
        self._row = row
        self._busy = busy
        self._idle = idle
        self._completed = 0
        self._next = 0.0
        self._is_idle = True

    def due(self, now: float) -> Callable[[], None] | None:
        """Return what to call now, if anything. Asked several times a second."""
        if now < self._next:
            return None
        if self._row.completed != self._completed:
            self._completed, self._next, self._is_idle = self._row.completed, now + MEASURE, False
            return self._busy
        if self._is_idle or self._row.has_work:
            return None
        self._is_idle = True
        return self._idle
