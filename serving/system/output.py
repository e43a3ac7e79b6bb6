"""Output: a descriptor of this process's own on which a write never blocks, whatever its reader does."""

from __future__ import annotations

import contextlib
import os
import select
import stat
import time
import weakref


class Output:
    """A descriptor of the file, pipe, socket or terminal that ``fd`` is now; later changes of ``fd`` do not matter.

    Between a poll and a write another process can fill a pipe, so pipes and terminals are opened once more without
    blocking: the flag on ``fd`` itself would be set for everybody who shares it, the user's shell included. Where that
    is not allowed the room that poll reports is used, PIPE_BUF bytes at a time.
    """

    def __init__(self, fd: int) -> None:
        self._fd, blocks = open_again(fd)
        self._most = select.PIPE_BUF if blocks else 1 << 30
        weakref.finalize(self, os.close, self._fd).atexit = False
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLOUT)
        self._is_torn = False

    def has_room(self, seconds: float = 0.0) -> bool:
        """Return whether something can be written, now or within ``seconds``."""
        return bool(self._poll.poll(seconds * 1000))

    def write(self, data: bytes, seconds: float) -> bool:
        """Write ``data``; returns False where the reader is more than ``seconds`` behind. A part may have been written
        then, and the next write begins on a line of its own. Raises OSError where nobody reads any more.
        """
        until = time.monotonic() + seconds if seconds else 0.0
        begun, left = False, memoryview(b"\n" + data if self._is_torn else data)
        while left:
            if not self.has_room(max(0.0, until - time.monotonic()) if seconds else 0.0):
                break
            try:
                size = os.write(self._fd, left[: self._most])
            except BlockingIOError:  # another process was quicker
                if time.monotonic() >= until:
                    break
                continue
            begun, left = True, left[size:]
        if begun or not left:
            self._is_torn = bool(left)
        return not left


def open_again(fd: int) -> tuple[int, bool]:
    """Return a new descriptor of the same, and whether writing to it may block.

    A pipe or a terminal is opened so that it does not, where that is allowed: a pipe may belong to another user, and
    one that has lost its reader cannot be opened. In place of a closed descriptor it is /dev/null.
    """
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return os.open(os.devnull, os.O_WRONLY), False
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        with contextlib.suppress(OSError):
            return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), False
    return os.dup(fd), True
