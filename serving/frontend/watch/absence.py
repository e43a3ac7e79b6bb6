"""Absence: detects clients that have disconnected, also while nothing is read from them.

A client that has disconnected and one that only shut down its sending side look the same: an end of file. The
difference shows when something is sent: a disconnected client resets the connection. So the first bytes of the
response, which are the same for all responses, are sent early, and the connection is checked for a reset from time to
time.

In a streamed response that has begun, each chunk is such a test. A client that sends no more and has been sent nothing
for ``QUIET`` seconds counts as gone: most are, and what is computed for them is expensive.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import sys
import termios
from collections.abc import Callable
from typing import NamedTuple

FIRST = 0.02  # seconds until the first look
SLOWER = 3.0  # factor by which each next delay grows
SLOWEST = 3.0  # seconds between two looks at most
QUIET = 3.0  # seconds
LOOK = 1.0  # seconds between looks at a connection from which nothing is read
SHORTLY = 3  # looks before a client counts as present that is to be sent a new session
CLOSED, CLOSE_WAIT = 7, 8  # TCP_CLOSE and TCP_CLOSE_WAIT, of the first byte of the kernel's tcp_info


class Absence:
    """Watches a client that waits for its response, of which only the first bytes have been sent."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._delay = FIRST
        self._timer = loop.call_later(FIRST, self._look)

    def _look(self) -> None:
        if is_reset(self._transport):
            self._transport.abort()
            return
        self._delay = min(SLOWEST, self._delay * SLOWER)
        self._timer = self._loop.call_later(self._delay, self._look)

    def stop(self) -> None:
        self._timer.cancel()


class Silence:
    """Watches a client that sends no more while it gets a streamed response. ``sent`` returns the number of chunks
    sent. A client that has yet to read some of them is not ended here.
    """

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


class Lookout:
    """Watches a connection while ``is_blind`` says that nothing is read from it, so that its end goes unnoticed.

    A connection that the client has reset is aborted. ``on_doubt`` is called at each look at which the client may have
    left, with whether it sends no more. If it may still send, unread bytes are in the kernel: when its buffer is full
    the client's end of file does not arrive, and only sending something to a client that has left brings a reset.
    """

    __slots__ = ("_is_blind", "_loop", "_on_doubt", "_timer", "_transport")

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        is_blind: Callable[[], bool],
        on_doubt: Callable[[bool], None],
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._is_blind = is_blind
        self._on_doubt = on_doubt
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to watch; the watch ends by itself once reading has resumed."""
        if self._timer is None:
            self._timer = self._loop.call_later(LOOK, self._look)

    def _look(self) -> None:
        self._timer = None
        if not self._is_blind() or self._transport.is_closing():
            return
        seen = see(self._transport)
        if seen.state == CLOSED:
            self._transport.abort()
            return
        self.start()
        if seen.is_doubtful:
            self._on_doubt(seen.state == CLOSE_WAIT)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


async def has_disconnected(transport: asyncio.Transport) -> bool:
    """Return whether the client, which has been sent the first bytes of its response, resets the connection soon."""
    delay = FIRST
    for _ in range(SHORTLY):
        if is_reset(transport):
            return True
        await asyncio.sleep(delay)
        delay *= SLOWER
    return is_reset(transport)


class Seen(NamedTuple):
    """The ``state`` of a TCP connection in the kernel's numbering, 0 where it is unknown, and the number of ``unread``
    bytes in the kernel.
    """

    state: int
    unread: int

    @property
    def is_doubtful(self) -> bool:
        return self.state == CLOSE_WAIT or self.unread > 0


def is_reset(transport: asyncio.Transport) -> bool:
    """Return whether the client has reset the connection, also while nothing is read from it or written to it."""
    return see(transport).state == CLOSED


def see(transport: asyncio.Transport) -> Seen:
    lent = transport.get_extra_info("socket")
    if lent is None:
        return Seen(0, 0)
    try:
        # The event loop gives out only a wrapper of its socket, without these calls.
        with socket.socket(fileno=os.dup(lent.fileno())) as copy:
            state = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
            unread = fcntl.ioctl(copy, termios.FIONREAD, bytes(4))
    except OSError:
        return Seen(0, 0)
    return Seen(state, int.from_bytes(unread, sys.byteorder))
