"""Absence: whether a client that sends no more has left, or waits for its answer; and that it sends no more, where
nothing is read.

Both look the same: the client's half of the connection has ended. Only what is sent to one that has left comes back as
a reset. So it is sent the beginning of its answer, which is the same for all answers, and then we look for a while.

Where an answer in pieces has begun, each piece tells. A client to which nothing has been sent for ``QUIET`` seconds
counts as gone, since most have, and what is computed for them is dear.
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
SLOWER = 3.0  # times as long until each next one
SLOWEST = 3.0  # seconds between two of them
QUIET = 3.0  # seconds
LOOK = 1.0  # seconds between looks at a connection from which nothing is read
SHORTLY = 3  # looks until one counts as present who is to be told of what is made for it alone
CLOSED, CLOSE_WAIT = 7, 8  # TCP_CLOSE and TCP_CLOSE_WAIT, of the first byte of the kernel's tcp_info


class Absence:
    """Watches over an answer that has yet to begin, whose beginning has been sent."""

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


class Lookout:
    """Watches over a connection while ``is_blind`` says that nothing is read from it, which would tell of its end.

    One whose client has reset it is aborted. ``on_doubt`` hears at each look that the client may have left, and whether
    it sends no more. Else there is something unread in the kernel: where that has no room for more, the end of what the
    client sends does not arrive, and only what is sent to one that has left brings a reset.
    """

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
        """It goes on until it finds that it is not needed: one who reads again need not say so."""
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


async def has_left(transport: asyncio.Transport) -> bool:
    """Whether a client to which the beginning of its answer has been sent resets the connection soon."""
    delay = FIRST
    for _ in range(SHORTLY):
        if is_reset(transport):
            return True
        await asyncio.sleep(delay)
        delay *= SLOWER
    return is_reset(transport)


class Seen(NamedTuple):
    """``state`` is that of a TCP connection as the kernel numbers it, 0 where nobody can tell; ``unread`` bytes have
    come of which nobody here knows."""

    state: int
    unread: int

    @property
    def is_doubtful(self) -> bool:
        return self.state == CLOSE_WAIT or self.unread > 0


def is_reset(transport: asyncio.Transport) -> bool:
    """Whether the other end has reset the connection, also where nobody reads from it or writes to it."""
    return see(transport).state == CLOSED


def see(transport: asyncio.Transport) -> Seen:
    lent = transport.get_extra_info("socket")
    if lent is None:
        return Seen(0, 0)
    try:
        # The event loop lends no socket of its own that could be asked.
        with socket.socket(fileno=os.dup(lent.fileno())) as copy:
            state = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
            unread = fcntl.ioctl(copy, termios.FIONREAD, bytes(4))
    except OSError:
        return Seen(0, 0)
    return Seen(state, int.from_bytes(unread, sys.byteorder))
