"""What a model's process shows to the code in it: that of a plain Python, but for what docs/process.md names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.e2e.people import CONVENTIONS, ask, place_of, script_of, write_model
from tests.e2e.server import ROOT, Server, eventually, serving

ADDED = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "PYTHONUNBUFFERED"}
WATCHED = ("SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM")
OTHERS = ("SERVING_", "SAGEMAKER_", "PYTHONUNBUFFERED")
INFO = 20


ARGPARSE = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--scale", type=float, default=1.0)
assert parser.parse_args().scale == 1
"""


class Told(NamedTuple):
    server: Server
    convention: str
    folder: Path
    stages: dict[str, dict[str, Any]]
    plain: dict[str, Any]


@pytest.fixture(scope="module", params=CONVENTIONS)
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    folder = write_model(tmp_path_factory.mktemp(request.param) / "model", request.param, more=ARGPARSE)
    with serving(folder, http_workers=1) as server:
        stages = ask(server, request.param, do="report")
        yield Told(server, request.param, folder, stages, plain(folder, place_of(folder, request.param)))


def plain(folder: Path, code: Path) -> dict[str, Any]:
    """What a plain Python tells that runs a program in the model's folder, as a service without a terminal."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(OTHERS)}
    result = subprocess.run(
        [sys.executable, str(code / "surroundings.py")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        cwd=folder,
        env=environment,
    )
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def expected(plain: dict[str, Any], convention: str) -> dict[str, Any]:
    """The plain Python's, with what differs on purpose, entry by entry as docs/process.md has it."""
    one = json.loads(json.dumps(plain))
    one["argv"] = [script_of(convention)]
    for name in ("stdout", "stderr"):
        one[name] |= {"errors": "backslashreplace", "write_through": True}
    one["root logger"][0] = INFO
    one["flags"]["safe_path"] = True
    one["signals"] |= dict.fromkeys(WATCHED, "do_nothing")
    one["limits"]["RLIMIT_CORE"][0] = 0
    one["threads"] = ["MainThread", "io"]
    one["faulthandler"] = True
    one["main"]["spec"] = None
    return one


def compared(told: dict[str, Any]) -> dict[str, Any]:
    """Without what a server may add: its own settings, room for more files, what its threads wait like."""
    names = [name for name in told["environment"] if not name.startswith("SERVING_") and name not in ADDED]
    limits = {name: limit for name, limit in told["limits"].items() if name != "RLIMIT_NOFILE"}
    return {**told, "environment": names, "limits": limits}


def test_each_entry_is_a_plain_pythons_or_differs_on_purpose(told: Told) -> None:
    wanted = compared(expected(told.plain, told.convention))
    differing: dict[str, Any] = {}
    for stage, shown in told.stages.items():
        found = compared(shown)
        if stage == "call":
            found["gradients"] = wanted["gradients"]  # that of a call is its convention's affair
            found["threads"] = [name for name in found["threads"] if name != "metrics"]  # Triton's, of its models
        for name in found:
            if found[name] != wanted[name]:
                differing[f"{name} {stage}"] = (found[name], wanted[name])
        files, least = shown["limits"]["RLIMIT_NOFILE"], told.plain["limits"]["RLIMIT_NOFILE"]
        assert files[0] >= least[0]
        assert files[1] == least[1]
    assert not differing, json.dumps(differing, indent=1)


@pytest.mark.parametrize(
    "word",
    [
        *sorted(ADDED - {"PYTHONUNBUFFERED"}),
        *WATCHED,
        "backslashreplace",
        "write_through",
        "INFO",
        "safe_path",
        "core files",
    ]
    + ["`io`", "`faulthandler`", "`__main__`"],
)
def test_what_differs_stands_in_the_docs(word: str) -> None:
    assert word in (ROOT / "docs" / "process.md").read_text()


SLOW = pytest.param("loader spawn", marks=pytest.mark.slow)  # its child imports torch
WAYS = ("spawn", "forkserver", "fork", "joblib", "loader fork", SLOW)


@pytest.mark.parametrize("how", WAYS)
def test_children_find_what_they_are_to_run(told: Told, how: str) -> None:
    assert ask(told.server, told.convention, do="children", how=how) == [1, 4, 9]


def test_whatever_is_said_is_in_the_log(told: Told) -> None:
    assert ask(told.server, told.convention, do="speak", word="here") == "spoken"
    out, error = {"stream": "stdout", "model": "model"}, {"stream": "stderr", "model": "model"}
    logged = {"logger": "mine", "model": "model"}
    for message, fields in (
        ("print here", out),
        ("error here", error),
        ("line one here", out),
        ("line two here", out),
        ("bytes here \u00fc", out),
        ("wrapped here", out),
        ("warning here", {**logged, "level": "warning"}),
        ("info here", {**logged, "level": "info"}),
        ("warned here", {"model": "model", "level": "warning", "category": "UserWarning"}),
        ("flushed here ... ", out),
    ):
        eventually(lambda message=message, fields=fields: told.server.lines(message=message, **fields), 5)
    assert not [line for line in told.server.raw if "debug here" in line or "redirected here" in line]
