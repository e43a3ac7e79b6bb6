"""The same scripts and requests under AWS's own PyTorch toolkit, in this process, and here: bodies and types are equal.

The scripts were written here, in the shapes that the toolkits' documentation shows; what they import is AWS's own.

``make compat`` brings the toolkit; without it these are skipped.
"""

from __future__ import annotations

import io
import itertools
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from serving.adapters.toolkit.handler import ToolkitHandler
from serving.errors import ServingError
from serving.testing import Client

pytest.importorskip("sagemaker_inference", reason="make compat installs it")

FOUR = """
    import json
    from sagemaker_inference import decoder, encoder
    def model_fn(model_dir): return 3
    def input_fn(data, content_type): return decoder.decode(data, content_type)
    def predict_fn(data, model): return data * model
    def output_fn(prediction, accept): return encoder.encode(prediction, accept)
"""
DEFAULTS = """
    def model_fn(model_dir): return 3
    def predict_fn(data, model): return data * model
"""
TUPLE = """
    import json
    def model_fn(model_dir): return None
    def input_fn(data, content_type): return json.loads(data)
    def predict_fn(data, model): return data
    def output_fn(prediction, accept): return json.dumps({"got": prediction, "accept": accept}), "application/x-own"
"""
TRANSFORM = """
    def model_fn(model_dir): return "m"
    def transform_fn(model, data, content_type, accept):
        return f"{model} {type(data).__name__} {len(data)} {content_type} {accept}"
"""
HANDLED = """
    from sagemaker_pytorch_serving_container.default_pytorch_inference_handler import DefaultPytorchInferenceHandler
    default = DefaultPytorchInferenceHandler()
    def model_fn(model_dir): return default.default_model_fn(model_dir)
    def input_fn(data, content_type): return default.default_input_fn(data, content_type)
    def predict_fn(data, model): return default.default_predict_fn(data, model)
    def output_fn(prediction, accept): return default.default_output_fn(prediction, accept)
"""
NOTHING = "# model.pt and every default\n"
WRAPPED = """
    def noted(function):
        def wrapper(*args, **kwargs): return function(*args, **kwargs)
        return wrapper
    def model_fn(model_dir, context=None): return 2
    @noted
    def input_fn(data, content_type): return [len(data), content_type]
    def predict_fn(data, model, ctx): return [*data, model, type(ctx).__name__]
    @noted
    def output_fn(prediction, accept): return str(prediction)
"""
CONTEXT = """
    def model_fn(model_dir, context): return type(context).__name__
    def transform_fn(model, data, content_type, accept, context):
        return f"{model} {context.system_properties['model_dir'] != ''}"
"""


def npy(value: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array(value))
    return buffer.getvalue()


BODIES = [
    (b"[1, 2, 3]", "application/json"),
    (b"[[1, 2], [3, 4]]", "application/json"),
    (b"[0.5, -1e3]", "application/json"),
    (b"1,2\n3,4", "text/csv"),
    (b"0.5,1.5", "text/csv"),
    (npy([[1.5, 2], [3, 4]]), "application/x-npy"),
    (npy([1, 2]), "application/x-npy"),
]
MAGIC = b"\x93NUMPY"
ACCEPTS = ["application/json", "text/csv", "application/x-npy", "", "*/*"]


class RequestProcessor:
    def __init__(self, properties: dict[str, str]) -> None:
        self.properties = properties

    def get_request_properties(self) -> dict[str, str]:
        return self.properties


class Context:
    """What the toolkit is given by its model server."""

    def __init__(self, model_dir: Path, content_type: str, accept: str) -> None:
        self.system_properties = {"model_dir": str(model_dir)}
        properties = {"Content-Type": content_type, "Accept": accept}
        self.request_processor = [RequestProcessor({name: value for name, value in properties.items() if value})]
        self.content_type: str | None = None
        self.status = 200

    def set_response_content_type(self, index: int, value: str) -> None:
        self.content_type = value

    def set_response_status(self, code: int, phrase: str, idx: int = 0) -> None:
        self.status = code


def theirs(
    folder: Path, name: str, requests: list[tuple[bytes, str, str]], monkeypatch: pytest.MonkeyPatch
) -> list[Any]:
    from sagemaker_inference.transformer import Transformer
    from sagemaker_pytorch_serving_container.default_pytorch_inference_handler import DefaultPytorchInferenceHandler

    monkeypatch.setenv("SAGEMAKER_PROGRAM", f"{name}.py")
    monkeypatch.syspath_prepend(str(folder))
    transformer = Transformer(DefaultPytorchInferenceHandler())
    found = []
    for body, kind, accept in requests:
        context = Context(folder, kind, accept)
        [result] = transformer.transform([{"body": bytearray(body)}], context)
        data = result.encode() if isinstance(result, str) else bytes(result)
        found.append((data, context.content_type) if context.status == 200 else "error")
    return found


def ours(folder: Path, name: str, requests: list[tuple[bytes, str, str]]) -> list[Any]:
    found: list[Any] = []
    with Client(ToolkitHandler(), folder, script=str(folder / f"{name}.py")) as client:
        for body, kind, accept in requests:
            try:
                answer = client.invoke(body, kind, accept)
                found.append((bytes(answer.body), answer.content_type))
            except ServingError:
                found.append("error")
    return found


SCRIPTS = {
    "four": FOUR,
    "defaults": DEFAULTS,
    "tuple": TUPLE,
    "transform": TRANSFORM,
    "handled": HANDLED,
    "nothing": NOTHING,
}


def dropping(path: Path) -> None:
    """A model that has been left in training mode, which its server has to change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        net = torch.nn.Sequential(torch.nn.Dropout(0.9), torch.nn.Flatten(0)).train()
        torch.jit.save(torch.jit.script(net), str(path))  # type: ignore[no-untyped-call]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("script", [*SCRIPTS.values(), WRAPPED], ids=[*SCRIPTS, "wrapped"])
def test_bodies_and_types_are_the_toolkits(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"script_{abs(hash(script)) % 10**8}"
    dropping(tmp_path / "model.pt")
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(script))
    requests = [(body, kind, accept) for (body, kind), accept in itertools.product(BODIES, ACCEPTS)]
    if script is TUPLE:
        requests = [request for request in requests if request[1] == "application/json"]
    expected, found = theirs(tmp_path, name, requests, monkeypatch), ours(tmp_path, name, requests)
    assert len(expected) == len(requests)
    assert sum(one != "error" for one in expected) >= len(requests) // 2
    for request, want, got in zip(requests, expected, found, strict=True):
        if want != "error" and want[1] == "application/x-npy" and not want[0].startswith(MAGIC):
            want = "error"  # the toolkit sends a script's text as if it were an array
        assert got == want, request
    print(f"{len(requests)} requests, all equal")


def test_the_context_is_given_by_count(tmp_path: Path) -> None:
    (tmp_path / "with_context.py").write_text(textwrap.dedent(CONTEXT))
    assert ours(tmp_path, "with_context", [(b"x", "text/plain", "text/plain")]) == [(b"Context True", "text/plain")]


def test_the_real_package_unpickles_nothing_of_a_clients(tmp_path: Path) -> None:
    (tmp_path / "reader.py").write_text(textwrap.dedent(FOUR))
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
    assert ours(tmp_path, "reader", [(buffer.getvalue(), "application/x-npy", "")]) == ["error"]
    assert ours(tmp_path, "reader", [(npy([1, 2]), "application/x-npy", "")]) == [(b"[3, 6]", "application/json")]


def test_the_real_package_is_the_one_in_use() -> None:
    from serving.adapters.toolkit import sagemaker_inference as shim

    shim.install()
    assert "site-packages" in str(sys.modules["sagemaker_inference"].__file__) or ".compat" in str(
        sys.modules["sagemaker_inference"].__file__
    )
