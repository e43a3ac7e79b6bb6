"""Memory: how much there is and how much a process holds, as the kernel reports it, and how freed memory is kept."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from serving.system import cgroup

KIB = 1024
KEPT = 32 << 20  # bytes from which a block gets its own mapping; the highest threshold that glibc accepts
BUSY = 256 << 20  # bytes kept free at the top of the heap, as much as a batch of large bodies takes and frees at once
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


class ProcessMemory(NamedTuple):
    """A process's memory: ``private`` bytes would be free without it; ``peak`` is the most they can have been."""

    private: int
    peak: int


def memory_of(pid: int | str = "self") -> ProcessMemory:
    """Return the memory that a process alone holds. Pages shared with others, such as its parent's, do not count.
    Raises OSError.
    """
    rollup = fields(Path(f"/proc/{pid}/smaps_rollup"))
    private = rollup["Private_Clean"] + rollup["Private_Dirty"] + rollup.get("Swap", 0)
    status = fields(Path(f"/proc/{pid}/status"))
    return ProcessMemory(private, private + max(0, status["VmHWM"] - status["VmRSS"]))


def resident(pid: int | str) -> int:
    """Return the bytes of a process that are in memory, shared ones included (RSS). Raises OSError."""
    return fields(Path(f"/proc/{pid}/status"))["VmRSS"]


def share_of(pid: int | str) -> int:
    """Return the bytes of a process, where a page shared by n processes counts one nth (PSS). Raises OSError."""
    return fields(Path(f"/proc/{pid}/smaps_rollup"))["Pss"]


def fields(path: Path) -> dict[str, int]:
    """Return the values of the lines ``Name:  12 kB`` of a kernel's file, in bytes."""
    found = {}
    for line in path.read_text().splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[1] == "kB":
            found[name] = int(words[0]) * KIB
    return found


def total(proc: Path = cgroup.PROC) -> int:
    """Return the bytes that this container may use: the limit of its control groups, or the machine's RAM if that is
    less.
    """
    ram = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = cgroup.memory_limit(proc)
    return ram if limit is None else min(ram, limit)


def share(amount: int | float, whole: int) -> int:
    """Return the bytes that a setting means, which is either bytes or a fraction of ``whole``."""
    return int(amount * whole) if isinstance(amount, float) else amount


def keep_freed() -> None:
    """Make this process reuse the memory of large bodies. By default glibc returns it to the kernel and gets it back
    page by page, which for bodies of 1 MiB takes longer than everything else. ``release_freed`` returns it.
    """
    libc = allocator()
    if libc is not None:
        libc.mallopt(M_MMAP_THRESHOLD, KEPT)
        libc.mallopt(M_TRIM_THRESHOLD, BUSY)


def unfilled(size: int) -> bytearray:
    """Return a buffer whose contents are undefined, to be filled before anybody reads it.

    Zeroing would take a tenth of the time in which a large body passes through.
    """
    return bytearray(size) if (make := _bytearray_maker()) is None else make(None, size)


@cache
def _bytearray_maker() -> Callable[[None, int], bytearray] | None:
    import ctypes

    if sys.implementation.name != "cpython":
        return None
    return ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_char_p, ctypes.c_ssize_t)(
        ("PyByteArray_FromStringAndSize", ctypes.pythonapi)
    )


def release_freed() -> None:
    """Return freed memory to the kernel. Takes milliseconds; safe from any thread, while others allocate."""
    libc = allocator()
    if libc is not None:
        libc.malloc_trim(0)


@cache
def allocator() -> Any:
    """Return the C library; None where its allocator is not glibc's."""
    import ctypes

    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
