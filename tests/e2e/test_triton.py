"""Models for Triton's Python backend under the real server, asked in plain HTTP."""

from __future__ import annotations

import http.client
import json
import shutil
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import Server, eventually, model_folder, serving
from tests.e2e.triton import ADD_SUB, BINARY, MODELS, call, infer, invoke, store, tensor


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(Path("/nowhere"), model_store=store(tmp_path_factory.mktemp("models"))) as server:
        yield server


def test_on_invocations_and_on_the_protocols_path_the_answer_is_the_same(server: Server) -> None:
    one = infer(server, "add_sub", ADD_SUB, id="7")
    two = invoke(server, "add_sub", ADD_SUB, id="7")
    three = call(
        server, "POST", "/models/add_sub/invoke", {"inputs": ADD_SUB, "id": "7"}, Content_Type="application/json"
    )
    assert one.status == two.status == three.status == 200
    assert one.body == two.body == three.body
    assert one.json()["id"] == "7"
    assert one.data("OUTPUT0") == [5, 5, 5, 5]
    assert one.data("OUTPUT1") == [-3, -1, 1, 3]


def test_binary_tensors_are_labelled_as_sagemaker_or_as_triton_does(server: Server) -> None:
    inputs = [{**one, "data": None} for one in ADD_SUB]
    for one in inputs:
        del one["data"]
        one["parameters"] = {"binary_data_size": 16}
    head = json.dumps({"inputs": inputs, "outputs": [{"name": "OUTPUT1", "parameters": {"binary_data": True}}]})
    body = head.encode() + struct.pack("<8f", 1, 2, 3, 4, 4, 3, 2, 1)
    label = f"{BINARY};json-header-size={len(head)}"
    target = {"X-Amzn-SageMaker-Target-Model": "add_sub"}
    sagemaker = call(server, "POST", "/invocations", body, Content_Type=label, **target)
    assert sagemaker.status == 200, sagemaker.body
    kind, _, size = sagemaker.headers["content-type"].partition(";json-header-size=")
    assert kind == BINARY
    triton = call(
        server, "POST", "/v2/models/add_sub/infer", body, **{"Inference-Header-Content-Length": str(len(head))}
    )
    assert triton.headers["inference-header-content-length"] == size
    assert triton.body == sagemaker.body
    assert struct.unpack("<4f", triton.body[int(size) :]) == (-3, -1, 1, 3)
    assert [one["name"] for one in json.loads(triton.body[: int(size)])["outputs"]] == ["OUTPUT1"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inputs": ADD_SUB[:1]}, "INPUT1 is missing"),
        ({"inputs": [*ADD_SUB, tensor("MORE", "FP32", [1], [1])]}, "unexpected input 'MORE'"),
        ({"inputs": [ADD_SUB[0], ADD_SUB[0]]}, "given twice"),
        ({"inputs": [ADD_SUB[0], tensor("INPUT1", "FP32", [3], [1, 2, 3])]}, "Expected [4], got [3]"),
        ({"inputs": [ADD_SUB[0], tensor("INPUT1", "FP64", [4], [1, 2, 3, 4])]}, "datatype FP32"),
        ({"inputs": [ADD_SUB[0], tensor("INPUT1", "FLOAT", [4], [1, 2, 3, 4])]}, "'FLOAT'; allowed: BOOL"),
        ({"inputs": [ADD_SUB[0], tensor("INPUT1", "FP32", [4], [1, 2, 3])]}, "3 values"),
        ({"inputs": [ADD_SUB[0], tensor("INPUT1", "FP32", [4], [1, 2, 3, "x"])]}, "FP32 does not have"),
        ({"inputs": ADD_SUB, "outputs": [{"name": "NONE"}]}, "unexpected output 'NONE'"),
        ({"inputs": ADD_SUB, "outputs": [{"name": "OUTPUT0", "parameters": {"classification": 3}}]}, "classification"),
        ({}, "inputs"),
    ],
)
def test_what_is_wrong_is_a_400_that_names_it(server: Server, change: dict[str, Any], words: str) -> None:
    answer = call(server, "POST", "/v2/models/add_sub/infer", change)
    assert answer.status == 400
    assert words in answer.json()["error"]


def test_another_version_and_another_content_type_are_told(server: Server) -> None:
    assert call(server, "POST", "/v2/models/add_sub/versions/2/infer", {"inputs": ADD_SUB}).status == 404
    assert call(server, "POST", "/v2/models/add_sub/versions/1/infer", {"inputs": ADD_SUB}).status == 200
    target = {"X-Amzn-SageMaker-Target-Model": "add_sub"}
    assert call(server, "POST", "/invocations", b"1,2", Content_Type="text/csv", **target).status == 415
    assert call(server, "POST", "/v2/models/add_sub/infer", b"x", Content_Encoding="gzip").status == 415
    assert call(server, "GET", "/v2/models/add_sub/infer").status == 405
    assert call(server, "GET", "/v2/no/such").status == 404


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        ("GET", "/v2/systemsharedmemory/status", "shared memory"),
        ("POST", "/v2/systemsharedmemory/region/x/register", "shared memory"),
        ("POST", "/v2/cudasharedmemory/region/x/register", "shared memory"),
        ("POST", "/v2/trace/setting", "traces"),
        ("GET", "/v2/models/add_sub/trace/setting", "traces"),
        ("POST", "/v2/models/add_sub/trace/setting", "traces"),
        ("POST", "/v2/logging", "log"),
        ("POST", "/v2/models/add_sub/generate", "generate"),
        ("POST", "/v2/models/add_sub/generate_stream", "generate_stream"),
    ],
)
def test_what_is_not_supported_says_so(server: Server, method: str, path: str, words: str) -> None:
    answer = call(server, method, path, b"{}" if method == "POST" else None)
    assert answer.status == 501
    assert words in answer.json()["error"]


@pytest.mark.parametrize("value", [{"ready": 1}, {"other": True}])
def test_the_index_takes_no_other_wishes(server: Server, value: Any) -> None:
    assert call(server, "POST", "/v2/repository/index", value).status == 400
    assert call(server, "POST", "/v2/repository/index", {"ready": True}).status == 200


@pytest.mark.parametrize("model", ["no_such", "no/such"])
def test_a_model_that_is_not_there(server: Server, model: str) -> None:
    answer = infer(server, model, ADD_SUB)
    assert answer.status == 404
    assert model in answer.json()["error"]


def together(server: Server, bodies: list[dict[str, Any]]) -> list[Any]:
    answers: list[Any] = [None] * len(bodies)

    def ask(index: int) -> None:
        answers[index] = call(server, "POST", "/v2/models/batching/infer", bodies[index])

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return answers


def body(*values: int) -> dict[str, Any]:
    return {"inputs": [tensor("IN", "INT32", [len(values), 1], list(values))]}


def test_requests_of_several_connections_are_one_batch_and_fail_alone(server: Server) -> None:
    assert infer(server, "batching", body(1)["inputs"]).status == 200
    answers = together(server, [body(1, 2), body(3), body(-1), body(4)])
    assert [answer.status for answer in answers] == [200, 200, 400, 200]
    assert answers[2].json() == {"error": "negative"}
    assert [answer.data("OUT") for answer in (answers[0], answers[1], answers[3])] == [[1, 2], [3], [4]]
    assert max(answers[0].data("SIZES")) > 2, "they came together"


def test_a_request_that_spoils_its_batch_fails_alone_too(server: Server) -> None:
    answers = together(server, [body(1), body(100), body(2), body(3)])
    assert [answer.status for answer in answers] == [200, 500, 200, 200]
    assert "ValueError" in answers[1].json()["error"]
    assert "one hundred" not in answers[1].json()["error"]


def test_no_batch_has_more_rows_than_the_model_takes(server: Server) -> None:
    answers = together(server, [body(*range(1, 7)) for _ in range(4)])
    assert all(max(answer.data("SIZES")) <= 8 for answer in answers)
    assert infer(server, "batching", body(*range(9))["inputs"]).status == 400


REPEAT = [tensor("IN", "INT32", [3], [4, -1, 6]), tensor("WAIT", "UINT32", [1], [0])]


def delays(*milliseconds: int) -> dict[str, Any]:
    return tensor("DELAY", "UINT32", [len(milliseconds)], list(milliseconds))


def test_a_decoupled_model_answers_in_lines_or_events_as_it_sends_them(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    message = json.dumps({"inputs": [*REPEAT, delays(0, 0, 500)]})
    connection.request("POST", "/v2/models/repeat_int32/infer", message)
    answer = connection.getresponse()
    first, began = json.loads(answer.readline()), time.monotonic()
    assert first["outputs"][0]["data"] == [4]
    assert json.loads(answer.readline()) == {"error": "minus one"}
    assert json.loads(answer.readline())["outputs"][0]["data"] == [6]
    assert time.monotonic() - began > 0.3, "the first came at once"
    connection.close()
    events = call(server, "POST", "/v2/models/repeat_int32/infer", message.encode(), Accept="text/event-stream")
    assert events.headers["content-type"] == "text/event-stream"
    assert events.body.count(b"data: {") == 3


def test_a_decoupled_model_that_fails_first_has_a_proper_status(server: Server) -> None:
    nothing = [tensor("IN", "INT32", [0], []), delays(), REPEAT[1]]
    answer = infer(server, "repeat_int32", nothing)
    assert (answer.status, answer.json()) == (400, {"error": "nothing"})
    assert infer(server, "repeat_int32", [*REPEAT, delays(1)]).status == 500


def test_a_decoupled_model_hears_that_its_client_has_gone(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("POST", "/v2/models/repeat_int32/infer", json.dumps({"inputs": [*REPEAT, delays(0, 0, 20_000)]}))
    assert connection.getresponse().readline()
    connection.close()
    eventually(lambda: server.lines(message="repeat_int32 was cancelled"))


def test_an_async_decoupled_model_serves_many_at_a_time(server: Server) -> None:
    """Each has its first piece before any has its last."""
    firsts, lasts = [], []

    def read() -> None:
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        inputs = [tensor("IN", "INT32", [1], [40])]
        client.request("POST", "/v2/models/within/infer", json.dumps({"inputs": inputs}))
        with client.getresponse() as answer:
            assert answer.readline()
            firsts.append(time.monotonic())
            assert answer.read().count(b"\n") == 39
            lasts.append(time.monotonic())
        client.close()

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(lasts) == 4
    assert max(firsts) < min(lasts)


def test_a_model_asks_another_one(server: Server) -> None:
    name = tensor("MODEL_NAME", "BYTES", [1], ["add_sub"])
    answer = infer(server, "bls_sync", [*ADD_SUB, name])
    assert answer.data("OUTPUT1") == [-3, -1, 1, 3]
    missing = infer(server, "bls_sync", [*ADD_SUB, tensor("MODEL_NAME", "BYTES", [1], ["nobody"])])
    assert missing.status == 500
    assert "nobody" in missing.json()["error"]


def test_a_model_that_waits_for_itself_hears_of_it_in_time_and_lives_on(tmp_path: Path) -> None:
    for name in ("add_sub", "bls_sync"):
        shutil.copytree(MODELS / name, tmp_path / name)
    with serving(tmp_path, model_store=tmp_path, request_timeout=1.5) as server:
        good = [*ADD_SUB, tensor("MODEL_NAME", "BYTES", [1], ["add_sub"])]
        assert infer(server, "bls_sync", good).status == 200
        before = server.workers()
        answer = infer(server, "bls_sync", [*ADD_SUB, tensor("MODEL_NAME", "BYTES", [1], ["bls_sync"])])
        assert answer.status == 500
        assert "'bls_sync' did not answer" in answer.json()["error"]
        assert infer(server, "bls_sync", good).status == 200
        assert server.workers() == before


def test_a_model_asks_a_decoupled_one_twice_at_a_time_and_loads_a_third(server: Server) -> None:
    answer = infer(server, "bls_async", [tensor("IN", "INT32", [3], [1, 2, 3])])
    assert answer.status == 200, answer.body
    assert answer.data("SUM") == [12]
    assert answer.data("READY") == [True, False]


def test_sequences_are_kept_apart_and_must_begin(server: Server) -> None:
    def add(id: int, value: int, **flags: bool) -> Any:
        inputs = [tensor("IN", "INT32", [1, 1], [value])]
        return infer(server, "sequence", inputs, parameters={"sequence_id": id, **flags})

    assert add(1, 5, sequence_start=True).data("SUM") == [5]
    assert add(2, 70, sequence_start=True).data("SUM") == [70]
    assert add(1, 6).data("SUM") == [11]
    assert add(2, 1, sequence_end=True).data("SUM") == [71]
    assert add(2, 1).status == 400
    assert "sequence_start" in add(3, 1).json()["error"]
    assert add(0, 1, sequence_start=True).status == 400


def test_a_session_is_a_sequence(server: Server) -> None:
    target = {"X-Amzn-SageMaker-Target-Model": "sequence", "Content_Type": "application/json"}

    def add(session: str, value: int) -> Any:
        body = {"inputs": [tensor("IN", "INT32", [1, 1], [value])]}
        return call(server, "POST", "/invocations", body, **target, **{"X-Amzn-SageMaker-Session-Id": session})

    opened = add("NEW_SESSION", 5)
    assert opened.data("SUM") == [5]
    id = opened.headers["x-amzn-sagemaker-session-id"].partition(";")[0]
    assert add("NEW_SESSION", 70).data("SUM") == [70]
    assert add(id, 6).data("SUM") == [11]


def test_a_model_without_a_configuration_completes_it_and_its_metrics_are_shown(server: Server) -> None:
    answer = infer(server, "completed", [tensor("IN", "FP32", [1, 2], [1, 2])])
    shown = call(server, "GET", "/metrics").body
    assert b"# TYPE model_requests counter" in shown
    assert b'model_requests{kind="all",model="completed",replica="' in shown, "at once"
    assert answer.data("OUT") == [2, 4]
    assert answer.json()["model_version"] == "2"
    metadata = call(server, "GET", "/v2/models/completed").json()
    assert metadata["inputs"] == [{"name": "IN", "datatype": "FP32", "shape": [-1, 2]}]
    assert call(server, "GET", "/v2/models/completed/config").json()["max_batch_size"] == 4


def test_a_model_may_say_that_it_is_not_ready(server: Server) -> None:
    assert call(server, "GET", "/v2/models/completed/ready").status in (200, 404)
    infer(server, "completed", [tensor("IN", "FP32", [1, 2], [-1, 0])])
    assert call(server, "GET", "/v2/models/completed/ready").status == 503
    infer(server, "completed", [tensor("IN", "FP32", [1, 2], [0, 0])])
    assert call(server, "GET", "/v2/models/completed/ready").status == 200


def test_models_are_loaded_and_unloaded_by_the_protocol(server: Server) -> None:
    assert call(server, "POST", "/v2/repository/models/add_sub/load", {}).status == 200
    assert call(server, "POST", "/v2/repository/models/add_sub/load", b"").status == 200, "it is there already"
    index = call(server, "POST", "/v2/repository/index").json()
    assert {"name": "add_sub", "version": "1", "state": "READY"} in index
    refused = call(server, "POST", "/v2/repository/models/add_sub/load", {"parameters": {"config": "{}"}})
    assert refused.status == 400
    assert "config" in refused.json()["error"]
    assert call(server, "POST", "/v2/repository/models/add_sub/unload", b"{}").status == 200
    assert call(server, "GET", "/v2/models/add_sub/ready").status == 404


def test_one_model_by_itself_answers_to_its_name_only(tmp_path: Path) -> None:
    folder = tmp_path / "model" / "add_sub"
    shutil.copytree(MODELS / "add_sub", folder)
    with serving(folder.parent) as server:
        assert infer(server, "add_sub", ADD_SUB).status == 200
        assert infer(server, "sub_add", ADD_SUB).status == 404
        assert call(server, "POST", "/invocations", {"inputs": ADD_SUB}).status == 200
        assert call(server, "POST", "/v2/repository/index").json()[0]["name"] == "add_sub"
        assert call(server, "POST", "/v2/repository/models/add_sub/load", b"").status == 400
        assert server.stop() == 0
        assert server.lines(message="add_sub is finalized")


def test_a_repository_in_the_model_folder_as_tritons_container_takes_it(tmp_path: Path) -> None:
    for name in ("add_sub", "bls_sync"):
        shutil.copytree(MODELS / name, tmp_path / name)
    variables = {"SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": "bls_sync"}
    with serving(tmp_path, environment=variables) as server:
        inputs = [*ADD_SUB, tensor("MODEL_NAME", "BYTES", [1], ["add_sub"])]
        answer = call(server, "POST", "/invocations", {"inputs": inputs}, Content_Type="application/json")
        assert answer.data("OUTPUT1") == [-3, -1, 1, 3]


def test_a_model_of_another_convention_says_so(tmp_path: Path) -> None:
    with serving(model_folder(tmp_path, "echo:Echo")) as server:
        assert call(server, "GET", "/v2/health/ready").status == 200
        assert call(server, "GET", "/v2/models/model/ready").status == 200
        for method, path in (("GET", "/v2/models/model"), ("POST", "/v2/models/model/infer")):
            answer = call(server, method, path)
            assert answer.status == 400
            assert "POST /invocations" in answer.json()["error"]


HANGS = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    {execute}(self, requests):
        if pb_utils.get_input_tensor_by_name(requests[0], "IN").as_numpy()[0]:
            while True:
                pass
        sender = requests[0].get_response_sender()
        sender.send(pb_utils.InferenceResponse([]), pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""


@pytest.mark.parametrize("execute", ["def execute", "async def execute"])
def test_a_decoupled_model_that_hangs_is_ended_and_replaced(tmp_path: Path, execute: str) -> None:
    (tmp_path / "hangs" / "1").mkdir(parents=True)
    (tmp_path / "hangs" / "1" / "model.py").write_text(HANGS.replace("{execute}", execute))
    config = "model_transaction_policy { decoupled: true } input { name: 'IN' data_type: TYPE_BOOL dims: 1 }"
    (tmp_path / "hangs" / "config.pbtxt").write_text(config)
    with serving(tmp_path / "hangs", request_timeout=1, stream_idle_timeout=1) as server:
        good, bad = ([tensor("IN", "BOOL", [1], [hangs])] for hangs in (False, True))
        assert infer(server, "hangs", good).status == 200
        assert infer(server, "hangs", bad).status == 504
        eventually(lambda: infer(server, "hangs", good).status == 200, 20)
        assert any("model.py" in line and "in execute" in line for line in server.raw)
