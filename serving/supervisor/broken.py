"""Broken models: those of a store that failed to load, and when each may be tried again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from serving.errors import ServingError
from serving.ipc.messages import Problem
from serving.supervisor.store.artifact import artifact

LOOK = 0.5  # seconds between looks at the files of one
REMEMBERED = 1000
COOL_DOWN = (1.0, 30.0)  # seconds before one is tried again for a client: the first, the most


@dataclass(slots=True, eq=False)
class Broken:
    """Until when clients of one get the same problem without another try, as long as its files are what they were.
    ``looked`` is when they were last looked at."""

    problem: Problem
    wait: float
    until: float
    digest: str = ""
    looked: float = field(default_factory=time.monotonic)


class BrokenModels:
    """``locate`` gives the folder or archive of a model, on another thread."""

    def __init__(self, locate: Callable[[str, str], Path]) -> None:
        self._locate = locate
        self._all: dict[str, Broken] = {}
        self._reasons: dict[str, str] = {}

    def of(self, name: str, now: float) -> Broken | None:
        """What is known of a model that is not to be tried yet."""
        broken = self._all.get(name)
        return broken if broken is not None and now < broken.until else None

    def reason(self, name: str) -> str | None:
        """Why the last load of a model failed, whoever asked for it; None where it did not."""
        return self._reasons.get(name)

    def note(self, name: str, reason: str) -> None:
        """A load has failed."""
        self._reasons.pop(name, None)
        self._reasons[name] = reason
        if len(self._reasons) > REMEMBERED:
            del self._reasons[next(iter(self._reasons))]

    def add(self, name: str, problem: Problem) -> Broken:
        """A model has failed to load, and is not to be tried for every client."""
        before = self._all.pop(name, None)
        wait = COOL_DOWN[0] if before is None else min(2 * before.wait, COOL_DOWN[1])
        broken = self._all[name] = Broken(problem, wait, time.monotonic() + wait)
        if len(self._all) > REMEMBERED:
            del self._all[next(iter(self._all))]
        return broken

    async def remember_files(self, name: str, broken: Broken) -> None:
        """How the files are that have just failed."""
        broken.digest = await asyncio.to_thread(self._digest, name)
        broken.looked = 0.0

    def forget(self, name: str) -> None:
        """It has been loaded."""
        self._all.pop(name, None)
        self._reasons.pop(name, None)

    def is_to_be_looked_at(self, broken: Broken, now: float) -> bool:
        """Whether its files may be others by now; true once in a while."""
        if now < broken.looked + LOOK:
            return False
        broken.looked = now
        return True

    async def has_changed(self, name: str, broken: Broken) -> bool:
        """Whether its files are others than those that failed, and so it may be tried at once."""
        if await asyncio.to_thread(self._digest, name) == broken.digest:
            return False
        if self._all.get(name) is broken:
            broken.until = 0.0
        return True

    def _digest(self, name: str) -> str:
        """Of a model's files; "" where none can be found."""
        try:
            return artifact(self._locate(name, "")).digest
        except (ServingError, OSError):
            return ""
