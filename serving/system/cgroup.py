"""Control groups: the limits of this process, read from the kernel's files of its own group and the groups above it.

The root of ``/sys/fs/cgroup`` is this process's own group only where the container has a cgroup namespace.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc/self")


class Mount(NamedTuple):
    """The mount of a hierarchy: ``root`` is the group that ``point`` shows. ``kinds`` is empty for version 2."""

    root: str
    point: Path
    kinds: frozenset[str]


def groups(kind: str, proc: Path = PROC) -> list[Path]:
    """Return the folders of this process's group for ``kind``, such as ``memory``, and of the groups above, its own
    first.

    Those of version 2 come before those of version 1; usually only one of the two has the kind.
    """
    found: list[Path] = []
    with contextlib.suppress(OSError, ValueError):
        own = dict(memberships(proc / "cgroup"))
        for mount in sorted(mounts(proc / "mountinfo"), key=lambda one: bool(one.kinds)):
            path = own.get("" if not mount.kinds else kind)
            if path is not None and (not mount.kinds or kind in mount.kinds):
                found += upwards(mount, path)
    return list(dict.fromkeys(found))


def memberships(file: Path) -> Iterator[tuple[str, str]]:
    """Yield kind and group of each line ``4:memory:/path``; version 2 has the kind ""."""
    for line in file.read_text().splitlines():
        _, kinds, path = line.split(":", 2)
        for kind in kinds.split(","):
            yield kind, path


def mounts(file: Path) -> Iterator[Mount]:
    for line in file.read_text().splitlines():
        head, _, tail = line.partition(" - ")
        fields, (type, _, options) = head.split(), tail.split(maxsplit=2)
        if type in ("cgroup", "cgroup2"):
            kinds = frozenset(options.split(",")) if type == "cgroup" else frozenset[str]()
            yield Mount(plain(fields[3]), Path(plain(fields[4])), kinds)


def plain(word: str) -> str:
    """Return a path of mountinfo with its octal escapes of blanks and backslashes decoded."""
    return word.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")


def upwards(mount: Mount, path: str) -> Iterator[Path]:
    """Yield the folders from a group up to the top of the mount. A group outside the mount cannot be seen: the top
    stands in.
    """
    parts = Path(path).parts[1:]
    top = Path(mount.root).parts[1:]
    inner = parts[len(top) :] if parts[: len(top)] == top else ()
    folders = [mount.point.joinpath(*inner[:depth]) for depth in range(len(inner), -1, -1)]
    yield from (folder for folder in folders if ".." not in folder.parts and folder.is_dir())


def read_all(kind: str, *names: str, proc: Path = PROC) -> Iterator[str]:
    """Yield the contents of the files with these names, those of the process's own group first."""
    for folder in groups(kind, proc):
        for name in names:
            with contextlib.suppress(OSError):
                yield (folder / name).read_text()


def memory_limit(proc: Path = PROC) -> int | None:
    """Return the tightest memory limit of the own group and those above, in bytes; None where there is none."""
    limits = []
    for text in read_all("memory", "memory.max", "memory.limit_in_bytes", proc=proc):
        with contextlib.suppress(ValueError):  # "max"
            limits.append(int(text))
    return min(limits, default=None)


def oom_kills(proc: Path = PROC) -> int:
    """Return how often the kernel's OOM killer has killed in the own group; 0 where that is unknown."""
    for text in read_all("memory", "memory.events", "memory.oom_control", proc=proc):
        with contextlib.suppress(ValueError):
            counts = dict(line.split() for line in text.splitlines())
            if "oom_kill" in counts:
                return int(counts["oom_kill"])
    return 0


def cpu_quota(proc: Path = PROC) -> float | None:
    """Return the lowest CPU quota of the own group and those above, in CPUs; None where there is none."""
    quotas = []
    for folder in groups("cpu", proc):
        for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
            with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
                quota, period = " ".join((folder / name).read_text() for name in names).split()
                if int(quota) > 0:
                    quotas.append(int(quota) / int(period))
    return min(quotas, default=None)
