"""Body ring: the bodies of the requests that a worker works on, in a file that outlives it. Only where that is asked
for: each body is copied once more.

    u64 bytes written so far | index: (u64 id, u64 position, u64 size) … | ring

A position counts all bytes ever written; a record is in the ring as long as no more than the ring's size came after it.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from serving.model.model import Model
from serving.postmortem.recording import Kept, Recording
from serving.request import Request
from serving.system import private

RING = 32 << 20  # bytes
KEPT = 2048  # requests in the index
WRITTEN = struct.Struct("<Q")
ENTRY = struct.Struct("<QQQ")
START = WRITTEN.size + KEPT * ENTRY.size

_encode = msgspec.msgpack.Encoder().encode
_kept = msgspec.msgpack.Decoder(Kept)


class BodyRing:
    """The ring of this process, in ``memory``. For the engine's thread."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self._size = len(memory) - START
        self._written = 0
        self._count = 0

    def keep(self, id: int, request: Request) -> None:
        """Keep a request, unless it is larger than the ring."""
        data = _encode(Kept.of(id, request))
        if len(data) > self._size:
            return
        position, room = self._written, self._size - self._written % self._size
        if len(data) > room:
            position += room  # no record is broken
        self._written = position + len(data)
        WRITTEN.pack_into(self._memory, 0, self._written)  # first: what is overwritten now is gone
        at = START + position % self._size
        self._memory[at : at + len(data)] = data
        entry = WRITTEN.size + self._count % KEPT * ENTRY.size
        ENTRY.pack_into(self._memory, entry, id, position, len(data))
        self._count += 1


def make(path: Path, size: int = RING) -> BodyRing:
    """Return a ring of ``size`` bytes in a new file. Raises OSError."""
    fd = private.open_plain(path, os.O_RDWR | os.O_CREAT)
    try:
        os.posix_fallocate(fd, 0, START + size)  # or the first write to a full disk would end the process
        return BodyRing(mmap.mmap(fd, START + size))
    finally:
        os.close(fd)


class Bodies:
    """The bodies that a dead worker of ``model`` has left in ``file``, which may have no name any more: those of the
    requests with these ``ids``.
    """

    def __init__(self, file: BinaryIO, ids: Iterable[int], model: Model) -> None:
        self._file = file
        self._ids = list(ids)
        self._model = model

    def recording(self, report: str) -> bytes:
        """Return them as a recording, b"" where there are none, and close the file. Raises OSError."""
        with self._file:
            size = os.fstat(self._file.fileno()).st_size
            if size <= START:
                return b""
            with mmap.mmap(self._file.fileno(), size, access=mmap.ACCESS_READ) as memory:
                found = dict(records(memory, set(self._ids)))
        kept = [found[id] for id in self._ids if id in found]
        return Recording(report, self._model, kept).encode() if kept else b""

    def close(self) -> None:
        self._file.close()


def records(memory: mmap.mmap, ids: set[int]) -> Iterator[tuple[int, Kept]]:
    """Yield the requests with these ids that are whole."""
    size = len(memory) - START
    [written] = WRITTEN.unpack_from(memory)
    for id, position, length in ENTRY.iter_unpack(memory[WRITTEN.size : START]):
        at = START + position % size
        if id in ids and length and written - position <= size and at + length <= len(memory):
            try:
                kept = _kept.decode(memory[at : at + length])
            except (ValueError, msgspec.DecodeError):  # the former for what is no UTF-8
                continue
            if kept.id == id:
                yield id, kept


def left_by(path: Path, ids: Iterable[int], model: Model) -> Bodies | None:
    """Return what a worker has left at ``path``; None where it has kept nothing."""
    try:
        return Bodies(open(private.open_plain(path), "rb"), ids, model)
    except OSError:
        return None
