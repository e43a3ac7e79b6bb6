"""The private folder: only this user's, removed by its owner, or by the next server if the owner was killed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.config.config import load
from serving.ipc.runtime import Runtime


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # short enough for a socket, unlike tmp_path
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def age(folder: Path) -> None:
    os.utime(folder / "lock", (time.time() - 3600,) * 2)


def test_it_is_private_and_holds_the_config(temporary: Path) -> None:
    config = load({}, {})
    runtime = Runtime.create(config)
    assert runtime.path.stat().st_mode & 0o077 == 0
    assert runtime.read_config() == config
    runtime.remove()
    assert not list(temporary.iterdir())


def test_a_long_temporary_path_is_left_for_one_that_a_socket_can_bear(temporary: Path) -> None:
    deep = temporary / ("x" * 90)
    deep.mkdir()
    tempfile.tempdir = str(deep)
    runtime = Runtime.create(load({}, {}))
    try:
        assert len(str(runtime.worker_path(1023, 10**6))) < 107
    finally:
        runtime.remove()


def test_what_a_killed_server_left_is_swept_and_what_a_living_one_uses_is_not(temporary: Path) -> None:
    mine = Runtime.create(load({}, {}))
    imports = "from serving.config.config import load; from serving.ipc.runtime import Runtime"
    code = f"{imports}; print(Runtime.create(load({{}}, {{}})).path)"
    environment = {**os.environ, "TMPDIR": str(temporary)}
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    left = Path(made.stdout.strip())
    age(mine.path)
    Runtime.sweep()
    assert left.exists(), "too young to be judged"
    age(left)
    Runtime.sweep()
    assert not left.exists()
    assert mine.path.exists()
    mine.remove()


def test_the_stacks_of_a_dead_worker_are_read_once(temporary: Path) -> None:
    runtime = Runtime.create(load({}, {}))
    runtime.stacks_path(1, 2).write_text("Fatal Python error")
    assert runtime.forget_worker(1, 2) == "Fatal Python error"
    assert runtime.forget_worker(1, 2) == ""
    runtime.remove()


@pytest.mark.parametrize("how", ["pipe", "link to a pipe", "link to a file", "folder", "device", "folder is a link"])
def test_whatever_lies_in_the_place_of_a_lock_is_neither_followed_nor_waited_for(temporary: Path, how: str) -> None:
    folder, elsewhere = temporary / "serving-x", temporary / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    os.mkfifo(elsewhere / "pipe")
    (elsewhere / "lock").touch()
    if how == "folder is a link":
        folder.symlink_to(elsewhere)
    else:
        folder.mkdir(mode=0o700)
    match how:
        case "pipe":
            os.mkfifo(folder / "lock")
        case "link to a pipe":
            (folder / "lock").symlink_to(elsewhere / "pipe")
        case "link to a file":
            (folder / "lock").symlink_to(elsewhere / "lock")
        case "folder":
            (folder / "lock").mkdir()
        case "device":
            (folder / "lock").symlink_to("/dev/zero")
    for path in (elsewhere / "lock", elsewhere / "pipe", folder / "lock"):
        if not path.is_symlink():
            os.utime(path, (1, 1))
    Runtime.sweep()
    assert folder.exists()
    assert sorted(path.name for path in elsewhere.iterdir()) == ["lock", "pipe"]


def test_a_folder_that_others_may_enter_is_not_swept(temporary: Path) -> None:
    left = Runtime.create(load({}, {}))
    os.utime(left.path / "lock", (1, 1))
    other = temporary / "serving-other"
    other.mkdir()
    other.chmod(0o755)
    (other / "lock").touch(mode=0o600)
    os.utime(other / "lock", (1, 1))
    Runtime.sweep()
    assert other.exists()
    left.remove()
