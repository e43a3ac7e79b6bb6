"""Triton models under the real server, and the requests of its clients.

The models in ``tests/services/triton`` were written here, to the shape of the public examples of
triton-inference-server/python_backend: ``add_sub``, ``repeat_int32`` and ``bls_sync`` do what those of these names do.
"""

from __future__ import annotations

import http.client
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from tests.e2e.server import SERVICES, Server

MODELS = SERVICES / "triton"
BINARY = "application/vnd.sagemaker-triton.binary+json"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def data(self, name: str) -> Any:
        """The values of an output in JSON."""
        return next(one["data"] for one in self.json()["outputs"] if one["name"] == name)


def store(folder: Path) -> Path:
    shutil.copytree(MODELS, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def tensor(name: str, datatype: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def call(server: Server, method: str, path: str, body: Any = None, **headers: str) -> Answer:
    """One call on a connection of its own; ``body`` is sent as JSON unless it is bytes."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    try:
        connection.request(method, path, data, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def infer(server: Server, model: str, inputs: list[dict[str, Any]], **more: Any) -> Answer:
    return call(server, "POST", f"/v2/models/{model}/infer", {"inputs": inputs, **more})


def invoke(server: Server, model: str, inputs: list[dict[str, Any]], **more: Any) -> Answer:
    """As the platform does."""
    headers = {"Content_Type": "application/json", "X-Amzn-SageMaker-Target-Model": model}
    return call(server, "POST", "/invocations", {"inputs": inputs, **more}, **headers)


ADD_SUB = [tensor("INPUT0", "FP32", [4], [1, 2, 3, 4]), tensor("INPUT1", "FP32", [4], [4, 3, 2, 1])]
