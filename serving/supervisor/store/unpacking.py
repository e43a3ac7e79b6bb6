"""Unpacking: archives are read in processes of their own, a few at a time, which can be ended at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from serving.errors import BadArchive, ModelFailed
from serving.supervisor import processes
from serving.supervisor.store import archives
from serving.supervisor.store.archives import Limits

AT_A_TIME = 8  # processes; that many hostile archives hold up the next load of an archive, and no other
# Isolated and without the site: nothing but the interpreter's own library can be imported, and one file of ours.
RUN = "import sys; sys.path.append(sys.argv[1]); import archives; archives.main(sys.argv[2:])"
PROGRAM = [sys.executable, "-I", "-S", "-X", "utf8", "-c", RUN, str(Path(archives.__file__).parent)]
ANSWER = 1 << 16  # bytes that a pipe takes at once
LOOK = 0.05  # seconds between looks whether to go on


class Unpacking:
    """One process that fills ``folder`` from the open archive ``fd``; ``answer`` can be read once it has ended.

    ``name`` is what messages call it. Its time in seconds bounds its work, not its waits. Raises OSError.
    """

    def __init__(self, fd: int, folder: Path, name: str, limits: Limits, seconds: float) -> None:
        self._name = name
        self._seconds = seconds
        self._said = b""
        self.answer, theirs = os.pipe2(os.O_CLOEXEC)
        bounds = (math.ceil(seconds), limits.size, limits.files, limits.ratio)
        words = [str(fd), str(theirs), str(folder), name, *map(str, bounds)]
        try:
            self._pid = processes.spawn_bare([*PROGRAM, *words], [fd, theirs])
        except BaseException:
            os.close(self.answer)
            raise
        finally:
            os.close(theirs)
        os.set_blocking(self.answer, False)

    def has_ended(self) -> bool:
        """Whether it has; takes what it says meanwhile."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.answer, ANSWER):
                self._said += data
            return True
        return False

    def close(self) -> None:
        """End it if it still works. While its end of the pipe is open its number is nobody else's."""
        if not self.has_ended():
            processes.kill_group(self._pid)
        os.close(self.answer)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, os.WNOHANG)

    def conclude(self) -> None:
        """Raises BadArchive, OSError, or ModelFailed where it ended without a word."""
        kind, _, rest = self._said.decode(errors="replace").partition(" ")
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
    """For an event loop: ``seconds`` is the time of each, its wait for others included."""

    def __init__(self, limits: Limits, seconds: float) -> None:
        self._limits = limits
        self._seconds = seconds
        self._places = asyncio.Semaphore(AT_A_TIME)
        self._running: set[Unpacking] = set()

    async def unpack(self, fd: int, folder: Path, name: str) -> None:
        """Raises BadArchive, ModelFailed, OSError. Whoever is cancelled here leaves no process behind."""
        try:
            async with asyncio.timeout(self._seconds), self._places:
                await self._run(Unpacking(fd, folder, name, self._limits, self._seconds))
        except TimeoutError:
            raise ModelFailed(f"{name} was not unpacked within {self._seconds:g} s") from None

    async def _run(self, unpacking: Unpacking) -> None:
        loop = asyncio.get_running_loop()
        ended = loop.create_future()

        def look() -> None:
            if unpacking.has_ended() and not ended.done():
                ended.set_result(None)

        self._running.add(unpacking)
        loop.add_reader(unpacking.answer, look)
        try:
            await ended
            unpacking.conclude()
        finally:
            self._end(unpacking)

    def _end(self, unpacking: Unpacking) -> None:
        if unpacking in self._running:
            self._running.remove(unpacking)
            asyncio.get_running_loop().remove_reader(unpacking.answer)
            unpacking.close()

    def close(self) -> None:
        """End all of them at once; those who wait for them hear nothing any more."""
        for unpacking in list(self._running):
            self._end(unpacking)


def unpack_now(
    fd: int, folder: Path, name: str, limits: Limits, seconds: float, check: Callable[[], None] = lambda: None
) -> None:
    """As ``Unpacker.unpack``, where no event loop runs. ``check`` is called now and then and may raise."""
    unpacking = Unpacking(fd, folder, name, limits, seconds)
    until = time.monotonic() + seconds
    try:
        while not unpacking.has_ended():
            check()
            if time.monotonic() > until:
                raise unpacking.overdue()
            select.select([unpacking.answer], [], [], LOOK)
        unpacking.conclude()
    finally:
        unpacking.close()


class Stopped(Exception):
    """A stop was asked for before the server was there."""


def check_stop() -> None:
    """Raises Stopped where a signal that is held back asks for it; it stays there."""
    if signal.sigpending() & {signal.SIGTERM, signal.SIGINT}:
        raise Stopped
