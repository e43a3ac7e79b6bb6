"""What a model's call of another one sends, and how long it waits, against a small HTTP server."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import triton_python_backend_utils as pb_utils
from triton_python_backend_utils.server import Server

CONTEXT = f"00-{'a' * 32}-{'b' * 16}-01"
RESULT = json.dumps({"outputs": [{"name": "OUT", "datatype": "INT32", "shape": [1], "data": [7]}]}).encode()


class Other(http.server.ThreadingHTTPServer):
    """Keeps what it is asked; sends ``lines`` one by one, and goes silent after the last until it is closed."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, dict[str, str], bytes]] = []
        self.status, self.kind, self.lines = 200, "application/json", [RESULT]
        self.silent = False
        self.closing = threading.Event()


class Handler(http.server.BaseHTTPRequestHandler):
    server: Other

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.asked.append((self.path, dict(self.headers.items()), body))
        self.send_response(self.server.status)
        self.send_header("Content-Type", self.server.kind)
        self.end_headers()
        for line in self.server.lines:
            self.wfile.write(line)
        if self.server.silent:
            self.server.closing.wait(10)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def other() -> Iterator[Other]:
    with Other() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.closing.set()
        server.shutdown()


def server_of(other: Other, seconds: float = 10.0) -> Server:
    until = time.monotonic() + seconds
    return Server("127.0.0.1", other.server_port, lambda: until - time.monotonic())


def request(**more: Any) -> pb_utils.InferenceRequest:
    inputs = [pb_utils.Tensor("IN", np.array([1, 2], np.int32)), pb_utils.Tensor("TEXT", np.array([b"a"]))]
    return pb_utils.InferenceRequest(inputs=inputs, model_name="team/a", **more)


def test_all_of_a_request_is_sent(other: Other) -> None:
    wish = request(
        request_id="r",
        requested_output_names=["OUT"],
        model_version=3,
        correlation_id="s",
        flags=1,
        timeout=9_000_000,
        parameters={"own": 1},
        trace=pb_utils.InferenceTrace(CONTEXT),
    )
    answer = server_of(other).exec(wish)
    tensor = pb_utils.get_output_tensor_by_name(answer, "OUT")
    assert tensor is not None
    assert tensor.as_numpy().tolist() == [7]
    [(path, headers, body)] = other.asked
    assert path == "/v2/models/team%2Fa/versions/3/infer"
    assert headers["X-Amzn-SageMaker-Custom-Attributes"] == f"traceparent={CONTEXT}"
    size = int(headers["Inference-Header-Content-Length"])
    head = json.loads(body[:size])
    assert (head["id"], head["outputs"]) == ("r", [{"name": "OUT"}])
    assert head["parameters"] == {
        "own": 1,
        "binary_data_output": True,
        "sequence_id": "s",
        "sequence_start": True,
        "sequence_end": False,
        "timeout": 9_000_000,
    }
    assert body[size:] == np.array([1, 2], np.int32).tobytes() + b"\x01\x00\x00\x00a"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "INVALID_ARG"),
        (404, "NOT_FOUND"),
        (409, "ALREADY_EXISTS"),
        (499, "CANCELLED"),
        (500, "INTERNAL"),
        (501, "UNSUPPORTED"),
        (503, "UNAVAILABLE"),
        (504, "UNAVAILABLE"),
    ],
)
def test_a_refusal_is_a_response_with_an_error(other: Other, status: int, code: str) -> None:
    other.status, other.lines = status, [b'{"error": "words"}']
    error = server_of(other).exec(request()).error()
    assert error is not None
    assert (error.message(), error.code().name) == ("words", code)


@pytest.mark.parametrize("line", [b"no json", b"[1]", b'{"outputs": [{"name": "A"}]}', b"[" * 100_000, b"\xff"])
def test_an_answer_that_makes_no_sense_is_an_error(other: Other, line: bytes) -> None:
    other.lines = [line]
    assert server_of(other).exec(request()).has_error()


def test_a_decoupled_model_that_falls_silent_is_waited_for_no_longer_than_there_is_time(other: Other) -> None:
    other.kind, other.silent, other.lines = "application/jsonlines", True, [RESULT + b"\n", b'{"error": "one"}\n']
    answers = list(server_of(other, 1.0).exec_decoupled(request()))
    assert [one.has_error() for one in answers] == [False, True, True]
    error = answers[-1].error()
    assert error is not None
    assert error.code() == pb_utils.TritonError.UNAVAILABLE


def test_the_timeout_of_a_request_is_for_all_of_it(other: Other) -> None:
    other.silent = True
    began = time.monotonic()
    assert server_of(other, 60.0).exec(request(timeout=200_000)).has_error()
    assert time.monotonic() - began < 5


def test_several_responses_need_decoupled(other: Other) -> None:
    other.kind, other.lines = "application/jsonlines", [RESULT + b"\n"] * 2
    error = server_of(other).exec(request()).error()
    assert error is not None
    assert "decoupled=True" in error.message()
    iterator = server_of(other).exec_decoupled(request())
    next(iterator)
    iterator.cancel()
    assert list(iterator) == []
