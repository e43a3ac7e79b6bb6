"""One NVIDIA GPU."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from serving import gpus, log
from serving.faults import Fault
from serving.gpus.driver import Driver
from serving.worker.device.faults import fault_of
from serving.worker.device.trees import map_tensors

WARMUPS = 3  # runs before one is recorded
STAYS = 64 << 20  # bytes that may be left of a model whose weights are on the host
CONTEXT = 512 << 20  # bytes; what a CUDA context takes where it cannot be measured


@dataclass(frozen=True, slots=True)
class Copy:
    """``event`` is when the copy to the host ends."""

    outputs: Any
    event: Any

    def done(self) -> bool:
        return bool(self.event.query())  # raises what went wrong on the device, even if nobody has waited yet

    def wait(self) -> Any:
        self.event.synchronize()
        return self.outputs


class Cuda:
    runs_ahead = True

    def __init__(self, name: str) -> None:
        self.name = name

    def open(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        torch.cuda.set_device(self.name)
        torch.cuda.synchronize()

    def fetch(self, outputs: Any) -> Copy:
        import torch

        # On the stream that computes: a model may give the same memory back each time, as a replayed graph does, so the
        # copy has to be over before the next batch begins.
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        outputs = map_tensors(to_host, outputs)
        event.record()
        return Copy(outputs, event)

    def capture(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        import torch

        # What is done on first use, such as workspaces and tuning, must not be part of the graph.
        side = torch.cuda.Stream(self.name)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self.name))
        with torch.cuda.stream(side):
            for _ in range(WARMUPS):
                function()
        torch.cuda.current_stream(self.name).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = function()
        return graph.replay, outputs

    def fault(self, exc: BaseException) -> Fault:
        found = fault_of(exc)
        return probe(self._try) if found is None else found

    def _try(self) -> None:
        import torch

        one = torch.ones(1, device=self.name)
        if float(one + one) != 2.0:
            raise RuntimeError("one and one is not two")

    def free(self) -> None:
        import torch

        torch.cuda.empty_cache()

    def held(self) -> int:
        import torch

        measured = (driver().held(self.name) or {}).get(os.getpid())  # a container may hide which process is which
        return measured or torch.cuda.memory_reserved(self.name) + CONTEXT

    def evacuate(self) -> Callable[[], None] | None:
        import torch

        from serving.worker.device.evacuation import Evacuation

        torch.cuda.synchronize(self.name)
        leaving = Evacuation(torch.device(self.name))
        try:
            leaving.leave(torch.cuda.synchronize)
        except RuntimeError as exc:
            log.warning("the model's weights cannot leave the GPU", error=str(exc))
            return None
        if (clear := getattr(torch._C, "_cuda_clearCublasWorkspaces", None)) is not None:
            clear()
        torch.cuda.empty_cache()
        stays = torch.cuda.memory_allocated(self.name)
        if stays > STAYS:
            log.warning("some of the model's memory cannot leave the GPU", bytes=stays)
            return None

        def come_back() -> None:
            leaving.come_back(torch.cuda.synchronize)
            if (empty := getattr(torch.accelerator, "empty_host_cache", None)) is not None:  # newer ones have it
                empty()

        return come_back


@functools.cache
def driver() -> Driver:
    """Of this process, which sees what ``CUDA_VISIBLE_DEVICES`` shows it."""
    return gpus.find()


def to_host(tensor: Any) -> Any:
    """A copy in pinned memory, which is there once the stream has come so far."""
    import torch

    if not tensor.is_cuda or tensor.layout is not torch.strided:
        return tensor
    tensor = resolved(tensor)
    host = torch.empty_like(tensor, device="cpu", pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def resolved(tensor: Any) -> Any:
    """Without a lazy conjugate or negative, which would be resolved on the host at once, before the copy has come."""
    return tensor.detach().resolve_conj().resolve_neg()


def probe(attempt: Callable[[], None]) -> Fault:
    """Whether a device that has just failed still computes; ``attempt`` has it do the least that it can."""
    try:
        attempt()
    except BaseException as exc:
        found = fault_of(exc)
        # A device too full for one number is full; any other failure of something so small means that it is lost.
        return found if found in (Fault.MEMORY, Fault.HARDWARE) else Fault.STICKY
    return Fault.NONE
