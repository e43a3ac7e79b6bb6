"""Sending: the transport that responses are written to, which may have sent the first bytes of the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from serving.request import Body

BEGINNING = b"HTTP/1.1 "  # the first bytes of every response
CUT_TIME = 5.0  # seconds for the last bytes to be sent before a connection is cut


class Sending:
    """The sending side of a connection. ``close`` ends it after what was written. After ``end`` all writes are
    dropped.
    """

    __slots__ = ("_transport", "close", "is_closing", "write", "writelines")

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self._transport = transport
        self.close = close
        self.is_closing: Callable[[], bool] = transport.is_closing
        self._open()

    def _open(self) -> None:
        self.write: Callable[[Body], None] = self._transport.write
        self.writelines: Callable[[Iterable[Body]], None] = self._transport.writelines

    def begin(self) -> None:
        """Write the first bytes of the next response, which are the same for every response."""
        self._transport.write(BEGINNING)
        self.write, self.writelines = self._go_on, self._go_on_with

    def _go_on(self, data: Body) -> None:
        self._open()
        self._transport.write(data[len(BEGINNING) :])

    def _go_on_with(self, parts: Iterable[Body]) -> None:
        self._go_on(b"".join(parts))

    def end(self) -> None:
        self.close = nothing
        self.is_closing = yes
        self.write = self.writelines = drop


def yes() -> bool:
    return True


def nothing() -> None: ...


def drop(_: object) -> None: ...
