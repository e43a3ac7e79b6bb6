"""Last words: unfinished lines that a worker's user code has printed, kept where the supervisor finds them after any
death.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

from serving.system import private

STREAMS = ("stdout", "stderr")
LENGTH = struct.Struct("<I")
SLOT = 4096  # bytes of one stream, its length included


class Words:
    """The place for the unfinished line of one stream. Without ``memory`` nothing is kept."""

    def __init__(self, memory: mmap.mmap | None, index: int) -> None:
        self._memory = memory
        self._start = index * SLOT

    def put(self, text: str) -> None:
        """Keep the text, or the end of a long one."""
        if self._memory is None:
            return
        data = text.encode("utf-8", "backslashreplace")[LENGTH.size - SLOT :]
        at = self._start + LENGTH.size
        self._memory[at : at + len(data)] = data
        LENGTH.pack_into(self._memory, self._start, len(data))


def make(path: Path) -> list[Words]:
    """Return a place for each of STREAMS, in a new file. Raises OSError."""
    fd = private.open_plain(path, os.O_RDWR | os.O_CREAT)
    try:
        os.ftruncate(fd, SLOT * len(STREAMS))
        memory = mmap.mmap(fd, SLOT * len(STREAMS))
    finally:
        os.close(fd)
    return [Words(memory, index) for index in range(len(STREAMS))]


def read(path: Path) -> dict[str, str]:
    """Return the kept texts by stream; empty where there is no such file."""
    try:
        data = private.read_plain(path)
    except OSError:
        return {}
    found = {}
    for index, name in enumerate(STREAMS):
        slot = data[index * SLOT : (index + 1) * SLOT]
        if len(slot) == SLOT and (size := min(LENGTH.unpack_from(slot)[0], SLOT - LENGTH.size)):
            found[name] = latest(slot[LENGTH.size : LENGTH.size + size].decode("utf-8", "replace"))
    return found


def latest(line: str) -> str:
    """Return the part of a line that a terminal would show after its carriage returns."""
    return next((part for part in reversed(line.split("\r")) if part), "")
