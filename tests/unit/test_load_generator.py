"""The load generator tells the truth, also where the server looks bad."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
STALL = 0.2  # seconds

with pytest.MonkeyPatch.context() as patch:
    # Scripts find their neighbours by being run in their folder.
    patch.syspath_prepend(str(BENCHMARKS))
    from load import Exchange, Target, fixed_rate, post, saturated
    from report import Report, median, percentiles

Reply = Callable[[int, bytes], bytes | None]


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


def echo(_: int, body: bytes) -> bytes:
    return ok(body)


class Server:
    """Answers on a thread of its own what ``reply`` gives for the n-th request; None hangs up instead."""

    def __init__(self, reply: Reply) -> None:
        self.count = 0
        self.connections = 0
        self._reply = reply
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(server.sockets[0].getsockname()[1])
        self._ready.set()
        await self._stop.wait()
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while (answer := self._reply(*await self._read(reader))) is not None:
                writer.write(answer)
        writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
        self.count += 1
        return self.count, body

    def __enter__(self) -> Server:
        self._thread.start()
        assert self._ready.wait(5)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(5)

    def target(self, *exchanges: tuple[bytes, bytes | None]) -> Target:
        url = f"http://127.0.0.1:{self.port}/invocations"
        pairs = exchanges or ((b"[1]", None),)
        return Target("127.0.0.1", self.port, [Exchange(post(url, body, "text/plain"), want) for body, want in pairs])


def measure(measurement: Coroutine[Any, Any, Report]) -> Report:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(measurement)


def stalling(at: int) -> Reply:
    """Stops the whole server once, at the ``at``-th request."""

    def reply(n: int, body: bytes) -> bytes:
        if n == at:
            time.sleep(STALL)
        return ok(body)

    return reply


def test_a_stall_is_charged_to_every_request_that_was_due_meanwhile() -> None:
    with Server(stalling(at=100)) as server:
        report = measure(fixed_rate(server.target(), connections=4, seconds=1.0, rate=500))
    assert report.requests == 500
    assert report.errors == {}
    assert report.max >= STALL * 1000
    # 100 of 500 requests were due within those 200 ms, the last of them hardly had to wait.
    assert report.p90 >= 50
    assert report.p99 >= 150
    assert report.p50 < 50


def test_the_closed_loop_sees_the_same_stall_once_for_each_connection() -> None:
    with Server(stalling(at=100)) as server:
        report = measure(saturated(server.target(), connections=2, seconds=0.6))
    assert report.max >= STALL * 1000
    assert report.p90 < 50


def test_requests_are_sent_at_the_rate_asked_for() -> None:
    with Server(echo) as server:
        report = measure(fixed_rate(server.target(), connections=8, seconds=0.5, rate=400))
    assert server.count == report.requests == 200
    assert 200 < report.rps < 440, "a machine with other work only makes it slower"
    assert report.rate == 400


def test_a_server_too_slow_for_the_rate_shows_in_the_latency() -> None:
    def slow(_: int, body: bytes) -> bytes:
        time.sleep(0.01)
        return ok(body)

    with Server(slow) as server:
        report = measure(fixed_rate(server.target(), connections=8, seconds=0.5, rate=200))
    assert report.requests == 100
    assert report.rps < 110
    assert report.max > 400


def test_connections_are_kept_and_every_request_is_counted() -> None:
    with Server(echo) as server:
        report = measure(saturated(server.target(), connections=3, seconds=0.3))
    assert server.connections == 3
    assert server.count == report.requests
    assert report.rps == pytest.approx(report.requests / report.seconds)
    assert 0 < report.p50 <= report.p90 <= report.p99 <= report.p999 <= report.max


def test_answers_as_long_as_good_ones_are_told_from_them() -> None:
    def reply(n: int, body: bytes) -> bytes:
        good = ok(body)
        return {0: good.replace(b"200 OK", b"500 NO"), 1: good.replace(body, b"x" * len(body))}.get(n % 4, good)

    with Server(reply) as server:
        report = measure(fixed_rate(server.target((b"[12345]", b"[12345]")), connections=2, seconds=0.4, rate=200))
    assert report.errors == {"500": 20, "body": 20}
    assert report.requests == 40


def test_what_is_expected_of_a_body_is_not_found_in_the_head() -> None:
    def reply(n: int, body: bytes) -> bytes:
        return ok(b"right" if n == 1 else b"wrong").replace(b"\r\n\r\n", b"\r\nx: right\r\n\r\n")

    with Server(reply) as server:
        report = measure(fixed_rate(server.target((b"[1]", b"right")), connections=1, seconds=0.2, rate=100))
    assert report.requests == 1
    assert report.errors == {"body": 19}


def test_an_answer_whose_first_part_is_as_long_as_a_whole_one_is_one_answer() -> None:
    long = b"y" * 1000
    usual = ok(b"[1]")
    cut = len(usual)
    parts: list[bytes] = []

    def reply(n: int, body: bytes) -> bytes:
        if n % 3:
            return usual
        whole = ok(long)
        parts.append(whole[cut:])
        return whole[:cut]

    class Late(Server):
        async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while (answer := self._reply(*await self._read(reader))) is not None:
                    writer.write(answer)
                    while parts:
                        await writer.drain()
                        await asyncio.sleep(0.005)  # so that it is read apart
                        writer.write(parts.pop())
            writer.close()

    with Late(reply) as server:
        report = measure(saturated(server.target(), connections=1, seconds=0.3))
    assert report.errors == {}
    assert report.requests == server.count > 10


def test_another_status_is_an_error_and_no_answered_request() -> None:
    def refuse_every_fourth(n: int, body: bytes) -> bytes:
        return ok(body) if n % 4 else b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"

    with Server(refuse_every_fourth) as server:
        report = measure(saturated(server.target(), connections=2, seconds=0.2))
    assert report.errors == {"503": server.count // 4}
    assert report.requests == server.count - server.count // 4


def test_the_answer_to_another_request_is_an_error() -> None:
    def crossed(n: int, body: bytes) -> bytes:
        return ok(b"b" if n == 7 else body)

    with Server(crossed) as server:
        report = measure(saturated(server.target((b"a", b"a"), (b"cc", b"cc")), connections=1, seconds=0.2))
    assert report.errors == {"body": 1}


def test_a_lost_connection_is_an_error_and_is_opened_again() -> None:
    with Server(lambda n, body: ok(body) if n % 10 else None) as server:
        report = measure(saturated(server.target(), connections=1, seconds=0.2))
    assert report.errors == {"connection": server.count // 10}
    assert report.requests == server.count - server.count // 10


def test_what_is_no_http_is_an_error() -> None:
    with Server(lambda n, body: b"nonsense\r\n\r\n" if n == 5 else ok(body)) as server:
        report = measure(saturated(server.target(), connections=1, seconds=0.2))
    assert report.errors == {"protocol": 1}
    assert report.requests > 10


def test_what_is_never_answered_counts_for_as_long_as_it_waited() -> None:
    with Server(lambda n, body: b"" if n == 3 else ok(body)) as server:
        report = measure(fixed_rate(server.target(), connections=1, seconds=0.2, rate=50, patience=0.3))
    assert report.requests == 2
    assert report.errors == {"unanswered": 8}
    assert report.max >= 400


def test_nobody_listening_is_said_at_once() -> None:
    with Server(echo) as server:
        target = server.target()
    with pytest.raises(OSError, match="refused"):
        measure(saturated(target, connections=1, seconds=1))


def test_percentiles_are_values_that_occurred() -> None:
    hundred = [n / 1000 for n in range(100, 0, -1)]
    assert percentiles(hundred, (0.5, 0.9, 0.99, 0.999, 1.0)) == [50, 90, 99, 100, 100]
    assert percentiles([], (0.5, 1.0)) == [0, 0]


def test_the_median_of_repeats_keeps_all_errors() -> None:
    def repeat(rps: float, **errors: int) -> Report:
        return Report(8, None, 1.0, int(rps), errors, rps, 1, 2, 3, 4, rps)

    middle = median([repeat(10, lost=1), repeat(30), repeat(20, lost=2)])
    assert (middle.rps, middle.max, middle.errors) == (20, 20, {"lost": 3})
