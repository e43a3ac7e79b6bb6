"""To device: a file's weights copied through a ring of pinned memory, or None where another way is needed."""

from __future__ import annotations

import os
import sys
import zipfile
from bisect import bisect
from collections.abc import Iterator
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path

import torch

from serving.weights.bus import Bus
from serving.weights.header import read_header
from serving.weights.ring import Ring, Transfer

MAPS = Path("/proc/self/maps")
KINDS = (torch.Tensor, torch.nn.Parameter)  # other subclasses may hold more than bytes
Weights = dict[str, torch.Tensor]


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Context with a file's descriptor."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield file
    finally:
        os.close(file)


def bring_safetensors(path: Path, bus: Bus, ring: Ring) -> Weights | None:
    """Return the tensors of a safetensors file on the device; None for a small file or a dtype only safetensors knows.

    Raises ModelError for another file, OSError, torch.OutOfMemoryError, and ``Unpinned`` as ``ring.fill``.
    """
    with opened(path) as file, bus.use():
        if os.fstat(file).st_size < ring.least or (found := read_header(file, path)) is None:
            return None
        weights = {one.name: bus.empty(one.shape, one.dtype) for one in found}
        ring.fill(file, path, [Transfer(one.offset, flat(weights[one.name])) for one in found], bus)
        return weights


def bring_saved(weights: Weights, path: Path, bus: Bus, ring: Ring) -> Weights | None:
    """Move ``weights``, which ``torch.load`` has mapped from ``path``, to the device; shared memory stays shared.

    Returns the same dict; None, with nothing changed, for a small file and for tensors that are more than their bytes.
    Raises OSError, ModelError, torch.OutOfMemoryError, and ``Unpinned`` as ``ring.fill``.
    """
    with opened(path) as file, bus.use():
        if os.fstat(file).st_size < ring.least or not is_native(path) or not all(map(is_plain, weights.values())):
            return None
        storages = {storage._cdata: storage for storage in map(torch.Tensor.untyped_storage, weights.values())}
        places = offsets([storage for storage in storages.values() if storage.nbytes()])
        if places is None or not os.path.samestat(os.fstat(file), os.stat(path)):
            return None
        targets = {key: bus.empty((storage.nbytes(),), torch.uint8) for key, storage in storages.items()}
        transfers = [Transfer(places[one.data_ptr()], targets[key]) for key, one in storages.items() if one.nbytes()]
        ring.fill(file, path, transfers, bus)
        made = {id(one): like(one, targets[one.untyped_storage()._cdata]) for one in weights.values()}
        weights.update({name: made[id(one)] for name, one in weights.items()})
        return weights


def flat(tensor: torch.Tensor) -> torch.Tensor:
    """Return a byte tensor that shares all of the tensor's storage."""
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())


def like(tensor: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
    """Return the same view of other memory."""
    made = torch.empty(0, dtype=tensor.dtype, device=memory.device)
    made.set_(memory.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(made, tensor.requires_grad)
    return made.requires_grad_(tensor.requires_grad)


def is_plain(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is no more than its bytes, dtype, shape and strides."""
    return (
        type(tensor) in KINDS
        and tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and not (tensor.is_quantized or tensor.is_conj() or tensor.is_neg() or tensor.__dict__)
    )


def is_native(path: Path) -> bool:
    """Return whether a ``torch.save`` file has this machine's byte order, so that torch leaves its bytes unchanged."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("/byteorder")]
            orders = {archive.read(name) for name in names} or {b"little"}
    except (zipfile.BadZipFile, NotImplementedError):  # torch reads some that Python does not
        return False
    return orders == {sys.byteorder.encode()}


def offsets(storages: list[torch.UntypedStorage]) -> dict[int, int] | None:
    """Return the file offset of each mapped storage by its address; None where one is not mapped from a file."""
    found: dict[int, int] = {}
    mapped = sorted(mappings())
    for storage in storages:
        start = storage.data_ptr()
        first, last, offset = mapped[bisect(mapped, start, key=itemgetter(0)) - 1]
        if not first <= start <= start + storage.nbytes() <= last:
            return None
        found[start] = start - first + offset
    return found


def mappings() -> Iterator[tuple[int, int, int]]:
    """Yield each file mapping of this process: first address, end address and file offset."""
    for line in MAPS.read_text().splitlines():
        span, _, offset, _, inode, *_ = line.split(maxsplit=5)
        if inode != "0":
            first, last = span.split("-")
            yield int(first, 16), int(last, 16), int(offset, 16)
