"""Calls of user code and the supervisor: one that hangs is ended in its time whatever goes on beside it, one that is
only slow never."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from tests.e2e.client import Answer, Client, once
from tests.e2e.server import Server, eventually, model_folder, serving

TIMEOUT = 1.0  # seconds
MOST = 1.2  # seconds beyond it until a call that hangs has ended
ID = "X-Amzn-SageMaker-Session-Id"
SETTINGS = {"stream_idle_timeout": 1}


def folder(tmp_path: Path, name: str, batch: str = "max_size = 4", timeout: float = TIMEOUT) -> Path:
    return model_folder(tmp_path, f"pausing:{name}", f"timeout_s = {timeout}\n[batch]\n{batch}\n")


@pytest.fixture(scope="module")
def pausing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(folder(tmp_path_factory.mktemp("pausing"), "Pausing"), **SETTINGS) as server:
        yield server


def kills(server: Server) -> int:
    return len(server.lines(message="ending a worker"))


async def session(port: int) -> str:
    answer = await once(port, {}, **{ID: "NEW_SESSION"})
    assert answer.status == 200, answer
    return answer.headers["x-amzn-sagemaker-session-id"].partition(";")[0]


@contextlib.asynccontextmanager
async def hanging(port: int, at: str) -> AsyncIterator[asyncio.Task[object]]:
    """One call that hangs there."""
    if at == "converse":
        async with connect(f"ws://127.0.0.1:{port}/invocations-bidirectional-stream") as socket:
            await socket.send("go")
            yield asyncio.create_task(asyncio.sleep(0))
        return
    headers = {ID: await session(port)} if at == "close" else {}
    async with Client(port) as client:
        task: asyncio.Task[object] = asyncio.create_task(client.invoke({"at": at}, **headers))
        yield task
        await asyncio.wait({task}, timeout=5)
        task.cancel()


def seconds_until_killed(server: Server, at: str, traffic: float = 20.0) -> float:
    """How long it takes until the worker with a call that hangs is ended, beside ``traffic`` good requests a second."""

    async def run() -> float:
        before = kills(server)
        async with hanging(server.port, at):
            began = time.monotonic()
            good: list[asyncio.Task[Answer]] = []
            while kills(server) == before:
                assert time.monotonic() < began + 8 * TIMEOUT, f"{at} is not ended"
                good.append(asyncio.create_task(once(server.port, {})))
                await asyncio.sleep(1 / traffic)
            took = time.monotonic() - began
        answers = await asyncio.gather(*good)
        assert {answer.status for answer in answers} <= {200, 503, 504}
        assert max(answer.seconds for answer in answers) < TIMEOUT + 1.0
        return took

    took = asyncio.run(run())
    eventually(lambda: asyncio.run(once(server.port, {})).status == 200)
    return took


@pytest.mark.parametrize(
    "at", ["decode", "batch", "encode", "close", "first", "later", "async first", "async later", "converse"]
)
def test_a_call_that_hangs_is_ended_in_its_time_whatever_comes_after_it(pausing: Server, at: str) -> None:
    took = seconds_until_killed(pausing, at)
    print(f"{at}: ended after {took:.2f} s")
    assert 0.8 * TIMEOUT < took < TIMEOUT + MOST


@pytest.mark.parametrize("threads", [1, 2])
def test_a_decode_thread_that_hangs_is_ended_while_others_work(tmp_path: Path, threads: int) -> None:
    place = folder(tmp_path, "Threaded", "max_size = 32")
    code = place / "code" / "pausing.py"
    code.write_text(code.read_text().replace("decode_threads = 2", f"decode_threads = {threads}"))
    with serving(place) as server:
        took = seconds_until_killed(server, "decode", traffic=40.0)
    print(f"{threads} threads: ended after {took:.2f} s")
    assert took < TIMEOUT + MOST


def test_a_session_whose_opening_hangs_is_ended_in_its_time(tmp_path: Path) -> None:
    with serving(folder(tmp_path, "Opens")) as server:
        began = time.monotonic()
        answer = asyncio.run(once(server.port, {}, **{ID: "NEW_SESSION"}))
        eventually(lambda: kills(server))
        assert answer.status == 504
        assert time.monotonic() - began < TIMEOUT + MOST


def test_a_call_that_begins_just_before_its_requests_deadline_costs_no_sessions(tmp_path: Path) -> None:
    async def run(port: int) -> list[int]:
        mine = await session(port)
        first = asyncio.create_task(once(port, {"at": "batch", "seconds": 1.5}))
        await asyncio.sleep(0.1)
        second = asyncio.create_task(once(port, {"at": "batch", "seconds": 1.2}))
        found = [(await first).status, (await second).status]
        return [*found, (await once(port, {}, **{ID: mine})).status]

    with serving(folder(tmp_path, "Pausing", "max_size = 1", timeout=2.0)) as server:
        assert asyncio.run(run(server.port)) == [200, 504, 200]
        assert kills(server) == 0


def test_a_stream_is_not_cut_since_another_one_has_not_begun(tmp_path: Path) -> None:
    async def run(port: int) -> tuple[Answer, bytes]:
        stuck = asyncio.create_task(once(port, {"at": "stuck"}))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        body = b'{"at": "async later", "seconds": 1.3, "n": 2}'
        writer.write(
            b"POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )
        async with asyncio.timeout(10):
            said = await reader.read()
        writer.close()
        return await stuck, said

    with serving(folder(tmp_path, "Pausing"), stream_idle_timeout=5) as server:
        stuck, said = asyncio.run(run(server.port))
        assert stuck.status == 504
        assert said.count(b"ok") == 2
        assert said.endswith(b"0\r\n\r\n")
        assert kills(server) == 0


@pytest.mark.slow
def test_more_load_than_can_be_carried_costs_only_what_is_too_much(tmp_path: Path) -> None:
    """Five times as much as a model can do that takes a sixth of its time-out."""
    seconds, timeout, load = 0.2, 1.2, 5.0

    async def run(port: int) -> list[tuple[float, Answer]]:
        found: list[tuple[float, Answer]] = []
        dice, began = random.Random(3), time.monotonic()

        async def one() -> None:
            answer = await once(port, {"at": "batch", "seconds": seconds})
            found.append((time.monotonic() - began, answer))

        tasks = []
        while time.monotonic() < began + 5 * timeout:
            tasks.append(asyncio.create_task(one()))
            await asyncio.sleep(dice.expovariate(load / seconds))
        await asyncio.gather(*tasks)
        return found

    with serving(folder(tmp_path, "Pausing", "max_size = 1", timeout)) as server:
        found = asyncio.run(run(server.port))
        assert kills(server) == 0
    late = [answer for at, answer in found if timeout < at < 5 * timeout]
    refused = [answer for answer in late if answer.status == 503]
    good = sum(answer.status == 200 for answer in late)
    print(f"{good} of {4 * timeout / seconds:.0f} that could be were answered, {len(refused)} refused")
    assert good > 0.6 * 4 * timeout / seconds
    assert {answer.status for answer in late} <= {200, 503, 504}
    assert {answer.code for answer in refused} == {"overloaded"}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert len(refused) > 0.8 * (len(late) - good)
    assert sorted(answer.seconds for answer in refused)[len(refused) // 2] < 0.3, "most are refused at once"


KINDS = ("decode", "batch", "encode", "close", "first", "later", "end", "async first", "async later")


async def slow_calls(port: int, seed: int, count: int) -> list[int]:
    """A client that asks for calls which take nearly all of their time, one after the other, until so many were
    answered."""
    dice, found = random.Random(seed), list[int]()
    for number in itertools.takewhile(lambda _: found.count(200) < count, itertools.count()):
        if 503 in found[-1:]:
            await asyncio.sleep(0.1)
        at, seconds = KINDS[(seed + number) % len(KINDS)], dice.uniform(0.7, 0.9) * TIMEOUT
        if at == "end":
            found.append(await leave_within_a_stream(port, seconds))
            continue
        headers = {}
        if at == "close":
            answer = await once(port, {}, **{ID: "NEW_SESSION"})
            if answer.status != 200:
                found.append(answer.status)
                continue
            headers = {ID: answer.headers["x-amzn-sagemaker-session-id"].partition(";")[0]}
        found.append((await once(port, {"at": at, "seconds": seconds, "n": 1}, **headers)).status)
    return found


async def leave_within_a_stream(port: int, seconds: float) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = b'{"at": "end", "seconds": %g, "n": 50, "between": 0.02}' % seconds
    writer.write(b"POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
    status = int((await reader.readuntil(b"\r\n")).split()[1])
    if status == 200:
        await reader.readuntil(b"ok")
    writer.transport.abort()
    return status


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_of_a_thousand_calls_that_are_only_slow_none_is_killed(tmp_path: Path) -> None:
    """Of all kinds, by turns on a few workers, so that many wait for others as long as they may."""
    clients, calls, workers = 20, 50, 10

    async def run(port: int) -> list[int]:
        found = await asyncio.gather(*(slow_calls(port, seed, calls) for seed in range(clients)))
        return [status for one in found for status in one]

    place = folder(tmp_path, "Pausing", "max_size = 1", timeout=TIMEOUT)
    with serving(place, replicas=workers, stream_idle_timeout=1) as server:
        found = asyncio.run(run(server.port))
        print({status: found.count(status) for status in sorted(set(found))})
        assert found.count(200) >= 1000
        assert kills(server) == 0
        assert len(server.lines(message="a worker ended")) == 0
