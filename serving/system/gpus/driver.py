"""Driver: the border to the GPUs as the supervisor and a worker's accounts see it. No CUDA, no torch.

Its verbs may block for as long as the driver does, which a broken GPU can make long: the supervisor asks from a thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Gpu:
    """One that this server may use, or one MIG instance of it. ``name`` is ``cuda:N``, counted over those alone;
    ``visible`` is how ``CUDA_VISIBLE_DEVICES`` names it. Bytes are 0 where they cannot be told.
    """

    name: str
    visible: str
    total: int = 0
    free: int = 0


@dataclass(frozen=True, slots=True)
class Xid:
    """An error that the driver reports of a GPU, by its number in NVIDIA's catalogue."""

    gpu: str
    code: int


class Driver(Protocol):
    def gpus(self) -> list[Gpu]:
        """Those that there are now, with their memory. One that is lost is left out; the others keep their names."""
        ...

    def held(self, gpu: str) -> Mapping[int, int] | None:
        """Bytes that each process holds there, its CUDA context included, by pid; None where that cannot be told."""
        ...

    def utilisation(self, gpu: str) -> int | None:
        """Percent of the last moments in which something ran there; None where that cannot be told."""
        ...

    def xids(self) -> list[Xid]:
        """What was reported since the last look. Never waits for more."""
        ...

    def close(self) -> None: ...


class NoGpus:
    """A machine without any that we could tell of."""

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
