"""Absence: whether a client that sends no more has left, or waits for its answer.

Both look the same: the client's half of the connection has ended. Only what is sent to one that has left comes back as
a reset. So it is sent the beginning of its answer, which is the same for all answers, and then we look for a while.

Where an answer in pieces has begun, each piece tells. A client to which nothing has been sent for ``QUIET`` seconds
counts as gone, since most have, and what is computed for them is dear.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

FIRST = 0.02  # seconds until the first look
SLOWER = 3.0  # times as long until each next one
LOOKS = 6  # the last one is some 7 s after the first
QUIET = 3.0  # seconds
CLOSED = 7  # TCP_CLOSE, the first byte of the kernel's tcp_info


class Absence:
    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._looks = LOOKS
        self._delay = FIRST
        self._timer = loop.call_later(FIRST, self._look)

    def _look(self) -> None:
        if is_reset(self._transport):
            self._transport.abort()
            return
        self._looks -= 1
        self._delay *= SLOWER
        if self._looks:
            self._timer = self._loop.call_later(self._delay, self._look)

    def stop(self) -> None:
        self._timer.cancel()


class Silence:
    """Watches over an answer in pieces whose client sends no more; ``sent`` tells how many pieces have been sent. A
    client that has yet to read some of them is not waited for here."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, sent: Callable[[], int]) -> None:
        self._transport = transport
        self._loop = loop
        self._sent = sent
        self._last = sent()
        self._since = loop.time()
        self._timer = loop.call_later(FIRST, self._look)

    def _look(self) -> None:
        now, sent = self._loop.time(), self._sent()
        if sent != self._last or self._transport.get_write_buffer_size():
            self._last, self._since = sent, now
        if is_reset(self._transport) or now - self._since >= QUIET:
            self._transport.abort()
        else:
            self._timer = self._loop.call_later(QUIET / 10, self._look)

    def stop(self) -> None:
        self._timer.cancel()


def is_reset(transport: asyncio.Transport) -> bool:
    """Whether the other end has reset the connection, also where nobody reads from it or writes to it."""
    try:
        # The event loop lends no socket of its own that could be asked.
        with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as copy:
            return copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == CLOSED
    except OSError:
        return False  # nobody can tell
