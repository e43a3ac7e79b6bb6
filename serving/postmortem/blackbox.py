"""Black box: what a worker has worked on, in a file that outlives it, whatever ends it.

The worker writes plain memory, which the kernel keeps when the process dies; nothing is flushed. The file is a list of
slots: where the handler's code was seen last, the size of the last batch and its first sample's shape, and then a ring
of requests. A slot is a value of msgpack and padding: a byte that neither msgpack nor the UTF-8 at the end of each
value can have.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from serving.postmortem import bodyring
from serving.postmortem.bodyring import BodyRing
from serving.postmortem.report import Batch, Seen
from serving.request import Request
from serving.system import private

T = TypeVar("T")

SLOT = 192  # bytes
PAD = b"\xc1"
PLACE, BATCH, FIRST = 0, SLOT, 2 * SLOT  # bytes from the start
ROOM = 256  # requests in the ring
LONGEST = 64  # characters of a text that does not fit as a whole

_encode = msgspec.msgpack.Encoder().encode
# User code may have written anywhere, so nothing is taken for what it should be.
_place = msgspec.msgpack.Decoder(tuple[float, str])
_batch = msgspec.msgpack.Decoder(tuple[int, list[int] | None, str])
_request = msgspec.msgpack.Decoder(tuple[int, float, int, str, str])


class BlackBox:
    """The box of this process, in ``memory``. ``note`` and ``enter`` are for the engine's thread."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self._at = FIRST
        self._end = len(memory)

    def note(self, id: int, request: Request, now: float) -> None:
        at = self._at
        data = _encode((id, now, len(request.body), request.request_id, request.content_type)).ljust(SLOT, PAD)
        if len(data) != SLOT:
            data = _shortened(id, now, request)
        self._memory[at : at + SLOT] = data
        at += SLOT
        self._at = at if at < self._end else FIRST

    def enter(self, samples: Sequence[Any]) -> None:
        try:  # a sample is the handler's, so its shape may be anything
            data = _encode((len(samples), getattr(samples[0], "shape", None), "")).ljust(SLOT, PAD)
            self._memory[BATCH : BATCH + SLOT] = data
        except Exception:
            self._memory[BATCH : BATCH + SLOT] = _encode((len(samples), None, "")).ljust(SLOT, PAD)

    def see(self, place: str, now: float) -> None:
        """Record a line of the handler's code that is being run. From any thread, but always the same."""
        while len(data := _encode((now, place)).ljust(SLOT, PAD)) > SLOT:
            place = place[len(place) // 4 :]
        self._memory[PLACE : PLACE + SLOT] = data


def _shortened(id: int, now: float, request: Request) -> bytes:
    texts = (text.encode("ascii", "replace").decode()[:LONGEST] for text in (request.request_id, request.content_type))
    return _encode((id, now, len(request.body), *texts)).ljust(SLOT, PAD)


class KeepingBox(BlackBox):
    """A box that keeps the bodies, too, in a ring."""

    def __init__(self, memory: mmap.mmap, ring: BodyRing) -> None:
        super().__init__(memory)
        self._ring = ring

    def note(self, id: int, request: Request, now: float) -> None:
        super().note(id, request, now)
        self._ring.keep(id, request)


def make(path: Path, bodies: Path | None = None) -> BlackBox:
    """Return a box in a new file; with ``bodies`` these are kept in another one. Raises OSError."""
    size = FIRST + SLOT * ROOM
    fd = private.open_plain(path, os.O_RDWR | os.O_CREAT)
    try:
        os.posix_fallocate(fd, 0, size)  # or the first write to a full disk would end the process
        memory = mmap.mmap(fd, size)
        return BlackBox(memory) if bodies is None else KeepingBox(memory, bodyring.make(bodies))
    finally:
        os.close(fd)


class Contents(msgspec.Struct, frozen=True):
    """The contents of a dead worker's box: ``requests``, the latest first, its last ``batch``, and the ``place`` in the
    handler's code where it was ``seen`` seconds before.
    """

    requests: list[Seen] = []
    batch: Batch | None = None
    place: str = ""
    seen: float | None = None


def read(path: Path, now: float) -> Contents:
    """Return what is in the box of a worker that died at the instant ``now``; nothing where there is no box."""
    try:
        data = private.read_plain(path)
    except OSError:
        return Contents()
    noted = sorted(_requests(data, now), key=lambda one: one.age or 0.0)
    batch, place = _value(_batch, data, BATCH), _value(_place, data, PLACE)
    return Contents(
        noted,
        Batch(*batch[:2]) if batch is not None else None,
        place[1] if place is not None else "",
        round(now - place[0], 3) if place is not None and place[1] else None,
    )


def _requests(data: bytes, now: float) -> Iterator[Seen]:
    for at in range(FIRST, len(data), SLOT):
        if (value := _value(_request, data, at)) is not None:
            id, began, size, request_id, content_type = value
            yield Seen(id, request_id, content_type, size, round(now - began, 3))


def _value(decoder: msgspec.msgpack.Decoder[T], data: bytes, at: int) -> T | None:
    """Return the value of a slot; None where it is empty, or half written."""
    try:
        return decoder.decode(data[at : at + SLOT].rstrip(PAD))
    except (ValueError, msgspec.DecodeError):  # the former for what is no UTF-8
        return None
