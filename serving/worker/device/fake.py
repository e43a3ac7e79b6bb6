"""FakeDevice: a GPU for tests, with limited memory and failures on demand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from serving.ipc.faults import Fault
from serving.system.devicefaults import fault_of
from serving.worker.device.cuda import probe
from serving.worker.device.evacuation import Evacuation
from serving.worker.device.trees import map_tensors


@dataclass(eq=False)
class FakeLanding:
    """Outputs on their way. A test calls ``finish`` for the hardware; ``wait`` and ``done`` raise its error."""

    outputs: Any
    device: FakeDevice
    is_done: bool = False
    error: BaseException | None = None
    asked: int = 0

    def done(self) -> bool:
        self.asked += 1
        if self.asked > self.device.takes:
            self.is_done = True
        if self.is_done and self.error is not None:
            raise self.error
        return self.is_done

    def finish(self, error: BaseException | None = None) -> None:
        self.is_done, self.error = True, error

    def wait(self) -> Any:
        if not self.is_done:
            self.device.on_wait(self)
        if self.error is not None:
            raise self.error
        return self.outputs


def finish_now(landing: FakeLanding) -> None:
    landing.finish()


@dataclass
class FakeDevice:
    """A device that runs ahead of the host, and fails where a field says so.

    ``capacity`` is the most samples in a batch; beyond it ``allocate`` raises, and memory that is ``kept`` for reuse
    counts against it. ``lost`` is raised by every call once the context is gone. ``on_wait`` stands for the time that
    passes while the host waits; ``takes`` is the number of looks until a batch is done. ``stays``: something cannot
    leave the device. ``unrecordable`` is raised by each recording. ``room`` are the free bytes.
    """

    name: str = "cuda:0"
    runs_ahead: bool = True
    capacity: int = 1 << 30
    kept: int = 0
    lost: BaseException | None = None
    on_wait: Callable[[FakeLanding], None] = finish_now
    takes: float = float("inf")
    threads: int = 0
    landings: list[FakeLanding] = field(default_factory=list)
    probes: int = 0
    room: int = 1 << 40
    captures: int = 0
    unrecordable: BaseException | None = None
    pool: list[list[Any]] = field(default_factory=list)
    stays: bool = False
    evacuated: int = 0

    def open(self, threads: int, tf32: bool = True) -> None:
        self.threads = threads

    def prime(self) -> None:
        """Do nothing: there are no libraries."""

    def capture(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """Record; each replay overwrites the first outputs, as a graph does, and zeroes those of other graphs."""
        if self.unrecordable is not None:
            raise self.unrecordable
        self.captures += 1
        first: list[Any] = []
        outputs = map_tensors(lambda tensor: tensor.clone(), function())
        map_tensors(first.append, outputs)
        self.pool.append(first)

        def replay() -> None:
            for tensor in (tensor for other in self.pool for tensor in other):
                tensor.zero_()
            again: list[Any] = []
            map_tensors(again.append, function())
            for own, tensor in zip(first, again, strict=True):
                own.copy_(tensor)

        return replay, outputs

    def allocate(self, samples: int) -> None:
        """Take memory for a batch, as a handler's ``predict`` does first."""
        if self.lost is not None:
            raise self.lost
        if samples + self.kept > self.capacity:
            raise torch.OutOfMemoryError("out of memory")

    def fetch(self, outputs: Any) -> FakeLanding:
        landing = FakeLanding(outputs, self)
        self.landings.append(landing)
        return landing

    def fault(self, exc: BaseException) -> Fault:
        found = fault_of(exc)
        return probe(self._try, lambda: self.room) if found is None else found

    def _try(self) -> None:
        self.probes += 1
        if self.lost is not None:
            raise self.lost

    def free(self) -> None:
        self.kept = 0

    def held(self) -> int:
        return self.kept

    def evacuate(self) -> Callable[[], None] | None:
        """Move the host's own tensors, which stand for those of a device."""
        if self.stays:
            return None
        leaving = Evacuation(torch.device("cpu"), lambda size: torch.empty(size, dtype=torch.uint8))
        leaving.leave(lambda: None)
        self.evacuated = leaving.size
        return lambda: leaving.come_back(lambda: None)
