"""Broken models: the models of a store that failed to load, and when each may be tried again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from serving.errors import ServingError
from serving.ipc.messages import Problem
from serving.supervisor.store.artifact import artifact

LOOK = 0.5  # seconds between looks at the files of a broken model
REMEMBERED = 1000  # broken models at most
COOL_DOWN = (1.0, 30.0)  # seconds before a client's request tries again: at first, at most


@dataclass(slots=True, eq=False)
class Broken:
    """A failed model. Until the instant ``until`` clients get the same problem without another try, unless its files
    change. ``looked`` is the instant of the last look at the files.
    """

    problem: Problem
    wait: float
    until: float
    digest: str = ""
    looked: float = field(default_factory=time.monotonic)


class BrokenModels:
    """The broken models of a store. ``locate`` returns the folder or archive of a model and is called on another
    thread.
    """

    def __init__(self, locate: Callable[[str, str], Path]) -> None:
        self._locate = locate
        self._all: dict[str, Broken] = {}
        self._reasons: dict[str, str] = {}

    def of(self, name: str, now: float) -> Broken | None:
        """Return the record of a model that must not be tried yet, or None."""
        broken = self._all.get(name)
        return broken if broken is not None and now < broken.until else None

    def reason(self, name: str) -> str | None:
        """Return why the last load of a model failed, for whatever client; None where it did not."""
        return self._reasons.get(name)

    def note(self, name: str, reason: str) -> None:
        """Record the reason of a failed load."""
        self._reasons.pop(name, None)
        self._reasons[name] = reason
        if len(self._reasons) > REMEMBERED:
            del self._reasons[next(iter(self._reasons))]

    def add(self, name: str, problem: Problem) -> Broken:
        """Record a model that failed to load, and that clients' requests must not try again at once."""
        before = self._all.pop(name, None)
        wait = COOL_DOWN[0] if before is None else min(2 * before.wait, COOL_DOWN[1])
        broken = self._all[name] = Broken(problem, wait, time.monotonic() + wait)
        if len(self._all) > REMEMBERED:
            del self._all[next(iter(self._all))]
        return broken

    async def remember_files(self, name: str, broken: Broken) -> None:
        """Record the digest of the files that have just failed."""
        broken.digest = await asyncio.to_thread(self._digest, name)
        broken.looked = 0.0

    def forget(self, name: str) -> None:
        """Forget a model that has been loaded."""
        self._all.pop(name, None)
        self._reasons.pop(name, None)

    def begin_look(self, broken: Broken, now: float) -> bool:
        """Record a look at the model's files, where one is due: at most once every ``LOOK`` seconds. Returns whether it
        is.
        """
        if now < broken.looked + LOOK:
            return False
        broken.looked = now
        return True

    async def look_again(self, name: str, broken: Broken) -> bool:
        """Look at the files; where they differ from those that failed, the model may be tried at once. Returns whether
        they do.
        """
        if await asyncio.to_thread(self._digest, name) == broken.digest:
            return False
        if self._all.get(name) is broken:
            broken.until = 0.0
        return True

    def _digest(self, name: str) -> str:
        """Return the digest of a model's files; "" where there are none."""
        try:
            return artifact(self._locate(name, "")).digest
        except (ServingError, OSError):
            return ""
