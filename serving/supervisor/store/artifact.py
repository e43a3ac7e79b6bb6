"""Artifact: a model's folder or archive as it lies on the disk, and what tells one state of it from another."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from serving.errors import BadModel

MAGIC = (b"\x1f\x8b", b"PK\3\4", b"PK\5\6")  # gzip, zip, an empty zip
EDGE = 1 << 16  # bytes of an archive's beginning and of its end that tell it from another one


@dataclass(frozen=True, slots=True)
class Artifact:
    """A model's folder or archive. ``digest`` changes whenever it does, ``fingerprint`` is that of every copy of it;
    ``size`` is in bytes."""

    path: Path
    digest: str
    fingerprint: str
    size: int


def open_archive(path: Path) -> int:
    """A descriptor of an archive, which may be a link to one. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise FileNotFoundError(errno.ENOENT, f"{path.name} is no file")


def has_magic(fd: int) -> bool:
    return os.pread(fd, 4, 0).startswith(MAGIC)


def artifact(path: Path) -> Artifact:
    """What is at ``path`` now. Raises BadModel where nothing is."""
    try:
        if not path.is_dir():
            return packed_at(path)
        entries = sorted(listing(path))
    except OSError as exc:
        raise BadModel(f"{path.name} cannot be read: {os.strerror(exc.errno or 0)}") from exc
    place = str(path.resolve())
    lasting = [entry[:3] for entry in entries]
    return Artifact(path, digest_of(place, entries), digest_of(place, lasting), sum(size for _, size, _, _ in entries))


def packed_at(path: Path) -> Artifact:
    fd = open_archive(path)
    try:
        return packed(path, fd)
    finally:
        os.close(fd)


def packed(path: Path, fd: int) -> Artifact:
    """An open archive. What it ends with, a checksum or the table of contents, tells of all that is in it."""
    status = os.fstat(fd)
    edges = [os.pread(fd, EDGE, at).hex() for at in (0, max(0, status.st_size - EDGE))]
    times = (status.st_mtime_ns, status.st_ctime_ns)
    fingerprint = digest_of(status.st_size, edges)
    return Artifact(path, digest_of(str(path.resolve()), times, fingerprint), fingerprint, status.st_size)


def is_still(found: Artifact, fd: int) -> bool:
    """Whether an open archive is what it was. Its last name may have gone, which counts as a change of the file."""
    now = packed(found.path, fd)
    return now == found or (os.fstat(fd).st_nlink == 0 and now.fingerprint == found.fingerprint)


def digest_of(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def stamp(path: Path, name: str) -> tuple[str, int, int, int]:
    """Name, bytes, when its content was changed, and when anything of it: the last cannot be set to what it was."""
    status = path.stat()
    return name, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def listing(folder: Path) -> Iterator[tuple[str, int, int, int]]:
    for parent, folders, files in os.walk(folder):
        # Python writes these itself when a model is loaded.
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in files:
            path = Path(parent, name)
            if path.exists():
                yield stamp(path, str(path.relative_to(folder)))
