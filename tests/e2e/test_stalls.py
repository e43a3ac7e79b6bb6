"""A client that stops in the middle of what it sends hears of it in time, whatever it was about to ask and wherever it
stopped, and keeps no stop of the server waiting."""

from __future__ import annotations

import contextlib
import itertools
import socket
import time
from collections.abc import Iterator

import pytest

from tests.e2e.server import Server, eventually, serving
from tests.e2e.store import add_model, ask, call

TIMEOUT = 1.5  # seconds that a request has
LATE = 6.0  # seconds more, on a machine that does other things

ROUTES = [
    ("POST", "/invocations", "x-amzn-sagemaker-target-model: a"),
    ("POST", "/invocations", ""),
    ("POST", "/models/a/invoke", ""),
    ("POST", "/models", ""),
    ("PATCH", "/models/a", ""),
    ("POST", "/v1/sizes", "x-amzn-sagemaker-target-model: a"),
    ("POST", "/v2/models/a/infer", ""),
    ("POST", "/v2/repository/index", ""),
    ("POST", "/v2/repository/models/a/load", ""),
    ("POST", "/v2/repository/models/a/unload", ""),
    ("POST", "/endpoints/a/invocations", "x-amzn-sagemaker-target-model: a"),
    ("POST", "/endpoints/a/invocations-response-stream", ""),
]
STAGES = {
    "before the body": ("content-length: 100", b""),
    "within the body": ("content-length: 100", b"12345"),
    "within a large body": ("content-length: 900000", b"1" * 70_000),
    "before a chunk": ("transfer-encoding: chunked", b""),
    "within a chunk": ("transfer-encoding: chunked", b"100\r\n12345"),
    "after a chunk": ("transfer-encoding: chunked", b"5\r\n12345\r\n"),
    "before the last line": ("transfer-encoding: chunked", b"5\r\n12345\r\n0\r\n"),
    "when told to go on": ("expect: 100-continue\r\ncontent-length: 100", b""),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("store")
    add_model(folder, "a", "sizes:Sizes")
    with serving(folder, model_store=folder, request_timeout=TIMEOUT, local=True) as server:
        eventually(lambda: ask(server, "a", b"1").status == 200, 20)
        yield server


def stall(server: Server, route: tuple[str, str, str], stage: tuple[str, bytes]) -> socket.socket:
    method, path, header = route
    length, body = stage
    lines = [f"{method} {path} HTTP/1.1", "host: x", *([header] if header else []), length]
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT + LATE)
    connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    return connection


def status(connection: socket.socket, until: float) -> str:
    """Of its answer, "" where there is none in time."""
    heard = b""
    with contextlib.suppress(OSError):
        while True:
            connection.settimeout(max(0.01, until - time.monotonic()))
            heard += (data := connection.recv(65536))
            lines = [line for line in heard.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
            if not data or any(not line.startswith(b"HTTP/1.1 100") for line in lines):
                return lines[-1].split()[1].decode()
    return ""


def test_every_stall_of_every_call_is_answered_in_time_and_holds_no_stop(store: Server) -> None:
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        cases = list(itertools.product(ROUTES, STAGES))
        connections = [stack.enter_context(stall(store, route, STAGES[stage])) for route, stage in cases]
        found = {
            (*case[0][:2], case[1]): status(connection, began + TIMEOUT + LATE)
            for case, connection in zip(cases, connections, strict=True)
        }
        assert {case: code for case, code in found.items() if code not in ("400", "404", "413", "424", "504")} == {}
        text = call(store, "GET", "/metrics").body.decode()
        assert "serving_requests_in_flight 0" in text
    assert ask(store, "a", b"3").status == 200
