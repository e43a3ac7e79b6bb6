"""Host: the CPU; and Mps, whose memory is the host's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from serving.ipc.faults import Fault
from serving.system.devicefaults import fault_of


@dataclass(frozen=True, slots=True)
class Landed:
    outputs: Any

    def done(self) -> bool:
        return True

    def wait(self) -> Any:
        return self.outputs


class Host:
    name = "cpu"
    runs_ahead = False
    capture = None

    def open(self, threads: int, tf32: bool = True) -> None:
        import torch

        torch.set_num_threads(threads)

    def prime(self) -> None:
        """Do nothing: the libraries are loaded."""

    def fetch(self, outputs: Any) -> Landed:
        return Landed(outputs)

    def fault(self, exc: BaseException) -> Fault:
        return fault_of(exc) or Fault.NONE

    def free(self) -> None:
        """Do nothing: the host's allocator frees by itself."""

    def held(self) -> int:
        return 0

    def evacuate(self) -> Callable[[], None]:
        """Do nothing: all tensors are in host memory already."""
        return lambda: None


class Mps(Host):
    """Apple's GPU, whose memory is the host's."""

    name = "mps"

    def fetch(self, outputs: Any) -> Landed:
        from serving.worker.device.trees import map_tensors

        return Landed(map_tensors(lambda tensor: tensor.cpu(), outputs))

    def free(self) -> None:
        import torch

        torch.mps.empty_cache()

    def held(self) -> int:
        import torch

        return int(torch.mps.driver_allocated_memory())
