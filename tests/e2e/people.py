"""One model in the shape of each convention: it tells what its process is like, at each stage of its life."""

from __future__ import annotations

import json
import shutil
import textwrap
from pathlib import Path
from typing import Any

from tests.e2e.server import SERVICES, Server
from tests.e2e.store import call
from tests.mar import write_archive

CONVENTIONS = ("own", "toolkit", "torchserve", "triton", "djl")
SAYS = """
import json, sys
import surroundings
IMPORT = "torch" in sys.modules and surroundings.report()  # not in children, which are to be there soon
def square(x):
    return x * x
def answer(body):
    wish = json.loads(bytes(body))
    told = {"import": IMPORT, "load": LOAD} if wish["do"] == "report" else {}
    return json.dumps({**told, "call": surroundings.answer(wish, square)})
"""
OWN = """
from serving import Handler, Response
class Own(Handler):
    def load(self, model_dir, device):
        global LOAD
        LOAD = surroundings.report()
    def decode(self, request): return bytes(request.body)
    def predict(self, batch): return [answer(one) for one in batch]
    def collate(self, samples): return samples
    def split(self, outputs, n): return outputs
    def encode(self, output, request): return Response(output.encode(), "application/json")
"""
TOOLKIT = """
from sagemaker_inference import content_types
from sagemaker_pytorch_serving_container.default_pytorch_inference_handler import DefaultPytorchInferenceHandler
def model_fn(model_dir):
    global LOAD
    LOAD = surroundings.report()
def transform_fn(model, data, content_type, accept): return answer(data.encode()), "application/json"
"""
TORCHSERVE = """
from ts.utils.util import PredictionException
class Teller:
    def initialize(self, context):
        global LOAD
        LOAD = surroundings.report()
    def handle(self, data, context):
        bodies = [one["body"] for one in data]
        return [answer(one if isinstance(one, bytes) else json.dumps(one).encode()) for one in bodies]
"""
TRITON = """
import numpy
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def initialize(self, args):
        global LOAD
        LOAD = surroundings.report()
    def execute(self, requests):
        texts = [pb_utils.get_input_tensor_by_name(one, "IN").as_numpy()[0] for one in requests]
        made = [numpy.array([answer(one)], dtype=object) for one in texts]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", one)]) for one in made]
"""
CONFIG = """name: "model" backend: "python" max_batch_size: 0
input { name: "IN" data_type: TYPE_STRING dims: [ 1 ] }
output { name: "OUT" data_type: TYPE_STRING dims: [ 1 ] }
"""
DJL = """
from djl_python import Output
def handle(inputs):
    global LOAD
    if inputs.is_empty():
        LOAD = surroundings.report()
        return None
    return Output().add(answer(inputs.get_as_bytes()))
"""


def write_model(folder: Path, convention: str, toml: str = "", more: str = "") -> Path:
    """The model's folder; ``more`` code runs at the import of its script."""
    code = {"own": folder / "code", "toolkit": folder / "code", "triton": folder / "1"}.get(convention, folder)
    code.mkdir(parents=True, exist_ok=True)
    shutil.copy(SERVICES / "surroundings.py", code)
    body = {"own": OWN, "toolkit": TOOLKIT, "torchserve": TORCHSERVE, "triton": TRITON, "djl": DJL}[convention]
    script = textwrap.dedent(more) + SAYS + body
    if convention == "torchserve":
        write_archive(folder, script)
    else:
        (code / script_of(convention)).write_text(script)
    if convention == "own":
        toml = f'handler = "own:Own"\n{toml}'
    if convention == "triton":
        (folder / "config.pbtxt").write_text(CONFIG)
    if convention == "djl":
        (folder / "serving.properties").write_text("engine=Python\n")
    (folder / "serving.toml").write_text(toml)
    return folder


def script_of(convention: str) -> str:
    names = {"own": "own.py", "toolkit": "inference.py", "torchserve": "handler.py"}
    return names.get(convention, "model.py")


def place_of(folder: Path, convention: str) -> Path:
    """The folder that the script is in."""
    return folder / {"own": "code", "toolkit": "code", "triton": "1"}.get(convention, ".")


def ask(server: Server, convention: str, **wish: Any) -> Any:
    """What the model answers. AssertionError unless it is 200."""
    body: Any = wish
    if convention == "triton":
        text = json.dumps(wish)
        body = {"inputs": [{"name": "IN", "datatype": "BYTES", "shape": [1], "data": [text]}]}
    reply = call(server, "POST", "/invocations", body)
    assert reply.status == 200, (reply.status, reply.body)
    told = json.loads(reply.json()["outputs"][0]["data"][0]) if convention == "triton" else reply.json()
    return told if wish["do"] == "report" else told["call"]
