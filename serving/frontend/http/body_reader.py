"""BodyReader: reads the rest of a large body from the connection directly into its final buffer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from serving.frontend.invocation.exchange import Exchange
from serving.system.memory import unfilled

STRAIGHT = 64 * 1024  # bytes left to read from which it pays
LARGEST = 1 << 30  # bytes; the buffer for a larger body grows as it arrives
SPILL = memoryview(bytearray(256 * 1024))  # takes the bytes that are dropped


class BodyReader(asyncio.BufferedProtocol):
    """Reads from the connection in place of ``protocol`` until the whole body of the exchange is there; then ``on_end``
    is called. If the exchange ends before, what still arrives is dropped until another protocol reads.
    """

    def __init__(
        self, protocol: asyncio.Protocol, transport: asyncio.Transport, exchange: Exchange, on_end: Callable[[], None]
    ) -> None:
        self._protocol = protocol
        self._transport = transport
        self._exchange = exchange
        self._on_end = on_end
        body = unfilled(exchange.length)
        self._filled = exchange.size
        body[: self._filled] = exchange.body
        self._left = exchange.length - self._filled
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
            self._on_end()

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()
