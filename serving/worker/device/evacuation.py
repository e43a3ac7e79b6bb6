"""Evacuation: what this process's tensors hold on a device goes to the host and comes back. The tensors are the same.

Their storages are emptied and filled again, so that views, tied weights and whoever else refers to them need no word.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

CHUNK = 256 << 20  # bytes


def storages(device: torch.device) -> list[torch.UntypedStorage]:
    """All that the tensors of this process own there, each once."""
    gc.unfreeze()  # what is frozen is not listed
    found: dict[int, torch.UntypedStorage] = {}
    for tensor in tensors():
        if tensor.device == device and tensor.layout is torch.strided:
            storage = tensor.untyped_storage()
            if storage.nbytes():
                found.setdefault(storage._cdata, storage)
    return list(found.values())


def tensors() -> Iterator[torch.Tensor]:
    for one in gc.get_objects():
        # A type says what it is without running code of the object's.
        if issubclass(type(one), torch.Tensor):
            yield one
        elif issubclass(type(one), torch.nn.Module):  # a TorchScript module's live where Python does not see them
            yield from itertools.chain(one.parameters(), one.buffers())


class Evacuation:
    """``allocate`` gives so many bytes of host memory, at most ``chunk`` at a time."""

    def __init__(self, device: torch.device, allocate: Callable[[int], torch.Tensor], chunk: int = CHUNK) -> None:
        self._device = device
        self._chunk = chunk
        self._allocate = allocate
        self._storages: Sequence[torch.UntypedStorage] = ()
        self._sizes: list[int] = []
        self._chunks: list[torch.Tensor] = []

    @property
    def size(self) -> int:
        """Bytes that are on the host."""
        return sum(self._sizes)

    def leave(self, synchronize: Callable[[], None]) -> None:
        """Bring everything to the host. Raises RuntimeError, with all of it where it was, if something cannot move."""
        found = storages(self._device)
        fixed = [one for one in found if not one.resizable()]
        if fixed:
            raise RuntimeError(f"{len(fixed)} tensors are in memory that somebody else owns")
        sizes = [one.nbytes() for one in found]
        total = sum(sizes)
        chunks = [self._allocate(min(self._chunk, total - start)) for start in range(0, total, self._chunk)]
        for here, there in pieces(found, sizes, chunks, self._device, self._chunk):
            there.copy_(here, non_blocking=True)
        synchronize()
        for storage in found:
            storage.resize_(0)
        self._storages, self._sizes, self._chunks = found, sizes, chunks

    def come_back(self, synchronize: Callable[[], None]) -> None:
        """One copy, as fast as the bus. Raises torch.OutOfMemoryError where there is no room."""
        for storage, size in zip(self._storages, self._sizes, strict=True):
            storage.resize_(size)
        for here, there in pieces(self._storages, self._sizes, self._chunks, self._device, self._chunk):
            here.copy_(there, non_blocking=True)
        synchronize()
        self._storages, self._sizes, self._chunks = (), [], []


def pieces(
    storages: Sequence[torch.UntypedStorage],
    sizes: Sequence[int],
    chunks: Sequence[torch.Tensor],
    device: torch.device,
    length: int,
) -> Iterator[tuple[Any, Any]]:
    """The bytes of storages, one behind the other in chunks of ``length``, as pairs of equally long byte tensors."""
    at = 0
    for storage, size in zip(storages, sizes, strict=True):
        flat = torch.empty(0, dtype=torch.uint8, device=device).set_(storage)
        done = 0
        while done < size:
            chunk, offset = chunks[at // length], at % length
            n = min(size - done, chunk.numel() - offset)
            yield flat[done : done + n], chunk[offset : offset + n]
            done, at = done + n, at + n
