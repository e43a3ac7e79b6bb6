"""ClientTimer: the end of a connection whose client takes too long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

HEAD_TIME = 30.0  # seconds from a head's first byte to its last
FIRST_TIME = 90.0  # seconds from a connection's beginning to its first byte


class ClientTimer:
    """Calls ``close`` when the client has not sent the first byte, a whole head, or another request in time.

    ``keep_alive`` returns the seconds between a response and the next request. ``is_asking`` returns whether a request
    is under way.
    """

    __slots__ = ("_close", "_head", "_is_asking", "_keep_alive", "_loop", "_since", "_timer")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        close: Callable[[], None],
        keep_alive: Callable[[], float],
        is_asking: Callable[[], bool],
    ) -> None:
        self._loop = loop
        self._close = close
        self._keep_alive = keep_alive
        self._is_asking = is_asking
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._head: asyncio.TimerHandle | None = loop.call_later(FIRST_TIME, close)

    def await_head(self) -> None:
        """Bound the time for the rest of a head."""
        if self._head is None:
            self._head = self._loop.call_later(HEAD_TIME, self._close)

    def stop_head(self) -> None:
        """Note that a head has begun, or is whole."""
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def await_request(self) -> None:
        """Bound the time until the next request. One timer covers all such times, since most end soon."""
        self._since = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._keep_alive(), self._look)

    def _look(self) -> None:
        self._timer = None
        if self._is_asking():
            return
        left = self._since + self._keep_alive() - self._loop.time()
        if left <= 0:
            self._close()
        else:
            self._timer = self._loop.call_later(left, self._look)

    def stop(self) -> None:
        self.stop_head()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
