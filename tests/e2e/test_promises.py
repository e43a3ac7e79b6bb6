"""The promises of the README, each against the real server as processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.client import Answer, Client, once, read_answer
from tests.e2e.gate import Gate
from tests.e2e.server import Server, eventually, is_alive, model_folder, pss, serving

TIME = 3.0  # seconds of a request beside one that hangs
CLOSED = (ConnectionError, asyncio.IncompleteReadError)


async def at(seconds: float, port: int, body: object) -> tuple[float, Answer]:
    await asyncio.sleep(seconds)
    sent = time.monotonic()
    return sent, await once(port, body)


def test_bounded_a_hang_in_c_gets_its_504_in_time_and_nobody_else_is_lost(faulty_folder: Path) -> None:
    async def run(server: Server) -> None:
        port = server.port
        hang = asyncio.create_task(at(0, port, {"do": "spin"}))
        others = [asyncio.create_task(at(0.1 * n, port, {"id": n})) for n in range(1, 36)]
        _, answer = await hang
        assert (answer.status, answer.code) == (504, "deadline_exceeded")
        assert answer.seconds < 2 * TIME
        [line] = await asyncio.to_thread(eventually, lambda: server.lines(message="ending a worker"))
        killed = time.monotonic()
        after = await once(port, {"id": "after"})
        revived = time.monotonic()
        assert after.status == 200
        assert revived - killed < start / 2, "the replacement is there far sooner than a whole server"
        assert line["reason"] == "a call of its handler took too long"
        saved = 0
        for n, (sent, other) in enumerate(await asyncio.gather(*others), 1):
            if sent + TIME >= revived + TIME / 2:
                assert (other.status, other.json()["id"]) == (200, n)
                saved += sent < killed
            else:
                assert other.status in (200, 503, 504), "503 where there is no time left for an answer"
            assert other.seconds < 2 * TIME
        assert saved, "some were sent while it hung, and had the time left"

    began = time.monotonic()
    with serving(faulty_folder, request_timeout=TIME) as server:
        start = time.monotonic() - began
        asyncio.run(run(server))
        [ended] = eventually(lambda: server.lines(message="a worker ended"))
        assert ended["cause"] == "signal SIGABRT"
        assert "in one\n" in ended["stacks"], "the log names the line that hung"


def test_bounded_a_hang_in_python_is_ended_likewise(faulty_folder: Path) -> None:
    async def run(port: int) -> None:
        answer = await once(port, {"do": "sleep", "seconds": 60})
        assert answer.status == 504
        assert answer.seconds < 2
        after = await once(port, {"id": 1})
        assert after.status == 200

    with serving(faulty_folder, request_timeout=1) as server:
        asyncio.run(run(server.port))


@pytest.mark.parametrize("body", [{"do": "decode-sleep"}, {"id": "encode-spin"}])
def test_bounded_the_steps_around_the_model_are_bounded_as_well(faulty_folder: Path, body: object) -> None:
    async def run(port: int) -> None:
        assert (await once(port, body)).status == 504
        assert (await once(port, {"id": 1})).status == 200

    with serving(faulty_folder, request_timeout=1) as server:
        asyncio.run(run(server.port))


def test_bounded_a_body_that_trickles_in_is_given_up_at_the_deadline(faulty_folder: Path) -> None:
    async def run(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        started = time.monotonic()
        writer.write(b"POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nabc")
        answer = await read_answer(reader, "POST", started)
        assert (answer.status, answer.code) == (504, "deadline_exceeded")
        assert answer.seconds < 2
        writer.close()

    with serving(faulty_folder, request_timeout=1) as server:
        asyncio.run(run(server.port))


def test_bounded_a_stopped_worker_that_lets_requests_expire_is_replaced(faulty_folder: Path) -> None:
    async def run(server: Server) -> None:
        first = (await once(server.port, {"id": 0})).json()["pid"]
        os.kill(first, signal.SIGSTOP)
        answer = await once(server.port, {"id": 1})
        assert (answer.status, answer.code) == (504, "deadline_exceeded")
        await asyncio.to_thread(eventually, lambda: server.lines(message="ending a worker"), 5)
        after = await once(server.port, {"id": 2})
        assert after.status == 200
        assert after.json()["pid"] != first

    with serving(faulty_folder, request_timeout=1) as server:
        asyncio.run(run(server))


def test_truthful_ping_answers_within_100_ms_while_the_worker_is_stopped(faulty_folder: Path) -> None:
    async def run(server: Server) -> None:
        [worker] = server.workers()
        os.kill(worker, signal.SIGSTOP)
        hung = asyncio.create_task(once(server.port, {"id": 1}))
        async with Client(server.port) as client:
            for _ in range(50):
                assert (await client.ping()).seconds < 0.1
        os.kill(worker, signal.SIGCONT)
        assert (await hung).status == 200

    with serving(faulty_folder) as server:
        asyncio.run(run(server))


def test_truthful_ping_is_503_until_the_model_is_loaded_and_names_the_phase(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "faulty:Faulty", "[options]\nload_seconds = 1.5\n")
    server = Server(folder)
    try:
        seen = []

        async def watch() -> None:
            async with Client(server.port) as client:
                while not seen or seen[-1] != (200, "ready"):
                    answer = await client.ping()
                    state = (answer.status, answer.json()["status"])
                    if state not in seen:
                        seen.append(state)
                    await asyncio.sleep(0.005)

        asyncio.run(asyncio.wait_for(watch(), 20))
        assert seen[0] == (503, "starting")
        assert (503, "loading") in seen
    finally:
        server.stop()


def test_one_bad_request_hurts_only_itself(faulty_folder: Path) -> None:
    """Batches of good and bad requests: each answer is its own, also where the bad one ends the process."""
    bad = [
        ({"do": "raise"}, 500, "handler_error"),
        ({"do": "lose"}, 500, "handler_error"),
        ({"do": "teapot"}, 418, "handler_error"),
        ({"do": "memory"}, 507, "out_of_memory"),
        ({"do": "sys-exit"}, 500, "handler_error"),
        ({"do": "segfault"}, 500, "worker_died"),
        ({"do": "decode-crash"}, 500, "worker_died"),
        ({"do": "exit"}, 500, "worker_died"),
        (b"{", 400, "bad_request"),
        ([1], 400, "bad_request"),
    ]

    async def run(port: int) -> None:
        for body, status, code in bad:
            # Something slow first, so that the others gather behind it and share a batch with the bad one.
            slow = asyncio.create_task(once(port, {"do": "sleep", "seconds": 0.2, "id": "slow"}))
            await asyncio.sleep(0.05)
            good = [asyncio.create_task(once(port, {"id": n})) for n in range(8)]
            answer = await once(port, body)
            assert (answer.status, answer.code) == (status, code), body
            for n, task in enumerate(good):
                assert ((await task).status, (await task).json().get("id")) == (200, n), body
            assert (await slow).json()["id"] == "slow"

    with serving(faulty_folder, request_timeout=20) as server:
        asyncio.run(run(server.port))
        assert not [line for line in server.raw if not line.startswith("{")], "every line of the log is JSON"


def test_errors_to_clients_hold_no_traceback_and_the_log_has_it_under_the_same_id(faulty_folder: Path) -> None:
    with serving(faulty_folder) as server:
        answer = asyncio.run(once(server.port, {"do": "raise"}))
        error = answer.json()["error"]
        assert set(error) == {"code", "message", "request_id"}
        assert len(answer.body) < 1024
        assert b"secret" not in answer.body
        assert b"Traceback" not in answer.body
        [line] = eventually(
            lambda: server.lines(request_id=error["request_id"], message="a request failed in the handler")
        )
        assert "a secret of the handler" in line["traceback"]


@pytest.mark.parametrize("seconds", [10.0, pytest.param(30.0, marks=pytest.mark.slow)])
def test_never_crossed_every_answer_belongs_to_its_request_while_workers_are_killed(
    faulty_folder: Path, seconds: float
) -> None:
    """64 clients, good and bad requests mixed, while workers get SIGKILL at random."""
    clients = 64
    counts: Counter[str] = Counter()
    allowed = {"handler_error", "worker_died", "bad_request", "out_of_memory", "deadline_exceeded", "queue_full"}
    kinds: list[tuple[object, str]] = [
        ({"do": "raise"}, "500"),
        ({"do": "teapot"}, "418"),
        ({"do": "memory"}, "507"),
        ({"do": "lose"}, "500"),
        (b"[", "400"),
    ]

    async def client(number: int, port: int, end: float) -> None:
        rng = random.Random(number)
        async with Client(port) as connection:
            sequence = 0
            while time.monotonic() < end:
                sequence += 1
                if rng.random() < 0.15:
                    body, expected = rng.choice(kinds)
                    answer = await connection.invoke(body)
                    assert str(answer.status) == expected or answer.code in ("worker_died", "queue_full")
                    assert answer.code in allowed
                    counts[answer.code] += 1
                    continue
                id = f"{number}-{sequence}"
                answer = await connection.invoke({"id": id})
                if answer.status == 200:
                    assert answer.json()["id"] == id, "crossed"
                    counts["ok"] += 1
                else:
                    assert answer.code in ("worker_died", "queue_full"), answer.body
                    counts[answer.code] += 1
                assert answer.seconds < 10.5

    async def killer(server: Server, end: float) -> None:
        rng = random.Random(0)
        while time.monotonic() < end - 1:
            await asyncio.sleep(rng.uniform(0.3, 1.5))
            workers = await asyncio.to_thread(server.workers)
            if workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rng.choice(workers), signal.SIGKILL)
                    counts["killed"] += 1

    async def run(server: Server) -> None:
        end = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            group.create_task(killer(server, end))
            for number in range(clients):
                group.create_task(client(number, server.port, end))

    with serving(faulty_folder, request_timeout=10, replicas=2) as server:
        asyncio.run(run(server))
        print(dict(counts))
        assert counts["killed"] >= 5
        assert counts["ok"] > 1000
        # A request is lost to a kill only if two kills hit it, each while it ran.
        assert counts["worker_died"] <= counts["killed"]


def test_nothing_lost_on_stop_sigterm_under_load(faulty_folder: Path) -> None:
    """Every request that was sent before the SIGTERM gets its answer; then the server is gone, with exit code 0."""

    async def client(port: int, stop: asyncio.Event, results: Counter[str]) -> None:
        sequence = 0
        while not stop.is_set():
            async with Client(port) as connection:
                sequence += 1
                results["asked"] += 1
                answer = await connection.invoke({"do": "sleep", "seconds": 0.05, "id": sequence})
                assert (answer.status, answer.json().get("id")) == (200, sequence), answer.body
                results["200"] += 1

    async def run(server: Server) -> Counter[str]:
        stop, results = asyncio.Event(), Counter[str]()
        tasks = [asyncio.create_task(client(server.port, stop, results)) for _ in range(32)]
        await asyncio.sleep(2)
        stop.set()

        async def is_accepted() -> bool:
            """All that was asked before is with the server."""
            async with Client(server.port) as connection:
                lines = (await connection.request("GET", "/metrics")).body.decode().splitlines()
            [count] = [line.split()[1] for line in lines if line.startswith("serving_requests_in_flight ")]
            return int(count) >= results["asked"] - results["200"]

        async with asyncio.timeout(10):
            while not await is_accepted():
                pass
        server.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*tasks)
        return results

    with serving(faulty_folder, request_timeout=20) as server:
        children = server.children()
        results = asyncio.run(run(server))
        assert server.wait(10) == 0
        assert results["200"] > 50
        assert server.lines(message="closed the faulty one"), "close() of the handler has run"
        assert not [pid for pid in children if is_alive(pid)]


def test_nothing_lost_on_stop_ping_says_503_while_accepted_work_is_finished(
    faulty_folder: Path, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate")

    async def run(server: Server) -> None:
        slow = asyncio.create_task(once(server.port, {"do": "wait", "gate": gate.path, "id": "slow"}))
        await asyncio.to_thread(gate.wait_reached)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(eventually, lambda: server.lines(message="the server is draining"))
        async with Client(server.port) as client:
            ping = await client.ping()
            assert (ping.status, ping.json()["status"]) == (503, "draining")
            assert ping.headers["connection"] == "close"
        refused = await once(server.port, {"id": 1})
        assert (refused.status, refused.code) == (503, "draining")
        assert "retry-after" in refused.headers
        gate.open()
        assert (await slow).json()["id"] == "slow"

    with serving(faulty_folder) as server:
        asyncio.run(run(server))
        assert server.wait(5) == 0


def test_a_second_signal_leaves_at_once(faulty_folder: Path, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")

    async def run(server: Server) -> None:
        slow = asyncio.create_task(once(server.port, {"do": "wait", "gate": gate.path}))
        await asyncio.to_thread(gate.wait_reached)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(eventually, lambda: server.lines(message="the server is draining"))
        server.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.wait, 5) == 128 + signal.SIGTERM, "the first would let it go on for 25 s"
        with contextlib.suppress(*CLOSED):
            await slow

    with serving(faulty_folder) as server:
        children = server.children()
        asyncio.run(run(server))
        eventually(lambda: not [pid for pid in children if is_alive(pid)])


def test_memory_comes_back_when_a_leaking_worker_ends(faulty_folder: Path) -> None:
    async def leak(port: int) -> int:
        answer = await once(port, {"do": "leak", "megabytes": 300})
        return int(answer.json()["pid"])

    def total(server: Server) -> int:
        found = 0
        for pid in server.children():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                found += pss(pid)
        return found

    with serving(faulty_folder) as server:
        before = total(server)
        worker = asyncio.run(leak(server.port))
        # Other tests share pages with this server for a while, so that its part of them changes.
        assert total(server) > before + 200_000_000
        os.kill(worker, signal.SIGKILL)
        eventually(lambda: worker not in server.children())
        server.wait_ready()
        assert total(server) < before + 100_000_000


def test_no_pickle_from_the_wire(tmp_path: Path) -> None:
    """An npy body that holds a pickle is a 400, and what it would run does not run."""
    import io
    import pickle

    import numpy as np

    touched = tmp_path / "touched"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {touched}",)

    buffer = io.BytesIO()
    np.save(buffer, np.array([Evil()], dtype=object), allow_pickle=True)
    folder = model_folder(tmp_path, "faulty:Faulty")
    with serving(folder) as server:
        for content_type, body in (
            ("application/x-npy", buffer.getvalue()),
            ("application/x-npy", pickle.dumps(Evil())),
        ):
            answer = asyncio.run(once(server.port, body, content_type=content_type))
            assert answer.status == 400, answer.body
        answer = asyncio.run(once(server.port, pickle.dumps(Evil()), content_type="application/python-pickle"))
        assert answer.status == 415
    assert not touched.exists()


def test_a_worker_lost_twice_by_strangers_hands_is_told_so(faulty_folder: Path) -> None:
    async def run(port: int) -> None:
        answer = await once(port, {"do": "segfault"})
        assert json.loads(answer.body)["error"]["code"] == "worker_died"

    with serving(faulty_folder) as server:
        asyncio.run(run(server.port))
        ended = eventually(lambda: two if len(two := server.lines(message="a worker ended")) == 2 else None)
        assert [line["cause"] for line in ended] == ["signal SIGSEGV"] * 2, "once together, once alone"
