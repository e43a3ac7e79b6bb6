"""Clients of decoupled models that do not read their answers, on real sockets."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import Server, eventually, serving
from tests.e2e.triton import MODELS, infer, tensor

RESPONSE = 100_000  # bytes
BUFFERS = 30_000_000  # bytes that sockets and windows hold at most on the way to a client


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(MODELS / "flood", http_workers=1) as server:
        yield server


def wish(count: int, thread: bool) -> list[dict[str, Any]]:
    return [tensor("COUNT", "INT32", [1], [count]), tensor("THREAD", "BOOL", [1], [thread])]


def begin(server: Server, count: int, thread: bool) -> socket.socket:
    """Ask for so many responses, and read no more than how they begin."""
    body = json.dumps({"inputs": wish(count, thread)}).encode()
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    head = f"POST /v2/models/flood/infer HTTP/1.0\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    assert connection.recv(12) == b"HTTP/1.1 200"
    return connection


def ended(server: Server, count: int) -> str:
    """What the model says of the answer with ``count`` responses that it could not send whole."""

    def said() -> list[str]:
        lines = [str(line.get("message")) for line in list(server.log)]
        return [line for line in lines if f"flood {count} ended" in line]

    return str(eventually(said)[0]).partition("ended ")[2]


def test_what_a_client_does_not_read_is_not_sent_and_holds_up_nobody_else(server: Server) -> None:
    with begin(server, 5001, True):
        assert infer(server, "flood", wish(3, True)).body.count(b"\n") == 3
        assert infer(server, "flood", wish(3, False)).body.count(b"\n") == 3
    sent, _, why = ended(server, 5001).partition(" ")
    assert int(sent) * RESPONSE < BUFFERS
    assert "client has gone" in why


def test_execute_that_waits_for_a_client_goes_on_when_it_has_gone(server: Server) -> None:
    with begin(server, 5002, False):
        pass
    assert "client has gone" in ended(server, 5002)
    assert infer(server, "flood", wish(3, False)).body.count(b"\n") == 3


@pytest.mark.parametrize("thread", [True, False])
def test_one_that_reads_late_gets_all_of_it_as_it_was_sent(server: Server, thread: bool) -> None:
    with begin(server, 400, thread) as connection, connection.makefile("rb") as file:
        assert infer(server, "flood", wish(1, True)).status == 200 if thread else True
        lines = file.read().partition(b"\r\n\r\n")[2].splitlines()
    values = [json.loads(line)["outputs"][0]["data"][0] for line in lines]
    assert [int(value[:6]) for value in values] == list(range(400))


def test_a_client_that_never_reads_is_given_up_and_its_model_lives_on(tmp_path: Path) -> None:
    with serving(MODELS / "flood", http_workers=1, request_timeout=1) as server:
        before = server.workers()
        with begin(server, 5003, False):
            assert "has not read" in ended(server, 5003)
            assert infer(server, "flood", wish(3, False)).body.count(b"\n") == 3
        assert server.workers() == before
