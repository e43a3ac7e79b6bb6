"""Answers in pieces that go wrong in unusual ways, and what they must not take with them."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.server import Server, eventually, model_folder, serving

SESSION = "x-amzn-sagemaker-session-id"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = model_folder(tmp_path, "prankster:Prankster")
    with serving(folder, request_timeout=5, stream_idle_timeout=2, http_workers=1) as server:
        yield server


def request(wish: dict[str, object], *headers: str) -> bytes:
    body = json.dumps(wish).encode()
    lines = ["POST /invocations HTTP/1.1", "host: x", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def opened(server: Server, data: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    connection.sendall(data)
    return connection


def ask(server: Server, wish: dict[str, object], *headers: str) -> bytes:
    with opened(server, request(wish, "connection: close", *headers)) as connection:
        return b"".join(iter(lambda: connection.recv(65536), b""))


def metric(server: Server, name: str) -> float:
    text = ask_metrics(server)
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith(f"serving_{name} ")))


def ask_metrics(server: Server) -> str:
    with opened(server, b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n") as connection:
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def test_a_first_piece_larger_than_the_window_is_followed_by_others(server: Server) -> None:
    assert ask(server, {"do": "large", "size": 200_000}).endswith(b"0\r\n\r\n")


def test_a_crash_right_after_the_first_piece_is_not_repeated_for_ever(server: Server) -> None:
    ask(server, {"do": "crash"})
    assert len(server.lines(message="a worker ended")) <= 2


def test_an_error_that_cannot_be_told_is_an_answer_and_kills_nobody(server: Server) -> None:
    worker = server.workers()
    assert b" 504 " not in ask(server, {"do": "tell"})
    assert server.workers() == worker


def test_an_async_generator_that_only_computes_is_not_taken_for_one_that_hangs(server: Server) -> None:
    assert ask(server, {"do": "compute"}).endswith(b"0\r\n\r\n")


def test_a_client_that_leaves_before_an_async_answer_holds_up_no_session(server: Server) -> None:
    head = ask(server, {"do": "plain"}, f"{SESSION}: NEW_SESSION").decode()
    session = head[head.index(f"{SESSION}: ") :].split(";")[0]
    with opened(server, request({"do": "nothing", "predict": 0.5}, session)):
        time.sleep(0.2)
    assert b" 200 " in ask(server, {"do": "plain"}, session)


def test_a_generator_that_does_not_end_is_let_go(server: Server) -> None:
    with opened(server, request({"do": "linger"})) as connection:
        connection.recv(1000)
    eventually(lambda: metric(server, "streams_open") == 0, 12)


def test_a_request_behind_a_stream_that_fails_leaves_nothing_in_flight(server: Server) -> None:
    with opened(server, request({"do": "fail"}) + request({"do": "plain"})) as connection:
        assert b"".join(iter(lambda: connection.recv(65536), b""))
    eventually(lambda: metric(server, "requests_in_flight") == 0, 8)


def test_attributes_that_cannot_be_sent_are_no_part_of_an_answer(server: Server) -> None:
    answer = ask(server, {"do": "attributes"})
    assert b"application/json" in answer or b" 200 " in answer
