"""Artifact: a model's folder or archive on disk, and digests that identify its content."""

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
EDGE = 1 << 16  # bytes of an archive's beginning and of its end that identify it


@dataclass(frozen=True, slots=True)
class Artifact:
    """A model's folder or archive. ``digest`` changes whenever the files do, ``fingerprint`` is the same for every
    copy; ``size`` is in bytes.
    """

    path: Path
    digest: str
    fingerprint: str
    size: int


def open_archive(path: Path) -> int:
    """Open an archive, which may be a link to one, and return its descriptor. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise FileNotFoundError(errno.ENOENT, f"{path.name} is no file")


def has_magic(fd: int) -> bool:
    return os.pread(fd, 4, 0).startswith(MAGIC)


def artifact(path: Path) -> Artifact:
    """Return what is at ``path`` now. Raises BadModel where there is nothing."""
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
    """Return the artifact of an open archive. Its end, a checksum or a table of contents, depends on all of its
    content.
    """
    status = os.fstat(fd)
    edges = [os.pread(fd, EDGE, at).hex() for at in (0, max(0, status.st_size - EDGE))]
    times = (status.st_mtime_ns, status.st_ctime_ns)
    fingerprint = digest_of(status.st_size, edges)
    return Artifact(path, digest_of(str(path.resolve()), times, fingerprint), fingerprint, status.st_size)


def is_still(found: Artifact, fd: int) -> bool:
    """Return whether an open archive is unchanged. Removing its last name changes its times, but not its content."""
    now = packed(found.path, fd)
    return now == found or (os.fstat(fd).st_nlink == 0 and now.fingerprint == found.fingerprint)


def digest_of(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def stamp(path: Path, name: str) -> tuple[str, int, int, int]:
    """Return name, bytes, and the times of the last change of content and of anything; the latter cannot be set
    back.
    """
    status = path.stat()
    return name, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def listing(folder: Path) -> Iterator[tuple[str, int, int, int]]:
    for parent, folders, files in os.walk(folder):
        # Python writes these folders when a model is loaded.
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in files:
            path = Path(parent, name)
            if path.exists():
                yield stamp(path, str(path.relative_to(folder)))
