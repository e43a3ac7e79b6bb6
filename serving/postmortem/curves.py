"""Curves: the resident memory of worker processes over the last minute, as the kernel counts it from outside.

A worker measures itself, too, but not while its code holds the interpreter.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from pathlib import Path

MINUTE = 60  # samples, of one a second
PAGE = os.sysconf("SC_PAGE_SIZE")
PROC = Path("/proc")


class MemoryCurves:
    """The curves of all workers, by pid. Used on one thread."""

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc
        self._curves: dict[int, deque[tuple[float, int]]] = {}

    def sample(self, pids: Iterable[int], now: float) -> None:
        """Take a sample of each of these processes; others are forgotten a minute after their last one."""
        for pid in pids:
            if resident := self._resident(pid):
                self._curves.setdefault(pid, deque(maxlen=MINUTE)).append((now, resident))
        old = now - MINUTE
        self._curves = {pid: curve for pid, curve in self._curves.items() if curve[-1][0] > old}

    def take(self, pid: int, now: float) -> list[tuple[float, int]]:
        """Return the curve of a process that ended at the instant ``now`` and forget it: pairs of the seconds before
        its end, and bytes.
        """
        return [(round(now - at, 1), resident) for at, resident in self._curves.pop(pid, ())]

    def _resident(self, pid: int) -> int:
        """Return the resident bytes of a process, 0 where it is gone."""
        try:
            return int((self._proc / str(pid) / "statm").read_text().split()[1]) * PAGE
        except (OSError, IndexError, ValueError):
            return 0
