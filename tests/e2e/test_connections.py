"""Connections of clients that send too much, too early or no more, against the real server."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.system.memory import memory_of
from tests.e2e.client import once
from tests.e2e.server import Server, eventually, model_folder, serving

MB = 1_000_000
HEAD = b"POST /invocations HTTP/1.1\r\nhost: x\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
SLOW = b'{"do": "sleep", "seconds": 0.3, "id": 7}'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = model_folder(tmp_path_factory.mktemp("faulty"), "faulty:Faulty")
    with serving(folder, http_workers=1) as one:
        yield one


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def post(body: bytes, *lines: bytes) -> bytes:
    head = b"\r\n".join((b"content-type: application/json", *lines, b"content-length: %d" % len(body)))
    return HEAD + head + b"\r\n\r\n" + body


def everything(connection: socket.socket) -> bytes:
    """All that comes until the server closes, which must not be a reset."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (post(SLOW), 1),
        (post(SLOW, b"connection: close"), 1),
        (b"POST /invocations HTTP/1.0\r\ncontent-type: application/json\r\n" + post(SLOW)[len(HEAD) :], 1),
        (CHUNKED[:-2] + b"content-type: application/json\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(SLOW), SLOW), 1),
        (post(SLOW) * 2, 2),
        (post(SLOW, b"expect: 100-continue"), 1),
    ],
    ids=["length", "close", "1.0", "chunked", "two", "expect"],
)
def test_a_client_that_sends_no_more_has_its_answer_in_full(server: Server, data: bytes, count: int) -> None:
    with connect(server) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        got = everything(connection).replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    assert got.count(b"HTTP/1.1 ") == got.count(b'"id":7') == count


def test_a_client_that_has_left_takes_its_queued_request_with_it(server: Server) -> None:
    with connect(server) as first:
        first.sendall(post(b'{"do": "sleep", "seconds": 0.6}'))
        eventually(lambda: "serving_requests_in_flight 1" in metrics(server))
        left = connect(server)
        left.sendall(post(b'{"do": "segfault"}'))
        eventually(lambda: "serving_requests_in_flight 2" in metrics(server))
        left.close()
        eventually(lambda: "serving_requests_in_flight 1" in metrics(server))
        assert first.recv(12) == b"HTTP/1.1 200"
    assert not server.lines(message="a worker ended")


def metrics(server: Server) -> str:
    with connect(server) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        return everything(connection).decode()


def http_memory(server: Server) -> int:
    """Bytes of the processes that speak HTTP, as they are now."""
    return sum(memory_of(pid).private for pid in server.children() if is_http(pid))


def is_http(pid: int) -> bool:
    return b"serving.frontend.server" in Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.parametrize("trailers", [b"a:b\r\n" * 200_000, b"a: " + b"b" * MB], ids=["many", "long"])
def test_trailers_are_bounded(server: Server, trailers: bytes) -> None:
    before = http_memory(server)
    with connect(server) as connection:
        connection.sendall(CHUNKED + b"2\r\n{}\r\n0\r\n")
        try:
            for _ in range(20):
                connection.sendall(trailers)
        except ConnectionError:
            pass  # what comes behind the answer is dropped up to a bound
        started = time.monotonic()
        assert server.ping() == 200
        assert time.monotonic() - started < 4
        connection.shutdown(socket.SHUT_WR)
        assert everything(connection).startswith(b"HTTP/1.1 431 ")
    assert http_memory(server) < before + 10 * MB


def test_requests_that_come_too_early_stay_with_their_client(server: Server) -> None:
    before = http_memory(server)
    many = post(b"{}") * 20_000
    connections = [connect(server) for _ in range(10)]
    try:
        for connection in connections:
            connection.sendall(post(b'{"do": "sleep", "seconds": 0.1}'))
            connection.setblocking(False)
            connection.send(many)
        assert server.ping() == 200
        assert http_memory(server) < before + 20 * MB
    finally:
        for connection in connections:
            connection.close()
    assert asyncio.run(once(server.port, {"id": 1})).status == 200


def test_a_request_is_accepted_once_and_has_its_time_once(tmp_path: Path) -> None:
    """Its body comes in two parts, the second just before the end of its time."""
    rest = b"%x\r\n%b\r\n" % (100_000, b"x" * 100_000)
    with serving(model_folder(tmp_path, "echo:Echo"), http_workers=1, request_timeout=3) as server:
        assert asyncio.run(once(server.port, b"known")).status == 200
        with connect(server) as late:
            started = time.monotonic()
            late.sendall(CHUNKED + b"5\r\nhello\r\n")
            eventually(lambda: time.monotonic() - started > 2.5)
            late.sendall(rest)
            assert late.recv(12) == b"HTTP/1.1 504"
            assert time.monotonic() - started < 5.0
        with connect(server) as connection:
            connection.sendall(CHUNKED + b"5\r\nhello\r\n")
            eventually(lambda: "serving_requests_in_flight 1" in metrics(server))
            server.process.send_signal(signal.SIGTERM)
            eventually(lambda: server.lines(message="stopping"))
            connection.sendall(rest + b"0\r\n\r\n")
            assert everything(connection).endswith(b"hello" + b"x" * 100_000)
        assert server.wait() == 0
