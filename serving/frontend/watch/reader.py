"""ReaderWatch: the end of a connection whose client does not read what is sent to it."""

from __future__ import annotations

import asyncio


class ReaderWatch:
    """Aborts the connection when the transport's buffer is full and no byte leaves it for ``seconds``."""

    __slots__ = ("_loop", "_seconds", "_timer", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._transport = transport
        self._loop = loop
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self.stop()
        self._timer = self._loop.call_later(self._seconds, self._check, self._transport.get_write_buffer_size())

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self, before: int) -> None:
        if self._transport.get_write_buffer_size() == before:
            self._transport.abort()
        else:
            self.start()
