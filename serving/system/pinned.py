"""Pages: host memory that a GPU reads and writes at the speed of the bus, found by many threads, given back at once."""

from __future__ import annotations

import contextlib
import mmap
from typing import Any

import torch

PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


class Pages:
    """``runtime`` is CUDA's, as ``torch.cuda.cudart()`` gives it."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self._found: dict[int, mmap.mmap] = {}  # by address
        self._pinned: list[int] = []

    def allocate(self, size: int) -> torch.Tensor:
        """So many bytes. Raises RuntimeError where they cannot be pinned."""
        tensor = self.find(size)
        tensor.zero_()  # by many threads, where CUDA would find one page after the other
        self.pin(tensor)
        return tensor

    def find(self, size: int) -> torch.Tensor:
        """So many bytes, to be pinned once somebody has written to them. Raises OSError where there are none."""
        pages = mmap.mmap(-1, size, PRIVATE)
        with contextlib.suppress(OSError, AttributeError):
            pages.madvise(mmap.MADV_HUGEPAGE)  # fewer to be pinned
        tensor = torch.frombuffer(pages, dtype=torch.uint8)
        self._found[tensor.data_ptr()] = pages
        return tensor

    def pin(self, tensor: torch.Tensor) -> None:
        """What ``find`` has given. Raises RuntimeError where it cannot be pinned."""
        size = tensor.numel()
        if int(self._runtime.cudaHostRegister(tensor.data_ptr(), size, 0)) != 0:
            raise RuntimeError(f"{size} bytes of host memory cannot be pinned")
        self._pinned.append(tensor.data_ptr())

    def free(self) -> None:
        """Of all that was found. Nobody uses it any more."""
        while self._pinned:
            self._runtime.cudaHostUnregister(self._pinned.pop())
        while self._found:
            _, pages = self._found.popitem()
            with contextlib.suppress(BufferError):  # else it goes with who still refers to it
                pages.close()
