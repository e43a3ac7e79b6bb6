"""What scripts import of the SageMaker toolkits where those are not installed: each name, and what differs.

The scripts were written here as the toolkits' documentation shows them; ``tests/compat`` has the toolkit itself.
"""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from serving.adapters import shims
from serving.adapters.toolkit import sagemaker_inference as shim
from serving.adapters.toolkit.handler import ToolkitHandler
from serving.errors import ModelError
from serving.testing import Client
from tests.unit.test_toolkit import Rig

IMPORTS = """
from sagemaker_inference import content_types, decoder, default_inference_handler, encoder, errors, utils
from sagemaker_inference.default_inference_handler import DefaultInferenceHandler
from sagemaker_inference.errors import BaseInferenceToolkitError, GenericInferenceToolkitError, UnsupportedFormatError
from sagemaker_inference.logging import configure_logger, get_logger
from sagemaker_inference.utils import parse_accept, read_file, remove_crlf, retrieve_content_type_header, write_file
import sagemaker_inference.decoder
import sagemaker_pytorch_serving_container.default_pytorch_inference_handler as pytorch
"""


def test_every_import_of_a_script_works_once_installed_and_not_before() -> None:
    code = f"""
import importlib.util
assert importlib.util.find_spec("sagemaker_inference") is None
from serving.adapters.toolkit.sagemaker_inference import install
install()
{IMPORTS}
assert sagemaker_inference.decoder is decoder
assert issubclass(pytorch.DefaultPytorchInferenceHandler, DefaultInferenceHandler)
assert content_types.UTF8_TYPES == ["application/json", "text/csv"]
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_package_that_is_there_is_left_alone() -> None:
    assert not shims.install("json", {"": {"loads": None}})
    import json

    assert json.loads("1") == 1


@pytest.mark.parametrize(
    ("body", "kind", "value"),
    [
        ("[[1, 2], [3, 4]]", "application/json", [[1, 2], [3, 4]]),
        ("1,2\n3,4", "text/csv", [[1, 2], [3, 4]]),
        ("[1]", "application/json; charset=utf-8", [1]),
    ],
)
def test_bodies_become_arrays(body: str, kind: str, value: object) -> None:
    assert shim.decode(body, kind).tolist() == value


def test_npy_goes_both_ways_but_never_with_pickled_objects() -> None:
    array = np.arange(6.0).reshape(2, 3)
    assert np.array_equal(shim.decode(shim.encode(array, "application/x-npy"), "application/x-npy"), array)
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        shim.decode(buffer.getvalue(), "application/x-npy")


@pytest.mark.parametrize(
    ("value", "kind", "body"),
    [
        (np.array([[1, 2], [3, 4]]), "application/json", "[[1, 2], [3, 4]]"),
        ({"a": np.float32(0.5)}, "application/json", '{"a": 0.5}'),
        (np.array([[1.5, 2], [3, 4]]), "text/csv", "1.5,2.0\n3.0,4.0\n"),
        (np.array([1, 2]), "text/csv", "1\n2\n"),
        ([["a", "b"]], "text/csv", "a,b\n"),
        ([1], "image/png, application/json", "[1]"),
    ],
)
def test_arrays_become_bodies(value: object, kind: str, body: str) -> None:
    assert shim.encode(value, kind) == body


def test_other_types_are_an_error_of_their_own() -> None:
    with pytest.raises(shim.UnsupportedFormatError):
        shim.decode(b"", "image/png")
    with pytest.raises(shim.UnsupportedFormatError):
        shim.encode([1], "image/png")


def test_the_default_handler_tells_which_type_it_chose() -> None:
    assert shim.DefaultInferenceHandler().default_output_fn([1], "image/png, text/csv") == ("1\n", "text/csv")
    with pytest.raises(shim.UnsupportedFormatError):
        shim.DefaultInferenceHandler().default_output_fn([1], "image/png")


@pytest.mark.parametrize("name", ["transformer", "default_handler_service", "model_server"])
def test_what_starts_another_server_cannot_be_imported(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match=f"ImportError: cannot import name '{name}' from 'sagemaker_inference'"):
        Rig(tmp_path, f"from sagemaker_inference import {name}\n")
    with pytest.raises(ModelError, match=f"No module named 'sagemaker_inference.{name}'"):
        Rig(tmp_path, f"import sagemaker_inference.{name}\n")


SCRIPT = """
from sagemaker_inference import decoder, encoder, errors
from sagemaker_inference.default_inference_handler import DefaultInferenceHandler
default = DefaultInferenceHandler()
def model_fn(model_dir): return 2
def input_fn(data, content_type):
    return decoder.decode(data, content_type)
def predict_fn(data, model):
    if data.sum() < 0: raise errors.BaseInferenceToolkitError(418, "negative", "I am a teapot")
    return data * model
def output_fn(prediction, accept): return default.default_output_fn(prediction, accept)
"""


def test_a_script_that_uses_them_runs(tmp_path: Path) -> None:
    rig = Rig(tmp_path, SCRIPT)
    answer = rig.ask(b"[1, 2]")
    assert (bytes(answer.body), answer.content_type) == (b"[2, 4]", "application/json")
    assert bytes(rig.ask(b"1,2", "text/csv", "text/csv").body) == b"2\n4\n"


def test_its_errors_have_their_status(tmp_path: Path) -> None:
    rig = Rig(tmp_path, SCRIPT)
    assert (rig.error(b"x", "image/png").status, rig.error(b"[1]", accept="image/png").status) == (415, 406)
    error = rig.error(b"[-1]")
    assert (error.status, error.message) == (418, "negative")


def test_batch_predict_fn_sees_many_requests(tmp_path: Path) -> None:
    script = """
import json
def model_fn(model_dir): return None
def input_fn(data, content_type): return json.loads(data)
def batch_predict_fn(batch, model): return [(value, len(batch)) for value in batch]
def output_fn(prediction, accept): return json.dumps(prediction)
"""
    path = tmp_path / "inference.py"
    path.write_text(script)
    from serving import Request

    with Client(ToolkitHandler(), tmp_path, script=str(path)) as client:
        answers = client.batch([Request(body, "application/json") for body in (b"1", b'"two"', b"[3]")])
    assert [bytes(answer.body) for answer in answers] == [b"[1, 3]", b'["two", 3]', b"[[3], 3]"]  # type: ignore[union-attr]


def test_batch_predict_fn_keeps_to_a_size_that_somebody_chose(tmp_path: Path) -> None:
    path = tmp_path / "inference.py"
    path.write_text("def model_fn(d): return 0\ndef batch_predict_fn(batch, model): return batch\n")
    handler = ToolkitHandler()
    with Client(handler, tmp_path, script=str(path), sized=True):
        assert handler.policy.max_size == 1
    handler = ToolkitHandler()
    with Client(handler, tmp_path, script=str(path)):
        assert handler.policy.max_size == 32


def test_a_wrong_number_of_predictions_fails_and_crosses_nothing(tmp_path: Path) -> None:
    script = (
        "def model_fn(d): return 0\ndef batch_predict_fn(batch, model): return batch[:1] if len(batch) > 1 else []\n"
    )
    assert Rig(tmp_path, script).error().status == 500
