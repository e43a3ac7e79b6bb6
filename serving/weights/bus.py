"""Bus: the border to a device that weights are copied to. The unit tests have one that copies late."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch

from serving.system.pinned import Pages


class Mark(Protocol):
    """A place in the device's work, as an event of CUDA is one."""

    def query(self) -> bool:
        """Whether the device has come so far, at once. Raises RuntimeError for what went wrong there."""
        ...


class Bus(Protocol):
    """Only one thread calls these, and all of them within ``use``."""

    def use(self) -> AbstractContextManager[object]:
        """Make the device that of the calling thread."""
        ...

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """A tensor on the device, filled with anything. Raises torch.OutOfMemoryError."""
        ...

    def find(self, size: int) -> torch.Tensor:
        """So many bytes of host memory. Raises OSError where there are none."""
        ...

    def pin(self, chunk: torch.Tensor) -> None:
        """Have the device read this memory, which ``find`` gave, by itself; its bytes stay. Raises RuntimeError."""
        ...

    def free(self) -> None:
        """Give back all that was found. No copy reads it any more."""
        ...

    def begin(self) -> None:
        """Have copies wait for what the device was told before, which may still use memory that is theirs now."""
        ...

    def copy(self, pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Mark:
        """Copy bytes, each time from the second tensor to the first, behind what was copied before. Returns at once,
        with where the copies end."""
        ...


class Cuda:
    """An NVIDIA GPU, with a stream of its own for the copies."""

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
            # CUDA keeps the error for whoever launches the next kernel.
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
