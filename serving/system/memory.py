"""How much memory there is, and how much of it a process holds, as the kernel tells."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from serving.system import cgroup

KIB = 1024
KEPT = 32 << 20  # bytes from which on a block is mapped by itself; the most that glibc takes
BUSY = (
    256 << 20
)  # bytes that are kept at the top of the heap: what a batch of large bodies takes comes and goes at once
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


class Held(NamedTuple):
    """``private`` bytes would be free without the process; ``peak`` is the most they can have been."""

    private: int
    peak: int


def held_by(pid: int | str = "self") -> Held:
    """Pages that a process shares with others, such as those it was forked with, are nobody's. Raises OSError."""
    rollup = fields(Path(f"/proc/{pid}/smaps_rollup"))
    private = rollup["Private_Clean"] + rollup["Private_Dirty"] + rollup.get("Swap", 0)
    status = fields(Path(f"/proc/{pid}/status"))
    return Held(private, private + max(0, status["VmHWM"] - status["VmRSS"]))


def resident(pid: int | str) -> int:
    """All bytes of a process that are in memory, shared ones included (RSS). Raises OSError."""
    return fields(Path(f"/proc/{pid}/status"))["VmRSS"]


def share_of(pid: int | str) -> int:
    """Bytes of a process, pages shared by n processes counted as one nth (PSS). Raises OSError."""
    return fields(Path(f"/proc/{pid}/smaps_rollup"))["Pss"]


def fields(path: Path) -> dict[str, int]:
    """The lines ``Name:  12 kB`` of a file of the kernel, in bytes."""
    found = {}
    for line in path.read_text().splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[1] == "kB":
            found[name] = int(words[0]) * KIB
    return found


def total(proc: Path = cgroup.PROC) -> int:
    """Bytes that this container may use: the limit of its control groups, or the machine's RAM where that is less."""
    ram = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = cgroup.memory_limit(proc)
    return ram if limit is None else min(ram, limit)


def share(amount: int | float, whole: int) -> int:
    """Bytes of a setting that is either bytes or a share of ``whole``."""
    return int(amount * whole) if isinstance(amount, float) else amount


def keep_freed() -> None:
    """Have this process use the memory of large bodies again, which glibc otherwise returns to the kernel and gets back
    page by page: for bodies of 1 MiB that takes longer than all the rest. ``release_freed`` returns it."""
    libc = allocator()
    if libc is not None:
        libc.mallopt(M_MMAP_THRESHOLD, KEPT)
        libc.mallopt(M_TRIM_THRESHOLD, BUSY)


def unfilled(size: int) -> bytearray:
    """A buffer for bytes that are about to come: what is in it is whatever was there, so nobody may see it before.

    Zeros would take a tenth of the time that a large body takes on its way.
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
    """Takes milliseconds; from any thread, others may allocate meanwhile."""
    libc = allocator()
    if libc is not None:
        libc.malloc_trim(0)


@cache
def allocator() -> Any:
    """None where it is not glibc's."""
    import ctypes

    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
