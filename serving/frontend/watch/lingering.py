"""Lingering: the end of a connection on which the client may still be sending.

Data that arrives at a closed connection resets it, and a reset discards what the client has not read yet. So only the
sending side is shut down after the response, and what still arrives is dropped until the client closes its side, within
limits of time and bytes.
"""

from __future__ import annotations

import asyncio

LINGER_TIME = 5.0  # seconds, counted from when the last byte of the response has left
LINGER_BYTES = 128 * 1024 * 1024  # a whole body of the default limit


class Lingering(asyncio.Protocol):
    """Takes the connection over from ``protocol``, which learns only of its end, and of pauses in writing."""

    def __init__(
        self, protocol: asyncio.Protocol, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._protocol = protocol
        self._transport = transport
        self._loop = loop
        self._left = LINGER_BYTES
        # The transport chooses between its two ways of reading when reading starts.
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
        """Let the transport close, once everything is sent."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()
