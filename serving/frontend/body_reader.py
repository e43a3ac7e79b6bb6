"""BodyReader: reads the rest of a large body from the connection straight into the buffer that is its last."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from serving.memory import unfilled

if TYPE_CHECKING:
    from serving.frontend.direct_protocol import DirectProtocol
    from serving.frontend.exchange import Exchange

STRAIGHT = 64 * 1024  # bytes to come from which on it pays


class BodyReader(asyncio.BufferedProtocol):
    """Takes the connection from ``protocol`` until the ``length`` bytes of the exchange's body are there, or until the
    exchange ends before."""

    def __init__(self, protocol: DirectProtocol, transport: asyncio.Transport, exchange: Exchange, length: int) -> None:
        self._protocol = protocol
        self._transport = transport
        self._exchange = exchange
        body = unfilled(length)
        self._filled = exchange.size
        body[: self._filled] = exchange.body
        self._rest = memoryview(body)
        exchange.replace(body)
        self._switch(self)

    def _switch(self, protocol: asyncio.BaseProtocol) -> None:
        # How it reads is the transport's choice when it begins to.
        self._transport.pause_reading()
        self._transport.set_protocol(protocol)
        self._transport.resume_reading()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._rest[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        if self._filled == len(self._rest):
            self._rest = memoryview(b"")
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
