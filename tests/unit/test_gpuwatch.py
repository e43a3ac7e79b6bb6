"""The watch over the GPUs goes on whatever a look comes to, and says so once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping

import pytest

from serving.supervisor.fleet.devices import Look
from serving.supervisor.watch.gpuwatch import GpuWatch
from serving.system.gpus.driver import Gpu, NoGpus

FAULTS = (OSError("the driver is being reloaded"), RuntimeError("no more memory"), KeyError("cuda:0"))
GPU = Gpu("cuda:0", "GPU-a", 100, 100)


class Faulty(NoGpus):
    """A driver with one GPU whose looks fail ``faults`` times in a row, then work."""

    def __init__(self, faults: int) -> None:
        self.faults = faults
        self.looks = 0
        self.main = threading.get_ident()

    def gpus(self) -> list[Gpu]:
        if threading.get_ident() == self.main:
            return [GPU]
        self.looks += 1
        if self.looks <= self.faults:
            raise FAULTS[self.looks % len(FAULTS)]
        return [GPU]

    def held(self, name: str) -> Mapping[int, int] | None:
        return {}


@pytest.mark.parametrize("faults", [0, 1, 3])
def test_a_look_that_fails_is_followed_by_others(faults: int, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Look] = []

    async def run() -> None:
        came = asyncio.Event()

        def deliver(look: Look) -> None:
            seen.append(look)
            came.set()

        watch = GpuWatch(Faulty(faults), deliver)
        watch.hurry(True)
        watch.start()
        try:
            await asyncio.wait_for(came.wait(), 10)
        finally:
            watch.close()

    asyncio.run(run())
    assert list(seen[0].gpus) == ["cuda:0"]
    assert caplog.text.count("cannot be looked at") == min(1, faults)
