"""Why did it die? Each end of a worker that nobody wanted is one event of the log and one file, and its id stands in
what clients are told."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.postmortem import recording
from serving.postmortem.report import EVENT, Reason, Report, read
from tests.e2e.client import once
from tests.e2e.server import ROOT, Server, eventually, model_folder, serving

HANDLER = """
import ctypes, json, os, signal, time
from serving import BatchPolicy, Handler

class Mortal(Handler):
    policy = BatchPolicy(max_size=4, max_delay_ms=50)

    def load(self, model_dir, device, fails="", dies=False):
        if fails:
            raise OSError(fails)  # the load
        if dies:
            ctypes.string_at(0)

    def decode(self, request):
        do = json.loads(bytes(request.body))
        if do == "crash in decode":
            ctypes.string_at(0)  # decode
        return do

    def predict(self, batch):
        for do in batch:
            if do == "crash":
                ctypes.string_at(0)  # crash
            if do == "hang":
                time.sleep(60)  # hang
            if do == "grow":
                self.grow()
            if do == "exit":
                os._exit(3)
        return batch

    def grow(self):
        held = []
        for _ in range(6):
            held.append(bytes(8 << 20))
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def line_of(text: str) -> int:
    """Return the number of the line of the handler that ends with ``text``."""
    return next(number for number, line in enumerate(HANDLER.splitlines(), 1) if line.endswith(text))


def write_model(folder: Path, toml: str = "") -> Path:
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "mortal.py").write_text(HANDLER)
    (folder / "serving.toml").write_text(f'handler = "mortal:Mortal"\n{toml}')
    return folder


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reports") / "made by the server"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, reports: Path) -> Iterator[Server]:
    model = write_model(tmp_path_factory.mktemp("mortal") / "model", "timeout_s = 2\n")
    with serving(model, http_workers=1, report_dir=reports) as one:
        yield one


def ask(server: Server, do: str) -> dict[str, Any]:
    """The error that a request gets."""
    answer = asyncio.run(once(server.port, do))
    assert answer.status >= 500, answer
    error: dict[str, Any] = answer.json()["error"]
    return error


def the_report(server: Server, reports: Path, error: dict[str, Any]) -> Report:
    """The report that an error names: its file is there, and its event has the same content."""
    id = error["report"]
    assert error["message"].endswith(f"(report {id})")
    path = reports / f"{id}.json"
    eventually(path.exists, 10)
    found = read(path.read_bytes())
    [event] = eventually(lambda: server.lines(message=EVENT, report=id), 10)
    assert read(json.dumps(event)) == found
    assert [line["report"] for line in server.lines(message="a worker ended", worker=found.worker)] == [id]
    assert server.lines(message="a request was answered with an error", report=id)
    return found


@pytest.mark.parametrize(
    ("do", "code", "reason", "where"),
    [
        ("crash", "worker_died", Reason.CRASH, f"code/mortal.py:{line_of('# crash')} in predict"),
        ("crash in decode", "worker_died", Reason.CRASH, f"code/mortal.py:{line_of('# decode')} in decode"),
        ("hang", "deadline_exceeded", Reason.HANG, f"code/mortal.py:{line_of('# hang')} in predict"),
        ("grow", "worker_died", Reason.KILLED, f"code/mortal.py:{line_of('time.sleep(0.1)')} in grow"),
    ],
)
def test_a_report_names_the_handlers_line(
    server: Server, reports: Path, do: str, code: str, reason: Reason, where: str
) -> None:
    asyncio.run(once(server.port, "fine"))
    error = ask(server, do)
    assert error["code"] == code
    found = the_report(server, reports, error)
    assert (found.reason, found.where) == (reason, where)
    assert [(one.request_id, one.content_type, one.size) for one in found.running] == [
        (error["request_id"], "application/json", len(json.dumps(do)))
    ]
    assert found.model == "model"
    assert found.phase == "ready"
    assert found.versions["torch"]
    if reason in (Reason.HANG, Reason.KILLED):  # it has lived for long enough
        assert found.curve
        assert all(size > 1 << 20 for _, size in found.curve)
    assert found.memory > 0
    assert bool(found.stacks) == (reason is not Reason.KILLED)


def test_an_exit_is_told_by_its_code(server: Server, reports: Path) -> None:
    found = the_report(server, reports, ask(server, "exit"))
    assert (found.reason, found.exit_code, found.signal, found.phase) == (Reason.CRASH, 3, None, "ready")


def test_what_came_before_is_in_the_report_and_payloads_are_not(server: Server, reports: Path) -> None:
    for number in range(3):
        asyncio.run(once(server.port, f"secret {number}"))
    found = the_report(server, reports, ask(server, "crash"))
    assert len(found.last) <= 32
    text = (reports / f"{found.report}.json").read_text()
    assert "secret" not in text
    assert not any(path.suffix == ".bodies" for path in reports.iterdir())
    assert {path.stat().st_mode & 0o777 for path in reports.iterdir()} == {0o600}


@pytest.mark.parametrize("how", ["raises", "dies"])
def test_a_load_that_fails_is_reported(tmp_path: Path, how: str) -> None:
    options = {"raises": 'fails = "the weights are not there"', "dies": "dies = true"}[how]
    reports = tmp_path / "reports"
    server = Server(write_model(tmp_path / "model", f"[options]\n{options}\n"), report_dir=reports, http_workers=1)
    try:
        eventually(lambda: server.lines(message=EVENT), 30)
        found = read(json.dumps(server.lines(message=EVENT)[0]))
        eventually((reports / f"{found.report}.json").exists, 10)
    finally:
        server.leave()
    assert (found.reason, found.phase) == (Reason.FAILED_LOAD, "loading")
    if how == "raises":
        line = line_of("# the load")
        assert found.error == f"OSError: the weights are not there (code/mortal.py:{line} in load)"
    else:
        assert found.where == f"code/mortal.py:{line_of('ctypes.string_at(0)')} in load"


def test_without_a_folder_the_event_is_there_all_the_same(tmp_path: Path) -> None:
    with serving(write_model(tmp_path / "model"), http_workers=1) as server:
        error = ask(server, "crash")
        eventually(lambda: server.lines(message=EVENT, report=error["report"]), 10)


@pytest.mark.parametrize("hostile", ["a file", "forbidden"])
def test_a_folder_that_cannot_be_used_costs_no_request(tmp_path: Path, hostile: str) -> None:
    (tmp_path / "file").touch()
    folder = {"a file": tmp_path / "file", "forbidden": Path("/proc/reports")}[hostile]
    with serving(write_model(tmp_path / "model"), http_workers=1, report_dir=folder) as server:
        for _ in range(2):
            assert ask(server, "crash")["code"] == "worker_died"
            assert asyncio.run(once(server.port, "fine")).status == 200
        eventually(lambda: len(server.lines(message=EVENT)) == 4, 10)
        assert len(server.lines(message="reports cannot be written")) == 1


def test_an_end_that_was_wanted_is_no_news(tmp_path: Path) -> None:
    folder = tmp_path / "reports"
    with serving(write_model(tmp_path / "model"), http_workers=1, report_dir=folder) as server:
        assert asyncio.run(once(server.port, "fine")).status == 200
        assert server.stop() == 0
    assert not server.lines(message=EVENT)
    assert not folder.exists()


def test_a_worker_that_another_process_kills_is_reported(tmp_path: Path) -> None:
    with serving(write_model(tmp_path / "model"), http_workers=1) as server:
        [pid] = server.workers()
        os.kill(pid, signal.SIGKILL)
        [event] = eventually(lambda: server.lines(message=EVENT), 10)
        assert (event["reason"], event["worker"], event["signal"]) == ("killed", pid, "SIGKILL")


def test_a_lost_device_is_reported(tmp_path: Path) -> None:
    with serving(model_folder(tmp_path, "faulty:Faulty"), http_workers=1) as server:
        error = asyncio.run(once(server.port, {"do": "device-assert"})).json()["error"]
        [event] = eventually(lambda: server.lines(message=EVENT, report=error["report"]), 10)
        assert (event["reason"], event["exit_code"]) == ("lost_device", 74)


# The bodies, and the replay.


def replay(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serving", "replay", str(path), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=ROOT)


def test_a_batch_that_killed_its_worker_fails_alike_when_it_is_replayed(tmp_path: Path) -> None:
    async def all_of(port: int) -> None:
        bodies = ["fine", "hang", "good"]
        assert {answer.status for answer in await asyncio.gather(*(once(port, body) for body in bodies))} == {504}

    model, reports = (
        write_model(tmp_path / "model", "timeout_s = 2\n[batch]\nmax_delay_ms = 500\n"),
        tmp_path / "reports",
    )
    with serving(model, http_workers=1, report_dir=reports, report_bodies=True) as server:
        asyncio.run(all_of(server.port))
        [path] = eventually(lambda: list(reports.glob("*.json")), 10)
    found = read(path.read_bytes())
    assert found.bodies == path.with_suffix(".bodies").name
    assert sorted(one.size or 0 for one in found.running) == [6, 6, 6]
    assert {one.stat().st_mode & 0o777 for one in reports.iterdir()} == {0o600}
    where = f"code/mortal.py:{line_of('# hang')} in predict"
    assert found.where == where
    again = replay(path, "--bisect")
    assert again.returncode == 1
    assert f"the process ended in its batch: it took more than 7 s, at {where}" in again.stdout
    hung = next(one.request_id for one in found.running if hung_in(path, one.request_id))
    assert again.stdout.partition("at fault:\n")[2].split()[0] == f"{hung}:"


def hung_in(path: Path, request_id: str) -> bool:
    kept = recording.read(path.with_suffix(".bodies")).requests
    return any(one.body == b'"hang"' for one in kept if one.request_id == request_id)
