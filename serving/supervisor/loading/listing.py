"""Listing: the models of a store, loaded or not, and whether a request for each would be deployment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from serving.adapters.conventions import version_of
from serving.errors import ServingError
from serving.ipc.messages import Listed
from serving.supervisor.fleet.deployment import Stage
from serving.supervisor.fleet.describe import state_of
from serving.supervisor.fleet.state import FleetState
from serving.supervisor.loading.broken import BrokenModels
from serving.supervisor.store.repository import ModelRepository

REMEMBERED = 1000
UNLOADED = "unloaded"  # Triton's own reason


class Listing:
    """The models of a store with their states. ``hide`` removes from a text what clients must not see."""

    def __init__(
        self, state: FleetState, repository: ModelRepository, broken: BrokenModels, hide: Callable[[str], str]
    ) -> None:
        self._fleet = state
        self._repository = repository
        self._broken = broken
        self._hide = hide
        self._out: dict[str, str] = {}

    def out(self, name: str, reason: str = UNLOADED) -> None:
        """Mark a model as not ready until it is loaded again: a client had it unloaded, or a client's load of it
        failed.
        """
        self._out[name] = reason
        if len(self._out) > REMEMBERED:
            del self._out[next(iter(self._out))]

    def begun(self, name: str) -> None:
        """Mark a model as being loaded."""
        self._out.pop(name, None)

    async def all(self) -> list[Listed]:
        found = await asyncio.to_thread(self._on_disk)
        return [self._listed(name, version) for name, version in found]

    async def one(self, name: str) -> Listed:
        """Return one model's entry. Raises ModelNotFound, BadRequest."""
        return self._listed(*await asyncio.to_thread(self._found, name))

    def _on_disk(self) -> list[tuple[str, str]]:
        found = []
        for name in self._repository.names():
            try:
                found.append(self._found(name))
            except (ServingError, OSError):
                continue  # removed meanwhile, or a link that leads out of the store
        return found

    def _found(self, target: str) -> tuple[str, str]:
        name, path = self._repository.resolve(target)
        return name, version_of(path)

    def _listed(self, name: str, version: str) -> Listed:
        state, reason = self._state(name)
        return Listed(name, version, state, self._hide(reason))

    def _state(self, name: str) -> tuple[str, str]:
        deployment = self._fleet.get(name)
        if deployment is not None and deployment.stage is not Stage.LEAVING:
            state = state_of(deployment)
            if state == "failed":
                return "unavailable", deployment.failed or ""
            return ("ready" if state == "ready" else "loading"), ""
        if name in self._out:
            return "unavailable", self._out[name]
        broken = self._broken.of(name, time.monotonic())
        return ("ready", "") if broken is None else ("unavailable", broken.problem.message)
