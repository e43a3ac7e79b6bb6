"""Evacuation: this process's tensors on a device move to host memory and back, and stay the same objects.

Their storages are emptied and filled again, so that views, tied weights and other references stay valid.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

CHUNK = 256 << 20  # bytes


def storages(device: torch.device) -> list[torch.UntypedStorage]:
    """Return each storage once that tensors of this process own on ``device``."""
    gc.unfreeze()  # frozen objects are not listed
    found: dict[int, torch.UntypedStorage] = {}
    for tensor in tensors():
        if tensor.device == device and tensor.layout is torch.strided:
            storage = tensor.untyped_storage()
            if storage.nbytes():
                found.setdefault(storage._cdata, storage)
    return list(found.values())


def tensors() -> Iterator[torch.Tensor]:
    for one in gc.get_objects():
        # ``isinstance`` could run code of the object.
        if issubclass(type(one), torch.Tensor):
            yield one
        elif issubclass(type(one), torch.nn.Module):  # Python does not see those of TorchScript
            yield from itertools.chain(one.parameters(), one.buffers())


class Evacuation:
    """One move of the tensors on ``device``. ``allocate`` returns host memory of a size in bytes, at most ``chunk``."""

    def __init__(self, device: torch.device, allocate: Callable[[int], torch.Tensor], chunk: int = CHUNK) -> None:
        self._device = device
        self._chunk = chunk
        self._allocate = allocate
        self._storages: Sequence[torch.UntypedStorage] = ()
        self._sizes: list[int] = []
        self._chunks: list[torch.Tensor] = []

    @property
    def size(self) -> int:
        """Bytes in host memory."""
        return sum(self._sizes)

    def leave(self, synchronize: Callable[[], None]) -> None:
        """Move everything to the host.

        Raises RuntimeError, with everything still in place, where some tensor cannot move.
        """
        found = storages(self._device)
        fixed = [one for one in found if not one.resizable()]
        if fixed:
            raise RuntimeError(f"{len(fixed)} tensors are in memory that somebody else owns")
        sizes = [one.nbytes() for one in found]
        total = sum(sizes)
        chunks = [self._allocate(min(self._chunk, total - start)) for start in range(0, total, self._chunk)]
        for here, there in chunk_pairs(found, sizes, chunks, self._device, self._chunk):
            there.copy_(here, non_blocking=True)
        synchronize()
        for storage in found:
            storage.resize_(0)
        self._storages, self._sizes, self._chunks = found, sizes, chunks

    def come_back(self, synchronize: Callable[[], None]) -> None:
        """Copy everything back at the speed of the bus. Raises torch.OutOfMemoryError where the device has no room."""
        for storage, size in zip(self._storages, self._sizes, strict=True):
            storage.resize_(size)
        for here, there in chunk_pairs(self._storages, self._sizes, self._chunks, self._device, self._chunk):
            here.copy_(there, non_blocking=True)
        synchronize()
        self._storages, self._sizes, self._chunks = (), [], []


def chunk_pairs(
    storages: Sequence[torch.UntypedStorage],
    sizes: Sequence[int],
    chunks: Sequence[torch.Tensor],
    device: torch.device,
    length: int,
) -> Iterator[tuple[Any, Any]]:
    """Yield pairs of equally long byte tensors: parts of storages and their places in chunks of ``length`` bytes."""
    at = 0
    for storage, size in zip(storages, sizes, strict=True):
        flat = torch.empty(0, dtype=torch.uint8, device=device).set_(storage)
        done = 0
        while done < size:
            chunk, offset = chunks[at // length], at % length
            n = min(size - done, chunk.numel() - offset)
            yield flat[done : done + n], chunk[offset : offset + n]
            done, at = done + n, at + n
