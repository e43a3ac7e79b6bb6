"""Opener: finds and reads the models of a store off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from serving.model.model import Model
from serving.supervisor.store.diskcache import Cost, DiskCache
from serving.supervisor.store.repository import ModelRepository
from serving.supervisor.store.unpacking import Unpacker

REMEMBERED = 1000  # aliases of models at most


class Opener:
    """The models on disk with what is known of their costs. ``seconds`` bounds the unpacking of one."""

    def __init__(self, repository: ModelRepository, disk: DiskCache, seconds: float) -> None:
        self._repository = repository
        self._disk = disk
        self._unpacker = Unpacker(repository.limits, seconds)
        self._own: dict[str, str] = {}

    def close(self) -> None:
        """End all unpacking."""
        self._unpacker.close()

    async def resolve(self, name: str) -> str:
        """Find and remember the model's own name for the name that a client used. Raises ModelNotFound, BadRequest."""
        own, _ = await asyncio.to_thread(self._repository.resolve, name)
        self._own[name] = own
        if len(self._own) > REMEMBERED:
            del self._own[next(iter(self._own))]
        return own

    def own_name(self, name: str) -> str:
        """Return the remembered own name, else the name itself."""
        return self._own.get(name, name)

    def own_names(self, names: Iterable[str]) -> list[str]:
        """Return the own names of models that the settings name, each once. Raises ModelNotFound, BadRequest."""
        return list(dict.fromkeys(self._repository.resolve(name)[0] for name in names))

    def names(self) -> list[str]:
        """Return the name of every model of the store, sorted; blocks on the disk."""
        return self._repository.names()

    async def read(self, name: str, url: str) -> tuple[Model, Cost | None]:
        """Return a model by ``url`` or else by name, and its cost where it was ever loaded. Raises ServingError,
        OSError.
        """
        path = await asyncio.to_thread(self._repository.locate, name, url)
        model = await self._repository.open_async(name, path, self._unpacker)
        return model, await asyncio.to_thread(self._disk.recall, model.fingerprint, model.device)

    async def learn(self, model: Model, cost: Cost) -> None:
        """Store the measured cost of a model."""
        await asyncio.to_thread(self._disk.learn, model.fingerprint, model.device, cost)
