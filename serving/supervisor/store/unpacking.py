"""Unpacking: reads archives in separate processes, a few at a time, which can be ended at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path

from serving.errors import BadArchive, ModelFailed
from serving.supervisor import processes
from serving.supervisor.store import archives
from serving.supervisor.store.archives import Limits

AT_A_TIME = 8  # processes; this many hostile archives can delay loads of archives, but no other loads
# Isolated and without site: only the standard library can be imported, and one file of ours.
RUN = "import sys; sys.path.append(sys.argv[1]); import archives; archives.main(sys.argv[2:])"
PROGRAM = [sys.executable, "-I", "-S", "-X", "utf8", "-c", RUN, str(Path(archives.__file__).parent)]
PIPE_SIZE = 1 << 16  # bytes that a pipe holds
LOOK = 0.05  # seconds between looks whether to go on


class Unpacking:
    """One process that fills ``folder`` from the open archive ``fd``; ``report`` becomes readable when it ends.

    ``name`` is the archive's name in messages. ``seconds`` bounds the process's CPU time, not its waits. Raises
    OSError.
    """

    def __init__(self, fd: int, folder: Path, name: str, limits: Limits, seconds: float) -> None:
        self._name = name
        self._seconds = seconds
        self._output = b""
        self.report, theirs = os.pipe2(os.O_CLOEXEC)
        bounds = (math.ceil(seconds), limits.size, limits.files, limits.ratio)
        words = [str(fd), str(theirs), str(folder), name, *map(str, bounds)]
        try:
            self._pid = processes.spawn_bare([*PROGRAM, *words], [fd, theirs])
        except BaseException:
            os.close(self.report)
            raise
        finally:
            os.close(theirs)
        os.set_blocking(self.report, False)

    def read_report(self) -> bool:
        """Read what the process has written so far; returns whether it has ended."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.report, PIPE_SIZE):
                self._output += data
            return True
        return False

    def close(self) -> None:
        """End the process if it still works. Its pid cannot be reused while its end of the pipe is open."""
        if not self.read_report():
            processes.kill_group(self._pid)
        os.close(self.report)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, os.WNOHANG)

    def conclude(self) -> None:
        """Check the result. Raises BadArchive, OSError, or ModelFailed where the process ended without one."""
        kind, _, rest = self._output.decode(errors="replace").partition(" ")
        match kind:
            case "done":
                return
            case "refused":
                raise BadArchive(rest)
            case "errno":
                raise OSError(int(rest), os.strerror(int(rest)))
        raise ModelFailed(f"{self._name} could not be unpacked: the process that did it was ended")

    def overdue(self) -> ModelFailed:
        return ModelFailed(f"{self._name} was not unpacked within {self._seconds:g} s")


class Unpacker:
    """Unpacks archives from an event loop; ``seconds`` bounds each of them, including its wait for others."""

    def __init__(self, limits: Limits, seconds: float) -> None:
        self._limits = limits
        self._seconds = seconds
        self._places = asyncio.Semaphore(AT_A_TIME)
        self._running: set[Unpacking] = set()

    async def unpack(self, fd: int, folder: Path, name: str) -> None:
        """Unpack one archive. Raises BadArchive, ModelFailed, OSError. Cancelling it ends its process."""
        try:
            async with asyncio.timeout(self._seconds), self._places:
                await self._run(Unpacking(fd, folder, name, self._limits, self._seconds))
        except TimeoutError:
            raise ModelFailed(f"{name} was not unpacked within {self._seconds:g} s") from None

    async def _run(self, unpacking: Unpacking) -> None:
        loop = asyncio.get_running_loop()
        ended = loop.create_future()

        def look() -> None:
            if unpacking.read_report() and not ended.done():
                ended.set_result(None)

        self._running.add(unpacking)
        loop.add_reader(unpacking.report, look)
        try:
            await ended
            unpacking.conclude()
        finally:
            self._end(unpacking)

    def _end(self, unpacking: Unpacking) -> None:
        if unpacking in self._running:
            self._running.remove(unpacking)
            asyncio.get_running_loop().remove_reader(unpacking.report)
            unpacking.close()

    def close(self) -> None:
        """End all processes at once; callers that wait for them are not woken."""
        for unpacking in list(self._running):
            self._end(unpacking)


def unpack_now(
    fd: int, folder: Path, name: str, limits: Limits, seconds: float, check: Callable[[], None] = lambda: None
) -> None:
    """Unpack one archive as ``Unpacker.unpack`` does, without an event loop. ``check`` is called now and then and may
    raise.
    """
    unpacking = Unpacking(fd, folder, name, limits, seconds)
    until = time.monotonic() + seconds
    try:
        while not unpacking.read_report():
            check()
            if time.monotonic() > until:
                raise unpacking.overdue()
            select.select([unpacking.report], [], [], LOOK)
        unpacking.conclude()
    finally:
        unpacking.close()
