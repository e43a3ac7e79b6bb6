"""Lingering: ends a connection on which the client may still be sending.

What comes to a closed connection resets it, and a reset takes along what the client has not read yet. So our half is
closed behind the answer, and what still comes is dropped until the client closes its own, within bounds.
"""

from __future__ import annotations

import asyncio

LINGER_TIME = 5.0  # seconds, counted from when the last of the answer has left
LINGER_BYTES = 128 * 1024 * 1024  # a whole body of the size that is allowed unless configured


class Lingering(asyncio.Protocol):
    """Takes the connection from ``protocol`` for good, which only hears of its end and of what its writing does."""

    def __init__(
        self, protocol: asyncio.Protocol, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._protocol = protocol
        self._transport = transport
        self._loop = loop
        self._left = LINGER_BYTES
        # How it reads is the transport's choice when it begins to.
        transport.pause_reading()
        transport.set_protocol(self)
        transport.resume_reading()
        transport.write_eof()
        self._unsent = transport.get_write_buffer_size()
        self._timer = loop.call_later(LINGER_TIME, self._look)

    def _look(self) -> None:
        unsent = self._transport.get_write_buffer_size()
        if unsent and unsent < self._unsent:
            self._unsent = unsent
            self._timer = self._loop.call_later(LINGER_TIME, self._look)
        else:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self._transport.abort()

    def eof_received(self) -> None:
        """The transport closes, once all has left."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()
