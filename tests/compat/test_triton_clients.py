"""Triton's own example clients for HTTP, which nobody here wrote, against models of the names that they ask for.

``make compat TRITON_CLIENT=folder`` names a checkout of triton-inference-server/client; without it these are skipped.
The models were written here. Of the examples those are not here that want shared memory, or to change a model's
configuration from outside.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.server import Server, serving

EXAMPLES = Path(os.environ.get("TRITON_CLIENT") or "/nowhere") / "src" / "python" / "examples"
CLIENTS = [
    *("simple_http_infer_client.py", "simple_http_aio_infer_client.py", "simple_http_async_infer_client.py"),
    *("simple_http_string_infer_client.py", "simple_http_sequence_sync_infer_client.py"),
    "simple_http_health_metadata.py",
]

pytestmark = pytest.mark.skipif(
    not (EXAMPLES / "simple_http_infer_client.py").is_file(),
    reason="TRITON_CLIENT names no checkout of triton-inference-server/client",
)

SIMPLE = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            one, two = (pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in ("INPUT0", "INPUT1"))
            text = one.dtype == object
            numbers = [value.astype(np.int32) for value in (one, two)]
            outputs = [numbers[0] + numbers[1], numbers[0] - numbers[1]]
            outputs = [value.astype(str).astype(object) if text else value for value in outputs]
            tensors = [pb_utils.Tensor(f"OUTPUT{index}", value) for index, value in enumerate(outputs)]
            responses.append(pb_utils.InferenceResponse(tensors))
        return responses
"""
SEQUENCE = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.sums = {}

    def execute(self, requests):
        responses = []
        for request in requests:
            [value] = pb_utils.get_input_tensor_by_name(request, "INPUT").as_numpy().flatten()
            [start] = pb_utils.get_input_tensor_by_name(request, "START").as_numpy().flatten()
            key = request.correlation_id()
            self.sums[key] = value + (1 if start else 0)
            output = np.full((1, 1), self.sums[key], np.int32)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", output)]))
        return responses
"""
IDENTITY = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        arrays = [pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", array)]) for array in arrays]
"""
FOUR = """
max_batch_size: 8
input [ {{ name: "INPUT0" data_type: {kind} dims: 16 }}, {{ name: "INPUT1" data_type: {kind} dims: 16 }} ]
output [ {{ name: "OUTPUT0" data_type: {kind} dims: 16 }}, {{ name: "OUTPUT1" data_type: {kind} dims: 16 }} ]
"""
ACCUMULATES = """
max_batch_size: 8
sequence_batching { control_input { name: "START" control { kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1] } } }
input { name: "INPUT" data_type: TYPE_INT32 dims: 1 }
output { name: "OUTPUT" data_type: TYPE_INT32 dims: 1 }
"""
SAME = """
max_batch_size: 8
input { name: "INPUT0" data_type: TYPE_STRING dims: -1 }
output { name: "OUTPUT0" data_type: TYPE_STRING dims: -1 }
"""
MODELS = {
    "simple_identity": (IDENTITY, SAME),
    "simple": (SIMPLE, FOUR.format(kind="TYPE_INT32")),
    "simple_string": (SIMPLE, FOUR.format(kind="TYPE_STRING")),
    "simple_sequence": (SEQUENCE, ACCUMULATES),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    store = tmp_path_factory.mktemp("store")
    for name, (script, config) in MODELS.items():
        (store / name / "1").mkdir(parents=True)
        (store / name / "1" / "model.py").write_text(script)
        (store / name / "config.pbtxt").write_text(f'name: "{name}"\nbackend: "python"\n{config}')
    with serving(store, model_store=store) as server:
        yield server


@pytest.mark.parametrize("client", CLIENTS)
def test_an_example_passes(server: Server, client: str) -> None:
    command = [sys.executable, EXAMPLES / client, "-u", f"127.0.0.1:{server.port}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "FAILED" not in result.stdout
    assert "error" not in result.stdout
