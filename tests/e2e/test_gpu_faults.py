"""What becomes of workers whose device fails, and of those that may see one GPU alone; the GPUs are a fake driver's."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from serving.ipc.faults import EXIT_HARDWARE, EXIT_STICKY
from tests.e2e.client import once
from tests.e2e.gate import Gate
from tests.e2e.server import Server, eventually, model_folder, serving


@pytest.mark.parametrize("spares", [0, 1])
def test_one_that_loses_its_context_is_replaced_and_the_innocent_are_answered(
    faulty_folder: Path, tmp_path: Path, spares: int
) -> None:
    gate = Gate(tmp_path / "gate")

    async def run(server: Server) -> None:
        slow = asyncio.create_task(once(server.port, {"do": "wait", "gate": gate.path, "id": "slow"}))
        await asyncio.to_thread(gate.wait_reached)
        innocent = [asyncio.create_task(once(server.port, {"id": n})) for n in range(4)]
        guilty = asyncio.create_task(once(server.port, {"do": "exit", "code": EXIT_STICKY}))
        await asyncio.to_thread(eventually, lambda: server.metric("requests_queued") == 5)
        gate.open()
        assert [(await one).json()["id"] for one in innocent] == [0, 1, 2, 3]
        assert (await slow).json()["id"] == "slow"
        assert (await guilty).code == "worker_died"
        started = time.monotonic()
        assert (await once(server.port, {"id": "after"})).status == 200
        assert time.monotonic() - started < 1.0, "at once"

    with serving(faulty_folder, request_timeout=20, spares=spares) as server:
        if spares:
            eventually(lambda: server.lines(message="a spare is ready"))
        asyncio.run(run(server))
        causes = {line["cause"] for line in server.lines(message="a worker ended")}
        assert causes == {"exit code 74: its CUDA context was lost"}
        assert server.ping() == 200


def test_without_a_gpu_nothing_is_taken_out(faulty_folder: Path) -> None:
    with serving(faulty_folder) as server:
        asyncio.run(once(server.port, {"do": "exit", "code": EXIT_HARDWARE}))
        assert asyncio.run(once(server.port, {"id": 1})).status == 200
        assert server.lines(message="a worker ended")[0]["cause"] == "exit code 75: its GPU failed"
        assert not server.lines(message="a GPU is taken out")


class FakeServer(Server):
    """The server with two fake GPUs, of which no worker can open one."""

    module = ("tests.e2e.fakegpus",)

    def report(self, gpu: str, code: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{gpu} {code}\n")
        self.process.stdin.flush()


@pytest.mark.parametrize("index", [0, 1])
def test_a_worker_sees_its_own_gpu_alone_before_any_of_its_code_runs(tmp_path: Path, index: int) -> None:
    server = FakeServer(model_folder(tmp_path, "sighted:Sighted", f'device = "cuda:{index}"\n'), spares=0)
    try:
        assert server.wait(20) == 1, "no worker can open such a GPU, and says so"
        # One whose end is heard of before its reason is tried again.
        assert {line["message"] for line in server.lines(stream="stdout")} == {f"sees 'GPU-{index}'"}
        [end] = [line for line in server.log if line["message"].startswith("cannot serve")]
        assert "device is cuda:0" in end["message"], "which is what it calls its own"
    finally:
        server.leave()


def test_one_model_has_a_replica_on_each_gpu_and_spares_see_the_same(tmp_path: Path) -> None:
    """No worker can open a fake GPU, and one that was not told to insist uses the CPU instead."""
    server = FakeServer(model_folder(tmp_path, "sighted:Sighted"))
    try:
        server.wait_ready().wait_replicas(2)
        eventually(lambda: len(server.lines(message="a spare is ready")) == 2)
        workers = set(server.workers())
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: len(server.lines(message="a spare takes over")) == 2)
        taken = {line["worker"]: line["device"] for line in server.lines(message="a spare takes over")}
        assert sorted(taken.values()) == ["cuda:0", "cuda:1"]
        seen = {line["pid"]: line["message"] for line in server.lines(stream="stdout")}
        assert sorted(seen[pid] for pid in workers) == ["sees 'GPU-0'", "sees 'GPU-1'"]
        eventually(lambda: len(server.lines(stream="stdout")) == 4)
        seen = {line["pid"]: line["message"] for line in server.lines(stream="stdout")}
        assert all(seen[pid] == f"sees 'GPU-{taken[pid][5:]}'" for pid in taken)
    finally:
        server.leave()


def test_a_worker_on_the_cpu_sees_no_gpu_at_all(tmp_path: Path) -> None:
    server = FakeServer(model_folder(tmp_path, "sighted:Sighted", 'device = "cpu"\n'), spares=1)
    try:
        server.wait_ready()
        answer = asyncio.run(once(server.port, [1]))
        assert answer.json() == {"sees": ""}
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/ping", timeout=5) as ping:
            assert json.load(ping)["replicas"]["wanted"] == 1, "one on each GPU is for models that are on GPUs"
    finally:
        server.leave()


def test_a_model_whose_gpu_is_not_there_ends_the_start_with_one_line(tmp_path: Path) -> None:
    server = FakeServer(model_folder(tmp_path, "sighted:Sighted", 'device = "cuda:2"\n'))
    try:
        assert server.wait(20) == 1
        [line] = [line for line in server.log if line["level"] == "error"]
        assert "device is cuda:2, but this server sees cuda:0, cuda:1" in line["message"]
    finally:
        server.leave()


def test_broken_gpus_leave_a_store_and_with_the_last_one_ping_is_503(tmp_path: Path) -> None:
    server = FakeServer(tmp_path, model_store=tmp_path, spares=0)
    try:
        server.wait_ready()
        eventually(lambda: server.lines(message="the budget is set"))
        assert server.lines(message="the budget is set")[0]["devices"].keys() == {"cuda:0", "cuda:1"}
        server.report("cuda:0", 13)
        eventually(lambda: server.lines(message="the driver reports an error of a GPU", xid=13))
        server.report("cuda:0", 79)
        line = eventually(lambda: server.lines(message="a GPU is taken out"))[0]
        assert (line["device"], line["reason"]) == ("cuda:0", "Xid 79: it fell off the bus")
        assert server.ping() == 200
        server.report("cuda:1", 48)
        eventually(lambda: server.ping() == 503)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"http://127.0.0.1:{server.port}/ping", timeout=5)
        assert "cuda:1 was taken out: Xid 48" in json.loads(caught.value.read())["reason"]
    finally:
        server.leave()
