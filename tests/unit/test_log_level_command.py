"""``serving log-level``: what it asks of a server, what it shows, and what it takes for a time."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from serving.cli import cli
from serving.config.config import load
from serving.ipc.messages import LogLevel, Message, SetLogLevel, pack, unpack
from serving.ipc.runtime import Runtime
from serving.ipc.wire import FrameReader

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def _temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="l-", dir="/dev/shm") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield


class Supervisor:
    """Stands in for a running server: hears what it is asked and gives the same answer to all."""

    def __init__(self, answer: LogLevel, port: int) -> None:
        self.heard: list[Message] = []
        self._answer = answer
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(Runtime.create(load({}), "127.0.0.1", port).control_path))
        self._socket.listen()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            peer, _ = self._socket.accept()
            reader = FrameReader()
            with peer:
                while n := peer.recv_into(reader.get_buffer()):
                    for frame in reader.buffer_updated(n):
                        self.heard.append(unpack(frame.body))
                        peer.sendall(pack(self._answer))


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["log-level", *arguments], env={"SERVING_PORT": "8080"})


@pytest.mark.parametrize(
    ("arguments", "heard"),
    [
        ([], SetLogLevel()),
        (["debug"], SetLogLevel("debug")),
        (["error", "--for", "90s"], SetLogLevel("error", 90.0)),
        (["--for", "10m", "info"], SetLogLevel("info", 600.0)),
        (["warning", "--for", "24h"], SetLogLevel("warning", 86400.0)),
    ],
)
def test_what_a_server_hears(arguments: list[str], heard: SetLogLevel) -> None:
    supervisor = Supervisor(LogLevel("info"), 8080)
    result = invoke(*arguments)
    assert (result.exit_code, result.output) == (0, "info\n")
    assert supervisor.heard == [heard]


def test_a_level_for_a_time_is_shown_with_the_one_after_it() -> None:
    Supervisor(LogLevel("debug", 599.7, "warning"), 8080)
    assert invoke().output == "debug, warning in 600 s\n"


@pytest.mark.parametrize("text", ["10", "m", "10d", "-1s", "1.5h", "25h", "0s", "x", "٣s "])
def test_a_time_that_is_none_is_refused(text: str) -> None:
    result = invoke("debug", "--for", text)
    assert result.exit_code == 2
    assert "give 90s, 10m or 1h" in result.output


def test_a_time_without_a_level_and_a_level_that_there_is_not() -> None:
    assert invoke("--for", "1m").exit_code == 2
    assert invoke("trace").exit_code == 2


def test_where_no_server_runs() -> None:
    result = invoke("debug")
    assert (result.exit_code, result.output) == (1, "Error: no server of this user runs here\n")


def test_a_server_without_descriptors_gets_some_that_no_socket_takes() -> None:
    code = """
import os, sys
from serving.cli import fill_descriptors
fill_descriptors()
fill_descriptors()
links = [os.readlink(f"/proc/self/fd/{fd}") for fd in range(3)]
with open(sys.argv[1], "w") as file:
    print(links, [os.get_inheritable(fd) for fd in range(3)], os.path.exists("/proc/self/fd/4"), file=file)
"""
    with tempfile.NamedTemporaryFile("r") as file:
        close = lambda: os.closerange(0, 3)  # noqa: E731
        subprocess.run([sys.executable, "-c", code, file.name], preexec_fn=close, check=True, cwd=ROOT, timeout=60)
        assert file.read() == f"{['/dev/null'] * 3} [True, True, True] False\n"
