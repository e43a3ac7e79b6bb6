"""A model for Triton that fails in every way it can, under the real server: what its clients read, and what goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import Server, eventually, serving
from tests.e2e.triton import call, infer, invoke, tensor

MODEL = """
import threading

import numpy as np

import triton_python_backend_utils as pb_utils

SECRET = "a secret of the model"


class TritonPythonModel:
    def initialize(self, args):
        threading.Thread(target=threading.Event().wait).start()  # never ends, and is no daemon

    def execute(self, requests):
        return getattr(self, pb_utils.get_input_tensor_by_name(requests[0], "WAY").as_numpy()[0].decode())(requests)

    def good(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.ones(1, np.int32))]) for _ in requests]

    def code(self, requests):
        number = int(pb_utils.get_input_tensor_by_name(requests[0], "CODE").as_numpy()[0])
        return [pb_utils.InferenceResponse(error=pb_utils.TritonError("words", number))]

    def raises(self, requests):
        raise ValueError(SECRET)

    def exits(self, requests):
        raise SystemExit(3)

    def none(self, requests):
        return None

    def none_in_a_list(self, requests):
        return [None]

    def empty(self, requests):
        return []

    def two(self, requests):
        return self.good([1, 2])

    def text(self, requests):
        return ["text"]

    def an_array(self, requests):
        return np.ones(1)

    def a_generator(self, requests):
        yield from self.good(requests)

    def no_array(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", [1])])]

    def sends_after_the_last(self, requests):
        sender = requests[0].get_response_sender()
        sender.send(self.good(requests)[0], flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        sender.send(self.good(requests)[0])

    def reschedules_for_ever(self, requests):
        requests[0].set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
        return [None]

    def sends_never(self, requests):
        requests[0].get_response_sender()

    def finalize(self):
        raise RuntimeError(SECRET)
"""
CONFIG = """
input { name: "WAY" data_type: TYPE_STRING dims: 1 }
input { name: "CODE" data_type: TYPE_INT32 dims: 1 optional: true }
output { name: "OUT" data_type: TYPE_INT32 dims: 1 }
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("models")
    (folder / "fails" / "1").mkdir(parents=True)
    (folder / "fails" / "1" / "model.py").write_text(MODEL)
    (folder / "fails" / "config.pbtxt").write_text(CONFIG)
    with serving(Path("/nowhere"), model_store=folder, request_timeout=2) as server:
        yield server


def way(name: str, code: int = 0) -> list[dict[str, Any]]:
    return [tensor("WAY", "BYTES", [1], [name]), tensor("CODE", "INT32", [1], [code])]


@pytest.mark.parametrize(
    ("code", "status", "name"),
    [
        (0, 500, "unknown"),
        (1, 500, "internal"),
        (2, 404, "not_found"),
        (3, 400, "invalid_arg"),
        (4, 503, "unavailable"),
        (5, 501, "unsupported"),
        (6, 409, "already_exists"),
        (7, 499, "cancelled"),
    ],
)
def test_every_code_has_its_status_on_both_paths(server: Server, code: int, status: int, name: str) -> None:
    ours, theirs = invoke(server, "fails", way("code", code)), infer(server, "fails", way("code", code))
    assert (theirs.status, theirs.json()) == (status, {"error": "words"})
    assert ours.status == status
    assert (ours.json()["error"]["code"], ours.json()["error"]["message"]) == (f"triton_{name}", "words")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("raises", "ValueError"),
        ("exits", "SystemExit"),
        ("none", "sent no response"),
        ("none_in_a_list", "sent no response"),
        ("empty", "0 responses for 1 requests"),
        ("two", "2 responses for 1 requests"),
        ("text", "gave str"),
        ("an_array", "ndarray responses"),
        ("a_generator", "generator responses"),
        ("no_array", "made of list"),
        ("sends_after_the_last", "closed"),
        ("no_such_way", "AttributeError"),
    ],
)
def test_what_execute_may_not_do_is_a_500_in_words(server: Server, name: str, words: str) -> None:
    assert infer(server, "fails", way("good")).status == 200
    before = server.workers()
    for answer in (infer(server, "fails", way(name)), invoke(server, "fails", way(name))):
        assert answer.status == 500
        assert words.encode() in answer.body
        assert b"Traceback" not in answer.body
        assert b"secret" not in answer.body
    assert infer(server, "fails", way("good")).status == 200
    assert server.workers() == before


@pytest.mark.parametrize("name", ["reschedules_for_ever", "sends_never"])
def test_what_never_comes_is_a_504_in_time(server: Server, name: str) -> None:
    assert infer(server, "fails", way(name)).status == 504
    eventually(lambda: infer(server, "fails", way("good")).status == 200)


def test_a_model_that_ends_badly_ends(server: Server) -> None:
    assert infer(server, "fails", way("good")).status == 200
    assert call(server, "POST", "/v2/repository/models/fails/unload", b"{}").status == 200
    assert server.workers() == []
    assert server.lines(message="the handler failed to close")
    assert infer(server, "fails", way("good")).status == 200
