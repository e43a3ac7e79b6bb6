"""Every signal to every process: none ends the server before what it has accepted is answered."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.system.signals import OTHERS, STOPS
from tests.e2e.client import Answer, Client, once
from tests.e2e.server import Server, eventually, model_folder, serving
from tests.e2e.test_lifecycle import command, direct_children, parent

ROLES = ("master", "http worker", "fork server", "model worker")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = model_folder(tmp_path_factory.mktemp("signals"), "faulty:Faulty")
    with serving(folder, http_workers=1) as one:
        yield one


def masters(server: Server) -> list[int]:
    """And the HTTP workers of a master that has died, until they have answered what they have accepted."""
    return [pid for pid in direct_children(server) if "frontend.server" in command(pid)]


def pid_of(server: Server, role: str) -> int:
    workers = server.workers()
    eventually(lambda: len(masters(server)) == 1)
    [master] = masters(server)
    match role:
        case "master":
            return master
        case "http worker":
            return max(pid for pid in server.children(master) if parent(pid) == master)
        case "model worker":
            return workers[0]
    [forks] = [pid for pid in direct_children(server) if "forkserver" in command(pid) and pid not in workers]
    return forks


async def under_way(server: Server, pid: int, number: int) -> Answer:
    """The answer to a request during which a process is sent a signal."""
    async with Client(server.port) as client:
        await client.ping()  # so that it is the one HTTP worker's before that is told to go
        asking = asyncio.create_task(client.invoke({"do": "sleep", "seconds": 0.3, "id": number}))
        await asyncio.sleep(0.1)
        os.kill(pid, number)
        return await asking


@pytest.mark.parametrize("role", ROLES)
def test_whatever_comes_to_whichever_process_what_was_accepted_is_answered(server: Server, role: str) -> None:
    for number in (*STOPS, *OTHERS, signal.SIGWINCH):
        answer = asyncio.run(under_way(server, pid_of(server, role), number))
        assert (answer.status, answer.json().get("id")) == (200, number), signal.Signals(number).name
        eventually(lambda: asyncio.run(answers(server.port)))
    assert server.process.poll() is None
    assert not server.lines(message="the HTTP master ended")
    assert not server.lines(message="the fork server ended")
    assert not server.lines(message="a worker ended")


async def answers(port: int) -> bool:
    try:
        return (await once(port, {"id": 1})).status == 200
    except (OSError, asyncio.IncompleteReadError):
        return False  # an HTTP worker that ends closes what it has not taken yet


def test_the_supervisor_overhears_what_is_no_order_to_stop(server: Server) -> None:
    for number in OTHERS:
        answer = asyncio.run(under_way(server, server.process.pid, number))
        assert answer.status == 200
        eventually(lambda number=number: server.lines(signal=signal.Signals(number).name))
    assert server.ping() == 200


@pytest.mark.parametrize("number", STOPS)
def test_an_order_to_stop_drains(tmp_path: Path, number: int) -> None:
    with serving(model_folder(tmp_path, "faulty:Faulty"), http_workers=1) as server:
        answer = asyncio.run(under_way(server, server.process.pid, number))
        assert (answer.status, answer.json()["id"]) == (200, number)
        assert server.wait(30) == 0


def test_what_a_dead_masters_workers_have_accepted_is_answered(tmp_path: Path) -> None:
    with serving(model_folder(tmp_path, "faulty:Faulty"), http_workers=1) as server:
        for _ in range(3):
            answer = asyncio.run(under_way(server, pid_of(server, "master"), signal.SIGKILL))
            assert answer.status == 200
            eventually(lambda: asyncio.run(answers(server.port)))
        assert server.stop() == 0


@pytest.mark.slow
def test_a_fork_server_that_cannot_be_kept_alive_ends_the_server_after_a_drain(tmp_path: Path) -> None:
    async def run(server: Server) -> None:
        asking = asyncio.create_task(once(server.port, {"do": "sleep", "seconds": 10, "id": 1}))
        while not server.lines(message="the server is draining"):
            forks = [pid for pid in direct_children(server) if "forkserver" in command(pid)]
            for pid in set(forks) - set(server.workers()):
                os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(0.05)
        assert (await once(server.port, {"id": 2})).code == "draining"
        answer = await asking
        assert (answer.status, answer.json()["id"]) == (200, 1)

    with serving(model_folder(tmp_path, "faulty:Faulty"), http_workers=1) as server:
        asyncio.run(run(server))
        assert server.wait(30) == 1
        assert server.log[-1]["message"] == "cannot serve: the fork server ended 6 times in a row"


@pytest.mark.slow
def test_ping_says_so_when_the_supervisor_is_stopped(tmp_path: Path) -> None:
    with serving(model_folder(tmp_path, "faulty:Faulty"), http_workers=1) as server:
        assert asyncio.run(answers(server.port))  # from now on it is known where the model is
        assert server.ping() == 200
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            eventually(lambda: server.ping() == 503, 20)
            assert asyncio.run(answers(server.port)), "requests are answered all the same"
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        eventually(lambda: server.ping() == 200)
