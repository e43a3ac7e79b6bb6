"""Models as people break them in their first hour: each ends its server with one last line that says where and why."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.broken import IMPORTED, LOADED, QUICK, Broken, folder_of
from tests.e2e.server import ROOT, Server

FAST = (*QUICK, "syntax", "class that is not there", "option that load does not take", "weights that are not there")
ROWS = [
    pytest.param(broken, id=name, marks=[] if name in FAST else [pytest.mark.slow])
    for name, broken in (QUICK | IMPORTED | LOADED).items()
]


def last_words(server: Server) -> str:
    """What its last line says, whichever stream that came by."""
    if server.log and server.raw[-1].startswith("{"):
        return str(server.log[-1]["message"])
    return server.raw[-1]


@pytest.mark.parametrize("broken", ROWS)
def test_a_broken_model_ends_its_server_with_one_last_line_that_says_why(tmp_path: Path, broken: Broken) -> None:
    server = Server(folder_of(tmp_path, broken), environment=broken.environment)
    assert server.wait(20) == broken.code, "\n".join(server.raw)
    said = last_words(server)
    assert [words for words in broken.said if words not in said] == [], said
    assert re.match("cannot serve: |serving: ", said), said
    assert "\n" not in said
    assert str(tmp_path) not in said.replace(str(tmp_path / "model"), "", 1), "files are told as the model's own"
    unwanted = [line["message"] for line in server.lines(level="error") if line["message"] == "a worker ended"]
    assert unwanted == [], "a worker that has said why it goes is no news"


def test_what_standard_error_says_alone_is_the_reason(tmp_path: Path) -> None:
    environment = {"SERVING_MODEL_DIR": str(tmp_path), "SERVING_PORT": "0", "PATH": os.environ["PATH"]}
    command = [sys.executable, "-m", "serving", "serve"]
    ended = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert ended.returncode == 1
    [line] = ended.stderr.splitlines()
    assert line.startswith(f"serving: cannot serve: {tmp_path} holds no model: expected serving.toml")
    assert line.removeprefix("serving: ") in ended.stdout.splitlines()[-1]
