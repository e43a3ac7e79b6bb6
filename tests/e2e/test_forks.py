"""A child that user code forks ends where it comes back from it; the parent's request is answered as if it were not."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.e2e.client import Answer, Client, once
from tests.e2e.server import Server, eventually, model_folder, serving
from tests.e2e.test_sessions import ID

WAYS = {"return": 0, "raise": 1, "refuse": 1, "exit": 7, "end": 9, "multiprocessing": 0, "subprocess": 7}
PLACES = ("decode", "bucket", "collate", "predict", "split", "encode")


@pytest.fixture(scope="module", params=[0, 2])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    toml = f"timeout_s = 10\n[options]\nthreads = {request.param}\n"
    folder = model_folder(tmp_path_factory.mktemp("forker"), "forker:Forker", toml)
    with serving(folder, http_workers=1) as one:
        yield one


def is_well(server: Server) -> None:
    """One process has answered all, nothing of it is left behind, and nothing was complained about."""
    [worker] = server.workers()
    eventually(lambda: not server.children(worker))
    assert not [line for line in server.log if line["level"] in ("warning", "error")]
    pids = {asyncio.run(once(server.port, {})).json()["pid"] for _ in range(5)}
    assert pids == {worker}


def test_wherever_it_comes_back_from_one_process_answers(server: Server) -> None:
    async def run() -> list[tuple[str, str, Answer]]:
        wishes = [(at, how) for at in PLACES for how in WAYS]
        async with Client(server.port) as client:
            return [(at, how, await client.invoke({"at": at, "how": how})) for at, how in wishes]

    asyncio.run(once(server.port, {}))  # takes what the load has noted
    before = asyncio.run(once(server.port, {})).json()["calls"]
    for number, (at, how, answer) in enumerate(asyncio.run(run()), before + 1):
        assert answer.status == 200, (at, how, answer)
        # A Process that was started on a thread of a pool fails to join that thread at its own end, anywhere.
        if how != "multiprocessing" or at not in ("decode", "bucket"):
            assert answer.json()["status"] == [WAYS[how]], (at, how)
        assert answer.json()["calls"] == number, (at, how)
    is_well(server)


def test_beside_others_in_a_batch(server: Server) -> None:
    async def run() -> None:
        for at in PLACES:
            bodies: list[dict[str, Any]] = [{}, {"at": at, "how": "raise"}, {}, {"at": at, "how": "return"}]
            answers = await asyncio.gather(*(once(server.port, body) for body in bodies))
            assert [answer.status for answer in answers] == [200] * 4, at

    asyncio.run(run())
    is_well(server)


@pytest.mark.parametrize("kind", ["stream", "async"])
def test_in_an_answer_in_pieces(server: Server, kind: str) -> None:
    async def read(how: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        body = f'{{"at": "{kind}", "how": "{how}"}}'.encode()
        head = f"POST /invocations HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        whole = await asyncio.wait_for(reader.read(), 15)
        writer.close()
        return whole

    for how in WAYS:
        assert re.search(rb"\r\n1\r\na\r\n2\r\nb\d\r\n0\r\n\r\n$", asyncio.run(read(how))), how
    is_well(server)


def test_in_what_a_handler_hears_of_sessions(server: Server) -> None:
    async def run() -> None:
        opened = await once(server.port, {"requestType": "NEW_SESSION"})
        assert opened.status == 200, opened
        closed = await once(server.port, {"requestType": "CLOSE"}, **{ID: opened.json()["session_id"]})
        assert closed.status == 200, closed

    asyncio.run(run())
    asyncio.run(once(server.port, {}))
    is_well(server)


def test_in_a_conversation(server: Server) -> None:
    url = f"ws://127.0.0.1:{server.port}/invocations-bidirectional-stream"
    with connect(url, compression=None) as one, connect(url, compression=None) as other:
        for how, status in WAYS.items():
            one.send(how)
            assert one.recv(timeout=10) == str(status), how
            other.send("end")
            assert other.recv(timeout=10) == "9"
    is_well(server)


@pytest.mark.parametrize("how", ["return", "raise", "exit"])
def test_while_the_model_is_loaded_and_warmed_up(tmp_path: Path, how: str) -> None:
    with serving(model_folder(tmp_path, "forker:Forker", f'[options]\nhow = "{how}"\n'), http_workers=1) as server:
        assert asyncio.run(once(server.port, {})).json()["status"] == [WAYS[how]] * 2
        is_well(server)
