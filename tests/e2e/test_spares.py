"""Spare processes: taken by the next start, refilled, replaced when they die, and gone with the server."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.client import once
from tests.e2e.server import Server, eventually, is_alive, serving
from tests.e2e.store import add_model, ask


def spare(server: Server, nth: int = 1) -> int:
    """Pid of the nth spare that has become ready."""
    lines = eventually(lambda: (found := server.lines(message="a spare is ready"))[nth - 1 :] and found, 20)
    return int(lines[nth - 1]["worker"])


def pid_of(server: Server) -> int:
    return int(asyncio.run(once(server.port, {"id": 1})).json()["pid"])


def test_a_replacement_is_the_spare_and_another_one_takes_its_place(faulty_folder: Path) -> None:
    with serving(faulty_folder, spares=1) as server:
        for nth in (1, 2, 3):
            waiting = spare(server, nth)
            os.kill(pid_of(server), signal.SIGKILL)
            assert pid_of(server) == waiting
            [line] = server.lines(message="a spare takes over", worker=waiting)
            assert line["model"] == "model"


def test_a_spare_that_dies_is_replaced_and_costs_no_request(faulty_folder: Path) -> None:
    with serving(faulty_folder, spares=2) as server:
        first, second = spare(server, 1), spare(server, 2)
        os.kill(first, signal.SIGKILL)
        os.kill(second, signal.SIGSTOP)
        os.kill(second, signal.SIGKILL)
        third, fourth = spare(server, 3), spare(server, 4)
        assert len({first, second, third, fourth}) == 4
        assert {line["worker"] for line in server.lines(message="a spare ended")} == {first, second}
        assert pid_of(server) not in (first, second, third, fourth)


def test_a_spare_that_dies_on_its_way_to_a_model_is_no_fault_of_the_models(faulty_folder: Path) -> None:
    with serving(faulty_folder, spares=1) as server:
        waiting = spare(server)
        os.kill(waiting, signal.SIGSTOP)  # it is taken, and does not hear of it
        os.kill(pid_of(server), signal.SIGKILL)
        eventually(lambda: server.lines(message="a spare takes over"))
        os.kill(waiting, signal.SIGKILL)
        assert pid_of(server) != waiting
        assert not server.lines(message="a model failed to load")


def test_on_a_cpu_there_are_none_unless_asked_for(faulty_folder: Path) -> None:
    with serving(faulty_folder) as server:
        pid_of(server)
        assert server.stop() == 0
        assert not server.lines(message="a spare is ready")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_spares_end_with_the_server(faulty_folder: Path, number: int) -> None:
    with serving(faulty_folder, spares=2) as server:
        spares = [spare(server, 1), spare(server, 2)]
        started = time.monotonic()
        server.stop(number)
        eventually(lambda: not any(is_alive(pid) for pid in spares))
        assert time.monotonic() - started < 8.0, "nobody waits for them"


def test_models_of_a_store_are_loaded_into_spares_and_one_with_an_environment_is_not(tmp_path: Path) -> None:
    add_model(tmp_path, "a")
    add_model(tmp_path, "b", toml='[env]\nGREETING = "hello"\n')
    with serving(tmp_path, model_store=tmp_path, spares=1) as server:
        waiting = spare(server)
        assert ask(server, "b").json()["pid"] != waiting
        assert ask(server, "a").json()["pid"] == waiting
        assert spare(server, 2) != waiting


def times(server: Server, kills: int, spares: int) -> list[float]:
    """Milliseconds from the kill of the worker to the next answer."""
    found = []
    for nth in range(1, kills + 1):
        worker = pid_of(server)
        if spares:
            spare(server, nth)
        os.kill(worker, signal.SIGKILL)
        started = time.monotonic()
        pid_of(server)
        found.append((time.monotonic() - started) * 1e3)
    return found


def test_a_replacement_with_a_spare_is_no_slower_than_one_without(faulty_folder: Path) -> None:
    measured: dict[int, Any] = {}
    for spares in (0, 1):
        with serving(faulty_folder, spares=spares) as server:
            measured[spares] = statistics.median(times(server, 8, spares))
    print(f"from SIGKILL to the next answer: {measured[0]:.1f} ms without, {measured[1]:.1f} ms with a spare")
    assert measured[1] < measured[0] + 200, "what it saves shows on a GPU; here it is a fork and a connection"
