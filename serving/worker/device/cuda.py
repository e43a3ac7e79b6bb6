"""Cuda: one NVIDIA GPU."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from serving.ipc.faults import Fault
from serving.system import gpus, log
from serving.system.devicefaults import fault_of
from serving.system.gpus.driver import Driver
from serving.worker.device.recorder import Recorder
from serving.worker.device.trees import map_tensors

STAYS = 64 << 20  # bytes of a model that may stay on the GPU once its weights have left
FULL = 64 << 20  # free bytes below which a device counts as full
CONTEXT = 512 << 20  # bytes; what a CUDA context takes where it cannot be measured


@dataclass(frozen=True, slots=True)
class Copy:
    """Outputs on their way to the host. ``event`` fires when the copy ends."""

    outputs: Any
    event: Any

    def done(self) -> bool:
        return bool(self.event.query())  # raises an error of the device, even before any wait

    def wait(self) -> Any:
        self.event.synchronize()
        return self.outputs


class Cuda:
    runs_ahead = True

    def __init__(self, name: str) -> None:
        self.name = name
        self._recorder = Recorder(name, self._try)

    def open(self, threads: int, tf32: bool = True) -> None:
        import torch

        torch.set_num_threads(threads)
        set_tf32(tf32)
        torch.cuda.set_device(self.name)
        torch.cuda.synchronize()

    def prime(self) -> None:
        import torch

        with torch.inference_mode():
            ones = torch.ones(1, 8, 8, 8, device=self.name, dtype=torch.float16)
            torch.nn.functional.conv2d(ones @ ones, ones)
            torch.cuda.synchronize(self.name)
        del ones
        self.free()

    def fetch(self, outputs: Any) -> Copy:
        import torch

        # On the stream that computes: a model may return the same memory each time, as a replayed graph does, so the
        # copy has to end before the next batch begins.
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        outputs = map_tensors(to_host, outputs)
        event.record()
        return Copy(outputs, event)

    def capture(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        return self._recorder.record(function)

    def fault(self, exc: BaseException) -> Fault:
        found = fault_of(exc)
        return probe(self._try, self._room) if found is None else found

    def _try(self) -> None:
        import torch

        one = torch.ones(1, device=self.name)
        if float(one + one) != 2.0:
            raise RuntimeError("one and one is not two")

    def _room(self) -> int:
        import torch

        return int(torch.cuda.mem_get_info(self.name)[0])

    def free(self) -> None:
        import torch

        torch.cuda.empty_cache()
        empty_host_cache()

    def held(self) -> int:
        import torch

        measured = (driver().held(self.name) or {}).get(os.getpid())  # a container may hide the pids
        return measured or torch.cuda.memory_reserved(self.name) + CONTEXT

    def evacuate(self) -> Callable[[], None] | None:
        import torch

        from serving.system.pinned import Pages
        from serving.worker.device.evacuation import Evacuation

        started = time.monotonic()
        torch.cuda.synchronize(self.name)
        pages = Pages(torch.cuda.cudart())  # type: ignore[no-untyped-call]
        leaving = Evacuation(torch.device(self.name), pages.allocate)
        try:
            leaving.leave(torch.cuda.synchronize)
        except RuntimeError as exc:
            log.warning("the model's weights cannot leave the GPU", error=str(exc))
            pages.free()
            return None
        if (clear := getattr(torch._C, "_cuda_clearCublasWorkspaces", None)) is not None:
            clear()
        torch.cuda.empty_cache()
        stays = torch.cuda.memory_allocated(self.name)
        if stays > STAYS:
            log.warning("some of the model's memory cannot leave the GPU", bytes=stays)
            return None

        seconds = round(time.monotonic() - started, 4)
        log.info("the model's weights are on the host", bytes=leaving.size, seconds=seconds)

        def come_back() -> None:
            leaving.come_back(torch.cuda.synchronize)
            # Freeing takes longer than the copy, and nothing depends on it.
            threading.Thread(target=pages.free, name="pages", daemon=True).start()

        return come_back


@functools.cache
def driver() -> Driver:
    """Return the driver as this process sees it, with the GPUs that ``CUDA_VISIBLE_DEVICES`` shows."""
    return gpus.find()


def set_tf32(wanted: bool) -> None:
    """Set TF32 for matrix products, where torch's default is full precision, and for convolutions, where it is TF32."""
    import torch

    torch.set_float32_matmul_precision("high" if wanted else "highest")
    torch.backends.cudnn.allow_tf32 = wanted


def empty_host_cache() -> None:
    """Free pinned host memory, which torch otherwise keeps for ever."""
    import torch

    # The first name is that of newer releases.
    places = ((torch.accelerator, "empty_host_cache"), (torch._C, "_host_emptyCache"))
    found = next((function for place, name in places if (function := getattr(place, name, None)) is not None), None)
    if found is not None:
        found()


def to_host(tensor: Any) -> Any:
    """Return a copy in pinned memory, complete once the stream has reached it."""
    import torch

    if not tensor.is_cuda or tensor.layout is not torch.strided:
        return tensor
    tensor = resolved(tensor)
    host = torch.empty_like(tensor, device="cpu", pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def resolved(tensor: Any) -> Any:
    """Return the tensor without lazy conjugate or negation, which the host would resolve before the
    copy is complete.
    """
    return tensor.detach().resolve_conj().resolve_neg()


def probe(attempt: Callable[[], None], room: Callable[[], int]) -> Fault:
    """Return what is wrong with a device that has just failed; ``attempt`` runs the smallest computation on it.

    ``room`` returns the free bytes: libraries that could not allocate memory do not always say so.
    """
    try:
        attempt()
        return Fault.MEMORY if room() < FULL else Fault.NONE
    except BaseException as exc:
        found = fault_of(exc)
        # A device too full for one number is full; any other failure of something so small means that it is lost.
        return found if found in (Fault.MEMORY, Fault.HARDWARE) else Fault.STICKY
