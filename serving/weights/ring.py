"""Ring: a file's bytes copied to a device through a few pinned chunks, filled by threads while others are copied."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch

from serving.config.config import cores
from serving.errors import ModelError
from serving.system import log
from serving.weights.bus import Bus, Mark

MIB = 1 << 20
GAP = 64 << 10  # bytes; a smaller gap between tensors is read along
TICK = 0.0002  # seconds between checks whether the device is done with a chunk
MOST = 4  # threads; more were no faster on an H200


class Unpinned(Exception):
    """No host memory can be pinned."""


class Transfer(NamedTuple):
    """Bytes of a file from ``offset`` on; ``target`` is a flat byte tensor on the device with their length."""

    offset: int
    target: torch.Tensor


@dataclass(slots=True)
class Span:
    """Bytes of a file that are read at once.

    ``parts`` are a target, the first byte in it, the first byte in the span, and the number of bytes.
    """

    offset: int
    size: int = 0
    parts: list[tuple[torch.Tensor, int, int, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Ring:
    """The chunks and threads of one copy. ``chunk`` is in bytes.

    ``patience`` is the seconds that may pass without progress; files below ``least`` bytes are not worth the threads.
    """

    chunk: int = 8 * MIB
    readers: int = field(default_factory=lambda: min(MOST, cores()))
    spare: int = 4  # chunks under copy, beside one for each reader
    patience: float = 60.0
    least: int = 32 * MIB

    def fill(self, file: int, path: Path, transfers: Sequence[Transfer], bus: Bus) -> None:
        """Copy an open file's bytes to their targets; all are there when it returns. ``path`` is for messages.

        Raises Unpinned where nothing can be pinned, ModelError for a file that ends too early, OSError where it cannot
        be read or stalls for too long, and RuntimeError for an error of the device.
        """
        spans = plan(transfers, self.chunk)
        if not spans:
            return
        bus.begin()
        copies = Copies(bus, self.patience)
        try:
            with Readers(file, path, spans, min(self.readers, len(spans)), self.patience) as readers:
                try:
                    for _ in range(min(self.readers + self.spare, len(spans))):
                        readers.empty.put(bus.find(self.chunk))
                    self.copy_behind(readers, copies, len(spans), path)
                finally:
                    copies.finish()
        finally:
            if not copies.pending:  # otherwise the device may still read them
                bus.free()

    def copy_behind(self, readers: Readers, copies: Copies, count: int, path: Path) -> None:
        """Copy ``count`` filled spans as they arrive, and return copied chunks to the readers."""
        deadline = time.monotonic() + self.patience
        while count:
            for chunk in copies.done():
                readers.empty.put(chunk)
                deadline = time.monotonic() + self.patience
            found = readers.next(TICK if copies.pending else max(TICK, deadline - time.monotonic()))
            if found is not None:
                copies.start(*found)
                count -= 1
                deadline = time.monotonic() + self.patience
            elif time.monotonic() >= deadline:
                raise TimeoutError(f"nothing of {path.name} came within {self.patience} s")


def plan(transfers: Sequence[Transfer], chunk: int) -> list[Span]:
    """Return spans of at most ``chunk`` bytes in file order. Large tensors are split, small ones share a span."""
    spans: list[Span] = []
    for offset, target in sorted(transfers, key=lambda transfer: transfer.offset):
        done, size = 0, target.numel()
        while done < size:
            at = offset + done
            if not spans or not 0 <= at - spans[-1].offset < min(chunk, spans[-1].size + GAP):
                spans.append(Span(at))
            span = spans[-1]
            within = at - span.offset
            length = min(size - done, chunk - within)
            span.parts.append((target, done, within, length))
            span.size = max(span.size, within + length)
            done += length
    return spans


class Readers:
    """Threads that fill the chunks of ``empty`` with spans of a file. They end with the ``with`` block."""

    def __init__(self, file: int, path: Path, spans: Sequence[Span], count: int, patience: float) -> None:
        self.empty: queue.SimpleQueue[torch.Tensor | None] = queue.SimpleQueue()
        self._filled: queue.SimpleQueue[tuple[Span, torch.Tensor] | BaseException] = queue.SimpleQueue()
        self._file = file
        self._path = path
        self._spans = deque(spans)
        self._patience = patience
        self._stopped = False
        self._threads = [threading.Thread(target=self._run, name="weights", daemon=True) for _ in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped = True
        for _ in self._threads:
            self.empty.put(None)
        deadline = time.monotonic() + self._patience
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(timeout=max(0.0, deadline - time.monotonic()))

    def next(self, seconds: float) -> tuple[Span, torch.Tensor] | None:
        """Return the next filled span, or None after ``seconds``. Raises a reader's error."""
        try:
            found = self._filled.get(timeout=seconds)
        except queue.Empty:
            return None
        if not isinstance(found, BaseException):
            return found
        try:
            raise found
        finally:
            del found  # otherwise it and this frame keep each other, and tensors on the device

    def _run(self) -> None:
        try:
            while not self._stopped and self._spans and (chunk := self.empty.get()) is not None:
                try:
                    span = self._spans.popleft()
                except IndexError:  # another reader has the last
                    return
                octets: Any = chunk.numpy()
                self._read(span, memoryview(octets)[: span.size])
                self._filled.put((span, chunk))
        except BaseException as exc:
            self._filled.put(exc)

    def _read(self, span: Span, room: memoryview) -> None:
        done = 0
        while done < span.size and not self._stopped:
            count = os.preadv(self._file, [room[done:]], span.offset + done)
            if not count:
                raise ModelError(f"{self._path.name} ends at byte {span.offset + done}, before its last tensor")
            done += count


class Copies:
    """The copies under way to the device, in their order."""

    def __init__(self, bus: Bus, patience: float) -> None:
        self._bus = bus
        self._patience = patience
        self._pinned: dict[int, bool] = {}  # by address; pages are pinned much faster once a reader has written to them
        self.pending: deque[tuple[Mark, torch.Tensor]] = deque()

    def start(self, span: Span, chunk: torch.Tensor) -> None:
        """Start to copy a span. Raises Unpinned where not even the first chunk can be pinned."""
        if chunk.data_ptr() not in self._pinned:
            self._pinned[chunk.data_ptr()] = self._pin(chunk)
        pairs = ((target[at : at + n], chunk[start : start + n]) for target, at, start, n in span.parts)
        self.pending.append((self._bus.copy(pairs), chunk))

    def _pin(self, chunk: torch.Tensor) -> bool:
        """Pin a chunk. Returns False where that fails: copies from it still work, but more slowly."""
        try:
            self._bus.pin(chunk)
        except RuntimeError as exc:
            if not self._pinned:
                raise Unpinned(str(exc)) from exc
            log.warning("some of the memory that weights come by cannot be pinned", error=str(exc))
            return False
        return True

    def done(self) -> Iterator[torch.Tensor]:
        """Yield the chunks that may be filled again."""
        while self.pending and self.pending[0][0].query():
            yield self.pending.popleft()[1]

    def finish(self) -> None:
        """Wait for the end of all copies. Raises TimeoutError, and RuntimeError for an error of the device."""
        deadline = time.monotonic() + self._patience
        while self.pending:
            if not list(self.done()) and time.monotonic() >= deadline:
                raise TimeoutError(f"the device has copied nothing within {self._patience} s")
            if self.pending:
                time.sleep(TICK)
