"""A store of Triton models as its clients meet it: all models are there and ready from the start; words are Triton's.

The texts that clients compare are those of Triton's own server.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.e2e.server import Server, serving
from tests.e2e.store import add_model
from tests.e2e.triton import MODELS, call, store

triton = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")
errors = pytest.importorskip("tritonclient.utils", reason="tritonclient is not installed")

ON_GPU = (MODELS / "add_sub" / "config.pbtxt").read_text().replace("KIND_CPU", "KIND_GPU").replace('"add_sub"', '"gpu"')
BROKEN = "class TritonPythonModel:\n    def initialize(self, args):\n        raise ValueError('no weights')\n"


def models(folder: Path) -> Path:
    store(folder)
    for name, script in (("broken", BROKEN), ("gpu", (MODELS / "add_sub" / "1" / "model.py").read_text())):
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1" / "model.py").write_text(script)
    (folder / "gpu" / "config.pbtxt").write_text(ON_GPU)
    add_model(folder, "plain", "echo:Echo", "")
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(Path("/nowhere"), model_store=models(tmp_path_factory.mktemp("models"))) as server:
        yield server


def client_of(server: Server) -> Any:
    return contextlib.closing(triton.InferenceServerClient(f"127.0.0.1:{server.port}", concurrency=4))


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    with client_of(server) as client:
        yield client


def given() -> list[Any]:
    tensors = []
    for name in ("INPUT0", "INPUT1"):
        tensor = triton.InferInput(name, [4], "FP32")
        tensors.append(tensor.set_data_from_numpy(np.ones(4, np.float32)))
    return tensors


def said(function: Any, *args: Any, **options: Any) -> str:
    with pytest.raises(errors.InferenceServerException) as caught:
        function(*args, **options)
    return str(caught.value.message())


NAMES = {path.name for path in MODELS.iterdir() if path.is_dir()} | {"broken", "gpu", "plain"}


def test_a_fresh_store_lists_and_readies_all_its_models_and_loads_none(tmp_path: Path) -> None:
    with serving(Path("/nowhere"), model_store=models(tmp_path)) as server, client_of(server) as client:
        assert client.is_server_ready()
        index = client.get_model_repository_index()
        assert {one["name"] for one in index} == NAMES
        assert {one["state"] for one in index} == {"READY"}
        assert next(one["version"] for one in index if one["name"] == "completed") == "2"
        assert call(server, "POST", "/v2/repository/index", {"ready": True}).json() == index
        for name in NAMES:
            assert client.is_model_ready(name), name
        assert client.is_model_ready("completed", "2")
        assert not client.is_model_ready("completed", "7")
        assert not client.is_model_ready("none")
        assert not server.lines(message="a worker begins")
        assert client.infer("add_sub", given()).as_numpy("OUTPUT0").tolist() == [2, 2, 2, 2]
        assert len(server.lines(message="a worker begins")) == 1


def test_the_server_is_called_as_tritons_clients_expect(client: Any) -> None:
    told = client.get_server_metadata()
    assert told["name"] == "triton"
    assert told["version"]
    assert {"binary_tensor_data", "model_repository", "model_configuration", "statistics", "sequence"} <= set(
        told["extensions"]
    )


def test_words_for_a_model_that_is_not_there(client: Any) -> None:
    words = "Request for unknown model: 'none' is not found"
    assert said(client.infer, "none", given()) == words
    assert said(client.get_model_metadata, "none") == words
    assert said(client.get_model_config, "none") == words
    assert said(client.get_inference_statistics, "none") == words
    assert said(client.load_model, "none") == "failed to load 'none', failed to poll from model repository"


def test_words_for_a_version_that_is_not_there(client: Any) -> None:
    assert client.infer("add_sub", given())
    words = "Request for unknown model: 'add_sub' version 7 is not found"
    assert said(client.infer, "add_sub", given(), model_version="7").startswith(words)
    assert said(client.get_model_metadata, "add_sub", "7").startswith(words)
    assert said(client.get_inference_statistics, "add_sub", "7").startswith(words)
    assert not client.is_model_ready("add_sub", "7")


def test_words_for_what_cannot_be_loaded(client: Any) -> None:
    assert said(client.load_model, "broken").startswith("failed to load 'broken', ")
    assert said(client.load_model, "add_sub", config="{}").startswith("failed to load 'add_sub', ")
    assert not client.is_model_ready("broken")
    state = next(one for one in client.get_model_repository_index() if one["name"] == "broken")
    assert (state["state"], bool(state["reason"])) == ("UNAVAILABLE", True)


def test_a_model_without_its_gpu_names_the_setting_that_helps(client: Any) -> None:
    words = said(client.infer, "gpu", given())
    assert "device is cuda" in words
    assert "SERVING_DEVICE=cpu" in words
    assert 'device = "cpu"' in words


def test_whatever_load_it_is_of_many_its_reason_is_told(client: Any) -> None:
    """A worker says why it cannot serve and ends: its end may be seen first."""
    for _ in range(8):
        assert "device is cuda" in said(client.load_model, "gpu")


def test_control_as_tritons_own_example_does_it(client: Any) -> None:
    client.load_model("within")
    assert client.is_model_ready("within")
    client.unload_model("within")
    assert not client.is_model_ready("within")
    state = next(one for one in client.get_model_repository_index() if one["name"] == "within")
    assert (state["state"], state["reason"]) == ("UNAVAILABLE", "unloaded")
    assert "within" not in [one["name"] for one in call_ready(client)]
    client.load_model("within")
    assert client.is_model_ready("within")


def call_ready(client: Any) -> list[Any]:
    answer = client._post("v2/repository/index", '{"ready": true}', None, None)
    return list(json.loads(answer.read()))


def stats_of(client: Any, name: str = "", version: str = "") -> list[Any]:
    return list(client.get_inference_statistics(name, version)["model_stats"])


def test_statistics(client: Any) -> None:
    client.load_model("add_sub")
    [before] = stats_of(client, "add_sub")
    for _ in range(3):
        client.infer("add_sub", given())
    said(client.infer, "add_sub", given()[:1])
    [after] = stats_of(client, "add_sub", "1")
    assert (after["name"], after["version"]) == ("add_sub", "1")
    assert after["last_inference"] > 1_600_000_000_000
    assert after["inference_count"] - before["inference_count"] == 3
    assert after["execution_count"] - before["execution_count"] == 3
    for kind in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        counts = [one["inference_stats"][kind]["count"] for one in (before, after)]
        assert counts[1] - counts[0] == 3, kind
        assert after["inference_stats"][kind]["ns"] >= before["inference_stats"][kind]["ns"]
    assert after["inference_stats"]["compute_infer"]["ns"] > 0
    total = sum(after["inference_stats"][kind]["ns"] for kind in ("queue", "compute_infer"))
    assert after["inference_stats"]["success"]["ns"] >= total
    assert after["inference_stats"]["fail"]["count"] - before["inference_stats"]["fail"]["count"] == 1
    assert after["inference_stats"]["cache_hit"] == {"count": 0, "ns": 0}
    [batch] = after["batch_stats"]
    assert (batch["batch_size"], batch["compute_infer"]["count"]) == (1, after["execution_count"])
    everything = {one["name"]: one for one in stats_of(client)}
    assert everything["add_sub"] == after
    assert "none" not in everything


def test_statistics_of_batches_and_of_what_fails_while_it_runs(client: Any) -> None:
    def ask(rows: list[int]) -> Any:
        tensor = triton.InferInput("IN", [len(rows), 1], "INT32")
        return client.infer("batching", [tensor.set_data_from_numpy(np.array(rows, np.int32).reshape(-1, 1))])

    ask([1])
    [before] = stats_of(client, "batching")
    ask([1, 2, 3])
    said(ask, [-1])
    [after] = stats_of(client, "batching")
    assert after["inference_count"] - before["inference_count"] == 3
    assert after["inference_stats"]["success"]["count"] - before["inference_stats"]["success"]["count"] == 1
    assert after["inference_stats"]["fail"]["count"] - before["inference_stats"]["fail"]["count"] == 1
    assert 3 in [one["batch_size"] for one in after["batch_stats"]]


def test_statistics_of_a_decoupled_model(server: Server, client: Any) -> None:
    body = {
        "inputs": [
            {"name": "IN", "datatype": "INT32", "shape": [2], "data": [4, 2]},
            {"name": "DELAY", "datatype": "UINT32", "shape": [2], "data": [0, 0]},
            {"name": "WAIT", "datatype": "UINT32", "shape": [1], "data": [0]},
        ]
    }
    answer = call(server, "POST", "/v2/models/repeat_int32/infer", body)
    assert answer.status == 200, answer.body
    [found] = stats_of(client, "repeat_int32")
    assert found["inference_stats"]["success"]["count"] == found["inference_count"] == 1


def test_a_model_of_another_convention_has_none(client: Any) -> None:
    assert "Open Inference Protocol" in said(client.get_inference_statistics, "plain")
    assert "plain" not in [one["name"] for one in stats_of(client)]


def test_statistics_of_many_replicas_are_one(tmp_path: Path) -> None:
    folder = store(tmp_path / "all") / "add_sub"
    (folder / "serving.toml").write_text("replicas = 2\n")
    environment = {"SERVING_DEVICE": "cpu"}
    (folder / "config.pbtxt").write_text(ON_GPU.replace('"gpu"', '"add_sub"'))
    with serving(folder, environment=environment) as server, client_of(server) as client:
        for _ in range(6):
            client.infer("add_sub", given())
        [found] = stats_of(client, "add_sub")
        assert found["inference_count"] == found["inference_stats"]["success"]["count"] == 6
        assert [one["inference_count"] for one in stats_of(client)] == [6]
        index = client.get_model_repository_index()
        assert [(one["name"], one["state"]) for one in index] == [("add_sub", "READY")]
