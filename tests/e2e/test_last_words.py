"""What user code has said is in the log, however its process ends; and the reason of an end is in its last line."""

from __future__ import annotations

import json
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


@pytest.mark.parametrize("how", ENDS)
def test_the_last_words_before_any_end_are_in_the_log(tmp_path: Path, how: str) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "inference.py").write_text(SCRIPT % json.dumps(ENDS))
    (tmp_path / "serving.toml").write_text("timeout_s = 1\n")
    with serving(tmp_path, http_workers=1) as server:
        eventually(lambda: server.lines(message="reading the weights ... ", stream="stdout"), 5)
        assert call(server, "POST", "/invocations", how).status in (500, 504)

        def said() -> str:
            return "".join(line["message"] for line in list(server.log) if line.get("stream"))

        words = (f"before {how}, flushed ", f"before {how}, not flushed ", f"error before {how} ")
        eventually(lambda: len({said().count(word) for word in words}) == 1 and words[0] in said(), 15)


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
parser.add_argument("--data", required={required})
args = parser.parse_args()
"""


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_parser_at_import_has_its_defaults_or_says_what_it_wants(tmp_path: Path, convention: str) -> None:
    folder = write_model(tmp_path / "good", convention, more=ARGPARSE.format(required=False))
    with serving(folder, http_workers=1):
        pass
    folder = write_model(tmp_path / "bad", convention, more=ARGPARSE.format(required=True))
    server = Server(folder)
    assert server.wait() == 1
    words = f"{script_of(convention)}: error: the following arguments are required: --data"
    assert words in server.log[-1]["message"], server.raw
