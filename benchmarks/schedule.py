"""Schedule: the moments at which the load generator's requests are due."""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from typing import Protocol


class Schedule(Protocol):
    def take(self) -> float | None:
        """Return the moment from which the next request's latency counts; None if nothing is due now."""

    def exhausted(self) -> bool:
        """Return True once ``take`` will never return a moment again."""


class ClosedLoop:
    def __init__(self, end: float) -> None:
        self._end = end

    def take(self) -> float | None:
        now = time.monotonic()
        return now if now < self._end else None

    def exhausted(self) -> bool:
        return time.monotonic() >= self._end


class OpenLoop:
    """A schedule of ``total`` requests, due every ``interval`` ns from ``start`` (ns of the monotonic clock)."""

    def __init__(self, start: int, interval: int, total: int) -> None:
        self._next = start
        self._interval = interval
        self._left = total

    def take(self) -> float | None:
        due = self._next
        if not self._left or due > time.monotonic_ns():
            return None
        self._left -= 1
        self._next += self._interval
        return due / 1e9

    def exhausted(self) -> bool:
        return self._left == 0


class Ticker:
    """A file descriptor that becomes readable every ``interval`` ns from ``start`` on (Linux timerfd).

    The event loop's own timers have a resolution of a millisecond, which is more than most answers take.
    """

    def __init__(self, start: int, interval: int) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        # struct itimerspec: the interval, then the first time, each in seconds and nanoseconds; 1 is TFD_TIMER_ABSTIME.
        setting = (ctypes.c_long * 4)(*divmod(interval, 10**9), *divmod(start, 10**9))
        if self._libc.timerfd_settime(self.fd, 1, ctypes.byref(setting), None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")

    def read(self) -> None:
        """Reset the descriptor until the next interval begins."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 8)

    def close(self) -> None:
        os.close(self.fd)
