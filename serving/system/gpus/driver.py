"""Driver: the interface to the GPUs for the supervisor and for a worker's memory accounts. No CUDA, no torch.

Its methods may block for as long as the driver does, which can be long with a broken GPU: the supervisor calls them
from a thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU that this server may use, or a MIG instance of one. ``name`` is ``cuda:N``, counted over those alone;
    ``visible`` is its name in ``CUDA_VISIBLE_DEVICES``. ``total`` and ``free`` are bytes, 0 where unknown.
    """

    name: str
    visible: str
    total: int = 0
    free: int = 0


@dataclass(frozen=True, slots=True)
class Xid:
    """An error of a GPU that the driver reports, by its number in NVIDIA's catalogue."""

    gpu: str
    code: int


class Driver(Protocol):
    """The driver of this machine's GPUs."""

    def gpus(self) -> list[Gpu]:
        """Return the GPUs that are there now, with their memory. A lost one is left out; the others keep their
        names.
        """
        ...

    def held(self, gpu: str) -> Mapping[int, int] | None:
        """Return the bytes that each process holds on a GPU, its CUDA context included, by pid; None where unknown."""
        ...

    def utilisation(self, gpu: str) -> int | None:
        """Return the percentage of recent time in which something ran on a GPU; None where unknown."""
        ...

    def xids(self) -> list[Xid]:
        """Return the errors reported since the last call. Never waits for more."""
        ...

    def close(self) -> None: ...


class NoGpus:
    """The driver of a machine without GPUs, or without any that can be detected."""

    def gpus(self) -> list[Gpu]:
        return []

    def held(self, gpu: str) -> Mapping[int, int] | None:
        return None

    def utilisation(self, gpu: str) -> int | None:
        return None

    def xids(self) -> list[Xid]:
        return []

    def close(self) -> None:
        return None
