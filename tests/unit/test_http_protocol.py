"""What a connection does with what is no request, with what comes too early, too slowly, without end or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import ClassVar

import pytest

from serving.frontend.http.head import MAX_FIELDS, MAX_HEAD
from serving.frontend.invocation.exchange import Exchange
from serving.frontend.invocation.state import State
from serving.frontend.watch.clienttimer import ClientTimer
from serving.frontend.watch.lingering import LINGER_BYTES
from tests.unit.browser import MODES, Browser, chunked, post

OK = (200, b"fine")
FINE = post(b"fine")
HEAD = b"POST /invocations HTTP/1.1\r\nhost: x\r\n"
REFUSED = {
    "garbage": (b"\x00\x01 nonsense\r\n\r\n", 400, b"bad_request"),
    "no version": (b"GET /ping\r\n\r\n", 400, b"bad_request"),
    "bare line feeds": (b"GET /ping HTTP/1.1\nhost: x\n\n\r\n\r\n", 400, b"bad_request"),
    "no host": (b"GET /ping HTTP/1.1\r\n\r\n", 400, b"bad_request"),
    "two hosts": (b"GET /ping HTTP/1.1\r\nhost: x\r\nHost: y\r\n\r\n", 400, b"bad_request"),
    "two hosts of HTTP/1.0": (b"GET /ping HTTP/1.0\r\nhost: x\r\nHost: x\r\n\r\n", 400, b"bad_request"),
    "two lengths": (HEAD + b"content-length: 4\r\ncontent-length: 4\r\n\r\nfine", 400, b"bad_request"),
    "a list of lengths": (HEAD + b"content-length: 4, 4\r\n\r\nfine", 400, b"bad_request"),
    "a signed length": (HEAD + b"content-length: +4\r\n\r\nfine", 400, b"bad_request"),
    "length and chunks": (
        HEAD + b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        b"bad_request",
    ),
    "chunks and length": (
        HEAD + b"transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n",
        400,
        b"bad_request",
    ),
    "chunks of HTTP/1.0": (
        b"POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        b"bad_request",
    ),
    "chunks twice": (
        HEAD + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        b"bad_request",
    ),
    "another encoding": (HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, b"not_supported"),
    "a long header": (b"GET /ping HTTP/1.1\r\nhost: x\r\nx: %b\r\n\r\n" % (b"y" * MAX_HEAD), 431, b"head_too_large"),
    "a long address": (b"GET /%b HTTP/1.1\r\nhost: x\r\n\r\n" % (b"y" * MAX_HEAD), 431, b"head_too_large"),
    "many headers": (
        b"GET /ping HTTP/1.1\r\nhost: x\r\n" + b"a:b\r\n" * MAX_FIELDS + b"\r\n",
        431,
        b"head_too_large",
    ),
    "a tunnel": (b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n", 400, b"bad_request"),
}
BROKEN = {
    "no size": (b"zz\r\n", 400),
    "a negative size": (b"-5\r\nhello\r\n0\r\n\r\n", 400),
    "a chunk too long": (b"5\r\nhelloXX0\r\n\r\n", 400),
    "a size beyond all": (b"f" * 17 + b"\r\n", 400),
    "a size with a space": (b"5 \r\nhello\r\n0\r\n\r\n", 400),
    "bare line feeds": (b"5\nhello\n0\n\n\r\n\r\n", 400),
    "a bare line feed in an extension": (b"5;a\nb\r\nhello\r\n0\r\n\r\n", 400),
    "a long extension": (b"5;" + b"x" * 5000 + b"\r\nhello\r\n0\r\n\r\n", 431),
    "an extension without end": (b"5;" + b"x" * 5000, 431),
    "a trailer that is none": (b"0\r\nGET / HTTP/1.1\r\n\r\n", 400),
    "a folded trailer": (b"0\r\na: b\r\n c\r\n\r\n", 400),
    "a trailer with a bare line feed": (b"0\r\na: b\n\nGET / HTTP/1.1\r\n\r\n", 400),
    "many trailers": (b"0\r\n" + b"a:b\r\n" * (MAX_HEAD // 5 + 1), 431),
    "a long trailer": (b"0\r\na: " + b"b" * MAX_HEAD, 431),
}


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await work()

    asyncio.run(whole())


def cuts(data: bytes) -> list[list[bytes]]:
    """All at once, in two at some places, and byte by byte where it is short."""
    found = [[data], *([data[:at], data[at:]] for at in range(1, len(data), max(1, len(data) // 20)))]
    return [*found, [data[at : at + 1] for at in range(len(data))]] if len(data) < 3000 else found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_comes_behind_the_answers_before_it_in_the_form_of_every_error_and_is_the_last(
    mode: str, name: str
) -> None:
    data, status, code = REFUSED[name]

    async def work() -> None:
        for is_slow in (False, True):
            for parts in cuts(FINE + data + FINE):
                one = Browser(mode, is_slow)
                await one.send(*parts)
                assert one.answers == [OK, (status, code)]
                _, headers, body = one.read()[-1]
                assert headers["content-type"] == "application/json"
                assert headers["connection"] == "close"
                assert b'"request_id":"' in body
                assert one.has_ended

    run(work)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", BROKEN)
def test_so_does_that_of_a_broken_body(mode: str, name: str) -> None:
    data, status = BROKEN[name]
    code = b"head_too_large" if status == 431 else b"bad_request"
    head = HEAD + b"x-amzn-sagemaker-inference-id: mine\r\ntransfer-encoding: chunked\r\n\r\n"

    async def work() -> None:
        for parts in cuts(FINE + head + data + FINE):
            one = Browser(mode)
            await one.send(*parts)
            assert one.answers == [OK, (status, code)]
            assert one.seen == [b"fine"]
            assert one.has_ended
            assert one.slot.in_flight == 0

    run(work)


def test_the_clients_own_id_is_that_of_a_refusal() -> None:
    async def work() -> None:
        one = Browser("exchange")
        await one.send(b"GET / HTTP/1.1\r\nx-amzn-sagemaker-inference-id: mine\r\n\r\n")
        assert b'"request_id":"mine"' in one.read()[0][2]

    run(work)


@pytest.mark.parametrize("mode", MODES)
def test_limits_of_a_head_are_its_own_wherever_it_is_cut(mode: str) -> None:
    filler = b"x: %b\r\n\r\n" % (b"y" * 40_000)
    heads = post(b"fine")[:-8] + b"\r\n" + filler + b"fine"  # two of these are more than MAX_HEAD
    large = post(b"z" * (MAX_HEAD + 5))

    async def work() -> None:
        for stream, answers in ((heads * 2, [OK] * 2), (large + heads, [(200, b"z" * (MAX_HEAD + 5)), OK])):
            for cut in (*range(1, len(stream), 9973), len(stream)):
                one = Browser(mode)
                await one.send(stream[:cut], stream[cut:])
                assert one.answers == answers, cut

    run(work)


@pytest.mark.parametrize("mode", MODES)
def test_trailers_are_headers_of_no_request_neither_of_this_nor_of_the_next(mode: str) -> None:
    session = b"X-Amzn-SageMaker-Session-Id: NEW_SESSION\r\nConnection: close\r\n"
    head = HEAD + b"transfer-encoding: chunked\r\n"

    async def work() -> None:
        for parts in cuts(chunked(b"fine", trailers=session) * 2):
            one = Browser(mode)
            await one.send(*parts)
            assert one.answers == [OK] * 2
            assert not one.has_ended
            assert not [name for headers in one.heads for name, _ in headers if "session" in name]
            before = len(one.heads)
            await one.send(head + session + b"\r\n4\r\nfine\r\n0\r\n\r\n")
            assert one.answers == [OK] * 3
            assert ("x-amzn-sagemaker-session-id", "NEW_SESSION") in one.heads[before], "this one does say so"

    run(work)


@pytest.mark.parametrize("mode", MODES)
def test_what_is_asked_before_an_answer_is_there_waits_as_bytes_and_no_more_of_it_is_read(mode: str) -> None:
    async def work() -> None:
        one = Browser(mode)
        one.hold()
        await one.send(FINE * 5000)
        assert not one.wire.is_reading
        assert one.seen == [b"fine"], "one at a time is made of them"
        await one.send(FINE * 5000)
        assert one.wire.unsent == FINE * 5000, "they are the client's still"
        await one.release()
        while len(one.seen) < 10_000:
            await one.settle()
        await one.settle()
        assert len(one.answers) == 10_000
        assert one.wire.is_reading

    run(work)


@pytest.mark.parametrize("mode", MODES)
def test_answers_that_nobody_reads_are_not_added_to(mode: str) -> None:
    ping = b"GET /ping HTTP/1.1\r\nhost: x\r\n\r\n"

    async def work() -> None:
        one = Browser(mode)
        await one.send(ping)
        one.protocol.pause_writing()
        await one.send(ping * 1000)
        assert len(one.answers) == 1
        assert not one.wire.is_reading
        one.protocol.resume_writing()
        for _ in range(1000):
            await one.settle()
        assert len(one.answers) == 1001
        assert one.wire.is_reading

    run(work)


UPGRADE = b"GET /ws HTTP/1.1\r\nhost: x\r\nupgrade: WebSocket\r\nconnection: Upgrade\r\n\r\n"


class Socket(asyncio.Protocol):
    """A WebSocket protocol that notes what it is given."""

    given: ClassVar[list[bytes]] = []

    def __init__(self, **_: object) -> None:
        self.given.clear()

    def data_received(self, data: bytes) -> None:
        self.given.append(data)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("is_slow", [False, True])
def test_a_websocket_on_a_used_connection_is_not_idle_and_has_what_was_sent_to_it(mode: str, is_slow: bool) -> None:
    async def work() -> None:
        for parts in cuts(FINE + UPGRADE + b"first")[:-1]:
            one = Browser(mode, is_slow)
            one.protocol.ws_protocol_class = Socket  # type: ignore[assignment]
            await one.send(*parts)
            assert one.answers == [OK]
            assert one.wire.protocol.given[0].startswith(b"GET /ws HTTP/1.1\r\n")
            assert b"".join(one.wire.protocol.given).endswith(b"\r\n\r\nfirst")
            await one.send(b"second")
            assert one.wire.protocol.given[-1] == b"second"
            timers = [handle for handle in asyncio.get_running_loop()._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
            owners = [getattr(handle._callback, "__self__", None) for handle in timers]
            assert one.protocol not in owners, "no timer is left that could close it"
            assert one.wire not in owners
            assert not any(isinstance(owner, ClientTimer) for owner in owners)

    run(work)


HALF_CLOSED = {
    "a length": (FINE, [OK]),
    "chunks": (chunked(b"fine"), [OK]),
    "HTTP/1.0": (b"POST /invocations HTTP/1.0\r\ncontent-length: 4\r\n\r\nfine", [OK]),
    "close": (post(b"fine", "connection: close"), [OK]),
    "two": (FINE + post(b"more"), [OK, (200, b"more")]),
    "an error": (post(b"fine", path="/early/400"), [(400, b"early")]),
    "a large body": (post(b"z" * 300_000), [(200, b"z" * 300_000)]),
    "nothing": (b"", []),
    "half a head": (FINE + HEAD, [OK, (400, b"bad_request")]),
    "half a body": (FINE + post(b"fine")[:-1], [OK, (400, b"bad_request")]),
    "half a large body": (post(b"z" * 300_000)[:-1], [(400, b"bad_request")]),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("is_slow", [False, True])
@pytest.mark.parametrize("name", HALF_CLOSED)
def test_a_client_that_closed_its_half_is_answered_in_full(mode: str, is_slow: bool, name: str) -> None:
    data, answers = HALF_CLOSED[name]

    async def work() -> None:
        for turns in range(4):
            one = Browser(mode, is_slow)
            one.wire.unsent = data
            one.wire.deliver()
            for _ in range(turns):
                await asyncio.sleep(0)
                one.wire.deliver()
            while one.wire.unsent:  # it is the end only behind all that was sent
                await one.settle()
            await one.end()
            assert one.answers == answers
            assert one.wire.is_closed
            assert one.slot.in_flight == 0

    run(work)


@pytest.mark.parametrize("mode", MODES)
def test_what_comes_behind_an_early_answer_is_dropped_up_to_a_bound(mode: str) -> None:
    async def work() -> None:
        one = Browser(mode)
        await one.send(post(b"z" * 10, path="/early/404")[:-10])
        assert one.wire.is_ended
        assert not one.wire.is_closed
        await one.send(b"\r\n" * 1000)
        assert not one.wire.is_closed
        block = bytes(1 << 22)
        for _ in range(LINGER_BYTES // len(block) + 1):
            one.wire.protocol.data_received(block)
        assert one.wire.is_closed
        assert one.answers == [(404, b"early")]

    run(work)


@pytest.mark.parametrize("mode", MODES)
def test_blank_lines_keep_no_connection(mode: str) -> None:
    async def work() -> None:
        one = Browser(mode)
        one.protocol.timeout_keep_alive = 1
        await one.send(FINE)
        await one.send(*[b"\r\n"] * 100)
        assert not one.has_ended
        loop = asyncio.get_running_loop()
        looks = [handle for handle in loop._scheduled if is_look(handle)]  # type: ignore[attr-defined]
        assert len(looks) == 1
        assert looks[0].when() - loop.time() <= 1
        one.protocol.timeout_keep_alive = 0
        looks[0]._run()
        assert one.wire.is_closed
        assert one.answers == [OK]

    run(work)


def is_look(handle: asyncio.TimerHandle) -> bool:
    """Whether it looks how long a connection has been idle."""
    owner = getattr(handle._callback, "__self__", None)  # type: ignore[attr-defined]
    return not handle.cancelled() and isinstance(owner, ClientTimer)


def test_a_large_body_that_is_late_is_504_and_the_connection_goes_with_it() -> None:
    async def work() -> None:
        one = Browser("exchange")
        await one.send(post(b"z" * 500_000)[:100_000])
        assert isinstance(one.wire.protocol, asyncio.BufferedProtocol)
        assert isinstance(one.protocol.turn, Exchange)
        one.protocol.turn.expire()
        await one.settle()
        assert one.answers == [(504, b"deadline_exceeded")]
        assert one.has_ended
        assert not isinstance(one.wire.protocol, asyncio.BufferedProtocol), "its buffer is gone"
        await one.send(b"z" * 400_000 + FINE)
        assert len(one.answers) == 1
        assert one.slot.in_flight == 0

    run(work)


def test_a_request_that_must_wait_for_a_replica_stays_the_same_request() -> None:
    async def work() -> None:
        for stream in (chunked(b"z" * 100_000, size=1000), post(b"fine")):
            one = Browser("exchange")
            one.replicas.echo = None  # not at hand
            one.wire.unsent = stream[:-1]
            one.wire.deliver()
            assert one.slot.in_flight == 1
            current = one.protocol.turn
            assert isinstance(current, Exchange)
            known = (current.arrival, current.request_id, current.expires)
            await one.send(stream[-1:])
            assert (current.arrival, current.request_id, current.expires) == known
            assert current.state is State.ANSWERED
            assert one.slot.in_flight == 0
            assert one.answers[0][0] == 200

    run(work)


def test_a_client_of_http_1_0_gets_no_answer_but_its_own() -> None:
    """RFC 9110 §15.2: it knows no 100 Continue."""

    async def work() -> None:
        for path in ("/invocations", "/early/404"):
            one = Browser("exchange")
            await one.send(
                b"POST %b HTTP/1.0\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n" % path.encode(), b"fine"
            )
            assert [status for status, _ in one.answers] == [200 if path == "/invocations" else 404]

    run(work)
