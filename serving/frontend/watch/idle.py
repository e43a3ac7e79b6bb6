"""IdleTimer: the end of a connection on which nothing is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class IdleTimer:
    """Calls ``on_idle`` when nothing has happened on a connection for as long as ``seconds`` returns.

    One timer covers all idle times between requests; ``is_busy`` returns whether a request is under way.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        seconds: Callable[[], float],
        is_busy: Callable[[], bool],
        on_idle: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._is_busy = is_busy
        self._on_idle = on_idle
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Count from now on."""
        self._since = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds(), self._look)

    def _look(self) -> None:
        self._timer = None
        if self._is_busy():
            return
        left = self._since + self._seconds() - self._loop.time()
        if left <= 0:
            self._on_idle()
        else:
            self._timer = self._loop.call_later(left, self._look)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
