"""Folder: the files of reports, the newest of them, in a folder that may also be missing, full or forbidden."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import NamedTuple

from serving.postmortem.report import BODIES, JSON
from serving.system import private

COUNT = 50  # reports
TOTAL = 512 << 20  # bytes of all files
TEMPORARY = ".tmp"
NAME = re.compile(r"\.?(r-[0-9a-f]{8}-\d+)\.[a-z.]+")


class Files(NamedTuple):
    """The files of one report: its id, when they were written, in seconds since 1970, and their bytes."""

    id: str
    written: float
    size: int
    paths: tuple[Path, ...]


class ReportFolder:
    """The folder ``path``, in which at most ``count`` reports of ``total`` bytes stay. Other files are not touched."""

    def __init__(self, path: Path, count: int = COUNT, total: int = TOTAL) -> None:
        self.path = path
        self._count = count
        self._total = total

    def write(self, id: str, text: bytes, bodies: bytes = b"") -> None:
        """Write a report, whole or not at all; the oldest ones make room for it. Raises OSError."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._make_room(len(text) + len(bodies))
        try:
            if bodies:  # first, since the report names it
                self._put(f"{id}{BODIES}", bodies)
            self._put(f"{id}{JSON}", text)
        except OSError:
            (self.path / f"{id}{BODIES}").unlink(missing_ok=True)
            raise

    def _put(self, name: str, data: bytes) -> None:
        temporary = self.path / f".{name}{TEMPORARY}"
        temporary.unlink(missing_ok=True)
        try:
            with open(private.open_plain(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY), "wb") as file:
                file.write(data)
            temporary.replace(self.path / name)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def _make_room(self, size: int) -> None:
        """Remove reports until another one, of ``size`` bytes, can be added."""
        kept = self.reports()
        while kept and (len(kept) >= self._count or sum(one.size for one in kept) + size > self._total):
            for path in kept.pop().paths:
                path.unlink(missing_ok=True)

    def reports(self) -> list[Files]:
        """Return what is there, the newest report first. Raises OSError where the folder cannot be read."""
        found: dict[str, list[Path]] = {}
        for path in self.path.iterdir():
            if (name := NAME.fullmatch(path.name)) is not None:
                found.setdefault(name[1], []).append(path)
        return sorted((files_of(id, paths) for id, paths in found.items()), key=lambda one: one.written, reverse=True)


def files_of(id: str, paths: list[Path]) -> Files:
    written, size = 0.0, 0
    for path in paths:
        with contextlib.suppress(OSError):  # another server's, which has just removed it
            about = path.lstat()
            written, size = max(written, about.st_mtime), size + about.st_size
    return Files(id, written, size, tuple(paths))
