"""Sending: the connection as those see it who answer on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from serving.request import Body

BEGINNING = b"HTTP/1.1 "  # of every answer


class Sending:
    """``close`` ends the connection behind what was written. After ``end`` nothing is written any more."""

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
        """Write the beginning of the next answer, whatever that will be."""
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
