"""Bus: the interface to a device that weights are copied to. The unit tests have one that copies late."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch

from serving.system.pinned import Pages


class Mark(Protocol):
    """A point in the device's work, such as a CUDA event."""

    def query(self) -> bool:
        """Return at once whether the device has reached it. Raises RuntimeError for an error of the device."""
        ...


class Bus(Protocol):
    """The device and its copies. Only one thread calls these, all within ``use``."""

    def use(self) -> AbstractContextManager[object]:
        """Context in which the device is the calling thread's current one."""
        ...

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return an uninitialised tensor on the device. Raises torch.OutOfMemoryError."""
        ...

    def find(self, size: int) -> torch.Tensor:
        """Return ``size`` bytes of host memory. Raises OSError where there are none."""
        ...

    def pin(self, chunk: torch.Tensor) -> None:
        """Pin memory from ``find`` for the device, with its content. Raises RuntimeError."""
        ...

    def free(self) -> None:
        """Free all memory from ``find``. No copy may still read it."""
        ...

    def begin(self) -> None:
        """Let copies wait for earlier work on the device, which may still use memory that they write to."""
        ...

    def copy(self, pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Mark:
        """Copy bytes from the second tensor of each pair to the first, after all earlier copies.

        Returns at once, with the mark of their end.
        """
        ...


class Cuda:
    """An NVIDIA GPU, with a separate stream for the copies."""

    def __init__(self, name: str) -> None:
        index = torch.device(name).index
        self._device = torch.device("cuda", torch.cuda.current_device() if index is None else index)
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._pages = Pages(torch.cuda.cudart())  # type: ignore[no-untyped-call]

    def use(self) -> AbstractContextManager[object]:
        return torch.cuda.device(self._device)

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(tuple(shape), dtype=dtype, device=self._device)

    def find(self, size: int) -> torch.Tensor:
        return self._pages.find(size)

    def pin(self, chunk: torch.Tensor) -> None:
        try:
            self._pages.pin(chunk)
        except RuntimeError:
            # CUDA would report the error to the next kernel launch: let this one take it.
            with contextlib.suppress(RuntimeError):
                torch.ones(1, device=self._device)
            raise

    def free(self) -> None:
        self._pages.free()

    def begin(self) -> None:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))

    def copy(self, pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Mark:
        with torch.cuda.stream(self._stream):
            for target, source in pairs:
                target.copy_(source, non_blocking=True)
            event: Mark = self._stream.record_event()
            return event
