"""How much memory there is, and how much of it a process holds, as the kernel tells."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

KIB = 1024


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


def total(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this container may use: its cgroup's limit, or the machine's RAM where that is less."""
    ram = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for file in ("memory.max", "memory/memory.limit_in_bytes", "memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # another version, or "max"
            return min(ram, int((cgroup / file).read_text()))
    return ram
