"""Triton's own examples and the clients beside them, which nobody here wrote: every file runs as it is.

``make compat TRITON_EXAMPLES=folder`` names the ``examples`` of a checkout of triton-inference-server/python_backend;
without it these are skipped. Of the examples those are not here whose models need weights, jax or TensorRT.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.adapters.triton.config import read
from tests.e2e.server import Server, serving
from tests.e2e.store import call
from tests.e2e.triton import infer, tensor

EXAMPLES = Path(os.environ.get("TRITON_EXAMPLES") or "/nowhere")
MODELS = {
    "add_sub": ("add_sub/model.py", "add_sub/config.pbtxt"),
    "pytorch": ("pytorch/model.py", "pytorch/config.pbtxt"),
    "bls_sync": ("bls/sync_model.py", "bls/sync_config.pbtxt"),
    "bls_async": ("bls/async_model.py", "bls/async_config.pbtxt"),
    "bls_decoupled_sync": ("bls_decoupled/sync_model.py", "bls_decoupled/sync_config.pbtxt"),
    "bls_decoupled_async": ("bls_decoupled/async_model.py", "bls_decoupled/async_config.pbtxt"),
    "square_int32": ("decoupled/square_model.py", "decoupled/square_config.pbtxt"),
    "repeat_int32": ("decoupled/repeat_model.py", "decoupled/repeat_config.pbtxt"),
    "nobatch_auto_complete": ("auto_complete/nobatch_model.py", None),
    "batch_auto_complete": ("auto_complete/batch_model.py", None),
    "custom_metrics": ("custom_metrics/model.py", "custom_metrics/config.pbtxt"),
}
CLIENTS = [
    *("add_sub/client.py", "pytorch/client.py", "auto_complete/client.py", "bls/sync_client.py", "bls/async_client.py"),
    *("bls_decoupled/sync_client.py", "bls_decoupled/async_client.py"),
]
# The clients have the address of their server in them; this one has another.
RUN = """
import runpy, sys
import tritonclient.http as http
class Client(http.InferenceServerClient):
    def __init__(self, url, *args, **options):
        super().__init__(sys.argv[1], *args, **options)
http.InferenceServerClient = Client
runpy.run_path(sys.argv[2], run_name="__main__")
"""

pytestmark = pytest.mark.skipif(
    not (EXAMPLES / "add_sub" / "model.py").is_file(),
    reason="TRITON_EXAMPLES names no examples of triton-inference-server/python_backend",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    store = tmp_path_factory.mktemp("store")
    for name, (script, config) in MODELS.items():
        (store / name / "1").mkdir(parents=True)
        shutil.copy(EXAMPLES / script, store / name / "1" / "model.py")
        if config is not None:
            shutil.copy(EXAMPLES / config, store / name / "config.pbtxt")
    with serving(store, model_store=store) as server:
        yield server


def test_every_configuration_is_understood() -> None:
    found = sorted(EXAMPLES.rglob("*.pbtxt"))
    assert len(found) >= 14
    unknown = {name for path in found for name in read(path.read_text())[1]}
    assert unknown == {"ensemble_scheduling"}


@pytest.mark.parametrize("client", CLIENTS)
def test_the_client_of_an_example_passes(server: Server, client: str) -> None:
    command = [sys.executable, "-c", RUN, f"127.0.0.1:{server.port}", EXAMPLES / client]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "PASS: " in result.stdout


def test_decoupled_models_send_as_many_responses_as_they_say(server: Server) -> None:
    """Their own clients speak gRPC."""
    numbers = tensor("IN", "INT32", [4], [4, 2, 0, 1])
    more = [tensor("DELAY", "UINT32", [4], [1, 2, 3, 4]), tensor("WAIT", "UINT32", [1], [5])]
    lines = infer(server, "repeat_int32", [numbers, *more]).body.splitlines()
    assert len(lines) == 4
    for count in (4, 0, 1):
        answer = infer(server, "square_int32", [tensor("IN", "INT32", [1], [count])])
        assert (answer.status, len(answer.body.splitlines())) == (200, count)


def test_metrics_of_a_model_are_the_servers(server: Server) -> None:
    """Its own client wants them on a port of their own and without the label of the replica."""
    ones = [tensor(name, "FP32", [4], [1, 1, 1, 1]) for name in ("INPUT0", "INPUT1")]
    assert infer(server, "custom_metrics", ones).status == 200
    text = call(server, "GET", "/metrics").body.decode()
    assert "# TYPE requests_process_latency_ns counter" in text
    [line] = [line for line in text.splitlines() if line.startswith("requests_process_latency_ns{")]
    assert 'model="custom_metrics"' in line
    assert 'version="1"' in line
