"""Flood: a closed-loop load test of a local server: each connection sends its next request after an answer."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import httptools
import uvloop

from serving.request import Request

PATIENCE = 10.0  # seconds for the last answers


@dataclass(frozen=True, slots=True)
class Measured:
    """The result of one load.

    ``failed`` were answered with another status than 200, or not at all. Latencies in seconds.
    """

    connections: int
    rate: float
    p50: float
    p99: float
    failed: int


def flood(port: int, requests: Sequence[Request], connections: int, seconds: float) -> Measured:
    """Send requests for ``seconds``, after a warm-up as long but at most half a second. Raises OSError."""
    return uvloop.run(_flood(port, requests, connections, seconds))


async def _flood(port: int, requests: Sequence[Request], connections: int, seconds: float) -> Measured:
    loop = asyncio.get_running_loop()
    began = loop.time() + min(0.5, seconds)
    turns = itertools.cycle([message(request) for request in requests])
    pairs = [
        await loop.create_connection(lambda: _Asking(lambda: next(turns), began, began + seconds), "127.0.0.1", port)
        for _ in range(connections)
    ]
    asking = [one for _, one in pairs]
    await asyncio.wait([one.done for one in asking], timeout=min(0.5, seconds) + seconds + PATIENCE)
    for one in asking:
        one.abort()
    found = sorted(itertools.chain.from_iterable(one.latencies for one in asking))
    failed = sum(one.failed for one in asking)
    if not found:
        return Measured(connections, 0.0, 0.0, 0.0, failed)
    return Measured(connections, len(found) / seconds, quantile(found, 0.5), quantile(found, 0.99), failed)


def quantile(values: Sequence[float], share: float) -> float:
    """Return a quantile of sorted values."""
    return values[min(len(values) - 1, int(share * len(values)))]


def message(request: Request) -> bytes:
    head = f"POST /invocations HTTP/1.1\r\nhost: localhost\r\ncontent-type: {request.content_type}\r\n"
    return f"{head}content-length: {len(request.body)}\r\n\r\n".encode() + bytes(request.body)


class _Asking(asyncio.Protocol):
    """One connection, which counts answers from ``began`` to ``ends``."""

    def __init__(self, following: Callable[[], bytes], began: float, ends: float) -> None:
        self._following = following
        self._began, self._ends = began, ends
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self._since = 0.0
        self.latencies: list[float] = []
        self.failed = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def _ask(self) -> None:
        self._since = time.monotonic()
        self._transport.write(self._following())

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._began and now <= self._ends:
            if self._parser.get_status_code() == 200:
                self.latencies.append(time.monotonic() - self._since)
            else:
                self.failed += 1
        if now < self._ends:
            asyncio.get_running_loop().call_soon(self._ask)
        else:
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.failed += 1
        self._end()

    def _end(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def abort(self) -> None:
        self._end()
        self._transport.abort()
