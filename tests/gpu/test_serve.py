"""A model on the GPU: it loads, it answers in batches, and nobody but its worker touches the device."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.e2e.client import once
from tests.e2e.server import Server


def test_batches_are_answered_from_the_device_and_outputs_are_on_the_host(server: Server) -> None:
    async def run() -> None:
        answers = await asyncio.gather(*(once(server.port, {"n": n}) for n in range(64)))
        found = [answer.json() for answer in answers]
        assert [one["double"] for one in found] == [2.0 * n for n in range(64)]
        assert {one["on"] for one in found} == {"cpu"}

    asyncio.run(run())


def test_a_worker_sees_one_device(server: Server) -> None:
    assert asyncio.run(once(server.port, {"n": 1})).json()["visible"] == 1


def test_only_the_worker_has_the_driver_mapped(server: Server) -> None:
    asyncio.run(once(server.port, {"n": 1}))
    workers = set(server.workers())
    for pid in {server.process.pid, *server.children(server.process.pid)}:
        maps = Path(f"/proc/{pid}/maps").read_text()
        opened = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
        uses = "libcuda.so" in maps or any(name.startswith("/dev/nvidia") and name[11:12].isdigit() for name in opened)
        assert uses == (pid in workers), f"process {pid}"
