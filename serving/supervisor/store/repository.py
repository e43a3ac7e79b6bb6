"""ModelRepository: the models on disk. Reads them only; archives are unpacked into a separate cache.

A name is looked up below the store's root and never leaves it, links included. Everything here may block on the disk,
so it is called from threads.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from serving.config.config import Config, cores
from serving.errors import BadModel, BadRequest, ModelError, ModelFailed, ModelNotFound, NoModel
from serving.model.folder import read_model
from serving.model.model import Model
from serving.supervisor.store.archives import Limits
from serving.supervisor.store.artifact import Artifact, artifact, has_magic, is_still, open_archive, packed
from serving.supervisor.store.diskcache import DiskCache
from serving.supervisor.store.store import Store
from serving.supervisor.store.unpacking import Unpacker, unpack_now
from serving.system.signals import check_stop

FORBIDDEN = ("/dev", "/proc", "/sys")  # as a model's address


@dataclass(frozen=True, slots=True)
class Opening:
    """A model that is being opened, with its final ``folder``. If it must be unpacked first, ``partial`` is the folder
    to fill and ``fd`` the open archive.
    """

    found: Artifact
    folder: Path
    partial: Path | None = None
    fd: int = -1

    @property
    def name(self) -> str:
        return self.found.path.name


class ModelRepository:
    """The models on disk. ``in_use`` returns whether a running model needs an unpacked folder; ``gpus`` are those of
    this server.
    """

    def __init__(
        self, config: Config, cache: DiskCache, in_use: Callable[[Path], bool], gpus: Sequence[str] = ()
    ) -> None:
        self._config = config
        self._gpus = gpus
        folder = Path(config.store) if config.many else Path(config.model_dir).parent
        self._store = Store(folder.absolute())
        self._cache = cache
        self._in_use = in_use
        self.limits = Limits(config.archive_max_bytes, config.archive_max_files, config.archive_max_ratio)

    def names(self) -> list[str]:
        """Return the name of every model of the store, sorted; each is found by that name."""
        return self._store.names()

    def resolve(self, target: str) -> tuple[str, Path]:
        """Return the own name of the model that ``target`` means, and its folder or archive. Raises ModelNotFound,
        BadRequest.
        """
        return self._store.resolve(target)

    def find(self, name: str) -> Path:
        """Return the folder or archive of a model of the store. Raises ModelNotFound, BadRequest."""
        return self.resolve(name)[1]

    def locate(self, name: str, url: str) -> Path:
        """Return the path of a model to load, by ``url`` or else by name. Raises BadRequest, ModelNotFound."""
        if not url:
            return self.find(name)
        path = Path(url.removeprefix("file://"))
        if not path.is_absolute() or ".." in path.parts or "\0" in url:
            raise BadRequest(f"url is {url[:200]!r}; allowed: an absolute path")
        real = path.resolve()
        if any(one.is_relative_to(folder) for one in (path, real) for folder in FORBIDDEN):
            raise BadRequest(f"url is {url[:200]!r}; models do not live below {', '.join(FORBIDDEN)}")
        if not self._config.multi_model and not self._store.holds(path):
            raise BadRequest(f"url is {url[:200]!r}, which is not below the model store")
        if not path.is_dir() and not path.is_file():
            raise self._nothing_at(path)
        return path

    def _nothing_at(self, path: Path) -> ModelNotFound:
        return ModelNotFound(f"url is {str(path)[:200]!r}, where no model is")

    # Opening.

    def begin(self, path: Path) -> Opening:
        """Return the model's folder, or what to unpack first. Raises BadModel, ModelNotFound, OSError."""
        if path.is_dir():
            self._read(path, path)  # first, since a folder that is no model may be as large as the disk
            return Opening(artifact(path), path)
        fd = open_archive(path)
        try:
            opening = self._begin_archive(path, fd)
        except BaseException:
            os.close(fd)
            raise
        if opening.partial is None:
            os.close(fd)
        return opening

    def _begin_archive(self, path: Path, fd: int) -> Opening:
        if not self._store.holds(path) and not has_magic(fd):
            raise self._nothing_at(path)  # clients must not learn which files exist
        found = packed(path, fd)
        home = self._cache.home(path)
        folder = home / found.digest
        if self._cache.hold(folder):
            return Opening(found, folder)
        for old in self._cache.states(home):
            if not self._in_use(old):
                self._cache.drop(old)
        return Opening(found, folder, self._cache.begin(home), fd)

    def end(self, opening: Opening) -> None:
        """Make an unpacked folder final. Raises ModelFailed where the archive was changed meanwhile, OSError."""
        assert opening.partial is not None
        if not is_still(opening.found, opening.fd):
            raise ModelFailed(f"{opening.name} was changed while it was unpacked")
        self._cache.finish(opening.partial, opening.folder)

    def give_up(self, opening: Opening) -> None:
        """Close the archive, and remove the partial folder if it was not made final."""
        assert opening.partial is not None
        os.close(opening.fd)
        self._cache.drop(opening.partial)

    def read(self, name: str, opening: Opening) -> Model:
        """Return the model, whose folder is complete. Raises BadModel, ModelNotFound, OSError."""
        found = opening.found
        model = msgspec.structs.replace(self._read(opening.folder, found.path), name=name)
        return msgspec.structs.replace(
            model,
            url=str(found.path),
            digest=found.digest,
            fingerprint=found.fingerprint,
            size=found.size,
            pin=model.pin or name in (self._config.pin or ()),
        )

    def _read(self, folder: Path, path: Path) -> Model:
        """Read a model. Messages name the archive or folder ``path`` that the client named, relative to the store where
        inside.
        """
        try:
            return read_model(folder, path.name, self._config, cores(), self._gpus)
        except NoModel as exc:
            if not self._store.holds(path):
                raise self._nothing_at(path) from exc
            raise BadModel(self._describe(exc, folder, path)) from exc
        except ModelError as exc:
            raise BadModel(self._describe(exc, folder, path)) from exc
        except RecursionError as exc:
            raise BadModel(f"{path.name}: its settings are nested too deeply") from exc

    def _describe(self, exc: ModelError, folder: Path, path: Path) -> str:
        shown = str(path.relative_to(self._store.root)) if path.is_relative_to(self._store.root) else str(path)
        return str(exc).replace(str(folder), shown).replace(str(folder.resolve()), shown)

    def open(self, name: str, path: Path) -> Model:
        """Return the model at ``path``, unpacked first if need be, without an event loop. Raises BadArchive, BadModel,
        ModelNotFound, ModelFailed, Stopped, OSError.
        """
        opening = self.begin(path)
        if opening.partial is not None:
            try:
                limits, seconds = self.limits, self._config.load_timeout
                unpack_now(opening.fd, opening.partial, opening.name, limits, seconds, check_stop)
                self.end(opening)
            finally:
                self.give_up(opening)
        return self.read(name, opening)

    async def open_async(self, name: str, path: Path, unpacker: Unpacker) -> Model:
        """Open a model as ``open`` does, from an event loop; disk work runs in threads, unpacking in a process."""
        opening = await asyncio.to_thread(self.begin, path)
        if opening.partial is not None:
            try:
                await unpacker.unpack(opening.fd, opening.partial, opening.name)
                await asyncio.to_thread(self.end, opening)
            finally:
                await asyncio.shield(asyncio.to_thread(self.give_up, opening))
        return await asyncio.to_thread(self.read, name, opening)
