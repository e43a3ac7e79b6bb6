"""Load: an HTTP/1.1 load generator that measures what a client would feel, in one process without a client library.

Two kinds of load:

- saturated: a closed loop, each connection sends its next request when the last one is answered. Gives the throughput.
- fixed rate: an open loop, requests are due at fixed moments whatever the server does, and a latency counts from the
  moment the request was *due*. A server that stalls is charged for every request that had to wait meanwhile; counting
  from the moment of sending would leave those out ("coordinated omission").

    python benchmarks/load.py --url http://127.0.0.1:8080/invocations --body '[1]' --connections 8 --rate 500
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import dataclasses
import gc
import itertools
import json
import re
import time
from array import array
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import httptools
import uvloop
from report import Report, percentiles
from schedule import ClosedLoop, OpenLoop, Schedule, Ticker

RECONNECT_DELAY = 0.05  # seconds
FINEST = 100_000  # ns between wake-ups of an open loop: requests due in between are sent with answers, or a little late
OK = b"HTTP/1.1 200 "
LENGTH = re.compile(rb"\r\ncontent-length: *\d+\r\n", re.IGNORECASE)
SEGMENT = 16 << 10  # bytes; smaller answers arrive in one read
PATIENCE = 10.0  # seconds for the last answers


class Exchange(NamedTuple):
    """One request and its check.

    ``request`` is a whole HTTP request; ``expect``, if given, must occur in the answer's body.
    """

    request: bytes
    expect: bytes | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """The server and the exchanges, which are used in turn."""

    host: str
    port: int
    exchanges: Sequence[Exchange]


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request in flight."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self._expect: bytes | None = None
        self._between = True  # between two answers
        self._whole = b""
        self.since: float | None = None

    def send(self, exchange: Exchange, since: float) -> None:
        self.since, self._expect, self._body = since, exchange.expect, b""
        self._transport.write(exchange.request)

    def abandon(self) -> None:
        """Close at once; a request in flight counts as unanswered."""
        self._settle("unanswered")
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports implement asyncio's but do not inherit from them.
        self._transport = cast(asyncio.Transport, transport)
        self._load.ready(self)

    def data_received(self, data: bytes) -> None:
        # The generator takes CPU from the server, so an answer just like an earlier one is not parsed.
        if len(data) == self._load.usual and self._is_usual(data):
            self._settle(None)
            self._load.ready(self)
            return
        self._whole = data if self._between and data.startswith(OK) else b""
        self._between = False
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._settle("protocol")
            self._transport.abort()

    def _is_usual(self, data: bytes) -> bool:
        if not self._between or self.since is None or not data.startswith(OK):
            return False
        return self._load.usual_length in data and (
            self._expect is None or data.find(self._expect, data.find(b"\r\n\r\n") + 4) >= 0
        )

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200 or self.since is None:
            return
        self._settle(self._judge(status))
        self._between = True
        if self._parser.should_keep_alive():
            self._load.learn(self._whole)
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
    """One measurement: its connections, schedule and results."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._exchanges = itertools.cycle(target.exchanges)
        self._schedule: Schedule | None = None
        self._open: set[Connection] = set()
        self._idle: deque[Connection] = deque()
        self._in_flight = 0
        self._latencies = array("d")
        self._errors: Counter[str] = Counter()
        self._done = asyncio.Event()
        self._closed = asyncio.Event()
        self._stopped = False
        self.usual = 0  # bytes of a whole good answer that keeps its connection open
        self.usual_length = b""  # its content-length line
        self._reconnecting: set[asyncio.Task[None]] = set()

    async def connect(self) -> None:
        """Open one more connection. Raises OSError where the port refuses it."""
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: Connection(self), self._target.host, self._target.port)

    def start(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self.pump()

    def ready(self, connection: Connection) -> None:
        """Mark a connection as free for a request."""
        self._open.add(connection)
        self._idle.append(connection)
        self.pump()

    def learn(self, whole: bytes) -> None:
        """Remember a good answer that came in one read."""
        found = LENGTH.search(whole)
        if found is not None and len(whole) < SEGMENT:
            self.usual, self.usual_length = len(whole), found[0]

    def pump(self) -> None:
        """Send requests that are due while connections are free."""
        if self._schedule is None or self._stopped:
            return
        while self._idle and (since := self._schedule.take()) is not None:
            self._in_flight += 1
            self._idle.popleft().send(next(self._exchanges), since)
        if not self._in_flight and self._schedule.exhausted():
            self._done.set()

    def settle(self, since: float, error: str | None) -> None:
        """Count a finished request whose latency starts at ``since``."""
        self._in_flight -= 1
        self._count(since, error)

    def _count(self, since: float, error: str | None) -> None:
        self._latencies.append(time.monotonic() - since)
        if error is not None:
            self._errors[error] += 1

    def lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if self._stopped:
            if not self._open:
                self._closed.set()
        else:
            task = asyncio.ensure_future(self._reconnect())
            self._reconnecting.add(task)
            task.add_done_callback(self._reconnecting.discard)

    async def _reconnect(self) -> None:
        while not self._stopped:
            with contextlib.suppress(OSError):
                await self.connect()
                return
            await asyncio.sleep(RECONNECT_DELAY)

    async def drain(self, patience: float) -> None:
        """Wait for the last answers, at most ``patience`` seconds; missing ones then count as unanswered."""
        self.pump()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._done.wait(), patience)
        self._stopped = True
        for connection in list(self._open):
            connection.abandon()
        if self._open:
            await self._closed.wait()
        while self._schedule is not None and (since := self._schedule.take()) is not None:
            self._count(since, "unanswered")
        await asyncio.gather(*self._reconnecting)

    def report(self, connections: int, rate: float | None, seconds: float) -> Report:
        failed = sum(self._errors.values())
        good = len(self._latencies) - failed
        p50, p90, p99, p999, longest = percentiles(self._latencies, (0.5, 0.9, 0.99, 0.999, 1.0))
        rps = good / seconds
        return Report(connections, rate, seconds, good, dict(self._errors), rps, p50, p90, p99, p999, longest)


async def saturated(target: Target, connections: int, seconds: float, patience: float = PATIENCE) -> Report:
    """Run a closed loop: each connection sends as soon as it has its answer.

    Raises OSError where the port refuses it.
    """
    load = Load(target)
    await open_all(load, connections)
    started = time.monotonic()
    load.start(ClosedLoop(started + seconds))
    await sleep_until(started + seconds)
    await load.drain(patience)
    return load.report(connections, None, time.monotonic() - started)


async def fixed_rate(
    target: Target, connections: int, seconds: float, rate: float, patience: float = PATIENCE
) -> Report:
    """Run an open loop of ``rate`` requests per second, due at even intervals.

    At most ``connections`` are in flight, one on each. Raises OSError where the port refuses it.
    """
    load = Load(target)
    await open_all(load, connections)
    start, interval = time.monotonic_ns(), round(1e9 / rate)
    load.start(OpenLoop(start, interval, round(seconds * rate)))
    ticker = Ticker(start, max(interval, FINEST))

    def tick() -> None:
        ticker.read()
        load.pump()

    loop = asyncio.get_running_loop()
    loop.add_reader(ticker.fd, tick)
    try:
        await sleep_until(start / 1e9 + seconds)
        await load.drain(patience)
    finally:
        loop.remove_reader(ticker.fd)
        ticker.close()
    return load.report(connections, rate, time.monotonic() - start / 1e9)


async def open_all(load: Load, connections: int) -> None:
    for _ in range(connections):
        await load.connect()


async def sleep_until(moment: float) -> None:
    # The loop's clock counts whole milliseconds and may wake up to one too early.
    await asyncio.sleep(max(0.0, moment - time.monotonic()) + 0.002)


def post(url: str, body: bytes, content_type: str) -> bytes:
    """Return a whole HTTP request."""
    parts = urlsplit(url)
    head = f"POST {parts.path or '/'} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: {content_type}\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def read_target(options: argparse.Namespace) -> Target:
    """Return the target of ``--url`` with ``--body``, or with ``--exchanges``.

    That is a JSON list of ``{"body": str, "expect": str}``, or with ``base64`` for a body of bytes.
    """
    entries = json.loads(options.exchanges.read_text()) if options.exchanges else [{"body": options.body}]
    exchanges = []
    for entry in entries:
        expect = entry.get("expect")
        body = base64.b64decode(entry["base64"]) if "base64" in entry else entry["body"].encode()
        request = post(options.url, body, options.content_type)
        exchanges.append(Exchange(request, None if expect is None else expect.encode()))
    parts = urlsplit(options.url)
    return Target(parts.hostname or "127.0.0.1", parts.port or 80, exchanges)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure an HTTP server; prints one JSON object, latencies in ms.")
    parser.add_argument("--url", required=True)
    parser.add_argument("--body", default="")
    parser.add_argument("--exchanges", type=Path, help="a JSON file of bodies and what their answers must contain")
    parser.add_argument("--content-type", default="application/json")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rate", type=float, help="requests per second; without it, as many as will go")
    options = parser.parse_args()
    target = read_target(options)
    # The generator's garbage collection would count as a pause of the server.
    gc.disable()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if options.rate:
            report = runner.run(fixed_rate(target, options.connections, options.seconds, options.rate))
        else:
            report = runner.run(saturated(target, options.connections, options.seconds))
    print(json.dumps(dataclasses.asdict(report)))


if __name__ == "__main__":
    main()
