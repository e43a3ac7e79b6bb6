"""Invocations on connections of their own making, beside all that goes through ASGI on the same connection."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.system.memory import memory_of
from tests.e2e.client import Client
from tests.e2e.server import Server, eventually, model_folder, serving

BIG = 3_000_000


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = model_folder(tmp_path_factory.mktemp("roomy"), "echo:Echo")
    with serving(folder, request_timeout=2, http_workers=1) as server:
        yield server


def post(body: bytes, *headers: str) -> bytes:
    lines = ["POST /invocations HTTP/1.1", "host: x", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """One answer, byte by byte, so that nothing of the next one is taken with it; 100 Continue is passed over."""
    while True:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.recv(1) or pytest.fail("closed")
        status, *lines = head.decode().rstrip().split("\r\n")
        if status.split()[1] == "100":
            continue
        headers = dict(line.lower().split(": ", 1) for line in lines)
        body = b""
        while len(body) < int(headers["content-length"]):
            body += connection.recv(int(headers["content-length"]) - len(body)) or pytest.fail("closed")
        return int(status.split()[1]), headers, body


def test_large_bodies_come_whole_however_they_are_cut_and_the_connection_goes_on(roomy: Server) -> None:
    body = os.urandom(BIG)
    with connect(roomy) as connection:
        for cut in (1, 100, 65_536, 200_000, BIG):
            data = post(body)
            connection.sendall(data[:cut])
            connection.sendall(data[cut:])
            assert answer(connection)[2] == body
            connection.sendall(post(b"small"))
            assert answer(connection)[2] == b"small"


def test_what_follows_a_large_body_in_the_same_bytes_is_answered_too(roomy: Server) -> None:
    body = os.urandom(BIG)
    with connect(roomy) as connection:
        connection.sendall(post(body) + post(b"next") + b"GET /ping HTTP/1.1\r\nhost: x\r\n\r\n" + post(b"last"))
        assert answer(connection)[2] == body
        assert answer(connection)[2] == b"next"
        assert answer(connection)[0] == 200
        assert answer(connection)[2] == b"last"


def test_a_large_body_that_does_not_come_is_504_and_its_rest_is_not_taken_for_a_request(roomy: Server) -> None:
    body = os.urandom(BIG)
    with connect(roomy) as connection:
        connection.sendall(post(body)[:500_000])
        status, headers, _ = answer(connection)
        assert (status, headers["connection"]) == (504, "close")
        connection.sendall(post(body)[500_000:] + post(b"after"))
        assert connection.recv(1) == b"", "it ends in order, whatever still comes"


@pytest.mark.parametrize("tail", [b"XY", post(b"forged"), b"\r\nupgrade: x" * 30])
@pytest.mark.parametrize("early", ["POST /nowhere", "POST /ping", "PUT /invocations", "POST /metrics"])
def test_the_rest_of_a_body_that_was_answered_early_is_nobodys_request(roomy: Server, early: str, tail: bytes) -> None:
    with connect(roomy) as connection:
        connection.sendall(f"{early} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(tail)}\r\n\r\n".encode())
        assert answer(connection)[1]["connection"] == "close"
        connection.sendall(tail + post(b"small"))
        assert connection.recv(1) == b""


def test_requests_of_all_kinds_keep_their_order_on_one_connection(roomy: Server) -> None:
    kinds = [
        (post(b"a"), 200),
        (b"GET /ping HTTP/1.1\r\nhost: x\r\n\r\n", 200),
        (post(b"b", "x-amzn-sagemaker-session-id: none"), 400),
        (b"GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n", 404),
        (post(b"c" * 100_000), 200),
        (post(b"d", "expect: 100-continue"), 200),
        (post(b"e", "x-amzn-sagemaker-custom-attributes: k=v"), 200),
    ]
    for turn in range(len(kinds)):
        order = kinds[turn:] + kinds[:turn]
        with connect(roomy) as connection:
            connection.sendall(b"".join(request for request, _ in order))
            for _, status in order:
                assert answer(connection)[0] == status


def test_a_large_answer_is_in_flight_until_it_is_read_and_what_was_asked_meanwhile_is_answered_after_it(
    roomy: Server,
) -> None:
    body = os.urandom(20_000_000)  # more than the kernel holds for a client that does not read
    with connect(roomy) as connection:
        connection.sendall(post(body))
        eventually(lambda: connection.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 200")
        connection.sendall(post(b"next") + post(b"last", "connection: close"))
        eventually(lambda: "serving_requests_in_flight 1" in metrics(roomy))
        assert answer(connection)[2] == body
        assert answer(connection)[2] == b"next"
        assert answer(connection)[2] == b"last"
        assert connection.recv(1) == b""
    eventually(lambda: "serving_requests_in_flight 0" in metrics(roomy))


def test_a_client_that_leaves_a_large_answer_unread_leaves_nothing_in_flight(roomy: Server) -> None:
    with connect(roomy) as connection:
        connection.sendall(post(bytes(20_000_000)))
        eventually(lambda: connection.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 200")
        eventually(lambda: "serving_requests_in_flight 1" in metrics(roomy))
    eventually(lambda: "serving_requests_in_flight 0" in metrics(roomy))


UPGRADE = (
    b"GET /invocations-bidirectional-stream HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def test_a_websocket_asked_for_before_an_answer_is_read_is_answered_behind_that_answer(roomy: Server) -> None:
    body = os.urandom(20_000_000)
    with connect(roomy) as connection:
        connection.sendall(post(body))
        eventually(lambda: connection.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 200")
        connection.sendall(UPGRADE + b"not a frame")
        connection.sendall(b"nor this")
        assert answer(connection)[2] == body
        assert answer(connection)[0] == 404, "this model takes none"
        assert connection.recv(1) == b""
    eventually(lambda: "serving_requests_in_flight 0" in metrics(roomy))


def test_an_answer_that_its_client_does_not_read_holds_the_memory_of_its_body(tmp_path: Path) -> None:
    body = bytes(7_000_000)
    folder = model_folder(tmp_path, "echo:Echo")
    with serving(folder, http_workers=1, body_memory="16MB") as server, connect(server) as slow:
        slow.sendall(post(body))
        eventually(lambda: slow.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 200")
        assert refused(server)
        assert answer(slow)[2] == body
        eventually(lambda: not refused(server))


def test_a_large_answer_that_ends_its_connection_is_read_whole(roomy: Server) -> None:
    body = os.urandom(20_000_000)
    with connect(roomy) as connection:
        connection.sendall(post(body, "connection: close"))
        status, headers, found = answer(connection)
        assert (status, headers["connection"], found) == (200, "close", body)
        assert connection.recv(1) == b""


def test_a_large_answer_outlives_the_deadline_of_its_request_while_its_client_reads_it(roomy: Server) -> None:
    body = os.urandom(20_000_000)
    with connect(roomy) as connection:
        began = time.monotonic()
        connection.sendall(post(body))
        eventually(lambda: connection.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 200")
        eventually(lambda: time.monotonic() - began > 2.5)  # request_timeout is 2
        assert answer(connection)[2] == body
        connection.sendall(post(b"small"))
        assert answer(connection)[2] == b"small"


def test_a_client_that_leaves_in_the_middle_of_a_body_leaves_nothing_in_flight(roomy: Server) -> None:
    for size in (10, 100_000, 1_000_000):
        connection = connect(roomy)
        connection.sendall(post(bytes(BIG))[:size])
        connection.close()
    with connect(roomy) as connection:
        connection.sendall(post(b"x"))
        assert answer(connection)[0] == 200
    eventually(lambda: "serving_requests_in_flight 0" in metrics(roomy))


def metrics(server: Server) -> str:
    async def ask() -> str:
        async with Client(server.port) as client:
            return (await client.request("GET", "/metrics")).body.decode()

    return asyncio.run(ask())


def test_connection_close_is_kept_and_told(roomy: Server) -> None:
    for request in (post(b"x", "connection: close"), b"GET /ping HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"):
        with connect(roomy) as connection:
            connection.sendall(request)
            assert answer(connection)[1]["connection"] == "close"
            assert connection.recv(1) == b""


def test_http_1_0_is_answered_and_closed(roomy: Server) -> None:
    with connect(roomy) as connection:
        connection.sendall(b"POST /invocations HTTP/1.0\r\ncontent-length: 1\r\n\r\nx")
        assert answer(connection)[2] == b"x"
        assert connection.recv(1) == b""


def test_headers_that_change_on_one_connection_are_each_requests_own(roomy: Server) -> None:
    with connect(roomy) as connection:
        for kind, attributes in (("a/b", "k=1"), ("a/b", "k=2"), ("c/d", "k=2"), ("a/b", "")):
            more = [f"x-amzn-sagemaker-custom-attributes: {attributes}"] if attributes else []
            connection.sendall(post(b"x", f"content-type: {kind}", *more))
            _, headers, _ = answer(connection)
            assert headers["content-type"] == kind
            assert headers.get("x-amzn-sagemaker-custom-attributes", "") == attributes


@pytest.mark.parametrize("chunked", [False, True])
def test_large_bodies_beyond_the_memory_for_them_are_refused_until_others_are_answered(
    tmp_path: Path, chunked: bool
) -> None:
    body = os.urandom(BIG)
    data = post(body)
    if chunked:
        lines = b"POST /invocations HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        data = lines + b"%x\r\n%b\r\n0\r\n\r\n" % (BIG, body)
    with (
        serving(model_folder(tmp_path, "echo:Echo"), http_workers=1, body_memory="8MB") as server,
        connect(server) as first,
        connect(server) as second,
    ):
        first.sendall(data[:-9])  # all but the last bytes of one body of 3 MB, of which 4 MB may be held
        eventually(lambda: is_read(first))
        eventually(lambda: refused(server))
        second.sendall(post(b"small"))
        assert answer(second)[2] == b"small"
        first.sendall(data[-9:])
        assert answer(first)[2] == body
        second.sendall(data)
        assert answer(second)[2] == body


def is_read(connection: socket.socket) -> bool:
    """Whether the server has read all that was sent, as the kernel's table of connections says."""
    ours, theirs = (f":{one[1]:04X}" for one in (connection.getsockname(), connection.getpeername()))
    queues = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queue, *_ = line.split()
        if (local[8:], remote[8:]) in ((ours, theirs), (theirs, ours)):
            queues.append(queue)
    return queues == ["00000000:00000000"] * 2


def refused(server: Server) -> bool:
    """Whether a large body is told to come back while it comes; else it is answered."""
    with connect(server) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(post(bytes(BIG)))
        status, headers, body = answer(connection)
    if status == 200:
        return False
    assert (status, b"bodies_full" in body, headers["retry-after"]) == (503, True, "1")
    return True


def test_an_idle_connection_does_not_keep_its_last_body_nor_its_memory(tmp_path: Path) -> None:
    def held(server: Server) -> int:
        return sum(memory_of(pid).private for pid in server.children())

    # Its answer is a short one: that the body is no JSON.
    folder = model_folder(tmp_path, "memo:Memo")
    with serving(folder, http_workers=1) as server, connect(server) as connection:
        connection.sendall(post(b"small", "content-type: application/json"))
        assert answer(connection)[0] == 400
        before = held(server)
        body = bytes(20 * BIG)
        connection.sendall(post(body, "content-type: application/json"))
        assert answer(connection)[0] == 400
        eventually(lambda: held(server) < before + len(body) // 2, 20)
