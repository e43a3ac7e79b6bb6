"""Pages: host memory pinned for a GPU, which reads and writes it at the speed of the bus, faulted in by many
threads.
"""

from __future__ import annotations

import contextlib
import mmap
from typing import Any

import torch

PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


class Pages:
    """The pages of one owner. ``runtime`` is CUDA's, as ``torch.cuda.cudart()`` gives it."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self._found: dict[int, mmap.mmap] = {}  # by address
        self._pinned: list[int] = []

    def allocate(self, size: int) -> torch.Tensor:
        """Return ``size`` pinned bytes. Raises RuntimeError where they cannot be pinned."""
        tensor = self.find(size)
        tensor.zero_()  # faults the pages in with many threads; pinning alone would do it one by one
        self.pin(tensor)
        return tensor

    def find(self, size: int) -> torch.Tensor:
        """Return ``size`` bytes, to be pinned after they have been written to. Raises OSError where there are none."""
        pages = mmap.mmap(-1, size, PRIVATE)
        with contextlib.suppress(OSError, AttributeError):
            pages.madvise(mmap.MADV_HUGEPAGE)  # fewer pages to pin
        tensor = torch.frombuffer(pages, dtype=torch.uint8)
        self._found[tensor.data_ptr()] = pages
        return tensor

    def pin(self, tensor: torch.Tensor) -> None:
        """Pin a tensor that ``find`` returned. Raises RuntimeError where it cannot be pinned."""
        size = tensor.numel()
        if int(self._runtime.cudaHostRegister(tensor.data_ptr(), size, 0)) != 0:
            raise RuntimeError(f"{size} bytes of host memory cannot be pinned")
        self._pinned.append(tensor.data_ptr())

    def free(self) -> None:
        """Unpin and free all pages. The caller no longer uses them."""
        while self._pinned:
            self._runtime.cudaHostUnregister(self._pinned.pop())
        while self._found:
            _, pages = self._found.popitem()
            with contextlib.suppress(BufferError):  # still referenced: it is unmapped with its last reference
                pages.close()
