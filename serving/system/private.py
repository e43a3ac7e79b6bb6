"""Private files and folders below the system's temporary folder, where another user may have created the path before
us.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from pathlib import Path

from serving.errors import ModelError

# Do not follow a link, and do not wait for a pipe without a writer.
PLAIN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
READ_LIMIT = 1 << 20  # bytes of a file of ours


def is_private(path: Path, others: int = 0o077) -> bool:
    """Return whether ``path`` is a folder, not a link, of this user, with none of the permission bits ``others``
    set.
    """
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & others


def make_own(path: Path) -> Path:
    """Return the folder, which is created if missing. Raises ModelError where others can write to what is there,
    OSError.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    if not is_private(path, 0o022):
        raise ModelError(f"{path} is no folder that this user alone can write to")
    return path


def open_plain(path: Path, flags: int = os.O_RDONLY) -> int:
    """Open a regular file, never through a link, and return its descriptor. Raises OSError, also for anything else."""
    fd = os.open(path, flags | PLAIN, 0o600)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise FileNotFoundError(f"{path} is no regular file")


def read_plain(path: Path) -> bytes:
    """Return at most READ_LIMIT bytes of a regular file. Raises OSError."""
    with open(open_plain(path), "rb") as file:
        return file.read(READ_LIMIT)


def lock_folder(path: Path, alone: bool) -> int | None:
    """Lock a folder until the descriptor is closed or this process ends: shared with other users of it, or ``alone`` in
    order to remove it. Returns the descriptor; None where the folder is missing or another lock forbids this one.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | PLAIN)
    except OSError:
        return None
    try:
        fcntl.flock(fd, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(fd), path.lstat()):  # otherwise it was removed or moved in between
            return fd
    except OSError:
        pass
    os.close(fd)
    return None
