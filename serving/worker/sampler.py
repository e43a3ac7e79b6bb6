"""Sampler: which line of the handler's code runs, looked at from beside it several times a second.

A process that is killed leaves no stacks; this is what is known then.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from types import FrameType

from serving.ipc.scoreboard import Phase, Row
from serving.postmortem.blackbox import BlackBox
from serving.usercode import origin

PERIOD = 0.25  # seconds


class Sampler:
    """Looks at the main thread of the worker in ``row`` and keeps in ``box`` what it sees while user code runs there.

    Call all of it on the loop's thread.
    """

    def __init__(self, row: Row, box: BlackBox) -> None:
        self._row = row
        self._box = box
        self._thread = threading.main_thread().ident
        self._is_own: dict[str, bool] = {}
        self._shown = ""

    def start(self) -> None:
        """Look, and from now on again and again for as long as the loop runs."""
        asyncio.get_running_loop().call_later(PERIOD, self.start)
        is_busy = self._row.phase < Phase.READY or self._row.busy_until
        place = self._place() if is_busy else ""
        if place or self._shown:
            self._box.see(place, time.monotonic())
        self._shown = place

    def _place(self) -> str:
        """Return the innermost line of the model's own code on the main thread, "" if none runs."""
        frame: FrameType | None = sys._current_frames().get(self._thread or 0)
        while frame is not None:
            file = frame.f_code.co_filename
            is_own = self._is_own.get(file)
            if is_own is None:
                is_own = self._is_own[file] = origin.is_own(file)
            if is_own:
                return f"{origin.shown(file)}:{frame.f_lineno} in {frame.f_code.co_name}"
            frame = frame.f_back
        return ""
