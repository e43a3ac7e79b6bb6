"""A worker whose device is lost is replaced, and only the request that broke it fails. On a machine without a GPU the
handler raises what torch raises when a kernel's assert has failed."""

from __future__ import annotations

import asyncio
from pathlib import Path

from serving.ipc.faults import EXIT_STICKY
from tests.e2e.client import once
from tests.e2e.server import eventually, model_folder, serving
from tests.e2e.test_conversations import close_of, talk


def test_a_lost_context_costs_only_the_request_that_broke_it(tmp_path: Path) -> None:
    async def run(port: int) -> None:
        bodies = [{"id": n} for n in range(8)]
        bodies.insert(4, {"do": "device-assert"})
        answers = await asyncio.gather(*(once(port, body) for body in bodies))
        broken = answers.pop(4)
        assert (broken.status, broken.code) == (500, "worker_died")
        assert [(one.status, one.json()["id"]) for one in answers] == [(200, n) for n in range(8)]
        assert (await once(port, {"id": "after"})).status == 200

    with serving(model_folder(tmp_path, "faulty:Faulty", "[batch]\nmax_delay_ms = 100"), request_timeout=10) as server:
        asyncio.run(run(server.port))
        ended = eventually(lambda: len(found := server.lines(message="a worker ended")) == 2 and found)
        assert {line["cause"] for line in ended} == {f"exit code {EXIT_STICKY}: its CUDA context was lost"}
        assert server.lines(message="the device is lost to this process")[0]["fault"] == "sticky"


def test_a_conversation_that_loses_the_context_ends_its_worker_and_the_next_one_goes_well(tmp_path: Path) -> None:
    with serving(model_folder(tmp_path, "talker:Talker")) as server:
        assert close_of(server, "!device-assert")[0] == 1011
        [ended] = eventually(lambda: server.lines(message="a worker ended"))
        assert ended["cause"] == f"exit code {EXIT_STICKY}: its CUDA context was lost"
        with talk(server) as one:
            one.send("hello")
            assert one.recv(timeout=10) == "hello"
