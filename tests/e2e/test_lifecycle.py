"""Start, failure and the way processes are kept: what an operator sees."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import pytest

from serving.frontend.server import DOORS
from tests.e2e.client import once
from tests.e2e.gate import Gate
from tests.e2e.server import ROOT, Server, eventually, is_alive, model_folder, serving

LISTEN = "0A"  # a state of a socket in /proc/net/tcp
SITE = Path(sysconfig.get_path("purelib"))
AS_NOBODY = [
    "setpriv",
    "--reuid",
    "65534",
    "--regid",
    "65534",
    "--clear-groups",
    "--inh-caps=-all",
    "--bounding-set=-all",
]


def ends_with(server: Server, code: int, words: str, seconds: float = 20.0) -> None:
    started = time.monotonic()
    assert server.wait(seconds) == code, "\n".join(server.raw)
    assert time.monotonic() - started < seconds
    assert [line for line in server.log if line["level"] == "error" and words in line["message"]], server.raw


def test_a_handler_whose_import_fails_ends_the_container_with_one_clear_line(tmp_path: Path) -> None:
    server = Server(model_folder(tmp_path, "no_import:Nothing"))
    ends_with(server, 1, "cannot serve: handler no_import:Nothing: importing no_import failed: ModuleNotFoundError")


def test_a_class_that_is_no_handler_ends_the_container(tmp_path: Path) -> None:
    server = Server(model_folder(tmp_path, "faulty:Teapot"))
    ends_with(server, 1, "Teapot is a class; a subclass of serving.Handler is expected, there is Faulty")


def test_an_unknown_option_ends_the_container_and_is_named(tmp_path: Path) -> None:
    server = Server(model_folder(tmp_path, "faulty:Faulty", "[options]\nlode_seconds = 1\n"))
    ends_with(server, 1, "lode_seconds")


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[batch]\nmax_sise = 3\n", "max_sise"),
        ("[batch]\nmax_size = 0\n", "max_size is 0"),
        ("timeout_s = -1\n", "timeout_s is -1"),
        ("replicas = many\n", "serving.toml"),
    ],
)
def test_a_wrong_serving_toml_ends_the_container_and_names_the_key(tmp_path: Path, toml: str, words: str) -> None:
    ends_with(Server(model_folder(tmp_path, "echo:Echo", toml)), 1, words)


def test_a_folder_without_a_model_says_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("no model")
    ends_with(Server(tmp_path), 1, "expected serving.toml with a handler, code/inference.py")
    ends_with(Server(tmp_path / "nowhere"), 1, "does not exist")


def test_a_taken_port_ends_the_start_at_once_and_says_so(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = Server(model_folder(tmp_path, "echo:Echo"), port=port)
        ends_with(server, 1, f"cannot serve: cannot listen on 127.0.0.1:{port}: Address already in use")
        assert not server.lines(message="a worker begins"), "no model is loaded for that"


def test_a_load_beyond_its_time_is_ended(tmp_path: Path) -> None:
    server = Server(model_folder(tmp_path, "faulty:Faulty", "[options]\nload_seconds = 60\n"), load_timeout=2)
    try:
        line = eventually(lambda: server.lines(message="ending a worker"), 15)[0]
        assert line["reason"] == "loading took more than 2 s"
    finally:
        server.stop()


def test_a_replacement_is_ready_far_sooner_after_a_kill_than_a_server(faulty_folder: Path) -> None:
    """A fork needs a tenth of the time. What had to import everything anew would need most of it."""
    began = time.monotonic()
    with serving(faulty_folder) as server:
        start = time.monotonic() - began
        asyncio.run(once(server.port, {"id": 1}))
        times = []
        for _ in range(3):
            [worker] = server.workers()
            os.kill(worker, signal.SIGKILL)
            killed = time.monotonic()
            answer = asyncio.run(once(server.port, {"id": 2}))
            assert answer.status == 200
            assert answer.json()["pid"] != worker
            times.append(time.monotonic() - killed)
        assert sorted(times)[1] < start / 3


def test_every_other_process_is_replaced_when_it_dies(faulty_folder: Path) -> None:
    with serving(faulty_folder) as server:
        for message in ("the HTTP master ended", "the fork server ended"):
            module = "frontend.server" if "HTTP" in message else "worker.forkserver"
            [victim] = [
                pid for pid in direct_children(server) if module in command(pid) and pid not in server.workers()
            ]
            os.kill(victim, signal.SIGKILL)
            eventually(lambda message=message: server.lines(message=message))
            eventually(lambda: answers(server), 15)
        [worker] = server.workers()
        os.kill(worker, signal.SIGKILL)
        eventually(lambda: server.workers() not in ([], [worker]), 15)
        eventually(lambda: answers(server), 15)
        [http] = [pid for pid in server.children() if parent(pid) not in (server.process.pid,)]
        os.kill(http, signal.SIGKILL)
        eventually(lambda: answers(server), 15)


def test_an_http_worker_has_several_doors_since_it_takes_one_client_a_turn_from_each(tmp_path: Path) -> None:
    # Measured with 2,000 clients at once: with one door some wait for seconds until they are let in.
    with serving(model_folder(tmp_path, "echo:Echo"), http_workers=2) as server:
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        [listening] = [
            line.split()[9]
            for line in lines
            if line.split()[1].endswith(f":{server.port:04X}") and line.split()[3] == LISTEN
        ]
        http = [pid for pid in server.children() if parent(pid) not in (server.process.pid,)]
        assert len(http) == 2
        for pid in http:
            files = [os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir()]
            assert files.count(f"socket:[{listening}]") == DOORS > 1


def test_an_http_master_that_is_told_to_begin_anew_does(tmp_path: Path) -> None:
    with serving(model_folder(tmp_path, "echo:Echo"), http_workers=1) as server:
        [master] = [pid for pid in direct_children(server) if "frontend.server" in command(pid)]
        [before] = [pid for pid in server.children() if parent(pid) == master]
        os.kill(master, signal.SIGHUP)
        eventually(lambda: [pid for pid in server.children() if parent(pid) == master] not in ([], [before]))
        eventually(lambda: answers(server))
        assert is_alive(master)
        assert not server.lines(message="the HTTP master ended")


def test_when_the_supervisor_is_killed_nothing_stays_behind(faulty_folder: Path) -> None:
    with serving(faulty_folder) as server:
        children = server.children()
        assert len(children) >= 4
        server.process.kill()
        server.process.wait()
        eventually(lambda: not [pid for pid in children if is_alive(pid)], 10)


def test_a_worker_that_dies_is_logged_with_its_cause(faulty_folder: Path) -> None:
    with serving(faulty_folder) as server:
        asyncio.run(once(server.port, {"do": "exit"}))
        line = eventually(lambda: server.lines(message="a worker ended"))[0]
        assert line["cause"] == "exit code 3"
        [worker] = eventually(server.workers)
        os.kill(worker, signal.SIGKILL)
        line = eventually(lambda: server.lines(message="a worker ended", cause="signal SIGKILL"))[0]
        assert line["oom_killed"] is False


def test_replicas_share_the_load_and_one_loss_leaves_the_other_serving(faulty_folder: Path) -> None:
    async def pids(port: int, n: int) -> set[int]:
        answers = await asyncio.gather(*(once(port, {"do": "sleep", "seconds": 0.1}) for _ in range(n)))
        return {answer.json()["pid"] for answer in answers}

    with serving(faulty_folder, replicas=2) as server:
        eventually(lambda: server.lines(message="the server is ready"))
        eventually(lambda: len(asyncio.run(pids(server.port, 8))) == 2)
        os.kill(server.workers()[0], signal.SIGSTOP)  # not dead, only silent
        assert server.ping() == 200


def test_ping_is_logged_only_when_the_state_changes(faulty_folder: Path) -> None:
    with serving(faulty_folder, log_level="debug") as server:
        before = len(server.raw)
        for _ in range(20):
            server.ping()
        assert len(server.raw) == before


def test_orphans_are_reaped(faulty_folder: Path) -> None:
    def zombies(server: Server) -> list[int]:
        stats = [
            path.read_text().rpartition(")")[2].split() for path in Path("/proc").glob("[0-9]*/stat") if path.exists()
        ]
        return [1 for fields in stats if fields[0] == "Z" and int(fields[1]) == server.process.pid]

    with serving(faulty_folder) as server:
        assert asyncio.run(once(server.port, {"do": "orphan"})).status == 200
        [sleeper] = eventually(lambda: [pid for pid in server.children() if command(pid).startswith("sleep")])
        assert parent(sleeper) == server.process.pid, "an orphan is the supervisor's"
        os.kill(sleeper, signal.SIGKILL)
        eventually(lambda: not Path(f"/proc/{sleeper}").exists())
        assert not zombies(server)


@pytest.mark.skipif(subprocess.run(["unshare", "--pid", "--fork", "true"]).returncode != 0, reason="needs namespaces")
def test_as_pid_1_of_a_container_it_serves_and_stops(faulty_folder: Path) -> None:
    server = Server(faulty_folder, prefix=["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"])
    try:
        eventually(lambda: server.lines(message="the server is ready"), 20)
        answer = asyncio.run(once(server.port, {"id": 1}))
        assert answer.status == 200
        assert server.lines(message="listening")[0]["pid"] == 1
        assert asyncio.run(once(server.port, {"do": "segfault"})).code == "worker_died"
        [first] = [pid for pid in server.children() if parent(pid) == server.process.pid]
        os.kill(first, signal.SIGTERM)
        assert server.wait(10) == 0
    finally:
        server.stop(signal.SIGKILL)


def outsiders_python() -> str | None:
    """A Python that user ``nobody`` may run; None where there is none or we may not become that user."""
    if os.geteuid() != 0:
        return None
    for python in (sys.executable, "/usr/bin/python3"):
        # The server starts processes of its own, so the question is what a child of such a process may do.
        inner = f"import sys; sys.path.append({str(SITE)!r}); import torch, msgspec, gunicorn"
        outer = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {inner!r}]))"
        if subprocess.run([*AS_NOBODY, python, "-c", outer], capture_output=True).returncode == 0:
            return python
    return None


def owners(server: Server) -> set[int]:
    """Users whose processes the server's are; one that ends meanwhile does not count."""
    found = set()
    for pid in server.children():
        with contextlib.suppress(FileNotFoundError):
            found.add(os.stat(f"/proc/{pid}").st_uid)
    return found


def test_it_serves_as_a_user_without_rights_or_home_and_writes_only_below_tmp(faulty_folder: Path) -> None:
    python = outsiders_python()
    if python is None:
        pytest.skip("needs root, and a Python with our packages that another user may run")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        shutil.copytree(faulty_folder, Path(folder, "model"))
        environment = {"HOME": "/nonexistent", "PYTHONPATH": f"{ROOT}:{SITE}", "PYTHONDONTWRITEBYTECODE": "1"}
        server = Server(Path(folder, "model"), prefix=AS_NOBODY, python=python, environment=environment)
        try:
            server.wait_ready()
            assert asyncio.run(once(server.port, {"id": 1})).status == 200
            assert asyncio.run(once(server.port, {"do": "segfault"})).code == "worker_died"
            assert owners(server) == {65534}
            assert server.stop() == 0
        finally:
            server.leave()


def test_a_folder_that_this_user_may_not_read_is_named(faulty_folder: Path) -> None:
    python = outsiders_python()
    if python is None:
        pytest.skip("needs root, and a Python with our packages that another user may run")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # for its owner alone
        shutil.copytree(faulty_folder, folder, dirs_exist_ok=True)
        os.chmod(folder, 0o700)
        environment = {"PYTHONPATH": f"{ROOT}:{SITE}", "PYTHONDONTWRITEBYTECODE": "1"}
        server = Server(Path(folder), prefix=AS_NOBODY, python=python, environment=environment)
        ends_with(server, 1, f"cannot serve: Permission denied: {folder}")


@pytest.mark.slow
def test_a_close_that_hangs_does_not_keep_the_container(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "faulty:Faulty", "[options]\nclose_seconds = 60\n")
    with serving(folder) as server:
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 5


def test_a_request_that_outlasts_the_drain_is_given_up_and_the_container_goes(
    faulty_folder: Path, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate")

    async def run(server: Server) -> None:
        slow = asyncio.create_task(once(server.port, {"do": "wait", "gate": gate.path}))
        await asyncio.to_thread(gate.wait_reached)
        started = time.monotonic()
        assert await asyncio.to_thread(server.stop) == 0
        assert time.monotonic() - started < 6
        answer = await slow
        assert (answer.status, answer.code) == (503, "draining")
        assert server.lines(message="the drain time is over", unanswered=1)

    with serving(faulty_folder, drain_timeout=1) as server:
        asyncio.run(run(server))


def test_the_runtime_folder_is_private_and_gone_after_the_end(faulty_folder: Path, tmp_path: Path) -> None:
    with serving(faulty_folder) as server:
        [http] = [pid for pid in direct_children(server) if "frontend.server" in command(pid)]
        [folder] = [Path(word) for word in command(http).split("\0") if Path(word).is_dir() and "serving-" in word]
        assert folder.stat().st_mode & 0o077 == 0
        assert server.stop() == 0
        assert not folder.exists()


def opened(pid: int) -> set[str]:
    """What its descriptors lead to; one that was closed meanwhile does not count."""
    found = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(fd))
    return found


def test_only_forks_map_torch_none_of_them_holds_the_listening_socket_and_cuda_is_the_workers_alone(
    faulty_folder: Path,
) -> None:
    with serving(faulty_folder, spares=1) as server:
        table = Path("/proc/net/tcp").read_text().splitlines()[1:]
        listening = {
            f"socket:[{line.split()[9]}]"
            for line in table
            if line.split()[3] == "0A" and int(line.split()[1].split(":")[1], 16) == server.port
        }
        assert listening
        assert listening <= opened(server.process.pid)
        spare = int(eventually(lambda: server.lines(message="a spare is ready"))[0]["worker"])
        forks = {pid for pid in direct_children(server) if "forkserver" in command(pid)}
        workers = {*server.workers(), spare}
        [fork_server] = forks - workers
        assert len(workers) == 2
        for pid in (server.process.pid, *server.children()):
            maps = Path(f"/proc/{pid}/maps").read_text()
            assert ("libtorch" in maps) == (pid in forks), command(pid)
            assert "libcuda.so" not in maps or pid in workers, command(pid)
            assert not (pid in forks and listening & opened(pid)), command(pid)
        # What would follow from a CUDA that was touched before the fork; a pool of threads is no better.
        assert not [path for path in opened(fork_server) if path.startswith("/dev/nvidia")]
        assert "/dev/nvidia" not in Path(f"/proc/{fork_server}/maps").read_text()
        assert len(list(Path(f"/proc/{fork_server}/task").iterdir())) == 1


def direct_children(server: Server) -> list[int]:
    return [pid for pid in server.children() if parent(pid) == server.process.pid]


def parent(pid: int) -> int:
    """0 for a process that is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def command(pid: int) -> str:
    """ "" for a process that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def answers(server: Server) -> bool:
    try:
        return asyncio.run(once(server.port, {"id": 1})).status == 200
    except (OSError, asyncio.IncompleteReadError):
        return False


def test_memory_that_leaves_none_to_models_ends_the_start(tmp_path: Path) -> None:
    server = Server(tmp_path, model_store=tmp_path, host_memory="30MB")
    ends_with(server, 1, "cannot serve: host_memory leaves no memory to models", seconds=20)
