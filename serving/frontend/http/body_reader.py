"""BodyReader: reads the rest of a large body from the connection directly into its final buffer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from serving.system.memory import unfilled

if TYPE_CHECKING:
    from serving.frontend.http.direct_protocol import DirectProtocol
    from serving.frontend.http.exchange import Exchange

STRAIGHT = 64 * 1024  # bytes left to read from which it pays
SPILL = memoryview(bytearray(256 * 1024))  # takes the bytes that are dropped


class BodyReader(asyncio.BufferedProtocol):
    """Reads from the connection in place of ``protocol`` until the ``length`` bytes of the exchange's body are there.
    If the exchange ends before, what still arrives is dropped until another protocol reads.
    """

    def __init__(self, protocol: DirectProtocol, transport: asyncio.Transport, exchange: Exchange, length: int) -> None:
        self._protocol = protocol
        self._transport = transport
        self._exchange = exchange
        body = unfilled(length)
        self._filled = exchange.size
        body[: self._filled] = exchange.body
        self._left = length - self._filled
        self._body: memoryview | None = memoryview(body)
        exchange.replace(body)
        exchange.reader = self
        self._switch(self)

    def _switch(self, protocol: asyncio.BaseProtocol) -> None:
        # The transport chooses between its two ways of reading when reading starts.
        self._transport.pause_reading()
        self._transport.set_protocol(protocol)
        self._transport.resume_reading()

    def drop(self) -> None:
        """Release the buffer, and drop what still arrives."""
        self._body = None

    def get_buffer(self, sizehint: int) -> memoryview:
        return SPILL if self._body is None else self._body[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        self._left -= nbytes
        if self._body is not None:
            self._exchange.count(self._filled)
        if self._body is not None and not self._left:
            self._body = self._exchange.reader = None
            self._switch(self._protocol)
            self._protocol.end_of_straight()

    def eof_received(self) -> bool:
        return self._protocol.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()
