"""Files and folders of our own below the system's temporary folder, where anybody may have been before us."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from pathlib import Path

from serving.errors import ModelError

# A link is not followed, and a pipe that nobody writes to is not waited for.
PLAIN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
READ_LIMIT = 1 << 20  # bytes of a file of ours


def is_private(path: Path, others: int = 0o077) -> bool:
    """Whether it is a folder, no link, of this user's, in which nobody else may do what ``others`` are the bits of."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & others


def make_own(path: Path) -> Path:
    """The folder, made where nothing is. Raises ModelError where something is in its place that others could have
    written to, OSError."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    if not is_private(path, 0o022):
        raise ModelError(f"{path} is no folder that this user alone can write to")
    return path


def open_plain(path: Path, flags: int = os.O_RDONLY) -> int:
    """A descriptor of a regular file, never of what a link names. Raises OSError, also for anything else."""
    fd = os.open(path, flags | PLAIN, 0o600)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise FileNotFoundError(f"{path} is no regular file")


def read_plain(path: Path) -> bytes:
    """At most READ_LIMIT bytes of a regular file. Raises OSError."""
    with open(open_plain(path), "rb") as file:
        return file.read(READ_LIMIT)


def lock_folder(path: Path, alone: bool) -> int | None:
    """Hold a folder until the descriptor is closed or this process ends: together with others who use it, or ``alone``
    in order to remove it. None where it is not there, or is held in a way that forbids this."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | PLAIN)
    except OSError:
        return None
    try:
        fcntl.flock(fd, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(fd), path.lstat()):  # else it was removed, or moved away, in between
            return fd
    except OSError:
        pass
    os.close(fd)
    return None
