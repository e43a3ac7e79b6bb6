"""Evicted models wait with their weights: they come back without a load, and give way like everybody else."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.server import Server, eventually, is_alive, serving
from tests.e2e.store import add_model, ask, call, names, unload


@contextmanager
def store(folder: Path, tier: str = "1GiB", **settings: object) -> Iterator[Server]:
    """A store of a, b and c of which one is loaded at a time."""
    for name in "abc":
        add_model(folder, name, count=str(folder.parent / "loads"))
    with serving(folder, model_store=folder, max_models=1, warm_tier_bytes=tier, **settings) as server:
        yield server


def pid(server: Server, model: str) -> int:
    reply = ask(server, model)
    assert reply.status == 200, reply.body
    assert reply.json()["name"] == model
    return int(reply.json()["pid"])


def parked(server: Server, count: int) -> None:
    eventually(lambda: len(server.lines(message="a worker is parked")) >= count)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


def test_a_model_comes_back_in_the_process_that_it_left_in(folder: Path) -> None:
    with store(folder) as server:
        first = {name: pid(server, name) for name in "abc"}
        assert len(set(first.values())) == 3
        for _ in range(2):
            assert {name: pid(server, name) for name in "abc"} == first
        assert names(server) == ["c"], "those that are parked are not loaded"
        loads = (folder.parent / "loads").read_text().split()
        assert sorted(loads) == sorted(str(one) for one in first.values()), "each was loaded once"


def test_requests_that_were_accepted_are_answered_before_it_parks(folder: Path) -> None:
    with store(folder) as server:
        pid(server, "a")
        replies: list[int] = []
        slow = [
            threading.Thread(target=lambda: replies.append(ask(server, "a", {"sleep": 0.3}).status)) for _ in range(4)
        ]
        for thread in slow:
            thread.start()
        eventually(lambda: int(call(server, "GET", "/models/a").json()["replicas"][0]["completed"]) >= 1)
        pid(server, "b")
        for thread in slow:
            thread.join()
        assert replies == [200] * 4


def test_many_clients_that_want_different_models_are_all_answered(folder: Path) -> None:
    with store(folder) as server:
        replies: list[tuple[int, str]] = []

        def want(name: str) -> None:
            for _ in range(8):
                reply = ask(server, name)
                replies.append((reply.status, reply.json().get("name")))

        threads = [threading.Thread(target=want, args=(name,)) for name in "abcabc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(replies) == sorted((200, name) for name in "abc" for _ in range(16))
        loads = (folder.parent / "loads").read_text().split()
        assert len(loads) == 3


def test_one_that_dies_while_it_waits_costs_a_load_and_no_request(folder: Path) -> None:
    with store(folder) as server:
        first = pid(server, "a")
        pid(server, "b")
        parked(server, 1)
        os.kill(first, signal.SIGKILL)
        eventually(lambda: server.lines(message="a parked worker ended"))
        assert pid(server, "a") != first


def test_one_that_is_stopped_as_it_is_called_back_is_replaced(folder: Path) -> None:
    with store(folder) as server:
        first = pid(server, "a")
        pid(server, "b")
        parked(server, 1)
        os.kill(first, signal.SIGSTOP)
        answers: list[int] = []
        thread = threading.Thread(target=lambda: answers.append(pid(server, "a")))
        thread.start()
        eventually(lambda: server.lines(message="a parked worker takes over"))
        os.kill(first, signal.SIGKILL)
        thread.join(20)
        assert answers
        assert answers[0] != first


def test_a_full_tier_lets_go_of_the_one_that_waits_longest_and_closes_it(folder: Path) -> None:
    for name in "abc":
        add_model(folder, name, megabytes=64, count=str(folder.parent / "loads"))
    with serving(folder, model_store=folder, max_models=1, warm_tier_bytes="200MiB") as server:
        first = {name: pid(server, name) for name in "abc"}  # a and b are parked
        parked(server, 2)
        add_model(folder, "d", megabytes=64, count=str(folder.parent / "loads"))
        pid(server, "d")
        eventually(lambda: not is_alive(first["a"]))
        assert is_alive(first["b"])
        assert pid(server, "b") == first["b"]
        assert pid(server, "a") != first["a"]


def test_a_model_whose_files_have_changed_is_loaded_anew(folder: Path) -> None:
    with store(folder) as server:
        first = pid(server, "a")
        pid(server, "b")
        parked(server, 1)
        add_model(folder, "a", count=str(folder.parent / "loads"), seconds=0.01)
        assert pid(server, "a") != first
        eventually(lambda: not is_alive(first))


def test_one_that_a_client_unloads_is_not_parked(folder: Path) -> None:
    with store(folder) as server:
        first = pid(server, "a")
        assert unload(server, "a").status == 200
        assert not is_alive(first), "its memory is back"
        assert pid(server, "a") != first


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_parked_workers_end_with_the_server(folder: Path, number: int) -> None:
    with store(folder) as server:
        workers = [pid(server, name) for name in "abc"]
        parked(server, 2)
        started = time.monotonic()
        code = server.stop(number)
        eventually(lambda: not any(is_alive(one) for one in workers))
        assert time.monotonic() - started < 8.0
        assert code == (0 if number == signal.SIGTERM else -signal.SIGKILL)
        if number == signal.SIGTERM:
            assert not server.lines(level="error"), "they have closed their handlers and gone"


def test_a_tier_larger_than_what_models_may_have_is_a_setting_that_is_wrong(folder: Path) -> None:
    server = Server(folder, model_store=folder, host_memory="1GiB", warm_tier_bytes="2GiB")
    assert server.wait(10) == 1
    [line] = server.lines(level="error")
    assert "warm_tier_bytes" in line["message"]
    assert "host_memory" in line["message"]
