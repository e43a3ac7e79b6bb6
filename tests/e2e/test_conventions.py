"""Models of other servers, found by their files and served by the whole server.

They were written here, to the shapes of those servers' own.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.server import eventually, serving
from tests.e2e.store import call
from tests.mar import write_archive

DJL = """
from djl_python import Input, Output

def handle(inputs: Input) -> Output:
    if inputs.is_empty():
        return None
    return Output().add_as_json({"data": inputs.get_as_json(), "size": inputs.get_property("size")})
"""
DJL_AT_HOME = """
import json, os
from djl_python import Output

NAMES = json.load(open("names.json"))

def handle(inputs):
    if inputs.is_empty() or inputs.get_as_json() is None:
        return None
    seen = [json.load(open("names.json")), NAMES, sorted(os.listdir())]
    return Output().add_stream_content(iter(seen)).finalize(print, "the last", "function")
"""


def test_djl_in_the_models_folder(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(DJL_AT_HOME)
    (tmp_path / "serving.properties").write_text("engine=Python\noption.size=small\n")
    (tmp_path / "names.json").write_text('["one"]')
    with serving(tmp_path) as server:
        reply = call(server, "POST", "/invocations", {"x": 1})
        lines = [json.loads(line)["outputs"] for line in reply.body.splitlines()]
        assert (reply.status, lines[:2]) == (200, [["one"], ["one"]])
        assert {"model.py", "names.json", "serving.properties"} <= set(lines[2])
        reply = call(server, "POST", "/invocations", b"null", **{"Content-Type": "application/json"})
        assert (reply.status, reply.body) == (204, b"")


def test_djl_with_its_own_package_installed(tmp_path: Path) -> None:
    """What stands for the package was written here: its names, and a module that only it has."""
    package = tmp_path / "site" / "djl_python"
    package.mkdir(parents=True)
    (package / "inputs.py").write_text("class Input: pass\n")
    (package / "outputs.py").write_text("class Output: pass\n")
    (package / "__init__.py").write_text("from djl_python.inputs import Input\nfrom djl_python.outputs import Output\n")
    (package / "extra.py").write_text("WORD = 'size'\n")
    script = DJL.replace("import Input, Output", "import Input, Output\nfrom djl_python.extra import WORD")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.py").write_text(script.replace('"size": inputs', "WORD: inputs"))
    (tmp_path / "model" / "serving.properties").write_text("engine=Python\n")
    with serving(tmp_path / "model", environment={"PYTHONPATH": str(tmp_path / "site")}) as server:
        reply = call(server, "POST", "/invocations", {"x": 1})
        assert (reply.status, reply.json()) == (200, {"data": {"x": 1}, "size": None})


TOOLKIT = """
from pathlib import Path
def model_fn(model_dir): return Path("words.txt").read_text()
def transform_fn(model, data, content_type, accept, context):
    if data:
        context.set_response_header(0, "X-Amzn-SageMaker-Custom-Attributes", data)
        word = data
        if word.isascii() and word.isprintable():
            context.set_response_content_type(0, "text/" + data)
        context.set_response_header(0, "X-Other", data)
    return model
"""
TORCHSERVE = """
from pathlib import Path
class Reader:
    def initialize(self, context):
        self.words = Path("words.txt").read_text()
    def handle(self, data, context):
        for index, row in enumerate(data):
            word = bytes(row["body"]).decode()
            if word:
                context.set_response_header(index, "X-Amzn-SageMaker-Custom-Attributes", word)
                if word.isascii() and word.isprintable():
                    context.set_response_content_type(index, "text/" + word)
                context.set_response_header(index, "X-Other", word)
        return [self.words] * len(data)
"""


@pytest.mark.parametrize("convention", ["toolkit", "torchserve"])
def test_files_of_the_model_are_found_by_relative_paths_and_odd_headers_cost_no_answer(
    tmp_path: Path, convention: str
) -> None:
    if convention == "toolkit":
        (tmp_path / "code").mkdir()
        (tmp_path / "code" / "inference.py").write_text(TOOLKIT.replace("if data", "data = data.decode()\n    if data"))
    else:
        write_archive(tmp_path, TORCHSERVE)
    (tmp_path / "words.txt").write_text("beside the model")
    with serving(tmp_path) as server:
        for word in (b"", b"plain", "\u00fc".encode(), b"a\r\nX-Evil: 1", 3000 * b"x"):
            reply = call(server, "POST", "/invocations", word, **{"Content-Type": "application/octet-stream"})
            assert (reply.status, reply.body) == (200, b"beside the model"), word[:20]
            assert "x-evil" not in reply.headers

        def told() -> int:
            return len([line for line in server.lines(header="X-Other") if "dropped" in line["message"]])

        assert eventually(told) == 1
