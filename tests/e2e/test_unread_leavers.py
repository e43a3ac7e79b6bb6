"""Clients that leave while nothing is read from them, since they have sent more than can be looked at.

What they asked for ends all the same, and one that has only closed its sending half has its answers.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.gate import Gate
from tests.e2e.server import Server, eventually, model_folder, serving
from tests.e2e.test_session_leavers import ids

PATH = "/invocations-bidirectional-stream"
BLOCK = b" " * 65_536
PINGS = b"GET /ping HTTP/1.1\r\nhost: x\r\n\r\n"
AHEAD = {"one": PINGS, "many": PINGS * 100_000}  # what is sent ahead; many are more than is taken from a client


def post(body: dict[str, object], session: bool = False) -> bytes:
    data = json.dumps(body).encode()
    line = b"x-amzn-sagemaker-session-id: NEW_SESSION\r\n" if session else b""
    return b"POST /invocations HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n%b" % (line, len(data), data)


def connect(server: Server, data: bytes) -> socket.socket:
    """A client that has sent ``data``."""
    client = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    client.sendall(data)
    return client


def push(client: socket.socket, data: bytes) -> None:
    """Send as much of it as the other side takes."""
    client.setblocking(False)
    try:
        while data:
            data = data[client.send(data) :]
    except BlockingIOError:
        pass


def leave(client: socket.socket, resets: bool) -> None:
    if resets:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    log = tmp_path_factory.mktemp("unread") / "log"
    folder = model_folder(log.parent, "memo:Memo", f'[options]\nlog = "{log}"\n')
    with serving(folder, http_workers=1) as one:
        yield one, log


@pytest.mark.parametrize("ahead", AHEAD)
@pytest.mark.parametrize("resets", [False, True], ids=["closes", "resets"])
def test_calls_that_run_and_that_wait_end_with_their_client(
    server: tuple[Server, Path], tmp_path: Path, ahead: str, resets: bool
) -> None:
    one, log = server
    gate = Gate(tmp_path / "gate")
    runs = connect(one, post({"say": 1, "gate": gate.path}, session=True))
    gate.wait_reached()
    waits = [connect(one, post({"say": 2}, session=True)), connect(one, post({"say": None}))]
    eventually(lambda: one.metric("requests_queued") == len(waits))
    for client in (runs, *waits):
        push(client, AHEAD[ahead])
        leave(client, resets)
    eventually(lambda: one.metric("requests_in_flight") == 0, 5)
    gate.open()
    eventually(lambda: one.metric("sessions_open") == 0, 5)
    eventually(lambda: ids(log, "close") == ids(log, "open"), 5)


def test_a_session_whose_client_left_shortly_before_its_answer_ends(
    server: tuple[Server, Path], tmp_path: Path
) -> None:
    """Nobody has had the time to look whether the client is there."""
    one, log = server
    for number in range(10):
        gate = Gate(tmp_path / f"gate-{number}")
        client = connect(one, post({"say": 1, "gate": gate.path}, session=True) + PINGS * (number % 2))
        gate.wait_reached()
        leave(client, resets=False)
        gate.open()
        eventually(lambda: one.metric("requests_in_flight") == 0, 5)
    eventually(lambda: one.metric("sessions_open") == 0, 5)
    eventually(lambda: ids(log, "close") == ids(log, "open"), 5)


def test_a_client_that_closed_its_half_behind_what_is_not_read_has_all_answers(
    server: tuple[Server, Path],
) -> None:
    """The first takes long enough for several looks."""
    one, _ = server
    asked: list[dict[str, object]] = [{"sleep": 2.5}, {"say": 1}, {"sleep": 1.2}, {"say": 2}]
    with connect(one, b"".join(post(body, session="say" in body) for body in asked)) as client:
        client.shutdown(socket.SHUT_WR)
        got = b"".join(iter(lambda: client.recv(65_536), b""))
    assert got.count(b"HTTP/1.1 ") == got.count(b"HTTP/1.1 200 OK\r\n") == len(asked)
    assert [got.count(b'"said":%b' % what) for what in (b"null", b"[1]", b"[2]")] == [2, 1, 1]
    assert one.metric("sessions_open") == 2
    for line in got.split(b"\r\n"):
        name, _, value = line.partition(b": ")
        if name.lower() == b"x-amzn-sagemaker-new-session-id":
            close = b"x-amzn-sagemaker-session-id: %b\r\ncontent-length: 23\r\n\r\n" % value.partition(b";")[0]
            head = b"POST /invocations HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
            with connect(one, head + close + b'{"requestType":"CLOSE"}') as client:
                assert client.recv(12) == b"HTTP/1.1 200"
    eventually(lambda: one.metric("sessions_open") == 0, 5)


def test_answers_in_pieces_end_with_their_client(tmp_path: Path) -> None:
    with serving(model_folder(tmp_path, "streamer:AsyncStreamer"), http_workers=1) as server:
        for resets in (False, True):
            for ahead in AHEAD.values():
                client = connect(server, post({"n": 2, "hang_at": 1}))
                assert client.recv(12) == b"HTTP/1.1 200"
                push(client, ahead)
                leave(client, resets)
        eventually(lambda: server.metric("streams_open") == 0, 10)
        eventually(lambda: server.metric("requests_in_flight") == 0, 5)


@pytest.mark.slow
def test_conversations_end_with_their_client_though_their_handler_takes_nothing(tmp_path: Path) -> None:
    with serving(model_folder(tmp_path, "talker:Talker"), http_workers=1) as server:
        for resets in (False, True):
            for blocks in (4, 400):
                client = connect(server, handshake())
                assert client.recv(65_536).startswith(b"HTTP/1.1 101")
                client.sendall(frame(b"!sleep"))
                push(client, frame(BLOCK) * blocks)
                leave(client, resets)
        eventually(lambda: server.metric("streams_open") == 0, 25)
        eventually(lambda: server.metric("requests_in_flight") == 0, 5)


def test_a_conversation_that_waits_for_its_model_ends_with_its_client(tmp_path: Path) -> None:
    server = Server(model_folder(tmp_path, "talker:Talker", "[options]\nload_seconds = 60\n"), http_workers=1)
    try:
        eventually(lambda: server.ping() == 503)
        for resets in (False, True):
            clients = [connect(server, handshake()), connect(server, handshake())]
            eventually(lambda: server.metric("requests_in_flight") == 2)
            push(clients[1], frame(BLOCK))
            for client in clients:
                leave(client, resets)
            eventually(lambda: server.metric("requests_in_flight") == 0, 5)
    finally:
        server.leave()


def handshake() -> bytes:
    lines = [
        "upgrade: websocket",
        "connection: upgrade",
        "sec-websocket-version: 13",
        f"sec-websocket-key: {'A' * 22}==",
    ]
    return "\r\n".join([f"GET {PATH} HTTP/1.1", "host: x", *lines, "", ""]).encode()


def frame(payload: bytes) -> bytes:
    """A whole text message, masked with zeros."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else struct.pack("!BQ", 0xFF, size)
    return b"\x81" + length + bytes(4) + payload
