"""The adapter for Triton's Python models, without a server: shapes, batches, senders, errors, warm-up.

The models were written here, to the shape of Triton's examples; ``tests/compat`` has those themselves.
"""

from __future__ import annotations

import itertools
import json
import struct
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving import Request
from serving.adapters.triton.handler import TritonHandler
from serving.deadline import Deadline
from serving.errors import ModelError, ServingError
from serving.handler import Home
from serving.request import Response
from serving.testing import Client
from tests.e2e.triton import BINARY, tensor
from triton_python_backend_utils import surrounding

HEAD = """
import json, threading, time
import numpy as np
import triton_python_backend_utils as pb_utils
"""
_versions = itertools.count(1000)


@pytest.fixture(autouse=True)
def own_modules() -> Iterator[None]:
    """A worker has one model; here many share a process, whose modules they should not share."""
    before, path = set(sys.modules), list(sys.path)
    yield
    sys.path[:] = path
    for name in [name for name in sys.modules if name not in before and name.split(".")[0].isdecimal()]:
        del sys.modules[name]


class Rig:
    def __init__(self, folder: Path, config: str, script: str) -> None:
        # A version of its own: that is the name of the module's package.
        self.version = str(next(_versions))
        (folder / self.version).mkdir(parents=True)
        (folder / self.version / "model.py").write_text(HEAD + textwrap.dedent(script))
        (folder / "config.pbtxt").write_text(config)
        self.client = Client(TritonHandler, folder, version=self.version)

    def ask(self, *inputs: dict[str, Any], **more: Any) -> Any:
        answer = self.client.invoke(json.dumps({"inputs": inputs, **more}).encode())
        return json.loads(bytes(answer.body))

    def error(self, *inputs: dict[str, Any], **more: Any) -> ServingError:
        with pytest.raises(ServingError) as caught:
            self.ask(*inputs, **more)
        return caught.value

    def batch(self, *bodies: list[dict[str, Any]]) -> list[Any]:
        requests = [Request(json.dumps({"inputs": inputs}).encode(), "application/json") for inputs in bodies]
        return [
            json.loads(bytes(one.body)) if isinstance(one, Response) else one for one in self.client.batch(requests)
        ]


ECHO = """
class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", self.seen(one))]) for one in requests]
    def seen(self, request):
        return request.inputs()[0].as_numpy()
"""
ONE = "input { name: 'IN' data_type: TYPE_INT32 dims: [-1] } output { name: 'OUT' data_type: TYPE_INT32 dims: [-1] }"


def numbers(*values: int, shape: list[int] | None = None) -> dict[str, Any]:
    return tensor("IN", "INT32", shape or [len(values)], list(values))


def test_reshape_shows_the_model_and_the_client_their_own_shapes(tmp_path: Path) -> None:
    config = """
        max_batch_size: 4
        input { name: 'IN' data_type: TYPE_INT32 dims: [4] reshape { shape: [2, -1] } }
        output { name: 'OUT' data_type: TYPE_INT32 dims: [4] reshape { shape: [2, 2] } }
    """
    script = ECHO.replace("return request", "assert request.inputs()[0].shape() == [1, 2, 2]; return request")
    rig = Rig(tmp_path, config, script)
    answer = rig.ask(numbers(1, 2, 3, 4, shape=[1, 4]))
    assert (answer["outputs"][0]["shape"], answer["outputs"][0]["data"]) == ([1, 4], [1, 2, 3, 4])


def test_optional_inputs_may_be_missing_and_others_not(tmp_path: Path) -> None:
    config = ONE + "input { name: 'MORE' data_type: TYPE_INT32 dims: [1] optional: true }"
    rig = Rig(tmp_path, config, ECHO)
    assert rig.ask(numbers(1))["outputs"][0]["data"] == [1]
    assert rig.ask(numbers(1), tensor("MORE", "INT32", [1], [2]))["outputs"][0]["data"] == [1]
    assert "IN is missing" in rig.error(tensor("MORE", "INT32", [1], [2])).message


SIZES = """
class TritonPythonModel:
    def execute(self, requests):
        shapes = {tuple(one.inputs()[0].shape()[1:]) for one in requests}
        size = np.array([len(requests), len(shapes)], np.int32)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", size)]) for one in requests]
"""


@pytest.mark.parametrize(
    ("scheduler", "ragged", "expected"),
    [("", "", [1, 1]), ("dynamic_batching { }", "", [2, 1]), ("dynamic_batching { }", "true", [3, 2])],
)
def test_batches_are_of_one_shape_unless_ragged(tmp_path: Path, scheduler: str, ragged: str, expected: Any) -> None:
    config = ONE.replace("[-1] }", f"[-1] allow_ragged_batch: {ragged} }}", 1) if ragged else ONE
    rig = Rig(tmp_path, f"max_batch_size: 8 {scheduler} {config}", SIZES)
    answers = rig.batch([numbers(1, shape=[1, 1])], [numbers(2, shape=[1, 1])], [numbers(1, 2, shape=[1, 2])])
    assert answers[0]["outputs"][0]["data"] == expected


def test_dynamic_batching_sets_the_policy(tmp_path: Path) -> None:
    config = """max_batch_size: 16 dynamic_batching { preferred_batch_size: [2, 6] max_queue_delay_microseconds: 1500
        default_queue_policy { max_queue_size: 9 } }"""
    policy = Rig(tmp_path, config + ONE, ECHO).client.handler.policy
    assert (policy.max_size, policy.max_delay_ms, policy.queue_size) == (6, 1.5, 9)


def test_a_request_that_waited_longer_than_the_queue_policy_allows_is_refused(tmp_path: Path) -> None:
    config = """max_batch_size: 16 dynamic_batching { max_queue_delay_microseconds: 50000
        default_queue_policy { allow_timeout_override: true } }"""
    rig = Rig(tmp_path, config + ONE, ECHO)
    handler = rig.client.handler
    body = {"inputs": [numbers(1, shape=[1, 1])], "parameters": {"timeout": 1}}
    call = handler.decode(Request(json.dumps(body).encode()))
    call.arrival -= 1
    handler.predict([call])
    with pytest.raises(ServingError, match="queue policy"):
        handler.encode(call, Request())


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return []", "0 responses for 1 requests"),
        ("return [None]", "sent no response"),
        ("return ['text']", "gave str"),
        ("return 3", "int responses"),
        ("raise ValueError('secret')", "ValueError; the log"),
        ("raise pb_utils.TritonModelException('told')", "told"),
    ],
)
def test_what_execute_may_not_do(tmp_path: Path, body: str, words: str) -> None:
    rig = Rig(tmp_path, ONE, f"class TritonPythonModel:\n    def execute(self, requests):\n        {body}\n")
    error = rig.error(numbers(1))
    assert error.status == 500
    assert words in error.message
    assert "secret" not in error.message


@pytest.mark.parametrize(
    ("code", "status"),
    [("INVALID_ARG", 400), ("NOT_FOUND", 404), ("UNAVAILABLE", 503), ("UNSUPPORTED", 501), ("INTERNAL", 500)],
)
def test_an_error_of_triton_has_its_status(tmp_path: Path, code: str, status: int) -> None:
    script = f"""
    class TritonPythonModel:
        def execute(self, requests):
            error = pb_utils.TritonError("words", pb_utils.TritonError.{code})
            return [pb_utils.InferenceResponse(error=error) for _ in requests]
    """
    error = Rig(tmp_path, ONE, script).error(numbers(1))
    assert (error.status, error.message) == (status, "words")


def test_a_model_that_is_not_decoupled_may_send_its_response(tmp_path: Path) -> None:
    script = """
    class TritonPythonModel:
        def execute(self, requests):
            for one in requests:
                response = pb_utils.InferenceResponse([pb_utils.Tensor("OUT", one.inputs()[0].as_numpy())])
                send = one.get_response_sender().send
                threading.Timer(0.05, send, (response, pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)).start()
            return None
    """
    assert Rig(tmp_path, ONE, script).ask(numbers(4))["outputs"][0]["data"] == [4]


def test_a_rescheduled_request_comes_again(tmp_path: Path) -> None:
    script = """
    class TritonPythonModel:
        turns = 0
        def execute(self, requests):
            self.turns += 1
            if self.turns < 3:
                for one in requests:
                    one.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
                return [None] * len(requests)
            return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([self.turns], np.int32))])]
    """
    assert Rig(tmp_path, ONE, script).ask(numbers(4))["outputs"][0]["data"] == [3]


def test_what_the_model_sees_of_a_request(tmp_path: Path) -> None:
    script = """
    class TritonPythonModel:
        def initialize(self, args):
            self.args = args
        def execute(self, requests):
            [one] = requests
            told = [one.request_id(), one.correlation_id(), one.flags(), one.timeout(), one.requested_output_names(),
                    json.loads(one.parameters()), one.is_cancelled(), self.args["model_instance_kind"],
                    self.args["model_name"], self.args["model_version"].isdecimal(),
                    json.loads(self.args["model_config"])["input"][0]["dims"]]
            text = np.array([json.dumps(told)], dtype=np.object_)
            return [pb_utils.InferenceResponse([pb_utils.Tensor("TEXT", text)], parameters={"own": True})]
    """
    config = "name: 'seen'" + ONE.partition("output")[0] + "output { name: 'TEXT' data_type: TYPE_STRING dims: 1 }"
    parameters = {"sequence_id": "s", "sequence_end": True, "timeout": 7, "priority": 1, "mine": "x"}
    answer = Rig(tmp_path, config, script).ask(numbers(1), id="r", parameters=parameters)
    assert answer["parameters"] == {"own": True}
    told = ["r", "s", 2, 7, ["TEXT"], {"mine": "x"}, False, "CPU", "seen", True, [-1]]
    assert json.loads(answer["outputs"][0]["data"][0]) == told


def test_warm_up_runs_before_the_first_request(tmp_path: Path) -> None:
    script = """
    class TritonPythonModel:
        seen = []
        def execute(self, requests):
            self.seen += [len(requests), int(requests[0].inputs()[0].as_numpy().sum())]
            out = pb_utils.Tensor("OUT", np.array(self.seen, np.int32))
            return [pb_utils.InferenceResponse([out]) for _ in requests]
    """
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "raw").write_bytes(struct.pack("<2i", 3, 4))
    config = (
        ONE
        + """max_batch_size: 4 dynamic_batching { }
        model_warmup { batch_size: 2 inputs { key: "IN" value { data_type: TYPE_INT32 dims: 2 zero_data: true } } }
        model_warmup { inputs { key: "IN" value { data_type: TYPE_INT32 dims: 2 input_data_file: "raw" } } }
    """
    )
    assert Rig(tmp_path, config, script).ask(numbers(9, shape=[1, 1]))["outputs"][0]["data"] == [2, 0, 1, 7, 1, 9]


def test_a_warm_up_that_fails_is_an_error(tmp_path: Path) -> None:
    script = """
    class TritonPythonModel:
        def execute(self, requests):
            return [pb_utils.InferenceResponse(error=pb_utils.TritonError("cold")) for _ in requests]
    """
    sample = "model_warmup { inputs { key: 'IN' value { data_type: TYPE_INT32 dims: 1 random_data: true } } }"
    with pytest.raises(ModelError, match="cold"):
        Rig(tmp_path, ONE + sample, script)
    with pytest.raises(ModelError, match="missing"):
        Rig(tmp_path / "b", ONE + sample.replace("random_data: true", "input_data_file: 'missing'"), script)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("import no_such_module", "ModuleNotFoundError"),
        ("x = 1", "no class TritonPythonModel"),
        ("class TritonPythonModel: pass", "no execute"),
        (
            """
            class TritonPythonModel:
                def execute(self, requests): pass
                @staticmethod
                def auto_complete_config(config): return None
            """,
            "gave NoneType",
        ),
        (
            """
            class TritonPythonModel:
                def execute(self, requests): pass
                @staticmethod
                def auto_complete_config(config):
                    config.add_input({"name": "IN", "data_type": "TYPE_FP64", "dims": [1]})
                    return config
            """,
            "TYPE_FP64",
        ),
    ],
)
def test_a_script_that_cannot_be_used_says_why(tmp_path: Path, script: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        Rig(tmp_path, ONE, script)


def test_a_decoupled_model_with_binary_outputs_sends_their_bytes_behind_each_line(tmp_path: Path) -> None:
    script = """
    class TritonPythonModel:
        def execute(self, requests):
            for one in requests:
                sender = one.get_response_sender()
                for value in one.inputs()[0].as_numpy():
                    sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([value]))]))
                sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
    """
    rig = Rig(tmp_path, ONE + "model_transaction_policy { decoupled: true }", script)
    body = json.dumps({"inputs": [numbers(7, 8)], "parameters": {"binary_data_output": True}}).encode()
    answer = bytes(rig.client.invoke(body).body)
    assert [answer.count(struct.pack("<i", value)) for value in (7, 8)] == [1, 1]
    assert json.loads(answer.partition(b"\n")[0])["outputs"][0]["parameters"] == {"binary_data_size": 4}
    with pytest.raises(ServingError, match="binary"):
        rig.client.invoke(body, accept="text/event-stream")
    rig.client.close()


@pytest.mark.parametrize("execute", ["raise ValueError('x')", "return ['y']"])
def test_a_decoupled_execute_that_fails_fails_its_requests(tmp_path: Path, execute: str) -> None:
    script = f"class TritonPythonModel:\n    def execute(self, requests):\n        {execute}\n"
    rig = Rig(tmp_path, ONE + "model_transaction_policy { decoupled: true }", script)
    assert rig.error(numbers(1)).status == 500
    rig.client.close()


SUMS = """
class TritonPythonModel:
    def execute(self, requests):
        ids = [one.correlation_id() for one in requests]
        assert len(set(ids)) == len(ids), "each sequence once"
        values = [one.inputs()[0].as_numpy() for one in requests]
        if any((one == 13).any() for one in values):
            raise ValueError("thirteen")
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", one)]) for one in values]
"""


def test_requests_of_one_sequence_are_in_order_and_never_in_one_batch(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "max_batch_size: 8 sequence_batching { direct { } }" + ONE, SUMS)

    def body(value: int, start: bool) -> Request:
        parameters = {"sequence_id": 5, "sequence_start": start}
        data = {"inputs": [numbers(value, shape=[1, 1])], "parameters": parameters}
        return Request(json.dumps(data).encode(), deadline=Deadline.after(10))

    outcomes = rig.client.batch([body(1, True), body(13, False), body(3, False)])
    assert [isinstance(one, Response) for one in outcomes] == [True, False, True]
    assert rig.client.handler._sequences is not None  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("kind", "body", "status", "words"),
    [
        (BINARY, b"{}", 400, "json-header-size"),
        (f"{BINARY};json-header-size=9", b"{}", 400, "9 bytes"),
        (f"{BINARY};json-header-size=-1", b"{}", 400, "json-header-size"),
        ("application/json", b"{", 400, "JSON"),
        ("application/json", b"\xff", 400, "JSON"),
        ("application/json", b'{"inputs": [{"name": "IN"}]}', 400, "shape"),
        ("text/csv", b"1", 415, "text/csv"),
    ],
)
def test_bodies_that_are_not_of_the_protocol(tmp_path: Path, kind: str, body: bytes, status: int, words: str) -> None:
    rig = Rig(tmp_path, ONE, ECHO)
    with pytest.raises(ServingError) as caught:
        rig.client.invoke(body, kind)
    assert caught.value.status == status
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"sequence_id": 1.5}, "sequence_id"),
        ({"sequence_start": 1}, "sequence_start"),
        ({"timeout": -1}, "timeout"),
        ({"binary_data_output": "yes"}, "binary_data_output"),
        ({"mine": [1]}, "mine"),
    ],
)
def test_parameters_of_a_wrong_type_are_named(tmp_path: Path, parameters: dict[str, Any], words: str) -> None:
    error = Rig(tmp_path, ONE, ECHO).error(numbers(1), parameters=parameters)
    assert error.status == 400
    assert words in error.message


def test_a_call_of_another_model_has_the_time_of_the_request_and_a_minute_outside_of_any(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "left.py").write_text(
        HEAD
        + textwrap.dedent("""
        class TritonPythonModel:
            def execute(self, requests):
                left = np.array([pb_utils.surrounding.current().remaining()])
                return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", left)]) for _ in requests]
        """)
    )
    (tmp_path / "config.pbtxt").write_text("default_model_filename: 'left.py'")
    handler = TritonHandler()
    handler.home = Home("127.0.0.1", 1)
    body = json.dumps({"inputs": [numbers(1)]}).encode()
    try:
        with Client(handler, tmp_path, version="1") as client:
            [answer] = client.batch([Request(body, "application/json", deadline=Deadline.after(8))])
            assert isinstance(answer, Response)
            assert 7 < json.loads(bytes(answer.body))["outputs"][0]["data"][0] < 7.5
            assert surrounding.current().remaining() == 60.0
    finally:
        surrounding.connect(None)


def test_requests_of_the_lowest_priority_number_go_first_and_others_have_the_default(tmp_path: Path) -> None:
    rig = Rig(
        tmp_path,
        """
        max_batch_size: 1
        input { name: "A" data_type: TYPE_INT32 dims: 1 }
        output { name: "ORDER" data_type: TYPE_INT32 dims: 1 }
        dynamic_batching { priority_levels: 3 default_priority_level: 2 }
        """,
        """
        class TritonPythonModel:
            def initialize(self, args):
                self.count = 0

            def execute(self, requests):
                self.count += 1
                answer = pb_utils.Tensor("ORDER", np.array([[self.count]], np.int32))
                return [pb_utils.InferenceResponse([answer]) for _ in requests]
        """,
    )
    given = [3, 0, 1, 9, 1]
    bodies = [{"inputs": [tensor("A", "INT32", [1, 1], [1])], "parameters": {"priority": one}} for one in given]
    answers = rig.client.batch([Request(json.dumps(body).encode(), "application/json") for body in bodies])
    orders = [json.loads(bytes(answer.body))["outputs"][0]["data"] for answer in answers]  # type: ignore[union-attr]
    assert orders == [[5], [3], [1], [4], [2]]
