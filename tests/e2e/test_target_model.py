"""The container loads: TargetModel, lazily, once, within a budget."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serving.system.memory import memory_of
from tests.e2e.gate import Gate
from tests.e2e.server import Server, eventually, is_alive, serving
from tests.e2e.store import TARGET, add_model, ask, call, get, load, names, pack, pids, unload


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("store")
    for name in ("a", "b", "team/c"):
        add_model(store, name)
    pack(add_model(store, "packed"), ".tar.gz")
    pack(add_model(store, "marred"), ".mar")
    return store


@pytest.fixture(scope="module")
def server(store: Path) -> Iterator[Server]:
    with serving(store, model_store=store) as server:
        yield server


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("a", "a"),
        ("a.tar.gz", "a"),
        ("team/c", "team/c"),
        ("packed", "packed"),
        ("packed.tar.gz", "packed"),
        ("marred.mar", "marred"),
    ],
)
def test_target_model_names_the_model_that_answers(server: Server, target: str, name: str) -> None:
    for _ in range(2):
        reply = ask(server, target)
        assert (reply.status, reply.json()["name"]) == (200, name)
    assert name in names(server)


def test_an_unknown_model_is_404_and_a_name_that_is_none_is_400(server: Server) -> None:
    assert (ask(server, "nobody").status, ask(server, "nobody").code) == (404, "model_not_found")
    reply = ask(server, "../a")
    assert (reply.status, reply.code) == (400, "bad_request")
    assert TARGET in reply.json()["error"]["message"]


def test_without_the_header_and_without_a_default_the_answer_names_the_header(server: Server) -> None:
    reply = ask(server, None)
    assert reply.status == 400
    assert TARGET in reply.json()["error"]["message"]


def test_a_path_that_nobody_serves_is_404_where_no_model_could_take_it(server: Server) -> None:
    reply = call(server, "POST", "/nowhere", {})
    assert (reply.status, reply.code) == (404, "not_found")


def test_whatever_bytes_the_header_has_the_store_is_not_left(server: Server) -> None:
    rng = random.Random(7)
    alphabet = [b"..", b"/", b"\\", b"%2f", b"%2e", b"a", b"\xc3\xbc", b"~", b"\x7f", b"a" * 300, b"\t", b"team"]
    for _ in range(150):
        value = b"".join(rng.choices(alphabet, k=rng.randint(1, 6)))
        head = b"POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nconnection: close\r\n"
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(head + TARGET.encode() + b": " + value + b"\r\n\r\n{}")
            status = int(connection.makefile("rb").readline().split()[1])
        assert status in ((200, 400, 404) if value.strip() in (b"a", b"") else (400, 404)), value
    assert server.ping() == 200


def test_the_only_model_of_a_store_or_the_default_answers_without_the_header(tmp_path: Path) -> None:
    add_model(tmp_path, "only")
    with serving(tmp_path, model_store=tmp_path) as server:
        assert ask(server, None).json()["name"] == "only"
        add_model(tmp_path, "other")
        eventually(lambda: ask(server, None).status == 400)
    with serving(tmp_path, model_store=tmp_path, default_model="other") as server:
        assert ask(server, None).json()["name"] == "other"


def test_a_store_or_a_name_in_the_settings_that_is_not_there_ends_the_start(tmp_path: Path) -> None:
    for settings in ({"model_store": tmp_path / "no"}, {"model_store": tmp_path, "preload": "nobody"}):
        server = Server(tmp_path, **settings)
        assert server.wait(20) == 1
        assert "no" in server.raw[-1]


def test_a_hundred_first_requests_make_one_load(tmp_path: Path) -> None:
    add_model(tmp_path, "a", seconds=0.5, count=str(tmp_path / "loads"))
    with serving(tmp_path, model_store=tmp_path) as server, ThreadPoolExecutor(100) as pool:
        replies = list(pool.map(lambda id: ask(server, "a", {"id": id}), range(100)))
        assert [reply.json()["id"] for reply in replies] == list(range(100))
        assert len((tmp_path / "loads").read_text().split()) == 1


def test_a_load_that_outlasts_the_request_is_503_and_goes_on(tmp_path: Path) -> None:
    add_model(tmp_path, "slow", seconds=2.5)
    add_model(tmp_path, "quick")
    with serving(tmp_path, model_store=tmp_path, request_timeout=1) as server:
        started = time.monotonic()
        reply = ask(server, "slow")
        assert (reply.status, reply.code) == (503, "model_loading")
        assert 0.9 < time.monotonic() - started < 2, "it is told before the load is over"
        assert "Retry-After" in {name.title() for name in reply.headers}
        assert ask(server, "quick").status == 200, "others do not wait"
        eventually(lambda: ask(server, "slow").status == 200)


def test_the_least_recently_used_model_goes_and_its_memory_is_back(tmp_path: Path) -> None:
    for name in "abc":
        add_model(tmp_path, name, megabytes=100)
    with serving(tmp_path, model_store=tmp_path, max_models=2) as server:
        for name in "ab":
            assert ask(server, name).status == 200
        [first], [second] = pids(server, "a"), pids(server, "b")
        assert memory_of(first).private > 100_000_000
        eventually(lambda: get(server, "b").json()["idleSeconds"] > 1.1)
        assert ask(server, "a").status == 200
        eventually(lambda: get(server, "a").json()["idleSeconds"] > 1.1)
        before = memory_of(first).private + memory_of(second).private
        assert ask(server, "c").status == 200
        assert names(server) == ["a", "c"]
        assert not is_alive(second)
        [third] = pids(server, "c")
        assert memory_of(first).private + memory_of(third).private < before + 20_000_000
        eventually(lambda: server.lines(message="evicting", model="b"))


def test_the_budget_in_bytes_counts_what_models_really_take(tmp_path: Path) -> None:
    """Their files are small, so that only measuring can tell."""
    for name in "abc":
        add_model(tmp_path, name, megabytes=150)
    with serving(tmp_path, model_store=tmp_path, host_memory="640MiB") as server:
        for name in "abc":
            assert ask(server, name).status == 200
            eventually(lambda name=name: get(server, name).json()["idleSeconds"] > 1.1)
        assert names(server) == ["b", "c"]
    with serving(tmp_path, model_store=tmp_path, host_memory="300MiB") as server:
        reply = ask(server, "a")
        assert (reply.status, reply.code) == (507, "out_of_memory"), "it is remembered what it takes"
        assert "MiB for models" in reply.json()["error"]["message"]
        assert names(server) == []


def test_a_pinned_and_a_preloaded_model_stay(tmp_path: Path) -> None:
    add_model(tmp_path, "a", toml="pin = true")
    add_model(tmp_path, "b")
    add_model(tmp_path, "c")
    with serving(tmp_path, model_store=tmp_path, max_models=2, pin="b", preload="a,b") as server:
        assert names(server) == ["a", "b"]
        reply = ask(server, "c")
        assert (reply.status, reply.code) == (507, "out_of_memory")
        assert "2 of 2 models" in reply.json()["error"]["message"]
        assert call(server, "PATCH", "/models/b", {"pin": False}).status == 200
        eventually(lambda: ask(server, "c").status == 200)
        assert names(server) == ["a", "c"]


def test_a_model_that_is_to_be_preloaded_twice_is_loaded_once(tmp_path: Path) -> None:
    add_model(tmp_path, "a", count=str(tmp_path / "loads"))
    with serving(tmp_path, model_store=tmp_path, preload="a,a") as server:
        assert ask(server, "a").status == 200
        assert len((tmp_path / "loads").read_text().split()) == 1
        assert server.stop() == 0
        assert not [line for line in server.raw if "Traceback" in line or "KeyError" in line]


def test_a_preloaded_model_that_fails_is_an_error_of_the_log_and_the_others_are_served(tmp_path: Path) -> None:
    add_model(tmp_path, "good")
    add_model(tmp_path, "bad", error="ValueError")
    with serving(tmp_path, model_store=tmp_path, preload="bad,good") as server:
        [line] = eventually(lambda: server.lines(message="a model could not be loaded"))
        assert (line["level"], line["model"]) == ("error", "bad")
        assert re.search(r"ValueError: .*\.py:\d+ in \w+\)", line["error"])
        assert ask(server, "good").status == 200
        assert ask(server, "bad").status == 503
        again = eventually(lambda: server.lines(message="a model could not be loaded"))
        assert {one["level"] for one in again[1:]} <= {"warning"}


def test_a_model_with_work_is_not_evicted(tmp_path: Path) -> None:
    for name in "ab":
        add_model(tmp_path, name)
    with serving(tmp_path, model_store=tmp_path, max_models=1) as server, ThreadPoolExecutor() as pool:
        assert ask(server, "a").status == 200
        long = pool.submit(ask, server, "a", {"sleep": 2.5, "id": "long"})
        eventually(lambda: get(server, "a").json()["idleSeconds"] > 1.1)
        waits = pool.submit(ask, server, "b", {"id": "waits"})
        assert long.result().json()["id"] == "long"
        assert waits.result().json()["id"] == "waits"
        assert names(server) == ["b"]


def test_two_models_have_their_own_code_and_environment(tmp_path: Path) -> None:
    for name in ("x", "y"):
        code = tmp_path / name / "code"
        code.mkdir(parents=True)
        (code / "utils.py").write_text(f"NAME = {name!r}")
        (code / "inference.py").write_text(
            "import json, os, utils\n"
            "def model_fn(model_dir): return model_dir\n"
            "def transform_fn(model, data, content_type, accept):\n"
            "    return json.dumps([utils.NAME, os.environ['WHO'], os.path.basename(model)])\n"
        )
        (tmp_path / name / "serving.toml").write_text(f'[env]\nWHO = "{name}"')
    with serving(tmp_path, model_store=tmp_path) as server:
        for name in ("x", "y", "x"):
            assert ask(server, name).json() == [name, name, name]


@pytest.mark.slow
def test_a_broken_neighbour_does_not_slow_a_healthy_model(tmp_path: Path) -> None:
    """One crashes at every request, one cannot even load, one hangs: no request to the healthy one waits for them."""
    add_model(tmp_path, "healthy")
    add_model(tmp_path, "crashing")
    add_model(tmp_path, "unloadable", error="crash")
    add_model(tmp_path, "hanging")
    hang = 2.0
    with serving(tmp_path, model_store=tmp_path, request_timeout=hang) as server, ThreadPoolExecutor() as pool:
        assert ask(server, "healthy").status == 200
        give_up = time.monotonic() + 6
        bad = {"crashing": {"do": "crash"}, "unloadable": {}, "hanging": {"sleep": 60}}

        def torment(name: str) -> set[int]:
            seen = set()
            while time.monotonic() < give_up:
                seen.add(ask(server, name, bad[name]).status)
            return seen

        torments = [pool.submit(torment, name) for name in bad]
        seconds = []
        while time.monotonic() < give_up:
            started = time.monotonic()
            assert ask(server, "healthy").status == 200
            seconds.append(time.monotonic() - started)
            time.sleep(0.02)
        crashing, unloadable, hanging = (one.result() for one in torments)
        # 504: one that crashes all the time waits a little for its next process.
        assert crashing <= {500, 504}
        assert (unloadable, hanging) == ({503}, {504})
        assert max(seconds) < hang / 2, "who waits for one that hangs or its end waits for longer"
        assert sorted(seconds)[len(seconds) // 2] < hang / 20


def test_a_broken_archive_is_400_with_a_line_in_the_log(tmp_path: Path) -> None:
    (tmp_path / "bad.tar.gz").write_bytes(b"\x1f\x8b broken")
    with serving(tmp_path, model_store=tmp_path) as server:
        reply = ask(server, "bad")
        assert (reply.status, reply.code) == (400, "bad_archive")
        eventually(lambda: server.lines(message="a model could not be loaded", model="bad", code="bad_archive"))


def test_a_changed_model_is_loaded_beside_the_old_one_and_no_request_fails(tmp_path: Path) -> None:
    add_model(tmp_path, "a", seconds=0.3, name="old")
    with serving(tmp_path, model_store=tmp_path, reload="on-change") as server, ThreadPoolExecutor(8) as pool:
        assert ask(server, "a").json()["name"] == "old"
        stop = time.monotonic() + 30
        seen: list[str] = []

        def keep_asking() -> None:
            while time.monotonic() < stop and "new" not in seen[-50:]:
                reply = ask(server, "a")
                assert reply.status == 200, reply
                seen.append(reply.json()["name"])

        asking = [pool.submit(keep_asking) for _ in range(4)]
        [before] = pids(server, "a")
        add_model(tmp_path, "a", seconds=0.3, name="new")
        for one in asking:
            one.result()
        assert {"old", "new"} == set(seen)
        eventually(lambda: not is_alive(before))

        add_model(tmp_path, "a", error="broken weights")
        eventually(lambda: ask(server, "a").status == 200 and get(server, "a").json()["error"], 15)
        assert "broken weights" in get(server, "a").json()["error"]
        assert ask(server, "a").json()["name"] == "new"
        add_model(tmp_path, "a", name="newest")
        eventually(lambda: ask(server, "a").json()["name"] == "newest", 15)
        assert get(server, "a").json()["error"] is None


@pytest.mark.slow
def test_a_request_that_holds_the_interpreter_while_its_model_is_replaced_runs_once(tmp_path: Path) -> None:
    add_model(tmp_path, "a", name="old")
    with serving(tmp_path, model_store=tmp_path, reload="on-change") as server, ThreadPoolExecutor() as pool:
        assert ask(server, "a").json()["name"] == "old"
        [before] = pids(server, "a")
        add_model(tmp_path, "a", name="new")
        held = pool.submit(ask, server, "a", {"do": "hold", "seconds": 6})
        eventually(lambda: ask(server, "a").json()["name"] == "new", 15)
        assert held.result().json()["name"] == "old"
        eventually(lambda: not is_alive(before))


def test_a_dead_worker_whose_socket_somebody_else_holds_is_given_up(server: Server) -> None:
    started = time.monotonic()
    reply = ask(server, "b", {"do": "leave-a-child", "seconds": 8})
    assert (reply.status, reply.code) == (500, "worker_died")
    assert time.monotonic() - started < 7, "twice it is known after two seconds, and not when its child ends"
    assert ask(server, "b").status == 200


def test_a_changed_archive_is_unpacked_beside_the_old_one(tmp_path: Path) -> None:
    store = tmp_path / "store"
    pack(add_model(store, "a", name="old"), ".tar.gz")
    with serving(store, model_store=store, reload="on-change") as server:
        assert ask(server, "a").json()["name"] == "old"
        pack(add_model(tmp_path, "a", name="new"), ".tar.gz").replace(store / "a.tar.gz")
        eventually(lambda: ask(server, "a").json()["name"] == "new", 15)


def test_requests_go_to_all_replicas_and_get_tells_of_each(tmp_path: Path) -> None:
    add_model(tmp_path, "a", toml="replicas = 2")
    with serving(tmp_path, model_store=tmp_path) as server, ThreadPoolExecutor(8) as pool:
        assert ask(server, "a").status == 200
        server.wait_replicas(2)
        replies = list(pool.map(lambda _: ask(server, "a", {"sleep": 0.05}), range(16)))
        assert len({reply.json()["pid"] for reply in replies}) == 2
        eventually(lambda: get(server, "a").json()["queued"] == 0)  # replicas write it down four times a second
        told = get(server, "a").json()
        assert (told["state"], told["managedBy"]) == ("ready", "store")
        assert [replica["device"] for replica in told["replicas"]] == ["cpu", "cpu"]
        assert told["bytes"] >= sum(replica["memory"] for replica in told["replicas"])
        eventually(lambda: sum(one["completed"] for one in get(server, "a").json()["replicas"]) == 17)


def test_a_model_that_crashes_after_it_was_loaded_is_restarted(server: Server) -> None:
    [before] = [ask(server, "b").json()["pid"]]
    assert ask(server, "b", {"do": "crash"}).code == "worker_died"
    assert ask(server, "b").json()["pid"] != before


def test_ping_is_200_without_any_model_and_a_stop_loses_nothing(tmp_path: Path) -> None:
    store = tmp_path / "store"
    add_model(store, "a")
    with serving(store, model_store=store) as server, ThreadPoolExecutor() as pool:
        assert server.ping() == 200
        ask(server, "a")
        gate = Gate(tmp_path / "gate")
        long = pool.submit(ask, server, "a", {"gate": gate.path, "id": 1})
        gate.wait_reached()
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: server.lines(message="the server is draining"))
        gate.open()
        assert server.wait() == 0
        assert long.result().json()["id"] == 1


def test_serving_models_speaks_to_a_running_server(server: Server) -> None:
    import subprocess
    import sys

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "serving", "models", "--url", f"http://127.0.0.1:{server.port}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    unload(server, "team/c")
    assert run("load", "team/c").returncode == 0
    assert run("pin", "team/c").returncode == 0
    listed = run("list").stdout
    assert [line.split()[:2] for line in listed.splitlines() if line.startswith("team/c")] == [["team/c", "ready"]]
    assert '"pinned": true' in run("list", "--json").stdout
    assert run("unload", "team/c").returncode == 0
    failed = run("unload", "team/c")
    assert (failed.returncode, "404 model_not_loaded" in failed.stderr) == (1, True)
    assert "already_loaded" in (ask(server, "a") and run("load", "a").stderr)


def test_a_client_that_leaves_during_a_load_costs_nothing(tmp_path: Path) -> None:
    add_model(tmp_path, "a", seconds=0.5)
    with serving(tmp_path, model_store=tmp_path) as server:

        async def leave() -> None:
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(
                f"POST /invocations HTTP/1.1\r\nhost: x\r\n{TARGET}: a\r\ncontent-length: 2\r\n\r\n{{}}".encode()
            )
            await writer.drain()
            await asyncio.sleep(0.2)
            writer.close()

        asyncio.run(leave())
        assert ask(server, "a").status == 200
        assert load(server, "a").status == 409
        assert os.getpid() not in pids(server, "a")
