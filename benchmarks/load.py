"""An HTTP/1.1 load generator that says what a client would feel; one process, no client library in the way.

Two ways of asking:

- saturated: a closed loop, each connection sends its next request when the last one is answered. Gives the throughput.
- fixed rate: an open loop, requests are due at fixed moments whatever the server does, and a latency counts from the
  moment the request was *due*. A server that stalls is charged for every request that had to wait meanwhile; counting
  from the moment of sending would leave those out ("coordinated omission").

    python benchmarks/load.py --url http://127.0.0.1:8080/invocations --body '[1]' --connections 8 --rate 500
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import dataclasses
import gc
import itertools
import json
import math
import os
import time
from array import array
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

import httptools
import uvloop

RECONNECT_DELAY = 0.05  # seconds
PATIENCE = 10.0  # seconds that answers may take after the last request


class Exchange(NamedTuple):
    """``request`` is a whole HTTP request; ``expect``, if given, has to occur in the answer's body."""

    request: bytes
    expect: bytes | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """Where to ask what; the exchanges are used in turn."""

    host: str
    port: int
    exchanges: Sequence[Exchange]


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """``requests`` were answered rightly, ``rps`` of them per second; ``errors`` counts the others by status, or as
    ``body`` (not what was expected), ``protocol`` (not HTTP), ``connection`` (lost) or ``unanswered``.
    Latencies are in milliseconds, over all requests: those that failed count as long as they took."""

    connections: int
    rate: float | None
    seconds: float
    requests: int
    errors: dict[str, int]
    rps: float
    p50: float
    p90: float
    p99: float
    p999: float
    max: float


class Schedule(Protocol):
    def take(self) -> float | None:
        """The moment from which the next request's latency counts; None if there is nothing to send now."""

    def exhausted(self) -> bool:
        """True once ``take`` will never again give a moment."""


class ClosedLoop:
    def __init__(self, end: float) -> None:
        self._end = end

    def take(self) -> float | None:
        now = time.monotonic()
        return now if now < self._end else None

    def exhausted(self) -> bool:
        return time.monotonic() >= self._end


class OpenLoop:
    """``total`` requests, due every ``interval`` ns from ``start`` (ns of the monotonic clock)."""

    def __init__(self, start: int, interval: int, total: int) -> None:
        self._start = start
        self._interval = interval
        self._left = total
        self._made = 0
        self._due: deque[float] = deque()

    def advance(self, ticks: int) -> None:
        """``ticks`` more intervals have passed."""
        for _ in range(min(ticks, self._left)):
            self._due.append((self._start + self._made * self._interval) / 1e9)
            self._made += 1
            self._left -= 1

    def take(self) -> float | None:
        return self._due.popleft() if self._due else None

    def exhausted(self) -> bool:
        return self._left == 0 and not self._due


class Ticker:
    """A file descriptor that is readable every ``interval`` ns from ``start`` on (Linux timerfd).

    The event loop's own timers have a resolution of a millisecond, which is more than most answers take.
    """

    def __init__(self, start: int, interval: int) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        # struct itimerspec: the interval, then the first time, each in seconds and nanoseconds; 1 is TFD_TIMER_ABSTIME.
        setting = (ctypes.c_long * 4)(*divmod(interval, 10**9), *divmod(start, 10**9))
        if self._libc.timerfd_settime(self.fd, 1, ctypes.byref(setting), None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")

    def read(self) -> int:
        """How many intervals have begun since the last call."""
        try:
            return int.from_bytes(os.read(self.fd, 8), "little")
        except BlockingIOError:
            return 0

    def close(self) -> None:
        os.close(self.fd)


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request in flight."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self._expect: bytes | None = None
        self.since: float | None = None

    def send(self, exchange: Exchange, since: float) -> None:
        self.since, self._expect, self._body = since, exchange.expect, b""
        self._transport.write(exchange.request)

    def close(self) -> None:
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._load.ready(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._settle("protocol")
            self.close()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200 or self.since is None:
            return
        self._settle(self._judge(status))
        if self._parser.should_keep_alive():
            self._load.ready(self)
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle("connection")
        self._load.lost(self)

    def _judge(self, status: int) -> str | None:
        if status != 200:
            return str(status)
        return None if self._expect is None or self._expect in self._body else "body"

    def _settle(self, error: str | None) -> None:
        since, self.since = self.since, None
        if since is not None:
            self._load.settle(since, error)


class Load:
    """One measurement: the connections, what they still have to send and what came of it."""

    def __init__(self, target: Target, connections: int, schedule: Schedule) -> None:
        self._target = target
        self._size = connections
        self._schedule = schedule
        self._exchanges = itertools.cycle(target.exchanges)
        self._idle: deque[Connection] = deque()
        self._open: set[Connection] = set()
        self._in_flight = 0
        self._stopped = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._latencies = array("d")
        self._errors: Counter[str] = Counter()
        self._done = asyncio.Event()

    async def open(self) -> None:
        """Raises OSError where nobody listens."""
        for _ in range(self._size):
            await self._connect()

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: Connection(self), self._target.host, self._target.port)

    async def _reconnect(self) -> None:
        while not self._stopped:
            try:
                return await self._connect()
            except OSError:
                await asyncio.sleep(RECONNECT_DELAY)

    def ready(self, connection: Connection) -> None:
        """``connection`` can take a request."""
        self._open.add(connection)
        self._idle.append(connection)
        self.pump()

    def pump(self) -> None:
        """Send what is due while a connection is free."""
        while self._idle and (since := self._schedule.take()) is not None:
            self._in_flight += 1
            self._idle.popleft().send(next(self._exchanges), since)
        if not self._in_flight and self._schedule.exhausted():
            self._done.set()

    def settle(self, since: float, error: str | None) -> None:
        """A request that counts from ``since`` has come to its end."""
        self._in_flight -= 1
        self._latencies.append(time.monotonic() - since)
        if error is not None:
            self._errors[error] += 1

    def lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if not self._stopped:
            task = asyncio.ensure_future(self._reconnect())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
