"""What user code has said is in the log, however its process ends; and the reason of an end is in its last line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.people import CONVENTIONS, script_of, write_model
from tests.e2e.server import Server, eventually, serving
from tests.e2e.store import call

ENDS = {
    "a crash": "import ctypes; ctypes.string_at(0)",
    "an exit": "import os; os._exit(3)",
    "a kill": "import os; os.kill(os.getpid(), 9)",
    "a hang": "import ctypes; ctypes.CDLL(None).pause()",
    "a hang that keeps the interpreter": "import ctypes; ctypes.PyDLL(None).sleep(20)",
}
SCRIPT = """
import atexit, json, sys
ENDS = %s
def model_fn(model_dir):
    atexit.register(lambda: print("registered"))
    print("reading the weights ... ", end="")
def transform_fn(model, data, content_type, accept):
    how = json.loads(data)
    print(f"before {how}, flushed ", end="", flush=True)
    print(f"before {how}, not flushed ", end="")
    print(f"error before {how} ", end="", file=sys.stderr)
    exec(ENDS[how])
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("ends")
    (folder / "code").mkdir()
    (folder / "code" / "inference.py").write_text(SCRIPT % json.dumps(ENDS))
    (folder / "serving.toml").write_text("timeout_s = 1\n")
    with serving(folder, http_workers=1) as one:
        yield one


def test_what_was_begun_is_told_soon(server: Server) -> None:
    eventually(lambda: server.lines(message="reading the weights ... ", stream="stdout"), 5)


@pytest.mark.parametrize("how", ENDS)
def test_the_last_words_before_any_end_are_in_the_log(server: Server, how: str) -> None:
    assert call(server, "POST", "/invocations", how).status in (500, 504)
    words = (f"before {how}, flushed ", f"before {how}, not flushed ", f"error before {how} ")

    def counts() -> set[int]:
        said = "".join(line["message"] for line in list(server.log) if line.get("stream"))
        return {said.count(word) for word in words}

    eventually(lambda: len(counts()) == 1 and counts() != {0}, 15)


def test_what_was_registered_for_the_end_is_run_at_a_stop(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "inference.py").write_text(SCRIPT % json.dumps(ENDS))
    with serving(tmp_path, http_workers=1) as server:
        assert server.stop() == 0
    assert [line for line in server.lines(stream="stdout") if line["message"].endswith("registered")], server.raw


ARGPARSE = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--scale", type=float, default=1.0)
parser.add_argument("--data", required=True)
args = parser.parse_args()
"""


@pytest.mark.parametrize("convention", [one for one in CONVENTIONS if one != "djl"])  # it imports as toolkits do
def test_a_parser_at_import_that_ends_the_program_is_quoted(tmp_path: Path, convention: str) -> None:
    server = Server(write_model(tmp_path, convention, more=ARGPARSE))
    assert server.wait() == 1
    words = f"{script_of(convention)}: error: the following arguments are required: --data"
    assert words in server.log[-1]["message"], server.raw
