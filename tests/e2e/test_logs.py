"""The log of a running server: its level, what it says of requests, repeats, and a reader that is slow or gone."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.client import Answer, once
from tests.e2e.gate import Gate
from tests.e2e.server import ROOT, Server, eventually, is_alive, model_folder, serving

ANSWERED = "a request was answered with an error"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return model_folder(tmp_path, "verbose:Verbose")


def ask(server: Server, do: str, **more: Any) -> Answer:
    """A request on a connection of its own, so that all HTTP workers get some."""
    return asyncio.run(once(server.port, {"do": do, **more}))


def log_level(server: Server, *arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, "-m", "serving", "log-level", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "SERVING_PORT": str(server.port)},
        timeout=60,
        check=True,
    )
    return result.stdout.strip()


def http_workers(server: Server) -> set[int]:
    return {line["pid"] for line in server.lines(role="http", level="debug", message=ANSWERED)}


def test_the_level_is_set_in_all_processes_without_asking_a_busy_one(folder: Path, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    with serving(folder, http_workers=2) as server:
        assert log_level(server) == "info"
        worker = ask(server, "debug").json()["pid"]
        busy = threading.Thread(target=ask, args=(server, "wait"), kwargs={"gate": gate.path})
        busy.start()
        gate.wait_reached()
        assert log_level(server, "debug") == "debug"
        assert log_level(server) == "debug"
        assert server.lines(message="the log level is set")[0]["now"] == "debug"

        def both_say() -> bool:
            assert asyncio.run(once(server.port, b"no JSON")).status == 400
            return len(http_workers(server)) == 2

        gate.open()
        busy.join(30)
        eventually(both_say)
        assert ask(server, "debug").json()["pid"] == worker
        eventually(lambda: server.lines(message="an event of the worker", pid=worker, level="debug"))
        os.kill(worker, signal.SIGKILL)
        later = eventually(lambda: pid if (pid := answering(server)) not in (0, worker) else 0)
        eventually(lambda: server.lines(message="an event of the worker", pid=later))
        assert log_level(server, "error") == "error"
        eventually(lambda: is_quiet(server), 5)
        said = len(server.lines(message="an info of the handler"))
        assert log_level(server, "info", "--for", "1s").startswith("info, error in ")
        eventually(lambda: log_level(server) == "error")
        assert len(server.lines(message="an info of the handler")) == said
        assert not server.lines(message=ANSWERED, level="info")


def is_quiet(server: Server) -> bool:
    """Whether the handler's infos are not shown any more. What is printed is, whatever the level."""
    infos, prints = (lambda: server.lines(message="an info of the handler")), (lambda: server.lines(stream="stdout"))
    before = len(infos()), len(prints())
    ask(server, "debug")
    ask(server, "flood", lines=1)
    eventually(lambda: len(prints()) > before[1])
    return len(infos()) == before[0]


def answering(server: Server) -> int:
    answer = ask(server, "debug")
    return int(answer.json()["pid"]) if answer.status == 200 else 0


def test_lines_of_user_code_have_level_logger_model_and_request(folder: Path) -> None:
    with serving(folder) as server:
        answer = asyncio.run(once(server.port, {"do": "say"}, x_amzn_sagemaker_inference_id="mine"))
        eventually(lambda: server.lines(message="of a thread"))
        id = answer.headers["x-request-id"]
        own = {"role": "worker", "model": "model", "request_id": id}
        assert server.lines(message="decoding", level="info", logger="verbose", **own)
        assert server.lines(message="a warning", level="warning", logger="verbose", **own)
        assert server.lines(message="a print", level="info", stream="stdout", **own)
        assert server.lines(message="a python warning", level="warning", category="UserWarning", **own)
        [thread] = server.lines(message="of a thread")
        assert (thread["model"], thread["logger"], "request_id" in thread) == ("model", "verbose", False)


def test_of_a_batch_the_ids_are_named(folder: Path, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    with serving(folder, http_workers=1) as server:

        async def work() -> list[Answer]:
            first = asyncio.ensure_future(once(server.port, {"do": "wait", "gate": gate.path}))
            await asyncio.to_thread(gate.wait_reached)
            others = [asyncio.ensure_future(once(server.port, {"do": "debug"})) for _ in range(12)]
            await asyncio.to_thread(eventually, lambda: server.metric("requests_queued") >= 12)
            gate.open()
            return [await one for one in (first, *others)][1:]

        answers = asyncio.run(work())
        large = max(server.lines(message="an info of the handler"), key=lambda line: int(line.get("requests", 0)))
        assert large["requests"] == max(answer.json()["size"] for answer in answers) > 8
        assert len(large["request_ids"]) == 8
        assert set(large["request_ids"]) <= {answer.headers["x-request-id"] for answer in answers}


def test_repeats_are_summed_up_in_each_process_and_none_is_lost(folder: Path) -> None:
    with serving(folder, http_workers=1) as server:

        async def work() -> None:
            for _ in range(10):
                await asyncio.gather(*(once(server.port, {"do": "fail"}) for _ in range(30)))

        asyncio.run(work())

        def total(role: str, message: str) -> int:
            left = server.lines(role=role, message="repeated lines were left out", like=message)
            return len(server.lines(role=role, message=message)) + sum(line["lines"] for line in left)

        failed = "a request failed in the handler"
        eventually(lambda: total("worker", failed) == 300 and total("http", ANSWERED) == 300)
        assert len(server.lines(message=failed)) < 250


def test_what_user_code_does_to_logging_and_its_descriptors_hides_nothing_of_ours(folder: Path) -> None:
    with serving(folder) as server:
        assert ask(server, "break").status == 200
        assert ask(server, "fail").status == 500
        [line] = eventually(lambda: server.lines(message="a request failed in the handler"))
        assert "ValueError: it fails" in line["traceback"]
        assert ask(server, "flood", lines=3).status == 200
        eventually(lambda: len([line for line in server.lines(stream="stdout") if "line" in line["message"]]) == 3)


class Unread(Server):
    """A server whose output nobody reads while ``reads`` is not set."""

    reads = threading.Event()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.raw.append(line.rstrip())
            with suppress(json.JSONDecodeError):
                self.log.append(json.loads(line))
            self.reads.wait()


@contextmanager
def unread(folder: Path, **settings: object) -> Iterator[Unread]:
    Unread.reads.set()
    server = Unread(folder, **settings)
    try:
        yield server.wait_ready()
    finally:
        children = server.children()
        server.reads.set()
        server.leave()
        eventually(lambda: not [pid for pid in children if is_alive(pid)], 10)


def test_nobody_waits_for_a_reader_that_does_not_read(folder: Path) -> None:
    with unread(folder, http_workers=2, request_timeout=6) as server:
        port = server.port
        server.reads.clear()
        flood = ask(server, "flood", lines=2000)
        assert flood.status == 200, "a handler that prints goes on, with the lines lost"
        worker = flood.json()["pid"]
        # Each process has something to say now, and no room to say it.
        for _ in range(20):
            assert ask(server, "fail").status == 500
            began = time.monotonic()
            assert server.ping() == 200
            assert time.monotonic() - began < 1.5
        assert ask(server, "hang").status == 504
        eventually(lambda: not is_alive(worker), 20)
        later = eventually(lambda: answering(server), 20)
        assert later != worker
        server.reads.set()
        ask(server, "fail")
        roles = {"worker", "http", "supervisor"}
        eventually(lambda: {line["role"] for line in server.lines(message="log lines were dropped")} == roles)
        assert port == server.port


def test_a_server_whose_output_nobody_reads_stops_in_time(folder: Path) -> None:
    with unread(folder) as server:
        server.reads.clear()
        assert ask(server, "flood", lines=2000).status == 200
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: server.process.poll() is not None, 20)
        assert server.process.returncode == 0


@pytest.mark.parametrize("no_color", ["", "1"])
def test_on_a_terminal_text_has_colors_unless_they_are_not_wanted(folder: Path, no_color: str) -> None:
    leader, terminal = pty.openpty()
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("SERVING_", "NO_COLOR"))}
    environ |= {"TERM": "xterm", "SERVING_MODEL_DIR": str(folder), "SERVING_PORT": "0", "SERVING_HOST": "127.0.0.1"}
    environ |= {"NO_COLOR": no_color} if no_color else {}
    process = subprocess.Popen(
        [sys.executable, "-m", "serving", "serve", "--log-format", "text"],
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=terminal,
        cwd=ROOT,
        env=environ,
    )
    os.close(terminal)
    shown = ""
    try:
        while "the server is ready" not in shown:
            shown += os.read(leader, 65536).decode()
    finally:
        process.send_signal(signal.SIGTERM)
        with_rest = threading.Thread(target=drain, args=(leader,), daemon=True)
        with_rest.start()
        process.wait(40)
    assert ("\x1b[32minfo" in shown) == (not no_color)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert re.search(r"^\d\d:\d\d:\d\d\.\d{3} info     supervisor \d+ +listening +host=127.0.0.1 port=\d+", plain, re.M)
    assert re.search(r"info     worker \d+ +\S", plain) or "a worker begins" in plain


def drain(fd: int) -> None:
    """Read until everybody has gone."""
    with suppress(OSError):
        while os.read(fd, 65536):
            pass
    os.close(fd)
