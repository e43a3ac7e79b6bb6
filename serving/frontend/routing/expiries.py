"""Expiries: the deadlines of many requests, with one timer for each time-out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from serving.deadline import EARLY
from serving.system import log


class Expiring(Protocol):
    timeout: float
    expires: float

    def expire(self) -> None: ...


class Group:
    """The members with one time-out. They expire in the order of their arrival, so one timer is enough for all."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.members: dict[Expiring, None] = {}
        self._clock = clock
        self.timer: asyncio.TimerHandle | None = None

    def arm(self) -> None:
        first = next(iter(self.members), None)
        self.timer = None
        if first is not None:
            delay = max(0.0, first.expires - self._clock())
            self.timer = asyncio.get_running_loop().call_later(delay, self._look)

    def _look(self) -> None:
        now = self._clock() + EARLY
        while (first := next(iter(self.members), None)) is not None and first.expires <= now:
            del self.members[first]
            try:
                first.expire()
            except Exception as exc:  # the later members must expire all the same
                log.error("a request whose time is over could not be ended", exc=exc)
        self.arm()


class Expiries:
    """Calls ``expire`` of each member at its instant ``expires``, unless it is discarded before. Members of one
    ``timeout``, in seconds, must be added in the order in which they expire.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._groups: dict[float, Group] = {}

    def add(self, one: Expiring) -> None:
        group = self._groups.get(one.timeout)
        if group is None:
            group = self._groups[one.timeout] = Group(self._clock)
        group.members[one] = None
        if group.timer is None:
            group.arm()

    def discard(self, one: Expiring) -> None:
        group = self._groups.get(one.timeout)
        if group is not None:
            group.members.pop(one, None)
