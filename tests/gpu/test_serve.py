"""A model on the GPU: it loads, it answers in batches, and nobody but its worker touches the device."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.e2e.client import once
from tests.e2e.server import Server, serving
from tests.e2e.test_lifecycle import opened
from tests.gpu.nvml import driver


def test_batches_are_answered_from_the_device_and_outputs_are_on_the_host(server: Server) -> None:
    async def run() -> None:
        answers = await asyncio.gather(*(once(server.port, {"n": n}) for n in range(64)))
        found = [answer.json() for answer in answers]
        assert [one["double"] for one in found] == [2.0 * n for n in range(64)]
        assert {one["on"] for one in found} == {"cpu"}

    asyncio.run(run())


def test_a_worker_sees_one_device(server: Server) -> None:
    assert asyncio.run(once(server.port, {"n": 1})).json()["visible"] == 1


def uses_cuda(pid: int) -> bool:
    """CUDA opens this node when it is initialised; NVML, by which the supervisor looks at GPUs, does not."""
    return "/dev/nvidia-uvm" in opened(pid)


def test_only_the_worker_has_initialised_cuda(chip: Path) -> None:
    """The supervisor asks NVML, which with some drivers maps the library of CUDA; it initialises it with none."""
    with serving(chip, device="cuda:0", spares=0) as server:
        asyncio.run(once(server.port, {"n": 1}))
        supervisor = server.process.pid
        assert {pid for pid in server.children() if uses_cuda(pid)} == set(server.workers())
        held = driver().held("cuda:0") or {}
        assert supervisor not in held
