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
        self._held: list[tuple[mmap.mmap, torch.Tensor]] = []

    def allocate(self, size: int) -> torch.Tensor:
        """So many bytes. Raises RuntimeError where they cannot be pinned."""
        pages = mmap.mmap(-1, size, PRIVATE)
        with contextlib.suppress(OSError, AttributeError):
            pages.madvise(mmap.MADV_HUGEPAGE)  # fewer to be pinned
        tensor = torch.frombuffer(pages, dtype=torch.uint8)
        tensor.zero_()  # by many threads, where CUDA would find one page after the other
        if int(self._runtime.cudaHostRegister(tensor.data_ptr(), size, 0)) != 0:
            raise RuntimeError(f"{size} bytes of host memory cannot be pinned")
        self._held.append((pages, tensor))
        return tensor

    def free(self) -> None:
        """Of all that was allocated. Nobody uses it any more."""
        while self._held:
            pages, tensor = self._held.pop()
            self._runtime.cudaHostUnregister(tensor.data_ptr())
            del tensor
            with contextlib.suppress(BufferError):  # else it goes with who still refers to it
                pages.close()
