"""``make flake``: a test that fails now and then is named with how often, and the busy loops are gone at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.e2e.server import ROOT, eventually
from tests.flake import BUSY

FICKLE = """
from pathlib import Path

def test_good(): pass

def test_fickle():
    runs = Path(__file__).with_name("runs")
    runs.write_text((runs.read_text() if runs.exists() else "") + "x")
    print("it says this")
    assert len(runs.read_text()) != 2, "the second time"
"""
STUCK = """
import os, time
from pathlib import Path

def test_stuck():
    parent, end = os.getppid(), time.monotonic() + 60
    Path(__file__).with_name("began").touch()
    while os.getppid() == parent and time.monotonic() < end:
        time.sleep(0.02)
"""


def flake(folder: Path, *words: object) -> list[str]:
    script = [sys.executable, str(ROOT / "tests" / "flake.py"), "--jobs=0", f"--folder={folder / 'output'}"]
    return [*script, *map(str, words), "-p", "no:cacheprovider"]


def busy(parent: int) -> list[int]:
    """The loops that ``parent`` has started and that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().split(b"\0")[2:4] == [BUSY.encode(), b"%d" % parent]:
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def started(command: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)


def test_what_failed_is_counted_and_what_it_said_is_kept(tmp_path: Path) -> None:
    test = tmp_path / "test_fickle.py"
    test.write_text(FICKLE)
    process = started(flake(tmp_path, "--times=3", test))
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1, said
    assert busy(process.pid) == []
    *runs, line = said.splitlines()
    assert runs == ["run 1 of 3: good", "run 2 of 3: exit code 1", "run 3 of 3: good"]
    assert line.startswith("1 of 3  ")
    _, _, name, file = line.split(maxsplit=2)[0:2] + line.rsplit(maxsplit=2)[1:]
    assert name.endswith("test_fickle.py::test_fickle")
    kept = Path(file).read_text()
    assert kept.startswith("---- run 2\n")
    assert "the second time" in kept
    assert "it says this" in kept


def test_what_does_not_fail_ends_with_0_and_what_runs_no_test_does_not(tmp_path: Path) -> None:
    test = tmp_path / "test_fickle.py"
    test.write_text(FICKLE)
    for words, code, last in (
        (["-k", "good"], 0, "nothing failed in 1 runs"),
        (["-k", "nobody"], 1, "1 of 1  pytest ended with 5  "),
    ):
        done = subprocess.run(flake(tmp_path, "--times=1", test, *words), capture_output=True, text=True, cwd=ROOT)
        assert (done.returncode, done.stdout.splitlines()[-1][: len(last)]) == (code, last)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupt_ends_the_run_and_the_loops(tmp_path: Path, number: int) -> None:
    test = tmp_path / "test_stuck.py"
    test.write_text(STUCK)
    process = started(flake(tmp_path, "--times=2", test))
    try:
        eventually((tmp_path / "began").exists, 60)
        assert len(busy(process.pid)) == 2
        os.kill(process.pid, number)
        process.wait(30)
    finally:
        process.kill()
        process.communicate()
    eventually(lambda: busy(process.pid) == [])
    assert process.returncode == (-number if number == signal.SIGKILL else 130)
