"""SIGKILL at every step of a load leaves no process, folder, socket or memory charged behind."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.server import Server, eventually, is_alive, serving, state
from tests.e2e.store import ANY_SIZE, add_model, ask, call, endless, names, pack, pids, unload


def sockets(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("worker-*"))


def charged(server: Server) -> int:
    return sum(model["bytes"] for model in call(server, "GET", "/models").json()["models"])


def processes(server: Server, word: bytes) -> set[int]:
    """Those whose command line has this word."""
    found = set()
    for pid in server.children():
        with contextlib.suppress(OSError):
            if word in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.add(pid)
    return found


def forks(server: Server) -> set[int]:
    """The fork server and all that it has forked."""
    return processes(server, b"forkserver")


def is_answered(server: Server, model: str) -> bool:
    """Whether a request gets its 200, rather than an error or a connection that ends."""
    try:
        return ask(server, model).status == 200
    except OSError:
        return False


@pytest.fixture
def private_tmp(tmp_path: Path) -> Path:
    """A temporary folder of the server's own, so that whatever it leaves can be seen."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    return folder


def is_clean(server: Server, private_tmp: Path, before: set[int]) -> Callable[[], bool]:
    return lambda: forks(server) == before and sockets(private_tmp) == [] and charged(server) == 0


@pytest.mark.parametrize("step", ["import", "load", "warmup"])
def test_kill_9_of_a_worker_in_the_middle_of_its_load(tmp_path: Path, private_tmp: Path, step: str) -> None:
    folder = add_model(tmp_path / "store", "a", stop_at=step)
    if step == "import":
        code = folder / "code" / "named.py"
        code.write_text(code.read_text() + "\n\nos.kill(os.getpid(), signal.SIGSTOP)\n")
    environment = {"TMPDIR": str(private_tmp)}
    with serving(tmp_path, model_store=tmp_path / "store", environment=environment) as server:
        before = forks(server)
        with ThreadPoolExecutor() as pool:
            asking = pool.submit(ask, server, "a")
            [worker] = eventually(lambda: [pid for pid in forks(server) - before if state(pid) == "T"])
            os.kill(worker, signal.SIGKILL)
            reply = asking.result()
        assert (reply.status, reply.code) == (507, "out_of_memory")
        eventually(is_clean(server, private_tmp, before))
        assert names(server) == []
        add_model(tmp_path / "store", "a")
        eventually(lambda: ask(server, "a").status == 200)


def test_a_worker_that_cannot_begin_says_why(tmp_path: Path) -> None:
    add_model(tmp_path / "store", "a")
    with serving(tmp_path, model_store=tmp_path / "store") as server:
        opened = [path.resolve() for path in Path(f"/proc/{server.process.pid}/fd").iterdir()]
        [runtime] = [path.parent for path in opened if path.name == "lock" and path.parent.name.startswith("serving-")]
        (runtime / "control.sock").unlink()
        reply = ask(server, "a")
        assert (reply.status, reply.code) == (503, "model_failed")
        line = eventually(lambda: server.lines(message="a worker could not begin"))[0]
        assert "control.connect" in line["traceback"]
        assert "FileNotFoundError" in line["traceback"]


@pytest.mark.slow
def test_kill_9_of_a_worker_that_is_on_its_way_out(tmp_path: Path, private_tmp: Path) -> None:
    add_model(tmp_path / "store", "a", stop_at="close")
    environment = {"TMPDIR": str(private_tmp)}
    with serving(tmp_path, model_store=tmp_path / "store", environment=environment) as server:
        before = forks(server)
        assert ask(server, "a").status == 200
        [worker] = pids(server, "a")
        with ThreadPoolExecutor() as pool:
            unloading = pool.submit(unload, server, "a")
            eventually(lambda: state(worker) == "T")
            again = pool.submit(ask, server, "a")
            time.sleep(0.1)
            os.kill(worker, signal.SIGKILL)
            assert unloading.result().status == 200
            assert again.result().status == 200, "who asks while it leaves gets it loaded anew"
        unload(server, "a")
        eventually(is_clean(server, private_tmp, before), 15)


@pytest.mark.parametrize("delay", [0.0, 0.005, 0.01, 0.02, 0.04, 0.08])
def test_kill_9_of_the_fork_server_around_a_load(tmp_path: Path, private_tmp: Path, delay: float) -> None:
    add_model(tmp_path / "store", "a")
    environment = {"TMPDIR": str(private_tmp)}
    with serving(tmp_path, model_store=tmp_path / "store", environment=environment) as server:
        [fork_server] = forks(server)
        with ThreadPoolExecutor() as pool:
            asking = pool.submit(ask, server, "a")
            time.sleep(delay)
            os.kill(fork_server, signal.SIGKILL)
            assert asking.result().status == 200
        assert unload(server, "a").status == 200
        eventually(lambda: len(forks(server)) == 1 and charged(server) == 0)
        assert fork_server not in forks(server)


def test_kill_9_of_the_server_while_it_unpacks_an_archive(tmp_path: Path, private_tmp: Path) -> None:
    store = tmp_path / "store"
    endless(pack(add_model(store, "big"), ".tar.gz"))
    environment = {"TMPDIR": str(private_tmp)}
    server = Server(tmp_path, model_store=store, environment=environment, **ANY_SIZE)
    server.wait_ready()
    children = server.children()
    with ThreadPoolExecutor() as pool:
        asking = pool.submit(is_answered, server, "big")
        eventually(lambda: list(private_tmp.rglob(".partial-*/serving.toml")))
        server.process.kill()
        assert not asking.result()
    server.wait(10)
    eventually(lambda: not [pid for pid in children if is_alive(pid)])
    assert list(private_tmp.rglob(".partial-*"))
    add_model(store, "a")
    with serving(tmp_path, model_store=store, environment=environment) as server:
        assert list(private_tmp.rglob(".partial-*")) == []
        assert ask(server, "a").status == 200


def test_kill_9_of_an_http_worker_during_a_load_costs_only_its_own_requests(tmp_path: Path) -> None:
    add_model(tmp_path, "a", stop_at="load", count=str(tmp_path / "loads"))
    with serving(tmp_path, model_store=tmp_path, http_workers=1) as server:
        before = forks(server)
        with ThreadPoolExecutor() as pool:
            asking = pool.submit(is_answered, server, "a")
            [worker] = eventually(lambda: [pid for pid in forks(server) - before if state(pid) == "T"])
            os.kill(max(processes(server, b"frontend")), signal.SIGKILL)
            assert not asking.result()
        os.kill(worker, signal.SIGCONT)
        eventually(lambda: server.ping() == 200)
        assert ask(server, "a").status == 200
        assert len((tmp_path / "loads").read_text().split()) == 1
